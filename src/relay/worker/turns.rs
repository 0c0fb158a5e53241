//! Who is served when: the instances of one worker take turns, and a turn is short whatever an
//! instance asks for.

use crate::catalog::Snapshot;
use crate::domain::instance::InstanceId;
use crate::relay::queue::Dispatch;
use crate::relay::settings::ConnectionBounds;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// How long one turn may authorize, answer and deliver before it is another's.
const SLICE: Duration = Duration::from_micros(250);

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
    /// Where evaluations are counted.
    pub evaluations: &'a AtomicU64,
    /// Gives back what a message took of the worker's queue.
    pub release: &'a dyn Fn(&Dispatch),
}

impl Turn<'_> {
    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        self.start.elapsed() >= SLICE
    }

    /// When its time is over.
    pub fn end(&self) -> Instant {
        self.start + SLICE
    }

    /// When half of its time is over.
    pub fn half(&self) -> Instant {
        self.start + SLICE / 2
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
/// of two turns one is always another one, so that nobody who has much to do waits for ever.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    first: VecDeque<InstanceId>,
    another: VecDeque<InstanceId>,
    /// Whether the last turn was a first one.
    was_first: bool,
}

impl Turns {
    /// An instance that is not in the line waits for its turn.
    pub fn join(&mut self, instance: InstanceId, turn: TurnKind) {
        match turn {
            TurnKind::First => self.first.push_back(instance),
            TurnKind::Another => self.another.push_back(instance),
        }
    }

    /// Whose turn it is, and which.
    pub fn next(&mut self) -> Option<(InstanceId, TurnKind)> {
        self.was_first = !self.first.is_empty() && (!self.was_first || self.another.is_empty());
        match self.was_first {
            true => self.first.pop_front().map(|instance| (instance, TurnKind::First)),
            false => self.another.pop_front().map(|instance| (instance, TurnKind::Another)),
        }
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
        (0..3).for_each(|number| line.join(id(number), TurnKind::Another));
        (3..8).for_each(|number| line.join(id(number), TurnKind::First));
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
        line.join(id(0), TurnKind::Another);
        let mut turns = Vec::new();
        for number in 1..=20 {
            line.join(id(number), TurnKind::First);
            let (instance, turn) = line.next().unwrap();
            if turn == TurnKind::Another {
                line.join(instance, turn);
            }
            turns.push(turn);
        }
        assert_eq!(turns.iter().filter(|turn| **turn == TurnKind::Another).count(), 10);
    }
}
