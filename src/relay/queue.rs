//! The way from the order to one worker: a queue bounded in messages and bytes, of which no
//! instance takes more than it leaves to the others.

use super::frame::Frame;
use super::settings::QueueBounds;
use crate::domain::instance::InstanceId;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, mpsc};

/// A message on its way to one worker; what the worker did is reported to its head.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    /// The message.
    pub frame: Frame,
    /// Whose it is, and what it takes of the queue.
    pub share: Arc<Share>,
}

/// What one instance takes of one worker's queue.
#[derive(Debug)]
pub(crate) struct Share {
    /// Which instance.
    pub instance: InstanceId,
    /// Of its timeline: another one of the same name has another.
    pub epoch: u64,
    taken: Taken,
}

/// What waits, until it is dealt with.
#[derive(Debug, Default)]
struct Taken {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// The sending end.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Dispatch>,
    common: Arc<Common>,
    bounds: QueueBounds,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Receiver {
    queue: mpsc::Receiver<Dispatch>,
    common: Arc<Common>,
}

/// What both ends share.
#[derive(Debug, Default)]
struct Common {
    /// Of all instances.
    taken: Taken,
    /// Instances for which the worker has fallen behind, each once.
    behind: Mutex<Vec<InstanceId>>,
    /// Told when one is added.
    fell_behind: Notify,
}

/// The instances for which a worker has fallen behind.
pub(crate) struct Behind(Arc<Common>);

/// Space for one message in a queue; given back unless something is sent.
pub(crate) struct Space<'a> {
    permit: Option<mpsc::Permit<'a, Dispatch>>,
    taken: &'a Taken,
    share: Arc<Share>,
    bytes: usize,
}

impl Share {
    /// Of an instance that has nothing in the queue.
    pub fn new(instance: InstanceId, epoch: u64) -> Self {
        Self { instance, epoch, taken: Taken::default() }
    }
}

impl Taken {
    /// One more message; what there was before, in messages and bytes.
    fn add(&self, bytes: usize) -> (usize, usize) {
        (self.messages.fetch_add(1, AcqRel), self.bytes.fetch_add(bytes, AcqRel))
    }

    fn subtract(&self, bytes: usize) {
        self.messages.fetch_sub(1, AcqRel);
        self.bytes.fetch_sub(bytes, AcqRel);
    }
}

/// A queue with these bounds.
pub fn bounded(bounds: QueueBounds) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(bounds.messages);
    let common = Arc::new(Common::default());
    let sender = Sender { queue: sender, common: common.clone(), bounds };
    (sender, Receiver { queue: receiver, common })
}

impl Sender {
    /// Space for a frame of `bytes`, or none when the queue is full in messages or bytes. An
    /// instance takes no more than it leaves free for others: alone at most half, and however many
    /// fill the queue, one that comes new finds space. To be called under the instance's order.
    pub fn reserve(&self, bytes: usize, share: &Arc<Share>) -> Option<Space<'_>> {
        let permit = Some(self.queue.try_reserve().ok()?);
        let space = Space { permit, taken: &self.common.taken, share: share.clone(), bytes };
        let (messages_before, bytes_before) = self.common.taken.add(bytes);
        let own = &share.taken;
        let has_space = own.messages.load(Acquire) + messages_before < self.bounds.messages
            && own.bytes.load(Acquire) + bytes_before + bytes <= self.bounds.bytes;
        has_space.then_some(space)
    }

    /// Says that the worker has fallen behind for an instance: it has to be refilled. Once for
    /// each time that it falls behind.
    pub fn fall_behind(&self, instance: InstanceId) {
        let mut behind = self.common.behind.lock().unwrap_or_else(PoisonError::into_inner);
        // Hardly ever are there any.
        if !behind.contains(&instance) {
            behind.push(instance);
        }
        drop(behind);
        self.common.fell_behind.notify_one();
    }
}

impl Behind {
    /// Waits until the worker falls behind for an instance.
    pub async fn one_more(&self) {
        self.0.fell_behind.notified().await;
    }

    /// Takes them; whoever does refills them, or puts them back.
    pub fn take(&self) -> Vec<InstanceId> {
        std::mem::take(&mut *self.0.behind.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Space<'_> {
    /// Sends; never waits.
    pub fn send(mut self, frame: Frame) {
        if let Some(permit) = self.permit.take() {
            self.share.taken.add(self.bytes);
            permit.send(Dispatch { frame, share: self.share.clone() });
        }
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.taken.subtract(self.bytes);
        }
    }
}

impl Receiver {
    /// Waits for at least one message and takes up to `most`. False when no sender is left.
    pub async fn receive(&mut self, batch: &mut Vec<Dispatch>, most: usize) -> bool {
        self.queue.recv_many(batch, most).await > 0
    }

    /// Gives back what a message took that is dealt with.
    pub fn release(&self, dispatch: &Dispatch) {
        let bytes = dispatch.frame.wire_bytes();
        self.common.taken.subtract(bytes);
        dispatch.share.taken.subtract(bytes);
    }

    /// The instances for which the worker has fallen behind.
    pub fn behind(&self) -> Behind {
        Behind(self.common.clone())
    }
}

#[cfg(test)]
impl Sender {
    /// Whether nothing waits, and the worker is behind for nobody.
    pub fn is_idle(&self) -> bool {
        let behind = self.common.behind.lock().unwrap_or_else(PoisonError::into_inner);
        self.common.taken.messages.load(Acquire) == 0 && behind.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(instance: &str) -> Arc<Share> {
        Arc::new(Share::new(InstanceId::new(instance).unwrap(), 1))
    }

    /// Sends while there is space; how many that were.
    fn fill(sender: &Sender, share: &Arc<Share>, most: usize) -> usize {
        let frame = Frame::ping();
        let send = |_: &usize| match sender.reserve(frame.wire_bytes(), share) {
            Some(space) => {
                space.send(frame.clone());
                true
            }
            None => false,
        };
        (0..most).take_while(send).count()
    }

    /// Beyond the bound of messages, and beyond that of bytes, whoever has most gives way first:
    /// each newcomer finds space, until nothing is left.
    #[tokio::test]
    async fn a_queue_is_full_at_its_bounds_and_an_instance_takes_no_more_than_it_leaves() {
        let bytes = Frame::ping().wire_bytes();
        let (roomy, full) = (usize::MAX / 2, 64);
        for bounds in [
            QueueBounds { messages: full, bytes: roomy },
            QueueBounds { messages: 1_000, bytes: full * bytes },
        ] {
            let (sender, mut receiver) = bounded(bounds);
            let (greedy, second, third) = (share("greedy"), share("second"), share("third"));
            assert_eq!(fill(&sender, &greedy, 1_000), 32, "alone half of it");
            assert_eq!(fill(&sender, &second, 1_000), 16, "half of what is left");
            assert_eq!(fill(&sender, &third, 1_000), 8);
            assert_eq!(fill(&sender, &greedy, 1), 0);
            assert_eq!(fill(&sender, &share("last"), 1), 1);
            assert!(sender.reserve(roomy, &share("large")).is_none());
            let mut batch = Vec::new();
            assert!(receiver.receive(&mut batch, 1_000).await);
            assert_eq!(batch.len(), 32 + 16 + 8 + 1);
            batch.iter().for_each(|dispatch| receiver.release(dispatch));
            assert!(sender.is_idle());
            assert_eq!(fill(&sender, &second, 1_000), 32);
        }
    }
}
