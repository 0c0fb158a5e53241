//! What one worker does for the relay.

mod asked;
mod authorize;
mod delivery;
mod filter_index;
mod inboxes;
mod registration;
mod room;
mod shard;
mod thread;
mod turns;
mod workers;

#[cfg(test)]
pub(crate) mod turns_test;

pub use inboxes::Unanswered;
pub(super) use registration::connect;
pub use registration::{ConnectError, Joining, Registration};
pub use thread::Worker;
pub(super) use workers::Workers;
