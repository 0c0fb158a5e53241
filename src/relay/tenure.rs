//! Whether this node may give messages their places: for as long as it holds the database, of which
//! somebody else keeps it informed.

use rustix::time::{ClockId, clock_gettime};
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// A moment by a clock that goes on while the host sleeps; in nanoseconds since its boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Never, and without end, as moments up to which messages get places.
const NEVER: Moment = Moment(0);
const ALWAYS: Moment = Moment(u64::MAX);

/// Whether messages may get places; cheap to clone, and read without a lock. It begins as held
/// without end, which is so where there is nobody else.
#[derive(Clone, Debug)]
pub struct Tenure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Up to when it is known to be held, as a `Moment`.
    until: AtomicU64,
    /// Whether everything was read that is needed to serve.
    is_ready: AtomicBool,
}

/// Leave to give a message its place now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permit {
    until: Moment,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        // The monotonic clock of systems without this one goes on during sleep by itself.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let clock = ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let clock = ClockId::Monotonic;
        let time = clock_gettime(clock);
        Self(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
    }

    /// How long before this an earlier moment was; nothing for a later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos().try_into().unwrap_or(u64::MAX)))
    }
}

impl Default for Tenure {
    fn default() -> Self {
        let until = AtomicU64::new(ALWAYS.0);
        Self(Arc::new(Inner { until, is_ready: AtomicBool::new(true) }))
    }
}

impl Tenure {
    /// Whether it is held now and everything needed was read.
    pub fn is_held(&self) -> bool {
        self.permit().is_some()
    }

    /// It is held, up to this moment where one is given. A message gets no place later.
    pub fn hold(&self, until: Option<Moment>) {
        self.0.until.store(until.unwrap_or(ALWAYS).0, SeqCst);
    }

    /// It is held no more.
    pub fn lose(&self) {
        self.0.until.store(NEVER.0, SeqCst);
    }

    /// Everything that is needed was read, or is to be read first.
    pub fn set_ready(&self, is_ready: bool) {
        self.0.is_ready.store(is_ready, SeqCst);
    }

    /// Leave to give a message its place; none while it is not held. The clock is read only where
    /// there is an end.
    pub(super) fn permit(&self) -> Option<Permit> {
        let permit = Permit { until: Moment(self.0.until.load(SeqCst)) };
        let is_held = self.0.is_ready.load(SeqCst) && permit.until != NEVER && !permit.is_over();
        is_held.then_some(permit)
    }
}

impl Permit {
    /// Whether its end is past by now, for whoever was held up meanwhile.
    pub fn is_over(self) -> bool {
        self.until != ALWAYS && Moment::now() > self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_without_end_up_to_a_moment_or_not_at_all() {
        let tenure = Tenure::default();
        assert!(tenure.is_held());
        let now = Moment::now();
        let hour = Duration::from_secs(3_600);
        for (until, is_held) in [(None, true), (Some(now + hour), true), (Some(now), false)] {
            while Moment::now() == now {}
            tenure.hold(until);
            assert_eq!(tenure.is_held(), is_held, "{until:?}");
        }
        tenure.hold(Some(now + hour));
        let permit = tenure.permit().unwrap();
        tenure.lose();
        assert!(!tenure.is_held() && !permit.is_over());
        tenure.hold(None);
        tenure.set_ready(false);
        assert!(!tenure.is_held());
        tenure.set_ready(true);
        assert!(tenure.is_held());
    }

    #[test]
    fn whoever_is_held_up_past_the_end_is_told_so() {
        let tenure = Tenure::default();
        assert!(!tenure.permit().unwrap().is_over());
        let end = Moment::now() + Duration::from_millis(50);
        tenure.hold(Some(end));
        let permit = tenure.permit();
        while Moment::now() <= end {}
        assert!(permit.is_none_or(Permit::is_over) && tenure.permit().is_none());
    }

    #[test]
    fn moments_are_as_far_apart_as_they_are_made() {
        let now = Moment::now();
        let second = Duration::from_secs(1);
        assert_eq!((now + second).since(now), second);
        assert_eq!(now.since(now + second), Duration::ZERO);
        assert_eq!(now + Duration::MAX, ALWAYS);
    }
}
