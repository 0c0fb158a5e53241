//! Everything on this side of the wire: listeners that check what they hear, publishers, and the
//! little protocol that both need.

pub mod background;
pub mod client;
pub mod crowd;
pub mod envelope;
pub mod frames;
pub mod latency;
pub mod listener;
pub mod load;
pub mod message;
pub mod neighbour;
pub mod order;
pub mod persistent;
pub mod progress;
pub mod publisher;
pub mod punctual;
pub mod wire;
