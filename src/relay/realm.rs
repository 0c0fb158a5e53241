//! What the relay keeps for one instance across all workers: the order of its messages, who is
//! present, what was counted.

use super::entry::Entry;
use super::history::{Exported, History, Listener, Loss};
use super::queue::Backlog;
use super::repeats::Repeats;
use super::shard::Counts;
use super::traces::Traces;
use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::instance::{InstanceId, Limits};
use crate::domain::principal::UserId;
use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// One instance's state; shared by reference.
#[derive(Debug)]
pub struct Realm {
    /// Which instance.
    pub instance: InstanceId,
    /// Drawn at random when the relay first meets the instance.
    epoch: u64,
    /// The order, the window and the population; held for less than a microsecond a message, never
    /// across an `.await`. Its mutex spins before it sleeps: putting a worker to sleep and waking
    /// it takes longer than it would have waited.
    state: Mutex<State>,
    /// The ids that publishers chose.
    pub repeats: Arc<Repeats>,
    /// What became of the messages.
    pub traces: Traces,
    /// What happened, for the metrics.
    pub counters: Counters,
}

#[derive(Debug)]
struct State {
    /// What was sent lately.
    history: History,
    /// When a message was last published.
    used: Instant,
    /// Of the newest message.
    position: u64,
    /// Registered connections by shard; an index beyond the end counts as 0.
    present: Vec<u32>,
    /// What waits for each shard of this instance's messages; an index beyond the end counts as
    /// nothing.
    backlogs: Vec<Backlog>,
    /// Seats taken: connections that are registered or about to be.
    seats: u32,
    /// Seats taken by user; a user without one is not in the map.
    seats_of: HashMap<UserId, u32, RandomState>,
}

/// What an instance remembers.
#[derive(Debug)]
pub struct Memory {
    /// What was sent lately.
    pub history: History,
    /// The ids that publishers chose.
    pub repeats: Repeats,
    /// What became of the messages.
    pub traces: Traces,
}

/// What the beginning of a connection is told.
#[derive(Debug)]
pub struct Arrival {
    /// The newest position; every message behind it is sent to the connection's shard.
    pub cursor: Cursor,
    /// What was missed, where a cursor was given.
    pub missed: Option<Result<Vec<Arc<Entry>>, Loss>>,
}

/// Sums since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that got a place in the order.
    pub messages: AtomicU64,
    /// Connections they were for.
    pub matched: AtomicU64,
    /// Connections they were queued for.
    pub queued: AtomicU64,
    /// Connections that had no room.
    pub dropped: AtomicU64,
    /// Messages that a newer one of their channel replaced in an outbox.
    pub replaced: AtomicU64,
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSeat {
    /// The instance has as many connections as it may.
    #[error("the instance has its {limit} connections")]
    Instance {
        /// `connections`.
        limit: u32,
    },
    /// The user has as many connections as one may.
    #[error("the user has its {limit} connections")]
    User {
        /// `connectionsPerUser`.
        limit: u32,
    },
}

/// A place among the instance's connections; dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    /// Where.
    pub realm: Arc<Realm>,
    user: UserId,
}

/// The order, locked: nothing else gets a place while this is held.
pub struct Order<'a> {
    realm: &'a Arc<Realm>,
    state: MutexGuard<'a, State>,
}

impl Realm {
    /// A realm whose order begins at 0 in this epoch.
    pub fn new(instance: InstanceId, epoch: u64, memory: Memory) -> Self {
        let Memory { history, repeats, traces } = memory;
        let repeats = Arc::new(repeats);
        let state = State {
            history,
            used: Instant::now(),
            position: 0,
            present: Vec::new(),
            backlogs: Vec::new(),
            seats: 0,
            seats_of: HashMap::default(),
        };
        Self {
            instance,
            epoch,
            state: Mutex::new(state),
            repeats,
            traces,
            counters: Counters::default(),
        }
    }

    /// The same realm where an earlier process left it.
    pub fn resumed(
        instance: InstanceId,
        cursor: Cursor,
        mut memory: Memory,
        exported: Exported<Entry>,
    ) -> Self {
        memory.history.import(cursor.position, exported, Instant::now());
        let realm = Self::new(instance, cursor.epoch, memory);
        realm.lock().position = cursor.position;
        realm
    }

    /// Takes a seat. Errors: `NoSeat`, when the instance or the user has all it may.
    pub fn take_seat(self: &Arc<Self>, user: &UserId, limits: &Limits) -> Result<Seat, NoSeat> {
        let mut state = self.lock();
        if state.seats >= limits.connections {
            return Err(NoSeat::Instance { limit: limits.connections });
        }
        let seats = state.seats_of.entry(user.clone()).or_default();
        if *seats >= limits.connections_per_user {
            return Err(NoSeat::User { limit: limits.connections_per_user });
        }
        *seats += 1;
        state.seats += 1;
        Ok(Seat { realm: self.clone(), user: user.clone() })
    }

