//! Quota requests: made by an instance's administrators, decided by operators.

use super::audit::time_of;
use super::change::{Change, Committed, Entry};
use super::instances::{find_instance, replace_instance};
use super::{CorruptRow, DecideError, InsertError, Store, StoreError};
use crate::domain::instance::{InstanceId, LimitName};
use crate::domain::principal::UserId;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sqlx::PgExecutor;
use uuid::Uuid;

/// A wish for another limit, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRequest {
    /// A UUIDv7: its order is the order of time.
    pub id: Uuid,
    /// Whose limit it is.
    pub instance: InstanceId,
    /// Which limit.
    pub limit: LimitName,
    /// The limit when the request was made.
    pub current: u32,
    /// The limit that is asked for.
    pub value: u32,
    /// Why, in the words of who asks.
    pub reason: String,
    /// What became of it.
    pub status: QuotaStatus,
    /// Who asks.
    pub requested_by: UserId,
    /// When it was made.
    pub requested_at: DateTime<Utc>,
    /// Who decided; none while pending.
    pub decided_by: Option<UserId>,
    /// When it was decided; none while pending.
    pub decided_at: Option<DateTime<Utc>>,
    /// What who decided has to say.
    pub note: Option<String>,
}

/// Most requests of an instance that wait for a decision.
pub const MAX_PENDING: usize = 100;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Which limit.
    pub limit: LimitName,
    /// Its new value, within the limit's range.
    pub value: u32,
    /// Why; at most 1,000 bytes, without U+0000.
    pub reason: &'a str,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaStatus {
    /// Nobody has decided yet.
    Pending,
    /// The limit was set.
    Approved,
    /// The limit was left as it is.
    Denied,
}

impl QuotaStatus {
    /// The word that the API and the table use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
        }
    }
}

/// What an operator says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sets the limit.
    Approve,
    /// Leaves the limit as it is.
    Deny,
}

impl Verdict {
    fn status(self) -> QuotaStatus {
        match self {
            Self::Approve => QuotaStatus::Approved,
            Self::Deny => QuotaStatus::Denied,
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::Approve => "quota_request.approve",
            Self::Deny => "quota_request.deny",
        }
    }
}

