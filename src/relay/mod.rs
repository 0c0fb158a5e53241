//! Who is connected, and the order of what they hear.

mod survey;
mod worker;

mod log;
mod timeline;
mod timelines;
mod window_file;

mod ids;
mod queue;
mod seats;

mod heard;
mod member;
pub mod outbox;

mod delivery_trace;
mod snapshot;

mod close;
mod frame;
mod head;
mod progress;
mod sealed;

mod settings;
mod tenure;
mod totals;

#[cfg(test)]
mod life_test;
#[cfg(test)]
pub(crate) mod model_test;
#[cfg(test)]
pub(crate) use worker::turns_test;

pub use close::Close;
pub use delivery_trace::{DeliveryTrace, delivery_trace, rights_changed};
pub use frame::{Frame, Notice};
pub use head::Head;
pub use ids::{Claim, ClaimError, Claimed};
pub use log::{Appended, LONGEST_RUN, Log, NotNow, NotPlaced, SharedLog};
pub use member::{Link, Transport};
pub use progress::{Counts, Step};
pub use sealed::{Digest, Sealed};
pub use seats::NoSeat;
pub use settings::{
    ConnectionBounds, HistoryBounds, OutboxBounds, QueueBounds, RelaySettings, SLICE, TraceBounds,
};
pub use snapshot::{ConnectionSnapshot, Origin, Stage};
pub use survey::{
    Answer, ConnectionInfo, Considered, DryRun, DryRunReport, DryRunResult, Listing, Query,
    Selection,
};
pub use tenure::{Moment, Tenure};
pub use window_file::WindowError;
pub use worker::{ConnectError, Joining, Refusal, Registration, Renewed, Unanswered, Worker};

use crate::catalog::Catalog;
use crate::domain::cursor::Cursor;
use crate::domain::expression::compiled::Compiled;
use crate::domain::instance::InstanceId;
use crate::domain::message::Message;
use crate::domain::principal::UserId;
use prometheus_client::metrics::histogram::Histogram;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use worker::Workers;

/// How long a publish waits for the workers' counts (contract, "Sending").
const PATIENCE: Duration = Duration::from_secs(1);

/// The handle everyone else holds.
#[derive(Clone, Debug)]
pub struct Relay(Arc<Workers>);

/// A message has its place in the order.
#[derive(Clone, Debug)]
pub struct Published {
    /// The message; its place is its cursor.
    pub head: Arc<Head>,
    /// What happened to it, in connections.
    pub counts: Counts,
    /// Whether every worker has counted; false when one took more than a second.
    pub complete: bool,
    /// Whether it was published before, with the same id.
    pub duplicate: bool,
}

/// One instance in figures, for the metrics.
#[derive(Clone, Debug)]
pub struct InstanceFigures {
    /// Which.
    pub instance: InstanceId,
    /// Open connections.
    pub connections: u64,
    /// Messages that got a place in the order, since the start.
    pub messages: u64,
    /// What became of them, in connections.
    pub counts: Counts,
}

impl Relay {
    /// A relay without workers yet, whose log is in memory.
    pub fn new(catalog: Catalog, settings: RelaySettings) -> Self {
        Self::with_log(catalog, settings, Log::Memory(Tenure::default()))
    }

    /// The same with another log.
    pub fn with_log(catalog: Catalog, settings: RelaySettings, log: Log) -> Self {
        Self(Arc::new(Workers::new(catalog, settings, log)))
    }

    /// Adds the calling thread as a worker. Must run inside a `tokio::task::LocalSet`, as actix
    /// workers do.
    pub fn add_worker(&self) -> Worker {
        Worker::start(self.0.clone())
    }

    /// Claims an id that a publisher chose; waits while another request with it is on its way to
    /// the order. Errors: `ClaimError`.
    pub async fn claim(
        &self,
        instance: &InstanceId,
        id: &str,
        digest: Digest,
    ) -> Result<Claim, ClaimError> {
        self.0.timeline(instance).claim(id, digest).await
    }

