//! One message on its way to the outboxes of a room, some at each of the room's turns.

use super::turns::Turn;
use crate::relay::member::{Key, Member};
use crate::relay::outbox::Wake;
use crate::relay::progress::Counts;
use crate::relay::queue::Dispatch;
use slab::Slab;
use std::collections::VecDeque;

/// How many receivers are served between two looks at the clock.
const STRIDE: usize = 64;
/// Above so many places an empty list of a room gives its memory back.
pub const QUEUED: usize = 64;

/// The message that is being delivered, and how far.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    /// Whom it is still for.
    left: Vec<Key>,
    /// What became of it at the others.
    counts: Counts,
    /// The room's changes when it was last looked whom it is for; none until then.
    looked_at: Option<u64>,
}

impl UnderWay {
    /// Whether it is known whom the message is for, and nothing has changed since.
    pub fn is_known_at(&self, changes: u64) -> bool {
        self.looked_at == Some(changes)
    }

    /// Whom the message is for, some of them perhaps twice. Those who have it already may be among
    /// them: they are stamped.
    pub fn look(&mut self, receivers: impl Iterator<Item = Key>, changes: u64) {
        self.left.clear();
        self.left.extend(receivers);
        self.looked_at = Some(changes);
    }

    /// Queues a message for those it is still for, a reference each, until the turn is over; those
    /// whose sockets are to be woken in turn go to `unwoken`. What became of it at everyone, when
    /// nobody is left.
    pub fn deliver(
        &mut self,
        dispatch: &Dispatch,
        members: &mut Slab<Member>,
        unwoken: &mut VecDeque<Key>,
        turn: &Turn<'_>,
    ) -> Option<Counts> {
        let Some(head) = dispatch.frame.head() else { return Some(self.end()) };
        while !self.left.is_empty() {
            for key in self.left.drain(self.left.len().saturating_sub(STRIDE)..) {
                let Some(member) = members.get_mut(key) else { continue };
                // Another connection may have the key by now: the message is no news for it, or
                // not its instance's.
                if member.timeline.epoch() != dispatch.share.epoch || !member.wants(head) {
                    continue;
                }
                // Stamps the receiver, so that a second audience skips it.
                member.position = head.cursor.position;
                let outbox = &member.link.outbox;
                let (pushed, wake) =
                    outbox.push_message(&dispatch.frame, turn.bounds.outbox, turn.start);
                self.counts += pushed.counts();
                if wake == Wake::Due && !member.link.waits_for_turn.replace(true) {
                    unwoken.push_back(key);
                }
            }
            if !self.left.is_empty() && turn.is_over() {
                return None;
            }
        }
        Some(self.end())
    }

    /// Nobody is left. Gives the memory back that was needed for many.
    fn end(&mut self) -> Counts {
        if self.left.capacity() > QUEUED {
            self.left = Vec::new();
        }
        self.looked_at = None;
        std::mem::take(&mut self.counts)
    }
}
