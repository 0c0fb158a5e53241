//! The seam to a log that several nodes share.

use super::appended::{Appended, NotPlaced};
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use crate::relay::sealed::Sealed;
use futures_util::future::BoxFuture;

/// A log that gives places for several nodes. What it has taken comes back to each of them, in
/// order and once, through `Relay::apply`.
pub trait SharedLog: Send + Sync {
    /// Gives each message its place, in order; answers once it has come back (it was applied by
    /// then) or is known to be taken. One answer for each message.
    fn append(
        &self,
        instance: &InstanceId,
        run: Vec<Sealed>,
    ) -> BoxFuture<'_, Vec<Result<Appended, NotPlaced>>>;

    /// Waits, bounded, until what `cursor` names is applied here. Resolves at once for what the
    /// log does not have either: that is a cursor of another epoch. Errors: `NotNow`.
    fn wait_for(&self, instance: &InstanceId, cursor: Cursor) -> BoxFuture<'_, Result<(), NotNow>>;

    /// The epoch of an instance's order: the same on every node.
    fn epoch_of(&self, instance: &InstanceId) -> u64;
}

/// This node is late: what a cursor names is in the log and not applied here yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has not followed that far yet; come again")]
pub struct NotNow;
