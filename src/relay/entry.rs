//! One message in the window.

use super::frame::Frame;
use crate::domain::audience::Audience;
use crate::domain::expression::Expression;
use crate::domain::principal::UserId;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

/// Bytes that an entry is counted with beyond its frame; generous, so that the bound holds for small messages too.
const ENTRY_BYTES: usize = 384;

/// One message in the window; every audience that it was for shares it.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the instance's order.
    pub position: u64,
    /// What was and will be sent.
    pub frame: Frame,
    /// Whom it was for.
    pub audiences: Box<[Audience]>,
    /// Whom it was not for.
    pub without: Without,
    /// When it leaves the window.
    pub kept_until: Instant,
    /// When it is no longer worth sending: its `ttl`.
    pub expires: Instant,
    /// Rings that still hold it.
    pub(super) held_by: AtomicU32,
}

impl Entry {
    /// A message that no ring holds yet.
    pub fn new(position: u64, frame: Frame, audiences: &[Audience], without: Without, times: Times) -> Self {
        Self {
            position,
            frame,
            audiences: audiences.into(),
            without,
            kept_until: times.kept_until,
            expires: times.expires,
            held_by: AtomicU32::new(0),
        }
    }

    /// What it is counted with.
    pub(super) fn bytes(&self) -> usize {
        ENTRY_BYTES + self.frame.wire_bytes()
    }
}

/// Who is left out of a message's audiences.
#[derive(Clone, Debug, Default)]
pub struct Without {
    /// These, on replay too.
    pub users: Box<[UserId]>,
    /// These connections, when it was sent first; none after a restart.
    pub connections: Box<[String]>,
    /// Those of whom it is not true, on replay too.
    pub filter: Option<Expression>,
}

/// How long a message is kept and sent.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When it leaves the window.
    pub kept_until: Instant,
    /// When its `ttl` ends; no later.
    pub expires: Instant,
}
