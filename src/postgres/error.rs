//! Why the private Postgres does not start, in sentences for whoever starts Herald.

use std::error::Error;
use std::path::PathBuf;
use std::{fmt, io};

/// Why the private Postgres does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// No place that is searched holds the programs of a server.
    #[error(
        "no PostgreSQL server is installed: install one (apt-get install postgresql), set HERALD_PG_BIN to the \
         directory of its programs, or set DATABASE_URL to a server that runs already"
    )]
    NoBinaries,
    /// The configured directory does not hold the programs of a server.
    #[error("HERALD_PG_BIN is {}, which does not hold both initdb and postgres", .0.display())]
    NoBinariesIn(PathBuf),
    /// The program does not say its version.
    #[error("{} --version does not say a version of PostgreSQL", .0.display())]
    NoVersion(PathBuf),
    /// The data is of another major version than the program.
    #[error(
        "the data directory was made by PostgreSQL {made} but PostgreSQL {installed} is installed: set HERALD_PG_BIN \
         to the old one, or dump and restore"
    )]
    OtherVersion {
        /// The major version that made the data.
        made: u32,
        /// The major version that is installed.
        installed: u32,
    },
    /// Another process holds the data directory.
    #[error("another herald is already running on the data directory {}", .0.display())]
    Locked(PathBuf),
    /// Herald is root, Postgres may not be, and there is nobody else.
    #[error(
        "Postgres refuses to run as root and /etc/passwd has no user postgres or nobody: run herald as another user"
    )]
    NoAccount,
    /// The link to the cluster leads nowhere.
    #[error("{} is a link to a cluster that is not there: restore the cluster, or delete the link to begin anew", .0.display())]
    LostCluster(PathBuf),
    /// The short directory for the socket cannot be trusted.
    #[error("{} is needed for the socket of Postgres but is not a private directory of its user: delete it", .0.display())]
    ForeignSocketDirectory(PathBuf),
    /// An earlier Postgres does not end.
    #[error("an earlier Postgres (process {process_id}) still runs on {} and does not end: end it", directory.display())]
    Lingering {
        /// One of its processes.
        process_id: i32,
        /// The cluster on which it runs.
        directory: PathBuf,
    },
    /// The cluster could not be made.
    #[error("initdb failed; {0}")]
    Initdb(LogEnd),
    /// Postgres ended before it was ready.
    #[error("Postgres ended while it started; {0}")]
    Ended(LogEnd),
    /// Postgres was not ready in time.
    #[error("Postgres was not ready within 60 seconds; {0}")]
    Slow(LogEnd),
    /// The database could not be found or made.
    #[error("the database herald cannot be made")]
    Database(#[source] sqlx::Error),
    /// The operating system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl PostgresError {
    /// Says what was tried on which path, as an argument to `map_err`.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What failed, why, and what the log says, as one line of ours.
    pub(super) fn in_one_line(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }
}

/// The last lines of the log since Herald was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The log.
    pub path: PathBuf,
    /// Its last lines.
    pub lines: Vec<String>,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return write!(formatter, "{} says nothing", self.path.display());
        }
        write!(formatter, "{} ends with", self.path.display())?;
        self.lines.iter().try_for_each(|line| write!(formatter, "\n  {line}"))
    }
}
