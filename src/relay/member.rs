//! One connection: as its socket and its worker share it, and what the worker knows of it.

use super::close::Close;
use super::frame::{Frame, Notice};
use super::head::Head;
use super::heard::Heard;
use super::outbox::Outbox;
use super::settings::ConnectionBounds;
use super::snapshot::{Begun, ConnectionSnapshot, Origin, Stage};
use super::timeline::{Hearing, Timeline};
use crate::catalog::Tenant;
use crate::domain::audience::Narrowing;
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Facts, Outcome};
use crate::domain::message::Exclusion;
use crate::domain::principal::Principal;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A connection's place in its worker's shard.
pub(crate) type Key = usize;

/// One connection as its socket and its worker share it.
#[derive(Debug)]
pub struct Link {
    /// The connection's id.
    pub id: String,
    /// What waits for the socket.
    pub outbox: Outbox,
    /// When the client last sent a frame; of a stream, which sends none, when it was last written
    /// to.
    pub last_heard: Cell<Instant>,
    /// How far the client says that it has heard everything.
    pub acknowledged: Cell<Option<Cursor>>,
    /// Whether its socket waits for its turn to write.
    pub waits_for_turn: Cell<bool>,
    /// Whether it is its socket's turn: one write.
    pub has_turn: Cell<bool>,
}

impl Link {
    /// A fresh connection that was heard just now.
    pub fn new(id: String) -> Self {
        Self {
            id,
            outbox: Outbox::default(),
            last_heard: Cell::new(Instant::now()),
            acknowledged: Cell::default(),
            waits_for_turn: Cell::default(),
            has_turn: Cell::default(),
        }
    }
}

/// How a client receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket: it must send keep-alives.
    Wss,
    /// Server-sent events: it can send nothing and is sent comments.
    Sse,
}

/// What a worker knows of one connection.
#[derive(Debug)]
pub(crate) struct Member {
    /// Shared with the socket.
    pub link: Rc<Link>,
    /// How it receives.
    pub transport: Transport,
    /// Of its instance.
    pub timeline: Arc<Timeline>,
    /// Whose it is; asked again whenever rules change.
    pub principal: Arc<Principal>,
    /// How it came.
    pub origin: Origin,
    /// Whether it was told that its token ends.
    pub warned: bool,
    /// What the client wants to hear of what it may hear.
    pub narrowing: Option<Narrowing>,
    /// Whether it has a new token, of which it is still to be worked out what its bearer hears.
    pub is_renewing: bool,
    /// Whether what it acknowledged is still being counted.
    pub is_counting: bool,
    /// What it hears.
    pub heard: Heard,
    /// When that, or its token, last changed, in milliseconds since the Unix epoch.
    pub rights_since_ms: i64,
    /// By which picture of the instance that was decided.
    pub authorized_by: Arc<Tenant>,
    /// Where it began.
    pub begun: Begun,
    /// The newest position that it has seen or that is none of its business.
    pub position: u64,
}

