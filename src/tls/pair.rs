//! A certificate chain and its private key in files: read, and checked to belong together.

use rustls::InconsistentKeys;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a certificate chain and its private key are, both in PEM.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The chain, the service's own certificate first.
    pub certificate: PathBuf,
    /// The private key of the first certificate: PKCS #8, SEC 1 or PKCS #1, not encrypted.
    pub key: PathBuf,
}

/// Why a certificate cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be opened or read.
    #[error("the {what} in {path} cannot be read")]
    Read {
        /// Certificate or private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else. There is no source because the parser's error quotes the file,
    /// key and all.
    #[error("{path} does not hold a {what} in well-formed PEM")]
    NotPem {
        /// Certificate or private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A file holds PEM that rustls does not accept.
    #[error("the {what} in {path} cannot be used")]
    Unusable {
        /// Certificate or private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The two files do not form a pair.
    #[error("the private key in {key} does not belong to the certificate in {certificate}")]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// A local certificate, or the directory for it, cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A local certificate cannot be made.
    #[error("a local certificate for {directory} cannot be made")]
    Make {
        /// Where it would be kept.
        directory: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// rustls refuses the settings.
    #[error("the TLS settings cannot be used")]
    Settings(#[source] rustls::Error),
}

/// Reads the chain and the key and checks that they belong together.
pub(super) fn read_pair(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let CertificateFiles { certificate, key } = files;
    let read = |what, path: &Path| {
        let path = path.to_owned();
        move |error| match error {
            pem::Error::Io(source) => TlsError::Read { what, path, source },
            _ => TlsError::NotPem { what, path },
        }
    };
    let unusable = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Unusable { what, path, source }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .and_then(
            |chain: Vec<_>| {
                if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) }
            },
        )
        .map_err(read("certificate", certificate))?;
    let der = PrivateKeyDer::from_pem_file(key).map_err(read("private key", key))?;
    let signing =
        provider().key_provider.load_private_key(der).map_err(unusable("private key", key))?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() })
        }
        Err(source) => Err(unusable("certificate", certificate)(source)),
    }
}

/// The cryptography of all TLS here.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
