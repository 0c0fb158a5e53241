//! Revocations: listed and found, made and taken back with their audit entries, and forgotten once
//! they are over.

use super::audit::time_of;
use super::change::{Change, Committed, Entry};
use super::{CorruptRow, InsertError, Store, StoreError, UpdateError};
use crate::domain::instance::InstanceId;
use crate::domain::principal::UserId;
use crate::domain::revocation::{MAX_REVOCATIONS, Revocation, TokenId};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use sqlx::PgExecutor;
use uuid::Uuid;

/// A revocation, and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationEntry {
    /// A UUIDv7: its order is the order of time.
    pub id: Uuid,
    /// What is revoked.
    pub revocation: Revocation,
    /// Who made it first.
    pub created_by: UserId,
    /// When it was first made.
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// At most `limit` revocations of an instance older than `after`, newest first. Errors:
    /// `StoreError`.
    pub async fn list_revocations(
        &self,
        instance: &InstanceId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<RevocationEntry>, StoreError> {
        let rows = sqlx::query_as!(
            RevocationRow,
            "select id, token_id, expires_at, user_id, issued_before, created_by, created_at from revocations
             where instance = $1 and ($2::uuid is null or (created_at, id) <
                 (coalesce((select created_at from revocations where id = $2), $3::timestamptz), $2))
             order by created_at desc, id desc limit $4",
            instance.as_str(),
            after,
            after.map(time_of),
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(RevocationEntry::try_from).collect::<Result<_, _>>()?)
    }

    /// One revocation of an instance. Errors: `StoreError`.
    pub async fn find_revocation(
        &self,
        instance: &InstanceId,
        id: Uuid,
    ) -> Result<Option<RevocationEntry>, StoreError> {
        find_revocation(&self.pool, instance, id).await
    }

    /// Revokes until `ends_at`. An instance has one entry a token and a user: where there is one
    /// already, it gets the later of both times and stays the same entry. Errors:
    /// `InstanceMissing`, `Full` at 10,000 of the instance, `Store`.
    pub async fn insert_revocation(
        &self,
        actor: &UserId,
        instance: &InstanceId,
        revocation: Revocation,
        ends_at: DateTime<Utc>,
    ) -> Result<Committed<RevocationEntry>, InsertError> {
        let mut change = self.begin_change(actor).await?;
        if let Some(before) = find_same(&mut change, instance, &revocation).await? {
            let revocation = revocation.or_later(&before.revocation);
            let after = RevocationEntry { revocation, ..before.clone() };
            update_revocation(&mut change, &after, ends_at).await?;
            record(&mut change, "revocation.update", instance, (Some(&before), Some(&after)))
                .await?;
            return Ok(change.commit(after).await?);
        }
        let id = Uuid::now_v7();
        let mut made = RevocationEntry {
            id,
            revocation,
            created_by: actor.clone(),
            created_at: DateTime::UNIX_EPOCH,
        };
        made.created_at = insert_revocation(&mut change, instance, &made, ends_at).await?;
        if count_revocations(&mut change, instance).await? > MAX_REVOCATIONS as i64 {
            return Err(InsertError::Full);
        }
        record(&mut change, "revocation.create", instance, (None, Some(&made))).await?;
        Ok(change.commit(made).await?)
    }

    /// Takes a revocation back: what it concerned is accepted again. Errors: `Missing`, `Store`.
    pub async fn delete_revocation(
        &self,
        actor: &UserId,
        instance: &InstanceId,
        id: Uuid,
    ) -> Result<Committed<()>, UpdateError> {
        let mut change = self.begin_change(actor).await?;
        let before = find_revocation(change.connection(), instance, id)
            .await?
            .ok_or(UpdateError::Missing)?;
        sqlx::query!("delete from revocations where id = $1", id)
            .execute(change.connection())
            .await?;
        record(&mut change, "revocation.delete", instance, (Some(&before), None)).await?;
        Ok(change.commit(()).await?)
    }

    /// Forgets every revocation that ended before now; how many there were. No audit entry: nothing
    /// is accepted again that was refused. Errors: `StoreError`.
    pub async fn delete_ended_revocations(&self, actor: &UserId) -> Result<u64, StoreError> {
        if !has_ended_revocations(&self.pool).await? {
            return Ok(0);
        }
        let mut all = 0;
        loop {
            let mut change = self.begin_change(actor).await?;
            let count = delete_ended(&mut change).await?;
            all += change.commit(count).await?.value;
            if count < SLICE as u64 {
                return Ok(all);
            }
        }
    }
}

