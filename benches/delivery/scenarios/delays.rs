//! How long a delivery takes at a fixed rate, from the moment when the message was due.

use std::time::Instant;

use tokio::time::{sleep, sleep_until};

use crate::Outcome;
use crate::clients::load::Load;
use crate::clients::punctual::Punctual;
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
        let inlet = server.inlet(&self.certificate)?;
        let publishing =
            Punctual::begin(load, inlet, self.messages.clone(), self.options.rate).await?;
        let start = Instant::now() + self.options.warm_up;
        let end = start + self.options.length;
        sleep_until(end.into()).await;
        let delays = publishing.delays(start..end).await?;
        publishing.end().await?;
        load.delivered(load.ledger().messages()).await?;
        sleep(AFTERMATH).await;
        load.check()?;
        Ok(delays)
    }
}
