//! Applies the migrations, also those that make an index while others write, which an interruption
//! leaves half made.

use super::StoreError;
use sqlx::migrate::{Migration, Migrator};
use sqlx::{AssertSqlSafe, PgConnection};
use std::time::Duration;
use tokio::time::sleep;

static MIGRATOR: Migrator = sqlx::migrate!();

/// Whoever holds this advisory lock applies migrations ("herald" in ASCII).
const LOCK: i64 = 0x6865_7261_6c64;
/// How often it is looked whether the lock is free.
const LOOK: Duration = Duration::from_millis(100);

/// Applies what is missing; waits while another node does. The connection must be closed
/// afterwards, with which its lock ends. Errors: `StoreError`.
pub(super) async fn apply(connection: &mut PgConnection) -> Result<(), StoreError> {
    // A statement that waited for the lock would hold a snapshot, for whose end an index that is
    // made concurrently waits: each would wait for the other.
    while !try_lock(connection).await? {
        sleep(LOOK).await;
    }
    for index in MIGRATOR.iter().filter_map(concurrent_index) {
        if is_half_made(connection, &index).await? {
            let statement = format!("drop index concurrently {index}");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        }
    }
    Ok(MIGRATOR.run(connection).await?)
}

/// The index that a migration makes outside a transaction: its file bears the index's name.
fn concurrent_index(migration: &Migration) -> Option<String> {
    migration.no_tx.then(|| migration.description.replace(' ', "_"))
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "locked!""#, LOCK);
    Ok(locked.fetch_one(connection).await?)
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
