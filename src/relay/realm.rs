//! What the relay keeps for one instance across all workers: the order of its messages, who is present, what was counted.

use super::shard::Counts;
use crate::domain::cursor::Cursor;
use crate::domain::instance::{InstanceId, Limits};
use crate::domain::principal::UserId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One instance's state; shared by reference.
#[derive(Debug)]
pub struct Realm {
    /// Which instance.
    pub instance: InstanceId,
    /// Drawn at random when the relay first meets the instance.
    epoch: u64,
    /// The order and the population; held for a few instructions, never across an `.await`.
    state: Mutex<State>,
    /// What happened, for the metrics.
    pub counters: Counters,
}

#[derive(Debug, Default)]
struct State {
    /// Of the newest message.
    position: u64,
    /// Registered connections by shard; an index beyond the end counts as 0.
    present: Vec<u32>,
    /// Seats taken: connections that are registered or about to be.
    seats: u32,
    /// Seats taken by user; a user without one is not in the map.
    seats_of: HashMap<UserId, u32>,
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
    realm: &'a Realm,
    state: MutexGuard<'a, State>,
}

impl Realm {
    /// A realm whose order begins at 0 in this epoch.
    pub fn new(instance: InstanceId, epoch: u64) -> Self {
        Self { instance, epoch, state: Mutex::default(), counters: Counters::default() }
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

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        u64::from(self.lock().seats)
    }

    /// Position of the newest message.
    pub fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, position: self.lock().position }
    }

    /// Counts one more connection on `shard`. Every message behind the returned cursor is sent to that shard.
    pub fn arrive(&self, shard: usize) -> Cursor {
        let mut state = self.lock();
        if state.present.len() <= shard {
            state.present.resize(shard + 1, 0);
        }
        state.present[shard] += 1;
        Cursor { epoch: self.epoch, position: state.position }
    }

    /// Takes back one `arrive`.
    pub fn leave(&self, shard: usize) {
        if let Some(present) = self.lock().present.get_mut(shard) {
            *present = present.saturating_sub(1);
        }
    }

    /// Locks the order, to give a message its place or to give up before it has one.
    pub fn order(&self) -> Order<'_> {
        Order { realm: self, state: self.lock() }
    }

    /// Adds what became of one message.
    pub fn count(&self, counts: Counts) {
        self.counters.matched.fetch_add(counts.matched, Relaxed);
        self.counters.queued.fetch_add(counts.queued, Relaxed);
        self.counters.dropped.fetch_add(counts.dropped, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Order<'_> {
    /// Whether `shard` has a connection of this instance.
    pub fn has_someone_on(&self, shard: usize) -> bool {
        self.state.present.get(shard).is_some_and(|present| *present > 0)
    }

    /// The place that the next message gets.
    pub fn next(&self) -> Cursor {
        Cursor { epoch: self.realm.epoch, position: self.state.position + 1 }
    }

    /// Gives that place away.
    pub fn advance(&mut self) {
        self.state.position += 1;
        self.realm.counters.messages.fetch_add(1, Relaxed);
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
mod tests {
    use super::*;

    #[test]
    fn seats_end_at_the_limits_of_user_and_instance_and_come_back() {
        let realm = Arc::new(Realm::new(InstanceId::new("demo").unwrap(), 1));
        let limits = Limits { connections: 3, connections_per_user: 2, ..Limits::default() };
        let user = |id: &str| UserId::new(id).unwrap();
        let first = realm.take_seat(&user("a"), &limits).unwrap();
        let second = realm.take_seat(&user("a"), &limits).unwrap();
        assert_eq!(realm.take_seat(&user("a"), &limits).unwrap_err(), NoSeat::User { limit: 2 });
        let third = realm.take_seat(&user("b"), &limits).unwrap();
        assert_eq!(realm.take_seat(&user("c"), &limits).unwrap_err(), NoSeat::Instance { limit: 3 });
        drop((first, second, third));
        assert_eq!(realm.connections(), 0);
        assert!(realm.lock().seats_of.is_empty());
        assert!(realm.take_seat(&user("a"), &limits).is_ok());
    }

    #[test]
    fn what_is_published_after_arriving_lies_behind_the_cursor() {
        let realm = Realm::new(InstanceId::new("demo").unwrap(), 1);
        assert!(!realm.order().has_someone_on(3));
        realm.order().advance();
        assert_eq!(realm.arrive(3).position, 1);
        let mut order = realm.order();
        assert!(order.has_someone_on(3) && !order.has_someone_on(0));
        assert_eq!(order.next().position, 2);
        order.advance();
        drop(order);
        assert_eq!(realm.cursor().position, 2);
        realm.leave(3);
        assert!(!realm.order().has_someone_on(3));
    }
}
