//! Opens the listeners: https and wss for clients, plain HTTP for proxies, the metrics page.

use super::build::{outbox_bounds, unfinished_bounds};
use super::descriptors::{METRICS_CONNECTIONS, METRICS_UNSEEN, Room};
use super::error::StartError;
use crate::admittance::Admittance;
use crate::api::documents::Documents;
use crate::api::error::{Code, Problem};
use crate::api::metrics::show_metrics;
use crate::api::under_way::too_many;
use crate::api::{self, Api, health, middleware, openapi};
use crate::config::Config;
use crate::socket::Sockets;
use crate::tls::{CertificateFiles, Certificates, TlsError, local_certificate};
use crate::transport::{
    AcceptSettings, Acceptor, Connection, Guests, Holder, NoPlace, PaceSettings, PlaceSettings,
    Places, TooMuchUnfinished, Unfinished, Upgrader,
};
use actix_http::HttpService;
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, map_config};
use actix_web::App;
use actix_web::dev::{AppConfig, Extensions};
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How much longer than an outbox HTTP waits for a client that takes nothing.
const OUTBOX_FIRST: Duration = Duration::from_secs(2);
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

/// Where the listeners are; of interest when a port was 0.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// https and wss.
    pub client: SocketAddr,
    /// Plain HTTP for proxies, if configured.
    pub proxy: Option<SocketAddr>,
    /// The metrics page.
    pub metrics: SocketAddr,
    /// Whether it stands by, and takes no traffic yet.
    pub stands_by: bool,
}

/// Listeners that are not yet running.
pub(super) struct Servers {
    /// For clients and proxies.
    pub client: Server,
    /// For operators; goes on while the other drains.
    pub metrics: Server,
    /// Where they are.
    pub addresses: Addresses,
    /// What the client listener shows.
    pub certificates: Certificates,
}

/// What the client listeners need.
struct ClientListeners {
    tls: TcpListener,
    tls_config: Arc<rustls::ServerConfig>,
    proxy: Option<TcpListener>,
}

/// Binds everything. Errors: `StartError`, for an address that is taken or a certificate that
/// cannot be used.
pub(super) fn listen(
    config: &Config,
    room: Room,
    api: &Api,
    tasks: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
) -> Result<Servers, StartError> {
    let certificates =
        certificates(config).map_err(StartError::because("the certificate cannot be used"))?;
    let tls_config =
        certificates.server_config().map_err(StartError::because("TLS cannot be set up"))?;
    tasks.spawn_local(certificates.clone().watch(CERTIFICATE_POLL, stopped.clone()));
    let openapi =
        openapi::text().map_err(StartError::because("the OpenAPI document cannot be written"))?;
    let (tls, client) = bind(config.listen, "HERALD_LISTEN")?;
    let (metrics_listener, metrics) = bind(config.metrics_listen, "HERALD_METRICS_LISTEN")?;
    let proxy =
        config.proxy_listen.map(|address| bind(address, "HERALD_PROXY_LISTEN")).transpose()?;
    let (proxy_listener, proxy) = proxy.unzip();
    let listeners =
        ClientListeners { tls, tls_config: Arc::new(tls_config), proxy: proxy_listener };
    let server = client_server(config, room, api, Documents::new(openapi), listeners);
    let client_server =
        server.map_err(StartError::because("the client listeners cannot be opened"))?;
    let server = metrics_server(config, api, metrics_listener);
    let metrics_server =
        server.map_err(StartError::because("the metrics listener cannot be opened"))?;
    let addresses = Addresses { client, proxy, metrics, stands_by: api.relay.stands_by() };
    Ok(Servers { client: client_server, metrics: metrics_server, addresses, certificates })
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
    open().map_err(|error: std::io::Error| {
        StartError(format!("{setting}: {address} cannot be listened on: {error}"))
    })
}

