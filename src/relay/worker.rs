//! What one actix worker does for the relay: drains its queue, looks at the clock, follows the catalog, drains at the end.

use super::Relay;
use super::connection::Buffers;
use super::frame::{Close, Frame, Notice};
use super::queue::{Parcel, Receiver};
use super::roster::Question;
use super::shard::{Key, Shard};
use crate::catalog::Snapshot;
use chrono::Utc;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

/// Most messages that are taken before the sockets get their turn.
const BATCH: usize = 64;
/// How long connections are asked again before other work gets its turn.
const SLICE: Duration = Duration::from_millis(1);
/// Waves in which a draining worker closes its connections.
const WAVES: usize = 20;

/// One worker's part of the relay; stays on its thread.
#[derive(Clone)]
pub struct Worker {
    /// The whole.
    pub(super) relay: Relay,
    /// The worker's connections; borrowed for one synchronous step at a time.
    pub(super) shard: Rc<RefCell<Shard>>,
    /// Which queue is its own.
    pub(super) index: usize,
    /// What its sockets read into and join frames in.
    pub(super) buffers: Rc<RefCell<Buffers>>,
}

impl Worker {
    /// Runs until the relay ends. One tick a second looks after all connections: no timer a connection. Listens from now
    /// on, not from when it is first polled: a connection may be there before that.
    pub(super) fn run(self, queue: Receiver, questions: mpsc::Receiver<Question>) -> impl Future<Output = ()> {
        let (changes, phase) = (self.relay.catalog().changes(), self.relay.phase());
        self.listen(queue, questions, changes, phase)
    }

    async fn listen(
        self,
        mut queue: Receiver,
        mut questions: mpsc::Receiver<Question>,
        mut changes: watch::Receiver<Arc<Snapshot>>,
        mut phase: watch::Receiver<bool>,
    ) {
        let mut ticker = tokio::time::interval(Duration::from_secs(1));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                open = queue.receive(&mut batch, BATCH) => {
                    if !open {
                        return;
                    }
                    self.deliver(&batch);
                    queue.settle(&batch);
                    batch.clear();
                }
                Some(question) = questions.recv() => question.answer(&mut self.shard.borrow_mut()),
                Ok(()) = changes.changed() => {
                    let snapshot = changes.borrow_and_update().clone();
                    self.reassess(&snapshot).await;
                }
                _ = ticker.tick() => {
                    let waiting = self.shard.borrow_mut().tick(Instant::now(), Utc::now().timestamp());
                    self.relay.note_waiting(self.index, waiting);
                    if self.index == 0 {
                        self.relay.trim_history();
                    }
                }
                changed = phase.changed() => match changed {
                    Ok(()) => drop(tokio::task::spawn_local(self.clone().drain())),
                    Err(_) => return,
                },
            }
            // The budget of the runtime does not count here: yielding by hand lets the sockets write.
            tokio::task::yield_now().await;
        }
    }

    fn deliver(&self, batch: &[Arc<Parcel>]) {
        let (now, now_ms) = (Instant::now(), Utc::now().timestamp_millis());
        let mut shard = self.shard.borrow_mut();
        for parcel in batch {
            let counts = shard.deliver(&parcel.delivery, now);
            if let Some(progress) = parcel.delivery.frame.as_ref().ok().and_then(Frame::progress) {
                progress.delivered(counts, now_ms);
            }
            parcel.tally.report(counts);
        }
    }

    /// Asks every connection of every instance again, in pieces. A connection that registers meanwhile was judged by
    /// a catalog at least as new.
    async fn reassess(&self, snapshot: &Snapshot) {
        self.relay.forget_instances_outside(snapshot);
        let instances = self.shard.borrow_mut().changed_since_last(snapshot);
        for instance in instances {
            let keys = self.shard.borrow().keys(&instance);
            let mut keys = keys.into_iter().peekable();
            while keys.peek().is_some() {
                // What has changed meanwhile counts already: nobody is told of a picture that is past.
                self.reassess_some(&mut keys, &self.relay.catalog().load());
                tokio::task::yield_now().await;
            }
        }
    }

    /// At least one, and as many as the slice has time for: rules may be many, and their expressions long.
    fn reassess_some(&self, keys: &mut impl Iterator<Item = Key>, snapshot: &Snapshot) {
        let start = Instant::now();
        let mut shard = self.shard.borrow_mut();
        for key in keys {
            shard.reassess(key, snapshot, start);
            if start.elapsed() >= SLICE {
                return;
            }
        }
    }

    /// Tells every connection when to come back, and closes them wave by wave.
    async fn drain(self) {
        let (keys, plan) = (self.shard.borrow().all_keys(), self.relay.drain_plan());
        let wave = keys.len().div_ceil(WAVES).max(1);
        for (number, piece) in keys.chunks(wave).enumerate() {
            for (place, key) in piece.iter().enumerate() {
                let share = (number * wave + place) as u64;
                self.send_away(*key, plan.spread_ms * share / keys.len() as u64);
            }
            tokio::time::sleep(plan.waves / WAVES as u32).await;
        }
        // Whoever registered between the signal and the first wave.
        let late = self.shard.borrow().all_keys();
        late.iter().for_each(|key| self.send_away(*key, plan.spread_ms));
    }

    fn send_away(&self, key: Key, after_ms: u64) {
        let shard = self.shard.borrow();
        let Some(member) = shard.get(key).filter(|member| !member.link.outbox.is_ending()) else { return };
        let reconnect = Frame::of(&Notice::Reconnect { after_ms });
        member.link.outbox.push(&reconnect, shard.bounds().outbox, Instant::now());
        member.link.outbox.close(Close::restarting());
    }
}
