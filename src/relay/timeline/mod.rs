//! What follows from the log for one instance: `Order::apply` takes a message at its place into the
//! window, the ids and the workers' queues.

mod entries;
mod passing;
mod traces;
mod window;

#[cfg(test)]
mod window_test;

pub(super) use passing::Passing;
pub(super) use traces::Traces;
pub(super) use window::{Exported, Hearing, Loss, Window, replay};

use super::frame::Frame;
use super::head::Head;
use super::ids::{Claim, ClaimError, ExportedId, Ids};
use super::progress::Counts;
use super::queue::{Sender, Share, Space};
use super::sealed::{Digest, Sealed};
use super::seats::{NoSeat, Seats};
use super::settings::HistoryBounds;
use super::snapshot::ConnectionSnapshot;
use crate::domain::cursor::Cursor;
use crate::domain::instance::{InstanceId, Limits};
use crate::domain::principal::UserId;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use window::Workers;

/// One instance's state across all workers; shared by reference.
#[derive(Debug)]
pub(crate) struct Timeline {
    instance: InstanceId,
    /// Of this memory of the order; of the log, or drawn at random when the relay first meets the instance.
    epoch: u64,
    /// What is held for less than a microsecond a message, never across an `.await`. Its mutex
    /// spins before it sleeps: putting a worker to sleep and waking it takes longer.
    state: Mutex<State>,
    /// The ids that publishers chose.
    ids: Arc<Ids>,
    /// What became of the messages; placed after the lock.
    traces: Traces,
    /// What happened, for the metrics.
    counters: Counters,
}

#[derive(Debug)]
struct State {
    /// What was sent lately.
    window: Window,
    /// When a message was last applied.
    used: Instant,
    /// Of the newest message that was applied.
    position: u64,
    /// Who is connected where.
    seats: Seats,
    /// Workers that had no space for a message, each with the newest position that it was sent;
    /// hardly ever anyone. None with a log in memory, which takes no message without space.
    behind: SmallVec<[Behind; 1]>,
}

/// A worker that is to be refilled from the window.
#[derive(Clone, Copy, Debug)]
struct Behind {
    worker: usize,
    sent_to: u64,
}

/// What an instance remembers.
pub(crate) struct Memory {
    /// What was sent lately.
    pub window: Window,
    /// The ids that publishers chose.
    pub ids: Ids,
    /// What became of the messages.
    pub traces: Traces,
}

/// What the beginning of a connection is told.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The newest position; every message behind it is sent to the connection's worker.
    pub cursor: Cursor,
    /// What was missed, where a cursor was given.
    pub missed: Option<Result<Vec<Frame>, Loss>>,
}

/// Sums since the start: messages that got a place, and what became of them in connections.
#[derive(Debug, Default)]
struct Counters {
    messages: AtomicU64,
    matched: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    replaced: AtomicU64,
}

/// A place among the instance's connections; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat {
    timeline: Arc<Timeline>,
    user: UserId,
}

/// The order, locked: nothing else gets a place while this is held.
pub(crate) struct Order<'a> {
    timeline: &'a Timeline,
    state: MutexGuard<'a, State>,
}

/// Space for one message in the queue of each worker that may have someone for it, by the worker's
/// index; where there is none, the worker falls behind.
pub(crate) type Spaces<'a> = SmallVec<[(usize, Option<Space<'a>>); 4]>;

/// What `Order::apply` leaves to be done once the order is unlocked.
#[must_use = "the message is to be remembered, and what gave way to it let go of"]
pub(crate) struct Applied {
    /// Of the message, which has its place now.
    head: Arc<Head>,
    /// Workers that fell behind with it, and are to be told so.
    fallen_behind: SmallVec<[usize; 1]>,
    /// What gave way to it. Letting go of it takes as long as giving a message its place.
    _gone: Option<Frame>,
}

