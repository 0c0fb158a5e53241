//! What one worker does for the relay: empties its queue, looks at the clock, follows the catalog,
//! gives the instances their turns, drains at the end.

use super::asked::Asked;
use super::inboxes::MAX_ASKED;
use super::shard::Shard;
use super::workers::{Leaving, Taken, Workers};
use crate::admittance::Admittance;
use crate::catalog::Snapshot;
use crate::relay::close::Close;
use crate::relay::frame::{Frame, Notice};
use crate::relay::member::Key;
use crate::relay::progress::Counts;
use crate::relay::queue::{self, Behind, Dispatch, Receiver};
use crate::relay::timeline::Refilled;
use chrono::Utc;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;

/// Most messages, and most questions, that are taken at once.
const BATCH: usize = 64;
/// Waves in which a draining worker closes its connections.
const WAVES: usize = 20;

/// One worker's part of the relay; stays on its thread.
#[derive(Clone)]
pub struct Worker {
    /// What it shares with the others.
    pub(super) workers: Arc<Workers>,
    /// Its connections; borrowed for one synchronous step at a time.
    pub(super) shard: Rc<RefCell<Shard>>,
    /// Which queue is its own.
    pub(super) index: usize,
    /// Rung by sockets that want a turn while nothing else is to be done.
    pub(super) bell: Rc<Notify>,
    /// Where those who come and go wait for their turn.
    admittance: Admittance,
}

/// What a worker listens to.
struct Inputs {
    queue: Receiver,
    questions: mpsc::Receiver<Asked>,
    changes: watch::Receiver<Arc<Snapshot>>,
    leaving: watch::Receiver<Leaving>,
    rechecks: watch::Receiver<()>,
}

impl Worker {
    /// The calling thread as one more worker. Must run inside a `tokio::task::LocalSet`, as actix
    /// workers do.
    pub(crate) fn start(workers: Arc<Workers>) -> Self {
        let (sender, queue) = queue::bounded(workers.settings.queue);
        let (inbox, questions) = mpsc::channel(MAX_ASKED);
        let index = workers.add(sender, inbox);
        let shard = Shard::new(workers.settings.connection, workers.counts.clone());
        // Listens from now on, not from when it first runs: a connection may be there before that.
        let inputs = Inputs {
            queue,
            questions,
            changes: workers.catalog.changes(),
            leaving: workers.leave_signal(),
            rechecks: workers.recheck_signal(),
        };
        let worker = Self {
            workers,
            shard: Rc::new(RefCell::new(shard)),
            index,
            bell: Rc::default(),
            admittance: Admittance::default(),
        };
        tokio::task::spawn_local(tokio::task::unconstrained(worker.clone().run(inputs)));
        worker
    }

    /// Where those who come to this worker, and those who go, wait for their turn.
    pub fn admittance(&self) -> &Admittance {
        &self.admittance
    }

    /// Wakes the worker where an instance waits for its turn.
    pub(super) fn ring_for_turns(&self) {
        if self.shard.borrow().has_turns() {
            self.bell.notify_one();
        }
    }

    /// Runs as long as its thread's tasks. One tick a second looks after all connections: no timer
    /// a connection.
    async fn run(self, inputs: Inputs) {
        let Inputs { mut queue, mut questions, mut changes, mut leaving, mut rechecks } = inputs;
        let mut ticker = tokio::time::interval(Duration::from_secs(1));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let behind = queue.behind();
        let (mut batch, mut asked) = (Vec::with_capacity(BATCH), Vec::new());
        loop {
            tokio::select! {
                // What is due by the clock first, then changes: one that was answered holds for
                // what is published after it.
                biased;
                _ = ticker.tick() => self.look_after_all(),
                Ok(()) = rechecks.changed() => self.look_after_all(),
                changed = leaving.changed() => match changed {
                    Ok(()) if *leaving.borrow_and_update() != Leaving::SendsAway => {}
                    Ok(()) => drop(tokio::task::spawn_local(self.clone().drain())),
                    Err(_) => return,
                },
                Ok(()) = changes.changed() => {
                    let snapshot = changes.borrow_and_update().clone();
                    self.shard.borrow_mut().follow(&snapshot);
                }
                1.. = questions.recv_many(&mut asked, BATCH) => {
                    let mut shard = self.shard.borrow_mut();
                    asked.drain(..).for_each(|asked| shard.ask(asked));
                }
                open = queue.receive(&mut batch, BATCH) => {
                    if !open {
                        return;
                    }
                    let unwanted = self.shard.borrow_mut().take_in(batch.drain(..));
                    unwanted.iter().for_each(|dispatch| turn_away(&queue, dispatch));
                }
                () = self.bell.notified() => {}
                () = behind.one_more() => {}
                // Work is left: there is nothing to wait for.
                () = std::future::ready(()), if self.shard.borrow().has_turns() => {}
            }
            // What has changed meanwhile counts already: nobody is told of a picture that is past.
            let snapshot = self.workers.catalog.load();
            let release = |dispatch: &Dispatch| queue.release(dispatch);
            self.shard.borrow_mut().take_turn(&snapshot, Instant::now(), &release);
            self.refill(&behind);
            self.admittance.note_deliveries(self.shard.borrow().has_turns());
            // The budget of the runtime does not count here: yielding by hand lets the sockets
            // write.
            tokio::task::yield_now().await;
        }
    }

