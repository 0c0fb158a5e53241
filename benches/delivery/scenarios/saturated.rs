//! What a delivery costs when as much is published as goes through.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::{try_join, try_join_all};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::clients::latency::TIMED_LANES;
use crate::clients::load::Load;
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
/// Each of these has a lane of its own, which no other phase uses.
const FIRST_LANE: usize = TIMED_LANES + 1;

impl Bench {
    /// CPU while `IN_FLIGHT` messages are always under way, one from each publisher.
    pub async fn saturated(&self, server: &Server, load: &Load) -> Outcome<Sample> {
        let sample = self.flat_out(server, load, self.everyone(), self.watch(server, load)).await?;
        sleep(AFTERMATH).await;
        load.check()?;
        Ok(sample)
    }

    /// Keeps `IN_FLIGHT` messages under way until the time is over and everyone has them; each must
    /// be counted for `receivers`. Returns what `watch` saw meanwhile.
    pub async fn flat_out<T>(
        &self,
        server: &Server,
        load: &Load,
        receivers: RangeInclusive<usize>,
        watch: impl Future<Output = Outcome<T>>,
    ) -> Outcome<T> {
        let inlet = server.inlet(&self.certificate)?;
        let publishers = try_join_all((0..IN_FLIGHT).map(|_| inlet.open())).await?;
        let room = Semaphore::new(IN_FLIGHT);
        // Before anyone publishes: which of the futures below is asked first is a matter of chance.
        let first = load.ledger().messages() + 1;
        let until = Instant::now() + self.options.warm_up + self.options.length;
        let publishing = publishers.into_iter().zip(FIRST_LANE..).map(|(mut publisher, lane)| {
            let (room, receivers) = (&room, &receivers);
            async move {
                while Instant::now() < until {
                    room.acquire().await?.forget();
                    publisher
                        .publish(&self.messages.text(load.ledger().next(lane)), receivers)
                        .await?;
                }
                Ok::<_, Failure>(())
            }
        });
        let everything = async {
            try_join_all(publishing).await?;
            load.delivered(load.ledger().messages()).await
        };
        tokio::select! {
            done = try_join(watch, everything) => done.map(|(seen, ())| seen),
            failure = make_room(load, &room, first) => Err(failure),
        }
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

/// Lets one more message out for each that has reached everyone, from the `first` on; returns when
/// one does not.
async fn make_room(load: &Load, room: &Semaphore, first: u64) -> Failure {
    for message in first.. {
        match load.delivered(message).await {
            Ok(()) => room.add_permits(1),
            Err(failure) => return failure,
        }
    }
    "there are no more numbers".into()
}
