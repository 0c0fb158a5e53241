//! What an outbox answers to a frame.

use crate::relay::progress::Counts;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits for the socket, in the place of so many older ones of its channel.
    Queued {
        /// 0 where none gives way to a newer one.
        replaced: u64,
    },
    /// There was no room: what waited is given up and the connection ends with 4420.
    Full,
    /// The connection is ending anyway; it is no receiver any more.
    Ending,
}

impl Pushed {
    /// The same, in connections.
    pub fn counts(self) -> Counts {
        match self {
            Self::Queued { replaced } => Counts { matched: 1, queued: 1, dropped: 0, replaced },
            Self::Full => Counts { matched: 1, dropped: 1, ..Counts::default() },
            Self::Ending => Counts::default(),
        }
    }
}

/// Whether the socket's task is to be woken at its turn, since something came for it.
#[must_use = "a socket that is not woken does not write"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// It waits, or is to go.
    Due,
    /// It looks by itself, or will be woken anyway.
    NotDue,
}