    /// Gives `message` its place in the instance's order, from which all else follows. Waits for
    /// the workers' counts, one second at most, and for no socket. `claimed` is given where the
    /// publisher chose the id. Errors: `NotPlaced`.
    pub async fn publish(
        &self,
        instance: &InstanceId,
        message: Message,
        claimed: Option<Claimed>,
    ) -> Result<Published, NotPlaced> {
        let timeline = self.0.timeline(instance);
        let (id, digest) = (message.id.clone(), claimed.as_ref().map(Claimed::digest));
        let sealed = timeline.share(Sealed::new(message, digest));
        let appended = self.0.log.append_one(&timeline, &self.0.queues(), sealed).await;
        self.0.timelines.bound_memory();
        let published = match appended? {
            Appended::New(head) => Self::counted(head, Instant::now() + PATIENCE).await,
            Appended::Repeat { .. } => {
                // The log decides what is a repetition; the digest, whether of the same request.
                let (head, known) = timeline.find_id(&id).ok_or(NotPlaced::Unknown)?;
                if digest != Some(known) {
                    return Err(NotPlaced::Reused);
                }
                return Ok(self.repeat(head).await);
            }
        };
        timeline.count(published.counts);
        Ok(published)
    }

    /// Publishes messages one after another, each as `publish` does, and waits less for it: up to
    /// [`LONGEST_RUN`] get their places in one go and are counted together. One for which there is
    /// no space waits until those before it are counted, and is refused only then. The answers are
    /// in the order of the messages.
    pub async fn publish_run(
        &self,
        instance: &InstanceId,
        messages: Vec<Message>,
    ) -> Vec<Result<Published, NotPlaced>> {
        let timeline = self.0.timeline(instance);
        let sealed = messages.into_iter().map(|it| timeline.share(Sealed::new(it, None)));
        let mut left: Vec<Sealed> = sealed.collect();
        let mut published = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let appended = self.0.log.append(&timeline, &self.0.queues(), &mut left).await;
            self.0.timelines.bound_memory();
            let deadline = Instant::now() + PATIENCE;
            for appended in appended {
                published.push(match appended {
                    Ok(Appended::New(head)) => {
                        let one = Self::counted(head, deadline).await;
                        timeline.count(one.counts);
                        Ok(one)
                    }
                    // Ids of its own are never given twice.
                    Ok(Appended::Repeat { .. }) => Err(NotPlaced::Unknown),
                    Err(error) => Err(error),
                });
            }
        }
        published
    }

    /// What became of a message that was published before, as far as its workers say so in a
    /// second.
    pub async fn repeat(&self, head: Arc<Head>) -> Published {
        let published = Self::counted(head, Instant::now() + PATIENCE).await;
        Published { duplicate: true, ..published }
    }

    /// Waits, two seconds at most, until what a cursor names is applied here; at once where the
    /// log is this node's own. Errors: `NotNow`.
    pub async fn wait_for(&self, instance: &InstanceId, cursor: Cursor) -> Result<(), NotNow> {
        self.0.log.wait_for(&self.0.timeline(instance), cursor).await
    }

    /// A message of a shared log has this place: everything that follows from it here. None where
    /// it was applied already.
    pub fn apply(&self, instance: &InstanceId, position: u64, sealed: Sealed) -> Option<Arc<Head>> {
        let applied = self.0.apply(instance, position, sealed);
        self.0.timelines.bound_memory();
        applied
    }

    /// Lets a connection in on the calling worker: takes its seat, works out what it hears, at once
    /// or at its instance's turns within ten seconds, registers it, and puts `CONNECTED` into its
    /// outbox, with no gap and no double between that cursor and the first message. Errors:
    /// `ConnectError`.
    pub async fn connect(
        &self,
        worker: &Worker,
        joining: Joining,
    ) -> Result<Registration, ConnectError> {
        worker::connect(worker, self.0.timeline(&joining.tenant.instance.id), joining).await
    }

    /// Asks all connections of an instance: what those say that answer within a second, and whether
    /// that is everyone. Errors: `Unanswered`, where nobody was asked.
    pub async fn survey(
        &self,
        instance: &InstanceId,
        query: &Query,
    ) -> Result<(Answer, Result<(), Unanswered>), Unanswered> {
        self.0.inboxes.ask(instance, query).await
    }

    /// A message that can still be traced, by its id.
    pub fn trace_of(&self, instance: &InstanceId, id: &str) -> Option<Arc<Head>> {
        self.0.timelines.find(instance).and_then(|timeline| timeline.trace(id))
    }

    /// The ended connections of a user that are still remembered.
    pub fn ended(&self, instance: &InstanceId, user: &UserId) -> Vec<Arc<ConnectionSnapshot>> {
        self.0.timelines.find(instance).map(|it| it.ended(user)).unwrap_or_default()
    }

    /// Place of the newest message of an instance.
    pub fn cursor(&self, instance: &InstanceId) -> Cursor {
        self.0.timeline(instance).cursor()
    }

    /// Open connections of an instance.
    pub fn connections(&self, instance: &InstanceId) -> u64 {
        self.0.timelines.find(instance).map_or(0, |timeline| timeline.connections())
    }

    /// Open connections of the process.
    pub fn open(&self) -> usize {
        self.0.open()
    }

    /// Has every connection looked after at once, for whoever withdrew the key of a token.
    pub fn recheck(&self) {
        self.0.recheck();
    }

    /// Whether the node is going away.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining()
    }

    /// Tells every connection to come back later, closes them in waves, and waits until they are
    /// gone or `deadline` has passed. Returns how many were still open.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.0.begin_draining();
        let end = Instant::now() + deadline;
        let mut look = interval(Duration::from_millis(20));
        while self.open() > 0 && Instant::now() < end {
            look.tick().await;
        }
        self.open()
    }

    /// Whether another node serves, or may serve, in this one's place.
    pub fn stands_by(&self) -> bool {
        // In this order: hardly ever is more than the first looked at.
        !self.0.log.is_held() && !self.is_draining()
    }

    /// Takes nobody in any more; those who are here stay for now.
    pub fn close_doors(&self) {
        self.0.close_doors();
    }

    /// Forgets every message, id and place once all are gone, and lets newcomers in again.
    pub fn begin_anew(&self) {
        self.0.timelines.retain(|_| false);
        self.0.end_draining();
    }

    /// Keeps house without end: lets go of what is older than the windows each second, and of
    /// instances that are no more.
    pub async fn keep_house(self) {
        let Workers { catalog, timelines, .. } = &*self.0;
        let (mut changes, mut ticker) = (catalog.changes(), interval(Duration::from_secs(1)));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticker.tick() => timelines.trim(std::time::Instant::now()),
                Ok(()) = changes.changed() => {
                    let snapshot = changes.borrow_and_update().clone();
                    timelines.retain(|instance| snapshot.tenants.contains_key(instance));
                }
            }
        }
    }

    /// Writes every instance's window and place in its order, and the name of the memory that they
    /// are. Errors: those of writing.
    pub fn write_windows(&self, term: &str, target: &mut impl Write) -> io::Result<()> {
        window_file::write(&self.0.timelines, term, target)
    }

    /// The name of the memory that `write_windows` wrote; none where it wrote no such file.
    pub fn term_of_windows(source: impl BufRead) -> Option<String> {
        window_file::term(source)
    }

    /// Takes up what `write_windows` wrote of the memory of this name, before anyone is connected;
    /// all of it or nothing. Returns how many instances there were. Errors: `WindowError`.
    pub fn read_windows(
        &self,
        term: Option<&str>,
        source: impl BufRead,
        compiled: &Compiled,
    ) -> Result<usize, WindowError> {
        window_file::read(&self.0.timelines, term, source, compiled)
    }

    /// Every instance that was in use, for the metrics.
    pub fn figures(&self) -> Vec<InstanceFigures> {
        let all = self.0.timelines.all();
        let figures = all.iter().map(|timeline| {
            let (messages, counts) = timeline.counted();
            let (instance, connections) = (timeline.instance().clone(), timeline.connections());
            InstanceFigures { instance, connections, messages, counts }
        });
        figures.collect()
    }

    /// How far acknowledgements lag behind, for the metrics.
    pub fn lag(&self) -> Histogram {
        self.0.lag.clone()
    }

    /// How often a rule's or a message's expression was evaluated for a connection.
    pub fn evaluations(&self) -> u64 {
        self.0.counts.evaluations.load(Relaxed)
    }

    /// Bytes of all windows.
    pub fn history_bytes(&self) -> usize {
        self.0.timelines.window_bytes()
    }

    /// Bytes of all traces and ended connections.
    pub fn trace_bytes(&self) -> usize {
        self.0.timelines.trace_bytes()
    }

    /// Bytes that waited in all outboxes at the last tick.
    pub fn waiting_bytes(&self) -> usize {
        self.0.taken().waiting
    }

    /// Bytes of the sets of groups and channels that connections hear, at the last tick.
    pub fn heard_bytes(&self) -> usize {
        self.0.taken().heard
    }

    /// Connections that were closed since what an instance's connections hear took too much.
    pub fn shed(&self) -> u64 {
        self.0.counts.shed.load(Relaxed)
    }

    async fn counted(head: Arc<Head>, deadline: Instant) -> Published {
        let (counts, complete) = head.progress.counted(deadline).await;
        Published { head, counts, complete, duplicate: false }
    }
}

#[cfg(test)]
impl Relay {
    /// An instance's timeline.
    pub(crate) fn timeline(&self, instance: &InstanceId) -> Arc<timeline::Timeline> {
        self.0.timeline(instance)
    }
}
