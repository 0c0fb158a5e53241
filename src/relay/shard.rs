//! One worker's registry: audience -> outboxes; plain data, no async.

mod rehearsal;
pub use super::counts::Counts;
pub use super::link::{Link, Transport};

use super::filters::Filters;
use super::frame::{Close, Frame, Notice, names};
use super::lanes::Lane;
use super::outbox::OutboxBounds;
use super::passage::Begun;
use super::realm::Realm;
use super::roster::Origin;
use crate::catalog::{Known, Snapshot, Tenant};
use crate::domain::audience::{Audience, Narrowing};
use crate::domain::expression::{Expression, Facts, Outcome};
use crate::domain::instance::InstanceId;
use crate::domain::message::Exclusion;
use crate::domain::principal::Principal;
use chrono::Utc;
use indexmap::IndexSet;
use slab::Slab;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A connection's place in its shard.
pub type Key = usize;

/// What a shard knows of one connection.
#[derive(Debug)]
pub struct Member {
    /// Shared with the socket.
    pub link: Rc<Link>,
    /// How it receives.
    pub transport: Transport,
    /// Its instance.
    pub realm: Arc<Realm>,
    /// Whose it is; asked again whenever rules change.
    pub principal: Arc<Principal>,
    /// How it came.
    pub origin: Origin,
    /// Whether it was told that its token ends.
    pub warned: bool,
    /// What the client wants to hear of what it may hear.
    pub narrowing: Option<Narrowing>,
    /// What it hears: the keys under which the index holds it.
    pub audiences: Vec<Audience>,
    /// When that, or its token, last changed, in milliseconds since the Unix epoch.
    pub rights_since_ms: i64,
    /// By which picture of the instance that was decided.
    pub judged_by: Arc<Tenant>,
    /// Where it began.
    pub begun: Begun,
    /// The newest position that it has seen or that is none of its business.
    pub position: u64,
}

/// A message for the connections of one instance.
#[derive(Debug)]
pub struct Delivery {
    /// Where.
    pub instance: InstanceId,
    /// Each connection of any of these gets it once.
    pub audiences: Vec<Audience>,
    /// Less these.
    pub exclude: Exclusion,
    /// Less those of whom it is not true.
    pub filter: Option<Expression>,
    /// Its place in the instance's order.
    pub position: u64,
    /// Under the `latest` policy.
    pub lane: Option<Lane>,
    /// What is written; none only counts what would happen to a frame of so many bytes.
    pub frame: Result<Frame, usize>,
}

/// The bounds that every tick and push looks at.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of each outbox.
    pub outbox: OutboxBounds,
    /// Nothing heard for so long: 4408.
    pub keep_alive: Duration,
    /// Nothing written to a stream for so long: a comment.
    pub comment: Duration,
    /// Seconds that a token still counts after its `exp`.
    pub leeway_seconds: i64,
    /// Seconds before its `exp` at which the client is told.
    pub expiring_seconds: i64,
    /// Filters that an instance keeps with their answers.
    pub filters: usize,
}

/// The connections of one worker.
#[derive(Debug)]
pub struct Shard {
    members: Slab<Member>,
    rooms: HashMap<InstanceId, Room>,
    bounds: Bounds,
    /// How often a rule or a filter was evaluated, on all workers.
    evaluations: Arc<AtomicU64>,
}

/// The connections of one instance on this worker. An audience without a connection is not in the index.
#[derive(Debug, Default)]
struct Room {
    members: IndexSet<Key>,
    index: HashMap<Audience, IndexSet<Key>>,
    filters: Filters,
    /// The tenant under whose rules all were last asked again.
    judged_by: Option<Arc<Tenant>>,
}

impl Shard {
    /// An empty shard.
    pub fn new(bounds: Bounds, evaluations: Arc<AtomicU64>) -> Self {
        Self { members: Slab::new(), rooms: HashMap::new(), bounds, evaluations }
    }

    /// Registers a connection under its audiences.
    pub fn insert(&mut self, member: Member) -> Key {
        let room = self.rooms.entry(member.realm.instance.clone()).or_default();
        let entry = self.members.vacant_entry();
        let key = entry.key();
        room.members.insert(key);
        room.filters.forget(key);
        for audience in &member.audiences {
            room.index.entry(audience.clone()).or_default().insert(key);
        }
        entry.insert(member);
        key
    }

