//! One run: servers are started in turn, each is measured by the scenario, and what they did is put
//! side by side.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::listener::Ending;
use crate::clients::load::{Load, Target};
use crate::clients::message::Messages;
use crate::options::{Options, cpus};
use crate::report::figures::{Figure, Layout, Report, Sample};
use crate::scenario::{FairnessOptions, Scenario, StallsOptions, Variant};
use crate::scenarios::{
    churn, connects, delays, delivery, idle, matrix, publishes, restart, saturated, stalls,
};
use crate::servers::Server;
use crate::servers::certificate::Certificate;
use crate::servers::floor::{FloorServer, Kind};
use crate::servers::herald::{HeraldServer, INSTANCE};
use crate::servers::process::{free_address, load_average};
use crate::servers::processors::Processors;
use crate::servers::setup::Setup;

/// Connections beside the listeners: publishers, and what is being closed.
const MORE_CONNECTIONS: u32 = 200;
/// The nice value of a server that gives way (setpriority(2)).
const SERVER_PRIORITY: i32 = 10;

/// Everything that stays the same in one run.
pub struct Bench {
    /// What was asked for.
    pub options: Options,
    /// Both servers' certificate.
    pub certificate: Certificate,
    /// What Herald is started with.
    pub setup: Arc<Setup>,
    /// What is published.
    pub messages: Arc<Messages>,
}

impl Bench {
    /// Makes the certificate and the secret of the run; `directory` takes all files of all servers.
    pub fn new(options: Options, directory: &Path) -> Outcome<Self> {
        let certificate = Certificate::create(directory)?;
        let setup = Arc::new(Setup::new(directory, &certificate, options.settings.clone())?);
        let messages = Arc::new(Messages::new(options.payload as usize));
        Ok(Self { options, certificate, setup, messages })
    }

    /// What is about to be measured, in one line.
    pub fn describe(&self, scenario: &Scenario) -> String {
        let options = &self.options;
        let who = match scenario {
            Scenario::Storm(storm) => {
                format!(
                    "{} connections, {} more that miss {} messages",
                    storm.healthy, storm.crowd, storm.missed
                )
            }
            Scenario::Fairness(FairnessOptions { quiet, neighbours, .. }) => {
                format!("{quiet} connections, {neighbours} neighbours")
            }
            Scenario::Stalls(StallsOptions { stalled, .. }) => {
                format!("{} connections, {stalled} % of which read nothing", options.connections)
            }
            _ => format!("{} connections", options.connections),
        };
        let (rate, payload, seconds) =
            (options.rate, options.payload, options.length.as_secs_f64());
        let name = scenario.name();
        let listener = if options.proxy { "the proxy listener" } else { "TLS" };
        let load = load_average().unwrap_or_default();
        format!(
            "{name}: {who}, {rate} messages of {payload} bytes a second, {seconds} s, {listener}, {} CPUs, load average {load}",
            cpus()
        )
    }

    /// Measures the scenario in all its rounds, and prints each.
    pub async fn run(&self, scenario: &Scenario) -> Outcome<Report> {
        match scenario {
            Scenario::Storm(options) => self.storms(scenario, options).await,
            Scenario::Fairness(options) => self.fairness(scenario, options).await,
            _ => self.compare(scenario).await,
        }
    }

    /// Measures every variant, each in a process of its own.
    async fn compare(&self, scenario: &Scenario) -> Outcome<Report> {
        let wanted = |variant: &Variant| self.options.only.is_none_or(|only| only == *variant);
        let variants: Vec<Variant> = scenario.variants().iter().copied().filter(wanted).collect();
        if variants.is_empty() {
            return Err("this scenario does not measure that variant".into());
        }
        let names = variants.iter().map(|variant| variant.name()).collect();
        let report = Report::new(Layout::by_the_first(names, figures_of(scenario)));
        self.in_turn(report, async |which| {
            let mut server = self.start(scenario, variants[which]).await?;
            let sample = self.sample(scenario, &mut server).await;
            sample.map_err(|failure| server.process().explain(failure))
        })
        .await
    }

    /// Measures each of the report's variants in every round; each round begins with the next one.
    pub async fn in_turn(
        &self,
        mut report: Report,
        mut measure: impl AsyncFnMut(usize) -> Outcome<Sample>,
    ) -> Outcome<Report> {
        let variants = report.layout.variants.len();
        for round in 0..self.options.pairs as usize {
            let mut samples = vec![Sample::new(); variants];
            for place in 0..variants {
                let which = (place + round) % variants;
                samples[which] = measure(which).await?;
            }
            report.add(samples);
        }
        Ok(report)
    }

