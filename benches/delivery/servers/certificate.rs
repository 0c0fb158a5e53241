//! One P-256 certificate for both servers, made anew for each run, and the TLS settings that use
//! it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use crate::Outcome;

/// The name that the certificate is for and that clients connect to.
pub const SERVER_NAME: &str = "localhost";

/// A certificate's files, and the authority that clients trust.
pub struct Certificate {
    /// The chain that a server shows, PEM.
    pub chain: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authority, PEM.
    pub authority: String,
}

impl Certificate {
    /// Makes an authority and a leaf for `SERVER_NAME`, and writes the leaf and its key into
    /// `directory`.
    pub fn create(directory: &Path) -> Outcome<Self> {
        let authority_key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "delivery benchmark");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = parameters.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(parameters, authority_key);
        let leaf_key = KeyPair::generate()?;
        let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names)?.signed_by(&leaf_key, &issuer)?;
        let (chain, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
        fs::write(&chain, leaf.pem())?;
        fs::write(&key, leaf_key.serialize_pem())?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        Ok(Self { chain, key, authority })
    }

    /// TLS 1.3 for clients that trust this authority only. No resumption: every connection costs
    /// the same.
    pub fn connector(&self) -> Outcome<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes())?)?;
        let mut settings = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_root_certificates(roots)
            .with_no_client_auth();
        settings.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(settings)))
    }
}

/// The floor's side: rustls as it comes.
pub fn server_config(chain: &Path, key: &Path) -> Outcome<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?)
}