impl Member {
    /// What rules and filters are asked about.
    pub fn facts(&self) -> Facts<'_> {
        self.origin.facts(&self.principal)
    }

    /// Whether a filter is true of it.
    pub fn passes(&self, filter: &Expression) -> bool {
        filter.evaluate(&self.facts()) == Outcome::True
    }

    /// Whether a message is news for this connection and does not leave it out.
    pub fn wants(&self, head: &Head) -> bool {
        head.cursor.position > self.position && !self.is_excluded(&head.reach.exclude)
    }

    /// Whether it is left out by name.
    pub fn is_excluded(&self, exclude: &Exclusion) -> bool {
        let Exclusion { users, connections } = exclude;
        users.contains(&self.principal.user) || connections.iter().any(|id| *id == self.link.id)
    }

    /// Once a second: keep-alives, comments, withdrawn keys, token expiry, stuck sockets. Returns the
    /// bytes that wait for it.
    pub fn tick(&mut self, bounds: ConnectionBounds, now: Instant, unix_seconds: i64) -> usize {
        self.warn(bounds, now, unix_seconds);
        let (outbox, transport) = (&self.link.outbox, self.transport);
        let silence = now.duration_since(self.link.last_heard.get());
        let ends = self.principal.expires_at.saturating_add(bounds.leeway_seconds);
        if outbox.is_ending() {
            outbox.wake();
        } else if self.principal.key.is_withdrawn() {
            outbox.close(Close::key_withdrawn());
        } else if unix_seconds >= ends {
            outbox.close(Close::token_expired());
        } else if transport == Transport::Wss && silence >= bounds.keep_alive && !self.is_renewing {
            outbox.close(Close::keep_alive_missed());
        } else if outbox.close_if_stalled(bounds.outbox, now) {
            tracing::info!(
                connection.id = self.link.id,
                "a socket took nothing for too long; closed with 4420"
            );
        } else if transport == Transport::Sse && silence >= bounds.comment {
            outbox.push(&Frame::ping(), bounds.outbox, now);
            self.link.last_heard.set(now);
        }
        outbox.waiting_bytes()
    }

    /// Tells the client once that its token ends.
    fn warn(&mut self, bounds: ConnectionBounds, now: Instant, unix_seconds: i64) {
        let left = self.principal.expires_at.saturating_sub(unix_seconds);
        if self.warned || left > bounds.expiring_seconds {
            return;
        }
        self.warned = true;
        let seconds = u64::try_from(left).unwrap_or(0);
        self.link.outbox.push(&Frame::of(&Notice::Expiring { seconds }), bounds.outbox, now);
    }

    /// Notes how far the client says that it has heard everything. A cursor that it was never sent
    /// is not believed, and none takes back an earlier one. Where it is believed, between which
    /// positions the messages are to be counted.
    pub fn acknowledge(&self, cursor: Cursor) -> Option<(u64, u64)> {
        let before = self.link.acknowledged.get().map(|before| before.position);
        if cursor.epoch != self.timeline.epoch()
            || cursor.position > self.position
            || before.is_some_and(|before| before > cursor.position)
        {
            return None;
        }
        self.link.acknowledged.set(Some(cursor));
        Some((before.unwrap_or(self.begun.floor()), cursor.position))
    }

    /// How many messages it has been sent behind a position.
    pub fn lag_behind(&self, position: u64) -> u64 {
        self.timeline.numbers_between(position, self.position)
    }

    /// What is kept of what it was sent behind `after` and up to `to`, but for the answers of
    /// filters.
    pub fn sent_between(&self, after: u64, to: u64) -> Vec<Frame> {
        let who = Hearing::of(&self.heard, &self.principal.user);
        let mut sent = self.timeline.between(after, to, who);
        sent.retain(|frame| frame.head().is_some_and(|head| self.was_sent(head)));
        sent
    }

    /// Whether a message that is for it was sent to it, live or again.
    fn was_sent(&self, head: &Head) -> bool {
        let position = head.cursor.position;
        if position > self.begun.position {
            let is_replaced =
                head.progress.was_replaced() && self.link.outbox.may_be_replaced(position);
            return !head.reach.exclude.connections.contains(&self.link.id) && !is_replaced;
        }
        head.expires.is_some_and(|expires| expires > self.begun.at)
    }

    /// What is known of it.
    pub fn snapshot(&self, stage: Stage) -> ConnectionSnapshot {
        ConnectionSnapshot {
            id: self.link.id.clone(),
            principal: self.principal.clone(),
            origin: self.origin.clone(),
            narrowing: self.narrowing.clone(),
            begun: self.begun,
            rights_since_ms: self.rights_since_ms,
            acknowledged_to: self.link.acknowledged.get().map_or(0, |cursor| cursor.position),
            record: self.link.outbox.record(),
            stage,
        }
    }

    /// The same while it is open, for the message of this position.
    pub fn open_snapshot(&self, position: u64) -> ConnectionSnapshot {
        self.snapshot(Stage::Open { holds: self.link.outbox.holds(position) })
    }
}
