//! A private Postgres in the data directory: found, made, started and stopped together with Herald.

mod account;
mod binaries;
mod cluster;
mod data_lock;
mod error;
mod pid_file;
mod process;

pub use data_lock::DataLock;
pub use error::{LogEnd, PostgresError};

use binaries::{Binaries, find_binaries, find_setpriv};
use cluster::{Cluster, NAME, PORT};
use data_lock::hold;
use pid_file::{PidFile, end_remains};
use process::{Launcher, Process};
use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long Postgres has to be ready, its recovery included.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a start is tried again because the remains of a killed Postgres are in the way.
const REMAINS_PATIENCE: Duration = Duration::from_secs(10);
/// How long Postgres has to stop in order.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// How long Postgres has to stop out of order.
const QUIT_PATIENCE: Duration = Duration::from_secs(1);
/// How long the second try to start it again waits; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long a try to start it again waits at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Once it has run for so long, its next end is a new misfortune: the first try waits for nothing.
const STEADY: Duration = Duration::from_secs(60);
/// How often a condition is looked at that nothing announces.
const LOOK: Duration = Duration::from_millis(20);

/// Fit for a small server of one service. Connections come over the socket alone.
const SERVER_SETTINGS: [&str; 13] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=32",
    "shared_buffers=32MB",
    "max_wal_size=256MB",
    "fsync=on",
    "full_page_writes=on",
    "jit=off",
    "logging_collector=off",
    "log_destination=stderr",
    "log_checkpoints=off",
    "timezone=UTC",
    "log_timezone=UTC",
];

/// Where the private Postgres lies.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// Holds the cluster, the log and the lock; made, for this user alone, if it is missing.
    pub data_dir: PathBuf,
    /// Holds `initdb` and `postgres`; without it PATH and the usual places are searched.
    pub bin_dir: Option<PathBuf>,
}

/// The running private Postgres. Dropping it ends Postgres at once; `stop` ends it in order.
#[derive(Debug)]
pub struct PrivatePostgres {
    /// Replaced when it has ended by itself; dropped before the locks, which say that nobody serves
    /// the cluster.
    server: Process,
    /// What it serves; the same for as long as Herald runs.
    cluster: Cluster,
    /// What it is started with, again if need be.
    binaries: Binaries,
    /// How it is started, again if need be.
    launcher: Launcher,
    /// On the data directory and on the cluster, for as long as it is served.
    _locks: (DataLock, File),
}

impl PrivatePostgres {
    /// Starts it, on a new cluster if there is none yet, and returns once the database takes
    /// connections. Errors: see `PostgresError`; nothing is left running.
    pub async fn start(settings: &PostgresSettings) -> Result<Self, PostgresError> {
        let data_dir = open_data_dir(&settings.data_dir)?;
        let data_lock = DataLock::take(&data_dir).await?;
        let cluster = Cluster::locate(&data_dir)?;
        let made_by = cluster.made_by()?;
        let binaries = find_binaries(settings.bin_dir.as_deref(), made_by).await?;
        let launcher =
            Launcher::new(find_setpriv().await, cluster.account(), data_dir.join("postgres.log"))?;
        if made_by.is_none() {
            tracing::info!(cluster.path = %cluster.directory().display(), "making a Postgres cluster");
            cluster.make(&binaries, &launcher).await?;
        }
        // A copied data directory may link to the same cluster.
        let directory = File::open(cluster.directory())
            .map_err(PostgresError::io("open", cluster.directory()))?;
        let cluster_lock = hold(directory, &data_dir).await?;
        let server = start_server(&cluster, &binaries, &launcher).await?;
        let _locks = (data_lock, cluster_lock);
        let postgres = Self { server, cluster, binaries, launcher, _locks };
        postgres.make_database().await.map_err(PostgresError::Database)?;
        tracing::info!(process.id = postgres.process_id(), "the private Postgres is ready");
        Ok(postgres)
    }