impl Store {
    /// At most `limit` requests older than `after`, newest first; of one instance or of all.
    /// Errors: `StoreError`.
    pub async fn list_quota_requests(
        &self,
        instance: Option<&InstanceId>,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<QuotaRequest>, StoreError> {
        let rows = match instance {
            Some(instance) => list_of_instance(&self.pool, instance, after, limit).await?,
            None => list_all(&self.pool, after, limit).await?,
        };
        Ok(rows.into_iter().map(QuotaRequest::try_from).collect::<Result<_, _>>()?)
    }

    /// One request. Errors: `StoreError`.
    pub async fn find_quota_request(&self, id: Uuid) -> Result<Option<QuotaRequest>, StoreError> {
        find_quota_request(&self.pool, id).await
    }

    /// Makes a pending request; `current` is what the instance has now. Errors: `InstanceMissing`,
    /// `Full` when the instance has 100 pending ones, `Store`.
    pub async fn insert_quota_request(
        &self,
        actor: &UserId,
        instance: &InstanceId,
        wish: Wish<'_>,
    ) -> Result<Committed<QuotaRequest>, InsertError> {
        let mut change = self.begin_change(actor).await?;
        let Some(found) = find_instance(change.connection(), instance).await? else {
            return Err(InsertError::InstanceMissing);
        };
        if count_pending(&mut change, instance).await? >= MAX_PENDING as i64 {
            return Err(InsertError::Full);
        }
        let mut request = QuotaRequest {
            id: Uuid::now_v7(),
            instance: found.id,
            limit: wish.limit,
            current: found.limits.get(wish.limit),
            value: wish.value,
            reason: wish.reason.to_owned(),
            status: QuotaStatus::Pending,
            requested_by: actor.clone(),
            requested_at: DateTime::UNIX_EPOCH,
            decided_by: None,
            decided_at: None,
            note: None,
        };
        request.requested_at = insert_quota_request(&mut change, &request).await?;
        record(&mut change, "quota_request.create", None, &request).await?;
        Ok(change.commit(request).await?)
    }

    /// Decides a pending request; approving sets the limit, which gives the instance its next
    /// version. Errors: `Missing`, `AlreadyDecided`, `Store`.
    pub async fn decide_quota_request(
        &self,
        actor: &UserId,
        id: Uuid,
        verdict: Verdict,
        note: Option<&str>,
    ) -> Result<Committed<QuotaRequest>, DecideError> {
        let mut change = self.begin_change(actor).await?;
        let before =
            find_quota_request(change.connection(), id).await?.ok_or(DecideError::Missing)?;
        if before.status != QuotaStatus::Pending {
            return Err(DecideError::AlreadyDecided);
        }
        let mut request = QuotaRequest {
            status: verdict.status(),
            decided_by: Some(actor.clone()),
            note: note.map(str::to_owned),
            ..before.clone()
        };
        request.decided_at = Some(update_quota_request(&mut change, &request).await?);
        record(&mut change, verdict.action(), Some(&before), &request).await?;
        if verdict == Verdict::Approve {
            set_limit(&mut change, &request).await?;
        }
        Ok(change.commit(request).await?)
    }
}

async fn set_limit(change: &mut Change, request: &QuotaRequest) -> Result<(), DecideError> {
    let before =
        find_instance(change.connection(), &request.instance).await?.ok_or(DecideError::Missing)?;
    let mut instance = before.clone();
    instance
        .limits
        .set(request.limit, request.value)
        .map_err(CorruptRow::at("quota_requests", "value"))?;
    replace_instance(change, &before, instance).await?;
    Ok(())
}

/// By time, then id: no index of other instances' requests has this order (see `audit`).
async fn list_of_instance(
    executor: impl PgExecutor<'_>,
    instance: &InstanceId,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<QuotaRequestRow>, StoreError> {
    let rows = sqlx::query_as!(
        QuotaRequestRow,
        "select instance, id, limit_name, current, value, reason, status, requested_by, requested_at, decided_by,
         decided_at, note from quota_requests where instance = $1 and ($2::uuid is null or (requested_at, id) <
             (coalesce((select requested_at from quota_requests where id = $2), $3::timestamptz), $2))
         order by requested_at desc, id desc limit $4",
        instance.as_str(),
        after,
        after.map(time_of),
        i64::from(limit),
    );
    Ok(rows.fetch_all(executor).await?)
}

/// Those of all instances, by id.
async fn list_all(
    executor: impl PgExecutor<'_>,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<QuotaRequestRow>, StoreError> {
    let rows = sqlx::query_as!(
        QuotaRequestRow,
        "select instance, id, limit_name, current, value, reason, status, requested_by, requested_at, decided_by,
         decided_at, note from quota_requests where $1::uuid is null or id < $1 order by id desc limit $2",
        after,
        i64::from(limit),
    );
    Ok(rows.fetch_all(executor).await?)
}

async fn find_quota_request(
    executor: impl PgExecutor<'_>,
    id: Uuid,
) -> Result<Option<QuotaRequest>, StoreError> {
    let row = sqlx::query_as!(
        QuotaRequestRow,
        "select instance, id, limit_name, current, value, reason, status, requested_by, requested_at, decided_by,
         decided_at, note from quota_requests where id = $1",
        id,
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(QuotaRequest::try_from).transpose()?)
}

async fn count_pending(change: &mut Change, instance: &InstanceId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from quota_requests where instance = $1 and status = 'pending'"#,
        instance.as_str(),
    );
    Ok(count.fetch_one(change.connection()).await?)
}

/// Answers when the request was made.
async fn insert_quota_request(
    change: &mut Change,
    request: &QuotaRequest,
) -> Result<DateTime<Utc>, StoreError> {
    let requested_at = sqlx::query_scalar!(
        "insert into quota_requests (instance, id, limit_name, current, value, reason, status, requested_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning requested_at",
        request.instance.as_str(),
        request.id,
        request.limit.as_str(),
        i64::from(request.current),
        i64::from(request.value),
        request.reason,
        request.status.as_str(),
        request.requested_by.as_str(),
    )
    .fetch_one(change.connection())
    .await?;
    Ok(requested_at)
}

/// Answers when the request was decided.
async fn update_quota_request(
    change: &mut Change,
    request: &QuotaRequest,
) -> Result<DateTime<Utc>, StoreError> {
    let decided_at = sqlx::query_scalar!(
        r#"update quota_requests set status = $2, decided_by = $3, note = $4, decided_at = clock_timestamp()
           where id = $1 returning decided_at as "decided_at!""#,
        request.id,
        request.status.as_str(),
        request.decided_by.as_ref().map(UserId::as_str),
        request.note,
    )
    .fetch_one(change.connection())
    .await?;
    Ok(decided_at)
}

async fn record(
    change: &mut Change,
    action: &'static str,
    before: Option<&QuotaRequest>,
    after: &QuotaRequest,
) -> Result<(), StoreError> {
    let target = &after.id.to_string();
    let (before, after_picture) = (before.map(picture), Some(picture(after)));
    change
        .record(Entry { instance: &after.instance, action, target, before, after: after_picture })
        .await
}

/// A request as audit entries show it, in the API's words.
fn picture(request: &QuotaRequest) -> Value {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({
        "id": request.id,
        "instance": request.instance.as_str(),
        "limit": request.limit.as_str(),
        "current": request.current,
        "value": request.value,
        "reason": request.reason,
        "status": request.status.as_str(),
        "requestedBy": request.requested_by.as_str(),
        "requestedAt": time(request.requested_at),
        "decidedBy": request.decided_by.as_ref().map(UserId::as_str),
        "decidedAt": request.decided_at.map(time),
        "note": request.note,
    })
}

struct QuotaRequestRow {
    instance: String,
    id: Uuid,
    limit_name: String,
    current: i64,
    value: i64,
    reason: String,
    status: String,
    requested_by: String,
    requested_at: DateTime<Utc>,
    decided_by: Option<String>,
    decided_at: Option<DateTime<Utc>>,
    note: Option<String>,
}

impl TryFrom<QuotaRequestRow> for QuotaRequest {
    type Error = CorruptRow;

