//! Who is connected, and the order of what they hear.

mod counts;
pub mod entry;
mod filters;
pub mod frame;
pub mod history;
pub mod lanes;
mod link;
mod memory;
pub mod outbox;
pub mod passage;
pub mod progress;
pub mod publishing;
pub mod queue;
pub mod realm;
pub mod record;
mod registration;
pub mod rehearsal;
pub mod repeats;
pub mod roster;
pub mod shard;
pub mod traces;
pub mod window;
mod worker;

#[cfg(test)]
mod history_test;
#[cfg(test)]
pub(crate) mod model_test;
#[cfg(test)]
mod outbox_test;
#[cfg(test)]
pub(crate) mod turns_test;

pub use publishing::{LONGEST_RUN, Overloaded, Published};
pub use registration::{ConnectError, Joining, Registration};
pub use worker::Worker;

use crate::admittance::Admittance;
use crate::catalog::{Catalog, Snapshot};
use crate::domain::instance::InstanceId;
use ahash::RandomState;
use arc_swap::ArcSwap;
use history::HistoryBounds;
use prometheus_client::metrics::histogram::Histogram;
use queue::{QueueBounds, Sender};
use realm::Realm;
use repeats::{Claim, ClaimError, Fingerprint};
use roster::Question;
use shard::{Bounds, Shard};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use traces::TraceBounds;
use uuid::Uuid;

/// Reconnects a second that a drained node asks its clients to spread over.
const RECONNECTS_A_SECOND: u64 = 500;
/// Upper bounds of the histogram of lags, in places of the order.
const LAG_BUCKETS: [f64; 10] = [0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 500.0, 1_000.0];
/// Time over which a drain spreads its closes.
const DRAIN_WAVES: Duration = Duration::from_secs(3);

/// What the relay is built with.
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// Of each worker's queue.
    pub queue: QueueBounds,
    /// Of each connection.
    pub bounds: Bounds,
    /// Of each instance's window, and of all of them.
    pub history: HistoryBounds,
    /// Of what can be said of messages afterwards.
    pub traces: TraceBounds,
    /// Ids of publishers that are remembered.
    pub ids: usize,
    /// What `CONNECTED` tells clients.
    pub keep_alive_seconds: u64,
    /// Connections of the whole process.
    pub connections: usize,
}

/// The handle everyone else holds.
#[derive(Clone, Debug)]
pub struct Relay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalog: Catalog,
    settings: RelaySettings,
    /// One queue a worker; grows while the workers start, then stays.
    queues: ArcSwap<Vec<Sender>>,
    /// The other way to each worker, for questions about its connections.
    questions: ArcSwap<Vec<mpsc::Sender<Question>>>,
    /// How far acknowledgements lag behind what was queued, in places of the order.
    lag: Histogram,
    /// Bytes that waited in the outboxes of each worker at its last tick.
    waiting: RwLock<Vec<usize>>,
    /// By instance; only instances of the catalog.
    realms: RwLock<Realms>,
    /// Bytes of all windows.
    history_bytes: Arc<AtomicUsize>,
    /// Bytes of all traces.
    trace_bytes: Arc<AtomicUsize>,
    /// Ids that all instances remember.
    ids: Arc<AtomicUsize>,
    /// How often a rule or a filter was evaluated.
    evaluations: Arc<AtomicU64>,
    /// Connections of the process.
    open: Arc<AtomicUsize>,
    /// True once the node is going away.
    draining: watch::Sender<bool>,
}

type Realms = HashMap<InstanceId, Arc<Realm>, RandomState>;

/// How a drain goes about it.
#[derive(Clone, Copy, Debug)]
struct DrainPlan {
    /// The longest `afterMs`.
    spread_ms: u64,
    /// Time over which the closes are spread.
    waves: Duration,
}

impl Relay {
    /// A relay without workers yet.
    pub fn new(catalog: Catalog, settings: RelaySettings) -> Self {
        Self(Arc::new(Inner {
            catalog,
            settings,
            queues: ArcSwap::from_pointee(Vec::new()),
            questions: ArcSwap::from_pointee(Vec::new()),
            lag: Histogram::new(LAG_BUCKETS),
            waiting: RwLock::default(),
            realms: RwLock::default(),
            history_bytes: Arc::default(),
            trace_bytes: Arc::default(),
            ids: Arc::default(),
            evaluations: Arc::default(),
            open: Arc::default(),
            draining: watch::Sender::new(false),
        }))
    }

