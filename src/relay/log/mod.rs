//! Where a message gets its place: in memory, inline; or from a log that several nodes share.

mod appended;
mod memory;
mod shared;

pub use appended::{Appended, LONGEST_RUN, NotPlaced};
pub use shared::{NotNow, SharedLog};

use super::queue::Sender;
use super::sealed::Sealed;
use super::tenure::Tenure;
use super::timeline::Timeline;
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use std::fmt;
use std::sync::Arc;

/// Who gives a message its place.
pub enum Log {
    /// A counter, under the order's lock: no hop, no task. Gives places while this node holds the
    /// database.
    Memory(Tenure),
    /// Another's log: a message comes back from it to every node, and is applied then.
    Shared(Arc<dyn SharedLog>),
}

impl Log {
    /// Gives each message of `run` its place, in order; what the log answered, as far as it took
    /// them. One that was not taken ends the run: those behind it are still in `run`.
    pub(crate) async fn append(
        &self,
        timeline: &Arc<Timeline>,
        queues: &[Sender],
        run: &mut Vec<Sealed>,
    ) -> Vec<Result<Appended, NotPlaced>> {
        match self {
            Self::Memory(tenure) => memory::append(timeline, queues, tenure, run),
            Self::Shared(log) => log.append(timeline.instance(), std::mem::take(run)).await,
        }
    }

    /// Gives one message its place. Errors: `NotPlaced`.
    pub(crate) async fn append_one(
        &self,
        timeline: &Arc<Timeline>,
        queues: &[Sender],
        sealed: Sealed,
    ) -> Result<Appended, NotPlaced> {
        match self {
            Self::Memory(tenure) => memory::append_one(timeline, queues, tenure, sealed),
            Self::Shared(log) => {
                let mut answers = log.append(timeline.instance(), vec![sealed]).await;
                answers.pop().unwrap_or(Err(NotPlaced::Unknown))
            }
        }
    }

    /// Waits, bounded, until what a cursor names is applied here. In memory nothing can come.
    /// Errors: `NotNow`.
    pub(crate) async fn wait_for(
        &self,
        timeline: &Arc<Timeline>,
        cursor: Cursor,
    ) -> Result<(), NotNow> {
        match self {
            Self::Shared(log) if timeline.cursor().position < cursor.position => {
                log.wait_for(timeline.instance(), cursor).await
            }
            _ => Ok(()),
        }
    }

    /// Whether messages may get places here now, as far as that is this node's to know.
    pub fn is_held(&self) -> bool {
        match self {
            Self::Memory(tenure) => tenure.is_held(),
            Self::Shared(_) => true,
        }
    }

    /// The epoch of a fresh timeline; none where it is drawn at random.
    pub fn epoch_of(&self, instance: &InstanceId) -> Option<u64> {
        match self {
            Self::Memory(_) => None,
            Self::Shared(log) => Some(log.epoch_of(instance)),
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "Log::Memory",
            Self::Shared(_) => "Log::Shared",
        })
    }
}