/// How far a worker that fell behind has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refilled {
    /// It has everything again, or was not behind.
    Whole,
    /// Its queue is full again.
    Partly,
    /// Some of what it lacks has left the window: who has not seen everything up to this position
    /// has lost something. What lies behind is still to be sent.
    Lost {
        /// Position of the newest message that is lost.
        to: u64,
    },
}

impl Timeline {
    /// Of an instance whose order stands at `cursor`, of which nothing before is remembered.
    pub fn new(instance: InstanceId, cursor: Cursor, memory: Memory) -> Self {
        let Memory { window, ids, traces } = memory;
        let state = State {
            window,
            used: Instant::now(),
            position: cursor.position,
            seats: Seats::default(),
            behind: SmallVec::new(),
        };
        Self {
            instance,
            epoch: cursor.epoch,
            state: Mutex::new(state),
            ids: Arc::new(ids),
            traces,
            counters: Counters::default(),
        }
    }

    /// Which instance.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The memory that this order belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Place of the newest message that was applied.
    pub fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, position: self.lock().position }
    }

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        u64::from(self.lock().seats.taken())
    }

    /// Messages that got a place here since the start, and what became of them.
    pub fn counted(&self) -> (u64, Counts) {
        let Counters { messages, matched, queued, dropped, replaced } = &self.counters;
        let [messages, matched, queued, dropped, replaced] =
            [messages, matched, queued, dropped, replaced].map(|counter| counter.load(Relaxed));
        (messages, Counts { matched, queued, dropped, replaced })
    }

    /// The message that was published with an id, and the digest of its request.
    pub fn find_id(&self, id: &str) -> Option<(Arc<Head>, Digest)> {
        self.ids.find(id)
    }

    /// Claims an id that a publisher chose. Errors: `ClaimError`.
    pub async fn claim(&self, id: &str, digest: Digest) -> Result<Claim, ClaimError> {
        self.ids.claim(id, digest).await
    }

    /// A message that can still be traced, by its id.
    pub fn trace(&self, id: &str) -> Option<Arc<Head>> {
        self.traces.find(id, Instant::now())
    }

    /// The ended connections of a user that are still remembered, oldest first.
    pub fn ended(&self, user: &UserId) -> Vec<Arc<ConnectionSnapshot>> {
        self.traces.ended(user, Instant::now())
    }

    /// Remembers a connection that has ended.
    pub fn remember_ended(&self, connection: ConnectionSnapshot) {
        self.traces.leave(connection, Instant::now());
    }

    /// The same message, with what the message before has too of one allocation with it.
    pub fn share(&self, sealed: Sealed) -> Sealed {
        match self.traces.newest() {
            Some(newest) => sealed.sharing_with(&newest),
            None => sealed,
        }
    }

    /// Locks the order, to give messages their places or to give up before they have one.
    pub fn order(&self) -> Order<'_> {
        Order { timeline: self, state: self.lock() }
    }

    /// Remembers a message that was applied, so that it can be traced.
    pub fn remember(&self, applied: &Applied, now: Instant) {
        drop(self.traces.insert(applied.head.clone(), now));
    }

    /// Adds what became of one message.
    pub fn count(&self, counts: Counts) {
        let Counters { matched, queued, dropped, replaced, .. } = &self.counters;
        let counted = [counts.matched, counts.queued, counts.dropped, counts.replaced];
        // Most are 0, and even adding nothing would take the counters from the other workers.
        for (counter, more) in [matched, queued, dropped, replaced].into_iter().zip(counted) {
            if more > 0 {
                counter.fetch_add(more, Relaxed);
            }
        }
    }

    /// Takes a seat. Errors: `NoSeat`, when the instance or the user has all it may.
    pub fn take_seat(self: &Arc<Self>, user: &UserId, limits: &Limits) -> Result<Seat, NoSeat> {
        self.lock().seats.take(user, limits)?;
        Ok(Seat { timeline: self.clone(), user: user.clone() })
    }

    /// Counts one more connection on a worker, and collects what it missed since `since`, in one
    /// step: what is replayed and what is sent live meet without gap or double.
    pub fn arrive(
        &self,
        worker: usize,
        since: Option<Option<Cursor>>,
        who: Hearing<'_>,
    ) -> Arrival {
        let mut state = self.lock();
        state.seats.arrive(worker, &self.instance, self.epoch);
        let cursor = Cursor { epoch: self.epoch, position: state.position };
        let missed = since.map(|since| match since {
            Some(since) if since.epoch == self.epoch && since.position <= cursor.position => {
                state.window.since(since.position, who, Instant::now())
            }
            _ => Err(Loss::Epoch),
        });
        Arrival { cursor, missed }
    }

    /// Those messages with a filter that someone who resumes has missed by now.
    pub fn filtered(&self, since: Cursor, who: Hearing<'_>) -> Vec<Frame> {
        match since.epoch == self.epoch {
            true => self.lock().window.filtered(since.position, who),
            false => Vec::new(),
        }
    }

    /// Takes back one `arrive`; the newest position, behind which nothing was meant for it.
    pub fn leave(&self, worker: usize) -> u64 {
        let mut state = self.lock();
        if state.seats.leave(worker) == 0 {
            state.give_up(worker);
        }
        state.position
    }

    /// What is kept of what someone was sent behind `after` and up to `to`: [`Window::between`].
    pub fn between(&self, after: u64, to: u64, who: Hearing<'_>) -> Vec<Frame> {
        self.lock().window.between(after, to, who)
    }

    /// Messages kept behind `after` and up to `to`; at least, where `after` has left the window.
    pub fn numbers_between(&self, after: u64, to: u64) -> u64 {
        self.lock().window.numbers_between(after, to)
    }

    /// Sends a worker that fell behind what it lacks, as far as its queue has space.
    pub fn refill(&self, worker: usize, queue: &Sender) -> Refilled {
        let mut state = self.lock();
        let State { window, seats, behind, .. } = &mut *state;
        let Some(behind) = behind.iter_mut().find(|behind| behind.worker == worker) else {
            return Refilled::Whole;
        };
        let Some(share) = seats.share(worker) else { return Refilled::Whole };
        let refilled = match window.behind(behind.sent_to) {
            Err(to) => {
                // Whoever publishes waits no longer for a worker that passes over the message.
                let passed = window.kept_behind(behind.sent_to).take_while(|(at, _)| *at <= to);
                report_nothing(passed);
                behind.sent_to = to;
                Refilled::Lost { to }
            }
            Ok(mut lacking) => loop {
                let Some((position, frame)) = lacking.next() else { break Refilled::Whole };
                let Some(space) = queue.reserve(frame.wire_bytes(), share) else {
                    break Refilled::Partly;
                };
                space.send(frame.clone());
                behind.sent_to = position;
            },
        };
        if refilled == Refilled::Whole {
            state.catch_up(worker);
        }
        refilled
    }

    /// When a message was last applied here.
    pub fn last_used(&self) -> Instant {
        self.lock().used
    }

    /// Bytes of the window.
    pub fn window_bytes(&self) -> usize {
        self.lock().window.bytes()
    }

    /// Lets go of the older half of the window.
    pub fn evict_window(&self) {
        self.lock().window.evict();
    }

    /// Bytes of the traces.
    pub fn trace_bytes(&self) -> usize {
        self.traces.bytes()
    }

    /// Lets go of the older half of the traces.
    pub fn evict_traces(&self) {
        self.traces.evict();
    }

    /// Lets go of what is older than the window.
    pub fn trim(&self, now: Instant) {
        self.lock().window.trim(now);
        self.ids.trim(now);
        self.traces.trim(now);
    }

    /// The order's place and the window, for the next start.
    pub fn export(&self) -> (Cursor, Exported) {
        let state = self.lock();
        (Cursor { epoch: self.epoch, position: state.position }, state.window.export())
    }

    /// Every id whose message has its place, oldest first; for the next start.
    pub fn export_ids(&self) -> Vec<ExportedId> {
        self.ids.export()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Nobody is left on a worker: what it lacks, it would do nothing with.
    fn give_up(&mut self, worker: usize) {
        let Some(behind) = self.behind.iter().find(|behind| behind.worker == worker) else {
            return;
        };
        report_nothing(self.window.kept_behind(behind.sent_to));
        self.catch_up(worker);
    }

    /// A worker lacks nothing any more, or nothing that could still be sent.
    fn catch_up(&mut self, worker: usize) {
        self.behind.retain(|behind| behind.worker != worker);
        if self.behind.is_empty() {
            self.window.forget_for_workers();
        }
    }
}

