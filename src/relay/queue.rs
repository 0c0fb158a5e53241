//! The way from publishers to one worker: a queue bounded in messages and bytes, and the counts
//! that come back.

use super::realm::Realm;
use super::shard::{Counts, Delivery};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

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
    /// Whose it is.
    pub realm: Arc<Realm>,
    /// What it takes of each queue's bytes.
    pub bytes: usize,
    /// Where each worker reports what it did.
    pub tally: Tally,
}

/// What waits for one worker, or of it what is one instance's, until it is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages.
    pub messages: usize,
    /// Bytes of their frames.
    pub bytes: usize,
}

/// The sending end.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: mpsc::Sender<Arc<Parcel>>,
    waiting: Arc<Waiting>,
    bounds: QueueBounds,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::Receiver<Arc<Parcel>>,
    waiting: Arc<Waiting>,
}

/// A place in a queue; given back unless something is sent.
pub struct Place<'a> {
    permit: Option<mpsc::Permit<'a, Arc<Parcel>>>,
    waiting: &'a Waiting,
    bytes: usize,
}

/// The backlog of all instances.
#[derive(Debug, Default)]
struct Waiting {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    fn add(&self, bytes: usize) -> Backlog {
        Backlog {
            messages: self.messages.fetch_add(1, AcqRel),
            bytes: self.bytes.fetch_add(bytes, AcqRel),
        }
    }

    fn subtract(&self, bytes: usize) {
        self.messages.fetch_sub(1, AcqRel);
        self.bytes.fetch_sub(bytes, AcqRel);
    }
}

/// A queue with these bounds.
pub fn bounded(bounds: QueueBounds) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(bounds.messages);
    let waiting = Arc::new(Waiting::default());
    (
        Sender { queue: sender, waiting: waiting.clone(), bounds },
        Receiver { queue: receiver, waiting },
    )
}

impl Sender {
    /// A place for a frame of `bytes`, or none when the queue is full in messages or bytes. An
    /// instance whose own share is `share` takes no more than it leaves free for others: alone at
    /// most half, and however many fill the queue, one that comes new finds room.
    pub fn reserve(&self, bytes: usize, share: Backlog) -> Option<Place<'_>> {
        let permit = self.queue.try_reserve().ok()?;
        let place = Place { permit: Some(permit), waiting: &self.waiting, bytes };
        let before = self.waiting.add(bytes);
        let has_room = share.messages + before.messages < self.bounds.messages
            && share.bytes + before.bytes + bytes <= self.bounds.bytes;
        has_room.then_some(place)
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
            self.waiting.subtract(self.bytes);
        }
    }
}

impl Receiver {
    /// Waits for at least one message and takes up to `most`. False when no sender is left.
    pub async fn receive(&mut self, batch: &mut Vec<Arc<Parcel>>, most: usize) -> bool {
        self.queue.recv_many(batch, most).await > 0
    }

    /// Gives back what a message took that is dealt with by the `shard` whose queue this is.
    pub fn settle(&self, shard: usize, parcel: &Parcel) {
        self.waiting.subtract(parcel.bytes);
        parcel.realm.settle(shard, parcel.bytes);
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

    /// The sum of the reports, and whether every worker has reported before the deadline.
    pub async fn wait(&self, deadline: Instant) -> (Counts, bool) {
        let complete = self.missing.load(Acquire) == 0
            || timeout_at(deadline, self.complete.notified()).await.is_ok();
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
