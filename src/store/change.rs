//! A change of the catalog: one transaction with its version, its audit entries and its
//! notification.

use super::{Store, StoreError};
use crate::domain::instance::InstanceId;
use crate::domain::principal::UserId;
use serde_json::Value;
use sqlx::{PgConnection, PgTransaction};
use uuid::Uuid;

/// How many marks of changes are remembered.
pub const MARKS: usize = 64;

/// Which change the catalog was read behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogVersion {
    /// Grows with every change; after a failover to an older copy it begins at a lower one again.
    pub number: i64,
    /// Drawn at random by the change; none before the first that drew one.
    pub mark: Option<Uuid>,
}

/// What a change left behind, and the catalog's version that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// The value as it is stored now.
    pub value: T,
    /// The version of the catalog from which on the change is seen.
    pub catalog_version: CatalogVersion,
}

/// A change under way; dropped without `commit`, it never happened.
pub(super) struct Change {
    /// Ends with the change, one way or the other.
    transaction: PgTransaction<'static>,
    /// Who makes the change; written into every entry.
    actor: UserId,
    /// What the catalog's version is once this is committed.
    catalog_version: CatalogVersion,
    /// The mark of the change before.
    before: Option<Uuid>,
}

/// One audit entry of a change, but for what the change itself knows.
pub(super) struct Entry<'a> {
    pub(super) instance: &'a InstanceId,
    pub(super) action: &'static str,
    pub(super) target: &'a str,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

impl Store {
    /// Begins a change. The version's row stays locked until the end, so changes are strictly one
    /// after the other: what one of them reads stays true until it commits, versions appear in
    /// order, and no two can deadlock.
    pub(super) async fn begin_change(&self, actor: &UserId) -> Result<Change, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let mark = Uuid::new_v4();
        let row = sqlx::query!(
            "update catalog_version set version = version + 1, \
             marks = (array_prepend($1::uuid, marks))[1:$2] returning version, marks[2] as before",
            mark,
            MARKS as i32,
        )
        .fetch_one(&mut *transaction)
        .await?;
        let catalog_version = CatalogVersion { number: row.version, mark: Some(mark) };
        Ok(Change { transaction, actor: actor.clone(), catalog_version, before: row.before })
    }
}

impl Change {
    /// Whether nothing was changed between a version of the catalog and this change.
    pub(super) fn follows_on(&self, known: CatalogVersion) -> bool {
        self.catalog_version.number == known.number + 1 && self.before == known.mark
    }

    /// The connection on which the change's statements run.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Writes an audit entry, which is committed with the change or not at all.
    pub(super) async fn record(&mut self, entry: Entry<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "insert into audit (instance, id, actor, action, target, before, after) values ($1, $2, $3, $4, $5, $6, $7)",
            entry.instance.as_str(),
            Uuid::now_v7(),
            self.actor.as_str(),
            entry.action,
            entry.target,
            entry.before,
            entry.after,
        )
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }

    /// Commits; every listener is notified.
    pub(super) async fn commit<T>(mut self, value: T) -> Result<Committed<T>, StoreError> {
        sqlx::query!("notify herald_catalog").execute(&mut *self.transaction).await?;
        self.transaction.commit().await?;
        Ok(Committed { value, catalog_version: self.catalog_version })
    }
}
