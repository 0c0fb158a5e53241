//! Everything that a window keeps, oldest first: entries with numbers that have no gaps, at
//! positions that have.

use crate::relay::frame::Frame;
use std::collections::VecDeque;
use std::time::Instant;

/// Bytes that an entry is counted with beyond its frame and its head's texts; generous, so that the
/// bound holds for small messages too.
const ENTRY_BYTES: usize = 384;

/// The entries of one window. A number tells the entry's slot.
#[derive(Debug)]
pub(crate) struct Entries {
    /// Oldest first.
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    first: u64,
    /// What all of it is counted with.
    bytes: usize,
    /// How many messages with a filter there are.
    filtered: usize,
    /// The newest position that was kept and is no more.
    gone_to: u64,
}

#[derive(Debug)]
struct Slot {
    position: u64,
    /// None once nobody needs the message any more.
    entry: Option<Entry>,
}

/// One message that is kept.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The message.
    pub frame: Frame,
    /// When it leaves the window.
    pub kept_until: Instant,
    /// Audiences that still hold it; 0 for one that is kept for workers alone.
    pub held_by: usize,
    /// What it is counted with.
    bytes: usize,
}

impl Entry {
    /// A message that so many audiences hold.
    pub fn new(frame: Frame, kept_until: Instant, held_by: usize) -> Self {
        let texts = frame.head().map_or(0, |head| head.text_bytes());
        let bytes = ENTRY_BYTES + frame.wire_bytes() + texts;
        Self { frame, kept_until, held_by, bytes }
    }

    /// 1 where the message has a filter.
    fn filters(&self) -> usize {
        usize::from(self.frame.head().is_some_and(|head| head.reach.filter.is_some()))
    }
}

impl Entries {
    /// None yet, of an order that stands at `position`.
    pub fn new(position: u64) -> Self {
        Self { slots: VecDeque::new(), first: 0, bytes: 0, filtered: 0, gone_to: position }
    }

    /// What all of it is counted with.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages with a filter there are.
    pub fn filtered(&self) -> usize {
        self.filtered
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds an entry at a position beyond all before; its number.
    pub fn push(&mut self, position: u64, entry: Entry) -> u64 {
        debug_assert!(self.slots.back().is_none_or(|slot| slot.position < position));
        self.bytes += entry.bytes;
        self.filtered += entry.filters();
        self.slots.push_back(Slot { position, entry: Some(entry) });
        self.first + self.slots.len() as u64 - 1
    }

    /// The position of a number that is kept.
    pub fn position_of(&self, number: u64) -> u64 {
        self.slot(number).map_or(0, |slot| slot.position)
    }

    /// The message of a number that is kept.
    pub fn frame_of(&self, number: u64) -> Option<&Frame> {
        self.slot(number)?.entry.as_ref().map(|entry| &entry.frame)
    }

    /// The oldest entry with its number; none where the first slot is empty or there is none.
    pub fn first(&self) -> Option<(u64, &Entry)> {
        Some((self.first, self.slots.front()?.entry.as_ref()?))
    }

    /// One audience less holds a message. The last one leaves its slot empty, and is given it to
    /// let go of.
    pub fn release(&mut self, number: u64) -> Option<Frame> {
        let slot = self.slots.get_mut((number - self.first) as usize)?;
        let entry = slot.entry.as_mut()?;
        entry.held_by = entry.held_by.saturating_sub(1);
        let entry = slot.entry.take_if(|entry| entry.held_by == 0)?;
        self.gone_to = self.gone_to.max(slot.position);
        self.bytes -= entry.bytes;
        self.filtered -= entry.filters();
        Some(entry.frame)
    }

    /// Takes the first slot away, with what is in it.
    pub fn pop_first(&mut self) -> Option<Entry> {
        let slot = self.slots.pop_front()?;
        self.first += 1;
        if self.slots.capacity() > 1_024 && self.slots.len() * 4 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() * 2);
        }
        let entry = slot.entry?;
        self.gone_to = self.gone_to.max(slot.position);
        self.bytes -= entry.bytes;
        self.filtered -= entry.filters();
        Some(entry)
    }

    /// Takes empty slots off the beginning.
    pub fn pop_empty(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.entry.is_none()) {
            self.pop_first();
        }
    }

    /// Empties the slots that are kept for workers alone; all workers have passed them.
    pub fn forget_for_workers(&mut self) {
        for slot in &mut self.slots {
            if let Some(entry) = slot.entry.take_if(|entry| entry.held_by == 0) {
                self.bytes -= entry.bytes;
                self.filtered -= entry.filters();
            }
        }
        self.pop_empty();
    }

    /// Everything kept behind a position. Errors: the newest position that is no more, where
    /// something behind it is not.
    pub fn behind(&self, position: u64) -> Result<impl Iterator<Item = (u64, &Frame)>, u64> {
        if self.gone_to > position {
            return Err(self.gone_to);
        }
        Ok(self.kept_behind(position))
    }

    /// What is still kept of what lies behind a position.
    pub fn kept_behind(&self, position: u64) -> impl Iterator<Item = (u64, &Frame)> {
        let slots = self.slots.range(self.index_behind(position)..);
        slots.filter_map(|slot| Some((slot.position, &slot.entry.as_ref()?.frame)))
    }

    /// Everything kept, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }

    /// How many slots lie behind a position.
    pub fn index_behind(&self, position: u64) -> usize {
        self.slots.partition_point(|slot| slot.position <= position)
    }

    fn slot(&self, number: u64) -> Option<&Slot> {
        self.slots.get(number.checked_sub(self.first)? as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cursor::Cursor;
    use crate::domain::message::{Author, Exclusion, Message, Reach};
    use crate::domain::principal::UserId;
    use crate::relay::sealed::Sealed;
    use std::sync::Arc;

    /// Whom a message leaves out, and the publisher's component, are kept with it.
    #[test]
    fn what_is_kept_of_a_message_beside_its_bytes_is_counted() {
        let bytes = |message: Message| {
            let cursor = Cursor { epoch: 1, position: 1 };
            let (head, frame) = Sealed::new(message, None).place(cursor, None, 0);
            let wire = frame.wire_bytes();
            let mut entries = Entries::new(0);
            entries.push(1, Entry::new(frame, Instant::now(), 1));
            (entries.bytes() - wire, head.bytes())
        };
        let plain = Message::of_a_test("1");
        let (entry, head) = bytes(Message::of_a_test("1"));
        let component = Some("c".repeat(10_000).into());
        let author = Author { user: plain.author.user.clone(), component };
        let users = (0..100).map(|number| UserId::new(format!("{number:0>128}")).unwrap());
        let exclude = Exclusion { users: users.collect(), connections: vec![] };
        let reach = Reach { exclude, ..Reach::clone(&plain.reach) };
        let large = Message { author: author.into(), reach: Arc::new(reach), ..plain };
        let (large_entry, large_head) = bytes(large);
        assert!(large_entry >= entry + 10_000 + 12_800, "{large_entry} and {entry}");
        assert!(large_head >= head + 10_000 + 12_800, "{large_head} and {head}");
    }
}
