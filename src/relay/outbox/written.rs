//! What is remembered of one connection's outbox, so that it can be said what became of a message:
//! little, and bounded.

use crate::relay::close::Close;
use std::collections::VecDeque;

/// Times that are remembered; one stands for everything that was written within its millisecond.
pub const MAX_MARKS: usize = 16;
/// Messages that were replaced and are remembered.
pub const MAX_REPLACED: usize = 64;

/// The newest of what one connection was handed, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Oldest first.
    marks: VecDeque<Mark>,
    /// Whether there were marks before the oldest.
    has_forgotten: bool,
    /// Positions, in the order in which they were replaced: of several channels not that of the
    /// messages.
    replaced: VecDeque<u64>,
    /// The greatest position of those that were replaced and are no longer remembered.
    forgotten_replaced_to: Option<u64>,
    /// Of the message that had no room.
    refused: Option<u64>,
    /// How it was told to go; none while it is open, and for one that broke.
    closed: Option<CloseRecord>,
}

/// Messages behind the mark before and up to this position were handed to the socket then.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: u64,
    /// Milliseconds since the Unix epoch.
    at_ms: i64,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseRecord {
    /// Its code and reason.
    pub close: Close,
    /// When that was decided, in milliseconds since the Unix epoch; nothing is queued after it.
    pub at_ms: i64,
}

/// When a message was written, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Then.
    At(i64),
    /// Then or before: more exact times are no longer kept.
    By(i64),
}

impl Record {
    /// A message was handed to the socket. Positions grow.
    pub fn write(&mut self, position: u64, at_ms: i64) {
        if let Some(last) = self.marks.back_mut().filter(|last| last.at_ms == at_ms) {
            last.position = position;
            return;
        }
        self.has_forgotten |=
            push_bounded(&mut self.marks, Mark { position, at_ms }, MAX_MARKS).is_some();
    }

    /// Newer messages took the places of these.
    pub fn replace(&mut self, positions: &[u64]) {
        for position in positions {
            let forgotten = push_bounded(&mut self.replaced, *position, MAX_REPLACED);
            self.forgotten_replaced_to = self.forgotten_replaced_to.max(forgotten);
        }
    }

    /// A message had no room.
    pub fn refuse(&mut self, position: u64) {
        self.refused = Some(position);
    }

    /// The connection is told to go.
    pub fn end(&mut self, close: Close, at_ms: i64) {
        self.closed = Some(CloseRecord { close, at_ms });
    }

    /// When a message that was for the connection was written; none if it was not.
    pub fn written(&self, position: u64) -> Option<When> {
        let index = self.marks.partition_point(|mark| mark.position < position);
        let mark = self.marks.get(index)?;
        Some(if index == 0 && self.has_forgotten {
            When::By(mark.at_ms)
        } else {
            When::At(mark.at_ms)
        })
    }

    /// Whether a newer message took this one's place.
    pub fn was_replaced(&self, position: u64) -> bool {
        self.replaced.contains(&position)
    }

    /// Whether a newer message may have taken this one's place: what was replaced so early is no
    /// longer remembered.
    pub fn may_be_replaced(&self, position: u64) -> bool {
        self.forgotten_replaced_to.is_some_and(|to| position <= to)
    }

    /// The message that had no room, by its position.
    pub fn refused(&self) -> Option<u64> {
        self.refused
    }

    /// How it was told to go.
    pub fn closed(&self) -> Option<&CloseRecord> {
        self.closed.as_ref()
    }
}

/// What had to give way.
fn push_bounded<T>(ring: &mut VecDeque<T>, item: T, most: usize) -> Option<T> {
    let gone = if ring.len() >= most { ring.pop_front() } else { None };
    ring.push_back(item);
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_while_they_are_kept_and_then_a_bound() {
        let mut record = Record::default();
        let (at, by) = (|ms| Some(When::At(ms)), |ms| Some(When::By(ms)));
        assert_eq!(record.written(1), None);
        for number in 1..=MAX_MARKS as u64 {
            record.write(number * 10 - 5, number as i64);
            record.write(number * 10, number as i64);
        }
        assert_eq!(
            (record.written(1), record.written(10), record.written(11)),
            (at(1), at(1), at(2))
        );
        assert_eq!((record.written(160), record.written(161)), (at(16), None));
        record.write(170, 17);
        assert_eq!(
            (record.written(1), record.written(20), record.written(21)),
            (by(2), by(2), at(3))
        );
        assert_eq!(record.marks.len(), MAX_MARKS);
    }

    #[test]
    fn the_last_replaced_messages_are_remembered() {
        let mut record = Record::default();
        record.replace(&(1..=MAX_REPLACED as u64).collect::<Vec<_>>());
        assert!(
            record.was_replaced(1)
                && record.was_replaced(MAX_REPLACED as u64)
                && !record.may_be_replaced(0)
        );
        record.replace(&[1_000]);
        assert!(!record.was_replaced(1) && record.was_replaced(2) && record.was_replaced(1_000));
        assert!(record.may_be_replaced(1) && !record.may_be_replaced(2));
    }

    #[test]
    fn what_another_channel_replaced_late_hides_nothing_that_is_forgotten() {
        let mut record = Record::default();
        // One channel's messages up to 150, the other's first message, replaced after them.
        record.replace(&(10..=150).collect::<Vec<_>>());
        record.replace(&[5]);
        record.replace(&(151..=213).collect::<Vec<_>>());
        let forgotten = (10..=150).filter(|position| !record.was_replaced(*position));
        assert!(forgotten.clone().count() > 0);
        assert!(forgotten.clone().all(|position| record.may_be_replaced(position)));
        assert!(!record.may_be_replaced(214));
    }
}