    /// The memory that this order belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        u64::from(self.lock().seats)
    }

    /// Position of the newest message.
    pub fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, position: self.lock().position }
    }

    /// Counts one more connection on `shard`, and collects what it missed since `since`, in one
    /// step: what is replayed and what is sent live meet without gap or double.
    pub fn arrive(
        &self,
        shard: usize,
        since: Option<Option<Cursor>>,
        who: Listener<'_>,
    ) -> Arrival {
        let mut state = self.lock();
        if state.present.len() <= shard {
            state.present.resize(shard + 1, 0);
        }
        state.present[shard] += 1;
        let cursor = Cursor { epoch: self.epoch, position: state.position };
        let missed = since.map(|since| match since {
            Some(since) if since.epoch == self.epoch && since.position <= cursor.position => {
                state.history.since(since.position, who, Instant::now())
            }
            _ => Err(Loss::Epoch),
        });
        Arrival { cursor, missed }
    }

    /// What is kept of what someone was sent behind `after` and up to `to`; see
    /// [`History::between`].
    pub fn between(&self, after: u64, to: u64, who: Listener<'_>) -> Vec<Arc<Entry>> {
        self.lock().history.between(after, to, who)
    }

    /// When a message was last published here.
    pub fn last_used(&self) -> Instant {
        self.lock().used
    }

    /// Bytes of the window.
    pub fn history_bytes(&self) -> usize {
        self.lock().history.bytes()
    }

    /// Lets go of the older half of the window.
    pub fn evict(&self) {
        self.lock().history.evict();
    }

    /// Lets go of what is older than the window.
    pub fn trim(&self, now: Instant) {
        self.lock().history.trim(now);
        self.repeats.trim(now);
        self.traces.trim(now);
    }

    /// The order's position and the window, for the next start.
    pub fn export(&self) -> (Cursor, Exported<Arc<Entry>>) {
        let state = self.lock();
        (Cursor { epoch: self.epoch, position: state.position }, state.history.export())
    }

    /// Takes back one `arrive`; the newest position, behind which nothing was meant for it.
    pub fn leave(&self, shard: usize) -> u64 {
        let mut state = self.lock();
        if let Some(present) = state.present.get_mut(shard) {
            *present = present.saturating_sub(1);
        }
        state.position
    }

    /// A message of so many bytes is dealt with by `shard`.
    pub fn settle(&self, shard: usize, bytes: usize) {
        if let Some(backlog) = self.lock().backlogs.get_mut(shard) {
            backlog.messages = backlog.messages.saturating_sub(1);
            backlog.bytes = backlog.bytes.saturating_sub(bytes);
        }
    }

    /// Locks the order, to give a message its place or to give up before it has one.
    pub fn order(self: &Arc<Self>) -> Order<'_> {
        Order { realm: self, state: self.lock() }
    }

    /// Adds what became of one message.
    pub fn count(&self, counts: Counts) {
        let Counters { matched, queued, dropped, replaced, .. } = &self.counters;
        let counted = [counts.matched, counts.queued, counts.dropped, counts.replaced];
        // Most are 0, and even adding nothing would take the counters from the other workers.
        let counters = [matched, queued, dropped, replaced].into_iter().zip(counted);
        counters
            .filter(|(_, more)| *more > 0)
            .for_each(|(counter, more)| _ = counter.fetch_add(more, Relaxed));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Order<'_> {
    /// Whether `shard` has a connection of this instance.
    pub fn has_someone_on(&self, shard: usize) -> bool {
        self.state.present.get(shard).is_some_and(|present| *present > 0)
    }

    /// What waits for `shard` of this instance's messages.
    pub fn backlog(&self, shard: usize) -> Backlog {
        self.state.backlogs.get(shard).copied().unwrap_or_default()
    }

    /// One more message waits for `shard`.
    pub fn add_backlog(&mut self, shard: usize, bytes: usize) {
        if self.state.backlogs.len() <= shard {
            self.state.backlogs.resize(shard + 1, Backlog::default());
        }
        self.state.backlogs[shard].messages += 1;
        self.state.backlogs[shard].bytes += bytes;
    }

    /// Whether nobody is connected whom one of `audiences` could mean: all of them are users, and
    /// none has a seat, which is taken before a connection is registered and given back after it
    /// has left.
    pub fn is_without(&self, audiences: &[Audience]) -> bool {
        let is_away = |audience: &Audience| match audience {
            Audience::User(user) => !self.state.seats_of.contains_key(user),
            _ => false,
        };
        audiences.iter().all(is_away)
    }

    /// Whose order it is.
    pub fn realm(&self) -> &Arc<Realm> {
        self.realm
    }

    /// The place that the next message gets.
    pub fn next(&self) -> Cursor {
        Cursor { epoch: self.realm.epoch, position: self.state.position + 1 }
    }

    /// Gives that place away, and keeps the message unless it is live only; see [`History::push`].
    pub fn advance(&mut self, entry: Option<Entry>, now: Instant) -> Option<Arc<Entry>> {
        let position = self.state.position + 1;
        (self.state.position, self.state.used) = (position, now);
        self.realm.counters.messages.fetch_add(1, Relaxed);
        self.state.history.push(position, entry, now)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.realm.lock();
        state.seats = state.seats.saturating_sub(1);
        let left = state.seats_of.get_mut(&self.user).map(|seats| {
            *seats = seats.saturating_sub(1);
            *seats
        });
        if left == Some(0) {
            state.seats_of.remove(&self.user);
        }
        if state.seats_of.capacity() > 64 && state.seats_of.len() * 4 < state.seats_of.capacity() {
            state.seats_of.shrink_to_fit();
        }
    }
}

