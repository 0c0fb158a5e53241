//! One message in the window.

use super::frame::Frame;
use crate::domain::message::Reach;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

/// Bytes that an entry is counted with beyond its frame; generous, so that the bound holds for
/// small messages too.
const ENTRY_BYTES: usize = 384;

/// One message in the window; every audience that it was for shares it.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the instance's order.
    pub position: u64,
    /// What was and will be sent.
    pub frame: Frame,
    /// Whom it was for; excluded connections count when it was sent first, and none is known after
    /// a restart.
    pub reach: Arc<Reach>,
    /// When it leaves the window.
    pub kept_until: Instant,
    /// When it is no longer worth sending: its `ttl`.
    pub expires: Instant,
    /// Rings that still hold it.
    pub(super) held_by: AtomicU32,
}

impl Entry {
    /// A message that no ring holds yet.
    pub fn new(position: u64, frame: Frame, reach: Arc<Reach>, times: Times) -> Self {
        Self {
            position,
            frame,
            reach,
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

/// How long a message is kept and sent.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When it leaves the window.
    pub kept_until: Instant,
    /// When its `ttl` ends; no later.
    pub expires: Instant,
}