/// Every revocation of every instance.
pub(super) async fn list_all_revocations(
    executor: impl PgExecutor<'_>,
) -> Result<Vec<(InstanceId, Revocation)>, StoreError> {
    let rows = sqlx::query!(
        "select instance, token_id, expires_at, user_id, issued_before from revocations"
    )
    .fetch_all(executor)
    .await?;
    let read = rows.into_iter().map(|row| {
        let instance = InstanceId::new(row.instance).map_err(CorruptRow::at(TABLE, "instance"))?;
        Ok((
            instance,
            revocation((row.token_id, row.expires_at), (row.user_id, row.issued_before))?,
        ))
    });
    Ok(read.collect::<Result<_, CorruptRow>>()?)
}

const TABLE: &str = "revocations";
/// Most revocations that are forgotten in one change, for which other changes wait.
const SLICE: i64 = 1_000;

async fn find_revocation(
    executor: impl PgExecutor<'_>,
    instance: &InstanceId,
    id: Uuid,
) -> Result<Option<RevocationEntry>, StoreError> {
    let row = sqlx::query_as!(
        RevocationRow,
        "select id, token_id, expires_at, user_id, issued_before, created_by, created_at from revocations
         where instance = $1 and id = $2",
        instance.as_str(),
        id,
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(RevocationEntry::try_from).transpose()?)
}

/// The entry about the same token or the same user.
async fn find_same(
    change: &mut Change,
    instance: &InstanceId,
    revocation: &Revocation,
) -> Result<Option<RevocationEntry>, StoreError> {
    let columns = Columns::of(revocation);
    let row = sqlx::query_as!(
        RevocationRow,
        "select id, token_id, expires_at, user_id, issued_before, created_by, created_at from revocations
         where instance = $1 and (token_id = $2 or user_id = $3)",
        instance.as_str(),
        columns.token_id,
        columns.user_id,
    )
    .fetch_optional(change.connection())
    .await?;
    Ok(row.map(RevocationEntry::try_from).transpose()?)
}

async fn count_revocations(change: &mut Change, instance: &InstanceId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from revocations where instance = $1"#,
        instance.as_str(),
    );
    Ok(count.fetch_one(change.connection()).await?)
}

async fn has_ended_revocations(executor: impl PgExecutor<'_>) -> Result<bool, StoreError> {
    let ended = sqlx::query_scalar!(
        r#"select exists (select from revocations where ends_at < now()) as "exists!""#
    );
    Ok(ended.fetch_one(executor).await?)
}

/// At most a slice of them; how many there were.
async fn delete_ended(change: &mut Change) -> Result<u64, StoreError> {
    let deleted = sqlx::query!(
        "delete from revocations where id = any(array(
             select id from revocations where ends_at < now() order by ends_at limit $1
         ))",
        SLICE,
    );
    Ok(deleted.execute(change.connection()).await?.rows_affected())
}

/// Answers when it was made.
async fn insert_revocation(
    change: &mut Change,
    instance: &InstanceId,
    entry: &RevocationEntry,
    ends_at: DateTime<Utc>,
) -> Result<DateTime<Utc>, InsertError> {
    let columns = Columns::of(&entry.revocation);
    let created_at = sqlx::query_scalar!(
        "insert into revocations (instance, id, token_id, expires_at, user_id, issued_before, ends_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning created_at",
        instance.as_str(),
        entry.id,
        columns.token_id,
        columns.expires_at,
        columns.user_id,
        columns.issued_before,
        ends_at,
        entry.created_by.as_str(),
    );
    let inserted = created_at.fetch_one(change.connection()).await;
    inserted.map_err(|error| match error.as_database_error().and_then(|error| error.constraint()) {
        Some("revocations_instance_fkey") => InsertError::InstanceMissing,
        _ => error.into(),
    })
}

