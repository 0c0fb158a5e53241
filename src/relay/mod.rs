//! Who is connected, and the way to their sockets.

mod client_frame;
pub mod connection;
mod counts;
pub mod entry;
mod filters;
pub mod frame;
pub mod history;
mod inbound;
mod judge;
pub mod lanes;
mod link;
mod memory;
pub mod outbox;
pub mod passage;
pub mod progress;
pub mod queue;
mod reader;
pub mod realm;
pub mod record;
mod registration;
pub mod rehearsal;
pub mod renewal;
pub mod repeats;
pub mod roster;
pub mod shard;
pub mod stream;
pub mod traces;
pub mod turnstile;
pub mod window;
mod worker;

#[cfg(test)]
mod history_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod outbox_test;
#[cfg(test)]
mod turns_test;

pub use registration::{ConnectError, Joining, Registration};
pub use worker::Worker;

use crate::catalog::{Catalog, Snapshot};
use crate::domain::audience::Audience;
use crate::domain::channel::Slow;
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use crate::domain::message::Message;
use ahash::RandomState;
use arc_swap::ArcSwap;
use frame::{Frame, Unplaced};
use history::HistoryBounds;
use lanes::Lane;
use memory::Forgotten;
use prometheus_client::metrics::histogram::Histogram;
use queue::{Parcel, QueueBounds, Sender, Tally};
use realm::Realm;
use repeats::{Claim, ClaimError, Fingerprint};
use roster::Question;
use shard::{Bounds, Counts, Delivery, Shard};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use traces::TraceBounds;
use turnstile::Turnstile;
use uuid::Uuid;

/// How long a publish waits for the workers' counts (contract, "Sending").
const PATIENCE: Duration = Duration::from_secs(1);
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

/// A message found its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its place.
    pub cursor: Cursor,
    /// What happened to it, in connections.
    pub counts: Counts,
    /// Whether every worker has counted; false when one took more than a second.
    pub complete: bool,
}

/// A worker's queue is full: the message has no place in the order and went to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker's queue is full")]
pub struct Overloaded;