    async fn sample(&self, scenario: &Scenario, server: &mut Server) -> Outcome<Sample> {
        match scenario {
            Scenario::Saturated => {
                self.saturated(server, &self.open(server, self.options.connections).await?).await
            }
            Scenario::Latency => {
                self.delays(server, &self.open(server, self.options.connections).await?).await
            }
            Scenario::Stalls(options) => self.stalls(server, options).await,
            Scenario::Churn(options) => self.churn(server, options).await,
            Scenario::Restart => self.restart(server).await,
            Scenario::Matrix(_) => self.everything(server).await,
            Scenario::Connects => self.connects(server).await,
            Scenario::Publishes => self.publishes(server).await,
            _ => self.delivery(server).await,
        }
    }

    /// Starts a server that lets as many connections in as the scenario has.
    pub async fn start(&self, scenario: &Scenario, variant: Variant) -> Outcome<Server> {
        if variant == Variant::Floor {
            let (directory, workers) = (&self.setup.directory, self.options.workers);
            let kind =
                Kind { plain: self.options.proxy, rest: matches!(scenario, Scenario::Publishes) };
            return Ok(Server::Floor(
                FloorServer::start(directory, &self.certificate, workers, kind).await?,
            ));
        }
        let most =
            (scenario.most_connections(self.options.connections) + MORE_CONNECTIONS).to_string();
        let mut settings = vec![
            ("HERALD_CONNECTIONS_PER_ADDRESS", most.clone()),
            ("HERALD_HANDSHAKES_PER_ADDRESS", most),
            ("HERALD_CONNECTS_PER_ADDRESS_PER_SECOND", "100000".to_owned()),
        ];
        if variant == Variant::WithoutHistory {
            settings.push(("HERALD_HISTORY_MESSAGES", "0".to_owned()));
        }
        let proxy = if self.options.proxy { Some(free_address()?) } else { None };
        let mut herald = HeraldServer::start(&self.setup, settings, proxy).await?;
        herald.address_by(Envelope::of(variant)).await?;
        Ok(Server::Herald(herald))
    }

    /// Starts a Herald that gives way to the listeners, as if these were on machines of their own.
    pub async fn start_giving_way(&self, scenario: &Scenario) -> Outcome<Server> {
        let server = self.start(scenario, Variant::Herald).await?;
        server.process().lower_priority(SERVER_PRIORITY)?;
        Ok(server)
    }

    /// Starts a Herald with half of the processors, as long as the other value lives; this process
    /// has the others. Where there is only one, the server gives way.
    pub async fn start_apart(&self, scenario: &Scenario) -> Outcome<(Server, Option<Processors>)> {
        let Some(processors) = Processors::halved()? else {
            return Ok((self.start_giving_way(scenario).await?, None));
        };
        processors.become_the_servers()?;
        let server = self.start(scenario, Variant::Herald).await?;
        processors.become_the_clients()?;
        Ok((server, Some(processors)))
    }

    /// Whom a message must be counted for.
    pub fn everyone(&self) -> RangeInclusive<usize> {
        let everyone = self.options.connections as usize;
        everyone..=everyone
    }

    /// Opens `connections` listeners.
    pub async fn open(&self, server: &Server, connections: u32) -> Outcome<Load> {
        Load::open(self.target(server, "listeners", connections)?).await
    }

    /// So many listeners of a group.
    pub fn target(&self, server: &Server, group: &str, connections: u32) -> Outcome<Target> {
        Ok(Target {
            route: server.route(&self.certificate)?,
            path: format!("/?instance={INSTANCE}"),
            tokens: self.setup.listener_tokens(group, connections)?,
            messages: self.messages.clone(),
            ending: Ending::Never,
        })
    }
}

fn figures_of(scenario: &Scenario) -> Vec<Figure> {
    match scenario {
        Scenario::Saturated => saturated::FIGURES.into(),
        Scenario::Latency => delays::FIGURES.into(),
        Scenario::Connects => connects::FIGURES.into(),
        Scenario::Publishes => publishes::FIGURES.into(),
        Scenario::Stalls(_) => stalls::FIGURES.into(),
        Scenario::Churn(_) => churn::FIGURES.into(),
        Scenario::Restart => restart::FIGURES.into(),
        Scenario::Matrix(_) => matrix::figures(),
        _ => [delivery::FIGURES, idle::FIGURES].concat(),
    }
}
