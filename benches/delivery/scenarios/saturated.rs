//! What a delivery costs when as much is published as goes through.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::clients::load::Load;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::scenarios::delivery::AFTERMATH;
use crate::servers::process::own_cpu_seconds;
use crate::servers::{Outlet, Server};
use crate::{Failure, Outcome};

/// What is measured.
pub const FIGURES: &[Figure] =
    &[Figure::compared("s/M"), Figure::alone("client s/M"), Figure::compared("deliveries/s")];

/// Messages that are published and have not yet reached everyone.
const IN_FLIGHT: u64 = 64;
const WARM_UP: Duration = Duration::from_secs(1);

impl Bench {
    /// CPU while `IN_FLIGHT` messages are always under way: from one publisher each to Herald, from one alone to the floor.
    pub async fn saturated(&self, server: &mut Server) -> Outcome<Sample> {
        let lanes = match server {
            Server::Floor(_) => 1,
            Server::Herald(_) => IN_FLIGHT,
        };
        let load = self.open(server, self.options.connections, lanes).await?;
        let mut outlets = Vec::new();
        for _ in 0..lanes {
            outlets.push(server.inlet(&self.certificate)?.open().await?);
        }
        let room = Semaphore::new(IN_FLIGHT as usize);
        let until = Instant::now() + WARM_UP + Duration::from_secs(self.options.seconds.into());
        let mut sample = Sample::new();
        let sent = tokio::select! {
            sent = self.publish_all(&mut outlets, &room, until) => sent?,
            failure = make_room(&load, &room) => return Err(failure),
            result = self.watch(server, &load, &mut sample) => {
                result?;
                return Err("the publishers go on after their time".into());
            }
        };
        load.delivered(sent).await?;
        sleep(AFTERMATH).await;
        load.check(sent)?;
        Ok(sample)
    }

    /// Publishes in every lane until the time is over; returns how many messages there were.
    async fn publish_all(&self, outlets: &mut [Outlet], room: &Semaphore, until: Instant) -> Outcome<u64> {
        let lanes = outlets.len() as u64;
        let publishing = outlets.iter_mut().zip(1..).map(|(outlet, first)| async move {
            let mut sent = 0;
            while Instant::now() < until {
                room.acquire().await?.forget();
                let message = self.messages.text(first + sent * lanes);
                outlet.publish(&message, self.options.connections as usize).await?;
                sent += 1;
            }
            Ok::<u64, Failure>(sent)
        });
        let mut publishing: FuturesUnordered<_> = publishing.collect();
        let mut sent = 0;
        while let Some(lane) = publishing.next().await {
            sent += lane?;
        }
        Ok(sent)
    }

    /// Fills the sample when the time is over, and then waits for ever.
    async fn watch(&self, server: &Server, load: &Load, sample: &mut Sample) -> Outcome<()> {
        sleep(WARM_UP).await;
        let (cpu, own) = (server.process().cpu_seconds()?, own_cpu_seconds()?);
        let (deliveries, started) = (load.deliveries(), Instant::now());
        sleep(Duration::from_secs(self.options.seconds.into()) - Duration::from_millis(100)).await;
        let deliveries = (load.deliveries() - deliveries) as f64;
        let (cpu, own) = (server.process().cpu_seconds()? - cpu, own_cpu_seconds()? - own);
        *sample = vec![
            cpu / deliveries * 1_000_000.0,
            own / deliveries * 1_000_000.0,
            deliveries / started.elapsed().as_secs_f64(),
        ];
        std::future::pending().await
    }
}

/// Lets one more message out for each that has reached everyone; returns when one does not.
async fn make_room(load: &Load, room: &Semaphore) -> Failure {
    for number in 1.. {
        match load.delivered(number).await {
            Ok(()) => room.add_permits(1),
            Err(failure) => return failure,
        }
    }
    "there are no more numbers".into()
}
