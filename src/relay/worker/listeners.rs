//! Who of a room hears what. An audience without a connection is not in it.

use crate::domain::audience::Audience;
use crate::domain::principal::UserId;
use crate::relay::heard::{Heard, HeardSet};
use crate::relay::member::Key;
use ahash::RandomState;
use indexmap::IndexSet;
use slab::Slab;
use std::collections::HashMap;
use std::rc::Rc;

/// The connections of a room by what they hear.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Who hears what is for everyone.
    everyone: IndexSet<Key>,
    users: HashMap<UserId, IndexSet<Key>, RandomState>,
    sets: Slab<Listening>,
    by_audiences: HashMap<Rc<[Audience]>, usize, RandomState>,
    /// The sets that each group and channel is in.
    index: HashMap<Audience, IndexSet<usize>, RandomState>,
    /// What the sets are counted with.
    bytes: usize,
}

/// A set, and who hears it.
#[derive(Debug)]
struct Listening {
    set: Rc<HeardSet>,
    members: IndexSet<Key>,
}

impl Listeners {
    /// The set of these groups and channels, which stand in their order. A new one stays where
    /// someone joins it.
    pub fn set_of(&mut self, audiences: Vec<Audience>) -> Rc<HeardSet> {
        if let Some(id) = self.by_audiences.get(audiences.as_slice())
            && let Some(listening) = self.sets.get(*id)
        {
            return listening.set.clone();
        }
        let entry = self.sets.vacant_entry();
        let (id, audiences) = (entry.key(), Rc::from(audiences));
        let set = Rc::new(HeardSet::new(id, audiences));
        entry.insert(Listening { set: set.clone(), members: IndexSet::new() });
        self.bytes += HeardSet::bytes_of(set.audiences());
        self.by_audiences.insert(set.audiences().clone(), id);
        for audience in set.audiences().iter() {
            match self.index.get_mut(audience) {
                Some(sets) => {
                    sets.insert(id);
                }
                None => {
                    self.index.insert(audience.clone(), IndexSet::from([id]));
                }
            }
        }
        set
    }

    /// Whether there is such a set, or room for it within so many bytes.
    pub fn takes(&self, audiences: &[Audience], most: usize) -> bool {
        self.by_audiences.contains_key(audiences)
            || self.bytes + HeardSet::bytes_of(audiences) <= most
    }

    /// What the sets are counted with, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a set is still one of them.
    pub fn has(&self, set: &Rc<HeardSet>) -> bool {
        self.sets.get(set.id).is_some_and(|listening| Rc::ptr_eq(&listening.set, set))
    }

    /// A connection hears this from now on.
    pub fn join(&mut self, key: Key, heard: &Heard) {
        self.join_own(key, heard.own());
        self.join_set(key, heard.set());
    }

    /// A connection hears this no more. The last one lets go of its set.
    pub fn leave(&mut self, key: Key, heard: &Heard) {
        self.leave_own(key, heard.own());
        self.leave_set(key, heard.set());
        self.shrink();
    }

    /// A connection hears something else from now on.
    pub fn change(&mut self, key: Key, before: &Heard, now: &Heard) {
        self.leave_own(key, before.own());
        self.join_own(key, now.own());
        if !Rc::ptr_eq(before.set(), now.set()) {
            self.join_set(key, now.set());
            self.leave_set(key, before.set());
        }
    }

    fn join_own(&mut self, key: Key, own: &[Audience]) {
        for audience in own {
            match audience {
                Audience::User(user) => match self.users.get_mut(user) {
                    Some(keys) => {
                        keys.insert(key);
                    }
                    None => {
                        self.users.insert(user.clone(), IndexSet::from([key]));
                    }
                },
                _ => {
                    self.everyone.insert(key);
                }
            }
        }
    }

    fn leave_own(&mut self, key: Key, own: &[Audience]) {
        for audience in own {
            match audience {
                Audience::User(user) => {
                    let Some(keys) = self.users.get_mut(user) else { continue };
                    keys.swap_remove(&key);
                    if keys.is_empty() {
                        self.users.remove(user);
                    }
                }
                _ => {
                    self.everyone.swap_remove(&key);
                }
            }
        }
    }

    fn join_set(&mut self, key: Key, set: &HeardSet) {
        if let Some(listening) = self.sets.get_mut(set.id) {
            listening.members.insert(key);
        }
    }

    fn leave_set(&mut self, key: Key, set: &HeardSet) {
        let Some(Listening { members, .. }) = self.sets.get_mut(set.id) else { return };
        members.swap_remove(&key);
        if members.is_empty() {
            self.let_go(set.id);
        } else if is_roomy(members.len(), members.capacity()) {
            members.shrink_to_fit();
        }
    }