    /// Takes a connection out of every index. Nothing of an empty audience or room stays.
    pub fn remove(&mut self, key: Key) -> Option<Member> {
        let member = self.members.try_remove(key)?;
        if let Some(room) = self.rooms.get_mut(&member.realm.instance) {
            room.members.swap_remove(&key);
            room.filters.remove(key);
            for audience in &member.audiences {
                room.unlist(audience, key);
            }
            if room.members.is_empty() {
                self.rooms.remove(&member.realm.instance);
            }
        }
        if self.members.is_empty() {
            self.members = Slab::new();
            self.rooms.shrink_to_fit();
        }
        Some(member)
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Queues a message for everyone it is for. Costs a reference a receiver.
    pub fn deliver(&mut self, delivery: &Delivery, now: Instant) -> Counts {
        let mut counts = Counts::default();
        let frame = match &delivery.frame {
            Ok(frame) => frame,
            Err(bytes) => {
                self.rehearse(delivery, *bytes, now).values().for_each(|pushed| counts.add(*pushed));
                return counts;
            }
        };
        let Some(room) = self.rooms.get_mut(&delivery.instance) else { return counts };
        for key in room.receivers(delivery, &self.members, &self.evaluations, self.bounds.filters) {
            let Some(member) = self.members.get_mut(key) else { continue };
            if !member.wants(delivery) {
                continue;
            }
            // Stamps the receiver, so that a second audience skips it.
            member.position = delivery.position;
            counts.add(match &delivery.lane {
                None => member.link.outbox.push(frame, self.bounds.outbox, now),
                Some(lane) => member.link.outbox.push_latest(frame, lane, self.bounds.outbox, now),
            });
        }
        counts
    }

    /// Every connection of an instance, for work that is cut into pieces.
    pub fn keys(&self, instance: &InstanceId) -> Vec<Key> {
        self.rooms.get(instance).map(|room| room.members.iter().copied().collect()).unwrap_or_default()
    }

    /// Every connection.
    pub fn all_keys(&self) -> Vec<Key> {
        self.members.iter().map(|(key, _)| key).collect()
    }

    /// The bounds it was built with.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The instances with a connection here that `snapshot` shows otherwise than the last one that was asked about.
    pub fn changed_since_last(&mut self, snapshot: &Snapshot) -> Vec<InstanceId> {
        let mut changed = Vec::new();
        for (instance, room) in &mut self.rooms {
            let tenant = snapshot.tenants.get(instance);
            let same = matches!((&room.judged_by, tenant), (Some(old), Some(new)) if Arc::ptr_eq(old, new));
            if !same {
                room.judged_by = tenant.cloned();
                changed.push(instance.clone());
            }
        }
        changed
    }

    /// One connection.
    pub fn get(&self, key: Key) -> Option<&Member> {
        self.members.get(key)
    }

    /// Asks again whether a connection may stay and what it may hear, and tells it when that changed.
    pub fn reassess(&mut self, key: Key, snapshot: &Snapshot, now: Instant) {
        self.judge(key, snapshot, now, Tell::IfChanged);
    }

    /// Puts a new token in the place of the old one, and tells the connection what it hears now.
    pub fn renew(&mut self, key: Key, principal: Arc<Principal>, snapshot: &Snapshot, now: Instant) {
        if let Some(member) = self.members.get_mut(key) {
            (member.principal, member.warned) = (principal, false);
            if let Some(room) = self.rooms.get_mut(&member.realm.instance) {
                room.filters.forget(key);
            }
            self.judge(key, snapshot, now, Tell::Always);
        }
    }

    fn judge(&mut self, key: Key, snapshot: &Snapshot, now: Instant, tell: Tell) {
        let Some(member) = self.members.get_mut(key) else { return };
        let tenant = match snapshot.tenants.get(&member.realm.instance) {
            Some(tenant) if tenant.instance.enabled => tenant,
            Some(_) => return member.link.outbox.close(Close::instance_disabled()),
            None => return member.link.outbox.close(Close::instance_gone(member.principal.is_valid_everywhere())),
        };
        if tenant.revokes(&member.principal) {
            return member.link.outbox.close(Close::token_revoked());
        }
        let facts = member.facts();
        let heard = member.hears(tenant, &facts, tell);
        self.evaluations.fetch_add(facts.asked(), Relaxed);
        member.judged_by = tenant.clone();
        if heard == member.audiences && tell == Tell::IfChanged {
            return;
        }
        member.rights_since_ms = Utc::now().timestamp_millis();
        if let Some(room) = self.rooms.get_mut(&member.realm.instance) {
            for audience in member.audiences.iter().filter(|audience| !heard.contains(audience)) {
                room.unlist(audience, key);
            }
            for audience in heard.iter().filter(|audience| !member.audiences.contains(audience)) {
                room.index.entry(audience.clone()).or_default().insert(key);
            }
        }
        member.link.outbox.push(&Frame::of(&Notice::Channels { channels: names(&heard) }), self.bounds.outbox, now);
        member.audiences = heard;
    }

    /// Once a second: keep-alives, comments, token expiry, stuck sockets. Returns the bytes that wait in all outboxes.
    pub fn tick(&mut self, now: Instant, unix_seconds: i64) -> usize {
        let mut waiting = 0;
        for (_, member) in &mut self.members {
            member.warn(self.bounds, now, unix_seconds);
            let (outbox, transport) = (&member.link.outbox, member.transport);
            let silence = now.duration_since(member.link.last_heard.get());
            if outbox.is_ending() {
                outbox.wake();
            } else if unix_seconds >= member.principal.expires_at.saturating_add(self.bounds.leeway_seconds) {
                outbox.close(Close::token_expired());
            } else if transport == Transport::Wss && silence >= self.bounds.keep_alive {
                outbox.close(Close::keep_alive_missed());
            } else if outbox.close_if_stalled(self.bounds.outbox, now) {
                tracing::info!(connection.id = member.link.id, "a socket took nothing for too long; closed with 4420");
            } else if transport == Transport::Sse && silence >= self.bounds.comment {
                outbox.push(&Frame::ping(), self.bounds.outbox, now);
                member.link.last_heard.set(now);
            }
            waiting += outbox.waiting_bytes();
        }
        waiting
    }
}

/// Whether a connection is told what it hears.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    /// The rules may have changed.
    IfChanged,
    /// Its token has changed.
    Always,
}

