//! The floor: what a delivery costs with tokio and rustls alone. This binary runs itself again as that server.

mod arrive;
mod rest;
mod serve;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

pub use serve::serve;

use crate::Outcome;
use crate::servers::certificate::Certificate;
use crate::servers::process::{Process, free_address};

/// How long the floor may take to listen.
const LONGEST_START: Duration = Duration::from_secs(10);

/// A running floor, as the benchmark holds it.
pub struct FloorServer {
    /// The server.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks without TLS.
    pub plain: bool,
    /// The floor ends with it, whatever becomes of the benchmark.
    _alive: Option<ChildStdin>,
}

/// Which floor it is.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Without TLS, as behind a proxy.
    pub plain: bool,
    /// Bare actix that is posted to, not bare tokio that writes.
    pub rest: bool,
}

impl FloorServer {
    /// Starts the floor and waits until it listens.
    pub async fn start(directory: &Path, certificate: &Certificate, workers: usize, kind: Kind) -> Outcome<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor").arg("--address").arg(address.to_string()).arg("--workers").arg(workers.to_string());
        command.arg("--certificate").arg(&certificate.chain).arg("--key").arg(&certificate.key);
        command.args(kind.plain.then_some("--plain")).args(kind.rest.then_some("--rest"));
        let mut process = Process::start("floor", command, directory)?;
        let alive = process.take_stdin();
        let deadline = Instant::now() + LONGEST_START;
        while TcpStream::connect(address).await.is_err() {
            process.check_running().map_err(|failure| process.explain(failure))?;
            if Instant::now() > deadline {
                return Err(process.explain(format!("the floor did not listen within {LONGEST_START:?}").into()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { process, address, plain: kind.plain, _alive: alive })
    }
}
