//! A connection's way in and out: its seats, its place in the shard's index, its first frame.

use super::thread::Worker;
use crate::catalog::Tenant;
use crate::domain::audience::Narrowing;
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Outcome};
use crate::domain::instance::InstanceId;
use crate::domain::principal::Principal;
use crate::relay::frame::{Frame, Notice, names};
use crate::relay::member::{Key, Link, Member, Transport};
use crate::relay::seats::NoSeat;
use crate::relay::snapshot::{Begun, Origin, Stage};
use crate::relay::timeline::{Arrival, Hearing, Loss, Seat, Timeline, replay};
use chrono::Utc;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use uuid::Uuid;

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
    /// The node does not hold the database, or is not sure of it.
    #[error("this node does not hold the database")]
    NotHeld,
}

/// Who connects, and what it wants to hear.
pub struct Joining {
    /// How it receives.
    pub transport: Transport,
    /// The verified bearer.
    pub principal: Arc<Principal>,
    /// Its instance, as it is now.
    pub tenant: Arc<Tenant>,
    /// How it came.
    pub origin: Origin,
    /// `channels=`.
    pub narrowing: Option<Narrowing>,
    /// `cursor=`, where it was given: how far the client has heard everything; none within for a
    /// text that is no cursor.
    pub since: Option<Option<Cursor>>,
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

/// Lets a connection in on its worker's thread: takes its seat, registers it, and puts `CONNECTED`
/// into its outbox, with no gap and no double between that cursor and the first message. `timeline`
/// is its instance's. Errors: `ConnectError`.
pub(crate) fn connect(
    worker: &Worker,
    timeline: Arc<Timeline>,
    joining: Joining,
) -> Result<Registration, ConnectError> {
    let workers = &worker.workers;
    if workers.is_draining() {
        return Err(ConnectError::Draining);
    }
    if !workers.log.is_held() {
        return Err(ConnectError::NotHeld);
    }
    let Joining { transport, principal, tenant, origin, narrowing, since } = joining;
    let process_seat = ProcessSeat::take(&workers.open, workers.settings.connections)?;
    let seat = timeline.take_seat(&principal.user, &tenant.instance.limits)?;
    // The newest rules count: whatever comes later reaches this worker as a change.
    let tenant = workers.catalog.tenant(&tenant.instance.id).unwrap_or(tenant);
    let link = Rc::new(Link::new(Uuid::now_v7().to_string()));
    let facts = origin.facts(&principal);
    let audiences = tenant.audiences_of(&facts, narrowing.as_ref(), None);
    let who = Hearing { audiences: &audiences, user: &principal.user };
    let Arrival { cursor, missed } = timeline.arrive(worker.index, since, who);
    // Outside the order's lock: a filter takes longer than a position.
    let passes = |filter: &Expression| filter.evaluate(&facts) == Outcome::True;
    let replay = missed.map(|missed| replay(missed?, workers.settings.history, passes));
    workers.evaluations.fetch_add(facts.asked(), Relaxed);
    let (beginning, now) = (Beginning { cursor, since, replay }, Instant::now());
    let connected = Notice::Connected {
        connection_id: &link.id,
        instance: tenant.instance.id.as_str(),
        user_id: principal.user.as_str(),
        channels: names(&audiences),
        cursor: beginning.whole_to().to_text(),
        keep_alive_seconds: workers.settings.keep_alive_seconds,
        recovered: beginning.replay.as_ref().map(Result::is_ok),
        reason: beginning.loss().map(Loss::as_str),
    };
    let (connected, begun) = (Frame::of(&connected), beginning.begun(now));
    link.outbox.begin(connected, beginning.missed(), now);
    let member = Member {
        link: link.clone(),
        transport,
        timeline,
        principal,
        origin,
        warned: false,
        narrowing,
        audiences,
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
    /// up to there. A cursor that it was never sent is not believed.
    pub fn acknowledge(&self, cursor: Cursor) {
        let shard = self.worker.shard.borrow();
        if let Some(lag) = shard.get(self.key).and_then(|member| member.acknowledge(cursor)) {
            self.worker.workers.lag.observe(lag as f64);
        }
    }

    /// Gives it the rights of the same user's new token, and tells it what it hears now.
    pub fn renew(&self, principal: Arc<Principal>) {
        let snapshot = self.worker.workers.catalog.load();
        self.worker.shard.borrow_mut().renew(self.key, principal, &snapshot, Instant::now());
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
            .map(|member| names(&member.audiences))
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
