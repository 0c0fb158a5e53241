//! Opens the listeners: https and wss for clients, plain HTTP for proxies, the metrics page.

use super::{Addresses, StartError};
use crate::api::metrics::show_metrics;
use crate::api::openapi::Documents;
use crate::api::transport::{self, SocketSettings};
use crate::api::{self, Api, health, middleware};
use crate::config::Config;
use crate::tls::{CertificateFiles, Certificates, TlsError, local_certificate};
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
/// Most workers that are started without being asked for (`HERALD_WORKERS`).
const MAX_WORKERS: usize = 64;

/// Listeners that are not yet running.
pub(super) struct Servers {
    /// For clients and proxies.
    pub client: Server,
    /// For operators; goes on while the other drains.
    pub metrics: Server,
    /// Where they are.
    pub addresses: Addresses,
}

/// What the client listeners need.
struct ClientListeners {
    tls: TcpListener,
    tls_config: rustls::ServerConfig,
    proxy: Option<TcpListener>,
}

/// Binds everything. Errors: `StartError`, for an address that is taken or a certificate that cannot be used.
pub(super) fn listen(
    config: &Config,
    api: &Api,
    tasks: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
) -> Result<Servers, StartError> {
    let certificates = certificates(config).map_err(StartError::because("the certificate cannot be used"))?;
    let tls_config = certificates.server_config().map_err(StartError::because("TLS cannot be set up"))?;
    tasks.spawn_local(certificates.watch(CERTIFICATE_POLL, stopped.clone()));
    let documents = Documents::new().map_err(StartError::because("the OpenAPI document cannot be written"))?;
    let (tls, client) = bind(config.listen, "HERALD_LISTEN")?;
    let (metrics_listener, metrics) = bind(config.metrics_listen, "HERALD_METRICS_LISTEN")?;
    let proxy = config.proxy_listen.map(|address| bind(address, "HERALD_PROXY_LISTEN")).transpose()?;
    let (proxy_listener, proxy) = proxy.unzip();
    let listeners = ClientListeners { tls, tls_config, proxy: proxy_listener };
    let server = client_server(config, api, documents, listeners);
    let client_server = server.map_err(StartError::because("the client listeners cannot be opened"))?;
    let server = metrics_server(api, metrics_listener);
    let metrics_server = server.map_err(StartError::because("the metrics listener cannot be opened"))?;
    let addresses = Addresses { client, proxy, metrics };
    Ok(Servers { client: client_server, metrics: metrics_server, addresses })
}

fn certificates(config: &Config) -> Result<Certificates, TlsError> {
    Certificates::open(match config.tls.clone() {
        Some((certificate, key)) => CertificateFiles { certificate, key },
        None => local_certificate(&config.data_dir.join("tls"))?,
    })
}

fn bind(address: SocketAddr, setting: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    open().map_err(|error: std::io::Error| StartError(format!("{setting}: {address} cannot be listened on: {error}")))
}

fn client_server(
    config: &Config,
    api: &Api,
    documents: Documents,
    listeners: ClientListeners,
) -> std::io::Result<Server> {
    let bounds = &config.bounds;
    let (state, documents) = (Data::new(api.clone()), Data::new(documents));
    let sockets = SocketSettings { user_timeout: bounds.user_timeout, send_buffer_bytes: bounds.send_buffer_bytes };
    // Called once in every worker: each has a shard of its own.
    let app = move || {
        App::new()
            .app_data(state.clone())
            .app_data(documents.clone())
            .app_data(state.relay.add_worker())
            .wrap(from_fn(middleware::finish))
            .configure(api::configure)
    };
    let mut server = HttpServer::new(app)
        .workers(workers(bounds.workers))
        .max_connections(api.settings.connections)
        .max_connection_rate(bounds.handshakes)
        // A frame must not wait for the acknowledgement of the one before it, nor a handshake for its delay of 40 ms.
        .tcp_nodelay(true)
        .tls_handshake_timeout(HANDSHAKE)
        .client_request_timeout(REQUEST_HEAD)
        .client_disconnect_timeout(LINGER)
        .keep_alive(IDLE)
        .shutdown_timeout(LAST_REQUESTS)
        .disable_signals()
        .on_connect(move |connection, extensions| transport::on_connect(connection, extensions, sockets))
        .listen_rustls_0_23(listeners.tls, listeners.tls_config)?;
    if let Some(proxy) = listeners.proxy {
        server = server.listen(proxy)?;
    }
    Ok(server.run())
}

/// As many workers as were asked for; one a CPU where none were.
fn workers(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
        asked => asked,
    }
}

/// Metrics, and whether the process is well: for operators, apart from clients.
fn metrics_server(api: &Api, listener: TcpListener) -> std::io::Result<Server> {
    let state = Data::new(api.clone());
    let app = move || {
        App::new()
            .app_data(state.clone())
            .route("/metrics", web::get().to(show_metrics))
            .service(health::check_health)
            .service(health::check_readiness)
    };
    Ok(HttpServer::new(app).workers(1).shutdown_timeout(LAST_REQUESTS).disable_signals().listen(listener)?.run())
}
