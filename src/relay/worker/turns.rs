//! Who is served when: the instances of one worker take turns, and a turn is short whatever an
//! instance asks for.

use crate::catalog::Snapshot;
use crate::domain::instance::InstanceId;
use crate::relay::queue::Dispatch;
use crate::relay::settings::ConnectionBounds;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Most slices that a turn counts for: what takes longer was not the rules' doing.
const MOST_SLICES: u64 = 1_000;

/// One turn of one room: what it has at hand.
pub(crate) struct Turn<'a> {
    /// Which turn it is.
    pub kind: TurnKind,
    /// When it began.
    pub start: Instant,
    /// The newest picture of all instances: nobody is told of one that is past.
    pub snapshot: &'a Snapshot,
    /// Of every connection.
    pub bounds: ConnectionBounds,
    /// What all workers count.
    pub counts: &'a WorkerCounts,
    /// Gives back what a message took of the worker's queue.
    pub release: &'a dyn Fn(&Dispatch),
}

/// What all workers count, since the start.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounts {
    /// How often a rule or a filter was evaluated.
    pub evaluations: AtomicU64,
    /// Connections that were closed since what is heard took more than it may.
    pub shed: AtomicU64,
}

impl Turn<'_> {
    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        self.start.elapsed() >= self.bounds.slice
    }

    /// When its time is over.
    pub fn end(&self) -> Instant {
        self.start + self.bounds.slice
    }

    /// When half of its time is over.
    pub fn half(&self) -> Instant {
        self.start + self.bounds.slice / 2
    }
}

/// Which turn an instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnKind {
    /// The first since it had nothing to do.
    First,
    /// Another one: the last was too short.
    Another,
}

/// The instances that wait for a turn, each once. One that had nothing to do waits for one turn of
/// the others at most, and for those who came before it: whoever has little to do is soon done. But
/// of two turns one is always another one, so that nobody who has much to do waits for ever. Other
/// turns are shared by the time that they take: where one rule or filter took longer than a turn
/// should, the others come first until they had as much (start-time fair queueing).
#[derive(Debug, Default)]
pub(crate) struct Turns {
    first: VecDeque<InstanceId>,
    /// By the time, in slices, that the others have each had before, and by who came first.
    another: BTreeMap<(u64, u64), InstanceId>,
    /// The time of the last turn.
    time: u64,
    /// How many have joined `another`.
    joined: u64,
    /// Whether the last turn was a first one.
    was_first: bool,
}

impl Turns {
    /// An instance that had nothing to do waits for its first turn.
    pub fn join(&mut self, instance: InstanceId) {
        self.first.push_back(instance);
    }

    /// One whose turn was the last, and too short, waits for another. It took so many slices of
    /// time.
    pub fn join_again(&mut self, instance: InstanceId, slices: u64) {
        self.joined += 1;
        let time = self.time.saturating_add(slices.clamp(1, MOST_SLICES));
        self.another.insert((time, self.joined), instance);
    }

    /// Whose turn it is, and which.
    pub fn next(&mut self) -> Option<(InstanceId, TurnKind)> {
        self.was_first = !self.first.is_empty() && (!self.was_first || self.another.is_empty());
        if self.was_first {
            return self.first.pop_front().map(|instance| (instance, TurnKind::First));
        }
        let ((time, _), instance) = self.another.pop_first()?;
        self.time = time;
        Some((instance, TurnKind::Another))
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.another.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> InstanceId {
        InstanceId::new(format!("instance-{number}")).unwrap()
    }

    #[test]
    fn first_turns_come_next_and_every_other_turn_is_another_one() {
        let mut line = Turns::default();
        assert_eq!((line.next(), line.is_empty()), (None, true));
        (0..3).for_each(|number| line.join_again(id(number), 1));
        (3..8).for_each(|number| line.join(id(number)));
        let turns: Vec<_> = std::iter::from_fn(|| line.next()).collect();
        let expected = [3, 0, 4, 1, 5, 2, 6, 7];
        let of =
            |number| (id(number), if number < 3 { TurnKind::Another } else { TurnKind::First });
        assert_eq!(turns, expected.map(of));
        assert!(line.is_empty());
    }

    #[test]
    fn those_who_come_again_and_again_let_the_others_go_on() {
        let mut line = Turns::default();
        line.join_again(id(0), 1);
        let mut turns = Vec::new();
        for number in 1..=20 {
            line.join(id(number));
            let (instance, turn) = line.next().unwrap();
            if turn == TurnKind::Another {
                line.join_again(instance, 1);
            }
            turns.push(turn);
        }
        assert_eq!(turns.iter().filter(|turn| **turn == TurnKind::Another).count(), 10);
    }

    #[test]
    fn turns_are_shared_by_the_time_that_they_took() {
        let (mut line, mut taken) = (Turns::default(), [0u64; 3]);
        (0..3).for_each(|number| line.join_again(id(number), 1));
        for _ in 0..1_300 {
            let (instance, _) = line.next().unwrap();
            let number = (0..3).find(|number| id(*number) == instance).unwrap();
            taken[number] += 1;
            // The first takes ten times as long as it should.
            line.join_again(instance, if number == 0 { 10 } else { 1 });
        }
        let heavy = taken[0] * 10;
        assert!(taken[1].abs_diff(taken[2]) <= 1 && heavy.abs_diff(taken[1]) < 100, "{taken:?}");
    }

    #[test]
    fn one_that_took_long_and_waits_alone_goes_on() {
        let mut line = Turns::default();
        line.join_again(id(0), u64::MAX);
        assert_eq!(line.next(), Some((id(0), TurnKind::Another)));
    }
}
