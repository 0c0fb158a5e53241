//! The command line: which scenario, and how much of everything.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::clients::message::{LARGEST, SMALLEST};

/// Measures Herald against bare tokio and rustls (the floor), or against itself, in turn and in one run.
#[derive(Clone, Parser)]
#[command(name = "delivery")]
pub struct Options {
    /// What to measure; the default is one message a write
    #[command(subcommand)]
    pub scenario: Option<Scenario>,
    /// wss connections
    #[arg(long, global = true, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub connections: u32,
    /// Seconds of each measurement, after one second to warm up
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// How often each variant is measured; 9 for `history`, `filters` and `storm`, otherwise 5
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub pairs: Option<u32>,
    /// Bytes of a message
    #[arg(long, global = true, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(SMALLEST as i64..=LARGEST as i64))]
    pub payload: u32,
    /// Messages a second, each to all connections; 50 for `storm`, otherwise 20
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: Option<u32>,
    /// Seconds to leave the connections idle before their memory is read
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub idle: u32,
    /// Threads of the floor; as many as Herald has: one a CPU
    #[arg(long, global = true, default_value_t = cpus())]
    pub workers: usize,
    /// By the listener for proxies, in plain HTTP, and not by TLS
    #[arg(long, global = true)]
    pub proxy: bool,
    /// Measures one variant only
    #[arg(long, global = true)]
    pub only: Option<Variant>,
    /// A setting of every Herald, such as HERALD_HANDSHAKES=32
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// Only sees that everything works: every scenario once, small
    #[arg(long, global = true)]
    pub smoke: bool,
    /// Given by `cargo bench`; without it (`cargo test`) the run is a smoke run
    #[arg(long, global = true, hide = true)]
    pub bench: bool,
}

/// What can be measured.
#[derive(Clone, Subcommand)]
pub enum Scenario {
    /// A delivery when each message is one write: CPU and memory (the default)
    Delivery,
    /// What keeping history costs: Herald without it, and with it
    History,
    /// What rules and filters cost: a plain channel, one behind a rule, a repeated filter, a new one each time
    Filters,
    /// A delivery when as much is published as goes through: CPU and rate
    Saturated,
    /// A delivery at a fixed rate: how long it takes from when it was due
    Latency,
    /// A connect: CPU and rate
    Connects,
    /// Publishing to nobody, one at a time and a hundred at a time: CPU and rate, against bare actix
    Publishes,
    /// What clients that resume all at once do to the latency of the others
    Storm(StormOptions),
    /// Every comparison with the floor, for all sizes and listeners
    Matrix(MatrixOptions),
    /// Be the floor
    #[command(hide = true)]
    Floor(FloorOptions),
}

/// What can be said of a storm.
#[derive(Clone, clap::Args)]
pub struct StormOptions {
    /// Clients that are connected throughout, and whose latency is measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub healthy: u32,
    /// Clients that are cut and come back together
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub crowd: u32,
    /// Messages that each of them has missed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub missed: u32,
}

impl StormOptions {
    fn small() -> Self {
        Self { healthy: 20, crowd: 50, missed: 5 }
    }
}

/// What can be said of a matrix.
#[derive(Clone, clap::Args)]
pub struct MatrixOptions {
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,10000", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub sizes: Vec<u32>,
    /// Bytes of a message
    #[arg(long, value_delimiter = ',', default_value = "256,1024", value_parser = clap::value_parser!(u32).range(SMALLEST as i64..=LARGEST as i64))]
    pub payloads: Vec<u32>,
    /// Writes figures.md and figures.svg into this directory
    #[arg(long)]
    pub write: Option<PathBuf>,
}

/// What the floor's own process is told.
#[derive(Clone, clap::Args)]
pub struct FloorOptions {
    /// Where to listen
    #[arg(long)]
    pub address: SocketAddr,
    /// The certificate chain, PEM
    #[arg(long)]
    pub certificate: PathBuf,
    /// Its key, PEM
    #[arg(long)]
    pub key: PathBuf,
    /// Without TLS
    #[arg(long)]
    pub plain: bool,
    /// As bare actix
    #[arg(long)]
    pub rest: bool,
}

/// A server under measurement.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// Bare tokio and rustls.
    Floor,
    /// Herald as it comes.
    Herald,
    /// Herald that keeps no history.
    WithoutHistory,
    /// Herald, to a channel that everyone hears.
    Channel,
    /// Herald, to a channel behind a `when` rule.
    Rule,
    /// Herald, to the channel with the same filter each time.
    Filter,
    /// Herald, to the channel with a new filter each time.
    NewFilter,
}

impl Variant {
    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Herald => "herald",
            Self::WithoutHistory => "without history",
            Self::Channel => "channel",
            Self::Rule => "rule",
            Self::Filter => "filter",
            Self::NewFilter => "new filter",
        }
    }
}

impl Options {
    /// Everything small and short if this is a smoke run.
    pub fn for_smoke(mut self) -> Self {
        self.smoke |= !self.bench;
        if self.smoke {
            (self.connections, self.pairs, self.seconds, self.idle) = (50, Some(1), 3, 1);
            match &mut self.scenario {
                Some(Scenario::Storm(storm)) => *storm = StormOptions::small(),
                Some(Scenario::Matrix(matrix)) => (matrix.sizes, matrix.payloads) = (vec![50], vec![256]),
                _ => {}
            }
        }
        self
    }

    /// Messages a second.
    pub fn rate(&self) -> u32 {
        let usual = if matches!(self.scenario, Some(Scenario::Storm(_))) { 50 } else { 20 };
        self.rate.unwrap_or(usual)
    }

    /// The most connections that are open at a time.
    pub fn most_connections(&self) -> u32 {
        match &self.scenario {
            Some(Scenario::Storm(storm)) => storm.healthy + storm.crowd,
            Some(Scenario::Matrix(matrix)) => matrix.sizes.iter().copied().max().unwrap_or_default(),
            _ => self.connections,
        }
    }

    /// What to measure: what was asked for, or everything in a smoke run.
    pub fn scenarios(&self) -> Vec<Scenario> {
        match &self.scenario {
            Some(scenario) => vec![scenario.clone()],
            None if self.smoke => Scenario::all(),
            None => vec![Scenario::Delivery],
        }
    }
}

impl Scenario {
    fn all() -> Vec<Self> {
        let comparisons = [Self::Delivery, Self::Saturated, Self::Latency, Self::Connects, Self::Publishes];
        comparisons.into_iter().chain([Self::History, Self::Filters, Self::Storm(StormOptions::small())]).collect()
    }

    /// What it is called on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::History => "history",
            Self::Filters => "filters",
            Self::Saturated => "saturated",
            Self::Latency => "latency",
            Self::Connects => "connects",
            Self::Publishes => "publishes",
            Self::Storm(_) => "storm",
            Self::Matrix(_) => "matrix",
            Self::Floor(_) => "floor",
        }
    }

    /// How often each variant is measured if nothing else is asked for.
    pub fn usual_pairs(&self) -> u32 {
        if matches!(self, Self::History | Self::Filters | Self::Storm(_)) { 9 } else { 5 }
    }

    /// What is compared.
    pub fn variants(&self) -> &'static [Variant] {
        match self {
            Self::History => &[Variant::WithoutHistory, Variant::Herald],
            Self::Filters => &[Variant::Channel, Variant::Rule, Variant::Filter, Variant::NewFilter],
            Self::Storm(_) => &[Variant::Herald],
            _ => &[Variant::Floor, Variant::Herald],
        }
    }
}

/// The processors of this machine.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a setting is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
