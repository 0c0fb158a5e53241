//! The server under measurement, whichever it is.

use crate::Outcome;
use crate::certificate::Certificate;
use crate::floor::{Control, FloorServer};
use crate::herald::{HeraldServer, INSTANCE};
use crate::process::Process;
use crate::publisher::Publisher;
use crate::wire::Route;

/// A running server.
pub enum Server {
    /// Bare tokio and rustls.
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

    /// The way to it.
    pub fn route(&self, certificate: &Certificate) -> Outcome<Route> {
        let address = match self {
            Self::Floor(floor) => floor.address,
            Self::Herald(herald) => herald.address,
        };
        Ok(Route { address, connector: Some(certificate.connector()?) })
    }

    /// A way to send messages to it.
    pub async fn outlet(&mut self, certificate: &Certificate) -> Outcome<Outlet> {
        let route = self.route(certificate)?;
        Ok(match self {
            Self::Floor(floor) => Outlet::Pipe(floor.control()?),
            Self::Herald(herald) => Outlet::Https(Publisher::open(&route, &herald.publisher, INSTANCE).await?),
        })
    }
}

/// Where messages go in.
pub enum Outlet {
    /// The floor's standard input.
    Pipe(Control),
    /// Herald's REST interface.
    Https(Publisher),
}

impl Outlet {
    /// Publishes to every one of `receivers` connections.
    pub async fn publish(&mut self, message: &str, receivers: usize) -> Outcome<()> {
        match self {
            Self::Pipe(control) => control.publish(message),
            Self::Https(publisher) => publisher.publish("ALL", message, receivers).await,
        }
    }
}
