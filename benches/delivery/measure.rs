//! One measurement: a server is started, listened to by everyone, published through, and read from outside.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::certificate::Certificate;
use crate::figures::{Pair, Sample};
use crate::floor::FloorServer;
use crate::herald::{HeraldServer, INSTANCE, Setup};
use crate::load::{Load, Target};
use crate::message::Messages;
use crate::process::Process;
use crate::{Only, Options, Outcome};

/// How long a message could still arrive twice after the last was delivered.
const AFTERMATH: Duration = Duration::from_millis(500);

/// Everything that stays the same in one run.
pub struct Bench<'a> {
    options: &'a Options,
    certificate: Certificate,
    setup: Setup,
    messages: Arc<Messages>,
}

impl<'a> Bench<'a> {
    /// Makes the certificate and the secret of the run; `directory` takes all files of both servers.
    pub fn new(options: &'a Options, directory: &Path) -> Outcome<Self> {
        let certificate = Certificate::create(directory)?;
        let setup = Setup::new(directory, &certificate)?;
        Ok(Self { options, certificate, setup, messages: Arc::new(Messages::new(options.payload as usize)) })
    }

    /// Measures both servers, each in a process of its own; every other pair begins with Herald.
    pub async fn measure_pair(&self, number: usize) -> Outcome<Pair> {
        let mut pair = Pair::default();
        let order = if number % 2 == 1 { [Only::Floor, Only::Herald] } else { [Only::Herald, Only::Floor] };
        for which in order {
            if self.options.only.is_some_and(|only| only != which) {
                continue;
            }
            match which {
                Only::Floor => pair.floor = Some(self.measure(self.start_floor().await?).await?),
                Only::Herald => pair.herald = Some(self.measure(self.start_herald().await?).await?),
            }
        }
        Ok(pair)
    }

    async fn start_floor(&self) -> Outcome<Server> {
        let workers = self.options.workers.max(1);
        Ok(Server::Floor(FloorServer::start(self.setup.directory.as_path(), &self.certificate, workers).await?))
    }

    async fn start_herald(&self) -> Outcome<Server> {
        let connections = self.options.connections as usize;
        Ok(Server::Herald(HeraldServer::start(&self.setup, &self.certificate, connections).await?))
    }

    async fn measure(&self, mut server: Server) -> Outcome<Sample> {
        let result = self.sample(&mut server).await;
        result.map_err(|failure| server.process().explain(failure))
    }

    async fn sample(&self, server: &mut Server) -> Outcome<Sample> {
        drop(self.open(server, 1).await?);
        let empty = server.process().memory()?;
        let load = self.open(server, self.options.connections).await?;
        sleep(Duration::from_secs(self.options.idle.into())).await;
        let idle = server.process().memory()?;
        let warm = u64::from(self.options.rate);
        let last = warm * (u64::from(self.options.seconds) + 1);
        self.publish(server, &load, 1..=warm).await?;
        let (cpu, started) = (server.process().cpu_seconds()?, Instant::now());
        self.publish(server, &load, warm + 1..=last).await?;
        let (cpu, seconds) = (server.process().cpu_seconds()? - cpu, started.elapsed().as_secs_f64());
        sleep(AFTERMATH).await;
        load.check(last)?;
        let connections = f64::from(self.options.connections);
        let deliveries = (last - warm) as f64 * connections;
        Ok(Sample {
            cpu: cpu / deliveries * 1_000_000.0,
            resident: (idle.resident - empty.resident) / connections,
            proportional: (idle.proportional - empty.proportional) / connections,
            rate: deliveries / seconds,
            frame: load.bytes() as f64 / (last as f64 * connections),
        })
    }

    async fn open(&self, server: &Server, connections: u32) -> Outcome<Load> {
        let target = Target {
            address: server.address(),
            connector: self.certificate.connector()?,
            path: format!("/?instance={INSTANCE}"),
            tokens: self.setup.listener_tokens(connections as usize)?,
            messages: self.messages.clone(),
        };
        Load::open(&target).await
    }

    /// Publishes at the rate, and never before the last message reached everyone: so each is a write of its own.
    async fn publish(&self, server: &mut Server, load: &Load, numbers: RangeInclusive<u64>) -> Outcome<()> {
        let mut ticks = interval(Duration::from_secs(1) / self.options.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in numbers {
            ticks.tick().await;
            server.publish(&self.messages.text(number)).await?;
            load.delivered(number).await?;
        }
        Ok(())
    }
}

/// The server under measurement.
enum Server {
    Floor(FloorServer),
    Herald(HeraldServer),
}

impl Server {
    fn process(&self) -> &Process {
        match self {
            Self::Floor(floor) => &floor.process,
            Self::Herald(herald) => &herald.process,
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Floor(floor) => floor.address,
            Self::Herald(herald) => herald.address,
        }
    }

    async fn publish(&mut self, message: &str) -> Outcome<()> {
        match self {
            Self::Floor(floor) => floor.publish(message),
            Self::Herald(herald) => herald.publish(message).await,
        }
    }
}
