//! Who is connected where, as plain data: its timeline keeps it under its lock.

use super::queue::Share;
use crate::domain::audience::Audience;
use crate::domain::instance::{InstanceId, Limits};
use crate::domain::principal::UserId;
use ahash::RandomState;
use std::collections::HashMap;
use std::sync::Arc;

/// Connections of one instance.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    /// By worker; an index beyond the end has nobody.
    workers: Vec<AtWorker>,
    /// Seats taken: connections that are registered or about to be.
    taken: u32,
    /// Seats taken by user; a user without one is not in the map.
    by_user: HashMap<UserId, u32, RandomState>,
}

#[derive(Debug)]
struct AtWorker {
    /// Registered connections.
    registered: u32,
    /// What the instance takes of the worker's queue.
    share: Arc<Share>,
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

impl Seats {
    /// Takes a seat. Errors: `NoSeat`, when the instance or the user has all it may.
    pub fn take(&mut self, user: &UserId, limits: &Limits) -> Result<(), NoSeat> {
        if self.taken >= limits.connections {
            return Err(NoSeat::Instance { limit: limits.connections });
        }
        let seats = self.by_user.entry(user.clone()).or_default();
        if *seats >= limits.connections_per_user {
            return Err(NoSeat::User { limit: limits.connections_per_user });
        }
        *seats += 1;
        self.taken += 1;
        Ok(())
    }

    /// Gives a seat back.
    pub fn give_back(&mut self, user: &UserId) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(seats) = self.by_user.get_mut(user) {
            *seats = seats.saturating_sub(1);
            if *seats == 0 {
                self.by_user.remove(user);
            }
        }
        if self.by_user.capacity() > 64 && self.by_user.len() * 4 < self.by_user.capacity() {
            self.by_user.shrink_to_fit();
        }
    }

    /// Seats taken.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// One more connection is registered at a worker.
    pub fn arrive(&mut self, worker: usize, instance: &InstanceId, epoch: u64) {
        while self.workers.len() <= worker {
            let share = Arc::new(Share::new(instance.clone(), epoch));
            self.workers.push(AtWorker { registered: 0, share });
        }
        self.workers[worker].registered += 1;
    }

    /// One connection less is registered at a worker; how many are left there.
    pub fn leave(&mut self, worker: usize) -> u32 {
        let Some(at) = self.workers.get_mut(worker) else { return 0 };
        at.registered = at.registered.saturating_sub(1);
        at.registered
    }

    /// Workers with someone registered, and what the instance takes of their queues.
    pub fn occupied(&self) -> impl Iterator<Item = (usize, &Arc<Share>)> {
        let occupied = self.workers.iter().enumerate().filter(|(_, at)| at.registered > 0);
        occupied.map(|(worker, at)| (worker, &at.share))
    }

    /// What the instance takes of a worker's queue; none where nobody was ever registered.
    pub fn share(&self, worker: usize) -> Option<&Arc<Share>> {
        self.workers.get(worker).map(|at| &at.share)
    }

    /// Whether nobody is connected whom one of `audiences` could mean: all of them are users, and
    /// none has a seat, which is taken before a connection is registered and given back after it
    /// has left.
    pub fn are_without(&self, audiences: &[Audience]) -> bool {
        let is_away = |audience: &Audience| match audience {
            Audience::User(user) => !self.by_user.contains_key(user),
            _ => false,
        };
        audiences.iter().all(is_away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::new(id).unwrap()
    }

    #[test]
    fn seats_end_at_the_limits_of_user_and_instance_and_come_back() {
        let mut seats = Seats::default();
        let limits = Limits { connections: 3, connections_per_user: 2, ..Limits::default() };
        assert_eq!([seats.take(&user("a"), &limits), seats.take(&user("a"), &limits)], [Ok(()); 2]);
        assert_eq!(seats.take(&user("a"), &limits), Err(NoSeat::User { limit: 2 }));
        assert_eq!(seats.take(&user("b"), &limits), Ok(()));
        assert_eq!(seats.take(&user("c"), &limits), Err(NoSeat::Instance { limit: 3 }));
        ["a", "a", "b"].iter().for_each(|id| seats.give_back(&user(id)));
        assert_eq!((seats.taken(), seats.by_user.len()), (0, 0));
        assert_eq!(seats.take(&user("a"), &limits), Ok(()));
    }

    #[test]
    fn only_users_without_a_seat_are_known_to_be_away() {
        let mut seats = Seats::default();
        let [alice, bob] = ["alice", "bob"].map(|id| Audience::User(user(id)));
        seats.take(&user("alice"), &Limits::default()).unwrap();
        assert!(seats.are_without(std::slice::from_ref(&bob)));
        assert!(!seats.are_without(&[bob, alice.clone()]));
        assert!(!seats.are_without(&[Audience::All]));
        seats.give_back(&user("alice"));
        assert!(seats.are_without(&[alice]));
    }

    #[test]
    fn workers_are_occupied_while_someone_is_registered_there() {
        let (mut seats, instance) = (Seats::default(), InstanceId::new("demo").unwrap());
        let occupied = |seats: &Seats| seats.occupied().map(|(at, _)| at).collect::<Vec<_>>();
        seats.arrive(3, &instance, 1);
        seats.arrive(3, &instance, 1);
        seats.arrive(0, &instance, 1);
        assert_eq!(occupied(&seats), [0, 3]);
        assert_eq!((seats.leave(3), seats.leave(3), seats.leave(9)), (1, 0, 0));
        assert_eq!(occupied(&seats), [0]);
    }
}