    /// How to connect to its database, as its superuser.
    pub fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass().socket(self.cluster.socket());
        let options = options.port(PORT);
        options.username(NAME).database(NAME).ssl_mode(PgSslMode::Disable)
    }

    /// The process id of its postmaster.
    pub fn process_id(&self) -> u32 {
        self.server.id().as_raw_nonzero().get().cast_unsigned()
    }

    /// Keeps it running until `stop` resolves, and then stops it. One that ends by itself, or is
    /// killed, is started again: at once, then with growing pauses of 30 seconds at most.
    pub async fn keep(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut pause = Duration::ZERO;
        loop {
            let begun = Instant::now();
            tokio::select! {
                () = &mut stop => return self.stop().await,
                _ = self.server.ended() => {}
            }
            if begun.elapsed() >= STEADY {
                pause = Duration::ZERO;
            }
            tracing::warn!(
                process.id = self.process_id(),
                "the private Postgres has ended and is started again; messages go on meanwhile"
            );
            let again = tokio::select! {
                () = &mut stop => None,
                server = self.start_again(&mut pause) => Some(server),
            };
            match again {
                Some(server) => self.server = server,
                None => return self.clear_up().await,
            }
        }
    }

    /// Tries until it is ready, with growing pauses; says of each try how it went.
    async fn start_again(&self, pause: &mut Duration) -> Process {
        loop {
            sleep(*pause).await;
            *pause = (*pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            match start_server(&self.cluster, &self.binaries, &self.launcher).await {
                Ok(server) => {
                    let process_id = server.id().as_raw_nonzero();
                    tracing::info!(process.id = process_id, "the private Postgres is ready again");
                    return server;
                }
                Err(error) => tracing::warn!(
                    error = error.in_one_line(),
                    pause_ms = pause.as_millis() as u64,
                    "the private Postgres does not start again; it is tried once more after a pause"
                ),
            }
        }
    }

    /// Waits for the end of a server that was given up while it started.
    async fn clear_up(self) {
        if let Err(error) = end_remains(&self.cluster).await {
            tracing::warn!(error = error.in_one_line(), "the private Postgres is left behind");
        }
    }

    /// Stops it: in order within 8 seconds, else by force. Open connections are closed.
    pub async fn stop(mut self) {
        for (signal, patience) in [(Signal::INT, STOP_PATIENCE), (Signal::QUIT, QUIT_PATIENCE)] {
            self.server.signal(signal);
            if timeout(patience, self.server.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(process.id = self.process_id(), "the private Postgres does not stop");
        }
        self.server.signal(Signal::KILL);
        self.server.ended().await;
    }

    async fn make_database(&self) -> Result<(), sqlx::Error> {
        let mut connection =
            self.options().database("postgres").disable_statement_logging().connect().await?;
        let found = sqlx::query("SELECT FROM pg_database WHERE datname = $1").bind(NAME);
        if found.fetch_optional(&mut connection).await?.is_none() {
            sqlx::query("CREATE DATABASE herald").execute(&mut connection).await?;
        }
        connection.close().await
    }
}

/// Makes the data directory if it is missing, and resolves its path.
fn open_data_dir(data_dir: &Path) -> Result<PathBuf, PostgresError> {
    let absolute = std::path::absolute(data_dir).map_err(PostgresError::io("resolve", data_dir))?;
    if let Some(parent) = absolute.parent() {
        fs::create_dir_all(parent).map_err(PostgresError::io("make the directory", parent))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(&absolute) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(PostgresError::io("make the directory", absolute)(error))
        }
        _ => absolute.canonicalize().map_err(PostgresError::io("resolve", &absolute)),
    }
}

/// Starts the server until it is ready, again if the remains of a killed one are in the way.
async fn start_server(
    cluster: &Cluster,
    binaries: &Binaries,
    launcher: &Launcher,
) -> Result<Process, PostgresError> {
    let deadline = Instant::now() + REMAINS_PATIENCE;
    // Where it lies among the system's temporary files it may have been swept away meanwhile.
    cluster.make_socket_dir()?;
    loop {
        end_remains(cluster).await?;
        let mut command = launcher.command(&binaries.postgres)?;
        command.arg("-D").arg(cluster.directory()).arg("-p").arg(PORT.to_string());
        for setting in SERVER_SETTINGS {
            command.args(["-c", setting]);
        }
        let mut sockets = OsString::from("unix_socket_directories=");
        sockets.push(cluster.socket());
        command.arg("-c").arg(sockets);
        let server =
            Process::spawn(command).await.map_err(PostgresError::io("run", &binaries.postgres))?;
        match await_ready(server, cluster, launcher).await {
            // A server that took the lock file deletes it when it ends: this one found another's.
            Err(PostgresError::Ended(_))
                if PidFile::read(cluster.directory()).is_some() && Instant::now() < deadline =>
            {
                sleep(LOOK).await;
            }
            outcome => return outcome,
        }
    }
}

/// Waits until the server takes connections. Errors: it ended, or is not ready in time.
async fn await_ready(
    mut server: Process,
    cluster: &Cluster,
    launcher: &Launcher,
) -> Result<Process, PostgresError> {
    let deadline = Instant::now() + START_PATIENCE;
    while Instant::now() < deadline {
        let file = PidFile::read(cluster.directory());
        if file.is_some_and(|file| file.process_id == server.id() && file.is_ready) {
            return Ok(server);
        }
        if timeout(LOOK, server.ended()).await.is_ok() {
            return Err(PostgresError::Ended(launcher.log_end()));
        }
    }
    Err(PostgresError::Slow(launcher.log_end()))
}
