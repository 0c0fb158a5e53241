//! What one message did, in connections.

use super::outbox::Pushed;

/// What one message did in one shard, in connections. `matched` = `queued` + `dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// For whom the message was.
    pub matched: u64,
    /// In whose outbox it is.
    pub queued: u64,
    /// Who had no room and is ending with 4420.
    pub dropped: u64,
    /// Messages that waited and whose place it took.
    pub replaced: u64,
}

impl Counts {
    /// Adds one connection.
    pub fn add(&mut self, pushed: Pushed) {
        match pushed {
            Pushed::Queued { replaced } => {
                self.matched += 1;
                self.queued += 1;
                self.replaced += replaced;
            }
            Pushed::Full => {
                self.matched += 1;
                self.dropped += 1;
            }
            Pushed::Ending => {}
        }
    }
}
