//! One run: servers are started in turn, each is measured by the scenario, and what they did is put side by side.

use std::path::Path;
use std::sync::Arc;

use crate::certificate::Certificate;
use crate::figures::{Layout, Report, Sample};
use crate::floor::FloorServer;
use crate::herald::{HeraldServer, INSTANCE, Setup};
use crate::load::{Load, Target};
use crate::message::Messages;
use crate::options::{Options, Scenario, Variant, cpus};
use crate::server::Server;
use crate::{Outcome, delivery};

/// Everything that stays the same in one run.
pub struct Bench {
    /// What was asked for.
    pub options: Options,
    /// Both servers' certificate.
    pub certificate: Certificate,
    /// What Herald is started with.
    pub setup: Setup,
    /// What is published.
    pub messages: Arc<Messages>,
}

impl Bench {
    /// Makes the certificate and the secret of the run; `directory` takes all files of all servers.
    pub fn new(options: Options, directory: &Path) -> Outcome<Self> {
        let certificate = Certificate::create(directory)?;
        let setup = Setup::new(directory, &certificate, options.settings.clone())?;
        let messages = Arc::new(Messages::new(options.payload as usize));
        Ok(Self { options, certificate, setup, messages })
    }

    /// What is about to be measured, in one line.
    pub fn describe(&self, scenario: &Scenario) -> String {
        let options = &self.options;
        let who = match scenario {
            Scenario::Storm(storm) => {
                format!("{} connections, {} more that miss {} messages", storm.healthy, storm.crowd, storm.missed)
            }
            _ => format!("{} connections", options.connections),
        };
        let (rate, payload, seconds) = (options.rate(), options.payload, options.seconds);
        let name = scenario.name();
        format!("{name}: {who}, {rate} messages of {payload} bytes a second, {seconds} s, {} CPUs", cpus())
    }

    /// Measures the scenario in all its rounds, and prints each.
    pub async fn run(&self, scenario: &Scenario) -> Outcome<Report> {
        let rounds = self.options.pairs.unwrap_or(scenario.usual_pairs()) as usize;
        if let Scenario::Storm(options) = scenario {
            return self.storms(options, rounds).await;
        }
        let wanted = |variant: &Variant| self.options.only.is_none_or(|only| only == *variant);
        let variants: Vec<Variant> = scenario.variants().iter().copied().filter(wanted).collect();
        if variants.is_empty() {
            return Err("this scenario does not measure that variant".into());
        }
        let names = variants.iter().map(|variant| variant.name()).collect();
        let mut report = Report::new(Layout::pairs(names, delivery::FIGURES));
        for round in 0..rounds {
            report.add(self.round(&variants, round).await?);
        }
        Ok(report)
    }

    /// Measures every variant, each in a process of its own; each round begins with the next one.
    async fn round(&self, variants: &[Variant], round: usize) -> Outcome<Vec<Sample>> {
        let mut samples = vec![Sample::new(); variants.len()];
        for place in 0..variants.len() {
            let which = (place + round) % variants.len();
            let mut server = self.start(variants[which], self.options.connections).await?;
            let sample = self.delivery(&mut server).await;
            samples[which] = sample.map_err(|failure| server.process().explain(failure))?;
        }
        Ok(samples)
    }

    /// Starts a server that lets `connections` connections in.
    pub async fn start(&self, variant: Variant, connections: u32) -> Outcome<Server> {
        let settings: &[(&str, &str)] = match variant {
            Variant::Floor => {
                let (directory, workers) = (&self.setup.directory, self.options.workers.max(1));
                return Ok(Server::Floor(FloorServer::start(directory, &self.certificate, workers).await?));
            }
            Variant::Herald => &[],
            Variant::WithoutHistory => &[("HERALD_HISTORY_MESSAGES", "0")],
        };
        Ok(Server::Herald(HeraldServer::start(&self.setup, &self.certificate, connections, settings).await?))
    }

    /// Opens `connections` listeners.
    pub async fn open(&self, server: &Server, connections: u32) -> Outcome<Load> {
        let target = Target {
            route: server.route(&self.certificate)?,
            path: format!("/?instance={INSTANCE}"),
            tokens: self.setup.listener_tokens("listeners", connections)?,
            messages: self.messages.clone(),
            lanes: 1,
        };
        Load::open(&target).await
    }
}
