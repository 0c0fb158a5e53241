//! In which order the instances of one worker take their turns.

use crate::domain::instance::InstanceId;
use std::collections::VecDeque;

/// Which turn an instance takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first since it had nothing to do.
    First,
    /// Another one: the last was too short.
    Another,
}

/// The instances that wait for a turn, each once. One that had nothing to do waits for one turn of
/// the others at most, and for those who came before it: whoever has little to do is soon done. But
/// of two turns one is always another one, so that nobody who has much to do waits for ever.
#[derive(Debug, Default)]
pub struct Line {
    first: VecDeque<InstanceId>,
    another: VecDeque<InstanceId>,
    /// Whether the last turn was a first one.
    was_first: bool,
}

impl Line {
    /// An instance that is not in the line waits for its turn.
    pub fn join(&mut self, instance: InstanceId, turn: Turn) {
        match turn {
            Turn::First => self.first.push_back(instance),
            Turn::Another => self.another.push_back(instance),
        }
    }

    /// Whose turn it is, and which.
    pub fn next(&mut self) -> Option<(InstanceId, Turn)> {
        self.was_first = !self.first.is_empty() && (!self.was_first || self.another.is_empty());
        match self.was_first {
            true => self.first.pop_front().map(|instance| (instance, Turn::First)),
            false => self.another.pop_front().map(|instance| (instance, Turn::Another)),
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
        let mut line = Line::default();
        assert_eq!((line.next(), line.is_empty()), (None, true));
        (0..3).for_each(|number| line.join(id(number), Turn::Another));
        (3..8).for_each(|number| line.join(id(number), Turn::First));
        let turns: Vec<_> = std::iter::from_fn(|| line.next()).collect();
        let expected = [3, 0, 4, 1, 5, 2, 6, 7];
        let of = |number| (id(number), if number < 3 { Turn::Another } else { Turn::First });
        assert_eq!(turns, expected.map(of));
        assert!(line.is_empty());
    }

    #[test]
    fn those_who_come_again_and_again_let_the_others_go_on() {
        let mut line = Line::default();
        line.join(id(0), Turn::Another);
        let mut turns = Vec::new();
        for number in 1..=20 {
            line.join(id(number), Turn::First);
            let (instance, turn) = line.next().unwrap();
            if turn == Turn::Another {
                line.join(instance, turn);
            }
            turns.push(turn);
        }
        assert_eq!(turns.iter().filter(|turn| **turn == Turn::Another).count(), 10);
    }
}
