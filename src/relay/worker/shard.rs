//! One worker's connections and its rooms; plain data, no async.

use super::asked::Asked;
use super::authorize::tell;
use super::jobs::Job;
use super::room::Room;
use super::turns::{Turn, TurnKind, Turns, WorkerCounts};
use crate::catalog::Snapshot;
use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use crate::domain::principal::Principal;
use crate::relay::close::Close;
use crate::relay::heard::HeardSet;
use crate::relay::member::{Key, Member};
use crate::relay::queue::Dispatch;
use crate::relay::settings::ConnectionBounds;
use ahash::RandomState;
use slab::Slab;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct Shard {
    members: Slab<Member>,
    rooms: HashMap<InstanceId, Room, RandomState>,
    /// The instances for which something is to be done.
    turns: Turns,
    bounds: ConnectionBounds,
    /// What all workers count.
    counts: Arc<WorkerCounts>,
}

impl Shard {
    /// An empty shard.
    pub fn new(bounds: ConnectionBounds, counts: Arc<WorkerCounts>) -> Self {
        let (members, rooms, turns) = (Slab::new(), HashMap::default(), Turns::default());
        Self { members, rooms, turns, bounds, counts }
    }

    /// Registers a connection under its audiences.
    pub fn insert(&mut self, member: Member) -> Key {
        let room = self.rooms.entry(member.timeline.instance().clone()).or_default();
        let entry = self.members.vacant_entry();
        let key = entry.key();
        room.insert(key, &member.heard);
        entry.insert(member);
        key
    }

    /// The set of these groups and channels, for someone who is to be inserted now. None where the
    /// instance's sets take what they may.
    pub fn set_of(&mut self, instance: &InstanceId, shared: Vec<Audience>) -> Option<Rc<HeardSet>> {
        let listeners = self.rooms.entry(instance.clone()).or_default().listeners();
        let is_taken = listeners.takes(&shared, self.bounds.heard_bytes);
        is_taken.then(|| listeners.set_of(shared))
    }

    /// Bytes of the sets that connections hear.
    pub fn heard_bytes(&self) -> usize {
        self.rooms.values().map(Room::heard_bytes).sum()
    }

    /// Takes a connection out of every index. Nothing of an empty audience or room stays.
    pub fn remove(&mut self, key: Key) -> Option<Member> {
        let member = self.members.try_remove(key)?;
        let instance = member.timeline.instance();
        if let Some(room) = self.rooms.get_mut(instance) {
            room.remove(key, &member.heard);
            if room.is_empty() {
                self.rooms.remove(instance);
            }
        }
        if self.members.is_empty() {
            self.members = Slab::new();
            self.rooms.shrink_to_fit();
        }
        Some(member)
    }

    /// Every connection.
    pub fn keys(&self) -> Vec<Key> {
        self.members.iter().map(|(key, _)| key).collect()
    }

    /// The bounds it was built with.
    pub fn bounds(&self) -> ConnectionBounds {
        self.bounds
    }

    /// One connection.
    pub fn get(&self, key: Key) -> Option<&Member> {
        self.members.get(key)
    }

    /// Once a second: keep-alives, comments, token expiry, stuck sockets. Returns the bytes that
    /// wait in all outboxes.
    pub fn tick(&mut self, now: Instant, unix_seconds: i64) -> usize {
        let bounds = self.bounds;
        self.members.iter_mut().map(|(_, member)| member.tick(bounds, now, unix_seconds)).sum()
    }

    /// Takes messages that came by the worker's queue. Returns those for which nobody is here any
    /// more.
    pub fn take_in(&mut self, dispatches: impl Iterator<Item = Dispatch>) -> Vec<Dispatch> {
        let mut unwanted = Vec::new();
        for dispatch in dispatches {
            let Some(room) = self.rooms.get_mut(&dispatch.share.instance) else {
                unwanted.push(dispatch);
                continue;
            };
            if room.wants_turn() {
                self.turns.join(dispatch.share.instance.clone());
            }
            room.take_in(dispatch);
        }
        unwanted
    }

    /// Takes a question about an instance's connections.
    pub fn ask(&mut self, asked: Asked) {
        let Some(room) = self.rooms.get_mut(asked.instance()) else { return asked.finish() };
        if room.wants_turn() {
            self.turns.join(asked.instance().clone());
        }
        room.ask(asked);
    }

