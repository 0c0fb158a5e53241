//! The way from an accepted socket to HTTP, and from HTTP to an upgraded socket: options, TLS,
//! turns, the pace of requests and answers, the upgrade.

mod accept;
mod exchange;
mod heads;
mod paced;
mod upgrade;
mod wire;

pub use accept::{AcceptSettings, Acceptor};
pub use exchange::{Answering, Exchange, ReadingBody};
pub use paced::{PaceSettings, Paced};
pub use upgrade::Upgrader;
pub use wire::{Transport, Wire};
