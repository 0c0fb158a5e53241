//! A certificate for this machine only, signed by a certificate authority of its own that a
//! developer can trust.

use super::pair::{CertificateFiles, TlsError, provider, read_pair};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);
/// How long the authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3_650);
/// How long a certificate is valid; browsers refuse more than 398 days.
const LEAF_LIFE: Duration = Duration::from_hours(24 * 397);
/// A certificate that would expire sooner is replaced.
const RENEWAL: Duration = Duration::from_hours(24 * 30);
/// The hosts that the certificate is for.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// The certificate kept in the directory for `localhost`, `127.0.0.1` and `::1`, valid for another
/// 30 days at least. What is missing, broken or about to expire is made anew; the authority
/// (`ca.pem`, `ca.key`) stays as long as it can sign, so that it needs to be trusted once.
/// Processes that share the directory wait for each other. Errors: `TlsError`, when the directory
/// or a file in it cannot be written.
pub fn local_certificate(dir: &Path) -> Result<CertificateFiles, TlsError> {
    let _alone = open_directory(dir).map_err(cannot_write(dir))?;
    let authority = CertificateFiles { certificate: dir.join("ca.pem"), key: dir.join("ca.key") };
    let leaf = CertificateFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
    if !is_trusted(&leaf, &authority) {
        let kept = kept_authority(&authority)
            .map(|key| make_leaf(dir, &leaf, key, LEAF_LIFE))
            .transpose()?;
        if kept.is_none() || !is_trusted(&leaf, &authority) {
            let key = make_authority(dir, &authority)?;
            make_leaf(dir, &leaf, key, LEAF_LIFE)?;
        }
    }
    Ok(leaf)
}

/// The directory, locked until the handle is dropped. Some network file systems cannot lock one;
/// two processes that collide there make a pair that does not match, and the next start makes
/// another.
fn open_directory(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let directory = File::open(dir)?;
    let _ = directory.lock();
    Ok(directory)
}

/// Whether a client that trusts the authority accepts the certificate now and until its renewal.
fn is_trusted(leaf: &CertificateFiles, authority: &CertificateFiles) -> bool {
    let mut roots = RootCertStore::empty();
    let Ok(root) = CertificateDer::from_pem_file(&authority.certificate) else { return false };
    let Ok(()) = roots.add(root) else { return false };
    let Ok(pair) = read_pair(leaf) else { return false };
    let Ok(verifier) =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()
    else {
        return false;
    };
    let now = UnixTime::now();
    let renewal = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + RENEWAL);
    HOSTS.into_iter().flat_map(|host| [(host, now), (host, renewal)]).all(|(host, time)| {
        let Ok(name) = ServerName::try_from(host) else { return false };
        verifier.verify_server_cert(&pair.cert[0], &pair.cert[1..], &name, &[], time).is_ok()
    })
}

fn kept_authority(authority: &CertificateFiles) -> Option<KeyPair> {
    read_pair(authority).ok()?;
    KeyPair::from_pem(&fs::read_to_string(&authority.key).ok()?).ok()
}

fn make_authority(dir: &Path, files: &CertificateFiles) -> Result<KeyPair, TlsError> {
    let key = new_key().map_err(cannot_make(dir))?;
    let certificate = authority_params().self_signed(&key).map_err(cannot_make(dir))?;
    write(&files.key, PRIVATE, &key.serialize_pem())?;
    write(&files.certificate, PUBLIC, &certificate.pem())?;
    Ok(key)
}

fn make_leaf(
    dir: &Path,
    files: &CertificateFiles,
    authority: KeyPair,
    life: Duration,
) -> Result<(), TlsError> {
    let key = new_key().map_err(cannot_make(dir))?;
    let issuer = Issuer::new(authority_params(), authority);
    let params = leaf_params(life).map_err(cannot_make(dir))?;
    let certificate = params.signed_by(&key, &issuer).map_err(cannot_make(dir))?;
    write(&files.key, PRIVATE, &key.serialize_pem())?;
    write(&files.certificate, PUBLIC, &certificate.pem())
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// An authority that can vouch for nothing but this machine, should its key ever leak.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Herald local CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(Ipv4Addr::LOCALHOST.octets(), 32)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(
                Ipv6Addr::LOCALHOST.octets(),
                128,
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    set_validity(&mut params, AUTHORITY_LIFE);
    params
}

fn leaf_params(life: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(HOSTS.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, life);
    Ok(params)
}

/// From a day ago, for clocks that are behind.
fn set_validity(params: &mut CertificateParams, life: Duration) {
    params.not_before =
        date_time_ymd(1970, 1, 1) + Duration::from_secs(UnixTime::now().as_secs()) - DAY;
    params.not_after = params.not_before + life;
}

/// Replaces the file as a whole, so that no reader sees half of it.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), TlsError> {
    let draft = path.with_added_extension("new");
    let replace = || {
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    replace().map_err(cannot_write(path))
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    move |source| TlsError::Write { path: path.to_owned(), source }
}

fn cannot_make(dir: &Path) -> impl FnOnce(rcgen::Error) -> TlsError {
    move |source| TlsError::Make { directory: dir.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_that_is_about_to_expire_is_made_anew_under_the_same_authority() {
        let dir = tempfile::TempDir::new().unwrap();
        let dir = dir.path();
        let leaf = local_certificate(dir).unwrap();
        let authority =
            CertificateFiles { certificate: dir.join("ca.pem"), key: dir.join("ca.key") };
        for (life, kept) in [(RENEWAL + 2 * DAY, true), (RENEWAL, false)] {
            make_leaf(dir, &leaf, kept_authority(&authority).unwrap(), life).unwrap();
            let before = [&leaf, &authority].map(|files| fs::read(&files.certificate).unwrap());
            local_certificate(dir).unwrap();
            let after = [&leaf, &authority].map(|files| fs::read(&files.certificate).unwrap());
            assert_eq!((before[0] == after[0], before[1] == after[1]), (kept, true));
        }
    }
}
