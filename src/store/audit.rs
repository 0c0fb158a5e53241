//! The record of who changed what: read here, written by every change.

use super::{CorruptRow, Store, StoreError};
use crate::domain::instance::InstanceId;
use crate::domain::principal::UserId;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

/// One change, as it was when it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// A UUIDv7: its order is the order of time.
    pub id: Uuid,
    /// When it was made.
    pub time: DateTime<Utc>,
    /// Who made it.
    pub actor: UserId,
    /// Where it was made; the instance may be gone.
    pub instance: Option<InstanceId>,
    /// What was done, such as `channel.update`.
    pub action: String,
    /// What it was done to: a channel's name, an instance's id, a quota request's or a revocation's
    /// id.
    pub target: String,
    /// What was there before, in the API's words; none for what was new.
    pub before: Option<Value>,
    /// What is there since, in the API's words; none for what was deleted.
    pub after: Option<Value>,
}

impl Store {
    /// At most `limit` entries older than `after`, newest first; of one instance or of all. Errors:
    /// `StoreError`.
    pub async fn list_audit(
        &self,
        instance: Option<&InstanceId>,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query_as!(
            AuditRow,
            "select instance, id, time, actor, action, target, before, after from audit
             where ($1::text is null or instance = $1) and ($2::uuid is null or id < $2) order by id desc limit $3",
            instance.map(InstanceId::as_str),
            after,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(AuditEntry::try_from).collect::<Result<_, _>>()?)
    }
}

struct AuditRow {
    instance: Option<String>,
    id: Uuid,
    time: DateTime<Utc>,
    actor: String,
    action: String,
    target: String,
    before: Option<Value>,
    after: Option<Value>,
}

impl TryFrom<AuditRow> for AuditEntry {
    type Error = CorruptRow;

    fn try_from(row: AuditRow) -> Result<Self, CorruptRow> {
        let instance = row.instance.map(InstanceId::new).transpose();
        Ok(Self {
            id: row.id,
            time: row.time,
            actor: UserId::new(row.actor).map_err(CorruptRow::at("audit", "actor"))?,
            instance: instance.map_err(CorruptRow::at("audit", "instance"))?,
            action: row.action,
            target: row.target,
            before: row.before,
            after: row.after,
        })
    }
}
