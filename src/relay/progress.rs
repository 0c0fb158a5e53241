//! How far one message has got, in connections: counters that its frame carries wherever it waits.

use super::shard::Counts;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

/// How many steps are counted.
const STEPS: usize = 9;

/// What may become of a message for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was for the connection.
    Matched,
    /// It was put into the outbox.
    Queued,
    /// There was no room: the connection ends with 4420.
    Dropped,
    /// It was handed to the socket.
    Written,
    /// It was handed to the socket of one who resumed.
    Replayed,
    /// The client says that it has it.
    Acknowledged,
    /// A newer message took its place before it was written.
    Replaced,
    /// It waited for a client that was too slow: the connection ended with 4420.
    TooSlow,
    /// It waited for a connection that ended otherwise.
    Ended,
}

/// One message's counters. Each step of each connection is one atomic addition.
#[derive(Debug, Default)]
pub struct Progress {
    /// The message's place in the instance's order.
    pub position: u64,
    /// When the first worker delivered it, in milliseconds since the Unix epoch; 0 before.
    queued_at_ms: AtomicI64,
    /// By step.
    counters: [AtomicU32; STEPS],
}

/// The counters as they were read; what happens meanwhile may be in some and not yet in others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums([u64; STEPS]);

impl Progress {
    /// Of a message that went to nobody yet.
    pub fn at(position: u64) -> Self {
        Self { position, ..Self::default() }
    }

    /// Counts one connection.
    pub fn count(&self, step: Step) {
        self.add(step, 1);
    }

    /// Adds what one worker did.
    pub fn delivered(&self, counts: Counts, at_ms: i64) {
        self.add(Step::Matched, counts.matched);
        self.add(Step::Queued, counts.queued);
        self.add(Step::Dropped, counts.dropped);
        // The first worker's time stays.
        let _later = self.queued_at_ms.compare_exchange(0, at_ms, Relaxed, Relaxed);
    }

    /// When the first worker delivered it, in milliseconds since the Unix epoch; none before.
    pub fn queued_at_ms(&self) -> Option<i64> {
        Some(self.queued_at_ms.load(Relaxed)).filter(|at| *at != 0)
    }

    /// Whether a newer message took its place for anyone.
    pub fn was_replaced(&self) -> bool {
        self.sums().of(Step::Replaced) > 0
    }

    /// All counters.
    pub fn sums(&self) -> Sums {
        Sums(self.counters.each_ref().map(|counter| u64::from(counter.load(Relaxed))))
    }

    fn add(&self, step: Step, connections: u64) {
        if let Some(counter) = self.counters.get(step as usize) {
            counter.fetch_add(u32::try_from(connections).unwrap_or(u32::MAX), Relaxed);
        }
    }
}

impl Sums {
    /// How many connections took this step.
    pub fn of(&self, step: Step) -> u64 {
        self.0.get(step as usize).copied().unwrap_or(0)
    }

    /// Connections in whose outbox it still is.
    pub fn waiting(&self) -> u64 {
        let gone =
            [Step::Written, Step::Replaced, Step::TooSlow, Step::Ended].map(|step| self.of(step));
        self.of(Step::Queued).saturating_sub(gone.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_queued_waits_until_it_took_another_step() {
        let progress = Progress::at(7);
        assert_eq!(progress.queued_at_ms(), None);
        progress.delivered(Counts { matched: 5, queued: 4, dropped: 1, replaced: 9 }, 1_000);
        progress.delivered(Counts { matched: 1, queued: 1, ..Counts::default() }, 2_000);
        assert_eq!((progress.queued_at_ms(), progress.sums().waiting()), (Some(1_000), 5));
        for step in [Step::Written, Step::Replaced, Step::TooSlow, Step::Ended] {
            let before = progress.sums().waiting();
            progress.count(step);
            assert_eq!(
                (progress.sums().waiting(), progress.sums().of(step)),
                (before - 1, 1),
                "{step:?}"
            );
        }
        progress.count(Step::Replayed);
        progress.count(Step::Acknowledged);
        let sums = progress.sums();
        assert_eq!((sums.waiting(), sums.of(Step::Matched), sums.of(Step::Dropped)), (1, 6, 1));
        assert_eq!((sums.of(Step::Replaced), sums.of(Step::Acknowledged)), (1, 1));
    }
}
