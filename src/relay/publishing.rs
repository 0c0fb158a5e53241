//! From publishers to the workers: a message gets its place in the order and is handed to whoever
//! has someone for it.

use super::Relay;
use super::frame::{Frame, Unplaced};
use super::lanes::Lane;
use super::memory::Forgotten;
use super::queue::{Parcel, Tally};
use super::realm::{Order, Realm};
use super::shard::{Counts, Delivery};
use crate::domain::audience::Audience;
use crate::domain::channel::Slow;
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use crate::domain::message::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a publish waits for the workers' counts (contract, "Sending").
const PATIENCE: Duration = Duration::from_secs(1);

/// Most messages of one publisher that get their places in one go: while they do, nobody else of
/// the instance gets one, and a worker may have to wait that wants to say that it has dealt with
/// some.
pub const LONGEST_RUN: usize = 16;

/// A message found its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its place.
    pub cursor: Cursor,
    /// What happened to it, in connections.
    pub counts: Counts,
    /// Whether every worker has counted; false when one took more than a second.
    pub complete: bool,
}

/// A worker's queue is full: the message has no place in the order and went to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker's queue is full")]
pub struct Overloaded;

/// A message that is on its way to the workers.
struct Handed {
    cursor: Cursor,
    /// What the workers got; none where no worker has someone for it.
    parcel: Option<Arc<Parcel>>,
    /// To be let go of once the order is unlocked.
    _forgotten: Forgotten,
}

impl Relay {
    /// Gives `message` its place in the instance's order and hands it to every worker that has
    /// someone of the instance. Waits for their counts, one second at most, and for no socket.
    /// Errors: `Overloaded`, before the message has a place.
    pub async fn publish(
        &self,
        instance: &InstanceId,
        message: &Message,
    ) -> Result<Published, Overloaded> {
        let realm = self.realm(instance);
        let unplaced = Ok(Unplaced::new(message));
        let handed = self.hand_over(&mut realm.order(), message, unplaced)?;
        self.bound_memory();
        Ok(handed.counted(&realm, Instant::now() + PATIENCE).await)
    }

    /// Publishes messages one after another, each as `publish` does, and waits less for it: up to
    /// [`LONGEST_RUN`] get their places in one go and are counted together. One for which there is
    /// no room waits until those before it are counted, and is refused only then. The answers are
    /// in the order of the messages.
    pub async fn publish_run(
        &self,
        instance: &InstanceId,
        messages: &[Message],
    ) -> Vec<Result<Published, Overloaded>> {
        let realm = self.realm(instance);
        let mut published = Vec::with_capacity(messages.len());
        while published.len() < messages.len() {
            let rest = &messages[published.len()..];
            let run = self.hand_over_run(&realm, &rest[..rest.len().min(LONGEST_RUN)]);
            self.bound_memory();
            if run.is_empty() {
                published.push(Err(Overloaded));
            }
            let deadline = Instant::now() + PATIENCE;
            for handed in run {
                published.push(Ok(handed.counted(&realm, deadline).await));
            }
        }
        published
    }

    /// Everything but the sending: the counts that `publish` would come back with now, and the
    /// newest cursor.
    pub async fn rehearse(
        &self,
        instance: &InstanceId,
        message: &Message,
    ) -> Result<Published, Overloaded> {
        let realm = self.realm(instance);
        let bytes = Err(Frame::message_bytes(message));
        let Handed { parcel, .. } = self.hand_over(&mut realm.order(), message, bytes)?;
        let (counts, complete) = count(parcel, Instant::now() + PATIENCE).await;
        Ok(Published { cursor: realm.cursor(), counts, complete })
    }

    /// Those that there is room for, up to the first for which there is none.
    fn hand_over_run(&self, realm: &Arc<Realm>, messages: &[Message]) -> Vec<Handed> {
        let unplaced = messages.iter().map(Unplaced::new).collect::<Vec<_>>();
        let mut run = Vec::with_capacity(messages.len());
        let mut order = realm.order();
        for (message, unplaced) in messages.iter().zip(unplaced) {
            match self.hand_over(&mut order, message, Ok(unplaced)) {
                Ok(handed) => run.push(handed),
                Err(Overloaded) => break,
            }
        }
        run
    }

    /// Gives `message` its place, and every worker that may have someone for it a parcel. One that
    /// is only to be counted is given as its length on the wire, and gets no place.
    fn hand_over(
        &self,
        order: &mut Order<'_>,
        message: &Message,
        unplaced: Result<Unplaced, usize>,
    ) -> Result<Handed, Overloaded> {
        let queues = self.0.queues.load();
        let bytes = unplaced.as_ref().map_or_else(|bytes| *bytes, Unplaced::wire_bytes);
        // Waking a worker costs more than all the rest, and many messages are for users who are
        // away.
        let is_without = order.is_without(&message.reach.audiences);
        let present = queues
            .iter()
            .enumerate()
            .filter(|(shard, _)| !is_without && order.has_someone_on(*shard));
        let places = present
            .map(|(shard, queue)| Some((shard, queue.reserve(bytes, order.backlog(shard))?)));
        let places = places.collect::<Option<Vec<_>>>().ok_or(Overloaded)?;
        let cursor = order.next();
        let frame = unplaced.map(|unplaced| unplaced.at(cursor));
        let forgotten = match &frame {
            Ok(frame) => self.remember(order, message, frame),
            Err(_) => Forgotten::default(),
        };
        if places.is_empty() {
            return Ok(Handed { cursor, parcel: None, _forgotten: forgotten });
        }
        let realm = order.realm().clone();
        let delivery = delivery(&realm, message, cursor, frame);
        let parcel = Arc::new(Parcel { delivery, realm, bytes, tally: Tally::of(places.len()) });
        for (shard, place) in places {
            order.add_backlog(shard, bytes);
            place.send(parcel.clone());
        }
        Ok(Handed { cursor, parcel: Some(parcel), _forgotten: forgotten })
    }
}

impl Handed {
    /// With what the workers did, as far as they say so in time.
    async fn counted(self, realm: &Realm, deadline: Instant) -> Published {
        let (counts, complete) = count(self.parcel, deadline).await;
        realm.count(counts);
        Published { cursor: self.cursor, counts, complete }
    }
}

/// What the workers did with a parcel, and whether all have said so in time.
async fn count(parcel: Option<Arc<Parcel>>, deadline: Instant) -> (Counts, bool) {
    match parcel {
        Some(parcel) => parcel.tally.wait(deadline).await,
        None => (Counts::default(), true),
    }
}

/// A message as the workers get it; without a frame it is only counted.
pub(super) fn delivery(
    realm: &Realm,
    message: &Message,
    cursor: Cursor,
    frame: Result<Frame, usize>,
) -> Delivery {
    Delivery {
        instance: realm.instance.clone(),
        reach: message.reach.clone(),
        position: cursor.position,
        lane: lane(message, cursor),
        frame,
    }
}

/// Only a message for one channel can have a lane: the policy is the channel's.
fn lane(message: &Message, cursor: Cursor) -> Option<Lane> {
    match (message.slow, message.reach.audiences.as_slice()) {
        (Slow::Latest, [Audience::Channel(channel)]) => {
            Some(Lane { channel: channel.clone(), cursor })
        }
        _ => None,
    }
}
