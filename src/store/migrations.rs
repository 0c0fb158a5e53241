//! Applies the migrations, also those that make an index while others write, which an interruption
//! leaves half made.

use super::StoreError;
use sqlx::migrate::{Migration, Migrator};
use sqlx::{AssertSqlSafe, PgConnection};
use std::time::Duration;
use tokio::time::sleep;

static MIGRATOR: Migrator = Migrator { locking: false, ..sqlx::migrate!() };
/// The migration of the lease's table.
const LEASE_VERSION: i64 = 0;
/// The locks by which migrations are one at a time: of the lease's table, and of all.
const LEASE_LOCK: i64 = 0x4865_7261_6c64_0001;
const LOCK: i64 = 0x4865_7261_6c64_0002;
/// How often a lock is tried that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Applies what is missing; waits while another node does. The connection must be closed
/// afterwards, with which its lock ends. Errors: `StoreError`.
pub(super) async fn apply(connection: &mut PgConnection) -> Result<(), StoreError> {
    lock(connection, LOCK).await?;
    for index in MIGRATOR.iter().filter_map(concurrent_index) {
        if is_half_made(connection, &index).await? {
            let statement = format!("drop index concurrently {index}");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        }
    }
    Ok(MIGRATOR.run_direct(None, connection, false).await?)
}

/// The index that a migration makes outside a transaction: its file bears the index's name.
fn concurrent_index(migration: &Migration) -> Option<String> {
    migration.no_tx.then(|| migration.description.replace(' ', "_"))
}

/// Makes the lease's table where it is missing, and nothing else; waits while another process does.
pub(super) async fn apply_lease(connection: &mut PgConnection) -> Result<(), StoreError> {
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

/// Tries a lock until it is the connection's. A statement that waited for it inside of Postgres
/// would hold a snapshot, for whose end an index that is made concurrently waits: each would wait
/// for the other.
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

async fn is_half_made(connection: &mut PgConnection, index: &str) -> Result<bool, StoreError> {
    let half_made = sqlx::query_scalar!(
        r#"select exists (
               select from pg_index where indexrelid = to_regclass($1) and not indisvalid
           ) as "exists!""#,
        index,
    );
    Ok(half_made.fetch_one(connection).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_outside_a_transaction_makes_or_drops_the_index_of_its_files_name() {
        let (mut made, mut dropped) = (0, 0);
        for migration in MIGRATOR.iter() {
            let Some(index) = concurrent_index(migration) else { continue };
            let sql = migration.sql.as_str();
            // More than one statement would be one transaction again.
            let statements: Vec<&str> =
                sql.lines().filter(|line| !line.starts_with("--")).collect();
            let [statement] = statements[..] else { panic!("{sql}") };
            assert!(statement.matches(';').count() == 1 && statement.ends_with(';'), "{sql}");
            if let Some(old) = index.strip_prefix("without_") {
                assert_eq!(statement, format!("drop index concurrently if exists {old};"));
                dropped += 1;
            } else {
                let make = format!("create index concurrently if not exists {index} on ");
                assert!(statement.starts_with(&make), "{sql}");
                made += 1;
            }
        }
        assert!(made > 0 && dropped > 0);
    }
}