impl Member {
    /// What rules and filters are asked about.
    pub fn facts(&self) -> Facts<'_> {
        self.origin.facts(&self.principal)
    }

    /// What it may hear under the rules of `tenant`. Rules that have not changed are asked again only of a new token.
    fn hears(&self, tenant: &Tenant, facts: &Facts<'_>, tell: Tell) -> Vec<Audience> {
        let known = Known { tenant: &self.judged_by, heard: &self.audiences };
        let known = (tell == Tell::IfChanged).then_some(known);
        tenant.audiences_of(facts, self.narrowing.as_ref(), known)
    }

    /// Tells the client once that its token ends.
    fn warn(&mut self, bounds: Bounds, now: Instant, unix_seconds: i64) {
        let left = self.principal.expires_at.saturating_sub(unix_seconds);
        if self.warned || left > bounds.expiring_seconds {
            return;
        }
        self.warned = true;
        let seconds = u64::try_from(left).unwrap_or(0);
        self.link.outbox.push(&Frame::of(&Notice::Expiring { seconds }), bounds.outbox, now);
    }

    /// Whether a message is news for this connection and does not leave it out.
    fn wants(&self, delivery: &Delivery) -> bool {
        let Exclusion { users, connections } = &delivery.exclude;
        delivery.position > self.position
            && !users.contains(&self.principal.user)
            && !connections.iter().any(|id| *id == self.link.id)
    }
}

impl Room {
    /// Whom a delivery is for, some of them more than once.
    fn receivers<'a>(
        &'a mut self,
        delivery: &'a Delivery,
        members: &Slab<Member>,
        evaluations: &AtomicU64,
        most_filters: usize,
    ) -> Box<dyn Iterator<Item = Key> + 'a> {
        let audiences = || delivery.audiences.iter().filter_map(|audience| self.index.get(audience));
        let Some(filter) = &delivery.filter else { return Box::new(audiences().flatten().copied()) };
        let sieve = self.filters.sieve(filter, &self.members, most_filters);
        let passes = |key| {
            evaluations.fetch_add(1, Relaxed);
            members.get(key).is_some_and(|member| filter.evaluate(&member.facts()) == Outcome::True)
        };
        sieve.ask(audiences().flatten().copied(), passes);
        // The shorter list is walked, so that a filter that few pass costs no more than they do.
        match sieve.passing.len() < audiences().map(IndexSet::len).sum::<usize>() {
            true => {
                let index = &self.index;
                let is_meant = |key: &Key| {
                    delivery.audiences.iter().any(|audience| index.get(audience).is_some_and(|keys| keys.contains(key)))
                };
                Box::new(sieve.passing.iter().copied().filter(move |key| is_meant(key)))
            }
            false => Box::new(audiences().flatten().copied().filter(|key| sieve.passing.contains(key))),
        }
    }

    fn unlist(&mut self, audience: &Audience, key: Key) {
        if let Some(keys) = self.index.get_mut(audience) {
            keys.swap_remove(&key);
            if keys.is_empty() {
                self.index.remove(audience);
            }
        }
    }
}
