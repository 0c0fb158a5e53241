//! Who is served when: the instances of one worker take turns, and a turn is short whatever an
//! instance asks for.

use super::line::Turn;
use super::room::{Asking, Room};
use super::{Counts, Delivery, Key, Member, QUEUED, Shard};
use crate::catalog::Snapshot;
use crate::domain::instance::InstanceId;
use crate::relay::frame::Frame;
use crate::relay::outbox::JOINED_BYTES;
use crate::relay::queue::Parcel;
use chrono::Utc;
use slab::Slab;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one turn may judge, ask and deliver before it is another's.
const SLICE: Duration = Duration::from_micros(250);
/// How many receivers are served between two looks at the clock.
const STRIDE: usize = 64;
/// What the sockets of one turn may write together, at most `JOINED_BYTES` each, with what a write
/// costs beyond its bytes counted as bytes: so a turn's writes take about as long whether they are
/// many or large, some 250 microseconds.
const WRITTEN: usize = 128 * 1_024;
const A_WRITE: usize = 8 * 1_024;
/// The same in the first turn of an instance that had nothing to do: a message to a hundred goes
/// out in one, and does not wait for a turn of everyone else after every few.
const WRITTEN_FIRST: usize = 1_024 * 1_024;

/// The message that is being delivered, and how far.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// Whom it is still for.
    left: Vec<Key>,
    /// What became of it at the others.
    counts: Counts,
    /// The room's changes when it was last looked whom it is for; none until then.
    looked_at: Option<u64>,
}

impl UnderWay {
    /// Nobody is left. Gives the memory back that was needed for many.
    fn end(&mut self) -> Counts {
        if self.left.capacity() > QUEUED {
            self.left = Vec::new();
        }
        self.looked_at = None;
        std::mem::take(&mut self.counts)
    }
}

impl Shard {
    /// Takes messages that came by the worker's queue. Returns those for which nobody is here any
    /// more.
    pub fn take_in(&mut self, parcels: impl Iterator<Item = Arc<Parcel>>) -> Vec<Arc<Parcel>> {
        let mut unwanted = Vec::new();
        for parcel in parcels {
            match self.rooms.get_mut(&parcel.delivery.instance) {
                Some(room) => {
                    room.work.parcels.push_back(parcel.clone());
                    self.give_turn(&parcel.delivery.instance);
                }
                None => unwanted.push(parcel),
            }
        }
        unwanted
    }

    /// Marks every connection of the instances that `snapshot` shows otherwise than the last one:
    /// they are asked again. One that registers meanwhile is judged by a catalog at least as new.
    pub fn begin_judging(&mut self, snapshot: &Snapshot) {
        for instance in self.changed_since_last(snapshot) {
            if let Some(room) = self.rooms.get_mut(&instance) {
                room.work.unjudged = room.members.iter().copied().collect();
                self.give_turn(&instance);
            }
        }
    }

    /// A socket has something to write and wants its turn.
    pub fn call(&mut self, key: Key) {
        let Some(member) = self.members.get(key) else { return };
        if member.link.waits_for_turn.replace(true) {
            return;
        }
        let instance = member.realm.instance.clone();
        if let Some(room) = self.rooms.get_mut(&instance) {
            room.work.unwoken.push_back(key);
            self.give_turn(&instance);
        }
    }

    /// Whether an instance waits for its turn.
    pub fn has_turns(&self) -> bool {
        !self.line.is_empty()
    }

    /// Does a piece of work for the instance whose turn it is. What is dealt with is settled, and
    /// then reported: whoever is told of a message finds its place in the queue free. The turn
    /// begins at `start`.
    pub fn take_turn(
        &mut self,
        snapshot: &Snapshot,
        start: Instant,
        settle: &mut dyn FnMut(&Parcel),
    ) {
        let Some((instance, turn)) = self.line.next() else { return };
        if self.judge_some(&instance, snapshot, start) {
            self.deliver_some(&instance, start, settle);
        }
        self.wake_some(&instance, turn);
        let Some(room) = self.rooms.get_mut(&instance) else { return };
        if !room.work.is_done() {
            return self.line.join(instance, Turn::Another);
        }
        room.work.has_turn = false;
        if room.is_empty() {
            self.rooms.remove(&instance);
        }
    }

    fn give_turn(&mut self, instance: &InstanceId) {
        let Some(room) = self.rooms.get_mut(instance) else { return };
        if !std::mem::replace(&mut room.work.has_turn, true) {
            self.line.join(instance.clone(), Turn::First);
        }
    }

    /// True when nobody is left to be asked again.
    fn judge_some(&mut self, instance: &InstanceId, snapshot: &Snapshot, start: Instant) -> bool {
        loop {
            let Some(room) = self.rooms.get_mut(instance) else { return false };
            let Some(key) = room.work.unjudged.pop() else { return true };
            self.reassess(key, snapshot, start);
            if start.elapsed() >= SLICE {
                return false;
            }
        }
    }