async fn update_revocation(
    change: &mut Change,
    entry: &RevocationEntry,
    ends_at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let columns = Columns::of(&entry.revocation);
    sqlx::query!(
        "update revocations set expires_at = $2, issued_before = $3, ends_at = greatest(ends_at, $4) where id = $1",
        entry.id,
        columns.expires_at,
        columns.issued_before,
        ends_at,
    )
    .execute(change.connection())
    .await?;
    Ok(())
}

/// Writes the audit entry of what was there before and what is there after.
async fn record(
    change: &mut Change,
    action: &'static str,
    instance: &InstanceId,
    (before, after): (Option<&RevocationEntry>, Option<&RevocationEntry>),
) -> Result<(), StoreError> {
    let target = before.or(after).map(|entry| entry.id.to_string()).unwrap_or_default();
    let (before, after) = (before.map(picture), after.map(picture));
    change.record(Entry { instance, action, target: &target, before, after }).await
}

/// A revocation as audit entries show it, in the API's words.
fn picture(entry: &RevocationEntry) -> Value {
    let time = |time: DateTime<Utc>, format| time.to_rfc3339_opts(format, true);
    let mut picture = match &entry.revocation {
        Revocation::Token { id, expires_at } => {
            json!({"jti": id.as_str(), "expiresAt": time(*expires_at, SecondsFormat::Secs)})
        }
        Revocation::User { id, issued_before } => {
            json!({"user": id.as_str(), "issuedBefore": time(*issued_before, SecondsFormat::Secs)})
        }
    };
    picture["id"] = json!(entry.id);
    picture["createdBy"] = json!(entry.created_by.as_str());
    picture["createdAt"] = json!(time(entry.created_at, SecondsFormat::Millis));
    picture
}

/// A revocation as the table holds it.
#[derive(Default)]
struct Columns<'a> {
    token_id: Option<&'a str>,
    expires_at: Option<DateTime<Utc>>,
    user_id: Option<&'a str>,
    issued_before: Option<DateTime<Utc>>,
}

impl<'a> Columns<'a> {
    fn of(revocation: &'a Revocation) -> Self {
        match revocation {
            Revocation::Token { id, expires_at } => Self {
                token_id: Some(id.as_str()),
                expires_at: Some(*expires_at),
                ..Self::default()
            },
            Revocation::User { id, issued_before } => Self {
                user_id: Some(id.as_str()),
                issued_before: Some(*issued_before),
                ..Self::default()
            },
        }
    }
}

/// Reads the columns of a token and those of a user, of which one pair is there.
fn revocation(
    token: (Option<String>, Option<DateTime<Utc>>),
    user: (Option<String>, Option<DateTime<Utc>>),
) -> Result<Revocation, CorruptRow> {
    match (token, user) {
        ((Some(id), Some(expires_at)), (None, None)) => {
            let id = TokenId::new(id).map_err(CorruptRow::at(TABLE, "token_id"))?;
            Ok(Revocation::Token { id, expires_at })
        }
        ((None, None), (Some(id), Some(issued_before))) => {
            let id = UserId::new(id).map_err(CorruptRow::at(TABLE, "user_id"))?;
            Ok(Revocation::User { id, issued_before })
        }
        _ => Err(CorruptRow { table: TABLE, column: "token_id" }),
    }
}

struct RevocationRow {
    id: Uuid,
    token_id: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    user_id: Option<String>,
    issued_before: Option<DateTime<Utc>>,
    created_by: String,
    created_at: DateTime<Utc>,
}

impl TryFrom<RevocationRow> for RevocationEntry {
    type Error = CorruptRow;

    fn try_from(row: RevocationRow) -> Result<Self, CorruptRow> {
        Ok(Self {
            id: row.id,
            revocation: revocation(
                (row.token_id, row.expires_at),
                (row.user_id, row.issued_before),
            )?,
            created_by: UserId::new(row.created_by).map_err(CorruptRow::at(TABLE, "created_by"))?,
            created_at: row.created_at,
        })
    }
}
