//! The delivery benchmark: what a delivery costs Herald, and what the same delivery costs tokio and rustls alone.

mod certificate;
mod figures;
mod floor;
mod frames;
mod herald;
mod load;
mod measure;
mod message;
mod process;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use figures::{print_head, print_pair, print_summary};
use measure::Bench;
use message::{LARGEST, SMALLEST};
use process::{TemporaryDirectory, raise_file_limit};

/// Why a run failed, for the one who started it.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

/// Measures server CPU per million deliveries and memory an idle connection, of Herald and of bare tokio and rustls, in turn.
#[derive(Parser)]
#[command(name = "delivery")]
struct Options {
    /// wss connections that hear every message
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    connections: u32,
    /// Seconds of messages in each measurement, after one second to warm up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How often both servers are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pairs: u32,
    /// Bytes of a message
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(SMALLEST as i64..=LARGEST as i64))]
    payload: u32,
    /// Messages a second, each to all connections
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Seconds to leave the connections idle before their memory is read
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    idle: u32,
    /// Threads of the floor; as many as Herald has: one a CPU
    #[arg(long, default_value_t = cpus())]
    workers: usize,
    /// Measures one server only
    #[arg(long)]
    only: Option<Only>,
    /// Only sees that everything works: 50 connections, one pair, 2 seconds
    #[arg(long)]
    smoke: bool,
    /// Given by `cargo bench`; without it (`cargo test`) the run is a smoke run
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the floor, at this address
    #[arg(long, hide = true, requires = "certificate", requires = "key")]
    floor: Option<SocketAddr>,
    #[arg(long, hide = true)]
    certificate: Option<PathBuf>,
    #[arg(long, hide = true)]
    key: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Floor,
    Herald,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match (options.floor, &options.certificate, &options.key) {
        (Some(address), Some(chain), Some(key)) => {
            let (chain, key) = (chain.clone(), key.clone());
            floor::serve(&floor::Settings { address, chain, key, workers: options.workers })
        }
        _ => compare(options.for_smoke()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn for_smoke(mut self) -> Self {
        if self.smoke || !self.bench {
            (self.connections, self.pairs, self.seconds, self.idle) = (50, 1, 2, 1);
        }
        self
    }
}

/// Runs everything, with the listeners on threads of their own and the publisher on this one.
fn compare(options: Options) -> Outcome<()> {
    raise_file_limit(u64::from(options.connections) + 200)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(cpus().div_ceil(2)).enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            result = run_pairs(&options) => result,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    })
}

async fn run_pairs(options: &Options) -> Outcome<()> {
    let directory = TemporaryDirectory::create()?;
    let bench = Bench::new(options, directory.path())?;
    println!(
        "{} connections, {} messages of {} bytes a second, {} s, {} pairs, {} CPUs",
        options.connections,
        options.rate,
        options.payload,
        options.seconds,
        options.pairs,
        cpus()
    );
    print_head();
    let mut pairs = Vec::new();
    for number in 1..=options.pairs as usize {
        let pair = bench.measure_pair(number).await?;
        print_pair(number, &pair);
        pairs.push(pair);
    }
    print_summary(&pairs);
    Ok(())
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}
