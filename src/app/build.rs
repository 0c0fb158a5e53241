//! Makes the parts of the service out of the configuration, and starts the tasks that keep them
//! fresh.

use super::database::{STORE_PATIENCE, connect_options};
use super::descriptors::Room;
use super::error::StartError;
use super::lease::Told;
use super::signing_in::authenticator;
use super::trimming::keep_audit_trimmed;
use crate::api::counters::Metrics;
use crate::api::explain_pool::ExplainPool;
use crate::api::filters::Filters;
use crate::api::gate::Gate;
use crate::api::patience::LeastRate;
use crate::api::{Api, ApiSettings};
use crate::catalog::{self, Catalog, Snapshot};
use crate::config::Config;
use crate::domain::expression::Cost;
use crate::domain::expression::compiled::{Compiled, CompiledBounds};
use crate::domain::instance::{Instance, InstanceId};
use crate::domain::principal::UserId;
use crate::limits::RateLimits;
use crate::postgres::{PostgresSettings, PrivatePostgres};
use crate::relay::{
    ConnectionBounds, HistoryBounds, Log, OutboxBounds, QueueBounds, Relay, RelaySettings, SLICE,
    TraceBounds,
};
use crate::store::{InsertError, Store, StoreError};
use crate::transport::{PlaceSettings, Places};
use crate::transport::{Unfinished, UnfinishedBounds};
use crate::{telemetry, tls};
use sqlx::ConnectOptions;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

/// How often what is counted by user and address is swept.
const SWEEP: Duration = Duration::from_secs(60);

/// Opens the configured Postgres, or starts the private one. Errors: `StartError`.
pub(super) async fn open_store(
    config: &Config,
) -> Result<(Store, Option<PrivatePostgres>), StartError> {
    let (options, postgres) = match &config.database_url {
        Some(source) => (connect_options(source)?, None),
        None => {
            let settings = PostgresSettings {
                data_dir: config.data_dir.clone(),
                bin_dir: config.pg_bin.clone(),
            };
            let postgres = PrivatePostgres::start(&settings).await;
            let postgres =
                postgres.map_err(StartError::because("the private Postgres does not start"))?;
            (postgres.options().disable_statement_logging(), Some(postgres))
        }
    };
    Ok((Store::new(options, Compiled::new(compiled_bounds(config))), postgres))
}

/// Builds the service's state, which knows nothing that is stored yet. Errors: `StartError`.
pub(super) fn build(
    config: &Config,
    room: Room,
    store: Store,
    told: &Told,
) -> Result<Api, StartError> {
    let authenticator = authenticator(config)?;
    let catalog = Catalog::new(Snapshot::default());
    let bounds = &config.bounds;
    let connections = room.connections;
    let places = Places::new(PlaceSettings {
        connections,
        spare: room.spare,
        handshakes_per_address: bounds.handshakes_per_address,
        http_per_address: bounds.http_per_address,
    });
    let (settings, log) = (relay_settings(config, connections), Log::Memory(told.tenure.clone()));
    let relay = Relay::with_log(catalog.clone(), settings, log);
    let rate = NonZeroU32::new(bounds.connects_per_address).unwrap_or(NonZeroU32::MIN);
    Ok(Api {
        relay,
        catalog,
        filters: Filters::new(store.compiled().clone()),
        store,
        authenticator,
        limits: RateLimits::default(),
        explain_pool: ExplainPool::new(bounds.explanations),
        places,
        gate: Gate::new(bounds.connections_per_address, rate),
        unfinished: Unfinished::new(unfinished_bounds(config)),
        metrics: Metrics::default(),
        lease: told.figures.clone(),
        settings: Arc::new(api_settings(config, connections)),
    })
}

/// Reads what is stored, all of it; only for the holder of the lease. Errors: `StartError`.
pub(super) async fn load(config: &Config, api: &Api) -> Result<(), StartError> {
    let Api { catalog, store, .. } = api;
    if config.is_development() {
        make_demo(store).await.map_err(StartError::because("the instance demo cannot be made"))?;
    }
    patiently(async || catalog::load(catalog, store).await)
        .await
        .map_err(StartError::because("the configuration cannot be read"))
}

/// Starts what keeps the state fresh, until `stopped` turns true.
pub(super) fn start_tasks(
    config: &Config,
    api: &Api,
    tasks: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
) {
    let (catalog, store) = (api.catalog.clone(), api.store.clone());
    tasks.spawn_local(catalog::follow(catalog, store, config.catalog_poll, stopped.clone()));
    tasks.spawn_local(until(stopped.clone(), api.relay.clone().keep_house()));
    let trimming = keep_audit_trimmed(api.store.clone(), config.audit_age);
    tasks.spawn_local(until(stopped.clone(), trimming));
    tasks.spawn_local(sweep(api.clone(), stopped.clone()));
}

fn api_settings(config: &Config, connections: usize) -> ApiSettings {
    let bounds = &config.bounds;
    ApiSettings {
        trusted_proxies: config.trusted_proxies.clone(),
        connections,
        window: bounds.history_window,
        leeway: config.signing_in.leeway,
        max_token_age: config.signing_in.max_token_age,
        body_bytes: bounds.body_bytes,
        batch_body_bytes: bounds.batch_body_bytes,
        least_rate: LeastRate {
            grace: bounds.request_patience,
            bytes_per_second: bounds.body_bytes_per_second,
        },
    }
}

