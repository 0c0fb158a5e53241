//! One connection as its socket and its shard share it.

use super::outbox::Outbox;
use crate::domain::cursor::Cursor;
use std::cell::Cell;
use std::time::Instant;

/// One connection as its socket and its shard share it.
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
