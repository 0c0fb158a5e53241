//! The service's certificate: read from files, followed when they change, or made locally for
//! development.

mod local;
mod pair;
mod records;
mod stream;

pub use local::local_certificate;
pub use pair::{CertificateFiles, TlsError};
pub use stream::{Scratch, TlsStream};

use arc_swap::ArcSwap;
use pair::{provider, read_pair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// A certificate that new handshakes use and that can change under way; clones share it.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Read again at every reload.
    files: CertificateFiles,
    /// Read by every handshake, replaced by a reload.
    current: Arc<Current>,
}

/// The pair that handshakes are answered with.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificates {
    /// Reads the chain and the key and checks that they belong together.
    /// Errors: `TlsError`, naming the file that is missing or broken.
    pub fn open(files: CertificateFiles) -> Result<Self, TlsError> {
        let pair = read_pair(&files)?;
        Ok(Self { files, current: Arc::new(Current(ArcSwap::from_pointee(pair))) })
    }

    /// TLS 1.2 and 1.3 with the current certificate of every moment. Sessions resume from tickets
    /// that the client keeps, so the server holds nothing for them. ALPN offers `http/1.1` alone,
    /// which WebSocket needs. Errors: `TlsError::Settings`.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Settings)?
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Settings)?;
        config.send_tls13_tickets = 1;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Reads the files again; true if the chain changed. Files that are missing, half-written or
    /// not a pair leave the old certificate in use. Errors: `TlsError`, as for `open`.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let pair = read_pair(&self.files)?;
        let changed = pair.cert != self.current.0.load().cert;
        if changed {
            self.current.0.store(Arc::new(pair));
        }
        Ok(changed)
    }

    /// Reloads once, and logs the outcome whatever it is.
    pub async fn reload_now(&self) {
        let certificates = self.clone();
        let Ok(outcome) = spawn_blocking(move || certificates.reload()).await else { return };
        let asked_for = outcome.is_ok().then(String::new);
        self.report(outcome, asked_for);
    }

    /// Reloads at every interval until `stop` turns true or its sender is gone. Logs each change,
    /// and each new failure once.
    pub async fn watch(self, every: Duration, mut stop: watch::Receiver<bool>) {
        let mut failure = None;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stopped| *stopped) => return,
                () = sleep(every) => {}
            }
            let certificates = self.clone();
            let Ok(outcome) = spawn_blocking(move || certificates.reload()).await else { return };
            failure = self.report(outcome, failure);
        }
    }

    /// Logs what is new since the last failure, and returns the present one.
    fn report(&self, outcome: Result<bool, TlsError>, last: Option<String>) -> Option<String> {
        let file = self.files.certificate.display();
        match outcome {
            Ok(changed) => {
                if changed || last.is_some() {
                    tracing::info!(tls.certificate = %file, tls.changed = changed, "the TLS certificate was read again");
                }
                None
            }
            Err(error) => {
                let failure = chain(&error);
                if last.as_ref() != Some(&failure) {
                    tracing::warn!(
                        tls.certificate = %file, error = failure,
                        "the TLS certificate cannot be read again; the old one stays in use"
                    );
                }
                Some(failure)
            }
        }
    }
}

fn chain(error: &TlsError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod stream_test;
