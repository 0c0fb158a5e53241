//! Instances: listed and found, and changed with their audit entries.

use super::change::{Change, Committed, Entry};
use super::{CorruptRow, InsertError, Store, StoreError, UpdateError};
use crate::domain::instance::{Instance, InstanceId, LimitName, Limits};
use crate::domain::principal::{Role, UserId};
use serde_json::{Map, Value, json};
use sqlx::PgExecutor;

impl Store {
    /// Whether there is any instance. Errors: `StoreError`.
    pub async fn has_instances(&self) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar!(r#"select exists (select from instances) as "exists!""#)
            .fetch_one(&self.pool)
            .await?)
    }

    /// At most `limit` instances behind `after`, by id in byte order. Errors: `StoreError`.
    pub async fn list_instances(
        &self,
        after: Option<&InstanceId>,
        limit: u32,
    ) -> Result<Vec<Instance>, StoreError> {
        list_instances(&self.pool, after, Some(limit)).await
    }

    /// One instance. Errors: `StoreError`.
    pub async fn find_instance(&self, id: &InstanceId) -> Result<Option<Instance>, StoreError> {
        find_instance(&self.pool, id).await
    }

    /// Makes an instance, with version 1 whatever it says. Errors: `Exists`, `Store`.
    pub async fn insert_instance(
        &self,
        actor: &UserId,
        instance: &Instance,
    ) -> Result<Committed<Instance>, InsertError> {
        let instance = Instance { version: 1, ..instance.clone() };
        let mut change = self.begin_change(actor).await?;
        insert_instance(&mut change, &instance).await?;
        change.record(entry("instance.create", &instance.id, None, Some(&instance))).await?;
        Ok(change.commit(instance).await?)
    }

    /// Replaces an instance; `instance.version` is the one that the caller saw, and grows by one.
    /// Errors: `Missing`, `Stale`, `Store`.
    pub async fn update_instance(
        &self,
        actor: &UserId,
        instance: &Instance,
    ) -> Result<Committed<Instance>, UpdateError> {
        let mut change = self.begin_change(actor).await?;
        let before = expect_instance(&mut change, &instance.id, instance.version).await?;
        let instance = replace_instance(&mut change, &before, instance.clone()).await?;
        Ok(change.commit(instance).await?)
    }

    /// Deletes an instance with its channels and quota requests; its audit entries stay. `expected`
    /// is the version that the caller saw. Errors: `Missing`, `Stale`, `Store`.
    pub async fn delete_instance(
        &self,
        actor: &UserId,
        id: &InstanceId,
        expected: i64,
    ) -> Result<Committed<()>, UpdateError> {
        let mut change = self.begin_change(actor).await?;
        let before = expect_instance(&mut change, id, expected).await?;
        delete_instance(&mut change, id).await?;
        change.record(entry("instance.delete", id, Some(&before), None)).await?;
        Ok(change.commit(()).await?)
    }
}

/// Instances behind `after`, by id in byte order; all of them without `limit`.
pub(super) async fn list_instances(
    executor: impl PgExecutor<'_>,
    after: Option<&InstanceId>,
    limit: Option<u32>,
) -> Result<Vec<Instance>, StoreError> {
    let rows = sqlx::query_as!(
        InstanceRow,
        "select id, name, enabled, publish_roles, origins, limits, version from instances
         where $1::text is null or id > $1 order by id limit $2",
        after.map(InstanceId::as_str),
        limit.map(i64::from),
    )
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(Instance::try_from).collect::<Result<_, _>>()?)
}

/// One instance, also within a change.
pub(super) async fn find_instance(
    executor: impl PgExecutor<'_>,
    id: &InstanceId,
) -> Result<Option<Instance>, StoreError> {
    let row = sqlx::query_as!(
        InstanceRow,
        "select id, name, enabled, publish_roles, origins, limits, version from instances where id = $1",
        id.as_str(),
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Instance::try_from).transpose()?)
}

/// Puts `instance` in the place of `before`, with the next version, and records it. Answers what is
/// stored then.
pub(super) async fn replace_instance(
    change: &mut Change,
    before: &Instance,
    instance: Instance,
) -> Result<Instance, StoreError> {
    let instance = Instance { version: before.version + 1, ..instance };
    update_instance(change, &instance).await?;
    change.record(entry("instance.update", &instance.id, Some(before), Some(&instance))).await?;
    Ok(instance)
}

async fn expect_instance(
    change: &mut Change,
    id: &InstanceId,
    expected: i64,
) -> Result<Instance, UpdateError> {
    match find_instance(change.connection(), id).await? {
        None => Err(UpdateError::Missing),
        Some(instance) if instance.version != expected => {
            Err(UpdateError::Stale { current: instance.version })
        }
        Some(instance) => Ok(instance),
    }
}

