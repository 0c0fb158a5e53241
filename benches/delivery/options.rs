//! The command line: which scenario, and how much of everything.

use std::time::Duration;

use clap::Parser;

use crate::Outcome;
use crate::clients::message::{LARGEST, SMALLEST};
use crate::scenario::{Scenario, Variant};

/// Measures Herald against bare tokio and rustls (the floor), or against itself, in turn and in one
/// run.
#[derive(Clone, Parser)]
#[command(name = "delivery")]
pub struct Arguments {
    /// What to measure; the default is one message a write
    #[command(subcommand)]
    pub scenario: Option<Scenario>,
    /// wss connections; 5,000 for `restart`, 10,000 for `churn`, otherwise 1,000
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub connections: Option<u32>,
    /// Seconds of each measurement; 3 for `matrix`, otherwise 10
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: Option<u32>,
    /// How often each variant is measured; 9 for `history`, `filters`, `storm` and `fairness`, 3
    /// for `stalls`, 1 for `churn`, otherwise 5
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub pairs: Option<u32>,
    /// Bytes of a message
    #[arg(long, global = true, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(SMALLEST as i64..=LARGEST as i64))]
    pub payload: u32,
    /// Messages a second, each to all connections; 50 for `storm`, otherwise 20
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: Option<u32>,
    /// Seconds to leave the connections idle before memory is read; 1 for `matrix`, otherwise 3
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub idle: Option<u32>,
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

/// How much of everything one scenario takes: what was asked for, or what is usual for it.
#[derive(Clone)]
pub struct Options {
    /// wss connections.
    pub connections: u32,
    /// How long each measurement takes.
    pub length: Duration,
    /// How long everything runs before it.
    pub warm_up: Duration,
    /// How often each variant is measured.
    pub pairs: u32,
    /// Bytes of a message.
    pub payload: u32,
    /// Messages a second.
    pub rate: u32,
    /// How long connections are idle before memory is read.
    pub idle: Duration,
    /// Threads of the floor.
    pub workers: usize,
    /// By the listener for proxies.
    pub proxy: bool,
    /// Only this variant.
    pub only: Option<Variant>,
    /// Settings of every Herald.
    pub settings: Vec<(String, String)>,
}

impl Arguments {
    /// What to measure: what was asked for, or everything in a smoke run.
    pub fn scenarios(&self) -> Vec<Scenario> {
        match &self.scenario {
            Some(scenario) if self.is_smoke() => vec![scenario.small()],
            Some(scenario) => vec![scenario.clone()],
            None if self.is_smoke() => Scenario::all_small(),
            None => vec![Scenario::Delivery],
        }
    }

    /// How much of everything `scenario` takes.
    pub fn settle(&self, scenario: &Scenario) -> Options {
        let usual =
            if self.is_smoke() { scenario.usual_in_a_smoke_run() } else { scenario.usual() };
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let settings =
            usual.settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Options {
            connections: self.connections.unwrap_or(usual.connections),
            length: self.seconds.map_or(usual.length, seconds),
            warm_up: usual.warm_up,
            pairs: self.pairs.unwrap_or(usual.pairs),
            payload: self.payload,
            rate: self.rate.unwrap_or(usual.rate),
            idle: self.idle.map_or(usual.idle, seconds),
            workers: self.workers.max(1),
            proxy: self.proxy,
            only: self.only,
            settings: settings.chain(self.settings.iter().cloned()).collect(),
        }
    }

    fn is_smoke(&self) -> bool {
        self.smoke || !self.bench
    }
}

impl Options {
    /// The value of a number among Herald's settings, which is `usual` where none is given.
    pub fn setting(&self, name: &str, usual: u64) -> Outcome<u64> {
        match self.settings.iter().rev().find(|(known, _)| known == name) {
            Some((_, value)) => {
                Ok(value.parse().map_err(|_| format!("{name}={value} is not a number"))?)
            }
            None => Ok(usual),
        }
    }

    /// Messages that are due in this time.
    pub fn messages_in(&self, time: Duration) -> u64 {
        (f64::from(self.rate) * time.as_secs_f64()).ceil() as u64
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
