//! What a log answers to a message, or to a run of them.

use crate::relay::head::Head;
use std::sync::Arc;

/// Most messages of one publisher that get their places in one go: while they do, nobody else of
/// the instance gets one.
pub const LONGEST_RUN: usize = 16;

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
    /// This node does not hold the database, or is not sure of it: the message has no place and went
    /// to none.
    #[error("this node does not hold the database")]
    NotHeld,
    /// It was held up between the leave to place it and its place: another node may have begun.
    #[error("this node was held up for longer than it may")]
    TooLate,
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
