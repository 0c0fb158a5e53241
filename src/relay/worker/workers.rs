//! What all workers share: their queues, the instances' timelines, the catalog, and what is counted
//! for the whole process.

use super::asked::Asked;
use super::inboxes::Inboxes;
use super::turns::WorkerCounts;
use crate::catalog::Catalog;
use crate::domain::instance::InstanceId;
use crate::relay::head::Head;
use crate::relay::log::Log;
use crate::relay::queue::Sender;
use crate::relay::sealed::Sealed;
use crate::relay::settings::RelaySettings;
use crate::relay::timeline::Timeline;
use crate::relay::timelines::Timelines;
use arc_swap::ArcSwap;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Reconnects a second that a drained node asks its clients to spread over.
const RECONNECTS_A_SECOND: u64 = 500;
/// Time over which a drain spreads its closes.
const DRAIN_WAVES: Duration = Duration::from_secs(3);
/// Upper bounds of the histogram of lags, in messages.
const LAG_BUCKETS: [f64; 10] = [0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 500.0, 1_000.0];

/// Shared by reference.
#[derive(Debug)]
pub(crate) struct Workers {
    /// What is configured.
    pub catalog: Catalog,
    /// What the relay was built with.
    pub settings: RelaySettings,
    /// Who gives messages their places.
    pub log: Log,
    /// What follows from that, of all instances.
    pub timelines: Timelines,
    /// One queue a worker; grows while the workers start, then stays.
    queues: ArcSwap<Vec<Sender>>,
    /// The other way to each worker, for questions about its connections.
    pub inboxes: Inboxes,
    /// How far acknowledgements lag behind what was queued, in messages.
    pub lag: Histogram,
    /// What each worker took at its last tick.
    taken: RwLock<Vec<Taken>>,
    /// What they count.
    pub counts: Arc<WorkerCounts>,
    /// Connections of the process.
    pub open: Arc<AtomicUsize>,
    /// Whether the node is going away.
    leaving: watch::Sender<Leaving>,
    /// Rung when all are to look after their connections at once.
    recheck: watch::Sender<()>,
}

/// What workers take, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// What waits in outboxes.
    pub waiting: usize,
    /// The sets that connections hear.
    pub heard: usize,
}

/// How far a node has come with going away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It stays.
    No,
    /// It takes nobody in any more.
    DoorsClosed,
    /// It sends everyone away.
    SendsAway,
}

/// How a drain goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainPlan {
    /// The longest `afterMs`.
    pub spread_ms: u64,
    /// Time over which the closes are spread.
    pub waves: Duration,
}

impl Workers {
    /// None yet.
    pub fn new(catalog: Catalog, settings: RelaySettings, log: Log) -> Self {
        Self {
            catalog,
            settings,
            log,
            timelines: Timelines::new(settings),
            queues: ArcSwap::from_pointee(Vec::new()),
            inboxes: Inboxes::default(),
            lag: Histogram::new(LAG_BUCKETS),
            taken: RwLock::default(),
            counts: Arc::default(),
            open: Arc::default(),
            leaving: watch::Sender::new(Leaving::No),
            recheck: watch::Sender::new(()),
        }
    }

    /// One more worker; its index.
    pub(super) fn add(&self, queue: Sender, inbox: mpsc::Sender<Asked>) -> usize {
        let mut taken = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        let index = taken.len();
        taken.push(Taken::default());
        self.queues.rcu(|queues| queues.iter().cloned().chain([queue.clone()]).collect::<Vec<_>>());
        self.inboxes.add(inbox);
        index
    }

    /// The timeline of an instance; a fresh one where there is none, in the log's epoch.
    pub fn timeline(&self, instance: &InstanceId) -> Arc<Timeline> {
        self.timelines.of(instance, || self.log.epoch_of(instance))
    }

    /// The way to each worker.
    pub fn queues(&self) -> arc_swap::Guard<Arc<Vec<Sender>>> {
        self.queues.load()
    }

    /// A message of a shared log has this place: everything that follows from it here. What is not
    /// behind all before was applied already. Workers without space for it fall behind, and are
    /// refilled from the window.
    pub fn apply(&self, instance: &InstanceId, position: u64, sealed: Sealed) -> Option<Arc<Head>> {
        let timeline = self.timeline(instance);
        let (queues, now) = (self.queues.load(), std::time::Instant::now());
        let mut order = timeline.order();
        if position < order.next() {
            return None;
        }
        let spaces = order.reserve(&queues, &sealed);
        let applied = order.apply(position, sealed, spaces, now);
        drop(order);
        for worker in applied.fallen_behind() {
            if let Some(queue) = queues.get(*worker) {
                queue.fall_behind(instance.clone());
            }
        }
        timeline.remember(&applied, now);
        Some(applied.head().clone())
    }

    /// What all workers took at the last tick.
    pub fn taken(&self) -> Taken {
        let taken = self.taken.read().unwrap_or_else(PoisonError::into_inner);
        taken.iter().fold(Taken::default(), |all, one| Taken {
            waiting: all.waiting + one.waiting,
            heard: all.heard + one.heard,
        })
    }

    pub(super) fn note_taken(&self, worker: usize, now: Taken) {
        let mut taken = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = taken.get_mut(worker) {
            *taken = now;
        }
    }

    /// Open connections of the process.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Whether the node is going away.
    pub fn is_draining(&self) -> bool {
        *self.leaving.borrow() != Leaving::No
    }

    /// The node is going away: it takes nobody in any more.
    pub fn close_doors(&self) {
        self.leaving.send_replace(Leaving::DoorsClosed);
    }

    /// The same, and everyone is sent away.
    pub fn begin_draining(&self) {
        self.leaving.send_replace(Leaving::SendsAway);
    }

    /// The node has come back: it takes newcomers again.
    pub fn end_draining(&self) {
        self.leaving.send_replace(Leaving::No);
    }

    pub(super) fn leave_signal(&self) -> watch::Receiver<Leaving> {
        self.leaving.subscribe()
    }

    /// Has every worker look after its connections now, not at its next tick.
    pub fn recheck(&self) {
        self.recheck.send_replace(());
    }

    pub(super) fn recheck_signal(&self) -> watch::Receiver<()> {
        self.recheck.subscribe()
    }

    pub(super) fn drain_plan(&self) -> DrainPlan {
        let spread_ms = (self.open() as u64 * 1_000 / RECONNECTS_A_SECOND).clamp(1_000, 60_000);
        DrainPlan { spread_ms, waves: DRAIN_WAVES }
    }
}
