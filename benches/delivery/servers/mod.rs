//! The server under measurement, whichever it is.

pub mod certificate;
pub mod floor;
pub mod herald;
pub mod process;
mod rest_floor;

use std::net::SocketAddr;

use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::publisher::Publisher;
use crate::clients::wire::Route;
use crate::servers::certificate::Certificate;
use crate::servers::floor::{Control, FloorServer};
use crate::servers::herald::{HeraldServer, INSTANCE};
use crate::servers::process::Process;

/// A running server.
pub enum Server {
    /// Bare tokio and rustls, or bare actix.
    Floor(FloorServer),
    /// Herald.
    Herald(HeraldServer),
}

impl Server {
    /// Its process.
    pub fn process(&self) -> &Process {
        match self {
            Self::Floor(floor) => &floor.process,
            Self::Herald(herald) => &herald.process,
        }
    }

    /// The way to it, by the listener under measurement.
    pub fn route(&self, certificate: &Certificate) -> Outcome<Route> {
        let (address, plain): (SocketAddr, bool) = match self {
            Self::Floor(floor) => (floor.address, floor.plain),
            Self::Herald(herald) => (herald.proxy.unwrap_or(herald.address), herald.proxy.is_some()),
        };
        let connector = if plain { None } else { Some(certificate.connector()?) };
        Ok(Route { address, connector })
    }

    /// The token that publishing needs; the floor takes any.
    pub fn token(&self) -> &str {
        match self {
            Self::Floor(_) => "none",
            Self::Herald(herald) => &herald.publisher,
        }
    }

    /// Where messages can be sent in. The floor has one such place.
    pub fn inlet(&mut self, certificate: &Certificate) -> Outcome<Inlet> {
        let route = self.route(certificate)?;
        Ok(match self {
            Self::Floor(floor) => Inlet::Pipe(floor.control()?),
            Self::Herald(herald) => Inlet::Https(route, herald.publisher.clone(), herald.envelope),
        })
    }
}

/// Where messages go in, before anything is connected.
pub enum Inlet {
    /// The floor's standard input.
    Pipe(Control),
    /// Herald's REST interface: the way, a token, and how messages are addressed.
    Https(Route, String, Envelope),
}

impl Inlet {
    /// Connects, on the runtime of the caller.
    pub async fn open(self) -> Outcome<Outlet> {
        Ok(match self {
            Self::Pipe(control) => Outlet::Pipe(control),
            Self::Https(route, token, envelope) => {
                Outlet::Https(Publisher::open(&route, &token, INSTANCE).await?, envelope)
            }
        })
    }
}

/// A way to send messages.
pub enum Outlet {
    /// The floor's standard input.
    Pipe(Control),
    /// Herald's REST interface.
    Https(Publisher, Envelope),
}

impl Outlet {
    /// Publishes to every one of `receivers` connections.
    pub async fn publish(&mut self, message: &str, receivers: usize) -> Outcome<()> {
        match self {
            Self::Pipe(control) => control.publish(message),
            Self::Https(publisher, envelope) => publisher.publish(*envelope, message, receivers).await,
        }
    }
}
