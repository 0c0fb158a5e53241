//! The way from an accepted socket to HTTP, and from HTTP to an upgraded socket: places, options,
//! TLS, turns, the upgrade.

mod accept;
mod connection;
mod handshake;
mod places;
mod register;
mod signal;
mod turns;
mod upgrade;
mod wire;

pub use accept::{AcceptSettings, Acceptor, Guests};
pub use connection::Connection;
pub use places::{Occupancy, Place, PlaceFigures, Places, UnderWay};
pub use register::{NoPlace, PlaceSettings, Stage, counted_as};
pub use upgrade::Upgrader;
pub use wire::Transport;