    /// Who hears an audience: lists that have nobody in common.
    pub fn of<'a>(&'a self, audience: &Audience) -> impl Iterator<Item = &'a IndexSet<Key>> {
        let own = match audience {
            Audience::All => Some(&self.everyone),
            Audience::User(user) => self.users.get(user),
            Audience::Group(_) | Audience::Channel(_) => None,
        };
        let sets = self.index.get(audience).into_iter().flatten();
        own.into_iter().chain(sets.filter_map(|id| Some(&self.sets.get(*id)?.members)))
    }

    /// How many hear a set.
    pub fn hearers(&self, set: &HeardSet) -> usize {
        self.sets.get(set.id).map_or(0, |listening| listening.members.len())
    }

    fn let_go(&mut self, id: usize) {
        let Some(Listening { set, .. }) = self.sets.try_remove(id) else { return };
        self.bytes -= HeardSet::bytes_of(set.audiences());
        self.by_audiences.remove(set.audiences());
        for audience in set.audiences().iter() {
            if let Some(sets) = self.index.get_mut(audience) {
                sets.swap_remove(&id);
                if sets.is_empty() {
                    self.index.remove(audience);
                }
            }
        }
        if self.sets.is_empty() {
            self.sets = Slab::new();
        }
    }

    /// Gives memory back that was needed for more than there are.
    fn shrink(&mut self) {
        if is_roomy(self.everyone.len(), self.everyone.capacity()) {
            self.everyone.shrink_to_fit();
        }
        if is_roomy(self.users.len(), self.users.capacity()) {
            self.users.shrink_to_fit();
        }
        if is_roomy(self.index.len(), self.index.capacity()) {
            self.index.shrink_to_fit();
        }
        if is_roomy(self.by_audiences.len(), self.by_audiences.capacity()) {
            self.by_audiences.shrink_to_fit();
        }
    }
}

/// Whether a list has room for four times as many as are in it.
pub(super) fn is_roomy(length: usize, capacity: usize) -> bool {
    capacity > 64 && length * 4 < capacity
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::channel::ChannelName;
    use crate::domain::principal::GroupId;
    use crate::relay::heard::split;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn audience(number: usize) -> Audience {
        match number {
            0 => Audience::All,
            1..4 => Audience::User(UserId::new(number.to_string()).unwrap()),
            4..8 => Audience::Group(GroupId::new(number.to_string()).unwrap()),
            _ => Audience::Channel(ChannelName::new(number.to_string()).unwrap()),
        }
    }

    proptest! {
        #[test]
        fn sets_are_born_shared_split_and_die_as_those_come_and_go_who_hear_them(
            steps in prop::collection::vec(
                (0usize..6, prop::option::of((prop::bool::ANY, prop::sample::subsequence((4..12).collect::<Vec<_>>(), 0..4)))),
                1..60,
            )
        ) {
            let mut listeners = Listeners::default();
            let mut heard: BTreeMap<Key, Heard> = BTreeMap::new();
            for (key, hears) in steps {
                let now = hears.map(|(all, shared)| {
                    let own = [usize::from(!all), 1 + key % 3];
                    let mut audiences: Vec<_> = own.into_iter().chain(shared).map(audience).collect();
                    audiences.sort();
                    audiences.dedup();
                    let (own, shared) = split(audiences);
                    Heard::new(own, listeners.set_of(shared))
                });
                match (heard.remove(&key), now) {
                    (Some(before), Some(now)) => {
                        listeners.change(key, &before, &now);
                        heard.insert(key, now);
                    }
                    (Some(before), None) => listeners.leave(key, &before),
                    (None, Some(now)) => {
                        listeners.join(key, &now);
                        heard.insert(key, now);
                    }
                    (None, None) => {}
                }
                for one in (0..12).map(audience) {
                    let mut found: Vec<Key> = listeners.of(&one).flatten().copied().collect();
                    found.sort_unstable();
                    let expected = heard.iter().filter(|(_, it)| it.hears_any(std::slice::from_ref(&one)));
                    prop_assert_eq!(found, expected.map(|(key, _)| *key).collect::<Vec<_>>());
                }
                let mut sets: Vec<_> = heard.values().map(|it| it.set().audiences().clone()).collect();
                sets.sort();
                sets.dedup();
                prop_assert_eq!(listeners.sets.len(), sets.len());
                prop_assert_eq!(listeners.bytes(), sets.iter().map(|it| HeardSet::bytes_of(it)).sum::<usize>());
            }
            heard.into_iter().for_each(|(key, heard)| listeners.leave(key, &heard));
            prop_assert!(listeners.index.is_empty() && listeners.users.is_empty());
            prop_assert!(listeners.by_audiences.is_empty() && listeners.everyone.is_empty());
        }
    }
}