/// Reports for a worker that it delivers these messages to nobody.
fn report_nothing<'a>(frames: impl Iterator<Item = (u64, &'a Frame)>) {
    let heads = frames.filter_map(|(_, frame)| frame.head());
    heads.for_each(|head| head.progress.report(Counts::default()));
}

impl Order<'_> {
    /// The position behind the newest message.
    pub fn next(&self) -> u64 {
        self.state.position + 1
    }

    /// Space for a message in the queue of every worker that may have someone for it. Waking a
    /// worker costs more than all the rest, and many messages are for users who are away.
    pub fn reserve<'q>(&self, queues: &'q [Sender], sealed: &Sealed) -> Spaces<'q> {
        let seats = &self.state.seats;
        if seats.are_without(&sealed.head().reach.audiences) {
            return Spaces::new();
        }
        let space = |(worker, share): (usize, &Arc<Share>)| {
            let queue = queues.get(worker);
            (worker, queue.and_then(|queue| queue.reserve(sealed.wire_bytes(), share)))
        };
        seats.occupied().map(space).collect()
    }

    /// A message has got this place, which lies behind all before: everything that follows from it.
    /// Refuses nothing: a worker for which there is no space falls behind.
    pub fn apply(
        &mut self,
        position: u64,
        sealed: Sealed,
        spaces: Spaces<'_>,
        now: Instant,
    ) -> Applied {
        let state = &mut *self.state;
        let HistoryBounds { window, messages, .. } = state.window.bounds();
        let (draft, digest) = (sealed.head(), sealed.digest());
        let is_kept = !draft.is_live_only() && messages > 0;
        let expires = is_kept.then(|| now + draft.ttl.unwrap_or(window).min(window));
        let cursor = Cursor { epoch: self.timeline.epoch, position };
        let (head, frame) = sealed.place(cursor, expires, spaces.len());
        let mut fallen_behind = SmallVec::new();
        for (worker, space) in spaces {
            let is_behind = state.behind.iter().any(|behind| behind.worker == worker);
            match space.filter(|_| !is_behind) {
                Some(space) => space.send(frame.clone()),
                None if is_behind => {}
                None => {
                    state.behind.push(Behind { worker, sent_to: state.position });
                    fallen_behind.push(worker);
                }
            }
        }
        let workers = match state.behind.is_empty() {
            true => Workers::KeepUp,
            false => Workers::AreBehind,
        };
        let gone = state.window.push(&frame, workers, now + window, now);
        (state.position, state.used) = (position, now);
        self.timeline.counters.messages.fetch_add(1, Relaxed);
        if let Some(digest) = digest {
            self.timeline.ids.place(&head, digest, now + window);
        }
        Applied { head, fallen_behind, _gone: gone }
    }
}

impl Applied {
    /// Workers that fell behind with it.
    pub fn fallen_behind(&self) -> &[usize] {
        &self.fallen_behind
    }

    /// Of the message.
    pub fn head(&self) -> &Arc<Head> {
        &self.head
    }
}

impl Seat {
    /// Where.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.timeline.lock().seats.give_back(&self.user);
    }
}

#[cfg(test)]
#[path = "timeline_test.rs"]
mod tests;
