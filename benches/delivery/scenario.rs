//! What can be measured: names, options of their own, what each compares, and how much of
//! everything is usual for it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use crate::clients::message::{LARGEST, SMALLEST};
use crate::servers::floor::FloorOptions;

/// What can be measured.
#[derive(Clone, Subcommand)]
pub enum Scenario {
    /// A delivery when each message is one write: CPU and memory (the default)
    Delivery,
    /// What keeping history costs: Herald without it, and with it
    History,
    /// What rules and filters cost: a plain channel, one behind a rule, a repeated filter, a new
    /// one each time
    Filters,
    /// A delivery when as much is published as goes through: CPU and rate
    Saturated,
    /// A delivery at a fixed rate: how long it takes from when it was due
    Latency,
    /// A connect: CPU and rate
    Connects,
    /// Publishing to nobody, one at a time and a hundred at a time: CPU and rate, against bare
    /// actix
    Publishes,
    /// What clients that resume all at once do to the latency of the others
    Storm(StormOptions),
    /// What a neighbour that publishes all it may does to the latency of a quiet instance
    Fairness(FairnessOptions),
    /// What connections that read nothing do to the memory of the server, under full load and after
    /// it
    Stalls(StallsOptions),
    /// What connections leave behind that come and go: memory and descriptors of the server
    Churn(ChurnOptions),
    /// A restart: how long until everyone is back, and that nobody misses a message
    Restart,
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

/// What can be said of a neighbour.
#[derive(Clone, clap::Args)]
pub struct FairnessOptions {
    /// Listeners of the quiet instance, whose latency is measured
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub quiet: u32,
    /// Listeners of the other instance
    #[arg(long, default_value_t = 9_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub neighbours: u32,
    /// Users who publish to these as fast as they are let
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub publishers: u32,
    /// They try again at once when they are refused, and do not wait for Retry-After
    #[arg(long)]
    pub insist: bool,
}

/// What can be said of stalls.
#[derive(Clone, clap::Args)]
pub struct StallsOptions {
    /// How many of the connections read nothing, in per cent
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub stalled: u32,
    /// Seconds after the load before the memory is read again
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub rest: u32,
}

/// What can be said of coming and going.
#[derive(Clone, clap::Args)]
pub struct ChurnOptions {
    /// How often all connections come and go
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    pub times: u32,
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
    /// By which listener
    #[arg(long, value_delimiter = ',', default_value = "tls,proxy")]
    pub listeners: Vec<ListenerKind>,
    /// Writes figures.md and figures.svg into this directory
    #[arg(long)]
    pub write: Option<PathBuf>,
}

/// A listener of Herald's, and of the floor's.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListenerKind {
    /// TLS.
    Tls,
    /// Plain HTTP, for proxies.
    Proxy,
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

/// How much of everything a scenario takes if nothing else is asked for.
#[derive(Clone, Copy)]
pub struct Usual {
    /// wss connections, of scenarios that have one kind of them.
    pub connections: u32,
    /// How long each measurement takes.
    pub length: Duration,
    /// How long everything runs before it.
    pub warm_up: Duration,
    /// How often each variant is measured.
    pub pairs: u32,
    /// Messages a second, where a rate is kept.
    pub rate: u32,
    /// How long connections are idle before memory is read.
    pub idle: Duration,
    /// Settings of Herald's.
    pub settings: &'static [(&'static str, &'static str)],
}

/// So that a smoke run need not wait long for those who take nothing to be cut.
const STALLED_SOON: &[(&str, &str)] =
    &[("HERALD_OUTBOX_SECONDS", "1"), ("HERALD_SOCKET_USER_TIMEOUT_SECONDS", "1")];

impl Usual {
    const MOSTLY: Self = Self {
        connections: 1_000,
        length: Duration::from_secs(10),
        warm_up: Duration::from_secs(1),
        pairs: 5,
        rate: 20,
        idle: Duration::from_secs(3),
        settings: &[],
    };
}

impl Scenario {
    /// All of them, small and short, only to see that they work: the first five are phases of a
    /// matrix.
    pub fn all_small() -> Vec<Self> {
        let scenarios = [
            Self::Connects,
            Self::History,
            Self::Filters,
            Self::Storm(StormOptions { healthy: 20, crowd: 50, missed: 5 }),
            Self::Fairness(FairnessOptions {
                quiet: 20,
                neighbours: 50,
                publishers: 2,
                insist: false,
            }),
            Self::Stalls(StallsOptions { stalled: 10, rest: 0 }),
            Self::Churn(ChurnOptions { times: 2 }),
            Self::Restart,
            Self::Matrix(MatrixOptions {
                sizes: vec![50],
                payloads: vec![256],
                listeners: vec![ListenerKind::Proxy],
                write: None,
            }),
        ];
        scenarios.into()
    }

    /// The same, small and short.
    pub fn small(&self) -> Self {
        let same = |other: &Self| other.name() == self.name();
        Self::all_small().into_iter().find(same).unwrap_or_else(|| self.clone())
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
            Self::Fairness(_) => "fairness",
            Self::Stalls(_) => "stalls",
            Self::Churn(_) => "churn",
            Self::Restart => "restart",
            Self::Matrix(_) => "matrix",
            Self::Floor(_) => "floor",
        }
    }

    /// How much it takes if nothing else is asked for.
    pub fn usual(&self) -> Usual {
        let mostly = Usual::MOSTLY;
        match self {
            Self::History | Self::Filters => Usual { pairs: 9, ..mostly },
            Self::Storm(_) => Usual { pairs: 9, rate: 50, ..mostly },
            Self::Fairness(_) => Usual { pairs: 9, ..mostly },
            Self::Stalls(_) => Usual { pairs: 3, ..mostly },
            Self::Churn(_) => Usual { connections: 10_000, pairs: 1, ..mostly },
            Self::Restart => Usual { connections: 5_000, ..mostly },
            Self::Matrix(_) => {
                let (length, warm_up) = (Duration::from_secs(3), Duration::from_millis(500));
                Usual { length, warm_up, idle: Duration::from_secs(1), ..mostly }
            }
            _ => mostly,
        }
    }

    /// How much it takes when it is only to be seen that it works.
    pub fn usual_in_a_smoke_run(&self) -> Usual {
        let length =
            Duration::from_millis(if matches!(self, Self::Storm(_)) { 2_500 } else { 400 });
        let (warm_up, idle) = (Duration::from_millis(100), Duration::ZERO);
        let settings = if matches!(self, Self::Stalls(_)) { STALLED_SOON } else { &[] };
        Usual { connections: 50, pairs: 1, length, warm_up, idle, settings, ..self.usual() }
    }

    /// How many connections are open at a time, where `connections` were asked for.
    pub fn most_connections(&self, connections: u32) -> u32 {
        match self {
            Self::Storm(storm) => storm.healthy + storm.crowd,
            Self::Fairness(fairness) => fairness.quiet + fairness.neighbours,
            Self::Matrix(matrix) => matrix.sizes.iter().copied().max().unwrap_or(connections),
            _ => connections,
        }
    }

    /// What is compared.
    pub fn variants(&self) -> &'static [Variant] {
        match self {
            Self::History => &[Variant::WithoutHistory, Variant::Herald],
            Self::Filters => {
                &[Variant::Channel, Variant::Rule, Variant::Filter, Variant::NewFilter]
            }
            Self::Storm(_)
            | Self::Fairness(_)
            | Self::Stalls(_)
            | Self::Churn(_)
            | Self::Restart => &[Variant::Herald],
            _ => &[Variant::Floor, Variant::Herald],
        }
    }
}
