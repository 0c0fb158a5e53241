//! Who is served when: the instances of one worker take turns, and a turn is short whatever an instance asks for.

use super::room::Asking;
use super::{Counts, Delivery, Key, Shard};
use crate::catalog::Snapshot;
use crate::domain::instance::InstanceId;
use crate::relay::frame::Frame;
use crate::relay::queue::Parcel;
use chrono::Utc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one turn may judge, ask and deliver before it is another's.
const SLICE: Duration = Duration::from_micros(500);
/// Most sockets that one turn lets write, and least. Between them it is as many as write within about `WRITING`.
const MOST_WRITERS: usize = 32;
const LEAST_WRITERS: usize = 4;
/// How long the sockets of one turn, and what else is ready, should take before the next turn.
const WRITING: Duration = Duration::from_micros(500);

/// How many sockets a turn lets write: what each costs depends on how much has been joined for it.
#[derive(Debug)]
pub struct Pace(usize);

impl Default for Pace {
    fn default() -> Self {
        Self(MOST_WRITERS)
    }
}

impl Pace {
    fn after(&mut self, taken: Duration) {
        self.0 = match taken > WRITING {
            true => (self.0 / 2).max(LEAST_WRITERS),
            false => (self.0 * 2).min(MOST_WRITERS),
        };
    }
}

impl Shard {
    /// Takes messages that came by the worker's queue. Returns those for which nobody is here any more.
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

    /// Marks every connection of the instances that `snapshot` shows otherwise than the last one: they are asked again.
    /// One that registers meanwhile is judged by a catalog at least as new.
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

    /// The sockets of the last turn, and what else was ready, took so long.
    pub fn pace(&mut self, taken: Duration) {
        self.pace.after(taken);
    }

    /// Whether an instance waits for its turn.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Does a piece of work for the instance whose turn it is. Appends the messages that are dealt with to `done`.
    pub fn take_turn(&mut self, snapshot: &Snapshot, done: &mut Vec<Arc<Parcel>>) {
        let Some(instance) = self.turns.pop_front() else { return };
        let start = Instant::now();
        if self.judge_some(&instance, snapshot, start) {
            self.deliver_some(&instance, start, done);
        }
        self.wake_some(&instance);
        let Some(room) = self.rooms.get_mut(&instance) else { return };
        room.work.has_turn = false;
        if !room.work.is_done() {
            self.give_turn(&instance);
        } else if room.is_empty() {
            self.rooms.remove(&instance);
        }
    }

    fn give_turn(&mut self, instance: &InstanceId) {
        let Some(room) = self.rooms.get_mut(instance) else { return };
        if !std::mem::replace(&mut room.work.has_turn, true) {
            self.turns.push_back(instance.clone());
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

    /// Delivers one message at least, unless its filter takes longer than the turn.
    fn deliver_some(&mut self, instance: &InstanceId, start: Instant, done: &mut Vec<Arc<Parcel>>) {
        let now_ms = Utc::now().timestamp_millis();
        loop {
            let Some(room) = self.rooms.get_mut(instance) else { return };
            let Some(parcel) = room.work.parcels.front().cloned() else { return };
            let asking =
                Asking { members: &self.members, evaluations: &self.evaluations, most_filters: self.bounds.filters };
            if !room.ask(&parcel.delivery, asking, start + SLICE) {
                return;
            }
            room.work.parcels.pop_front();
            let counts = self.deliver(&parcel.delivery, start);
            if let Some(progress) = parcel.delivery.frame.as_ref().ok().and_then(Frame::progress) {
                progress.delivered(counts, now_ms);
            }
            parcel.tally.report(counts);
            done.push(parcel);
            if start.elapsed() >= SLICE {
                return;
            }
        }
    }

    /// Queues a message for everyone it is for; their sockets are woken in turns. Costs a reference a receiver.
    fn deliver(&mut self, delivery: &Delivery, now: Instant) -> Counts {
        let mut counts = Counts::default();
        let frame = match &delivery.frame {
            Ok(frame) => frame,
            Err(bytes) => {
                self.rehearse(delivery, *bytes, now).values().for_each(|pushed| counts.add(*pushed));
                return counts;
            }
        };
        let Some(room) = self.rooms.get_mut(&delivery.instance) else { return counts };
        let mut unwoken = std::mem::take(&mut room.work.unwoken);
        let asking =
            Asking { members: &self.members, evaluations: &self.evaluations, most_filters: self.bounds.filters };
        for key in room.receivers(delivery, asking) {
            let Some(member) = self.members.get_mut(key) else { continue };
            if !member.wants(delivery) {
                continue;
            }
            // Stamps the receiver, so that a second audience skips it.
            member.position = delivery.position;
            let outbox = &member.link.outbox;
            let (pushed, is_to_be_woken) = outbox.push_message(frame, delivery.lane.as_ref(), self.bounds.outbox, now);
            counts.add(pushed);
            if is_to_be_woken && !member.link.waits_for_turn.replace(true) {
                unwoken.push_back(key);
            }
        }
        if let Some(room) = self.rooms.get_mut(&delivery.instance) {
            room.work.unwoken = unwoken;
        }
        counts
    }

    fn wake_some(&mut self, instance: &InstanceId) {
        let Some(room) = self.rooms.get_mut(instance) else { return };
        let count = room.work.unwoken.len().min(self.pace.0);
        for key in room.work.unwoken.drain(..count) {
            // Another connection may have the key by now: it looks, and finds nothing.
            if let Some(member) = self.members.get(key) {
                member.link.waits_for_turn.set(false);
                member.link.has_turn.set(true);
                member.link.outbox.wake();
            }
        }
    }
}
