//! The floor: what a delivery costs with tokio and rustls alone. This binary runs itself again as
//! that server.

mod inlet;
mod rest;
mod serve;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
    /// Where messages are posted to.
    pub inlet: SocketAddr,
    /// Whether it speaks without TLS.
    pub plain: bool,
    /// The floor ends with it, whatever becomes of the benchmark.
    _alive: Option<ChildStdin>,
}

/// What the floor's own process is told.
#[derive(Clone, clap::Args)]
pub struct FloorOptions {
    /// Where to listen
    #[arg(long)]
    pub address: SocketAddr,
    /// Where to take messages
    #[arg(long)]
    pub inlet: SocketAddr,
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
    pub async fn start(
        directory: &Path,
        certificate: &Certificate,
        workers: usize,
        kind: Kind,
    ) -> Outcome<Self> {
        let address = free_address()?;
        let inlet = if kind.rest { address } else { free_address()? };
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("floor")
            .arg("--address")
            .arg(address.to_string())
            .arg("--workers")
            .arg(workers.to_string());
        command.arg("--inlet").arg(inlet.to_string());
        command.arg("--certificate").arg(&certificate.chain).arg("--key").arg(&certificate.key);
        command.args(kind.plain.then_some("--plain")).args(kind.rest.then_some("--rest"));
        let mut process = Process::start("floor", command, directory)?;
        let alive = process.take_stdin();
        let deadline = Instant::now() + LONGEST_START;
        while TcpStream::connect(address).await.is_err() || TcpStream::connect(inlet).await.is_err()
        {
            process.check_running().map_err(|failure| process.explain(failure))?;
            if Instant::now() > deadline {
                return Err(process
                    .explain(format!("the floor did not listen within {LONGEST_START:?}").into()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { process, address, inlet, plain: kind.plain, _alive: alive })
    }
}
