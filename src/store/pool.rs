//! The handle on Postgres: its pool, the migrations, and whether it answers.

use super::error::StoreError;
use super::migrations;
use super::suspects::Suspects;
use crate::domain::expression::compiled::Compiled;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgPool};
use std::time::Duration;
use tokio::time::timeout;

/// Connections that one process holds at most; the listener of `Store::listen` comes on top.
const MAX_CONNECTIONS: u32 = 8;
/// How long a request waits for a connection, and for a listener's.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long closing waits for connections that say nothing.
pub(super) const CLOSING: Duration = Duration::from_secs(2);
/// How long Postgres works on one statement, waiting for locks included, and bears an idle
/// transaction; in ms.
const STATEMENT_TIMEOUT: &str = "5000";

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
        migrations::apply_lease(&mut connection).await?;
        sqlx::query!("set statement_timeout = 0").execute(&mut connection).await?;
        migrations::apply(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Closes every connection once what it does is done, or after two seconds; from then on every
    /// call is `StoreError::Unavailable`.
    pub async fn close(&self) {
        drop(timeout(CLOSING, self.pool.close()).await);
    }
}

/// The options with what every connection of ours has.
fn as_herald(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("herald").options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("idle_in_transaction_session_timeout", STATEMENT_TIMEOUT),
        // That a table is there already is nobody's news.
        ("client_min_messages", "warning"),
    ])
}
