//! What a delivery costs when each message is one write, and what an idle connection holds.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::Outcome;
use crate::clients::load::Load;
use crate::clients::progress::TIMED_LANE;
use crate::clients::publisher::Publisher;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::servers::Server;
use crate::servers::process::{kernel_memory, own_cpu_seconds};

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::compared("s/M"),
    Figure::alone("client s/M"),
    Figure::compared("RSS KiB"),
    Figure::alone("PSS KiB"),
    Figure::alone("kernel KiB"),
    Figure::alone("deliveries/s"),
    Figure::alone("frame bytes"),
];

/// How long a message could still arrive twice after the last was delivered.
pub const AFTERMATH: Duration = Duration::from_millis(500);

impl Bench {
    /// Memory with everyone connected and idle, then CPU while messages go out one at a time.
    pub async fn delivery(&self, server: &mut Server) -> Outcome<Sample> {
        drop(self.open(server, 1).await?);
        let (empty, kernel) = (server.process().memory()?, kernel_memory()?);
        let load = self.open(server, self.options.connections).await?;
        sleep(Duration::from_secs(self.options.idle.into())).await;
        let (idle, kernel) = (server.process().memory()?, kernel_memory()? - kernel);
        let warm = u64::from(self.options.rate);
        let last = warm * (u64::from(self.options.seconds) + 1);
        let mut publisher = server.inlet(&self.certificate)?.open().await?;
        self.publish_apart(&mut publisher, &load, warm).await?;
        let (cpu, own, started) = (server.process().cpu_seconds()?, own_cpu_seconds()?, Instant::now());
        self.publish_apart(&mut publisher, &load, last - warm).await?;
        let seconds = started.elapsed().as_secs_f64();
        let (cpu, own) = (server.process().cpu_seconds()? - cpu, own_cpu_seconds()? - own);
        sleep(AFTERMATH).await;
        load.check()?;
        let connections = f64::from(self.options.connections);
        let deliveries = (last - warm) as f64 * connections;
        Ok(vec![
            cpu / deliveries * 1_000_000.0,
            own / deliveries * 1_000_000.0,
            (idle.resident - empty.resident) / connections,
            (idle.proportional - empty.proportional) / connections,
            kernel / connections,
            deliveries / seconds,
            load.progress().bytes() as f64 / (last as f64 * connections),
        ])
    }

    /// Publishes at the rate, and never before the last message reached everyone: so each is a write of its own.
    async fn publish_apart(&self, publisher: &mut Publisher, load: &Load, messages: u64) -> Outcome<()> {
        let receivers = self.everyone();
        let mut ticks = interval(Duration::from_secs(1) / self.options.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..messages {
            ticks.tick().await;
            let message = self.messages.text(load.ledger().next(TIMED_LANE));
            publisher.publish(&message, &receivers).await?;
            load.delivered(load.ledger().messages()).await?;
        }
        Ok(())
    }
}
