//! Key sets by URL (RFC 7517, section 5): each source keeps its own last good set, whatever becomes
//! of the URL.

use super::fetch::{self, FetchError};
use super::keys::Key;
use super::settings::{AuthSettings, AuthSettingsError};
use super::token::Token;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use reqwest::Client;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;
use url::Url;

/// Most keys that are used of one set.
const MAX_KEYS: usize = 64;

/// How often a source may be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Shortest time between two fetches that unknown keys caused, and between two tries while the
    /// URL is down.
    pub refetch: Duration,
    /// The same while there is no set at all.
    pub first: Duration,
    /// Age at which a set is fetched again in the background.
    pub refresh: Duration,
}

impl Pace {
    const DEFAULT: Self = Self {
        refetch: Duration::from_secs(60),
        first: Duration::from_secs(5),
        refresh: Duration::from_secs(300),
    };
}

/// One JWKS URL and what is known of it.
pub(super) struct Source {
    url: Url,
    client: Client,
    pace: Pace,
    /// The last good set; none before the first.
    keys: ArcSwapOption<KeySet>,
    /// When it was asked, and how that went.
    attempts: Mutex<Attempts>,
    /// Held by the one fetch under way.
    fetching: Arc<tokio::sync::Mutex<()>>,
    /// Shared by all sources; grows when the keys change.
    generation: Arc<AtomicU64>,
}

struct KeySet {
    /// As fetched, to see whether the next one differs.
    body: Bytes,
    keys: Vec<Key>,
}

#[derive(Clone, Copy, Default)]
struct Attempts {
    count: u64,
    last: Option<Instant>,
    last_failed: bool,
    /// The last fetch that an unknown key caused.
    last_refetch: Option<Instant>,
}

/// One source for each URL of the settings; nothing is fetched yet. Errors: `AuthSettingsError`.
pub(super) fn sources(
    settings: &AuthSettings,
    generation: &Arc<AtomicU64>,
) -> Result<Vec<Arc<Source>>, AuthSettingsError> {
    if settings.jwks_urls.is_empty() {
        return Ok(Vec::new());
    }
    let client = fetch::client(settings.jwks_allow_private)?;
    let source = |url: &Url| {
        fetch::check_url(url, settings.jwks_allow_private)?;
        Ok(Arc::new(Source::new(url.clone(), client.clone(), Pace::DEFAULT, generation.clone())))
    };
    settings.jwks_urls.iter().map(source).collect()
}

/// Starts a fetch in the background when the set is old or was never fetched, unless one is under
/// way. Nothing waits for it: it ends within the 3 s of a fetch, and a set at hand serves on
/// meanwhile.
pub(super) fn refresh_if_stale(source: &Arc<Source>) {
    if !source.is_stale() {
        return;
    }
    if let Ok(turn) = source.fetching.clone().try_lock_owned() {
        let source = source.clone();
        tokio::spawn(async move { source.fetch(turn).await });
    }
}

impl Source {
    pub(super) fn new(url: Url, client: Client, pace: Pace, generation: Arc<AtomicU64>) -> Self {
        let keys = ArcSwapOption::empty();
        Self {
            url,
            client,
            pace,
            keys,
            attempts: Mutex::default(),
            fetching: Arc::default(),
            generation,
        }
    }

    /// Whether one of the keys at hand verifies the token.
    pub fn verifies(&self, token: &Token<'_>) -> bool {
        self.keys.load().as_ref().is_some_and(|set| set.keys.iter().any(|key| key.verifies(token)))
    }

    /// Whether a new set might hold the token's key: not if the key that it names is already here.
    pub fn may_gain(&self, token: &Token<'_>) -> bool {
        !self
            .keys
            .load()
            .as_ref()
            .is_some_and(|set| set.keys.iter().any(|key| key.is_named_by(token)))
    }

    /// Whether the token's key may be behind a URL that cannot be reached.
    pub fn is_unavailable_for(&self, token: &Token<'_>) -> bool {
        let unknown = token.key_id.is_some() && self.may_gain(token);
        self.keys.load().is_none() || (unknown && self.attempts().last_failed)
    }

    /// Fetches the set for a key that is unknown, or waits for the fetch under way; not more often
    /// than the pace allows.
    pub async fn refetch(&self) {
        let before = self.attempts().count;
        let turn = self.fetching.clone().lock_owned().await;
        let attempts = *self.attempts();
        let has_set = self.keys.load().is_some();
        let (last, pause) = match has_set {
            true => (attempts.last_refetch, self.pace.refetch),
            false => (attempts.last, self.pace.first),
        };
        if attempts.count != before || last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        if has_set {
            self.attempts().last_refetch = Some(Instant::now());
        }
        self.fetch(turn).await;
    }

    /// Replaces the set by what the URL answers, if that is a set.
    async fn fetch(&self, turn: OwnedMutexGuard<()>) {
        let fetched = fetch::fetch(&self.client, &self.url).await.and_then(KeySet::parse);
        let mut attempts = self.attempts();
        attempts.count += 1;
        attempts.last = Some(Instant::now());
        attempts.last_failed = fetched.is_err();
        drop(attempts);
        let host = self.url.host_str().unwrap_or_default();
        match fetched {
            Ok(set) => self.replace(set, host),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(jwks.host = host, error = %error, cause, "the key set could not be fetched; the last good one stays");
            }
        }
        drop(turn);
    }

    fn replace(&self, set: KeySet, host: &str) {
        if self.keys.load().as_ref().is_some_and(|current| current.body == set.body) {
            return;
        }
        tracing::info!(jwks.host = host, jwks.keys = set.keys.len(), "the key set is new");
        self.keys.store(Some(Arc::new(set)));
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn is_stale(&self) -> bool {
        let attempts = *self.attempts();
        let Some(last) = attempts.last else { return true };
        let pause = match (attempts.last_failed, self.keys.load().is_some()) {
            (false, _) => self.pace.refresh,
            (true, true) => self.pace.refetch,
            (true, false) => self.pace.first,
        };
        last.elapsed() >= pause
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeySet {
    /// Keys that cannot verify anything served here are left out (RFC 7517, section 5).
    fn parse(body: Bytes) -> Result<Self, FetchError> {
        let set: Value = serde_json::from_slice(&body).map_err(|_| FetchError::NotAKeySet)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(FetchError::NotAKeySet)?;
        let keys = keys.iter().filter_map(Key::from_jwk).take(MAX_KEYS).collect();
        Ok(Self { body, keys })
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
