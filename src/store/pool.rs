//! The handle on Postgres: its pool, the migrations, and whether it answers.

use super::error::StoreError;
use super::suspects::Suspects;
use crate::domain::expression::compiled::Compiled;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Connections that one process holds at most; the listener of `Store::listen` comes on top.
const MAX_CONNECTIONS: u32 = 8;
/// How long a request waits for a connection, and for a listener's.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long closing waits for connections that say nothing.
pub(super) const CLOSING: Duration = Duration::from_secs(2);
/// How long Postgres works on one statement, waiting for locks included, and bears an idle
/// transaction; in ms.
const STATEMENT_TIMEOUT: &str = "5000";

static MIGRATOR: Migrator = Migrator { locking: false, ..sqlx::migrate!() };
/// The migration of the lease's table.
const LEASE_VERSION: i64 = 0;
/// The locks by which migrations are one at a time: of the lease's table, and of all.
const LEASE_LOCK: i64 = 0x4865_7261_6c64_0001;
const LOCK: i64 = 0x4865_7261_6c64_0002;
/// How often a lock is tried that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// A handle on Postgres; cheap to clone, all clones share one pool. Not `Debug`: the options hold
/// the password.
#[derive(Clone)]
pub struct Store {
    /// Lives as long as any clone; `close` empties it.
    pub(super) pool: PgPool,
    /// Every change reads all rules again: only what is new in them is read as expressions.
    compiled: Compiled,
}

impl Store {
    /// Connects lazily, with at most 8 connections; a request waits 3 s for one, a statement is
    /// cancelled after 5 s. Must be called inside a tokio runtime.
    pub fn new(options: PgConnectOptions, compiled: Compiled) -> Self {
        let suspects = Suspects::default();
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Asks more than the test that it takes the place of, and no longer.
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| {
                let suspects = suspects.clone();
                Box::pin(async move { Ok(suspects.clear(connection, metadata.age).await) })
            })
            .connect_lazy_with(as_herald(options));
        Self { pool, compiled }
    }

    /// Where the rules' expressions are compiled.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Makes new connections by these options from now on; those that are open stay.
    pub fn connect_by(&self, options: PgConnectOptions) {
        self.pool.set_connect_options(as_herald(options));
    }

    /// Applies the migrations that are missing, the lease's first; waits while another process does.
    /// Errors: `StoreError`.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // A migration may take longer than a statement may: on a connection of its own, not given
        // back to the pool.
        let mut connection = self.pool.acquire().await?.detach();
        migrate_lease(&mut connection).await?;
        sqlx::query!("set statement_timeout = 0").execute(&mut connection).await?;
        lock(&mut connection, LOCK).await?;
        MIGRATOR.run_direct(None, &mut connection, false).await?;
        // The lock ends with the connection.
        Ok(connection.close().await?)
    }

    /// Closes every connection once what it does is done, or after two seconds; from then on every
    /// call is `StoreError::Unavailable`.
    pub async fn close(&self) {
        drop(timeout(CLOSING, self.pool.close()).await);
    }
}

/// Makes the lease's table where it is missing, and nothing else; waits while another process does.
pub(super) async fn migrate_lease(connection: &mut PgConnection) -> Result<(), StoreError> {
    let lease = MIGRATOR.iter().filter(|migration| migration.version == LEASE_VERSION).cloned();
    let migrator = Migrator {
        migrations: lease.collect::<Vec<_>>().into(),
        ignore_missing: true,
        locking: false,
        ..Migrator::DEFAULT
    };
    lock(connection, LEASE_LOCK).await?;
    migrator.run_direct(None, connection, false).await?;
    let unlock = sqlx::query_scalar!("select pg_advisory_unlock($1)", LEASE_LOCK);
    unlock.fetch_one(connection).await?;
    Ok(())
}

/// Tries a lock until it is the connection's. Waiting for one inside of Postgres would hold up those
/// migrations that wait for every statement that began before them.
async fn lock(connection: &mut PgConnection, key: i64) -> Result<(), StoreError> {
    let mut was_told = false;
    loop {
        let tried = sqlx::query_scalar!("select pg_try_advisory_lock($1) as \"is_taken!\"", key);
        if tried.fetch_one(&mut *connection).await? {
            return Ok(());
        }
        if !std::mem::replace(&mut was_told, true) {
            tracing::info!("waiting for the migrations of another process");
        }
        sleep(LOCK_PAUSE).await;
    }
}

/// The options with what every connection of ours has.
fn as_herald(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("herald").options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("idle_in_transaction_session_timeout", STATEMENT_TIMEOUT),
    ])
}