#[cfg(test)]
impl Realm {
    /// A realm in epoch 1 with a wide window.
    pub fn fresh(instance: &str) -> Self {
        let bounds = super::history::HistoryBounds::WIDE;
        let history = History::new(bounds, 0, Arc::default());
        let repeats = Repeats::new(bounds.window, 1_000, Arc::default());
        let traces = Traces::new(super::traces::TraceBounds::WIDE, Arc::default());
        Self::new(InstanceId::new(instance).unwrap(), 1, Memory { history, repeats, traces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_end_at_the_limits_of_user_and_instance_and_come_back() {
        let realm = Arc::new(Realm::fresh("demo"));
        let limits = Limits { connections: 3, connections_per_user: 2, ..Limits::default() };
        let user = |id: &str| UserId::new(id).unwrap();
        let first = realm.take_seat(&user("a"), &limits).unwrap();
        let second = realm.take_seat(&user("a"), &limits).unwrap();
        assert_eq!(realm.take_seat(&user("a"), &limits).unwrap_err(), NoSeat::User { limit: 2 });
        let third = realm.take_seat(&user("b"), &limits).unwrap();
        assert_eq!(
            realm.take_seat(&user("c"), &limits).unwrap_err(),
            NoSeat::Instance { limit: 3 }
        );
        drop((first, second, third));
        assert_eq!(realm.connections(), 0);
        assert!(realm.lock().seats_of.is_empty());
        assert!(realm.take_seat(&user("a"), &limits).is_ok());
    }

    #[test]
    fn only_users_without_a_seat_are_known_to_be_away() {
        let realm = Arc::new(Realm::fresh("demo"));
        let [alice, bob] = ["alice", "bob"].map(|user| Audience::User(UserId::new(user).unwrap()));
        let seat = realm.take_seat(&UserId::new("alice").unwrap(), &Limits::default()).unwrap();
        assert!(realm.order().is_without(std::slice::from_ref(&bob)));
        assert!(
            !realm.order().is_without(&[bob, alice.clone()])
                && !realm.order().is_without(&[Audience::All])
        );
        drop(seat);
        assert!(realm.order().is_without(&[alice]));
    }

    #[test]
    fn what_is_published_after_arriving_lies_behind_the_cursor() {
        let realm = Arc::new(Realm::fresh("demo"));
        let user = UserId::new("a").unwrap();
        let who = Listener { audiences: &[Audience::All], user: &user };
        realm.order().advance(None, Instant::now());
        assert_eq!(realm.arrive(3, None, who).cursor.position, 1);
        let mut order = realm.order();
        assert!(order.has_someone_on(3) && !order.has_someone_on(0));
        assert_eq!(order.next().position, 2);
        order.advance(None, Instant::now());
        drop(order);
        assert_eq!(realm.cursor().position, 2);
        for (since, outcome) in [(2, Ok(0)), (1, Ok(0)), (3, Err(Loss::Epoch))] {
            let since = Some(Some(Cursor { epoch: 1, position: since }));
            assert_eq!(
                realm.arrive(0, since, who).missed.map(|missed| missed.map(|missed| missed.len())),
                Some(outcome)
            );
        }
        for foreign in [None, Some(Cursor { epoch: 2, position: 1 })] {
            assert_eq!(
                realm.arrive(0, Some(foreign), who).missed.and_then(Result::err),
                Some(Loss::Epoch)
            );
        }
        realm.leave(3);
        assert!(!realm.order().has_someone_on(3));
    }
}
