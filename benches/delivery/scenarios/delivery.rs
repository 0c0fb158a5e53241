//! What a delivery costs when each message is one write.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::Outcome;
use crate::clients::latency::TIMED_LANES;
use crate::clients::load::Load;
use crate::clients::publisher::Publisher;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::servers::Server;
use crate::servers::process::own_cpu_seconds;

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::compared("s/M"),
    Figure::alone("client s/M"),
    Figure::alone("deliveries/s"),
    Figure::alone("frame bytes"),
];

/// How long a message could still arrive twice after the last was delivered.
pub const AFTERMATH: Duration = Duration::from_millis(500);

/// The publisher's.
const LANE: usize = TIMED_LANES;

impl Bench {
    /// CPU while messages go out one at a time, and memory with everyone connected and idle before
    /// that.
    pub async fn delivery(&self, server: &Server) -> Outcome<Sample> {
        let empty = self.empty(server).await?;
        let load = self.open(server, self.options.connections).await?;
        let idle = self.idle(server, &empty).await?;
        Ok([self.one_write_each(server, &load).await?, idle].concat())
    }

    /// CPU while messages go out one at a time.
    pub async fn one_write_each(&self, server: &Server, load: &Load) -> Outcome<Sample> {
        let mut publisher = server.inlet(&self.certificate)?.open().await?;
        self.publish_apart(&mut publisher, load, self.options.warm_up).await?;
        let (deliveries, bytes) = (load.progress().deliveries(), load.progress().bytes());
        let (cpu, own, started) =
            (server.process().cpu_seconds()?, own_cpu_seconds()?, Instant::now());
        self.publish_apart(&mut publisher, load, self.options.length).await?;
        let seconds = started.elapsed().as_secs_f64();
        let (cpu, own) = (server.process().cpu_seconds()? - cpu, own_cpu_seconds()? - own);
        let deliveries = (load.progress().deliveries() - deliveries) as f64;
        let bytes = (load.progress().bytes() - bytes) as f64;
        sleep(AFTERMATH).await;
        load.check()?;
        Ok(vec![
            cpu / deliveries * 1e6,
            own / deliveries * 1e6,
            deliveries / seconds,
            bytes / deliveries,
        ])
    }

    /// Publishes at the rate, and never before the last message reached everyone: so each is a
    /// write of its own.
    async fn publish_apart(
        &self,
        publisher: &mut Publisher,
        load: &Load,
        time: Duration,
    ) -> Outcome<()> {
        let receivers = self.everyone();
        let mut ticks = interval(Duration::from_secs(1) / self.options.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..self.options.messages_in(time) {
            ticks.tick().await;
            let message = self.messages.text(load.ledger().next(LANE));
            publisher.publish(&message, &receivers).await?;
            load.delivered(load.ledger().messages()).await?;
        }
        Ok(())
    }
}
