//! Reads again, when asked, what may change under a running service: the certificate, the keys that
//! tokens are verified with, the database's URL.

use super::database::connect_options;
use super::error::StartError;
use super::signing_in::{Missing, auth_settings};
use crate::auth::{AuthSettings, Authenticator};
use crate::config::{Config, SecretSource};
use crate::relay::Relay;
use crate::store::Store;
use crate::tls::Certificates;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

/// What is read again, and for whom.
pub(super) struct Reload {
    /// Names the files.
    pub config: Config,
    /// Of the client listener.
    pub certificates: Certificates,
    /// Verifies tokens.
    pub authenticator: Authenticator,
    /// Closes the connections of keys that are gone.
    pub relay: Relay,
    /// Connects to the database.
    pub store: Store,
}

impl Reload {
    /// Reads everything again at each wish, until `stopped` turns true. What cannot be read stays
    /// as it was, and is logged.
    pub async fn when_asked(
        self,
        mut wishes: mpsc::Receiver<()>,
        mut stopped: watch::Receiver<bool>,
    ) {
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                wish = wishes.recv() => if wish.is_none() { return },
            }
            tracing::info!("asked to read certificate and keys again");
            self.certificates.reload_now().await;
            if let Err(error) = self.reload_keys().await {
                tracing::warn!(%error, "the signing keys cannot be read again; the old ones stay in use");
            }
            if let Some(source @ SecretSource::File(_)) = &self.config.database_url
                && let Err(error) = self.reload_database(source).await
            {
                tracing::warn!(%error, "the database's URL cannot be read again; the old one stays in use");
            }
        }
    }

    async fn reload_keys(&self) -> Result<(), StartError> {
        let (signing_in, data_dir) = (self.config.signing_in.clone(), self.config.data_dir.clone());
        let read = move || auth_settings(&signing_in, &data_dir, Missing::TakesTheKeyAway);
        let settings: AuthSettings = off_the_thread(read).await?;
        let change = self.authenticator.replace_keys(&settings);
        let change = change.map_err(StartError::because("signing in cannot go on with them"))?;
        if change.gone > 0 {
            self.relay.recheck();
        }
        tracing::info!(
            keys.count = change.keys,
            keys.new = change.new,
            keys.gone = change.gone,
            "the signing keys were read again"
        );
        Ok(())
    }

    /// Connections that are open stay; new ones are made by the new URL.
    async fn reload_database(&self, source: &SecretSource) -> Result<(), StartError> {
        let source = source.clone();
        let options = off_the_thread(move || connect_options(&source)).await?;
        self.store.connect_by(options);
        tracing::info!("the database's URL was read again");
        Ok(())
    }
}

/// Reads files where nobody waits for the disk.
async fn off_the_thread<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let read = spawn_blocking(read).await;
    read.map_err(StartError::because("reading was broken off"))?
}
