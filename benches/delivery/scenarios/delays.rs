//! How long a delivery takes at a fixed rate, from the moment when the message was due.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::Outcome;
use crate::clients::latency::{Schedule, joined, on_own_thread};
use crate::clients::load::Load;
use crate::clients::progress::TIMED_LANE;
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
    pub async fn delays(&self, server: &Server, load: &Load) -> Outcome<Sample> {
        let (inlet, messages, ledger) =
            (server.inlet(&self.certificate)?, self.messages.clone(), load.ledger().clone());
        let (receivers, before) = (self.everyone(), ledger.messages_of(TIMED_LANE));
        let warm = before + self.options.messages_in(self.options.warm_up);
        let last = warm + self.options.messages_in(self.options.length);
        let schedule = Schedule { start: Instant::now(), interval: Duration::from_secs(1) / self.options.rate, before };
        load.progress().follow(schedule);
        let publishing = on_own_thread(async move || {
            let mut publisher = inlet.open().await?;
            for place in before + 1..=last {
                schedule.wait_for(place);
                publisher.publish(&messages.text(ledger.next(TIMED_LANE)), &receivers).await?;
            }
            Ok(())
        });
        joined(publishing).await?;
        load.delivered(load.ledger().messages()).await?;
        sleep(AFTERMATH).await;
        load.check()?;
        Ok(load.progress().latencies().take(warm + 1..last + 1).figures())
    }
}
