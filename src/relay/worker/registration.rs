//! A connection's way in and out: its seats, its place in the shard's index, its first frame.

use super::authorize::{Refusal, may_come};
use super::jobs::Job;
use super::newcomer::{Joining, Newcomer};
use super::thread::Worker;
use super::workers::Workers;
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Outcome};
use crate::domain::instance::InstanceId;
use crate::domain::principal::Principal;
use crate::relay::frame::{Frame, Notice};
use crate::relay::heard::{Heard, split};
use crate::relay::member::{Key, Link, Member};
use crate::relay::seats::NoSeat;
use crate::relay::snapshot::{Begun, Stage};
use crate::relay::timeline::{Arrival, Hearing, Loss, Seat, Timeline, replay};
use chrono::Utc;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time;
use uuid::Uuid;

/// How long a newcomer may wait until it is worked out what it hears.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The instance or the user has all it may.
    #[error(transparent)]
    NoSeat(#[from] NoSeat),
    /// The process has all it may.
    #[error("the process has its {limit} connections")]
    ProcessFull {
        /// The setting.
        limit: usize,
    },
    /// The node is going away.
    #[error("this node is going away")]
    Draining,
    /// The instance's rules are heavy, and so many wait for them already.
    #[error("{limit} connections wait until it is worked out what they hear")]
    Crowded {
        /// The setting.
        limit: usize,
    },
    /// What the instance's connections hear takes all that it may: too many hear something of their
    /// own.
    #[error("the sets of groups and channels that connections hear take {limit} bytes")]
    TooManySets {
        /// The setting.
        limit: usize,
    },
    /// The instance's rules are heavy: it took too long to work out what the connection hears.
    #[error("it took more than ten seconds to work out what the connection hears")]
    TooHeavy,
    /// It may not come any more.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node does not hold the database, or is not sure of it.
    #[error("this node does not hold the database")]
    NotHeld,
}

/// A registered connection; dropping it leaves every index.
pub struct Registration {
    worker: Worker,
    key: Key,
    /// Shared with the shard.
    pub link: Rc<Link>,
    /// Its place among the instance's connections.
    seat: Seat,
    /// Its place among the process's.
    _process_seat: ProcessSeat,
}

/// What a new token waits for.
pub struct Renewed(oneshot::Receiver<()>);

/// A place among the connections of the process; dropping it gives it back.
struct ProcessSeat(Arc<AtomicUsize>);

/// What one connection begins with.
struct Beginning {
    /// The newest position: everything behind it follows live.
    cursor: Cursor,
    /// How far the client says that it has heard everything, where it says so.
    since: Option<Option<Cursor>>,
    /// What it missed, where it said so.
    replay: Option<Result<Vec<Frame>, Loss>>,
}

/// Lets a connection in on its worker's thread: takes its seat, works out what it hears, registers
/// it, and puts `CONNECTED` into its outbox, with no gap and no double between that cursor and the
/// first message. `timeline` is its instance's. Errors: `ConnectError`.
pub(crate) async fn connect(
    worker: &Worker,
    timeline: Arc<Timeline>,
    joining: Joining,
) -> Result<Registration, ConnectError> {
    let workers = &worker.workers;
    let (bounds, deadline) = (workers.settings.connection, time::Instant::now() + PATIENCE);
    may_take_in(workers)?;
    let process_seat = ProcessSeat::take(&workers.open, workers.settings.connections)?;
    let seat = timeline.take_seat(&joining.principal.user, &joining.tenant.instance.limits)?;
    let mut newcomer = Box::new(Newcomer::new(timeline, joining));
    loop {
        may_take_in(workers)?;
        let Joining { principal, tenant, .. } = &newcomer.joining;
        // The newest rules count: whatever comes later reaches this worker as a change.
        let newest = workers.catalog.tenant(&tenant.instance.id);
        let newest = may_come(principal, newest.as_ref(), bounds)?;
        let until = Instant::now() + bounds.slice;
        if newcomer.go_on(newest, &workers.counts.evaluations, || Instant::now() < until) {
            return register(worker, *newcomer, seat, process_seat);
        }
        newcomer = wait(worker, newcomer, deadline).await?;
    }
}