    /// Adds the calling thread as a worker. Must run inside a `tokio::task::LocalSet`.
    pub fn add_worker(&self) -> Worker {
        let (sender, receiver) = queue::bounded(self.0.settings.queue);
        let (asked, questions) = mpsc::channel(roster::MAX_QUESTIONS);
        let mut waiting = self.0.waiting.write().unwrap_or_else(PoisonError::into_inner);
        let index = waiting.len();
        waiting.push(0);
        self.0
            .queues
            .rcu(|queues| queues.iter().cloned().chain([sender.clone()]).collect::<Vec<_>>());
        self.0.questions.rcu(|all| all.iter().cloned().chain([asked.clone()]).collect::<Vec<_>>());
        drop(waiting);
        let shard =
            Rc::new(RefCell::new(Shard::new(self.0.settings.bounds, self.0.evaluations.clone())));
        let worker = Worker {
            relay: self.clone(),
            shard,
            index,
            bell: Rc::default(),
            admittance: Admittance::default(),
        };
        tokio::task::spawn_local(tokio::task::unconstrained(
            worker.clone().run(receiver, questions),
        ));
        worker
    }

    /// Claims an id that a publisher chose; waits while another request with it is being answered.
    /// Errors: `ClaimError`.
    pub async fn claim(
        &self,
        instance: &InstanceId,
        id: &str,
        same: Fingerprint,
    ) -> Result<Claim, ClaimError> {
        self.realm(instance).repeats.claim(id, same).await
    }

    /// Open connections of an instance.
    pub fn connections(&self, instance: &InstanceId) -> u64 {
        self.realms().get(instance).map_or(0, |realm| realm.connections())
    }

    /// Open connections of the process.
    pub fn open(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// Whether the node is going away.
    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Tells every connection to come back later, closes them in waves, and waits until they are
    /// gone or `deadline` has passed. Returns how many were still open.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.0.draining.send_replace(true);
        let end = tokio::time::Instant::now() + deadline;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while self.open() > 0 && tokio::time::Instant::now() < end {
            look.tick().await;
        }
        self.open()
    }

    /// Every instance that was in use, for the metrics.
    pub fn all_realms(&self) -> Vec<Arc<Realm>> {
        self.realms().values().cloned().collect()
    }

    /// How far acknowledgements lag behind, for the metrics.
    pub fn lag(&self) -> Histogram {
        self.0.lag.clone()
    }

    /// How often a rule's or a message's expression was evaluated for a connection.
    pub fn evaluations(&self) -> u64 {
        self.0.evaluations.load(Relaxed)
    }

    /// Bytes of all windows.
    pub fn history_bytes(&self) -> usize {
        self.0.history_bytes.load(Relaxed)
    }

    /// Bytes of all traces and ended connections.
    pub fn trace_bytes(&self) -> usize {
        self.0.trace_bytes.load(Relaxed)
    }

    /// Bytes that waited in all outboxes at the last tick.
    pub fn waiting_bytes(&self) -> usize {
        self.0.waiting.read().unwrap_or_else(PoisonError::into_inner).iter().sum()
    }

    fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    fn phase(&self) -> watch::Receiver<bool> {
        self.0.draining.subscribe()
    }

    fn realm(&self, instance: &InstanceId) -> Arc<Realm> {
        if let Some(realm) = self.realms().get(instance) {
            return realm.clone();
        }
        let mut realms = self.0.realms.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let epoch = Uuid::new_v4().as_u64_pair().0;
            Arc::new(Realm::new(instance.clone(), epoch, self.memory()))
        };
        realms.entry(instance.clone()).or_insert_with(fresh).clone()
    }

    fn realms(&self) -> RwLockReadGuard<'_, Realms> {
        self.0.realms.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_instances_outside(&self, snapshot: &Snapshot) {
        let mut realms = self.0.realms.write().unwrap_or_else(PoisonError::into_inner);
        realms.retain(|instance, _| snapshot.tenants.contains_key(instance));
    }

    fn note_waiting(&self, worker: usize, bytes: usize) {
        if let Some(waiting) =
            self.0.waiting.write().unwrap_or_else(PoisonError::into_inner).get_mut(worker)
        {
            *waiting = bytes;
        }
    }

    fn drain_plan(&self) -> DrainPlan {
        let spread_ms = (self.open() as u64 * 1_000 / RECONNECTS_A_SECOND).clamp(1_000, 60_000);
        DrainPlan { spread_ms, waves: DRAIN_WAVES }
    }
}
