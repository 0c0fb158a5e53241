//! What the relay is built with: the bounds of each of its parts.

use std::time::Duration;

/// Of a turn: what is worked out for one instance makes others wait no longer.
pub const SLICE: Duration = Duration::from_micros(250);

/// What the relay is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// Of each worker's queue.
    pub queue: QueueBounds,
    /// Of each connection.
    pub connection: ConnectionBounds,
    /// Of each instance's window, and of all of them.
    pub history: HistoryBounds,
    /// Of what can be said of messages afterwards.
    pub traces: TraceBounds,
    /// Ids of publishers that are remembered.
    pub ids: usize,
    /// What `CONNECTED` tells clients, in seconds.
    pub keep_alive_seconds: u64,
    /// Connections of the whole process.
    pub connections: usize,
}

/// What one worker's queue may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Messages.
    pub messages: usize,
    /// Bytes of their frames.
    pub bytes: usize,
}

/// The bounds that every tick and every delivery looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionBounds {
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
    /// Filters that an instance keeps with their answers, on each worker.
    pub filters: usize,
    /// Connections of an instance that wait, on each worker, until it is worked out what they hear.
    pub newcomers: usize,
    /// Bytes that the sets of groups and channels take that an instance's connections hear, on each
    /// worker.
    pub heard_bytes: usize,
    /// How long an instance may authorize, answer and deliver before it is another's turn.
    pub slice: Duration,
}

/// How much may wait for one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Bytes of frames that wait.
    pub bytes: usize,
    /// How long nothing may have been taken while something waits.
    pub stall: Duration,
}

/// How much is kept for clients that resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// For how long.
    pub window: Duration,
    /// Messages of one audience; 0 keeps nothing.
    pub messages: usize,
    /// Bytes of one audience's frames.
    pub bytes: usize,
    /// Bytes of the whole process.
    pub total_bytes: usize,
    /// Most messages of one replay.
    pub replay_messages: usize,
    /// Most bytes of one replay.
    pub replay_bytes: usize,
}

/// How much is remembered to say what became of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceBounds {
    /// For how long: the window's time.
    pub window: Duration,
    /// Messages of one instance.
    pub traces: usize,
    /// Ended connections of one instance.
    pub ended: usize,
    /// Bytes of the whole process.
    pub total_bytes: usize,
}

impl Default for RelaySettings {
    /// What a service has with nothing set, and 10,000 connections.
    fn default() -> Self {
        let window = Duration::from_secs(120);
        Self {
            queue: QueueBounds { messages: 1_024, bytes: 16 << 20 },
            connection: ConnectionBounds {
                outbox: OutboxBounds { bytes: 256 << 10, stall: Duration::from_secs(10) },
                keep_alive: Duration::from_secs(75),
                comment: Duration::from_secs(15),
                leeway_seconds: 30,
                expiring_seconds: 60,
                filters: 64,
                newcomers: 100,
                heard_bytes: 64 << 20,
                slice: SLICE,
            },
            history: HistoryBounds {
                window,
                messages: 1_000,
                bytes: 1 << 20,
                total_bytes: 256 << 20,
                replay_messages: 10_000,
                replay_bytes: 4 << 20,
            },
            traces: TraceBounds { window, traces: 10_000, ended: 1_000, total_bytes: 64 << 20 },
            ids: 200_000,
            keep_alive_seconds: 60,
            connections: 10_000,
        }
    }
}

#[cfg(test)]
impl HistoryBounds {
    /// Wide enough for any test that is not about them.
    pub const WIDE: Self = Self {
        window: Duration::from_secs(120),
        messages: 1_000,
        bytes: 1 << 20,
        total_bytes: 1 << 28,
        replay_messages: 10_000,
        replay_bytes: 1 << 22,
    };
}

#[cfg(test)]
impl TraceBounds {
    /// Wide enough for any test that is not about them.
    pub const WIDE: Self = Self {
        window: Duration::from_secs(120),
        traces: 10_000,
        ended: 1_000,
        total_bytes: 64 << 20,
    };
}
