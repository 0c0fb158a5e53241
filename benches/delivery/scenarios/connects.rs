//! What a connect costs: TCP, TLS, the WebSocket handshake and the first frame.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::clients::load::Load;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::servers::Server;
use crate::servers::process::own_cpu_seconds;

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::compared("µs a connect"),
    Figure::alone("client µs a connect"),
    Figure::compared("connects/s"),
];

/// How long the server has for closing what was opened before it opens the next.
const CLOSING: Duration = Duration::from_millis(500);

/// What opening has taken.
#[derive(Default)]
pub struct Opening {
    cpu: f64,
    own: f64,
    seconds: f64,
    connects: f64,
}

impl Bench {
    /// Opens all connections and closes them, again and again; only the opening is measured.
    pub async fn connects(&self, server: &Server) -> Outcome<Sample> {
        drop(self.open(server, 1).await?);
        let until = Instant::now() + self.options.length;
        let mut opening = Opening::default();
        while Instant::now() < until {
            drop(self.open_all(server, &mut opening).await?);
            sleep(CLOSING).await;
        }
        Ok(opening.sample())
    }

    /// Opens all connections, and adds what that took.
    pub async fn open_all(&self, server: &Server, opening: &mut Opening) -> Outcome<Load> {
        let (cpu, own, started) =
            (server.process().cpu_seconds()?, own_cpu_seconds()?, Instant::now());
        let load = self.open(server, self.options.connections).await?;
        opening.seconds += started.elapsed().as_secs_f64();
        opening.cpu += server.process().cpu_seconds()? - cpu;
        opening.own += own_cpu_seconds()? - own;
        opening.connects += f64::from(self.options.connections);
        Ok(load)
    }
}

impl Opening {
    /// A connect's share.
    pub fn sample(&self) -> Sample {
        vec![
            self.cpu / self.connects * 1e6,
            self.own / self.connects * 1e6,
            self.connects / self.seconds,
        ]
    }
}
