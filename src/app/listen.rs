//! Opens the listeners: https and wss for clients, plain HTTP for proxies, the metrics page.

use super::{Addresses, StartError};
use crate::api::metrics::show_metrics;
use crate::api::openapi::Documents;
use crate::api::transport::{self, SocketSettings};
use crate::api::{self, Api, health, middleware};
use crate::config::Config;
use crate::tls::{CertificateFiles, Certificates, local_certificate};
use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{App, HttpServer};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// How long a request's head may take.
const REQUEST_HEAD: Duration = Duration::from_secs(10);
/// How long a REST connection may stand idle.
const IDLE: Duration = Duration::from_secs(75);
/// How long a closed connection is read on, so that the client sees the last answer.
const LINGER: Duration = Duration::from_millis(500);
/// How often certificates are looked at.
const CERTIFICATE_POLL: Duration = Duration::from_secs(1);
/// How long a stopping listener waits for requests under way, in seconds.
const LAST_REQUESTS: u64 = 1;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Listeners that are not yet running.
pub(super) struct Servers {
    /// For clients and proxies.
    pub client: Vec<Server>,
    /// For operators; these go on while the others drain.
    pub metrics: Vec<Server>,
    /// Where they are.
    pub addresses: Addresses,
}

/// Binds everything. Errors: `StartError`, for an address that is taken or a certificate that cannot be used.
pub(super) fn listen(
    config: &Config,
    api: &Api,
    tasks: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
) -> Result<Servers, StartError> {
    let certificates = certificates(config)?;
    let tls = certificates.server_config().map_err(StartError::because("TLS cannot be set up"))?;
    tasks.spawn_local(certificates.watch(CERTIFICATE_POLL, stopped.clone()));
    let documents = Documents::new().map_err(StartError::because("the OpenAPI document cannot be written"))?;
    let (client, client_address) = bind(config.listen, "HERALD_LISTEN")?;
    let (metrics, metrics_address) = bind(config.metrics_listen, "HERALD_METRICS_LISTEN")?;
    let failed = StartError::because::<std::io::Error>;
    let mut server = client_server(config, api, documents);
    server = server.listen_rustls_0_23(client, tls).map_err(failed("the listener cannot be opened"))?;
    let mut proxy_address = None;
    if let Some(address) = config.proxy_listen {
        let (proxy, address) = bind(address, "HERALD_PROXY_LISTEN")?;
        server = server.listen(proxy).map_err(failed("the proxy listener cannot be opened"))?;
        proxy_address = Some(address);
    }
    let metrics = metrics_server(api).listen(metrics).map_err(failed("the metrics listener cannot be opened"))?;
    Ok(Servers {
        client: vec![server.run()],
        metrics: vec![metrics.run()],
        addresses: Addresses { client: client_address, proxy: proxy_address, metrics: metrics_address },
    })
}
