//! When each message is due, and how late it came: latency without coordinated omission.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

use crate::Outcome;

/// Messages of one lane at a fixed rate: the first is due one interval after the start.
#[derive(Clone, Copy)]
pub struct Schedule {
    /// When `before` would have been due.
    pub start: Instant,
    /// From one message to the next.
    pub interval: Duration,
    /// The place of the last message that was published before, at no fixed time.
    pub before: u64,
}

impl Schedule {
    /// When this message is due, whenever it is really sent.
    pub fn due(&self, place: u64) -> Instant {
        self.start + Duration::from_nanos(self.interval.as_nanos() as u64 * (place - self.before))
    }

    /// The place of the last message that is due at or before `time`.
    pub fn place_at(&self, time: Instant) -> u64 {
        self.before + (time.saturating_duration_since(self.start).as_nanos() / self.interval.as_nanos()) as u64
    }

    /// Sleeps until the message is due. This is the thread's own sleep: a runtime's timers are coarser.
    pub fn wait_for(&self, place: u64) {
        thread::sleep(self.due(place).saturating_duration_since(Instant::now()));
    }
}

/// Runs `work` on a thread and a runtime of its own, so that nothing else in this process delays it.
pub fn on_own_thread<T, F>(work: F) -> JoinHandle<Outcome<T>>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Outcome<T> + Send + 'static,
{
    thread::spawn(move || Builder::new_current_thread().enable_all().build()?.block_on(work()))
}

/// What a thread's work came to.
pub async fn joined<T: Send + 'static>(thread: JoinHandle<Outcome<T>>) -> Outcome<T> {
    tokio::task::spawn_blocking(move || thread.join()).await?.map_err(|_| "the publishing thread panicked")?
}

/// How late messages came, each at each connection.
#[derive(Default)]
pub struct Latencies(Mutex<Vec<(u64, Duration)>>);

impl Latencies {
    /// Notes that these messages have come now.
    pub fn note(&self, schedule: &Schedule, places: impl Iterator<Item = u64>) {
        let now = Instant::now();
        let late = places.map(|place| (place, now.saturating_duration_since(schedule.due(place))));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(late);
    }

    /// The percentiles of messages with these places; forgets everything until now.
    pub fn take(&self, places: std::ops::Range<u64>) -> Percentiles {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let wanted = all.into_iter().filter(|(place, _)| places.contains(place));
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

    /// The least latency that `share` (0 to 1) of all do not exceed, in milliseconds; not a number if there are none.
    fn at(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}
