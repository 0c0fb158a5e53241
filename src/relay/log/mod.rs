//! Where a message gets its place: in memory, inline; or from a log that several nodes share.

mod memory;
mod shared;

pub use shared::{NotNow, SharedLog};

use super::head::Head;
use super::queue::Sender;
use super::sealed::Sealed;
use super::timeline::Timeline;
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use std::fmt;
use std::sync::Arc;

/// Most messages of one publisher that get their places in one go: while they do, nobody else of
/// the instance gets one.
pub const LONGEST_RUN: usize = 16;

/// Who gives a message its place.
pub enum Log {
    /// A counter, under the order's lock: no hop, no task.
    Memory,
    /// Another's log: a message comes back from it to every node, and is applied then.
    Shared(Arc<dyn SharedLog>),
}

/// Where a message stands now.
#[derive(Clone, Debug)]
pub enum Appended {
    /// At the place that its head names; what the workers of this node do with it is reported to
    /// the head.
    New(Arc<Head>),
    /// The log has a message with its id, at this position, which was applied here.
    Repeat {
        /// In the instance's order.
        position: u64,
    },
}

/// Why a message has no place, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPlaced {
    /// A worker's queue is full: the message has no place and went to none.
    #[error("a worker's queue is full")]
    Overloaded,
    /// The shared log has another message with its id.
    #[error("the id was used for another message, or by another user")]
    Reused,
    /// The shared log did not get it.
    #[error("the log that the nodes share cannot be reached")]
    NotSent,
    /// The shared log may have it: only a repetition with the same id tells.
    #[error("the log that the nodes share has not answered")]
    Unknown,
}

impl Log {
    /// Gives each message of `run` its place, in order; what the log answered, as far as it took
    /// them. One that was not taken ends the run: those behind it are still in `run`.
    pub async fn append(
        &self,
        timeline: &Arc<Timeline>,
        queues: &[Sender],
        run: &mut Vec<Sealed>,
    ) -> Vec<Result<Appended, NotPlaced>> {
        match self {
            Self::Memory => memory::append(timeline, queues, run),
            Self::Shared(log) => log.append(timeline, std::mem::take(run)).await,
        }
    }

    /// Gives one message its place. Errors: `NotPlaced`.
    pub async fn append_one(
        &self,
        timeline: &Arc<Timeline>,
        queues: &[Sender],
        sealed: Sealed,
    ) -> Result<Appended, NotPlaced> {
        match self {
            Self::Memory => memory::append_one(timeline, queues, sealed),
            Self::Shared(log) => {
                let mut answers = log.append(timeline, vec![sealed]).await;
                answers.pop().unwrap_or(Err(NotPlaced::Unknown))
            }
        }
    }

    /// Waits, bounded, until what a cursor names is applied here. In memory nothing can come.
    /// Errors: `NotNow`.
    pub async fn wait_for(&self, timeline: &Arc<Timeline>, cursor: Cursor) -> Result<(), NotNow> {
        match self {
            Self::Shared(log) if timeline.cursor().position < cursor.position => {
                log.wait_for(timeline, cursor).await
            }
            _ => Ok(()),
        }
    }

    /// The epoch of a fresh timeline; none where it is drawn at random.
    pub fn epoch_of(&self, instance: &InstanceId) -> Option<u64> {
        match self {
            Self::Memory => None,
            Self::Shared(log) => Some(log.epoch_of(instance)),
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "Log::Memory",
            Self::Shared(_) => "Log::Shared",
        })
    }
}
