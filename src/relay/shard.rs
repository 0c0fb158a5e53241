//! One worker's registry: audience -> outboxes; plain data, no async.

mod judging;
mod line;
mod rehearsal;
mod room;
mod turns;

pub use super::counts::Counts;
pub use super::link::{Link, Transport};

use super::frame::{Close, Frame, Notice};
use super::lanes::Lane;
use super::outbox::OutboxBounds;
use super::passage::Begun;
use super::realm::Realm;
use super::roster::Origin;
use crate::catalog::Tenant;
use crate::domain::audience::{Audience, Narrowing};
use crate::domain::expression::Facts;
use crate::domain::instance::InstanceId;
use crate::domain::message::{Exclusion, Reach};
use crate::domain::principal::Principal;
use ahash::RandomState;
use line::Line;
use room::Room;
use slab::Slab;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
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
    /// Whom it is for.
    pub reach: Arc<Reach>,
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

/// Above so many places an empty list of a room gives its memory back.
const QUEUED: usize = 64;

/// The connections of one worker.
#[derive(Debug)]
pub struct Shard {
    members: Slab<Member>,
    rooms: HashMap<InstanceId, Room, RandomState>,
    /// The instances for which something is to be done.
    line: Line,
    bounds: Bounds,
    /// How often a rule or a filter was evaluated, on all workers.
    evaluations: Arc<AtomicU64>,
}

impl Shard {
    /// An empty shard.
    pub fn new(bounds: Bounds, evaluations: Arc<AtomicU64>) -> Self {
        Self {
            members: Slab::new(),
            rooms: HashMap::default(),
            line: Line::default(),
            bounds,
            evaluations,
        }
    }

    /// Registers a connection under its audiences.
    pub fn insert(&mut self, member: Member) -> Key {
        let room = self.rooms.entry(member.realm.instance.clone()).or_default();
        let entry = self.members.vacant_entry();
        let key = entry.key();
        room.members.insert(key);
        room.filters.forget(key);
        for audience in &member.audiences {
            room.list(audience, key);
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
            room.shrink();
            if room.is_empty() {
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

    /// Every connection of an instance, for work that is cut into pieces.
    pub fn keys(&self, instance: &InstanceId) -> Vec<Key> {
        self.rooms
            .get(instance)
            .map(|room| room.members.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Every connection.
    pub fn all_keys(&self) -> Vec<Key> {
        self.members.iter().map(|(key, _)| key).collect()
    }

    /// The bounds it was built with.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// One connection.
    pub fn get(&self, key: Key) -> Option<&Member> {
        self.members.get(key)
    }

    /// Once a second: keep-alives, comments, token expiry, stuck sockets. Returns the bytes that
    /// wait in all outboxes.
    pub fn tick(&mut self, now: Instant, unix_seconds: i64) -> usize {
        let mut waiting = 0;
        for (_, member) in &mut self.members {
            member.warn(self.bounds, now, unix_seconds);
            let (outbox, transport) = (&member.link.outbox, member.transport);
            let silence = now.duration_since(member.link.last_heard.get());
            if outbox.is_ending() {
                outbox.wake();
            } else if unix_seconds
                >= member.principal.expires_at.saturating_add(self.bounds.leeway_seconds)
            {
                outbox.close(Close::token_expired());
            } else if transport == Transport::Wss && silence >= self.bounds.keep_alive {
                outbox.close(Close::keep_alive_missed());
            } else if outbox.close_if_stalled(self.bounds.outbox, now) {
                tracing::info!(
                    connection.id = member.link.id,
                    "a socket took nothing for too long; closed with 4420"
                );
            } else if transport == Transport::Sse && silence >= self.bounds.comment {
                outbox.push(&Frame::ping(), self.bounds.outbox, now);
                member.link.last_heard.set(now);
            }
            waiting += outbox.waiting_bytes();
        }
        waiting
    }
}

impl Member {
    /// What rules and filters are asked about.
    pub fn facts(&self) -> Facts<'_> {
        self.origin.facts(&self.principal)
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
        let Exclusion { users, connections } = &delivery.reach.exclude;
        delivery.position > self.position
            && !users.contains(&self.principal.user)
            && !connections.iter().any(|id| *id == self.link.id)
    }
}
