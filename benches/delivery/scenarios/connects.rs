//! What a connect costs: TCP, TLS, the WebSocket handshake and the first frame.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::servers::Server;
use crate::servers::process::own_cpu_seconds;

/// What is measured.
pub const FIGURES: &[Figure] =
    &[Figure::compared("µs a connect"), Figure::alone("client µs a connect"), Figure::compared("connects/s")];

/// How long the server has for closing what was opened before it opens the next.
const CLOSING: Duration = Duration::from_millis(500);

impl Bench {
    /// Opens all connections and closes them, again and again; only the opening is measured.
    pub async fn connects(&self, server: &mut Server) -> Outcome<Sample> {
        drop(self.open(server, 1).await?);
        let until = Instant::now() + Duration::from_secs(self.options.seconds.into());
        let (mut used, mut own, mut seconds, mut connects) = (0.0, 0.0, 0.0, 0.0);
        while Instant::now() < until {
            let (cpu, own_cpu, started) = (server.process().cpu_seconds()?, own_cpu_seconds()?, Instant::now());
            let load = self.open(server, self.options.connections).await?;
            seconds += started.elapsed().as_secs_f64();
            used += server.process().cpu_seconds()? - cpu;
            own += own_cpu_seconds()? - own_cpu;
            connects += f64::from(self.options.connections);
            drop(load);
            sleep(CLOSING).await;
        }
        Ok(vec![used / connects * 1e6, own / connects * 1e6, connects / seconds])
    }
}
