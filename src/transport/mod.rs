//! The way from an accepted socket to HTTP, and from HTTP to an upgraded socket: options, TLS,
//! turns, the upgrade.

mod accept;
mod upgrade;
mod wire;

pub use accept::{AcceptSettings, Acceptor};
pub use upgrade::Upgrader;
pub use wire::{Transport, Wire};
