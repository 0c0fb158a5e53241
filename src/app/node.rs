//! One running node: what it does while it stands by, holds the database, loses it, and at its end.

use super::build;
use super::descriptors::Room;
use super::error::StartError;
use super::lease::{Held, Lease, Loss, Standing, Told};
use super::listen::{self, Servers};
use super::memory;
use super::reload::Reload;
use crate::api::Api;
use crate::api::counters::LeaseFigures;
use crate::config::Config;
use crate::postgres::DataLock;
use crate::relay::Tenure;
use crate::store::Store;
use actix_web::dev::{Server, ServerHandle};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The part of the shut-down that is kept for the listeners and Postgres.
const AFTER_THE_SOCKETS: Duration = Duration::from_secs(2);

/// A node and its tasks.
pub(super) struct Node<'a> {
    config: &'a Config,
    api: Api,
    lease: Lease,
    /// Closed while what is stored is not read.
    tenure: Tenure,
    /// Whether what is stored was read under the lease that it holds now.
    serves: bool,
    tasks: JoinSet<()>,
    has_tasks: bool,
    stop: watch::Sender<bool>,
}

/// The listeners of a node, running.
pub(super) struct Listening {
    client: ServerHandle,
    metrics: ServerHandle,
}

impl<'a> Node<'a> {
    /// Builds it and has its lease kept. Errors: `StartError`.
    pub fn new(
        config: &'a Config,
        room: Room,
        store: Store,
        lock: Option<&DataLock>,
    ) -> Result<Self, StartError> {
        let told = Told { tenure: Tenure::default(), figures: LeaseFigures::default() };
        let tenure = told.tenure.clone();
        tenure.set_ready(false);
        let api = build::build(config, room, store, &told)?;
        let kept = memory::kept(&config.data_dir);
        let lease = Lease::keep(config, &api.store, lock, kept, told)?;
        let (tasks, stop) = (JoinSet::new(), watch::Sender::new(false));
        Ok(Self { config, api, lease, tenure, serves: false, tasks, has_tasks: false, stop })
    }

    /// Waits until it holds the database and has read what is stored, or stands by. Either migrates
    /// first. Errors: `StartError`.
    pub async fn begin(&mut self) -> Result<(), StartError> {
        let standing = self.lease.settled().await?;
        build::migrate(&self.api.store).await?;
        match standing {
            Standing::Holds(held) => self.take_up(&held).await,
            _ => Ok(()),
        }
    }

    /// Opens the listeners; where they are. Errors: `StartError`.
    pub fn listen(
        &mut self,
        room: Room,
        reloads: mpsc::Receiver<()>,
    ) -> Result<(Listening, listen::Addresses), StartError> {
        let stopped = self.stop.subscribe();
        let Servers { client, metrics, addresses, certificates } =
            listen::listen(self.config, room, &self.api, &mut self.tasks, &stopped)?;
        let Api { authenticator, relay, store, .. } = self.api.clone();
        let config = self.config.clone();
        let reload = Reload { config, certificates, authenticator, relay, store };
        self.tasks.spawn_local(reload.when_asked(reloads, stopped));
        let client = run_server(client, &mut self.tasks);
        let metrics = run_server(metrics, &mut self.tasks);
        let state = if addresses.stands_by { "standing by" } else { "ready" };
        tracing::info!(
            listen.client = %addresses.client,
            listen.metrics = %addresses.metrics,
            "{state}"
        );
        Ok((Listening { client, metrics }, addresses))
    }

    /// Does what follows from every change of the lease; why it cannot go on.
    pub async fn follow(&mut self) -> StartError {
        loop {
            let outcome = match self.lease.next().await {
                Ok(Standing::Holds(held)) => self.take_up(&held).await,
                Ok(Standing::Lost(loss)) => self.lose(loss).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return error;
            }
        }
    }

    /// Goes away in order: publishing ends, the lease is given back, everyone is sent away, and
    /// what was held is kept.
    pub async fn end(mut self, listening: Listening) {
        let begun = Instant::now();
        self.api.relay.close_doors();
        self.tenure.set_ready(false);
        let held = self.lease.held().filter(|_| self.serves);
        self.lease.leave().await;
        drain(&self.api, for_the_sockets(self.config).saturating_sub(begun.elapsed())).await;
        listening.client.stop(true).await;
        if let Some(held) = held {
            memory::keep(&self.config.data_dir, &self.api.relay, &held.name);
        }
        self.stop.send_replace(true);
        listening.metrics.stop(true).await;
        while self.tasks.join_next().await.is_some() {}
        tracing::info!("stopped");
    }

    /// Gives up before anything was served.
    pub async fn give_up(self) {
        self.lease.leave().await;
    }

    /// Reads what is stored, and the window of the last stop where it is the lease's; from then on
    /// it serves.
    async fn take_up(&mut self, held: &Held) -> Result<(), StartError> {
        build::load(self.config, &self.api).await?;
        let (relay, compiled) = (&self.api.relay, self.api.store.compiled());
        memory::take_up(&self.config.data_dir, relay, compiled, held.continues.as_deref());
        if !std::mem::replace(&mut self.has_tasks, true) {
            let stopped = self.stop.subscribe();
            build::start_tasks(self.config, &self.api, &mut self.tasks, &stopped);
        }
        self.serves = true;
        self.tenure.set_ready(true);
        tracing::info!(lease.term = held.term, "serving");
        Ok(())
    }

    /// Sends everyone away and forgets every message. Errors: another holds the database, and this
    /// node does not stand by.
    async fn lose(&mut self, loss: Loss) -> Result<(), StartError> {
        self.serves = false;
        self.tenure.set_ready(false);
        drain(&self.api, for_the_sockets(self.config)).await;
        if loss == Loss::ToAnother && !self.config.standby {
            return Err(StartError(
                "another herald has taken the database; this one has sent its clients away".into(),
            ));
        }
        self.api.relay.begin_anew();
        self.lease.forget().await;
        Ok(())
    }
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

/// How long sending everyone away may take.
fn for_the_sockets(config: &Config) -> Duration {
    config.shutdown.saturating_sub(AFTER_THE_SOCKETS)
}

/// Nobody new (1012), everyone told when to come back and closed in waves.
async fn drain(api: &Api, patience: Duration) {
    tracing::info!(connections = api.relay.open(), "going away");
    let left = api.relay.drain(patience).await;
    if left > 0 {
        tracing::warn!(connections = left, "some connections did not close in time and are cut");
    }
}