    fn look_after_all(&self) {
        let mut shard = self.shard.borrow_mut();
        let waiting = shard.tick(Instant::now(), Utc::now().timestamp());
        self.workers.note_taken(self.index, Taken { waiting, heard: shard.heard_bytes() });
    }

    /// Takes what this worker lacks from the instances' windows, as far as its queue has space.
    /// Hardly ever anything: with a log in memory no worker falls behind.
    fn refill(&self, behind: &Behind) {
        for instance in behind.take() {
            let Some(timeline) = self.workers.timelines.find(&instance) else { continue };
            let queues = self.workers.queues();
            let Some(sender) = queues.get(self.index) else { continue };
            match timeline.refill(self.index, sender) {
                Refilled::Whole => {}
                Refilled::Partly => sender.fall_behind(instance),
                Refilled::Lost { to } => {
                    tracing::warn!(
                        instance.id = %instance,
                        "a worker fell behind its window; those who lack something reconnect"
                    );
                    self.shard.borrow_mut().close_behind(&instance, to);
                    sender.fall_behind(instance);
                }
            }
        }
    }

    /// Tells every connection when to come back, and closes them wave by wave.
    async fn drain(self) {
        self.shard.borrow_mut().turn_newcomers_away();
        let (keys, plan) = (self.shard.borrow().keys(), self.workers.drain_plan());
        let wave = keys.len().div_ceil(WAVES).max(1);
        for (number, piece) in keys.chunks(wave).enumerate() {
            for (place, key) in piece.iter().enumerate() {
                let share = (number * wave + place) as u64;
                self.send_away(*key, plan.spread_ms * share / keys.len() as u64);
            }
            tokio::time::sleep(plan.waves / WAVES as u32).await;
            if !self.workers.is_draining() {
                // All were gone, and the node has begun anew.
                return;
            }
        }
        // Whoever registered between the signal and the first wave.
        let late = self.shard.borrow().keys();
        late.iter().for_each(|key| self.send_away(*key, plan.spread_ms));
    }

    fn send_away(&self, key: Key, after_ms: u64) {
        let shard = self.shard.borrow();
        let member = shard.get(key).filter(|member| !member.link.outbox.is_ending());
        let Some(member) = member else { return };
        let reconnect = Frame::of(&Notice::Reconnect { after_ms });
        member.link.outbox.push(&reconnect, shard.bounds().outbox, Instant::now());
        member.link.outbox.close(Close::restarting());
    }
}

/// Nobody is here any more whom a message could be for.
fn turn_away(queue: &Receiver, dispatch: &Dispatch) {
    queue.release(dispatch);
    if let Some(head) = dispatch.frame.head() {
        head.progress.report(Counts::default());
    }
}

#[cfg(test)]
impl Worker {
    /// Its connections.
    pub(crate) fn shard(&self) -> &RefCell<Shard> {
        &self.shard
    }

    /// Whether it has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        let queues = self.workers.queues();
        let is_empty = queues.get(self.index).is_some_and(queue::Sender::is_idle);
        is_empty && !self.shard.borrow().has_turns()
    }
}
