//! The way from publishers to one worker: a queue bounded in messages and bytes, and the counts that come back.

use super::shard::{Counts, Delivery};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// What one queue may hold.
#[derive(Clone, Copy, Debug)]
pub struct QueueBounds {
    /// Messages.
    pub messages: usize,
    /// Bytes of their frames.
    pub bytes: usize,
}

/// A message on its way to the workers, shared by all of them.
#[derive(Debug)]
pub struct Parcel {
    /// The message.
    pub delivery: Delivery,
    /// What it takes of each queue's bytes.
    pub bytes: usize,
    /// Where each worker reports what it did.
    pub tally: Tally,
}

/// The sending end.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: mpsc::Sender<Arc<Parcel>>,
    backlog: Arc<AtomicUsize>,
    bounds: QueueBounds,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::Receiver<Arc<Parcel>>,
    backlog: Arc<AtomicUsize>,
}

/// A place in a queue; given back unless something is sent.
pub struct Place<'a> {
    permit: Option<mpsc::Permit<'a, Arc<Parcel>>>,
    backlog: &'a AtomicUsize,
    bytes: usize,
}

/// A queue with these bounds.
pub fn bounded(bounds: QueueBounds) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(bounds.messages);
    let backlog = Arc::new(AtomicUsize::new(0));
    (Sender { queue: sender, backlog: backlog.clone(), bounds }, Receiver { queue: receiver, backlog })
}

impl Sender {
    /// A place for a frame of `bytes`, or none when the queue is full in messages or bytes.
    pub fn reserve(&self, bytes: usize) -> Option<Place<'_>> {
        let permit = self.queue.try_reserve().ok()?;
        let place = Place { permit: Some(permit), backlog: &self.backlog, bytes };
        let before = self.backlog.fetch_add(bytes, AcqRel);
        (before + bytes <= self.bounds.bytes).then_some(place)
    }
}

impl Place<'_> {
    /// Sends; never waits.
    pub fn send(mut self, parcel: Arc<Parcel>) {
        if let Some(permit) = self.permit.take() {
            permit.send(parcel);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.backlog.fetch_sub(self.bytes, AcqRel);
        }
    }
}

impl Receiver {
    /// Waits for at least one message and takes up to `most`. False when no sender is left.
    pub async fn receive(&mut self, batch: &mut Vec<Arc<Parcel>>, most: usize) -> bool {
        self.queue.recv_many(batch, most).await > 0
    }

    /// Gives back the bytes of messages that are dealt with.
    pub fn settle(&self, batch: &[Arc<Parcel>]) {
        let bytes = batch.iter().map(|parcel| parcel.bytes).sum();
        self.backlog.fetch_sub(bytes, AcqRel);
    }
}

/// Adds up what the workers did with one message.
#[derive(Debug)]
pub struct Tally {
    missing: AtomicUsize,
    matched: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    replaced: AtomicU64,
    complete: Notify,
}

impl Tally {
    /// Waits for the reports of this many workers.
    pub fn of(workers: usize) -> Self {
        Self {
            missing: AtomicUsize::new(workers),
            matched: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            complete: Notify::new(),
        }
    }

    /// One worker's report; each reports once.
    pub fn report(&self, counts: Counts) {
        self.matched.fetch_add(counts.matched, Relaxed);
        self.queued.fetch_add(counts.queued, Relaxed);
        self.dropped.fetch_add(counts.dropped, Relaxed);
        self.replaced.fetch_add(counts.replaced, Relaxed);
        if self.missing.fetch_sub(1, AcqRel) == 1 {
            self.complete.notify_one();
        }
    }

    /// The sum of the reports, and whether every worker has reported within `patience`.
    pub async fn wait(&self, patience: Duration) -> (Counts, bool) {
        let complete =
            self.missing.load(Acquire) == 0 || tokio::time::timeout(patience, self.complete.notified()).await.is_ok();
        let sum = |counter: &AtomicU64| counter.load(Relaxed);
        let counts = Counts {
            matched: sum(&self.matched),
            queued: sum(&self.queued),
            dropped: sum(&self.dropped),
            replaced: sum(&self.replaced),
        };
        (counts, complete)
    }
}
