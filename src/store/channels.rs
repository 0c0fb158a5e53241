//! Channels: listed and found, and changed with their audit entries.

use super::change::{CatalogVersion, Change, Committed, Entry};
use super::{CorruptRow, InsertError, Store, StoreError, UpdateError, rules};
use crate::domain::channel::{Channel, ChannelName, MAX_CHANNELS, Slow, cost_of};
use crate::domain::expression::compiled::{Compiled, Pool};
use crate::domain::expression::{Cost, Excess, Scope};
use crate::domain::instance::InstanceId;
use crate::domain::principal::UserId;
use serde_json::{Value, json};
use sqlx::PgExecutor;

/// What the catalog says of an instance's expressions; it holds for a change that follows on that
/// version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCost {
    /// The catalog's version.
    pub catalog_version: CatalogVersion,
    /// Of all its channels but the one that is changed.
    pub others: Cost,
}

impl Store {
    /// At most `limit` channels of an instance behind `after`, by name in byte order; none if there
    /// is no instance. Errors: `StoreError`.
    pub async fn list_channels(
        &self,
        instance: &InstanceId,
        after: Option<&ChannelName>,
        limit: u32,
    ) -> Result<Vec<Channel>, StoreError> {
        let pool = self.compiled().pool(instance);
        list_channels(&self.pool, instance, (after, limit.into()), &pool).await
    }

    /// One channel. Errors: `StoreError`.
    pub async fn find_channel(
        &self,
        instance: &InstanceId,
        name: &ChannelName,
    ) -> Result<Option<Channel>, StoreError> {
        find_channel(&self.pool, instance, name, &self.compiled().pool(instance)).await
    }

    /// Makes a channel, with version 1 whatever it says. `known` may tell what the instance's other
    /// expressions cost. Errors: `Exists`, `InstanceMissing`, `Full` at 1,000 channels of the
    /// instance, `TooCostly`, `Store`.
    pub async fn insert_channel(
        &self,
        actor: &UserId,
        instance: &InstanceId,
        channel: &Channel,
        known: Option<KnownCost>,
    ) -> Result<Committed<Channel>, InsertError> {
        let channel = Channel { version: 1, ..channel.clone() };
        let mut change = self.begin_change(actor).await?;
        insert_channel(&mut change, instance, &channel).await?;
        if count_channels(&mut change, instance).await? > MAX_CHANNELS as i64 {
            return Err(InsertError::Full);
        }
        let excess = self.excess_with(&mut change, instance, (None, &channel), known).await?;
        if let Some(excess) = excess {
            return Err(InsertError::TooCostly(excess));
        }
        change
            .record(entry("channel.create", instance, &channel.name, None, Some(&channel)))
            .await?;
        Ok(change.commit(channel).await?)
    }

    /// Replaces a channel; `channel.version` is the one that the caller saw, and grows by one.
    /// `known` as when making one. Errors: `Missing`, `Stale`, `TooCostly`, `Store`.
    pub async fn update_channel(
        &self,
        actor: &UserId,
        instance: &InstanceId,
        channel: &Channel,
        known: Option<KnownCost>,
    ) -> Result<Committed<Channel>, UpdateError> {
        let mut change = self.begin_change(actor).await?;
        let pool = self.compiled().pool(instance);
        let expected = (&channel.name, channel.version);
        let before = expect_channel(&mut change, instance, expected, &pool).await?;
        let channel = Channel { version: before.version + 1, ..channel.clone() };
        let both = (Some(&before), &channel);
        if let Some(excess) = self.excess_with(&mut change, instance, both, known).await? {
            return Err(UpdateError::TooCostly(excess));
        }
        update_channel(&mut change, instance, &channel).await?;
        change
            .record(entry("channel.update", instance, &channel.name, Some(&before), Some(&channel)))
            .await?;
        Ok(change.commit(channel).await?)
    }

    /// Deletes a channel; `expected` is the version that the caller saw. Errors: `Missing`,
    /// `Stale`, `Store`.
    pub async fn delete_channel(
        &self,
        actor: &UserId,
        instance: &InstanceId,
        name: &ChannelName,
        expected: i64,
    ) -> Result<Committed<()>, UpdateError> {
        let mut change = self.begin_change(actor).await?;
        let pool = self.compiled().pool(instance);
        let before = expect_channel(&mut change, instance, (name, expected), &pool).await?;
        delete_channel(&mut change, instance, name).await?;
        change.record(entry("channel.delete", instance, name, Some(&before), None)).await?;
        Ok(change.commit(()).await?)
    }