/// Whether this node takes anyone in. Errors: `ConnectError`.
fn may_take_in(workers: &Workers) -> Result<(), ConnectError> {
    if workers.is_draining() {
        return Err(ConnectError::Draining);
    }
    match workers.log.is_held() {
        true => Ok(()),
        false => Err(ConnectError::NotHeld),
    }
}

/// Waits until it is worked out what a newcomer hears. Errors: `ConnectError`.
async fn wait(
    worker: &Worker,
    newcomer: Box<Newcomer>,
    deadline: time::Instant,
) -> Result<Box<Newcomer>, ConnectError> {
    let (reply, answer) = oneshot::channel();
    let instance = newcomer.joining.tenant.instance.id.clone();
    if !worker.shard.borrow_mut().admit(&instance, Job::arrive(newcomer, reply)) {
        let limit = worker.workers.settings.connection.newcomers;
        return Err(ConnectError::Crowded { limit });
    }
    worker.bell.notify_one();
    match time::timeout_at(deadline, answer).await {
        Ok(Ok(newcomer)) => Ok(newcomer),
        Ok(Err(_)) => Err(ConnectError::Draining),
        Err(_) => Err(ConnectError::TooHeavy),
    }
}

/// Registers one of whom all is known, in one step with a last look at what it missed.
fn register(
    worker: &Worker,
    newcomer: Newcomer,
    seat: Seat,
    process_seat: ProcessSeat,
) -> Result<Registration, ConnectError> {
    let workers = &worker.workers;
    let Newcomer { joining, timeline, authorizing, mut passing, .. } = newcomer;
    let Joining { transport, principal, origin, narrowing, since, .. } = joining;
    let tenant = authorizing.tenant().clone();
    let (own, shared) = split(authorizing.into_heard());
    let set = worker.shard.borrow_mut().set_of(&tenant.instance.id, shared);
    let limit = workers.settings.connection.heard_bytes;
    let heard = Heard::new(own, set.ok_or(ConnectError::TooManySets { limit })?);
    let link = Rc::new(Link::new(Uuid::now_v7().to_string()));
    let who = Hearing::of(&heard, &principal.user);
    let Arrival { cursor, missed } = timeline.arrive(worker.index, since, who);
    // Outside the order's lock: a filter takes longer than a position.
    let facts = origin.facts(&principal);
    let passes = |filter: &Expression| filter.evaluate(&facts) == Outcome::True;
    let bounds = workers.settings.history;
    let replay = missed.map(|missed| replay(missed?, bounds, &mut passing, passes));
    workers.counts.evaluations.fetch_add(facts.asked(), Relaxed);
    let (beginning, now) = (Beginning { cursor, since, replay }, Instant::now());
    let connected = Notice::Connected {
        connection_id: &link.id,
        instance: tenant.instance.id.as_str(),
        user_id: principal.user.as_str(),
        channels: [],
        cursor: beginning.whole_to().to_text(),
        keep_alive_seconds: workers.settings.keep_alive_seconds,
        recovered: beginning.replay.as_ref().map(Result::is_ok),
        reason: beginning.loss().map(Loss::as_str),
    };
    let (connected, begun) =
        (Frame::with_channels(&connected, &heard.names()), beginning.begun(now));
    link.outbox.begin(connected, beginning.missed(), now);
    let member = Member {
        link: link.clone(),
        transport,
        timeline,
        principal,
        origin,
        warned: false,
        narrowing,
        is_renewing: false,
        is_counting: false,
        heard,
        rights_since_ms: 0,
        authorized_by: tenant,
        begun,
        position: cursor.position,
    };
    let key = worker.shard.borrow_mut().insert(member);
    Ok(Registration { worker: worker.clone(), key, link, seat, _process_seat: process_seat })
}

