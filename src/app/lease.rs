//! Keeps the lease by which one node at a time holds the database: on a thread of its own, which no
//! tenant's work holds up.

mod keeper;
mod rules;
mod standing;

pub(super) use standing::{Held, Loss, Standing, Told};

use super::error::StartError;
use crate::config::Config;
use crate::postgres::DataLock;
use crate::store::Store;
use keeper::Keeper;
use rules::Claim;
use std::fs;
use std::io;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};

/// Where Linux tells which boot of the host this is, the same in all of its containers.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The end of the keeper that the service holds.
pub(super) struct Lease {
    standing: watch::Receiver<Standing>,
    /// Told once everything is forgotten after a loss.
    forgotten: mpsc::Sender<()>,
    /// Dropped when it is to be given back.
    end: oneshot::Sender<()>,
    /// Resolves when the keeper has ended.
    ended: oneshot::Receiver<()>,
}

impl Lease {
    /// Has it kept from now on. `kept` names the memory that the last stop kept. Errors:
    /// `StartError`, where there are no more threads.
    pub fn keep(
        config: &Config,
        store: &Store,
        lock: Option<&DataLock>,
        kept: Option<String>,
        told: Told,
    ) -> Result<Self, StartError> {
        let claim = match config.database_url {
            None => Claim::Everything,
            Some(_) => Claim::Place(lock.and_then(DataLock::name).and_then(place)),
        };
        let (sender, standing) = watch::channel(Standing::Unknown);
        let (forgotten, forgets) = mpsc::channel(1);
        let ((end, ends), (done, ended)) = (oneshot::channel(), oneshot::channel());
        let line = store.lease_line();
        let keeper = Keeper::new(line, claim, config.standby, (kept, told), (sender, forgets));
        let keep = move || -> io::Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(keeper.run(ends));
            // A name may still be looked up for a connection that nobody waits for.
            runtime.shutdown_background();
            drop(done);
            Ok(())
        };
        let run = move || {
            if let Err(error) = keep() {
                tracing::error!(%error, "the lease cannot be kept");
            }
        };
        let thread = std::thread::Builder::new().name("lease".into()).spawn(run);
        thread.map_err(StartError::because("the lease cannot be kept"))?;
        Ok(Self { standing, forgotten, end, ended })
    }

    /// How this node stands, once that is known. Errors: `StartError`, where it does not get the
    /// lease.
    pub async fn settled(&mut self) -> Result<Standing, StartError> {
        let settled = self.standing.wait_for(|standing| *standing != Standing::Unknown).await;
        settled.map_or_else(|_| Err(gone()), |standing| checked(standing.clone()))
    }

    /// How it stands after the next change. Errors: as of `settled`.
    pub async fn next(&mut self) -> Result<Standing, StartError> {
        self.standing.changed().await.map_err(|_| gone())?;
        checked(self.standing.borrow_and_update().clone())
    }

    /// The lease, while this node holds it.
    pub fn held(&self) -> Option<Held> {
        match &*self.standing.borrow() {
            Standing::Holds(held) => Some(held.clone()),
            _ => None,
        }
    }

    /// Everything is forgotten: it may be taken again.
    pub async fn forget(&self) {
        // A keeper that has ended takes nothing.
        let _ = self.forgotten.send(()).await;
    }

    /// Gives it back, or waits for it no longer; within a second or two, or not at all.
    pub async fn leave(self) {
        drop(self.end);
        drop(self.ended.await);
    }
}

fn checked(standing: Standing) -> Result<Standing, StartError> {
    match standing {
        Standing::Refused(sentence) => Err(StartError(sentence)),
        standing => Ok(standing),
    }
}

fn gone() -> StartError {
    StartError("the lease is kept no more".into())
}

/// Names a locked file for all who reach the database; none where the system does not tell.
fn place(lock: String) -> Option<String> {
    let boot = fs::read_to_string(BOOT_ID).ok()?;
    Some(format!("{} {lock}", boot.trim()))
}
