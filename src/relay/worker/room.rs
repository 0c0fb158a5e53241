//! The connections of one instance on one worker, by what they hear; and what is to be done for
//! them, a piece at each of the room's turns.

use super::asked::Asked;
use super::authorize::{Reason, settle};
use super::delivery::{QUEUED, UnderWay};
use super::filter_index::FilterIndex;
use super::following::Following;
use super::jobs::{Advance, Job, Renewed};
use super::listeners::{Listeners, is_roomy};
use super::turns::{Turn, TurnKind};
use crate::catalog::Tenant;
use crate::domain::expression::Expression;
use crate::domain::message::Reach;
use crate::relay::close::Close;
use crate::relay::heard::{Heard, HeardSet, split};
use crate::relay::member::{Key, Member};
use crate::relay::outbox::JOINED_BYTES;
use crate::relay::queue::Dispatch;
use crate::relay::survey::Query;
use ahash::RandomState;
use chrono::Utc;
use indexmap::IndexSet;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What the sockets of one turn may write together, at most `JOINED_BYTES` each, with what a write
/// costs beyond its bytes counted as bytes: so a turn's writes take about as long whether they are
/// many or large, some 250 microseconds.
const WRITTEN: usize = 128 * 1_024;
const A_WRITE: usize = 8 * 1_024;
/// The same in the first turn of an instance that had nothing to do: a message to a hundred goes
/// out in one, and does not wait for a turn of everyone else after every few.
const WRITTEN_FIRST: usize = 1_024 * 1_024;

/// Questions that may wait in a room; as many as an instance may ask at a time, and those that
/// nobody waits for.
const MAX_ASKED: usize = 64;

/// The connections of one instance on this worker. An audience without a connection is not in the
/// index.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// All of them.
    members: IndexSet<Key>,
    /// By what they hear.
    listeners: Listeners,
    /// How often what someone may hear, or whom filters are asked about, has changed.
    changes: u64,
    /// Who passes the filters that were used lately.
    filters: FilterIndex,
    /// The tenant under whose rules all were last asked again.
    authorized_by: Option<Arc<Tenant>>,
    /// Who is still to be looked at after a change. Questions and messages wait for that: what was
    /// answered as changed holds for what is published afterwards.
    following: Following,
    /// What is to be worked out for single connections, oldest first: one a newcomer, of which
    /// there is a bounded number, and at most two a connection.
    jobs: VecDeque<Job>,
    /// Questions, oldest first; at most `MAX_ASKED`.
    asked: VecDeque<Asked>,
    /// Messages, oldest first; the queue that they came by bounds them.
    dispatches: VecDeque<Dispatch>,
    /// The first of them, once it is being delivered.
    under_way: UnderWay,
    /// Sockets that have something to write and are to be woken, each once.
    unwoken: VecDeque<Key>,
    /// Whether the room waits for a turn, or has it now.
    has_turn: bool,
}

impl Room {
    /// Puts a connection among the others.
    pub fn insert(&mut self, key: Key, heard: &Heard) {
        self.members.insert(key);
        self.filters.forget(key);
        self.listeners.join(key, heard);
    }

    /// Takes it out of every index. Gives memory back that was needed for more than there are.
    pub fn remove(&mut self, key: Key, heard: &Heard) {
        self.members.swap_remove(&key);
        self.following.forget(key);
        self.filters.remove(key);
        self.listeners.leave(key, heard);
        self.shrink();
    }

    /// Bytes of the sets that they hear.
    pub fn heard_bytes(&self) -> usize {
        self.listeners.bytes()
    }

    /// The connections by what they hear.
    pub fn listeners(&mut self) -> &mut Listeners {
        &mut self.listeners
    }

    /// Whether neither someone nor something is in it, and it stands in no line.
    pub fn is_empty(&self) -> bool {
        let is_idle = self.dispatches.is_empty() && self.asked.is_empty() && !self.has_turn;
        self.members.is_empty() && self.jobs.is_empty() && is_idle
    }