    /// Holds an instance's expressions to their bound, as they are once `channel` is in place of
    /// `before`. What costs no more than before is taken: so an instance that is beyond the bound
    /// finds its way back. By how much it is too costly. Errors: `StoreError`.
    async fn excess_with(
        &self,
        change: &mut Change,
        instance: &InstanceId,
        (before, channel): (Option<&Channel>, &Channel),
        known: Option<KnownCost>,
    ) -> Result<Option<Excess>, StoreError> {
        let cost = channel.cost();
        if cost == Cost::default() {
            return Ok(None);
        }
        let follows = |known: &KnownCost| change.follows_on(known.catalog_version);
        let others = match known.filter(follows) {
            Some(known) => known.others,
            None => self.cost_of_others(change, instance, &channel.name).await?,
        };
        match (others + cost).within(self.compiled().bounds().instance) {
            Err(excess) if !before.is_some_and(|before| cost.is_at_most(before.cost())) => {
                Ok(Some(excess))
            }
            _ => Ok(None),
        }
    }

    async fn cost_of_others(
        &self,
        change: &mut Change,
        instance: &InstanceId,
        name: &ChannelName,
    ) -> Result<Cost, StoreError> {
        let pool = self.compiled().pool(instance);
        let all = list_channels(change.connection(), instance, (None, i64::MAX), &pool).await?;
        let others = all.iter().filter(|channel| channel.name != *name);
        Ok(cost_of(others, self.compiled().bounds().instance))
    }
}

/// Every channel of every instance, by instance and name.
pub(super) async fn list_all_channels(
    executor: impl PgExecutor<'_>,
    compiled: &Compiled,
) -> Result<Vec<(InstanceId, Channel)>, StoreError> {
    let rows = sqlx::query!(
        "select instance, name, description, enabled, rules, publish_rules, payload_limit, slow, version from channels
         order by instance, name"
    )
    .map(|row| {
        let channel = ChannelRow {
            name: row.name,
            description: row.description,
            enabled: row.enabled,
            rules: row.rules,
            publish_rules: row.publish_rules,
            payload_limit: row.payload_limit,
            slow: row.slow,
            version: row.version,
        };
        (row.instance, channel)
    })
    .fetch_all(executor)
    .await?;
    rows.into_iter()
        .map(|(instance, row)| {
            let instance =
                InstanceId::new(instance).map_err(CorruptRow::at("channels", "instance"))?;
            let channel = row.into_channel(&compiled.pool(&instance))?;
            Ok((instance, channel))
        })
        .collect()
}

/// At most `limit` channels of an instance behind `after`, by name.
pub(super) async fn list_channels(
    executor: impl PgExecutor<'_>,
    instance: &InstanceId,
    (after, limit): (Option<&ChannelName>, i64),
    pool: &Pool,
) -> Result<Vec<Channel>, StoreError> {
    let rows = sqlx::query_as!(
        ChannelRow,
        "select name, description, enabled, rules, publish_rules, payload_limit, slow, version from channels
             where instance = $1 and ($2::text is null or name > $2) order by name limit $3",
        instance.as_str(),
        after.map(ChannelName::as_str),
        limit,
    )
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(|row| row.into_channel(pool)).collect::<Result<_, _>>()?)
}

async fn find_channel(
    executor: impl PgExecutor<'_>,
    instance: &InstanceId,
    name: &ChannelName,
    pool: &Pool,
) -> Result<Option<Channel>, StoreError> {
    let row = sqlx::query_as!(
        ChannelRow,
        "select name, description, enabled, rules, publish_rules, payload_limit, slow, version from channels
         where instance = $1 and name = $2",
        instance.as_str(),
        name.as_str(),
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(|row| row.into_channel(pool)).transpose()?)
}

async fn expect_channel(
    change: &mut Change,
    instance: &InstanceId,
    (name, expected): (&ChannelName, i64),
    pool: &Pool,
) -> Result<Channel, UpdateError> {
    match find_channel(change.connection(), instance, name, pool).await? {
        None => Err(UpdateError::Missing),
        Some(channel) if channel.version != expected => {
            Err(UpdateError::Stale { current: channel.version })
        }
        Some(channel) => Ok(channel),
    }
}

