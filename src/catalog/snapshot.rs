//! Every instance at one moment, and the handle by which everyone has the newest.

use super::tenant::Tenant;
use crate::domain::channel::{Channel, ChannelName};
use crate::domain::expression::Cost;
use crate::domain::instance::InstanceId;
use crate::store::KnownCost;
use ahash::RandomState;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Every instance at one moment. An unchanged tenant keeps its `Arc` from one snapshot to the next,
/// so that `Arc::ptr_eq` tells whom a change concerns.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By id; disabled instances included.
    pub tenants: HashMap<InstanceId, Arc<Tenant>, RandomState>,
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

    /// What an instance's expressions cost beside one channel's, for whoever changes it.
    pub fn cost_beside(
        &self,
        id: &InstanceId,
        name: &ChannelName,
        bound: Cost,
    ) -> Option<KnownCost> {
        // In this order: what is current may be newer than the version, and then nothing follows on
        // the version.
        let catalog_version = self.version()?;
        let others = self.tenant(id)?.cost_beside(name, bound);
        Some(KnownCost { catalog_version, others })
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

    pub(super) fn version(&self) -> Option<i64> {
        *self.version.borrow()
    }

    /// `version` of the store is what is current here.
    pub(super) fn confirm(&self, version: i64) {
        *self.freshness.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.version.send_if_modified(|current| current.replace(version) != Some(version));
    }

    pub(super) fn note_store(&self, is_up: bool) {
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

fn keep_unchanged(
    channels: &mut BTreeMap<ChannelName, Arc<Channel>>,
    old: &BTreeMap<ChannelName, Arc<Channel>>,
) {
    for (name, channel) in channels {
        if let Some(old) = old.get(name).filter(|old| *old == channel) {
            *channel = old.clone();
        }
    }
}
