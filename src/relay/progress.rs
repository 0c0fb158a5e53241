//! How far one message has got, in connections: counters that its head carries wherever it waits,
//! and the workers' reports that its publisher waits for.

use std::ops::AddAssign;
use std::sync::atomic::{
    AtomicI64, AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

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

/// What one message did, in connections. `matched` = `queued` + `dropped`.
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

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.matched += more.matched;
        self.queued += more.queued;
        self.dropped += more.dropped;
        self.replaced += more.replaced;
    }
}

/// One message's counters, and how many workers still have it before them.
#[derive(Debug, Default)]
pub struct Progress {
    /// When the first worker delivered it, in milliseconds since the Unix epoch; 0 before.
    queued_at_ms: AtomicI64,
    /// By step. Each step of each connection is one atomic addition.
    counters: [AtomicU32; STEPS],
    /// Messages whose place it took when it was queued.
    took_places: AtomicU32,
    /// Workers that have not reported yet.
    missing: AtomicU32,
    /// Told when the last of them has.
    complete: Notify,
}

/// The counters as they were read; what happens meanwhile may be in some and not yet in others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums([u64; STEPS]);

impl Progress {
    /// Of a message that an earlier process delivered.
    pub fn counted_before(counts: Counts, is_complete: bool) -> Self {
        let progress = Self { missing: AtomicU32::new(u32::from(!is_complete)), ..Self::default() };
        progress.add(counts);
        progress
    }

    /// It goes to so many workers. Before it does: nobody else has it yet.
    pub fn expect(&self, workers: usize) {
        self.missing.store(u32::try_from(workers).unwrap_or(u32::MAX), Relaxed);
    }

    /// Counts one connection.
    pub fn count(&self, step: Step) {
        self.add_to(step, 1);
    }

    /// What one worker did; each reports once. One that nobody waits for was not expected to have
    /// someone for it.
    pub fn report(&self, counts: Counts) {
        self.add(counts);
        let one_less = self.missing.fetch_update(AcqRel, Acquire, |left| left.checked_sub(1));
        if one_less == Ok(1) {
            self.complete.notify_waiters();
        }
    }

    /// A worker delivered it at this time, in milliseconds since the Unix epoch. The first one's
    /// stays.
    pub fn delivered_at(&self, at_ms: i64) {
        let _later = self.queued_at_ms.compare_exchange(0, at_ms, Relaxed, Relaxed);
    }

    /// What all workers did, and whether each has reported before the deadline. Any number may
    /// wait.
    pub async fn counted(&self, deadline: Instant) -> (Counts, bool) {
        loop {
            // Made before the look: whoever reports after the look wakes it.
            let told = self.complete.notified();
            if self.missing.load(Acquire) == 0 {
                return (self.counts(), true);
            }
            if timeout_at(deadline, told).await.is_err() {
                return (self.counts(), self.missing.load(Acquire) == 0);
            }
        }
    }

    /// What the workers that have reported did.
    pub fn counts(&self) -> Counts {
        let of = |step: Step| u64::from(self.counters[step as usize].load(Relaxed));
        Counts {
            matched: of(Step::Matched),
            queued: of(Step::Queued),
            dropped: of(Step::Dropped),
            replaced: u64::from(self.took_places.load(Relaxed)),
        }
    }

    /// Whether every worker has reported.
    pub fn is_complete(&self) -> bool {
        self.missing.load(Acquire) == 0
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

    fn add(&self, counts: Counts) {
        self.add_to(Step::Matched, counts.matched);
        self.add_to(Step::Queued, counts.queued);
        self.add_to(Step::Dropped, counts.dropped);
        if counts.replaced > 0 {
            self.took_places.fetch_add(saturated(counts.replaced), Relaxed);
        }
    }

    fn add_to(&self, step: Step, connections: u64) {
        if connections > 0 {
            self.counters[step as usize].fetch_add(saturated(connections), Relaxed);
        }
    }
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Sums {
    /// How many connections took this step.
    pub fn of(&self, step: Step) -> u64 {
        self.0[step as usize]
    }

    /// Connections in whose outbox it still is.
    pub fn waiting(&self) -> u64 {
        let gone = [Step::Written, Step::Replaced, Step::TooSlow, Step::Ended];
        self.of(Step::Queued).saturating_sub(gone.map(|step| self.of(step)).iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const ONE: Counts = Counts { matched: 1, queued: 1, dropped: 0, replaced: 0 };

    #[test]
    fn what_is_queued_waits_until_it_took_another_step() {
        let progress = Progress::default();
        progress.expect(2);
        assert_eq!(progress.queued_at_ms(), None);
        progress.delivered_at(1_000);
        progress.report(Counts { matched: 5, queued: 4, dropped: 1, replaced: 9 });
        progress.delivered_at(2_000);
        progress.report(ONE);
        assert_eq!((progress.queued_at_ms(), progress.sums().waiting()), (Some(1_000), 5));
        for step in [Step::Written, Step::Replaced, Step::TooSlow, Step::Ended] {
            let before = progress.sums().waiting();
            progress.count(step);
            let sums = progress.sums();
            assert_eq!((sums.waiting(), sums.of(step)), (before - 1, 1), "{step:?}");
        }
        progress.count(Step::Replayed);
        progress.count(Step::Acknowledged);
        let sums = progress.sums();
        assert_eq!((sums.waiting(), sums.of(Step::Matched), sums.of(Step::Dropped)), (1, 6, 1));
        assert_eq!((sums.of(Step::Replaced), sums.of(Step::Acknowledged)), (1, 1));
        assert_eq!(progress.counts(), Counts { matched: 6, queued: 5, dropped: 1, replaced: 9 });
    }

    #[tokio::test]
    async fn everyone_who_waits_is_told_by_the_last_report() {
        let progress = Progress::default();
        progress.expect(2);
        let far = Instant::now() + std::time::Duration::from_secs(60);
        let mut first = Box::pin(progress.counted(far));
        let mut second = Box::pin(progress.counted(far));
        assert_eq!(((&mut first).now_or_never(), (&mut second).now_or_never()), (None, None));
        progress.report(ONE);
        assert_eq!(((&mut first).now_or_never(), progress.is_complete()), (None, false));
        assert_eq!(progress.counted(Instant::now()).await, (ONE, false), "incomplete by then");
        progress.report(ONE);
        let both = Counts { matched: 2, queued: 2, ..ONE };
        assert_eq!((first.await, second.await), ((both, true), (both, true)));
        assert_eq!(progress.counted(Instant::now()).await, (both, true));
        let before = Progress::counted_before(both, false);
        assert_eq!(before.counted(Instant::now()).await, (both, false));
    }
}
