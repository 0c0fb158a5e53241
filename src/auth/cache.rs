//! Verified tokens by fingerprint, so that a client's second request costs no signature check.

use super::settings::AuthSettingsError;
use crate::domain::principal::{Principal, PrincipalBytes};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;

/// A keyed hash of a token: the cache holds no token, and nobody can aim at one of its places.
pub(super) type Fingerprint = [u8; 32];

/// What a verified token amounts to.
#[derive(Clone)]
pub(super) struct Entry {
    /// The outcome.
    principal: Arc<Principal>,
    /// The generation of keys that verified it; it counts for nothing in any other.
    generation: u64,
    /// The first second in which it is no longer accepted.
    ends_at: i64,
}

impl Entry {
    /// What is remembered of a token.
    pub fn new(principal: &Arc<Principal>, generation: u64, ends_at: i64) -> Self {
        Self { principal: principal.clone(), generation, ends_at }
    }
}

/// Bytes of a place of the cache: what is kept of any token of 1 KiB, itself taking at most twice
/// that and 2 KiB. What takes more takes several places.
const PLACE_BYTES: usize = 4_096;

/// Bounded by the bytes of what it remembers, in places; refusals are never remembered.
pub(super) struct VerifiedTokens {
    /// Made at the start, never shown.
    key: hmac::Key,
    entries: Cache<Fingerprint, Entry, ByPlaces>,
    /// What all principals that were verified take, also those that are remembered no more.
    bytes: PrincipalBytes,
}

impl VerifiedTokens {
    /// So many places of 4 KiB: one for what is kept of a token of at most 1 KiB. Errors:
    /// `AuthSettingsError::Platform` without a random source.
    pub fn new(entries: usize) -> Result<Self, AuthSettingsError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| AuthSettingsError::Platform("the random source"))?;
        let entries = entries.max(1);
        let bytes = PrincipalBytes::default();
        Ok(Self { key, entries: Cache::with_weighter(entries, entries as u64, ByPlaces), bytes })
    }

    /// The token's place.
    pub fn fingerprint(&self, token: &str) -> Fingerprint {
        let tag = hmac::sign(&self.key, token.as_bytes());
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(tag.as_ref());
        fingerprint
    }

    /// The principal, if the token was verified with the keys of `generation` and still holds at
    /// `now`.
    pub fn get(
        &self,
        fingerprint: &Fingerprint,
        generation: u64,
        now: i64,
    ) -> Option<Arc<Principal>> {
        let entry = self.entries.get(fingerprint)?;
        if entry.generation == generation && now < entry.ends_at {
            return Some(entry.principal);
        }
        self.entries.remove(fingerprint);
        None
    }

    /// What all principals that were verified and are still used take, in bytes.
    pub fn bytes(&self) -> &PrincipalBytes {
        &self.bytes
    }

    /// Remembers a verified token.
    pub fn insert(&self, fingerprint: Fingerprint, entry: Entry) {
        self.entries.insert(fingerprint, entry);
    }

    /// How many are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[derive(Clone)]
struct ByPlaces;

impl Weighter<Fingerprint, Entry> for ByPlaces {
    fn weight(&self, _: &Fingerprint, entry: &Entry) -> u64 {
        entry.principal.bytes().div_ceil(PLACE_BYTES).max(1) as u64
    }
}