/// Reads what the configuration names. Errors: `StartError`.
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    telemetry::filter(&config.log).map_err(StartError::because("HERALD_LOG cannot be used"))?;
    if !config.is_development() {
        authenticator(config)?;
    }
    if let Some(source) = &config.database_url {
        connect_options(source)?;
    }
    if let Some((certificate, key)) = config.tls.clone() {
        let opened = tls::Certificates::open(tls::CertificateFiles { certificate, key });
        opened.map_err(StartError::because("the certificate cannot be used"))?;
    }
    Ok(())
}

/// Applies the migrations. Errors: `StartError`.
pub(super) async fn migrate(store: &Store) -> Result<(), StartError> {
    let migrated = patiently(async || store.migrate().await).await;
    migrated.map_err(StartError::because("Postgres cannot be used"))
}

/// Tries again for a while where Postgres does not answer.
async fn patiently(work: impl AsyncFn() -> Result<(), StoreError>) -> Result<(), StoreError> {
    let end = Instant::now() + STORE_PATIENCE;
    loop {
        match work().await {
            Err(error @ StoreError::Unavailable(_)) if Instant::now() < end => {
                tracing::info!(%error, "waiting for Postgres");
                sleep(Duration::from_millis(500)).await;
            }
            outcome => return outcome,
        }
    }
}

/// A first look needs an instance.
async fn make_demo(store: &Store) -> Result<(), InsertError> {
    if store.has_instances().await.map_err(InsertError::Store)? {
        return Ok(());
    }
    let (Ok(id), Ok(actor)) = (InstanceId::new("demo"), UserId::new("herald")) else {
        return Ok(());
    };
    let demo = Instance { name: "Demo".into(), ..Instance::new(id) };
    match store.insert_instance(&actor, &demo).await {
        Ok(_) | Err(InsertError::Exists) => Ok(()),
        Err(error) => Err(error),
    }
}

fn relay_settings(config: &Config, connections: usize) -> RelaySettings {
    let bounds = &config.bounds;
    RelaySettings {
        queue: QueueBounds { messages: bounds.queue_messages, bytes: bounds.queue_bytes },
        connection: ConnectionBounds {
            outbox: outbox_bounds(config),
            // "At least once a minute" leaves a hidden tab's throttled timer a quarter more
            // (contract, "Receiving").
            keep_alive: bounds.keep_alive.mul_f64(1.25),
            comment: bounds.stream_comment,
            leeway_seconds: config.signing_in.leeway.as_secs() as i64,
            expiring_seconds: bounds.expiring.as_secs() as i64,
            filters: bounds.filters,
            newcomers: bounds.newcomers,
            heard_bytes: bounds.heard_bytes,
            slice: SLICE,
        },
        traces: TraceBounds {
            window: bounds.history_window,
            traces: bounds.traced_messages,
            ended: bounds.traced_connections,
            total_bytes: bounds.trace_total_bytes,
        },
        history: HistoryBounds {
            window: bounds.history_window,
            messages: bounds.history_messages,
            bytes: bounds.history_bytes,
            total_bytes: bounds.history_total_bytes,
            replay_messages: bounds.replay_messages,
            replay_bytes: bounds.replay_bytes,
        },
        ids: bounds.ids,
        keep_alive_seconds: bounds.keep_alive.as_secs(),
        connections,
    }
}

/// How much expressions may cost.
fn compiled_bounds(config: &Config) -> CompiledBounds {
    let bounds = &config.bounds;
    CompiledBounds {
        instance: Cost { steps: bounds.expression_steps, bytes: bounds.expression_bytes },
        total_bytes: bounds.expression_total_bytes,
    }
}

/// How much unfinished requests may hold.
pub(super) fn unfinished_bounds(config: &Config) -> UnfinishedBounds {
    let bounds = &config.bounds;
    let unfinished = UnfinishedBounds {
        process: bounds.unfinished_bytes,
        instance: bounds.unfinished_instance_bytes,
        address: bounds.unfinished_address_bytes,
    };
    let largest = bounds.body_bytes.max(bounds.batch_body_bytes).max(bounds.head_bytes);
    unfinished.with_space_for(largest)
}

/// How much may wait for one connection.
pub(super) fn outbox_bounds(config: &Config) -> OutboxBounds {
    OutboxBounds { bytes: config.bounds.outbox_bytes, stall: config.bounds.outbox_age }
}

/// Does `work` until `stopped` turns true.
async fn until(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

/// Forgets users, addresses, instances and revocations that nobody needs any more.
async fn sweep(api: Api, mut stopped: watch::Receiver<bool>) {
    let mut tick = interval(SWEEP);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = tick.tick() => {}
        }
        let snapshot = api.catalog.load();
        api.limits.prune(|instance| snapshot.tenants.contains_key(instance));
        api.gate.prune();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = forget_revocations(&api.store) => {}
        }
    }
}

/// Those that cannot be forgotten now hold on; nothing waits for it.
async fn forget_revocations(store: &Store) {
    let Ok(actor) = UserId::new("herald") else { return };
    match store.delete_ended_revocations(&actor).await {
        Ok(0) => {}
        Ok(count) => tracing::debug!(revocations = count, "revocations have ended"),
        Err(error) => tracing::debug!(%error, "ended revocations stay for now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_own_defaults_are_those_of_a_service_with_nothing_set() {
        let nothing = Config::from_settings([].into()).unwrap();
        let default = RelaySettings::default();
        assert_eq!(relay_settings(&nothing, default.connections), default);
        assert_eq!(compiled_bounds(&nothing), CompiledBounds::default());
    }
}