    /// All connections.
    pub fn members(&self) -> impl Iterator<Item = Key> {
        self.members.iter().copied()
    }

    /// A message waits to be delivered.
    pub fn take_in(&mut self, dispatch: Dispatch) {
        self.dispatches.push_back(dispatch);
    }

    /// A question waits to be answered. Whoever asks waits a second at most; where too many have
    /// been left behind by then, it is not answered.
    pub fn ask(&mut self, asked: Asked) {
        self.asked.retain(|asked| !asked.is_abandoned());
        if self.asked.len() < MAX_ASKED {
            self.asked.push_back(asked);
        }
    }

    /// A socket has something to write and wants its turn.
    pub fn call(&mut self, key: Key) {
        self.unwoken.push_back(key);
    }

    /// All are to be asked again, unless `tenant` is what they were asked by last. True when they
    /// are.
    pub fn follow(&mut self, tenant: Option<&Arc<Tenant>>) -> bool {
        if let (Some(old), Some(new)) = (&self.authorized_by, tenant)
            && Arc::ptr_eq(old, new)
        {
            return false;
        }
        self.authorized_by = tenant.cloned();
        self.following.begin(&self.members);
        true
    }

    /// A newcomer waits until it is worked out what it hears. False where `most` wait already.
    pub(super) fn admit(&mut self, job: Job, most: usize) -> bool {
        self.jobs.retain(|job| !job.is_abandoned());
        let has_room = self.jobs.iter().filter(|job| job.is_arrival()).count() < most;
        if has_room {
            self.jobs.push_back(job);
        }
        has_room
    }

    /// Nobody comes any more.
    pub fn turn_newcomers_away(&mut self) {
        self.jobs.retain(|job| !job.is_arrival());
    }

    /// Puts itself into the line for a turn, unless it is there already. True when it was not.
    pub fn wants_turn(&mut self) -> bool {
        !std::mem::replace(&mut self.has_turn, true)
    }

    /// Does a job for as long as there is time, or puts what is left of it into the line. True when
    /// something is left.
    pub(super) fn begin(&mut self, job: Job, members: &mut Slab<Member>, turn: &Turn<'_>) -> bool {
        match job.go_on(members, turn, turn.end()) {
            Advance::More(job) => {
                self.jobs.push_back(job.in_line());
                true
            }
            Advance::Renewed(renewed) => {
                self.renew(renewed, members, turn);
                false
            }
            Advance::Done => false,
        }
    }

    /// Does a piece of work. What is dealt with is released, and then reported: whoever is told of
    /// a message finds its space in the queue free. True when something is left to do.
    pub fn take_turn(&mut self, members: &mut Slab<Member>, turn: &Turn<'_>) -> bool {
        if self.following.check_some(&self.members, members, turn) {
            self.work_some(members, turn);
            if self.authorize_some(members, turn) {
                self.answer_some(members, turn);
                self.deliver_some(members, turn);
            }
        }
        self.wake_some(members, turn.kind);
        self.has_turn = !self.is_done();
        self.has_turn
    }

    fn is_done(&self) -> bool {
        self.following.is_over()
            && self.jobs.is_empty()
            && self.asked.is_empty()
            && self.dispatches.is_empty()
            && self.unwoken.is_empty()
    }

