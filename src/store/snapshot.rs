//! What the catalog is built from: its version, its content at one moment, and the news that it
//! changed.

use super::change::CatalogVersion;
use super::channels::list_all_channels;
use super::instances::list_instances;
use super::pool::{ACQUIRE_TIMEOUT, CLOSING};
use super::revocations::list_all_revocations;
use super::{Store, StoreError};
use crate::domain::channel::Channel;
use crate::domain::instance::{Instance, InstanceId};
use crate::domain::revocation::Revocation;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{PgExecutor, PgPool};
use std::collections::HashMap;
use std::io;
use tokio::time::timeout;
use uuid::Uuid;

/// Everything that is stored, at one moment.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The version at which all was so.
    pub version: CatalogVersion,
    /// The marks of the last changes, that of the version first.
    pub marks: Vec<Uuid>,
    /// Every instance with what belongs to it, by id.
    pub instances: Vec<Configured>,
}

/// An instance and what belongs to it.
#[derive(Clone, Debug)]
pub struct Configured {
    /// The instance.
    pub instance: Instance,
    /// Its channels, by name.
    pub channels: Vec<Channel>,
    /// What it no longer accepts.
    pub revocations: Vec<Revocation>,
}

impl Store {
    /// The version of the last committed change; number 0 before the first. Errors: `StoreError`,
    /// also where the server only follows another: what it has may be old.
    pub async fn find_catalog_version(&self) -> Result<CatalogVersion, StoreError> {
        let found = sqlx::query!(
            "select version, marks[1] as mark, \
             current_setting('transaction_read_only') = 'on' as \"follows!\" from catalog_version"
        );
        let found = found.fetch_one(&self.pool).await?;
        if found.follows {
            let why = io::Error::other("the server takes no changes");
            return Err(StoreError::Unavailable(sqlx::Error::Io(why)));
        }
        Ok(CatalogVersion { number: found.version, mark: found.mark })
    }

    /// Everything that is stored. Errors: `StoreError`.
    pub async fn load_catalog(&self) -> Result<Stored, StoreError> {
        let mut snapshot =
            self.pool.begin_with("begin isolation level repeatable read read only").await?;
        let (number, marks) = list_marks(&mut *snapshot).await?;
        let instances = list_instances(&mut *snapshot, None, None).await?;
        let channels = list_all_channels(&mut *snapshot, self.compiled()).await?;
        let revocations = list_all_revocations(&mut *snapshot).await?;
        snapshot.commit().await?;
        let version = CatalogVersion { number, mark: marks.first().copied() };
        Ok(Stored { version, marks, instances: configured(instances, channels, revocations) })
    }

    /// Listens for changes from now on, on a connection of its own, which `close` neither ends nor
    /// waits for. Errors: `StoreError`.
    pub async fn listen(&self) -> Result<Changes, StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(PgConnectOptions::clone(&self.pool.connect_options()))
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen("herald_catalog").await?;
        Ok(Changes { listener, pool })
    }
}

/// The news of committed changes. Must be dropped inside a tokio runtime.
#[derive(Debug)]
pub struct Changes {
    listener: PgListener,
    /// Of the one connection that listens.
    pool: PgPool,
}

impl Changes {
    /// Resolves when something was committed; may be cancelled without missing anything. Errors:
    /// `StoreError::Unavailable` when the connection was lost and changes may have been missed:
    /// listen anew, and then look.
    pub async fn next(&mut self) -> Result<(), StoreError> {
        match self.listener.try_recv().await? {
            Some(_) => Ok(()),
            None => Err(StoreError::from(sqlx::Error::Io(io::ErrorKind::ConnectionAborted.into()))),
        }
    }
}

impl Changes {
    /// Ends the connection, and waits for it, two seconds at most.
    pub async fn close(self) {
        drop(self.listener);
        // One that leads nowhere ends with the process.
        drop(timeout(CLOSING, self.pool.close()).await);
    }
}

/// The version's number, and the marks of the last changes.
async fn list_marks(executor: impl PgExecutor<'_>) -> Result<(i64, Vec<Uuid>), StoreError> {
    let found = sqlx::query!("select version, marks from catalog_version");
    let found = found.fetch_one(executor).await?;
    Ok((found.version, found.marks))
}

fn configured(
    instances: Vec<Instance>,
    channels: Vec<(InstanceId, Channel)>,
    revocations: Vec<(InstanceId, Revocation)>,
) -> Vec<Configured> {
    let (mut channels, mut revocations) = (by_instance(channels), by_instance(revocations));
    let with_its_own = |instance: Instance| {
        let channels = channels.remove(&instance.id).unwrap_or_default();
        let revocations = revocations.remove(&instance.id).unwrap_or_default();
        Configured { instance, channels, revocations }
    };
    instances.into_iter().map(with_its_own).collect()
}

fn by_instance<T>(rows: Vec<(InstanceId, T)>) -> HashMap<InstanceId, Vec<T>> {
    let mut by_instance: HashMap<InstanceId, Vec<T>> = HashMap::new();
    for (instance, row) in rows {
        by_instance.entry(instance).or_default().push(row);
    }
    by_instance
}
