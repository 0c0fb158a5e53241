//! What one worker does for the relay: drains its queue, looks at the clock, follows the catalog,
//! drains at the end.

use super::Relay;
use super::frame::{Close, Frame, Notice};
use super::queue::{Parcel, Receiver};
use super::roster::Question;
use super::shard::{Counts, Key, Shard};
use crate::admittance::Admittance;
use crate::catalog::Snapshot;
use chrono::Utc;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;

/// Most messages that are taken from the queue at once.
const BATCH: usize = 64;
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
    /// Rung by sockets that want a turn while nothing else is to be done.
    pub(super) bell: Rc<Notify>,
    /// Where those who come and go wait for their turn.
    pub(super) admittance: Admittance,
}

impl Worker {
    /// Where those who come to this worker, and those who go, wait for their turn.
    pub fn admittance(&self) -> &Admittance {
        &self.admittance
    }

    /// Runs until the relay ends. One tick a second looks after all connections: no timer a
    /// connection. Listens from now on, not from when it is first polled: a connection may be there
    /// before that.
    pub(super) fn run(
        self,
        queue: Receiver,
        questions: mpsc::Receiver<Question>,
    ) -> impl Future<Output = ()> {
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
                // What is due by the clock first, then changes: one that was answered holds for
                // what is published after it.
                biased;
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
                Ok(()) = changes.changed() => {
                    let snapshot = changes.borrow_and_update().clone();
                    self.relay.forget_instances_outside(&snapshot);
                    self.shard.borrow_mut().begin_judging(&snapshot);
                }
                Some(question) = questions.recv() => question.answer(&mut self.shard.borrow_mut()),
                open = queue.receive(&mut batch, BATCH) => {
                    if !open {
                        return;
                    }
                    for unwanted in self.shard.borrow_mut().take_in(batch.drain(..)) {
                        queue.settle(self.index, &unwanted);
                        unwanted.tally.report(Counts::default());
                    }
                }
                () = self.bell.notified() => {}
                // Work is left: there is nothing to wait for.
                () = std::future::ready(()), if self.shard.borrow().has_turns() => {}
            }
            // What has changed meanwhile counts already: nobody is told of a picture that is past.
            let mut settle = |parcel: &Parcel| queue.settle(self.index, parcel);
            self.shard.borrow_mut().take_turn(
                &self.relay.catalog().load(),
                Instant::now(),
                &mut settle,
            );
            self.admittance.note_deliveries(self.shard.borrow().has_turns());
            // The budget of the runtime does not count here: yielding by hand lets the sockets
            // write.
            tokio::task::yield_now().await;
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
        let Some(member) = shard.get(key).filter(|member| !member.link.outbox.is_ending()) else {
            return;
        };
        let reconnect = Frame::of(&Notice::Reconnect { after_ms });
        member.link.outbox.push(&reconnect, shard.bounds().outbox, Instant::now());
        member.link.outbox.close(Close::restarting());
    }
}
