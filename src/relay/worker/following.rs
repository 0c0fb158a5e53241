//! A room's way to a new picture of its instance: first who may stay, then what each hears.

use super::authorize::{Reason, may_stay, settle};
use super::listeners::Listeners;
use super::turns::Turn;
use crate::catalog::{Authorizing, Changes, Known, Tenant};
use crate::domain::audience::Audience;
use crate::relay::heard::{Heard, HeardSet, split};
use crate::relay::member::{Key, Member};
use ahash::RandomState;
use indexmap::IndexSet;
use slab::Slab;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Who is still to be looked at after the changes so far.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// Who is to be looked at before any rule is asked: whether it may stay.
    unchecked: Vec<Key>,
    /// Who is to be asked again. A new change leaves everyone in their places.
    unauthorized: VecDeque<Key>,
    /// How far the first of them is.
    authorizing: Option<(Key, Authorizing)>,
    /// What is different in the last two pictures that were compared.
    changes: Option<(Arc<Tenant>, Arc<Tenant>, Rc<Changes>)>,
    /// What becomes of the sets with that.
    moves: Moves,
}

impl Following {
    /// Something has changed: all of these are to be looked at.
    pub fn begin(&mut self, all: &IndexSet<Key>) {
        self.unchecked = all.iter().copied().collect();
        self.unauthorized.retain(|key| all.contains(key));
        let waiting: HashSet<Key, RandomState> = self.unauthorized.iter().copied().collect();
        self.unauthorized.extend(all.iter().filter(|key| !waiting.contains(*key)));
    }

    /// Everyone has followed: what was worked out on the way is let go of.
    pub fn end(&mut self) {
        (self.changes, self.moves) = (None, Moves::default());
    }

    /// Whether nobody is left to be looked at.
    pub fn is_over(&self) -> bool {
        self.unchecked.is_empty() && self.unauthorized.is_empty()
    }

    /// A connection is gone, or has another token: what was worked out for it holds no more.
    pub fn forget(&mut self, key: Key) {
        self.authorizing.take_if(|(of, _)| *of == key);
    }

    /// Closes those of a room, `own`, who may not stay. True when nobody is left to be looked at.
    pub fn check_some(
        &mut self,
        own: &IndexSet<Key>,
        members: &Slab<Member>,
        turn: &Turn<'_>,
    ) -> bool {
        while let Some(key) = self.unchecked.pop() {
            // Another instance's connection may have the key by now.
            let member = members.get(key).filter(|_| own.contains(&key));
            let Some(member) = member else { continue };
            let tenant = turn.snapshot.tenants.get(member.timeline.instance());
            if let Err(refusal) = may_stay(&member.principal, tenant) {
                member.link.outbox.close(refusal.close(&member.principal));
            }
            if turn.is_over() {
                return self.unchecked.is_empty();
            }
        }
        true
    }

    /// Asks rules again until the turn is over, one at least, and tells those who hear otherwise
    /// than before. True when nobody is left to be asked. `changes` counts who hears otherwise.
    pub fn authorize_some(
        &mut self,
        members: &mut Slab<Member>,
        listeners: &mut Listeners,
        turn: &Turn<'_>,
        (own, changes): (&IndexSet<Key>, &mut u64),
    ) -> bool {
        while let Some(key) = self.unauthorized.front().copied() {
            let member = members.get_mut(key).filter(|_| own.contains(&key));
            if let Some(member) = member {
                let Some(heard) = self.authorize(key, member, listeners, turn) else {
                    return false;
                };
                let at = (turn.bounds, turn.start);
                if let Some(before) = settle(member, heard, Reason::Rules, at) {
                    listeners.change(key, &before, &member.heard);
                    *changes += 1;
                }
            }
            self.unauthorized.pop_front();
            if turn.is_over() {
                return false;
            }
        }
        true
    }