async fn count_channels(change: &mut Change, instance: &InstanceId) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select count(*) as "count!" from channels where instance = $1"#,
        instance.as_str()
    )
    .fetch_one(change.connection())
    .await?)
}

async fn insert_channel(
    change: &mut Change,
    instance: &InstanceId,
    channel: &Channel,
) -> Result<(), InsertError> {
    let outcome = sqlx::query!(
        "insert into channels (instance, name, description, enabled, rules, publish_rules, payload_limit, slow, version)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        instance.as_str(),
        channel.name.as_str(),
        channel.description,
        channel.enabled,
        rules::to_json(&channel.rules),
        rules::to_json(&channel.publish_rules),
        channel.payload_limit.map(i64::from),
        slow_text(channel.slow),
        channel.version,
    )
    .execute(change.connection())
    .await;
    let Err(error) = outcome else { return Ok(()) };
    Err(match error.as_database_error().and_then(|error| error.constraint()) {
        Some("channels_pkey") => InsertError::Exists,
        Some("channels_instance_fkey") => InsertError::InstanceMissing,
        _ => error.into(),
    })
}

async fn update_channel(
    change: &mut Change,
    instance: &InstanceId,
    channel: &Channel,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update channels set description = $3, enabled = $4, rules = $5, publish_rules = $6, payload_limit = $7,
         slow = $8, version = $9 where instance = $1 and name = $2",
        instance.as_str(),
        channel.name.as_str(),
        channel.description,
        channel.enabled,
        rules::to_json(&channel.rules),
        rules::to_json(&channel.publish_rules),
        channel.payload_limit.map(i64::from),
        slow_text(channel.slow),
        channel.version,
    )
    .execute(change.connection())
    .await?;
    Ok(())
}

async fn delete_channel(
    change: &mut Change,
    instance: &InstanceId,
    name: &ChannelName,
) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from channels where instance = $1 and name = $2",
        instance.as_str(),
        name.as_str()
    )
    .execute(change.connection())
    .await?;
    Ok(())
}

fn entry<'a>(
    action: &'static str,
    instance: &'a InstanceId,
    name: &'a ChannelName,
    before: Option<&Channel>,
    after: Option<&Channel>,
) -> Entry<'a> {
    Entry {
        instance,
        action,
        target: name.as_str(),
        before: before.map(picture),
        after: after.map(picture),
    }
}

/// A channel as audit entries show it, in the API's words.
fn picture(channel: &Channel) -> Value {
    json!({
        "name": channel.name.as_str(),
        "description": channel.description,
        "enabled": channel.enabled,
        "rules": rules::to_json(&channel.rules),
        "publishRules": rules::to_json(&channel.publish_rules),
        "payloadLimit": channel.payload_limit,
        "slow": slow_text(channel.slow),
        "version": channel.version,
    })
}

/// The column's words, to which a constraint holds it; the API's too.
fn slow_text(slow: Slow) -> &'static str {
    match slow {
        Slow::Disconnect => "disconnect",
        Slow::Latest => "latest",
    }
}

struct ChannelRow {
    name: String,
    description: String,
    enabled: bool,
    rules: Value,
    publish_rules: Value,
    payload_limit: Option<i64>,
    slow: String,
    version: i64,
}

impl ChannelRow {
    fn into_channel(self, pool: &Pool) -> Result<Channel, CorruptRow> {
        let payload_limit = self.payload_limit.map(u32::try_from).transpose();
        Ok(Channel {
            name: ChannelName::new(self.name).map_err(CorruptRow::at("channels", "name"))?,
            description: self.description,
            enabled: self.enabled,
            rules: rules::from_json(self.rules, Scope::Hear, pool)?,
            publish_rules: rules::from_json(self.publish_rules, Scope::Publish, pool)?,
            payload_limit: payload_limit.map_err(CorruptRow::at("channels", "payload_limit"))?,
            slow: if self.slow == slow_text(Slow::Latest) {
                Slow::Latest
            } else {
                Slow::Disconnect
            },
            version: self.version,
        })
    }
}
