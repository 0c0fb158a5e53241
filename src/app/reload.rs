//! Reads again, when asked, what may change under a running service: the certificate.

use crate::tls::Certificates;
use tokio::sync::{mpsc, watch};

/// What is read again.
pub(super) struct Reload {
    /// Of the client listener.
    pub certificates: Certificates,
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
        }
    }
}
