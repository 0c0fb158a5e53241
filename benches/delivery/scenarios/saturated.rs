//! What a delivery costs when as much is published as goes through.

use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::clients::load::Load;
use crate::clients::progress::TIMED_LANE;
use crate::clients::publisher::Publisher;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::scenarios::delivery::AFTERMATH;
use crate::servers::Server;
use crate::servers::process::own_cpu_seconds;
use crate::{Failure, Outcome};

/// What is measured.
pub const FIGURES: &[Figure] =
    &[Figure::compared("s/M"), Figure::alone("client s/M"), Figure::compared("deliveries/s")];

/// Messages that are published and have not yet reached everyone.
const IN_FLIGHT: usize = 64;
/// The publishers stop so long after everything was read.
const BEFORE_THE_END: Duration = Duration::from_millis(100);
/// Each of these has a lane of its own; the timed one is none of them.
const FIRST_LANE: usize = TIMED_LANE + 1;

impl Bench {
    /// CPU while `IN_FLIGHT` messages are always under way, one from each publisher.
    pub async fn saturated(&self, server: &Server, load: &Load) -> Outcome<Sample> {
        let inlet = server.inlet(&self.certificate)?;
        let publishers = try_join_all((0..IN_FLIGHT).map(|_| inlet.open())).await?;
        let room = Semaphore::new(IN_FLIGHT);
        let until = Instant::now() + self.options.warm_up + self.options.length;
        let (sample, ()) = tokio::select! {
            done = try_join(self.watch(server, load), self.publish_all(publishers, load, &room, until)) => done?,
            failure = make_room(load, &room) => return Err(failure),
        };
        load.delivered(load.ledger().messages()).await?;
        sleep(AFTERMATH).await;
        load.check()?;
        Ok(sample)
    }

    /// Every publisher publishes in a lane of its own until the time is over.
    async fn publish_all(
        &self,
        publishers: Vec<Publisher>,
        load: &Load,
        room: &Semaphore,
        until: Instant,
    ) -> Outcome<()> {
        let receivers = &self.everyone();
        let publishing = publishers.into_iter().zip(FIRST_LANE..).map(|(mut publisher, lane)| async move {
            while Instant::now() < until {
                room.acquire().await?.forget();
                let message = self.messages.text(load.ledger().next(lane));
                publisher.publish(&message, receivers).await?;
            }
            Ok::<_, Failure>(())
        });
        try_join_all(publishing).await?;
        load.delivered(load.ledger().messages()).await
    }

    /// What is used and delivered once everything is warm.
    async fn watch(&self, server: &Server, load: &Load) -> Outcome<Sample> {
        sleep(self.options.warm_up).await;
        let (cpu, own) = (server.process().cpu_seconds()?, own_cpu_seconds()?);
        let (deliveries, started) = (load.progress().deliveries(), Instant::now());
        sleep(self.options.length - BEFORE_THE_END).await;
        let deliveries = (load.progress().deliveries() - deliveries) as f64;
        let (cpu, own) = (server.process().cpu_seconds()? - cpu, own_cpu_seconds()? - own);
        Ok(vec![
            cpu / deliveries * 1_000_000.0,
            own / deliveries * 1_000_000.0,
            deliveries / started.elapsed().as_secs_f64(),
        ])
    }
}

/// Lets one more message out for each that has reached everyone; returns when one does not.
async fn make_room(load: &Load, room: &Semaphore) -> Failure {
    for message in load.ledger().messages() + 1.. {
        match load.delivered(message).await {
            Ok(()) => room.add_permits(1),
            Err(failure) => return failure,
        }
    }
    "there are no more numbers".into()
}
