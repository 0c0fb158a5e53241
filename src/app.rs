//! Builds everything from the configuration, in order; runs until shut-down; drains.

mod build;
mod database;
mod descriptors;
mod error;
mod listen;
mod memory;
mod reload;
mod secret;
mod signing_in;
mod trimming;

pub use error::StartError;
pub use listen::Addresses;

use crate::api::Api;
use crate::config::Config;
use crate::store::Store;
use actix_web::dev::{Server, ServerHandle};
use descriptors::Room;
use listen::Servers;
use reload::Reload;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_local};

/// The part of the shut-down that is kept for the listeners and Postgres.
const AFTER_THE_SOCKETS: Duration = Duration::from_secs(2);

/// Runs the service until `shutdown` resolves and everything is drained. Calls `ready` once it
/// takes traffic, and reads its files again at each of `reloads`. Must run inside an actix system. Errors: `StartError`, when a part cannot be
/// built.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    reloads: mpsc::Receiver<()>,
    ready: impl FnOnce(&Addresses),
) -> Result<(), StartError> {
    build::check(&config)?;
    let room = Room::find(config.bounds.connections, listen::workers(config.bounds.workers))?;
    let mut shutdown = pin!(shutdown);
    let (store, postgres) = tokio::select! {
        opened = build::open_store(&config) => opened?,
        () = &mut shutdown => return Ok(()),
    };
    let (end, ended) = oneshot::channel::<()>();
    let kept = postgres.map(|postgres| spawn_local(postgres.keep(async { drop(ended.await) })));
    let outcome = serve(&config, room, store.clone(), (shutdown, reloads), ready).await;
    store.close().await;
    drop(end);
    if let Some(kept) = kept
        && let Err(error) = kept.await
    {
        tracing::error!(%error, "the private Postgres was not stopped in order");
    }
    outcome
}

/// Applies the migrations and ends. Errors: `StartError`.
pub async fn migrate(config: &Config) -> Result<(), StartError> {
    let (store, postgres) = build::open_store(config).await?;
    let outcome =
        store.migrate().await.map_err(StartError::because("the migrations cannot be applied"));
    store.close().await;
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    outcome
}

/// Checks what can be checked without starting anything: keys, certificates, the log filter.
/// Errors: `StartError`.
pub fn check(config: &Config) -> Result<(), StartError> {
    build::check(config)
}

async fn serve(
    config: &Config,
    room: Room,
    store: Store,
    (mut shutdown, reloads): (Pin<&mut impl Future<Output = ()>>, mpsc::Receiver<()>),
    ready: impl FnOnce(&Addresses),
) -> Result<(), StartError> {
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let api = tokio::select! {
        api = build::build(config, room, store, &mut tasks, &stopped) => api?,
        () = &mut shutdown => return Ok(()),
    };
    let Servers { client, metrics, addresses, certificates } =
        listen::listen(config, room, &api, &mut tasks, &stopped)?;
    let Api { authenticator, relay, store, .. } = api.clone();
    let reload = Reload { config: config.clone(), certificates, authenticator, relay, store };
    tasks.spawn_local(reload.when_asked(reloads, stopped));
    let (client, metrics) = (run_server(client, &mut tasks), run_server(metrics, &mut tasks));
    tracing::info!(listen.client = %addresses.client, listen.metrics = %addresses.metrics, "ready");
    ready(&addresses);
    shutdown.await;
    drain(config, &api, client).await;
    memory::keep(&config.data_dir, &api.relay);
    stop.send_replace(true);
    metrics.stop(true).await;
    while tasks.join_next().await.is_some() {}
    tracing::info!("stopped");
    Ok(())
}

fn run_server(server: Server, tasks: &mut JoinSet<()>) -> ServerHandle {
    let handle = server.handle();
    tasks.spawn_local(async {
        if let Err(error) = server.await {
            tracing::error!(%error, "a listener ended");
        }
    });
    handle
}

/// Not ready, nobody new (1012), everyone told when to come back and closed in waves; then the
/// listeners end.
async fn drain(config: &Config, api: &Api, server: ServerHandle) {
    tracing::info!(connections = api.relay.open(), "going away");
    let left = api.relay.drain(config.shutdown.saturating_sub(AFTER_THE_SOCKETS)).await;
    if left > 0 {
        tracing::warn!(connections = left, "some connections did not close in time and are cut");
    }
    server.stop(true).await;
}
