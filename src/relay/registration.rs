//! A connection's way in and out: its seats, its place in the shard's index, its first frame.

use super::frame::{Frame, Notice, names};
use super::history::Listener;
use super::realm::{Arrival, NoSeat, Seat};
use super::roster::Origin;
use super::shard::{Key, Link, Member, Transport};
use super::{Relay, Worker};
use crate::catalog::Tenant;
use crate::domain::audience::Narrowing;
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use crate::domain::principal::Principal;
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
    /// `cursor=`, where it was given: how far the client has heard everything; none within for a text that is no cursor.
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
    _desk: ProcessSeat,
}

/// A place among the connections of the process; dropping it gives it back.
struct ProcessSeat(Arc<AtomicUsize>);

impl Relay {
    /// Lets a connection in on the calling worker: takes its seat, registers it, and puts `CONNECTED` into its outbox,
    /// with no gap and no double between that cursor and the first message. Errors: `ConnectError`.
    pub fn connect(&self, worker: &Worker, joining: Joining) -> Result<Registration, ConnectError> {
        if self.is_draining() {
            return Err(ConnectError::Draining);
        }
        let Joining { transport, principal, tenant, origin, narrowing, since } = joining;
        let desk = ProcessSeat::take(&self.0.open, self.0.settings.connections)?;
        let realm = self.realm(&tenant.instance.id);
        let seat = realm.take_seat(&principal.user, &tenant.instance.limits)?;
        // The newest rules count: whatever comes later reaches this worker as a change.
        let tenant = self.0.catalog.tenant(&tenant.instance.id).unwrap_or(tenant);
        let link = Rc::new(Link::new(Uuid::now_v7().to_string()));
        let audiences = tenant.audiences_of(&principal, narrowing.as_ref());
        let who = Listener { audiences: &audiences, user: &principal.user };
        let Arrival { cursor, begins, replay } = realm.arrive(worker.index, since, who);
        let connected = Notice::Connected {
            connection_id: &link.id,
            instance: tenant.instance.id.as_str(),
            user_id: principal.user.as_str(),
            channels: names(&audiences),
            cursor: begins.to_text(),
            keep_alive_seconds: self.0.settings.keep_alive_seconds,
            recovered: replay.as_ref().map(Result::is_ok),
            reason: replay.as_ref().and_then(|replay| replay.as_ref().err()).map(|loss| loss.as_str()),
        };
        link.outbox.begin(Frame::of(&connected), replay.and_then(Result::ok).unwrap_or_default(), Instant::now());
        let position = cursor.position;
        let member = Member {
            link: link.clone(),
            transport,
            realm,
            principal,
            origin,
            warned: false,
            narrowing,
            audiences,
            position,
        };
        let key = worker.shard.borrow_mut().insert(member);
        Ok(Registration { worker: worker.clone(), key, link, seat, _desk: desk })
    }
}

impl Registration {
    /// Whose connection it is, by the newest token.
    pub fn principal(&self) -> Option<Arc<Principal>> {
        self.worker.shard.borrow().get(self.key).map(|member| member.principal.clone())
    }

    /// Where it is connected.
    pub fn instance(&self) -> &InstanceId {
        &self.seat.realm.instance
    }

    /// Notes how far the client says that it has heard everything. A cursor that it was never sent is not believed.
    pub fn acknowledge(&self, cursor: Cursor) {
        let shard = self.worker.shard.borrow();
        let Some(member) = shard.get(self.key) else { return };
        if cursor.epoch == member.realm.epoch() && cursor.position <= member.position {
            self.link.acknowledged.set(Some(cursor));
            self.worker.relay.0.lag.observe((member.position - cursor.position) as f64);
        }
    }

    /// Gives it the rights of the same user's new token, and tells it what it hears now.
    pub fn renew(&self, principal: Arc<Principal>) {
        let snapshot = self.worker.relay.catalog().load();
        self.worker.shard.borrow_mut().renew(self.key, principal, &snapshot, Instant::now());
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
        self.worker.shard.borrow_mut().remove(self.key);
        self.seat.realm.leave(self.worker.index);
    }
}