    fn try_from(row: QuotaRequestRow) -> Result<Self, CorruptRow> {
        const TABLE: &str = "quota_requests";
        let statuses = [QuotaStatus::Pending, QuotaStatus::Approved, QuotaStatus::Denied];
        let status = statuses.into_iter().find(|status| status.as_str() == row.status);
        let decided_by = row.decided_by.map(UserId::new).transpose();
        Ok(Self {
            id: row.id,
            instance: InstanceId::new(row.instance).map_err(CorruptRow::at(TABLE, "instance"))?,
            limit: LimitName::new(&row.limit_name).map_err(CorruptRow::at(TABLE, "limit_name"))?,
            current: u32::try_from(row.current).map_err(CorruptRow::at(TABLE, "current"))?,
            value: u32::try_from(row.value).map_err(CorruptRow::at(TABLE, "value"))?,
            reason: row.reason,
            status: status.ok_or(CorruptRow { table: TABLE, column: "status" })?,
            requested_by: UserId::new(row.requested_by)
                .map_err(CorruptRow::at(TABLE, "requested_by"))?,
            requested_at: row.requested_at,
            decided_by: decided_by.map_err(CorruptRow::at(TABLE, "decided_by"))?,
            decided_at: row.decided_at,
            note: row.note,
        })
    }
}