fn client_server(
    config: &Config,
    room: Room,
    api: &Api,
    documents: Documents,
    listeners: ClientListeners,
) -> std::io::Result<Server> {
    let settings = accept_settings(config, api.unfinished.clone());
    let (outbox, workers) = (outbox_bounds(config), workers(config.bounds.workers));
    let (state, documents) = (Data::new(api.clone()), Data::new(documents));
    let server = Server::build()
        .workers(workers)
        // Ours decides first; beyond this nothing is accepted until what was is looked at.
        .max_concurrent_connections(room.of_a_worker(workers))
        .shutdown_timeout(LAST_REQUESTS)
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    // Called once in every worker and for each listener.
    let pipeline = move |guests: Guests| {
        let (state, documents) = (state.clone(), documents.clone());
        let sockets = Sockets::new(state.relay.add_worker(), outbox, state.clone().into_inner());
        // Made twice: requests that ask for an upgrade go their own way to the same routes.
        let app = || {
            let app = App::new()
                .app_data(state.clone())
                .app_data(documents.clone())
                .app_data(sockets.clone());
            let app = app.wrap(from_fn(middleware::finish)).configure(api::configure);
            map_config(app.into_factory(), |()| AppConfig::default())
        };
        let (admittance, stopping) = (sockets.worker().admittance().clone(), stopping.clone());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            // The connection knows about heads, also of later requests.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(LINGER)
            .keep_alive(IDLE)
            .on_connect_ext(introduce)
            .upgrade(Upgrader::new(app(), admittance.clone()))
            .finish(app().map_err(|error| error.error_response()));
        Acceptor::new(settings.clone(), guests, state.places.clone(), admittance, http)
    };
    let (encrypted, clients) = (pipeline.clone(), Guests::Clients(listeners.tls_config));
    let mut server = server.listen("clients", listeners.tls, move || encrypted(clients.clone()))?;
    if let Some(proxy) = listeners.proxy {
        let proxies = Guests::Proxies(config.trusted_proxies.clone().into());
        server = server.listen("proxies", proxy, move || pipeline(proxies.clone()))?;
    }
    Ok(server.run())
}

fn accept_settings(config: &Config, unfinished: Unfinished) -> AcceptSettings {
    let bounds = &config.bounds;
    AcceptSettings {
        user_timeout: bounds.user_timeout,
        send_buffer_bytes: bounds.send_buffer_bytes,
        handshakes: bounds.handshakes,
        pace: Arc::new(pace(config)),
        unfinished,
        crowded: too_many(NoPlace::Address { limit: bounds.http_per_address }).into_last_answer(),
    }
}

/// What requests know of their connection.
fn introduce(connection: &Connection, extensions: &mut Extensions) {
    extensions.insert(connection.transport());
    extensions.insert(connection.occupancy());
    extensions.insert(connection.exchange());
}

/// A client that takes nothing is cut by its outbox first, if it has one: that counts why.
fn pace(config: &Config) -> PaceSettings {
    let (head, outbox) = (config.bounds.request_patience, outbox_bounds(config).stall);
    let detail = format!("the head of the request did not come within {} s", head.as_secs());
    let head_bytes = config.bounds.head_bytes;
    let bounds = unfinished_bounds(config);
    let too_much = |holder, bound| {
        Problem::from(TooMuchUnfinished { holder, bound, actual: bound + 1 }).into_last_answer()
    };
    PaceSettings {
        head,
        late: Problem::new(Code::RequestTimeout, detail).into_last_answer(),
        head_bytes,
        large: Problem::head_too_large(head_bytes),
        crowded: too_much(Holder::Address, bounds.address),
        full: too_much(Holder::Server, bounds.process),
        stall: config.bounds.user_timeout.max(outbox + OUTBOX_FIRST),
    }
}

/// As many workers as were asked for; one a CPU where none were.
pub(super) fn workers(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
        asked => asked,
    }
}

/// Metrics, and whether the process is well: for operators, apart from clients.
fn metrics_server(config: &Config, api: &Api, listener: TcpListener) -> std::io::Result<Server> {
    // Apart from the clients', so that they keep no operator out.
    let unfinished = Unfinished::new(unfinished_bounds(config));
    let (state, settings) = (Data::new(api.clone()), accept_settings(config, unfinished));
    // Apart from the clients'. A few more are accepted, so that whoever comes when all are taken is
    // looked at, and takes the place of one that does nothing.
    let places = Places::new(PlaceSettings {
        connections: METRICS_CONNECTIONS,
        spare: 0,
        handshakes_per_address: METRICS_CONNECTIONS,
        http_per_address: METRICS_CONNECTIONS,
    });
    let pipeline = move || {
        let app = App::new()
            .app_data(state.clone())
            .route("/metrics", web::get().to(show_metrics))
            .service(health::check_health)
            .service(health::check_readiness)
            .wrap(from_fn(middleware::answer_in_turn));
        let app = map_config(app.into_factory(), |()| AppConfig::default());
        let http = HttpService::build()
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(LINGER)
            .keep_alive(IDLE)
            .on_connect_ext(introduce)
            .finish(app.map_err(|error| error.error_response()));
        let (guests, admittance) = (Guests::Operators, Admittance::default());
        Acceptor::new(settings.clone(), guests, places.clone(), admittance, http)
    };
    let server = Server::build()
        .workers(1)
        .max_concurrent_connections(METRICS_CONNECTIONS + METRICS_UNSEEN)
        .shutdown_timeout(LAST_REQUESTS)
        .disable_signals();
    Ok(server.listen("operators", listener, pipeline)?.run())
}
