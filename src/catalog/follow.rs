//! Keeps the catalog as Postgres has it: by notification, by polling a version, and again after
//! every loss.

use super::{Catalog, Snapshot, Tenant};
use crate::domain::expression::Cost;
use crate::store::{Changes, Configured, Store, StoreError, Stored};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// Reads everything, whatever is known already. Errors: `StoreError`.
pub async fn load(catalog: &Catalog, store: &Store) -> Result<(), StoreError> {
    let Stored { version, marks, instances } = store.load_catalog().await?;
    if catalog.version().and_then(|known| known.mark).is_some_and(|mark| !marks.contains(&mark)) {
        tracing::info!("the last change is unknown to the database now; everything was read anew");
    }
    let next = snapshot(instances, store.compiled().bounds().instance);
    tell_of_misfits(&catalog.load(), &next);
    catalog.replace(next);
    catalog.arrive(version, marks);
    tracing::debug!(catalog.version = version.number, "catalog loaded");
    Ok(())
}

/// Follows until `stop` turns true. A lost notification costs at most `poll`, a lost Postgres
/// nothing but freshness.
pub async fn follow(
    catalog: Catalog,
    store: Store,
    poll: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut follower = Follower { catalog, store, changes: None, was_up: true };
    let mut tick = interval(poll);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = tick.tick() => {}
            () = notified(&mut follower.changes) => {}
        }
        follower.catch_up().await;
    }
    if let Some(changes) = follower.changes {
        changes.close().await;
    }
}

struct Follower {
    catalog: Catalog,
    store: Store,
    /// None after every error: what was sent meanwhile is lost, hence everything is looked at anew.
    changes: Option<Changes>,
    was_up: bool,
}

impl Follower {
    async fn catch_up(&mut self) {
        let outcome = self.try_catch_up().await;
        self.catalog.note_store(outcome.is_ok());
        match (&outcome, self.was_up) {
            (Err(error), true) => {
                let cause =
                    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, error.cause = cause, "the catalog cannot be refreshed; what runs goes on");
            }
            (Ok(()), false) => tracing::info!("the catalog is fresh again"),
            _ => {}
        }
        self.was_up = outcome.is_ok();
        if outcome.is_err() {
            self.changes = None;
        }
    }

    async fn try_catch_up(&mut self) -> Result<(), StoreError> {
        if self.changes.is_none() {
            self.changes = Some(self.store.listen().await?);
        }
        let version = self.store.find_catalog_version().await?;
        match self.catalog.version() == Some(version) {
            true => self.catalog.confirm(),
            false => load(&self.catalog, &self.store).await?,
        }
        Ok(())
    }
}

/// Resolves at a notification, and when the listener's connection is lost, which may have swallowed
/// some.
async fn notified(changes: &mut Option<Changes>) {
    let Some(open) = changes else { return std::future::pending().await };
    if let Err(error) = open.next().await {
        tracing::debug!(%error, "no longer notified");
        *changes = None;
    }
}

/// Logs once why a channel counts as disabled, whatever is stored.
fn tell_of_misfits(current: &Snapshot, next: &Snapshot) {
    for (id, tenant) in &next.tenants {
        let known = current.tenants.get(id).map(|tenant| &tenant.misfits);
        for (name, misfit) in &tenant.misfits {
            if known.and_then(|known| known.get(name)) != Some(misfit) {
                tracing::warn!(instance.id = %id, channel.name = %name, "{misfit}");
            }
        }
    }
}

fn snapshot(rows: Vec<Configured>, bound: Cost) -> Snapshot {
    let tenant = |Configured { instance, channels, revocations }: Configured| {
        let channels =
            channels.into_iter().map(|channel| (channel.name.clone(), Arc::new(channel))).collect();
        let revocations = revocations.into_iter().collect();
        let tenant = Tenant::new(instance).with(channels, revocations, bound);
        (tenant.instance.id.clone(), Arc::new(tenant))
    };
    Snapshot { tenants: rows.into_iter().map(tenant).collect() }
}
