//! What tokens are verified with, out of the configuration and the files that it names; at the start
//! and again when asked.

use super::error::StartError;
use super::secret::read_secret;
use crate::auth::development::DevelopmentKey;
use crate::auth::{AuthSettings, Authenticator, ClaimNames, PublicKey};
use crate::config::{Config, SigningIn, SigningKeys};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const SECRET: &str = "HERALD_JWT_SECRET";
const PUBLIC_KEYS: &str = "HERALD_JWT_PUBLIC_KEYS";

/// What a file that is not there means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// A mistake: at the start every file is there.
    Fails,
    /// Its key is accepted no more: somebody took the file away.
    TakesTheKeyAway,
}

/// Builds what verifies tokens. Errors: `StartError`.
pub(super) fn authenticator(config: &Config) -> Result<Authenticator, StartError> {
    let settings = auth_settings(&config.signing_in, &config.data_dir, Missing::Fails)?;
    Authenticator::new(settings).map_err(StartError::because("signing in cannot be set up"))
}

/// Reads the keys that the configuration names. Errors: `StartError`, for a file that cannot be
/// read and for the development key in the place of a real one.
pub(super) fn auth_settings(
    signing_in: &SigningIn,
    data_dir: &Path,
    missing: Missing,
) -> Result<AuthSettings, StartError> {
    let mut settings = claim_settings(signing_in);
    match &signing_in.keys {
        SigningKeys::Development => {
            let key = DevelopmentKey::open(data_dir);
            let key =
                key.map_err(StartError::because("the development key cannot be read or made"))?;
            settings.secret = Some(key.secret().to_vec());
        }
        SigningKeys::Configured { secret, public_keys, jwks_urls } => {
            if let Some(source) = secret {
                settings.secret_setting = source.setting(SECRET);
                let setting = &settings.secret_setting;
                settings.secret = present(read_secret(source), setting, source.file(), missing)?;
            }
            if settings
                .secret
                .as_deref()
                .is_some_and(|secret| DevelopmentKey::is_stored_as(data_dir, secret))
            {
                let setting = settings.secret_setting;
                let sentence =
                    "is the development key of the data directory: make a key of your own";
                return Err(StartError(format!("{setting} {sentence}")));
            }
            settings.jwks_urls = jwks_urls.clone();
            for path in public_keys {
                if let Some(pem) = present(fs::read(path), PUBLIC_KEYS, Some(path), missing)? {
                    let name = path.display().to_string();
                    settings.public_keys.push(PublicKey { name, pem });
                }
            }
        }
    }
    Ok(settings)
}

/// What a file holds; nothing where it is gone and may be. Errors: it cannot be read.
fn present(
    read: io::Result<Vec<u8>>,
    setting: &str,
    path: Option<&PathBuf>,
    missing: Missing,
) -> Result<Option<Vec<u8>>, StartError> {
    let path = path.map(|path| path.display().to_string()).unwrap_or_default();
    match read {
        Ok(content) => Ok(Some(content)),
        Err(error)
            if error.kind() == ErrorKind::NotFound && missing == Missing::TakesTheKeyAway =>
        {
            tracing::warn!(key.path = path, "a key file is gone");
            Ok(None)
        }
        Err(error) => Err(StartError(format!("{setting}: {path} cannot be read: {error}"))),
    }
}

fn claim_settings(signing_in: &SigningIn) -> AuthSettings {
    let claims = &signing_in.claims;
    AuthSettings {
        jwks_allow_private: signing_in.jwks_allow_private,
        issuer: signing_in.issuer.clone(),
        audience: signing_in.audience.clone(),
        leeway: signing_in.leeway,
        claims: ClaimNames {
            user: claims.user.clone(),
            groups: claims.groups.clone(),
            roles: claims.roles.clone(),
            instances: claims.instances.clone(),
            instance: claims.instance.clone(),
            component: claims.component.clone(),
        },
        cache_entries: signing_in.cache_entries,
        ..AuthSettings::default()
    }
}