async fn insert_instance(change: &mut Change, instance: &Instance) -> Result<(), InsertError> {
    let outcome = sqlx::query!(
        "insert into instances (id, name, enabled, publish_roles, origins, limits, version)
         values ($1, $2, $3, $4, $5, $6, $7)",
        instance.id.as_str(),
        instance.name,
        instance.enabled,
        &role_names(&instance.publish_roles),
        &instance.origins,
        limits_to_json(&instance.limits),
        instance.version,
    )
    .execute(change.connection())
    .await;
    let Err(error) = outcome else { return Ok(()) };
    Err(match error.as_database_error().and_then(|error| error.constraint()) {
        Some("instances_pkey") => InsertError::Exists,
        _ => error.into(),
    })
}

async fn update_instance(change: &mut Change, instance: &Instance) -> Result<(), StoreError> {
    sqlx::query!(
        "update instances set name = $2, enabled = $3, publish_roles = $4, origins = $5, limits = $6, version = $7
         where id = $1",
        instance.id.as_str(),
        instance.name,
        instance.enabled,
        &role_names(&instance.publish_roles),
        &instance.origins,
        limits_to_json(&instance.limits),
        instance.version,
    )
    .execute(change.connection())
    .await?;
    Ok(())
}

async fn delete_instance(change: &mut Change, id: &InstanceId) -> Result<(), StoreError> {
    sqlx::query!("delete from instances where id = $1", id.as_str())
        .execute(change.connection())
        .await?;
    Ok(())
}

fn entry<'a>(
    action: &'static str,
    id: &'a InstanceId,
    before: Option<&Instance>,
    after: Option<&Instance>,
) -> Entry<'a> {
    Entry {
        instance: id,
        action,
        target: id.as_str(),
        before: before.map(picture),
        after: after.map(picture),
    }
}

/// An instance as audit entries show it, in the API's words.
fn picture(instance: &Instance) -> Value {
    json!({
        "id": instance.id.as_str(),
        "name": instance.name,
        "enabled": instance.enabled,
        "publishRoles": role_names(&instance.publish_roles),
        "origins": instance.origins,
        "limits": limits_to_json(&instance.limits),
        "version": instance.version,
    })
}

struct InstanceRow {
    id: String,
    name: String,
    enabled: bool,
    publish_roles: Vec<String>,
    origins: Vec<String>,
    limits: Value,
    version: i64,
}

impl TryFrom<InstanceRow> for Instance {
    type Error = CorruptRow;

    fn try_from(row: InstanceRow) -> Result<Self, CorruptRow> {
        let publish_roles = row.publish_roles.into_iter().map(Role::new).collect::<Result<_, _>>();
        Ok(Self {
            id: InstanceId::new(row.id).map_err(CorruptRow::at("instances", "id"))?,
            name: row.name,
            enabled: row.enabled,
            publish_roles: publish_roles.map_err(CorruptRow::at("instances", "publish_roles"))?,
            origins: row.origins,
            limits: limits_from_json(&row.limits)
                .ok_or(CorruptRow { table: "instances", column: "limits" })?,
            version: row.version,
        })
    }
}

fn role_names(roles: &[Role]) -> Vec<String> {
    roles.iter().map(Role::to_string).collect()
}

fn limits_to_json(limits: &Limits) -> Value {
    LimitName::all()
        .map(|name| (name.as_str().to_owned(), limits.get(name).into()))
        .collect::<Map<_, _>>()
        .into()
}

/// A limit that the row does not have yet has its default; one that only a newer release knows is
/// passed over, so that both can run at once.
fn limits_from_json(stored: &Value) -> Option<Limits> {
    let stored = stored.as_object()?;
    let mut limits = Limits::default();
    for name in LimitName::all() {
        if let Some(value) = stored.get(name.as_str()) {
            limits.set(name, u32::try_from(value.as_u64()?).ok()?).ok()?;
        }
    }
    Some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_their_row() {
        let limits = Limits { connections: 7, payload_bytes: 65_536, ..Limits::default() };
        let stored = limits_to_json(&limits);
        assert_eq!(stored.as_object().unwrap().len(), LimitName::all().count());
        assert_eq!(limits_from_json(&stored), Some(limits));
    }

    #[test]
    fn a_limit_may_be_absent_or_unknown_but_not_out_of_range() {
        assert_eq!(limits_from_json(&json!({"topicsPerMoon": 3})), Some(Limits::default()));
        for bad in [
            json!({"connections": 0}),
            json!({"connections": "7"}),
            json!({"payloadBytes": 65_537}),
            json!([]),
        ] {
            assert_eq!(limits_from_json(&bad), None, "{bad}");
        }
    }
}
