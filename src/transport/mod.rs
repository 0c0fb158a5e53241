//! The way from an accepted socket to HTTP, and from HTTP to an upgraded socket: places, options,
//! TLS, turns, the pace of requests and answers, the upgrade.

mod accept;
mod connection;
mod exchange;
mod handshake;
mod heads;
mod paced;
mod places;
mod register;
mod signal;
mod turns;
mod unfinished;
mod upgrade;
mod wire;

pub use accept::{AcceptSettings, Acceptor, Guests};
pub use connection::Connection;
pub use exchange::{AnnouncedBody, Answering, Exchange, ReadingBody};
pub use paced::PaceSettings;
pub use places::{Occupancy, Place, PlaceFigures, Places, UnderWay};
pub use register::{NoPlace, PlaceSettings, Stage, counted_as};
pub use unfinished::{Holder, TooMuchUnfinished, Unfinished, UnfinishedBounds};
pub use upgrade::Upgrader;
pub use wire::Transport;
