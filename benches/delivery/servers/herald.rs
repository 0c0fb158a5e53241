//! Herald itself: the built binary in a process and a data directory of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::wire::{Route, read_body, read_head};
use crate::servers::process::{Process, free_address};
use crate::servers::setup::Setup;

/// The instance that the benchmark makes for itself.
pub const INSTANCE: &str = "bench";

/// How long Herald may take to be ready; the first start makes its database.
const LONGEST_START: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);

/// A running Herald with the benchmark's instance in force.
pub struct HeraldServer {
    /// The server.
    pub process: Process,
    /// A component's token.
    pub publisher: String,
    /// How messages are addressed.
    pub envelope: Envelope,
    pub(super) setup: Arc<Setup>,
    launch: Launch,
}

/// Where it listens, and what else is set, at each of its starts.
struct Launch {
    address: SocketAddr,
    metrics: SocketAddr,
    proxy: Option<SocketAddr>,
    settings: Vec<(&'static str, String)>,
}

impl HeraldServer {
    /// Starts Herald with more `settings`, and a listener for proxies if one is wanted, waits until
    /// it is ready and makes the instance if this is the first start.
    pub async fn start(
        setup: &Arc<Setup>,
        mut settings: Vec<(&'static str, String)>,
        proxy: Option<SocketAddr>,
    ) -> Outcome<Self> {
        let (address, metrics) = (free_address()?, free_address()?);
        settings.push(("HERALD_LISTEN", address.to_string()));
        settings.push(("HERALD_METRICS_LISTEN", metrics.to_string()));
        if let Some(proxy) = proxy {
            settings.push(("HERALD_PROXY_LISTEN", proxy.to_string()));
            settings.push(("HERALD_TRUSTED_PROXIES", proxy.ip().to_string()));
        }
        let launch = Launch { address, metrics, proxy, settings };
        let process = launch.start(setup)?;
        let publisher = setup.publisher_token("bench")?;
        let mut server =
            Self { process, publisher, envelope: Envelope::EVERYONE, setup: setup.clone(), launch };
        match server.prepare().await {
            Ok(()) => Ok(server),
            Err(failure) => Err(server.process.explain(failure)),
        }
    }

    /// Where it listens for clients.
    pub fn address(&self) -> SocketAddr {
        self.launch.address
    }

    /// Where it listens for proxies.
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.launch.proxy
    }

    /// Starts it again after its process has ended: at the same addresses, with the same data.
    /// Returns when it was ready.
    pub async fn start_again(&mut self) -> Outcome<Instant> {
        self.process = self.launch.start(&self.setup)?;
        self.wait_until_ready().await?;
        Ok(Instant::now())
    }

    /// Open connections of an instance.
    pub async fn connections(&self, instance: &str) -> Outcome<u64> {
        // An instance that nobody has connected to since the start has no line yet.
        let count = self.metric(&format!(r#"herald_connections{{instance="{instance}"}}"#)).await?;
        Ok(count.unwrap_or_default() as u64)
    }

    /// Waits until the instance has so many open connections. Errors when it has fewer, or more
    /// after `patience`.
    pub async fn wait_for_connections(
        &self,
        instance: &str,
        wanted: u64,
        patience: Duration,
    ) -> Outcome<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self.connections(instance).await? {
                open if open == wanted => return Ok(()),
                open if open < wanted || Instant::now() > deadline => {
                    return Err(format!(
                        "{open} connections are open where {wanted} were expected"
                    )
                    .into());
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// The value of one line of its metrics.
    async fn metric(&self, name: &str) -> Outcome<Option<f64>> {
        let page = get(self.launch.metrics, "/metrics").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value)
    }

    async fn prepare(&mut self) -> Outcome<()> {
        self.wait_until_ready().await?;
        let limits = json!({
            "payloadBytes": 65_536, "componentPayloadBytes": 65_536,
            "messagesPerSecond": 1_000_000, "messageBurst": 1_000_000,
            "userMessagesPerSecond": 1_000_000, "userMessageBurst": 1_000_000,
            "connections": 100_000, "connectionsPerUser": 1_000, "connectsPerSecond": 100_000,
        });
        self.make_instance(INSTANCE, limits).await
    }

    /// Asks by the listener for metrics, where nobody stands in line.
    async fn wait_until_ready(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + LONGEST_START;
        while let Err(failure) = get(self.launch.metrics, "/readyz").await {
            self.process.check_running()?;
            if Instant::now() > deadline {
                return Err(
                    format!("Herald was not ready within {LONGEST_START:?}: {failure}").into()
                );
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

impl Launch {
    fn start(&self, setup: &Setup) -> Outcome<Process> {
        let mut process =
            Process::start("herald", setup.command(&self.settings), &setup.directory)?;
        drop(process.take_stdin());
        Ok(process)
    }
}

/// The body of a plain page.
async fn get(address: SocketAddr, path: &str) -> Outcome<String> {
    let mut wire = Route { address, connector: None, receive_buffer: None }.connect().await?;
    wire.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut received = BytesMut::new();
    let head = read_head(&mut wire, &mut received).await?;
    let body = read_body(&mut wire, &mut received, &head).await?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{path} was answered {head}").into());
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}
