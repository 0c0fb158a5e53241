//! The server under measurement, whichever it is.

pub mod certificate;
pub mod floor;
pub mod herald;
mod manage;
pub mod process;
pub mod processors;
pub mod setup;

use std::net::SocketAddr;

use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::publisher::Inlet;
use crate::clients::wire::Route;
use crate::servers::certificate::Certificate;
use crate::servers::floor::FloorServer;
use crate::servers::herald::{HeraldServer, INSTANCE};
use crate::servers::process::Process;

/// Length of a token of Herald's publisher.
const TOKEN_BYTES: usize = 213;

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
            Self::Herald(herald) => {
                (herald.proxy().unwrap_or(herald.address()), herald.proxy().is_some())
            }
        };
        let connector = if plain { None } else { Some(certificate.connector()?) };
        Ok(Route { address, connector, receive_buffer: None })
    }

    /// Where messages go in.
    pub fn inlet(&self, certificate: &Certificate) -> Outcome<Inlet> {
        let (route, instance) = (self.route(certificate)?, INSTANCE);
        Ok(match self {
            Self::Floor(floor) => {
                // It looks at no token, but is to read a request as long as Herald's.
                let (route, token) =
                    (Route { address: floor.inlet, ..route }, "x".repeat(TOKEN_BYTES));
                Inlet { route, token, instance, envelope: Envelope::EVERYONE }
            }
            Self::Herald(herald) => Inlet {
                route,
                token: herald.publisher.clone(),
                instance,
                envelope: herald.envelope,
            },
        })
    }
}