/// Whether a message is sent, or only counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Send,
    Count,
}

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

    /// Adds the calling thread as a worker. Must run inside a `tokio::task::LocalSet`, as actix workers do.
    pub fn add_worker(&self) -> Worker {
        let (sender, receiver) = queue::bounded(self.0.settings.queue);
        let (asked, questions) = mpsc::channel(roster::MAX_QUESTIONS);
        let mut waiting = self.0.waiting.write().unwrap_or_else(PoisonError::into_inner);
        let index = waiting.len();
        waiting.push(0);
        self.0.queues.rcu(|queues| queues.iter().cloned().chain([sender.clone()]).collect::<Vec<_>>());
        self.0.questions.rcu(|all| all.iter().cloned().chain([asked.clone()]).collect::<Vec<_>>());
        drop(waiting);
        let shard = Rc::new(RefCell::new(Shard::new(self.0.settings.bounds, self.0.evaluations.clone())));
        let worker = Worker {
            relay: self.clone(),
            shard,
            index,
            bell: Rc::default(),
            turnstile: Turnstile::default(),
            buffers: Rc::default(),
        };
        tokio::task::spawn_local(tokio::task::unconstrained(worker.clone().run(receiver, questions)));
        worker
    }

    /// Gives `message` its place in the instance's order and hands it to every worker that has someone of the
    /// instance. Waits for their counts, one second at most, and for no socket. Errors: `Overloaded`, before the
    /// message has a place.
    pub async fn publish(&self, instance: &InstanceId, message: &Message) -> Result<Published, Overloaded> {
        let realm = self.realm(instance);
        let (cursor, parcel) = self.hand_over(&realm, message, Intent::Send)?;
        self.bound_memory();
        let (counts, complete) = count(parcel).await;
        realm.count(counts);
        Ok(Published { cursor, counts, complete })
    }

    /// Everything but the sending: the counts that `publish` would come back with now, and the newest cursor.
    pub async fn rehearse(&self, instance: &InstanceId, message: &Message) -> Result<Published, Overloaded> {
        let realm = self.realm(instance);
        let (_, parcel) = self.hand_over(&realm, message, Intent::Count)?;
        let (counts, complete) = count(parcel).await;
        Ok(Published { cursor: realm.cursor(), counts, complete })
    }

    /// Claims an id that a publisher chose; waits while another request with it is being answered.
    /// Errors: `ClaimError`.
    pub async fn claim(&self, instance: &InstanceId, id: &str, same: Fingerprint) -> Result<Claim, ClaimError> {
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

    /// Tells every connection to come back later, closes them in waves, and waits until they are gone or `deadline`
    /// has passed. Returns how many were still open.
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

    /// Gives `message` its place, and every worker that may have someone for it a parcel; none where no worker has.
    fn hand_over(
        &self,
        realm: &Arc<Realm>,
        message: &Message,
        intent: Intent,
    ) -> Result<(Cursor, Option<Arc<Parcel>>), Overloaded> {
        let queues = self.0.queues.load();
        let unplaced = match intent {
            Intent::Send => Ok(Unplaced::new(message)),
            Intent::Count => Err(Frame::message_bytes(message)),
        };
        let bytes = unplaced.as_ref().map_or_else(|bytes| *bytes, Unplaced::wire_bytes);
        // Declared before the order, and so let go of once that is unlocked.
        let mut _forgotten = Forgotten::default();
        let mut order = realm.order();
        // Waking a worker costs more than all the rest, and many messages are for users who are away.
        let is_without = order.is_without(&message.reach.audiences);
        let present = queues.iter().enumerate().filter(|(shard, _)| !is_without && order.has_someone_on(*shard));
        let places = present.map(|(shard, queue)| Some((shard, queue.reserve(bytes, order.backlog(shard))?)));
        let places = places.collect::<Option<Vec<_>>>().ok_or(Overloaded)?;
        let cursor = order.next();
        let frame = unplaced.map(|unplaced| unplaced.at(cursor));
        if let Ok(frame) = &frame {
            _forgotten = self.remember(&mut order, message, frame);
        }
        if places.is_empty() {
            return Ok((cursor, None));
        }
        let delivery = delivery(realm, message, cursor, frame);
        let parcel = Arc::new(Parcel { delivery, realm: realm.clone(), bytes, tally: Tally::of(places.len()) });
        for (shard, place) in places {
            order.add_backlog(shard, bytes);
            place.send(parcel.clone());
        }
        Ok((cursor, Some(parcel)))
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
        if let Some(waiting) = self.0.waiting.write().unwrap_or_else(PoisonError::into_inner).get_mut(worker) {
            *waiting = bytes;
        }
    }

    fn drain_plan(&self) -> DrainPlan {
        let spread_ms = (self.open() as u64 * 1_000 / RECONNECTS_A_SECOND).clamp(1_000, 60_000);
        DrainPlan { spread_ms, waves: DRAIN_WAVES }
    }
}

/// What the workers did with a parcel, and whether all have said so in time.
async fn count(parcel: Option<Arc<Parcel>>) -> (Counts, bool) {
    match parcel {
        Some(parcel) => parcel.tally.wait(PATIENCE).await,
        None => (Counts::default(), true),
    }
}

/// A message as the workers get it; without a frame it is only counted.
fn delivery(realm: &Realm, message: &Message, cursor: Cursor, frame: Result<Frame, usize>) -> Delivery {
    Delivery {
        instance: realm.instance.clone(),
        reach: message.reach.clone(),
        position: cursor.position,
        lane: lane(message, cursor),
        frame,
    }
}

/// Only a message for one channel can have a lane: the policy is the channel's.
fn lane(message: &Message, cursor: Cursor) -> Option<Lane> {
    match (message.slow, message.reach.audiences.as_slice()) {
        (Slow::Latest, [Audience::Channel(channel)]) => Some(Lane { channel: channel.clone(), cursor }),
        _ => None,
    }
}
