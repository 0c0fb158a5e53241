//! What can go wrong between Herald and its Postgres, told apart by what the caller can do about
//! it.

use crate::domain::expression::Excess;
use sqlx::migrate::MigrateError;

/// Why the store did not answer. `Display` never repeats the source and holds nothing of a row.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached, is starting, stopping or read-only, or took too long: the same
    /// call may succeed later.
    #[error("Postgres is not available")]
    Unavailable(#[source] sqlx::Error),
    /// Postgres refused what it was asked: trying again does not help.
    #[error("Postgres refused the statement")]
    Failed(#[source] sqlx::Error),
    /// A row that breaks the domain's rules; Herald writes none.
    #[error("a stored row breaks the rules")]
    Corrupt(
        #[from]
        #[source]
        CorruptRow,
    ),
}

/// Where a row breaks the domain's rules; never what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} of table {table} holds what its type does not allow")]
pub struct CorruptRow {
    /// The table's name.
    pub table: &'static str,
    /// The column's name.
    pub column: &'static str,
}

impl CorruptRow {
    /// Makes any error of a domain constructor into this one.
    pub(super) fn at<E>(table: &'static str, column: &'static str) -> impl FnOnce(E) -> Self {
        move |_| Self { table, column }
    }
}

/// Why nothing was inserted.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// The name or id is taken.
    #[error("it exists already")]
    Exists,
    /// The instance has as many as it may have.
    #[error("the instance has no room for another")]
    Full,
    /// There is no such instance.
    #[error("there is no such instance")]
    InstanceMissing,
    /// The instance's expressions together would cost more than they may.
    #[error("the expressions of the instance would cost too much")]
    TooCostly(Excess),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nothing was updated or deleted.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is none of that name or id.
    #[error("it does not exist")]
    Missing,
    /// Somebody else changed it since the caller looked.
    #[error("it has version {current} now")]
    Stale {
        /// The version that is stored.
        current: i64,
    },
    /// The instance's expressions together would cost more than they may.
    #[error("the expressions of the instance would cost too much")]
    TooCostly(Excess),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a quota request was not decided.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// There is none of that id.
    #[error("it does not exist")]
    Missing,
    /// It was approved or denied before.
    #[error("it is decided already")]
    AlreadyDecided,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_passing(&error) { Self::Unavailable(error) } else { Self::Failed(error) }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(ref cause, _) if is_passing(cause) => {
                Self::Unavailable(error.into())
            }
            error => Self::Failed(error.into()),
        }
    }
}

impl From<sqlx::Error> for InsertError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<sqlx::Error> for UpdateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<sqlx::Error> for DecideError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<CorruptRow> for InsertError {
    fn from(error: CorruptRow) -> Self {
        Self::Store(error.into())
    }
}

impl From<CorruptRow> for DecideError {
    fn from(error: CorruptRow) -> Self {
        Self::Store(error.into())
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    use sqlx::Error::{BeginFailed, Database, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
    match error {
        Io(_) | Tls(_) | PoolTimedOut | PoolClosed | WorkerCrashed | BeginFailed => true,
        Database(error) => error.code().is_some_and(|code| is_passing_state(&code)),
        _ => false,
    }
}

/// SQLSTATEs that pass (PostgreSQL manual, appendix A): connection exceptions (08), serialisation
/// and deadlock (40), insufficient resources (53), operator intervention (57: shut-down, start-up,
/// statement timeout), timeouts, read-only.
fn is_passing_state(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57"))
        || matches!(code, "25P03" | "55P03" | "25006")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        assert!(matches!(StoreError::from(sqlx::Error::PoolTimedOut), StoreError::Unavailable(_)));
        assert!(matches!(StoreError::from(sqlx::Error::RowNotFound), StoreError::Failed(_)));
        for code in ["08006", "40P01", "53300", "57014", "57P01", "57P03", "25P03", "25006"] {
            assert!(is_passing_state(code), "{code}");
        }
        for code in ["23505", "28P01", "3D000", "42P01", "25001", ""] {
            assert!(!is_passing_state(code), "{code}");
        }
    }
}
