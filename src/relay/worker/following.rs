//! A room's way to a new picture of its instance: first who may stay, then what each hears.

use super::authorize::{Reason, Rights, may_stay, settle};
use super::turns::Turn;
use crate::catalog::{Authorizing, Known};
use crate::relay::member::{Key, Member};
use ahash::RandomState;
use indexmap::IndexSet;
use slab::Slab;
use std::collections::{HashSet, VecDeque};
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
}

impl Following {
    /// Something has changed: all of these are to be looked at.
    pub fn begin(&mut self, all: &IndexSet<Key>) {
        self.unchecked = all.iter().copied().collect();
        self.unauthorized.retain(|key| all.contains(key));
        let waiting: HashSet<Key, RandomState> = self.unauthorized.iter().copied().collect();
        self.unauthorized.extend(all.iter().filter(|key| !waiting.contains(*key)));
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
    /// than before: they are put into `changed`. True when nobody is left to be asked.
    pub fn authorize_some(
        &mut self,
        own: &IndexSet<Key>,
        members: &mut Slab<Member>,
        turn: &Turn<'_>,
        changed: &mut Vec<(Key, Rights)>,
    ) -> bool {
        while let Some(key) = self.unauthorized.front().copied() {
            let member = members.get_mut(key).filter(|_| own.contains(&key));
            if let Some(member) = member {
                match self.authorize(key, member, turn) {
                    None => return false,
                    Some(rights) => changed.extend(rights.map(|rights| (key, rights))),
                }
            }
            self.unauthorized.pop_front();
            if turn.is_over() {
                return false;
            }
        }
        true
    }

    /// What a connection hears otherwise than before, if anything; none where there was no time to
    /// ask all rules.
    fn authorize(
        &mut self,
        key: Key,
        member: &mut Member,
        turn: &Turn<'_>,
    ) -> Option<Option<Rights>> {
        let tenant = turn.snapshot.tenants.get(member.timeline.instance());
        let Ok(tenant) = may_stay(&member.principal, tenant) else { return Some(None) };
        let begun = self.authorizing.take().filter(|(of, _)| *of == key);
        let fresh = || Authorizing::new(tenant.clone());
        let mut authorizing = begun.map_or_else(fresh, |(_, begun)| begun);
        authorizing.follow(tenant);
        let known = Known { tenant: &member.authorized_by, heard: &member.audiences };
        let (facts, only) = (member.facts(), member.narrowing.as_ref());
        let is_whole = authorizing.go_on(&facts, only, Some(known), || !turn.is_over());
        turn.evaluations.fetch_add(facts.asked(), Relaxed);
        if !is_whole {
            self.authorizing = Some((key, authorizing));
            return None;
        }
        let (heard, at) = (authorizing.into_heard(), (turn.bounds, turn.start));
        Some(settle(member, tenant, heard, Reason::Rules, at))
    }
}
