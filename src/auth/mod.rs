//! Token in, `Principal` out: verifies signed tokens (RFC 7519) and reads who they say their bearer
//! is.

mod address;
mod algorithm;
mod cache;
mod claims;
pub mod development;
mod error;
mod fetch;
mod jwks;
mod keys;
mod settings;
#[cfg(test)]
mod testing;
mod token;

pub use error::AuthError;
pub use settings::{AuthSettings, AuthSettingsError, ClaimNames, MIN_SECRET_BYTES, PublicKey};

use crate::domain::principal::{KeyStanding, Principal};
use arc_swap::ArcSwap;
use cache::VerifiedTokens;
use claims::ClaimRules;
use jwks::Source;
use keys::Key;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use token::Token;

/// Longest token that is looked at, in bytes (contract, "Signing in").
pub const MAX_TOKEN_BYTES: usize = 16_384;

/// Verifies tokens. A cheap handle: clones share the keys and the cache.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

/// What became of the secret and the public key files when they were read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// How many there are now.
    pub keys: usize,
    /// How many of them were not there before.
    pub new: usize,
    /// How many are there no more.
    pub gone: usize,
}

struct Inner {
    /// The secret and the public key files; replaced when they are read again.
    fixed: ArcSwap<Vec<Key>>,
    /// One for each JWKS URL; each changes its own keys.
    sources: Vec<Arc<Source>>,
    /// What the claims must say.
    rules: ClaimRules,
    /// Tokens that were verified with the keys of the present generation.
    cache: VerifiedTokens,
    /// Grows whenever these or a source's keys change, which makes every cached token unknown again.
    generation: Arc<AtomicU64>,
}

impl Authenticator {
    /// Reads the keys; fetches nothing yet. Errors: `AuthSettingsError`, naming the setting that is
    /// wrong.
    pub fn new(settings: AuthSettings) -> Result<Self, AuthSettingsError> {
        let fixed = settings.fixed_keys()?;
        let generation = Arc::new(AtomicU64::new(0));
        let sources = jwks::sources(&settings, &generation)?;
        if fixed.is_empty() && sources.is_empty() {
            return Err(AuthSettingsError::NoKeys);
        }
        let cache = VerifiedTokens::new(settings.cache_entries)?;
        let rules = ClaimRules::new(settings);
        let fixed = ArcSwap::from_pointee(fixed);
        Ok(Self(Arc::new(Inner { fixed, sources, rules, cache, generation })))
    }

    /// Takes the secret and the public keys of these settings in the place of those at hand. Tokens
    /// of a key that is not among them are refused from now on, and its standing is withdrawn.
    /// Errors: `AuthSettingsError`; what was at hand stays.
    pub fn replace_keys(&self, settings: &AuthSettings) -> Result<KeyChange, AuthSettingsError> {
        let inner = &*self.0;
        let (before, mut keys) = (inner.fixed.load_full(), settings.fixed_keys()?);
        if keys.is_empty() && inner.sources.is_empty() {
            return Err(AuthSettingsError::NoKeys);
        }
        let mut change = KeyChange { keys: keys.len(), new: 0, gone: 0 };
        for key in &mut keys {
            match before.iter().find(|known| known.is_same_as(key)) {
                Some(known) => *key = known.clone(),
                None => change.new += 1,
            }
        }
        let stays = |known: &Key| keys.iter().any(|key| key.is_same_as(known));
        let gone: Vec<Key> = before.iter().filter(|known| !stays(known)).cloned().collect();
        change.gone = gone.len();
        inner.fixed.store(Arc::new(keys));
        gone.iter().for_each(|key| key.standing().withdraw());
        if change.new + change.gone > 0 {
            inner.generation.fetch_add(1, Ordering::AcqRel);
        }
        Ok(change)
    }

    /// What is kept of all verified tokens, in bytes: remembered, connected or told of in traces.
    pub fn principal_bytes(&self) -> u64 {
        self.0.cache.bytes().get()
    }

    /// The names of the claims that are read.
    pub fn claim_names(&self) -> &ClaimNames {
        self.0.rules.names()
    }

    /// Who the bearer of `token` is. A `Bearer ` prefix is taken off. Waits only for the key fetch
    /// (3 s at most for each URL) that a token signed with an unknown key may cause. Errors:
    /// `AuthError`.
    pub async fn verify(&self, token: &str) -> Result<Arc<Principal>, AuthError> {
        let token = strip_bearer(token);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid("the token is longer than 16 KiB"));
        }
        let inner = &*self.0;
        inner.sources.iter().for_each(jwks::refresh_if_stale);
        let now = unix_now();
        let generation = inner.generation.load(Ordering::Acquire);
        let fingerprint = inner.cache.fingerprint(token);
        if let Some(principal) = inner.cache.get(&fingerprint, generation, now) {
            return Ok(principal);
        }
        let parsed = Token::parse(token)?;
        let key = inner.check_signature(&parsed).await?;
        let principal = Principal { key, ..inner.rules.principal(parsed.claims()?, now)? };
        let principal = Arc::new(principal.counted_in(inner.cache.bytes()));
        let ends_at = inner.rules.ends_at(&principal);
        inner.cache.insert(fingerprint, cache::Entry::new(&principal, generation, ends_at));
        Ok(principal)
    }
}

impl Inner {
    /// Tries the keys at hand, then those of every source that may have gained the token's key
    /// meanwhile. The standing of the key that verifies it.
    async fn check_signature(&self, token: &Token<'_>) -> Result<KeyStanding, AuthError> {
        if let Some(key) = self.fixed.load().iter().find(|key| key.verifies(token)) {
            return Ok(key.standing().clone());
        }
        if self.sources.iter().any(|source| source.verifies(token)) {
            return Ok(KeyStanding::default());
        }
        let mut unavailable = false;
        for source in self.sources.iter().filter(|_| token.algorithm.is_asymmetric()) {
            if source.may_gain(token) {
                source.refetch().await;
            }
            // Somebody else's fetch may have brought the key meanwhile.
            if source.verifies(token) {
                return Ok(KeyStanding::default());
            }
            unavailable |= source.is_unavailable_for(token);
        }
        Err(if unavailable {
            AuthError::KeysUnavailable
        } else {
            AuthError::Invalid("the signature does not verify with any key of this server")
        })
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("fixed_keys", &self.0.fixed.load().len())
            .field("sources", &self.0.sources.len())
            .finish_non_exhaustive()
    }
}

/// The token without white space around it and without a `Bearer ` prefix in any case (RFC 6750,
/// section 2.1).
pub fn strip_bearer(value: &str) -> &str {
    let value = value.trim();
    match value.split_at_checked(6) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case("bearer")
                && (rest.is_empty() || rest.starts_with(' ')) =>
        {
            rest.trim_start()
        }
        _ => value,
    }
}

/// Seconds since the Unix epoch.
fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests;
