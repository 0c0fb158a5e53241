//! One real Postgres for all tests of this binary; every test has a database of its own in it.

use herald::domain::expression::compiled::{Compiled, CompiledBounds};
use herald::postgres::{PostgresSettings, PrivatePostgres};
use herald::store::Store;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

static CLUSTER: OnceLock<PgConnectOptions> = OnceLock::new();
/// Postgres copies a template for each new database, one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static DATABASES: AtomicUsize = AtomicUsize::new(0);

/// The URL of a new and empty database.
pub async fn database() -> String {
    tokio::task::spawn_blocking(new_database).await.expect("a database can be made")
}

/// What another program may do in the server's database beside it.
pub fn store(database: &str) -> Store {
    let options: PgConnectOptions = database.parse().expect("a URL");
    let compiled = Compiled::new(CompiledBounds::default());
    Store::new(options.disable_statement_logging(), compiled)
}

/// Runs statements in the server's database.
pub async fn execute_in(database: &str, statements: &str) {
    execute(&database.parse().expect("a URL"), statements.to_owned()).await;
}

/// The texts that a query finds in the server's database.
pub async fn texts(database: &str, query: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(database).await.expect("Postgres takes connections");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()));
    query.fetch_all(&mut connection).await.expect("a list")
}

fn new_database() -> String {
    let options = CLUSTER.get_or_init(start_cluster);
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    runtime().block_on(execute(options, format!("CREATE DATABASE {name}")));
    options.clone().database(&name).to_url_lossy().to_string()
}

/// Starts the cluster of the tests, which lives in the build folder and ends with the process.
fn start_cluster() -> PgConnectOptions {
    let (sender, started) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
        let settings = PostgresSettings { data_dir, bin_dir: None };
        runtime().block_on(async {
            let postgres = PrivatePostgres::start(&settings).await.expect("Postgres starts");
            sender.send(postgres.options()).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    let options = started.recv().expect("Postgres starts: apt-get install postgresql");
    runtime().block_on(async {
        // Nothing here outlives a crash, and a killed run's databases would be synchronised for a
        // minute at the next start.
        for statement in ["ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"] {
            execute(&options, statement.to_owned()).await;
        }
        drop_old(&options).await;
    });
    options
}

async fn drop_old(options: &PgConnectOptions) {
    let mut connection =
        PgConnection::connect_with(options).await.expect("Postgres takes connections");
    let query = "SELECT datname::text FROM pg_database WHERE datname LIKE 'test\\_%'";
    let names: Vec<String> =
        sqlx::query_scalar(query).fetch_all(&mut connection).await.expect("a list");
    for name in names {
        execute(options, format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}

async fn execute(options: &PgConnectOptions, statement: String) {
    let mut connection =
        PgConnection::connect_with(options).await.expect("Postgres takes connections");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .expect("the statement is good");
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A Postgres of one test's own, which can go away and come back.
pub struct OwnPostgres {
    directory: TempDir,
    running: Option<PrivatePostgres>,
}

impl OwnPostgres {
    /// Starts it.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut postgres = Self { directory, running: None };
        postgres.come_back().await;
        postgres
    }

    /// Its URL, the same after it came back.
    pub fn url(&self) -> String {
        self.running.as_ref().expect("it runs").options().to_url_lossy().to_string()
    }

    /// Stops it.
    pub async fn go_away(&mut self) {
        self.running.take().expect("it runs").stop().await;
    }

    /// Starts it again.
    pub async fn come_back(&mut self) {
        let settings = PostgresSettings { data_dir: self.directory.path().into(), bin_dir: None };
        self.running = Some(PrivatePostgres::start(&settings).await.expect("Postgres starts"));
    }
}

/// The URL of a new database with the tables.
pub async fn tables() -> String {
    let database = database().await;
    let store = store(&database);
    store.migrate().await.expect("the tables are made");
    store.close().await;
    database
}
