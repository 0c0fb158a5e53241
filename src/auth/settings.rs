//! What signing in is configured with, checked before the first token comes.

use super::keys::Key;
use std::fmt;
use std::time::Duration;
use url::Url;

/// Shortest HS256 secret, in bytes (contract, "Signing in"; RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// Where keys come from and what claims must say. At least one of secret, public keys and JWKS URLs
/// is needed.
pub struct AuthSettings {
    /// The HS256 secret, 32 bytes at least.
    pub secret: Option<Vec<u8>>,
    /// The setting that it comes from, for error messages.
    pub secret_setting: String,
    /// Public keys in PEM: RSA (RS256, PS256), EC P-256 (ES256), Ed25519 (EdDSA).
    pub public_keys: Vec<PublicKey>,
    /// Where key sets (RFC 7517) are fetched from.
    pub jwks_urls: Vec<Url>,
    /// Whether those URLs may be plain http and may lead to private and loopback addresses.
    pub jwks_allow_private: bool,
    /// What `iss` must be, if anything.
    pub issuer: Option<String>,
    /// What `aud` must be or contain, if anything.
    pub audience: Option<String>,
    /// How far clocks may differ, for `exp` and `nbf`.
    pub leeway: Duration,
    /// The claims that are read.
    pub claims: ClaimNames,
    /// How many verified tokens are remembered, in places of 4 KiB of what is kept of one.
    pub cache_entries: usize,
}

/// A public key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The file's name, for error messages.
    pub name: String,
    /// Its content.
    pub pem: Vec<u8>,
}

/// The names of the claims that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// The user's id.
    pub user: String,
    /// The ids of the user's groups.
    pub groups: String,
    /// The roles; `realm_access.roles` is read too.
    pub roles: String,
    /// The instances the token is valid in.
    pub instances: String,
    /// The one instance the token is valid in.
    pub instance: String,
    /// The server-side caller's name.
    pub component: String,
}

/// Why signing in cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthSettingsError {
    /// The HS256 secret could be guessed.
    #[error("{setting} holds {actual} bytes, and needs at least {MIN_SECRET_BYTES}")]
    SecretTooShort {
        /// The setting that it comes from.
        setting: String,
        /// Its length in bytes.
        actual: usize,
    },
    /// A public key file cannot be used.
    #[error("the public key file {name} cannot be used: {reason}")]
    PublicKey {
        /// The file's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A JWKS URL cannot be used.
    #[error("the JWKS URL of {host} cannot be used: {reason}")]
    JwksUrl {
        /// Its host; the rest may hold a secret.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is nothing to verify a token with.
    #[error(
        "there is no key to verify tokens with: give a secret, a public key file or a JWKS URL"
    )]
    NoKeys,
    /// The HTTP client or the random source did not start.
    #[error("{0} cannot be started")]
    Platform(&'static str),
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            secret: None,
            secret_setting: "HERALD_JWT_SECRET".into(),
            public_keys: Vec::new(),
            jwks_urls: Vec::new(),
            jwks_allow_private: false,
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
            claims: ClaimNames::default(),
            cache_entries: 10_000,
        }
    }
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            user: "sub".into(),
            groups: "groups".into(),
            roles: "roles".into(),
            instances: "instances".into(),
            instance: "instance".into(),
            component: "component".into(),
        }
    }
}

impl AuthSettings {
    /// The secret and the public key files as keys.
    pub(super) fn fixed_keys(&self) -> Result<Vec<Key>, AuthSettingsError> {
        let mut keys = Vec::new();
        if let Some(secret) = &self.secret {
            if secret.len() < MIN_SECRET_BYTES {
                return Err(AuthSettingsError::SecretTooShort {
                    setting: self.secret_setting.clone(),
                    actual: secret.len(),
                });
            }
            keys.push(Key::from_secret(secret));
        }
        for PublicKey { name, pem } in &self.public_keys {
            let key = Key::from_pem(pem)
                .map_err(|reason| AuthSettingsError::PublicKey { name: name.clone(), reason })?;
            keys.push(key);
        }
        Ok(keys)
    }
}

impl fmt::Debug for AuthSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthSettings")
            .field("secret", &self.secret.as_ref().map(|_| "hidden"))
            .field("public_keys", &self.public_keys.iter().map(|key| &key.name).collect::<Vec<_>>())
            .field("jwks_hosts", &self.jwks_urls.iter().map(Url::host_str).collect::<Vec<_>>())
            .field("jwks_allow_private", &self.jwks_allow_private)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("leeway", &self.leeway)
            .field("claims", &self.claims)
            .field("cache_entries", &self.cache_entries)
            .finish()
    }
}