impl Beginning {
    /// Up to where the client has everything once it has read `CONNECTED`: while a replay follows,
    /// no further than before. A client that is cut in between keeps this cursor, and must be sent
    /// the rest of the replay again.
    fn whole_to(&self) -> Cursor {
        match (self.since.flatten(), &self.replay) {
            (Some(since), Some(Ok(missed))) if !missed.is_empty() => since,
            _ => self.cursor,
        }
    }

    /// Why what it missed cannot be sent whole.
    fn loss(&self) -> Option<Loss> {
        self.replay.as_ref().and_then(|replay| replay.as_ref().err()).copied()
    }

    /// Where it begins, at `now`.
    fn begun(&self, now: Instant) -> Begun {
        let since = self.since.flatten().filter(|_| matches!(self.replay, Some(Ok(_))));
        let since = since.map(|since| since.position);
        Begun { position: self.cursor.position, since, at: now }
    }

    /// What it is sent of what it missed.
    fn missed(self) -> Vec<Frame> {
        self.replay.and_then(Result::ok).unwrap_or_default()
    }
}

impl Registration {
    /// Whose connection it is, by the newest token.
    pub fn principal(&self) -> Option<Arc<Principal>> {
        self.worker.shard.borrow().get(self.key).map(|member| member.principal.clone())
    }

    /// On which worker.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Whether its socket may write now, once; if not, it is woken at its turn.
    pub fn take_turn(&self) -> bool {
        if self.link.has_turn.replace(false) {
            return true;
        }
        self.worker.shard.borrow_mut().call(self.key);
        self.worker.bell.notify_one();
        false
    }

    /// Where it is connected.
    pub fn instance(&self) -> &InstanceId {
        self.seat.timeline().instance()
    }

    /// Notes how far the client says that it has heard everything, and counts it for the messages
    /// up to there, at once or at its turns. A cursor that it was never sent is not believed.
    pub fn acknowledge(&self, cursor: Cursor) {
        let (workers, at) = (&self.worker.workers, Instant::now());
        let snapshot = workers.catalog.load();
        let mut shard = self.worker.shard.borrow_mut();
        if let Some(lag) = shard.acknowledge(self.key, cursor, (&snapshot, at)) {
            workers.lag.observe(lag as f64);
        }
        drop(shard);
        self.worker.ring_for_turns();
    }

    /// Gives it the rights of the same user's new token, at once or at its turns, and tells it what
    /// it hears then. Resolves when that is done, or the connection gone; until then the old token
    /// and its rights hold.
    pub fn renew(&self, principal: Arc<Principal>) -> Renewed {
        let (done, renewed) = oneshot::channel();
        let snapshot = self.worker.workers.catalog.load();
        let at = (&*snapshot, Instant::now());
        self.worker.shard.borrow_mut().renew(self.key, principal, done, at);
        self.worker.ring_for_turns();
        Renewed(renewed)
    }
}

impl Future for Renewed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_done_or_gone| ())
    }
}

#[cfg(test)]
impl Registration {
    /// The canonical names of what it hears now.
    pub fn hears(&self) -> Vec<String> {
        self.worker
            .shard
            .borrow()
            .get(self.key)
            .map(|member| member.heard.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    }
}

impl ProcessSeat {
    fn take(open: &Arc<AtomicUsize>, limit: usize) -> Result<Self, ConnectError> {
        let seat = Self(open.clone());
        match open.fetch_add(1, Relaxed) < limit {
            true => Ok(seat),
            false => Err(ConnectError::ProcessFull { limit }),
        }
    }
}

impl Drop for ProcessSeat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let member = self.worker.shard.borrow_mut().remove(self.key);
        let timeline = self.seat.timeline();
        let position = timeline.leave(self.worker.index);
        if let Some(member) = member {
            let stage = Stage::Gone { position, at: Utc::now() };
            timeline.remember_ended(member.snapshot(stage));
        }
    }
}