    /// Delivers for as long as there is time and the sockets keep up, at least one message to some
    /// of those it is for, unless its filter takes longer than the turn.
    fn deliver_some(
        &mut self,
        instance: &InstanceId,
        start: Instant,
        settle: &mut dyn FnMut(&Parcel),
    ) {
        let now_ms = Utc::now().timestamp_millis();
        loop {
            let Some(room) = self.rooms.get_mut(instance) else { return };
            if room.is_behind(&self.members) {
                return;
            }
            let Some(parcel) = room.work.parcels.front().cloned() else { return };
            let asking = Asking {
                members: &self.members,
                evaluations: &self.evaluations,
                most_filters: self.bounds.filters,
            };
            if !room.look_for(&parcel.delivery, asking, start + SLICE) {
                return;
            }
            let Some(counts) = self.deliver(&parcel, start) else { return };
            if let Some(room) = self.rooms.get_mut(instance) {
                room.work.parcels.pop_front();
            }
            if let Some(progress) = parcel.delivery.frame.as_ref().ok().and_then(Frame::progress) {
                progress.delivered(counts, now_ms);
            }
            settle(&parcel);
            parcel.tally.report(counts);
            if start.elapsed() >= SLICE {
                return;
            }
        }
    }

    /// Queues a message for those it is still for, a reference each, until the turn is over; their
    /// sockets are woken in turns. What became of it at everyone, when nobody is left.
    fn deliver(&mut self, parcel: &Parcel, start: Instant) -> Option<Counts> {
        let delivery = &parcel.delivery;
        let frame = match &delivery.frame {
            Ok(frame) => frame,
            Err(bytes) => {
                let mut counts = Counts::default();
                self.rehearse(delivery, *bytes, start)
                    .values()
                    .for_each(|pushed| counts.add(*pushed));
                return Some(counts);
            }
        };
        let work = &mut self.rooms.get_mut(&delivery.instance)?.work;
        let UnderWay { left, counts, .. } = &mut work.under_way;
        while !left.is_empty() {
            for key in left.drain(left.len().saturating_sub(STRIDE)..) {
                let Some(member) = self.members.get_mut(key) else { continue };
                // Another connection may have the key by now: the message is no news for it, or not
                // its instance's.
                if !Arc::ptr_eq(&member.realm, &parcel.realm) || !member.wants(delivery) {
                    continue;
                }
                // Stamps the receiver, so that a second audience skips it.
                member.position = delivery.position;
                let outbox = &member.link.outbox;
                let (pushed, is_to_be_woken) =
                    outbox.push_message(frame, delivery.lane.as_ref(), self.bounds.outbox, start);
                counts.add(pushed);
                if is_to_be_woken && !member.link.waits_for_turn.replace(true) {
                    work.unwoken.push_back(key);
                }
            }
            if !left.is_empty() && start.elapsed() >= SLICE {
                return None;
            }
        }
        Some(work.under_way.end())
    }

    /// Lets as many sockets write as have room in a turn, one at least.
    fn wake_some(&mut self, instance: &InstanceId, turn: Turn) {
        let Some(room) = self.rooms.get_mut(instance) else { return };
        let most = match turn {
            Turn::First => WRITTEN_FIRST,
            Turn::Another => WRITTEN,
        };
        let mut written = 0;
        while written < most
            && let Some(key) = room.work.unwoken.pop_front()
        {
            // Another connection may have the key by now: it looks, and finds nothing.
            if let Some(Member { link, .. }) = self.members.get(key) {
                written += A_WRITE + link.outbox.waiting_bytes().min(JOINED_BYTES);
                link.waits_for_turn.set(false);
                link.has_turn.set(true);
                link.outbox.wake();
            }
        }
    }
}

impl Room {
    /// Whether the socket that has waited longest for its turn has a whole batch to write by now.
    /// What were delivered meanwhile would pile up behind it, and clients that read fast enough
    /// would be closed as too slow.
    fn is_behind(&self, members: &Slab<Member>) -> bool {
        let first = self.work.unwoken.front().and_then(|key| members.get(*key));
        first.is_some_and(|member| member.link.outbox.waiting_bytes() >= JOINED_BYTES)
    }

    /// Looks whom a message is still for, unless that is known and nothing has changed since. Those
    /// who have it already are among them: they are stamped. False when there was no time to ask
    /// everyone its filter.
    fn look_for(&mut self, delivery: &Delivery, asking: Asking<'_>, until: Instant) -> bool {
        if delivery.frame.is_err() || self.work.under_way.looked_at == Some(self.changes) {
            return true;
        }
        if !self.ask(delivery, asking, until) {
            return false;
        }
        let mut left = std::mem::take(&mut self.work.under_way.left);
        left.clear();
        left.extend(self.receivers(delivery, asking));
        (self.work.under_way.left, self.work.under_way.looked_at) = (left, Some(self.changes));
        true
    }
}
