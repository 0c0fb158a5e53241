//! When each message is due, and how late it came: latency without coordinated omission.

use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clients::message::Number;

/// The lanes of messages that are due at a time, which are published in turn: enough that none
/// waits for the answer to its last message.
pub const TIMED_LANES: usize = 32;

/// Messages at a fixed rate, counted from 0: the first is due one interval after the start.
#[derive(Clone, Copy)]
pub struct Schedule {
    /// When it begins.
    pub start: Instant,
    /// From one message to the next.
    pub interval: Duration,
}

impl Schedule {
    /// When this message is due, whenever it is really sent.
    pub fn due(&self, message: u64) -> Instant {
        self.start + Duration::from_nanos(self.interval.as_nanos() as u64 * (message + 1))
    }

    /// How many messages are due until `time`.
    pub fn due_until(&self, time: Instant) -> u64 {
        (time.saturating_duration_since(self.start).as_nanos() / self.interval.as_nanos()) as u64
    }

    /// Sleeps until the message is due; false when `stop` is dropped before. This is the thread's
    /// own sleep: a runtime's timers are coarser.
    pub fn wait_for(&self, message: u64, stop: &Receiver<()>) -> bool {
        let left = self.due(message).saturating_duration_since(Instant::now());
        stop.recv_timeout(left) == Err(RecvTimeoutError::Timeout)
    }
}

/// Which message of a schedule has this number; none if its lane is not timed.
fn message(number: Number) -> Option<u64> {
    (number.lane < TIMED_LANES)
        .then(|| (number.place - 1) * TIMED_LANES as u64 + number.lane as u64)
}

/// How late messages came, each at each connection.
#[derive(Default)]
pub struct Latencies(Mutex<Vec<(u64, Duration)>>);

impl Latencies {
    /// Notes that these messages have come now.
    pub fn note(&self, schedule: &Schedule, numbers: &[Number]) {
        let now = Instant::now();
        let messages = numbers.iter().filter_map(|number| message(*number));
        let late =
            messages.map(|message| (message, now.saturating_duration_since(schedule.due(message))));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(late);
    }

    /// How often one of these messages has come.
    pub fn count(&self, messages: &Range<u64>) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(message, _)| messages.contains(message)).count()
    }

    /// The percentiles of these messages; forgets everything until now.
    pub fn take(&self, messages: &Range<u64>) -> Percentiles {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let wanted = all.into_iter().filter(|(message, _)| messages.contains(message));
        let mut sorted: Vec<Duration> = wanted.map(|(_, latency)| latency).collect();
        sorted.sort_unstable();
        Percentiles(sorted)
    }
}

/// Latencies in ascending order.
pub struct Percentiles(Vec<Duration>);

impl Percentiles {
    /// The median, the 99th and the 99.9th percentile and the greatest, in milliseconds.
    pub fn figures(&self) -> Vec<f64> {
        [0.5, 0.99, 0.999, 1.0].map(|share| self.at(share)).into()
    }

    /// The least latency that `share` (0 to 1) of all do not exceed, in milliseconds; not a number
    /// if there are none.
    fn at(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0
            .get(rank.clamp(1, self.0.len().max(1)) - 1)
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}
