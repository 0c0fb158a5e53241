//! How long a delivery takes at a fixed rate, from the moment when the message was due.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::Outcome;
use crate::clients::latency::{Schedule, joined, on_own_thread};
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::scenarios::delivery::AFTERMATH;
use crate::servers::Server;

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::compared("p50 ms"),
    Figure::compared("p99 ms"),
    Figure::compared("p99.9 ms"),
    Figure::compared("greatest ms"),
];

impl Bench {
    /// Publishes when each message is due, whatever became of the others.
    pub async fn delays(&self, server: &mut Server) -> Outcome<Sample> {
        let load = self.open(server, self.options.connections, 1).await?;
        let warm = u64::from(self.options.rate);
        let last = warm * (u64::from(self.options.seconds) + 1);
        let (inlet, messages) = (server.inlet(&self.certificate)?, self.messages.clone());
        let receivers = self.options.connections as usize;
        let schedule = Schedule { start: Instant::now(), interval: Duration::from_secs(1) / self.options.rate };
        load.follow(schedule);
        let publishing = on_own_thread(async move || {
            let mut outlet = inlet.open().await?;
            for number in 1..=last {
                schedule.wait_for(number);
                outlet.publish(&messages.text(number), receivers).await?;
            }
            Ok(outlet)
        });
        // The floor goes on for as long as its outlet is open.
        let _outlet = joined(publishing).await?;
        load.delivered(last).await?;
        sleep(AFTERMATH).await;
        load.check(last)?;
        let latencies = load.latencies().take(warm + 1..last + 1);
        Ok([0.5, 0.99, 0.999, 1.0].map(|share| latencies.at(share)).to_vec())
    }
}
