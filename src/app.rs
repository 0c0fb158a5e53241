//! Builds everything from the configuration, in order; runs until shut-down; drains.

mod build;
mod data_dir;
mod database;
mod descriptors;
mod error;
mod lease;
mod listen;
mod memory;
mod node;
mod reload;
mod secret;
mod signing_in;
mod trimming;

pub use error::StartError;
pub use listen::Addresses;

use crate::config::Config;
use crate::postgres::DataLock;
use crate::store::Store;
use descriptors::Room;
use node::Node;
use std::pin::{Pin, pin};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

/// Runs the service until `shutdown` resolves and everything is drained. Calls `ready` once it
/// takes traffic or stands by, and reads its files again at each of `reloads`. Must run inside an
/// actix system. Errors: `StartError`, when a part cannot be built, or another node has the
/// database.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    reloads: mpsc::Receiver<()>,
    ready: impl FnOnce(&Addresses),
) -> Result<(), StartError> {
    build::check(&config)?;
    let room = Room::find(config.bounds.connections, listen::workers(config.bounds.workers))?;
    let lock = match &config.database_url {
        // The private Postgres locks it, and is what it is for.
        None => None,
        Some(_) => data_dir::lock(&config.data_dir).await?,
    };
    let mut shutdown = pin!(shutdown);
    let (store, postgres) = tokio::select! {
        opened = build::open_store(&config) => opened?,
        () = &mut shutdown => return Ok(()),
    };
    let (end, ended) = oneshot::channel::<()>();
    let kept = postgres.map(|postgres| spawn_local(postgres.keep(async { drop(ended.await) })));
    let outcome =
        serve(&config, room, (store.clone(), lock.as_ref()), (shutdown, reloads), ready).await;
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
    (store, lock): (Store, Option<&DataLock>),
    (mut shutdown, reloads): (Pin<&mut impl Future<Output = ()>>, mpsc::Receiver<()>),
    ready: impl FnOnce(&Addresses),
) -> Result<(), StartError> {
    let mut node = Node::new(config, room, store, lock)?;
    let begun = tokio::select! {
        begun = node.begin() => begun,
        () = &mut shutdown => {
            node.give_up().await;
            return Ok(());
        }
    };
    let (listening, addresses) = match begun.and_then(|()| node.listen(room, reloads)) {
        Ok(listening) => listening,
        Err(error) => {
            node.give_up().await;
            return Err(error);
        }
    };
    ready(&addresses);
    let outcome = tokio::select! {
        error = node.follow() => Err(error),
        () = shutdown => Ok(()),
    };
    node.end(listening).await;
    outcome
}
