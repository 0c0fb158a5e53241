//! The in-memory picture of instances, channels and revocations that the hot path reads, and the
//! task that keeps it fresh.

mod follow;

pub use follow::{follow, load};

use crate::domain::audience::{Address, Audience, Audiences, Narrowing};
use crate::domain::channel::{Channel, ChannelName, Channels};
use crate::domain::expression::Facts;
use crate::domain::instance::{Instance, InstanceId};
use crate::domain::principal::Principal;
use crate::domain::revocation::Revocations;
use crate::domain::verdict::{Candidate, audiences_of};
use ahash::RandomState;
use arc_swap::ArcSwap;
use smallvec::smallvec;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One instance with what belongs to it, as all was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The instance.
    pub instance: Instance,
    /// Its channels by name. An unchanged one keeps its `Arc` from one snapshot to the next.
    pub channels: Channels,
    /// The tokens that it no longer accepts.
    pub revocations: Revocations,
}

/// Every instance at one moment. An unchanged tenant keeps its `Arc` from one snapshot to the next,
/// so that `Arc::ptr_eq` tells whom a change concerns.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By id; disabled instances included.
    pub tenants: HashMap<InstanceId, Arc<Tenant>, RandomState>,
}

/// Why an address reaches no audience.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// `channel:NAME` without such a channel.
    #[error("there is no channel {0}")]
    Unknown(ChannelName),
    /// The channel is there and disabled.
    #[error("the channel {0} is disabled")]
    Disabled(ChannelName),
}

impl Tenant {
    /// Whom `address` means here, and the configured channel behind it, if it is one. Never empty.
    /// Errors: `ResolveError`; a bare word that names a disabled channel never falls back to the
    /// user of that id.
    pub fn resolve(
        &self,
        address: &Address,
    ) -> Result<(Audiences, Option<&Channel>), ResolveError> {
        let named = address.channel_name();
        match (address, named.as_ref().and_then(|name| self.channels.get(name))) {
            (_, Some(channel)) if !channel.enabled => {
                Err(ResolveError::Disabled(channel.name.clone()))
            }
            (_, Some(channel)) => {
                Ok((smallvec![Audience::Channel(channel.name.clone())], Some(channel)))
            }
            (Address::Channel(name), None) => Err(ResolveError::Unknown(name.clone())),
            (_, None) => Ok((address.audiences(), None)),
        }
    }

    /// Whether an administrator has revoked the token of `principal` here.
    pub fn revokes(&self, principal: &Principal) -> bool {
        self.revocations.revokes(principal)
    }

    /// What someone hears here, narrowed to `only` where given; see [`audiences_of`]. Of channels
    /// that have not changed since an earlier answer, that answer holds: their rules are not asked
    /// again.
    pub fn audiences_of(
        &self,
        facts: &Facts<'_>,
        only: Option<&Narrowing>,
        known: Option<Known<'_>>,
    ) -> Vec<Audience> {
        let who = Candidate { facts, connection: None, narrowing: only, channels: &self.channels };
        audiences_of(&who, |channel| {
            let known = known.and_then(|known| known.says_of(channel));
            known.unwrap_or_else(|| channel.lets_in(facts))
        })
    }
}

/// What the same person, with the same narrowing, heard of an earlier picture of the same instance.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The earlier picture.
    pub tenant: &'a Tenant,
    /// What was heard then.
    pub heard: &'a [Audience],
}

impl Known<'_> {
    fn says_of(self, channel: &Channel) -> Option<bool> {
        let before = self.tenant.channels.get(&channel.name)?;
        let is_heard = |audience: &Audience| matches!(audience, Audience::Channel(name) if *name == channel.name);
        std::ptr::eq(&**before, channel).then(|| self.heard.iter().any(is_heard))
    }
}

/// The handle that everyone shares: the newest snapshot, and word of the next one.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// What is current; read without a lock on every request.
    current: Arc<ArcSwap<Snapshot>>,
    /// Tells each shard that there is a newer snapshot; only the newest is kept.
    changed: Arc<watch::Sender<Arc<Snapshot>>>,
    /// The store's version that is current; none before the first load.
    version: Arc<watch::Sender<Option<i64>>>,
    /// How sure we are of it.
    freshness: Arc<Freshness>,
}

#[derive(Debug)]
struct Freshness {
    /// When the store last said that the version is still current.
    confirmed: Mutex<Instant>,
    /// Whether the store answered when last asked.
    store_is_up: AtomicBool,
}

impl Catalog {
    /// A catalog that begins with `snapshot`.
    pub fn new(snapshot: Snapshot) -> Self {
        let snapshot = Arc::new(snapshot);
        let freshness =
            Freshness { confirmed: Mutex::new(Instant::now()), store_is_up: AtomicBool::new(true) };
        Self {
            current: Arc::new(ArcSwap::new(snapshot.clone())),
            changed: Arc::new(watch::Sender::new(snapshot)),
            version: Arc::new(watch::Sender::new(None)),
            freshness: Arc::new(freshness),
        }
    }

    /// The newest snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The newest picture of one instance.
    pub fn tenant(&self, id: &InstanceId) -> Option<Arc<Tenant>> {
        self.tenant_named(id.as_str())
    }

    /// The same by any text; a text that is no id names none.
    pub fn tenant_named(&self, name: &str) -> Option<Arc<Tenant>> {
        self.current.load().tenants.get(name).cloned()
    }

    /// Resolves whenever there is a newer snapshot.
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.changed.subscribe()
    }

    /// How long ago the store last confirmed what is current.
    pub fn age(&self) -> Duration {
        self.freshness.confirmed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whether the store answered when last asked.
    pub fn store_is_up(&self) -> bool {
        self.freshness.store_is_up.load(Relaxed)
    }

    /// Waits until a version of the store has arrived here, `patience` at most: whoever made a
    /// change then sees it.
    pub async fn wait_for(&self, version: i64, patience: Duration) {
        let mut arrived = self.version.subscribe();
        let wait = arrived.wait_for(|current| current.is_some_and(|current| current >= version));
        drop(tokio::time::timeout(patience, wait).await);
    }

    fn version(&self) -> Option<i64> {
        *self.version.borrow()
    }

    /// `version` of the store is what is current here.
    fn confirm(&self, version: i64) {
        *self.freshness.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.version.send_if_modified(|current| current.replace(version) != Some(version));
    }

    fn note_store(&self, is_up: bool) {
        self.freshness.store_is_up.store(is_up, Relaxed);
    }

    /// Puts `next` in place and wakes whoever waits for changes. Unchanged tenants keep their old
    /// `Arc`.
    pub fn replace(&self, mut next: Snapshot) {
        let current = self.current.load();
        for (id, tenant) in &mut next.tenants {
            match current.tenants.get(id) {
                Some(old) if old == tenant => *tenant = old.clone(),
                Some(old) => keep_unchanged(&mut Arc::make_mut(tenant).channels, &old.channels),
                None => {}
            }
        }
        let next = Arc::new(next);
        self.current.store(next.clone());
        self.changed.send_replace(next);
    }
}

fn keep_unchanged(channels: &mut Channels, old: &Channels) {
    for (name, channel) in channels {
        if let Some(old) = old.get(name).filter(|old| *old == channel) {
            *channel = old.clone();
        }
    }
}
