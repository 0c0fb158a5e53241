//! The record of who changed what: read here, written by every change.

use super::{CorruptRow, Store, StoreError};
use crate::domain::instance::InstanceId;
use crate::domain::principal::UserId;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
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

/// Which entries to list; what is none leaves none out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of this instance.
    pub instance: Option<InstanceId>,
    /// Made by this user.
    pub actor: Option<UserId>,
    /// Of this action, such as `channel.update`; without U+0000.
    pub action: Option<String>,
    /// Of what was done to this; without U+0000.
    pub target: Option<String>,
    /// Made at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Made before this time.
    pub to: Option<DateTime<Utc>>,
}

/// How far an entry's time, which is Postgres's, and that of its id, which is a node's, may lie
/// apart: as far as clocks may differ at all (`HERALD_JWT_LEEWAY_SECONDS`).
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);

impl Store {
    /// At most `limit` entries behind `after`, newest first. Errors: `StoreError`.
    pub async fn list_audit(
        &self,
        filter: &AuditFilter,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let of_all = AuditFilter { from: filter.from, to: filter.to, ..AuditFilter::default() };
        let rows = match *filter == of_all {
            true => list_all(&self.pool, (filter.from, filter.to), after, limit).await?,
            false => list_filtered(&self.pool, filter, after, limit).await?,
        };
        Ok(rows.into_iter().map(AuditEntry::try_from).collect::<Result<_, _>>()?)
    }

    /// Deletes at most `limit` of the entries that were made before `end` and whose id is greater
    /// than `after`, the oldest first; their ids. Passes over what somebody else has locked. Fewer
    /// than `limit`: there are no more. Errors: `StoreError`.
    pub async fn delete_old_audit(
        &self,
        end: DateTime<Utc>,
        after: Uuid,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError> {
        let deleted = sqlx::query_scalar!(
            "delete from audit where id = any(array(
                 select id from audit where id > $1 and id < $2 and time < $3 order by id limit $4
                 for update skip locked
             )) returning id",
            after,
            least_id(end + CLOCKS_DIFFER),
            end,
            i64::from(limit),
        );
        Ok(deleted.fetch_all(&self.pool).await?)
    }
}

/// By time, then id. No index of other entries has this order, so that Postgres cannot choose to
/// read through those in the hope of finding enough that pass.
async fn list_filtered(
    executor: impl PgExecutor<'_>,
    filter: &AuditFilter,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<AuditRow>, StoreError> {
    // The entry after which the list goes on may be gone; its id still knows its time.
    let after_time = after.map(time_of);
    let rows = sqlx::query_as!(
        AuditRow,
        "select instance, id, time, actor, action, target, before, after from audit
         where ($1::text is null or instance = $1) and ($2::text is null or actor = $2)
         and ($3::text is null or action = $3) and ($4::text is null or target = $4)
         and ($5::timestamptz is null or time >= $5) and ($6::timestamptz is null or time < $6)
         and ($7::uuid is null
             or (time, id) < (coalesce((select time from audit where id = $7), $8::timestamptz), $7))
         order by time desc, id desc limit $9",
        filter.instance.as_ref().map(InstanceId::as_str),
        filter.actor.as_ref().map(UserId::as_str),
        filter.action,
        filter.target,
        filter.from,
        filter.to,
        after,
        after_time,
        i64::from(limit),
    );
    Ok(rows.fetch_all(executor).await?)
}

/// Those of all instances, by id.
async fn list_all(
    executor: impl PgExecutor<'_>,
    (from, to): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<AuditRow>, StoreError> {
    // The index knows ids, not times: they bound what is read, and the times decide.
    let first = from.map_or(Uuid::nil(), |from| least_id(from - CLOCKS_DIFFER));
    let end = to.map_or(Uuid::max(), |to| least_id(to + CLOCKS_DIFFER));
    let rows = sqlx::query_as!(
        AuditRow,
        "select instance, id, time, actor, action, target, before, after from audit
         where id >= $1 and id < $2
         and ($3::timestamptz is null or time >= $3) and ($4::timestamptz is null or time < $4)
         order by id desc limit $5",
        first,
        after.map_or(end, |after| after.min(end)),
        from,
        to,
        i64::from(limit),
    );
    Ok(rows.fetch_all(executor).await?)
}

/// The least UUIDv7 of a time (RFC 9562, section 5.7: the first 48 bits are milliseconds).
fn least_id(time: DateTime<Utc>) -> Uuid {
    let most = (1 << 48) - 1;
    let milliseconds = u128::try_from(time.timestamp_millis()).unwrap_or(0).min(most);
    Uuid::from_u128(milliseconds << 80)
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

/// The time of a UUIDv7, in UTC; 1970 for an id without one.
pub(super) fn time_of(id: Uuid) -> DateTime<Utc> {
    let milliseconds = (id.as_u128() >> 80) as i64;
    DateTime::from_timestamp_millis(milliseconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_made_at_a_time_are_not_less_than_its_least_and_those_made_before_are() {
        let before = Utc::now();
        let id = Uuid::now_v7();
        let made = time_of(id);
        assert!((made - before).abs() < TimeDelta::minutes(1), "{made}");
        assert!(least_id(made) <= id && id < least_id(made + TimeDelta::milliseconds(1)));
    }

    #[test]
    fn times_beyond_those_of_ids_are_the_first_and_the_last() {
        assert_eq!(least_id(DateTime::<Utc>::MIN_UTC), Uuid::nil());
        assert!(least_id(DateTime::<Utc>::MAX_UTC) > Uuid::now_v7());
    }
}
