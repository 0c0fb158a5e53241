//! One real Postgres for all tests of this binary; every test has a database of its own in it.

use herald::postgres::PrivatePostgres;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use tempfile::TempDir;

struct Cluster {
    postgres: Mutex<PrivatePostgres>,
    _directory: TempDir,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static DATABASES: AtomicUsize = AtomicUsize::new(0);
