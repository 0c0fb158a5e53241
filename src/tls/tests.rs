//! What the certificate promises to clients, over handshakes in memory.

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

fn authority(dir: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()
}

/// A client that trusts the authority kept in the directory.
fn client(dir: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority(dir)).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Shakes hands and returns the certificate that the client was shown.
fn shake_hands(
    client: Arc<ClientConfig>,
    server: ServerConfig,
    host: &'static str,
) -> Result<CertificateDer<'static>, rustls::Error> {
    let mut client = ClientConnection::new(client, ServerName::try_from(host).unwrap())?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(client.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Puts the pair of one directory in place of the other's.
fn copy_pair(from: &TempDir, to: &TempDir) {
    for name in ["cert.pem", "key.pem"] {
        fs::copy(from.path().join(name), to.path().join(name)).unwrap();
    }
}

fn opened() -> (TempDir, Certificates) {
    let dir = TempDir::new().unwrap();
    let certificates = Certificates::open(local_certificate(dir.path()).unwrap()).unwrap();
    (dir, certificates)
}

#[test]
fn a_local_certificate_is_kept() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("made/on/demand");
    let files = local_certificate(&dir).unwrap();
    let names = ["ca.pem", "ca.key", "cert.pem", "key.pem"];
    let first = names.map(|name| fs::read(dir.join(name)).unwrap());
    local_certificate(&dir).unwrap();
    assert_eq!(names.map(|name| fs::read(dir.join(name)).unwrap()), first);
    assert_eq!(files.certificate, dir.join("cert.pem"));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), names.len());
}

#[test]
fn only_the_owner_reads_the_keys() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("tls");
    local_certificate(&dir).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("key.pem")), 0o600);
    assert_eq!(mode(&dir.join("ca.key")), 0o600);
}

#[test]
fn a_broken_leaf_is_made_anew_under_the_same_authority() {
    let dir = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    local_certificate(dir.path()).unwrap();
    local_certificate(other.path()).unwrap();
    let before = authority(dir.path());
    fs::write(dir.path().join("cert.pem"), "half").unwrap();
    let files = local_certificate(dir.path()).unwrap();
    copy_pair(&other, &dir);
    local_certificate(dir.path()).unwrap();
    fs::remove_file(&files.key).unwrap();
    let certificates = Certificates::open(local_certificate(dir.path()).unwrap()).unwrap();
    assert_eq!(authority(dir.path()), before);
    shake_hands(client(dir.path()), certificates.server_config().unwrap(), "localhost").unwrap();
}

#[test]
fn a_broken_authority_is_made_anew() {
    let (dir, _) = opened();
    let other = opened().0;
    fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    fs::remove_file(dir.path().join("key.pem")).unwrap();
    let certificates = Certificates::open(local_certificate(dir.path()).unwrap()).unwrap();
    shake_hands(client(dir.path()), certificates.server_config().unwrap(), "localhost").unwrap();
}

#[test]
fn a_client_that_trusts_the_authority_connects_to_this_machine_only() {
    let (dir, certificates) = opened();
    for host in ["localhost", "127.0.0.1", "::1"] {
        shake_hands(client(dir.path()), certificates.server_config().unwrap(), host).unwrap();
    }
    shake_hands(client(dir.path()), certificates.server_config().unwrap(), "example.com")
        .unwrap_err();
    let stranger = opened().0;
    shake_hands(client(stranger.path()), certificates.server_config().unwrap(), "localhost")
        .unwrap_err();
}

#[test]
fn a_reload_gives_new_handshakes_the_new_certificate() {
    let (dir, certificates) = opened();
    let config = certificates.server_config().unwrap();
    assert!(!certificates.reload().unwrap());
    let other = opened().0;
    copy_pair(&other, &dir);
    assert!(certificates.reload().unwrap());
    assert!(!certificates.reload().unwrap());
    shake_hands(client(other.path()), config, "localhost").unwrap();
}

#[test]
fn a_pair_that_does_not_match_is_refused_and_the_old_one_stays() {
    let (dir, certificates) = opened();
    let config = certificates.server_config().unwrap();
    let before = shake_hands(client(dir.path()), config.clone(), "localhost").unwrap();
    let other = opened().0;
    fs::copy(other.path().join("key.pem"), dir.path().join("key.pem")).unwrap();
    let error = certificates.reload().unwrap_err();
    assert!(matches!(&error, TlsError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("key.pem"), "{error}");
    Certificates::open(certificates.files.clone()).unwrap_err();
    fs::write(dir.path().join("cert.pem"), "").unwrap();
    assert!(matches!(certificates.reload().unwrap_err(), TlsError::NotPem { .. }));
    assert_eq!(shake_hands(client(dir.path()), config, "localhost").unwrap(), before);
}

#[test]
fn an_error_quotes_no_key() {
    let (dir, certificates) = opened();
    let path = dir.path().join("key.pem");
    let key = fs::read_to_string(&path).unwrap();
    for broken in [
        key.replace('\n', ""),
        key.replace('\n', "\\n"),
        key.replace("-----END", "-----"),
        key.replace('M', "?"),
    ] {
        fs::write(&path, &broken).unwrap();
        let error = certificates.reload().unwrap_err();
        let text = format!("{} {error:?}", chain(&error));
        let quoted = format!("{:?}", &broken.as_bytes()[40..50]);
        assert!(
            !text.contains(&broken[40..50]) && !text.contains(quoted.trim_matches(['[', ']'])),
            "{text}"
        );
    }
}

#[test]
fn debug_output_holds_no_key() {
    let (dir, certificates) = opened();
    let key = PrivateKeyDer::from_pem_file(dir.path().join("key.pem")).unwrap();
    let secret = format!("{:?}", &key.secret_der()[36..52]);
    let text = format!("{certificates:?}");
    assert!(!text.contains(secret.trim_matches(['[', ']'])), "{text}");
}

#[tokio::test]
async fn a_watch_follows_the_files_until_it_is_stopped() {
    let (dir, certificates) = opened();
    let config = certificates.server_config().unwrap();
    let (stop, stopped) = watch::channel(false);
    let watching = tokio::spawn(certificates.clone().watch(Duration::from_millis(5), stopped));
    let other = opened().0;
    copy_pair(&other, &dir);
    let followed = async {
        while shake_hands(client(other.path()), config.clone(), "localhost").is_err() {
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
        watching.await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(10), followed).await.unwrap();
}
