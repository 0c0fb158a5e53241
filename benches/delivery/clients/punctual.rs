//! Publishers that publish at a fixed rate, each message when it is due and whatever became of the
//! others.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::Outcome;
use crate::clients::latency::{Schedule, TIMED_LANES};
use crate::clients::load::Load;
use crate::clients::message::Messages;
use crate::clients::order::Ledger;
use crate::clients::progress::Progress;
use crate::clients::publisher::{Inlet, Publisher};

/// How late the last message of a window may come.
const LONGEST_DELAY: Duration = Duration::from_secs(120);
/// How often it is looked whether it has come.
const PAUSE: Duration = Duration::from_millis(20);

/// One thread with one connection for each timed lane, so that nothing else in this process delays
/// a message.
pub struct Punctual {
    schedule: Schedule,
    threads: Vec<JoinHandle<Outcome<()>>>,
    /// Dropped to stop.
    stops: Vec<SyncSender<()>>,
    progress: Arc<Progress>,
}

impl Punctual {
    /// Connects, then begins to publish `rate` messages a second. Each must be for everyone of
    /// `load`, and for nobody else.
    pub async fn begin(
        load: &Load,
        inlet: Inlet,
        messages: Arc<Messages>,
        rate: u32,
    ) -> Outcome<Self> {
        let (mut threads, mut stops, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let everyone = load.progress().open() as usize;
        for lane in 0..TIMED_LANES {
            let (connected, is_connected) = oneshot::channel();
            let (start, started) = oneshot::channel();
            let (stop, stopped) = sync_channel(0);
            let (inlet, ledger, messages) =
                (inlet.clone(), load.ledger().clone(), messages.clone());
            let progress = load.progress().clone();
            threads.push(on_own_thread(async move || {
                let publisher = inlet.open().await?;
                let _nobody_waits = connected.send(());
                let mut lane = Lane { lane, publisher, ledger, messages, everyone };
                let result = lane.publish(started.await?, &stopped).await;
                result.inspect_err(|failure| {
                    progress.fail(format!("publisher {}: {failure}", lane.lane))
                })
            }));
            stops.push(stop);
            starts.push(start);
            if is_connected.await.is_err() {
                drop(starts);
                return Err(joined(threads)
                    .await
                    .err()
                    .unwrap_or_else(|| "a publisher did not connect".into()));
            }
        }
        let schedule = Schedule { start: Instant::now(), interval: Duration::from_secs(1) / rate };
        load.progress().follow(schedule);
        for start in starts {
            let _thread_may_have_failed = start.send(schedule);
        }
        Ok(Self { schedule, threads, stops, progress: load.progress().clone() })
    }

    /// How late the messages came that were due in this window: the figures of `Percentiles`.
    pub async fn delays(&self, window: Range<Instant>) -> Outcome<Vec<f64>> {
        let due = self.schedule.due_until(window.start)..self.schedule.due_until(window.end);
        let wanted = (due.end - due.start) as usize * self.progress.open() as usize;
        let deadline = Instant::now() + LONGEST_DELAY;
        loop {
            self.progress.failure()?;
            let come = self.progress.latencies().count(&due);
            if come == wanted {
                return Ok(self.progress.latencies().take(&due).figures());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{come} of {wanted} deliveries came that were due in the window"
                )
                .into());
            }
            sleep(PAUSE).await;
        }
    }

    /// Stops publishing; says what went wrong with it, if anything.
    pub async fn end(self) -> Outcome<()> {
        drop(self.stops);
        joined(self.threads).await.map(drop)
    }
}

/// One publisher: every so many messages one is its own.
struct Lane {
    lane: usize,
    publisher: Publisher,
    ledger: Arc<Ledger>,
    messages: Arc<Messages>,
    everyone: usize,
}

impl Lane {
    async fn publish(&mut self, schedule: Schedule, stop: &Receiver<()>) -> Outcome<()> {
        for message in (self.lane as u64..).step_by(TIMED_LANES) {
            if !schedule.wait_for(message, stop) {
                break;
            }
            let text = self.messages.text(self.ledger.next(self.lane));
            self.publisher.publish(&text, &(self.everyone..=self.everyone)).await?;
        }
        Ok(())
    }
}

/// Runs `work` on a thread and a runtime of its own.
pub fn on_own_thread<T, F>(work: F) -> JoinHandle<Outcome<T>>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Outcome<T> + Send + 'static,
{
    thread::spawn(move || Builder::new_current_thread().enable_all().build()?.block_on(work()))
}

/// What threads came to: the first failure, if there is one.
pub async fn joined<T: Send + 'static>(threads: Vec<JoinHandle<Outcome<T>>>) -> Outcome<Vec<T>> {
    let join = move || {
        let results = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a publishing thread panicked")?);
        results.collect()
    };
    tokio::task::spawn_blocking(join).await?
}
