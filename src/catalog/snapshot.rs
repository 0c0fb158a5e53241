//! Every instance at one moment, and the handle by which everyone has the newest.

use super::tenant::Tenant;
use crate::domain::channel::{Channel, ChannelName};
use crate::domain::expression::Cost;
use crate::domain::instance::InstanceId;
use crate::store::{CatalogVersion, KnownCost, MARKS};
use ahash::RandomState;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

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
    version: Arc<watch::Sender<Option<Known>>>,
    /// How sure we are of it.
    freshness: Arc<Freshness>,
}

/// A version of the store, and the changes that led to it.
#[derive(Clone, Debug)]
struct Known {
    version: CatalogVersion,
    /// The marks of the last changes, at most `MARKS`.
    marks: Vec<Uuid>,
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
    pub async fn wait_for(&self, version: CatalogVersion, patience: Duration) {
        let mut arrived = self.version.subscribe();
        let has_come = |known: &Option<Known>| known.as_ref().is_some_and(|it| it.holds(version));
        drop(tokio::time::timeout(patience, arrived.wait_for(has_come)).await);
    }

    pub(super) fn version(&self) -> Option<CatalogVersion> {
        self.version.borrow().as_ref().map(|known| known.version)
    }

    /// What is current here is still what is stored.
    pub(super) fn confirm(&self) {
        *self.freshness.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// `version` of the store is what is current here, after changes with these marks.
    pub(super) fn arrive(&self, version: CatalogVersion, marks: Vec<Uuid>) {
        self.confirm();
        self.version.send_replace(Some(Known { version, marks }));
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

impl Known {
    /// Whether the change that led to `version` is among those that led here. Of more changes than
    /// are remembered, by its number.
    fn holds(&self, version: CatalogVersion) -> bool {
        version.mark.is_some_and(|mark| self.marks.contains(&mark))
            || self.version.number - version.number >= MARKS as i64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_come_by_its_mark_and_not_by_a_number_that_another_has_too() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        let version = |number, mark| CatalogVersion { number, mark: Some(mark) };
        let known = Known { version: version(7, b), marks: vec![b, a] };
        for (number, mark, holds) in [(7, b, true), (6, a, true), (7, c, false), (6, c, false)] {
            assert_eq!(known.holds(version(number, mark)), holds, "{number} {mark}");
        }
        let most = MARKS as i64;
        for (number, holds) in [(7 - most + 1, false), (7 - most, true), (8, false)] {
            assert_eq!(known.holds(version(number, c)), holds, "{number}");
        }
    }
}
