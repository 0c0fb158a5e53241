//! The delivery benchmark: what Herald costs, and what the same costs tokio and rustls alone.

mod clients;
mod measure;
mod options;
mod report;
mod scenario;
mod scenarios;
mod servers;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use measure::Bench;
use options::{Arguments, cpus};
use scenario::Scenario;
use scenarios::matrix;
use servers::floor;
use servers::process::{TemporaryDirectory, raise_file_limit};

/// Why a run failed, for the one who started it.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.scenario {
        Some(Scenario::Floor(floor)) => floor::serve(floor, arguments.workers),
        _ => measure(&arguments),
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
fn measure(arguments: &Arguments) -> Outcome<()> {
    let scenarios = arguments.scenarios();
    let most = scenarios
        .iter()
        .map(|scenario| scenario.most_connections(arguments.settle(scenario).connections))
        .max();
    raise_file_limit(u64::from(most.unwrap_or_default()) + 200)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus().div_ceil(2))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            result = run(arguments, scenarios) => result,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    })
}

async fn run(arguments: &Arguments, scenarios: Vec<Scenario>) -> Outcome<()> {
    let directory = TemporaryDirectory::create()?;
    for scenario in scenarios {
        if let Scenario::Matrix(matrix) = &scenario {
            matrix::run(arguments, matrix, directory.path()).await?;
            continue;
        }
        let bench = Bench::new(arguments.settle(&scenario), directory.path())?;
        println!("{}", bench.describe(&scenario));
        let report = bench.run(&scenario).await?;
        println!("\n{}", report.table());
    }
    Ok(())
}