    /// Marks every connection of the instances that `snapshot` shows otherwise than the last one:
    /// they are asked again. One that registers meanwhile was asked by a catalog at least as new.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        for (instance, room) in &mut self.rooms {
            if room.follow(snapshot.tenants.get(instance)) && room.wants_turn() {
                self.turns.join(instance.clone());
            }
        }
    }

    /// A socket has something to write and wants its turn.
    pub fn call(&mut self, key: Key) {
        let Some(member) = self.members.get(key) else { return };
        if member.link.waits_for_turn.replace(true) {
            return;
        }
        let instance = member.timeline.instance();
        if let Some(room) = self.rooms.get_mut(instance) {
            if room.wants_turn() {
                self.turns.join(instance.clone());
            }
            room.call(key);
        }
    }

    /// Whether an instance waits for its turn.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Does a piece of work for the instance whose turn it is; the turn begins at `start`.
    pub fn take_turn(&mut self, snapshot: &Snapshot, start: Instant, release: &dyn Fn(&Dispatch)) {
        let Some((instance, kind)) = self.turns.next() else { return };
        let Some(room) = self.rooms.get_mut(&instance) else { return };
        let (bounds, counts) = (self.bounds, &*self.counts);
        let turn = Turn { kind, start, snapshot, bounds, counts, release };
        if room.take_turn(&mut self.members, &turn) {
            let slices = start.elapsed().as_micros().checked_div(bounds.slice.as_micros());
            self.turns.join_again(instance, slices.map_or(1, |slices| slices as u64));
        } else if room.is_empty() {
            self.rooms.remove(&instance);
        }
    }

    /// Puts a new token in the place of the old one as soon as it is known what its bearer hears,
    /// and tells the connection; until then the old one holds. `done` is told when it is. The token
    /// in force is answered without asking a rule.
    pub fn renew(
        &mut self,
        key: Key,
        principal: Arc<Principal>,
        done: oneshot::Sender<()>,
        (snapshot, start): (&Snapshot, Instant),
    ) {
        let Some(member) = self.members.get_mut(key) else { return };
        if Arc::ptr_eq(&member.principal, &principal) || member.principal == principal {
            member.principal = principal;
            member.warned = false;
            return tell(member, (self.bounds, start));
        }
        let job = Job::renew(key, member, principal, done);
        self.begin(key, job, (snapshot, start));
    }

    /// Notes how far a connection has everything, and counts that. How many messages it lags
    /// behind, where it is believed.
    pub fn acknowledge(
        &mut self,
        key: Key,
        cursor: Cursor,
        at: (&Snapshot, Instant),
    ) -> Option<u64> {
        let member = self.members.get_mut(key)?;
        let to_count = member.acknowledge(cursor)?;
        let lag = member.lag_behind(cursor.position);
        if !member.is_counting && to_count.0 < to_count.1 {
            let job = Job::count(key, member, to_count);
            self.begin(key, job, at);
        }
        Some(lag)
    }

    /// A newcomer waits in its room. False where too many wait there.
    pub(super) fn admit(&mut self, instance: &InstanceId, job: Job) -> bool {
        let room = self.rooms.entry(instance.clone()).or_default();
        if !room.admit(job, self.bounds.newcomers) {
            return false;
        }
        if room.wants_turn() {
            self.turns.join(instance.clone());
        }
        true
    }

    /// Nobody comes any more.
    pub fn turn_newcomers_away(&mut self) {
        self.rooms.values_mut().for_each(Room::turn_newcomers_away);
    }

    /// Does what can be done at once of a job for a connection; the rest is done at its room's
    /// turns.
    fn begin(&mut self, key: Key, job: Job, (snapshot, start): (&Snapshot, Instant)) {
        let Some(member) = self.members.get(key) else { return };
        let instance = member.timeline.instance().clone();
        let Some(room) = self.rooms.get_mut(&instance) else { return };
        let (bounds, counts) = (self.bounds, &*self.counts);
        let kind = TurnKind::First;
        let turn = Turn { kind, start, snapshot, bounds, counts, release: &|_| {} };
        if room.begin(job, &mut self.members, &turn) && room.wants_turn() {
            self.turns.join(instance);
        }
    }

    /// Tells those connections of an instance to come back that have not seen everything up to
    /// this position: what they lack is lost to them.
    pub fn close_behind(&mut self, instance: &InstanceId, position: u64) {
        let Some(room) = self.rooms.get(instance) else { return };
        let members = room.members().filter_map(|key| self.members.get(key));
        let lacking = members.filter(|member| member.position < position);
        lacking.for_each(|member| member.link.outbox.close(Close::restarting()));
    }
}

#[cfg(test)]
impl Shard {
    /// One connection, which is there.
    pub fn member(&mut self, key: Key) -> &mut Member {
        &mut self.members[key]
    }
}