    /// Does some of what is to be worked out for single connections, at one rule or filter at
    /// least; for half of the turn's time where others wait too.
    fn work_some(&mut self, members: &mut Slab<Member>, turn: &Turn<'_>) {
        let until = match self.dispatches.is_empty() && self.following.is_over() {
            true => turn.end(),
            false => turn.half(),
        };
        while let Some(job) = self.jobs.pop_front() {
            if job.is_abandoned() {
                continue;
            }
            match job.go_on(members, turn, until) {
                Advance::More(job) => return self.jobs.push_front(job),
                Advance::Renewed(renewed) => self.renew(renewed, members, turn),
                Advance::Done => {}
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// Token, rights and end of a connection change in one step.
    fn renew(&mut self, renewed: Renewed, members: &mut Slab<Member>, turn: &Turn<'_>) {
        let Renewed { key, principal, tenant, heard, done } = renewed;
        let Some(member) = members.get_mut(key) else { return };
        (member.principal, member.authorized_by, member.warned) = (principal, tenant, false);
        member.is_renewing = false;
        member.link.last_heard.set(turn.start);
        let (own, shared) = split(heard);
        let heard = Heard::new(own, self.listeners.set_of(shared));
        if let Some(before) = settle(member, heard, Reason::Token, (turn.bounds, turn.start)) {
            self.listeners.change(key, &before, &member.heard);
        }
        // What was worked out with the old token.
        self.following.forget(key);
        self.filters.forget(key);
        self.changes += 1;
        let _has_gone = done.send(());
        self.shed(members, turn);
    }

    /// Asks rules again for as long as there is time. True when nobody is left to be asked.
    fn authorize_some(&mut self, members: &mut Slab<Member>, turn: &Turn<'_>) -> bool {
        let Self { following, listeners, members: own, changes, .. } = self;
        let is_over = following.authorize_some(members, listeners, turn, (own, changes));
        if is_over {
            following.end();
        }
        self.shed(members, turn);
        is_over
    }

    /// Where what is heard takes more than it may, after a change that is taken all the same, the
    /// newest connections are told to come again later: as many as take what is too much.
    fn shed(&mut self, members: &Slab<Member>, turn: &Turn<'_>) {
        let most = turn.bounds.heard_bytes;
        let mut bytes = self.listeners.bytes();
        if bytes <= most {
            return;
        }
        let own = self.members.iter().filter_map(|key| members.get(*key));
        let mut newest: Vec<&Member> = own.collect();
        newest.sort_unstable_by_key(|member| std::cmp::Reverse(member.begun.at));
        let mut left: HashMap<usize, usize, RandomState> = HashMap::default();
        for member in newest {
            if bytes <= most {
                return;
            }
            let set = member.heard.set();
            let left = left.entry(set.id).or_insert_with(|| self.listeners.hearers(set));
            *left = left.saturating_sub(1);
            if *left == 0 {
                bytes -= HeardSet::bytes_of(set.audiences()).min(bytes);
            }
            if !member.link.outbox.is_ending() {
                turn.counts.shed.fetch_add(1, Relaxed);
                member.link.outbox.close(Close::too_many_sets());
            }
        }
    }

    /// Looks at some connections for the questions that wait, some at least; while messages wait
    /// too, for half of the turn's time.
    fn answer_some(&mut self, members: &Slab<Member>, turn: &Turn<'_>) {
        let until = match self.dispatches.is_empty() {
            true => turn.end(),
            false => turn.half(),
        };
        while let Some(mut asked) = self.asked.pop_front() {
            if !asked.is_begun() {
                // Only now: whoever a change concerns was asked before.
                asked.begin(self.concerned_by(asked.query()));
            }
            if !asked.go_on(members, turn, until) {
                return self.asked.push_front(asked);
            }
            asked.finish();
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// Who has to be looked at for an answer, the oldest last.
    fn concerned_by(&self, query: &Query) -> Vec<Key> {
        let Some(audiences) = query.hearers_of() else {
            return self.members.iter().rev().copied().collect();
        };
        let keys = audiences.iter().flat_map(|audience| self.listeners.of(audience));
        let keys: IndexSet<Key> = keys.flatten().copied().collect();
        keys.into_iter().rev().collect()
    }

    /// Delivers for as long as there is time and the sockets keep up, at least one message to some
    /// of those it is for, unless its filter takes longer than the turn.
    fn deliver_some(&mut self, members: &mut Slab<Member>, turn: &Turn<'_>) {
        let now_ms = Utc::now().timestamp_millis();
        while !self.is_behind(members) && self.look_for_receivers(members, turn) {
            let Self { dispatches, under_way, unwoken, .. } = self;
            let Some(dispatch) = dispatches.front() else { return };
            let Some(counts) = under_way.deliver(dispatch, members, unwoken, turn) else { return };
            let Some(dispatch) = dispatches.pop_front() else { return };
            (turn.release)(&dispatch);
            if let Some(head) = dispatch.frame.head() {
                head.progress.delivered_at(now_ms);
                head.progress.report(counts);
            }
            if turn.is_over() {
                return;
            }
        }
    }

    /// Whether the socket that has waited longest for its turn has a whole batch to write by now.
    /// What were delivered meanwhile would pile up behind it, and clients that read fast enough
    /// would be closed as too slow.
    fn is_behind(&self, members: &Slab<Member>) -> bool {
        let first = self.unwoken.front().and_then(|key| members.get(*key));
        first.is_some_and(|member| member.link.outbox.waiting_bytes() >= JOINED_BYTES)
    }

    /// Looks whom the first message is still for, unless that is known and nothing has changed
    /// since. False where there is none, or was no time to ask everyone its filter.
    fn look_for_receivers(&mut self, members: &Slab<Member>, turn: &Turn<'_>) -> bool {
        let Some(dispatch) = self.dispatches.front() else { return false };
        if self.under_way.is_known_at(self.changes) {
            return true;
        }
        let Some(head) = dispatch.frame.head().cloned() else { return true };
        if let Some(filter) = &head.reach.filter
            && !self.ask_filter(filter, &head.reach, members, turn)
        {
            return false;
        }
        let Self { members: own, listeners, filters, under_way, changes, .. } = self;
        let most = turn.bounds.filters;
        let audiences = &head.reach.audiences;
        let heard = || audiences.iter().flat_map(|audience| listeners.of(audience));
        let Some(filter) = &head.reach.filter else {
            under_way.look(heard().flatten().copied(), *changes);
            return true;
        };
        let passing = &filters.answers(filter, own, most).passing;
        // The shorter list is walked, so that a filter that few pass costs no more than they do.
        if passing.len() < heard().map(IndexSet::len).sum::<usize>() {
            let hears = |member: &Member| member.heard.hears_any(audiences);
            let is_meant = |key: &&Key| members.get(**key).is_some_and(hears);
            under_way.look(passing.iter().filter(is_meant).copied(), *changes);
        } else {
            let passes = |key: &&Key| passing.contains(*key);
            under_way.look(heard().flatten().filter(passes).copied(), *changes);
        }
        true
    }

    /// Asks those whom a filtered message is for and who were not asked yet, for as long as there
    /// is time, one at least. True when nobody is left to be asked.
    fn ask_filter(
        &mut self,
        filter: &Expression,
        reach: &Reach,
        members: &Slab<Member>,
        turn: &Turn<'_>,
    ) -> bool {
        let answers = self.filters.answers(filter, &self.members, turn.bounds.filters);
        let meant = reach.audiences.iter().flat_map(|audience| self.listeners.of(audience));
        let passes = |key: Key| {
            turn.counts.evaluations.fetch_add(1, Relaxed);
            members.get(key).is_some_and(|member| member.passes(filter))
        };
        answers.ask(meant.flatten().copied(), passes, || Instant::now() < turn.end())
    }

    /// Lets as many sockets write as have room in a turn, one at least.
    fn wake_some(&mut self, members: &Slab<Member>, kind: TurnKind) {
        let most = match kind {
            TurnKind::First => WRITTEN_FIRST,
            TurnKind::Another => WRITTEN,
        };
        let mut written = 0;
        while written < most
            && let Some(key) = self.unwoken.pop_front()
        {
            // Another connection may have the key by now: it looks, and finds nothing.
            if let Some(Member { link, .. }) = members.get(key) {
                written += A_WRITE + link.outbox.waiting_bytes().min(JOINED_BYTES);
                link.waits_for_turn.set(false);
                link.has_turn.set(true);
                link.outbox.wake();
            }
        }
    }

    fn shrink(&mut self) {
        if is_roomy(self.members.len(), self.members.capacity()) {
            self.members.shrink_to_fit();
        }
        if self.unwoken.is_empty() && self.unwoken.capacity() > QUEUED {
            self.unwoken = VecDeque::new();
        }
    }
}
