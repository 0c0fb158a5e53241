//! What one worker does for the relay.

mod asked;
mod authorize;
mod delivery;
mod filter_index;
mod following;
mod inboxes;
mod jobs;
mod listeners;
mod newcomer;
mod registration;
mod room;
mod shard;
mod thread;
mod turns;
mod workers;

#[cfg(test)]
mod jobs_test;
#[cfg(test)]
pub(crate) mod turns_test;

pub use authorize::Refusal;
pub use inboxes::Unanswered;
pub use newcomer::Joining;
pub(super) use registration::connect;
pub use registration::{ConnectError, Registration, Renewed};
pub use thread::Worker;
pub(super) use workers::Workers;
