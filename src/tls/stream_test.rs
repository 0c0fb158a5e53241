//! What a TLS stream promises, against tokio-rustls on the client's side and over real sockets.

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::io;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Both ends of a socket.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

struct Pair {
    server: TlsStream,
    client: ClientStream<TcpStream>,
    _dir: TempDir,
}

async fn accept(mut stream: TlsStream) -> io::Result<TlsStream> {
    while stream.is_handshaking() {
        stream.readable().await?;
        let advanced = stream.advance();
        stream.flush().await?;
        advanced?;
    }
    Ok(stream)
}

async fn pair(version: &'static SupportedProtocolVersion) -> Pair {
    let dir = TempDir::new().unwrap();
    let certificates = Certificates::open(local_certificate(dir.path()).unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.path().join("ca.pem")).unwrap()).unwrap();
    let config =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let connector =
        TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let (client, server) = sockets().await;
    let config = Arc::new(certificates.server_config().unwrap());
    let server = TlsStream::new(server, config, Scratch::default()).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let (server, client) = tokio::join!(accept(server), connector.connect(name, client));
    Pair { server: server.unwrap(), client: client.unwrap(), _dir: dir }
}

#[tokio::test]
async fn both_versions_carry_bytes_both_ways_and_hold_no_buffer_between_them() {
    for version in VERSIONS {
        let Pair { mut server, mut client, _dir } = pair(version).await;
        let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        for length in [1, 2, 16_383, 16_384, 16_385, sent.len()] {
            let mut heard = vec![0; length];
            let (written, read) = tokio::join!(
                async {
                    server.write_all(&sent[..length]).await?;
                    server.flush().await.map(|()| 0)
                },
                client.read_exact(&mut heard)
            );
            written.and(read).unwrap();
            assert!(heard == sent[..length], "{length} bytes to the client");
            let (written, read) = tokio::join!(
                async {
                    client.write_all(&sent[..length]).await?;
                    client.flush().await.map(|()| 0)
                },
                server.read_exact(&mut heard)
            );
            written.and(read).unwrap();
            assert!(heard == sent[..length], "{length} bytes to the server");
            assert_eq!(server.held_bytes(), 0, "after {length} bytes");
        }
    }
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_kept_and_no_more_is_taken_until_it_is_gone() {
    let Pair { mut server, mut client, _dir } = pair(&TLS13).await;
    let block = vec![7; 64 * 1_024];
    let mut sent = 0;
    // The client reads nothing: the kernel's buffers fill.
    while let Ok(written) =
        tokio::time::timeout(std::time::Duration::from_millis(200), server.write(&block)).await
    {
        sent += written.unwrap();
    }
    assert!(
        (1..=66 * 1_024).contains(&server.held_bytes()),
        "{} bytes are held",
        server.held_bytes()
    );
    let mut heard = vec![0; sent];
    let (flushed, read) = tokio::join!(server.flush(), client.read_exact(&mut heard));
    flushed.and(read.map(drop)).unwrap();
    assert!(heard.iter().all(|byte| *byte == 7));
    assert_eq!(server.held_bytes(), 0);
}

#[tokio::test]
async fn the_end_is_told_both_ways() {
    for version in VERSIONS {
        let Pair { mut server, mut client, _dir } = pair(version).await;
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last words");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        heard.clear();
        // Without close_notify this would be an error.
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"answer");
    }
}

#[tokio::test]
async fn what_is_no_tls_is_answered_with_an_alert() {
    let dir = TempDir::new().unwrap();
    let certificates = Certificates::open(local_certificate(dir.path()).unwrap()).unwrap();
    let (mut client, server) = sockets().await;
    let server =
        TlsStream::new(server, Arc::new(certificates.server_config().unwrap()), Scratch::default())
            .unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let error = accept(server).await.err().expect("no handshake");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    // A fatal alert (RFC 8446 section 6).
    assert_eq!((heard.first(), heard.get(5)), (Some(&21), Some(&2)), "{heard:?}");
}

#[tokio::test]
async fn a_handshake_message_without_an_end_is_cut() {
    let dir = TempDir::new().unwrap();
    let certificates = Certificates::open(local_certificate(dir.path()).unwrap()).unwrap();
    let (mut client, server) = sockets().await;
    let server =
        TlsStream::new(server, Arc::new(certificates.server_config().unwrap()), Scratch::default())
            .unwrap();
    let flooding = tokio::spawn(async move {
        // A ClientHello of 16,000,000 bytes in records of 16 KiB (RFC 8446 sections 4 and 5.1).
        let mut record = vec![0x16, 3, 3, 0x40, 0];
        record.extend([1, 0xf4, 0x24, 0]);
        record.resize(5 + 0x4000, 0);
        while client.write_all(&record).await.is_ok() {}
    });
    assert!(accept(server).await.is_err());
    flooding.await.unwrap();
}
