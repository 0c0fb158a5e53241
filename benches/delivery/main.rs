//! The delivery benchmark: what Herald costs, and what the same costs tokio and rustls alone.

mod clients;
mod measure;
mod options;
mod report;
mod scenarios;
mod servers;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use measure::Bench;
use options::{Options, Scenario, cpus};
use scenarios::matrix;
use servers::floor;
use servers::process::{TemporaryDirectory, raise_file_limit};

/// Why a run failed, for the one who started it.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.scenario {
        Some(Scenario::Floor(floor)) => floor::serve(floor, options.workers),
        _ => measure(options.for_smoke()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, with the listeners on threads of their own and the publisher on this one.
fn measure(options: Options) -> Outcome<()> {
    raise_file_limit(u64::from(options.most_connections()) + 200)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(cpus().div_ceil(2)).enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            result = run(options) => result,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    })
}

async fn run(options: Options) -> Outcome<()> {
    let directory = TemporaryDirectory::create()?;
    if let Some(Scenario::Matrix(matrix)) = &options.scenario {
        return matrix::run(&options, matrix, directory.path()).await;
    }
    let bench = Bench::new(options, directory.path())?;
    let options = &bench.options;
    for scenario in options.scenarios() {
        println!("{}", bench.describe(&scenario));
        let report = bench.run(&scenario).await?;
        println!("\n{}", report.table());
    }
    Ok(())
}
