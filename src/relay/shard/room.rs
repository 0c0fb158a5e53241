//! The connections of one instance on one worker, by what they hear; and what is to be done for
//! them.

use super::turns::UnderWay;
use super::{Delivery, Key, Member, QUEUED};
use crate::catalog::Tenant;
use crate::domain::audience::Audience;
use crate::domain::expression::{Expression, Outcome};
use crate::relay::filters::Filters;
use crate::relay::queue::Parcel;
use ahash::RandomState;
use indexmap::IndexSet;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The connections of one instance on this worker. An audience without a connection is not in the
/// index.
#[derive(Debug, Default)]
pub struct Room {
    /// All of them.
    pub members: IndexSet<Key>,
    index: HashMap<Audience, IndexSet<Key>, RandomState>,
    /// How often what someone may hear, or whom filters are asked about, has changed.
    pub changes: u64,
    /// Who passes the filters that were used lately.
    pub filters: Filters,
    /// The tenant under whose rules all were last asked again.
    pub judged_by: Option<Arc<Tenant>>,
    /// What waits for the room's next turn.
    pub work: Work,
}

/// What is to be done for a room, a piece at each of its turns.
#[derive(Debug, Default)]
pub struct Work {
    /// Who is to be asked again under new rules. Messages wait for that: what was answered as
    /// changed holds for what is published afterwards.
    pub unjudged: Vec<Key>,
    /// Messages, oldest first; the queue that they came by bounds them.
    pub parcels: VecDeque<Arc<Parcel>>,
    /// The first of them, once it is being delivered.
    pub under_way: UnderWay,
    /// Sockets that have something to write and are to be woken, each once.
    pub unwoken: VecDeque<Key>,
    /// Whether the room is in the line for a turn, or has it now.
    pub has_turn: bool,
}

impl Work {
    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.unjudged.is_empty() && self.parcels.is_empty() && self.unwoken.is_empty()
    }
}

/// How a worker asks expressions.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The worker's connections.
    pub members: &'a Slab<Member>,
    /// Where evaluations are counted.
    pub evaluations: &'a AtomicU64,
    /// Filters that an instance keeps with their answers.
    pub most_filters: usize,
}

impl Room {
    /// Asks those whom a filtered delivery is for and who were not asked yet, for as long as there
    /// is time, one at least. True when nobody is left to be asked.
    pub fn ask(&mut self, delivery: &Delivery, asking: Asking<'_>, until: Instant) -> bool {
        let Some(filter) = &delivery.reach.filter else { return true };
        let sieve = self.filters.sieve(filter, &self.members, asking.most_filters);
        let meant = delivery
            .reach
            .audiences
            .iter()
            .filter_map(|audience| self.index.get(audience))
            .flatten()
            .copied();
        sieve.ask(meant, |key| asking.passes(filter, key), || Instant::now() < until)
    }

    /// Whom a delivery is for, some of them more than once.
    pub fn receivers<'a>(
        &'a mut self,
        delivery: &'a Delivery,
        asking: Asking<'_>,
    ) -> Box<dyn Iterator<Item = Key> + 'a> {
        let reach = &delivery.reach;
        let audiences = || reach.audiences.iter().filter_map(|audience| self.index.get(audience));
        let Some(filter) = &reach.filter else { return Box::new(audiences().flatten().copied()) };
        let sieve = self.filters.sieve(filter, &self.members, asking.most_filters);
        sieve.ask(audiences().flatten().copied(), |key| asking.passes(filter, key), || true);
        // The shorter list is walked, so that a filter that few pass costs no more than they do.
        match sieve.passing.len() < audiences().map(IndexSet::len).sum::<usize>() {
            true => {
                let index = &self.index;
                let is_meant = |key: &Key| {
                    reach
                        .audiences
                        .iter()
                        .any(|audience| index.get(audience).is_some_and(|keys| keys.contains(key)))
                };
                Box::new(sieve.passing.iter().copied().filter(move |key| is_meant(key)))
            }
            false => {
                Box::new(audiences().flatten().copied().filter(|key| sieve.passing.contains(key)))
            }
        }
    }

    /// Puts a connection among those that hear an audience.
    pub fn list(&mut self, audience: &Audience, key: Key) {
        if let Some(keys) = self.index.get_mut(audience) {
            keys.insert(key);
        } else {
            self.index.entry(audience.clone()).or_default().insert(key);
        }
    }

    /// Takes it out again.
    pub fn unlist(&mut self, audience: &Audience, key: Key) {
        if let Some(keys) = self.index.get_mut(audience) {
            keys.swap_remove(&key);
            if keys.is_empty() {
                self.index.remove(audience);
            }
        }
    }

    /// Whether neither someone nor something is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.work.parcels.is_empty()
    }

    /// Gives memory back that was needed for more connections than there are.
    pub fn shrink(&mut self) {
        let is_roomy = |length: usize, capacity: usize| capacity > 64 && length * 4 < capacity;
        if is_roomy(self.members.len(), self.members.capacity()) {
            self.members.shrink_to_fit();
        }
        if is_roomy(self.index.len(), self.index.capacity()) {
            self.index.shrink_to_fit();
        }
        if self.work.unwoken.is_empty() && self.work.unwoken.capacity() > QUEUED {
            self.work.unwoken = VecDeque::new();
        }
    }
}

impl Asking<'_> {
    fn passes(&self, filter: &Expression, key: Key) -> bool {
        self.evaluations.fetch_add(1, Relaxed);
        self.members
            .get(key)
            .is_some_and(|member| filter.evaluate(&member.facts()) == Outcome::True)
    }
}