    /// What a connection hears now; none where there was no time to ask all rules.
    fn authorize(
        &mut self,
        key: Key,
        member: &mut Member,
        listeners: &mut Listeners,
        turn: &Turn<'_>,
    ) -> Option<Heard> {
        let same = |member: &Member| Some(member.heard.clone());
        let tenant = turn.snapshot.tenants.get(member.timeline.instance());
        // Who may not stay was told to go.
        let Ok(tenant) = may_stay(&member.principal, tenant) else { return same(member) };
        if Arc::ptr_eq(&member.authorized_by, tenant) {
            return same(member);
        }
        let changes = self.changes_between(&member.authorized_by, tenant);
        // Where a channel came or went, a bare name may mean something else.
        let is_whole_anew = member.narrowing.is_some() && changes.are_names_others();
        let fresh = match is_whole_anew {
            true => Authorizing::new(tenant.clone()),
            false => Authorizing::of_changes(tenant.clone(), changes.clone()),
        };
        let begun = self.authorizing.take().filter(|(of, _)| *of == key).map(|(_, begun)| begun);
        let mut authorizing = match begun {
            Some(begun) if Arc::ptr_eq(begun.tenant(), tenant) => begun,
            Some(mut begun) => {
                begun.turn_to(fresh);
                begun
            }
            None => fresh,
        };
        let heard = member.heard.set().audiences().clone();
        let known = Known { tenant: &member.authorized_by, heard: &heard };
        let (facts, only) = (member.facts(), member.narrowing.as_ref());
        let is_whole = authorizing.go_on(&facts, only, Some(known), || !turn.is_over());
        turn.counts.evaluations.fetch_add(facts.asked(), Relaxed);
        if !is_whole {
            self.authorizing = Some((key, authorizing));
            return None;
        }
        member.authorized_by = tenant.clone();
        let now = authorizing.into_heard();
        if is_whole_anew {
            let (own, shared) = split(now);
            return Some(Heard::new(own, listeners.set_of(shared)));
        }
        let set = self.moves.set_of(member.heard.set(), &changes, now, listeners);
        Some(Heard::new(member.heard.own().into(), set))
    }

    /// What is different in these two pictures. Most connections were last asked by the same one.
    fn changes_between(&mut self, before: &Arc<Tenant>, now: &Arc<Tenant>) -> Rc<Changes> {
        if let Some((from, to, changes)) = &self.changes
            && Arc::ptr_eq(from, before)
            && Arc::ptr_eq(to, now)
        {
            return changes.clone();
        }
        let changes = Rc::new(Changes::between(before, now));
        self.changes = Some((before.clone(), now.clone(), changes.clone()));
        self.moves = Moves::default();
        changes
    }
}

/// What became of the sets with one change: most who shared one share another afterwards.
#[derive(Debug, Default)]
struct Moves(HashMap<usize, Move, RandomState>);

/// What became of a set for those who hear, of the channels that changed, these.
#[derive(Debug)]
struct Move {
    from: Rc<HeardSet>,
    heard: Vec<Audience>,
    to: Rc<HeardSet>,
}

impl Moves {
    /// The set of one who heard `from`, and hears of the channels that changed these.
    fn set_of(
        &mut self,
        from: &Rc<HeardSet>,
        changes: &Changes,
        heard: Vec<Audience>,
        listeners: &mut Listeners,
    ) -> Rc<HeardSet> {
        if let Some(made) = self.0.get(&from.id)
            && Rc::ptr_eq(&made.from, from)
            && made.heard == heard
            && listeners.has(&made.to)
        {
            return made.to.clone();
        }
        let is_changed = |audience: &&Audience| match audience {
            Audience::Channel(name) => changes.names().binary_search(name).is_ok(),
            _ => false,
        };
        let heard_before = from.audiences().iter().filter(is_changed);
        let to = match heard_before.eq(&heard) {
            true => from.clone(),
            false => {
                let kept = from.audiences().iter().filter(|audience| !is_changed(audience));
                let mut audiences: Vec<Audience> = kept.chain(&heard).cloned().collect();
                audiences.sort_unstable();
                listeners.set_of(audiences)
            }
        };
        self.0.insert(from.id, Move { from: from.clone(), heard, to: to.clone() });
        to
    }
}
