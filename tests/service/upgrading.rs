//! From a TCP connection to a socket: handshakes that stop half-way, upgrades that are none,
//! sockets that will not end.

use crate::support::socket::{Handshake, connect_narrow, connect_tls};
use crate::support::tokens::{Token, token};
use crate::support::{App, Options, postgres, within};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The first 80 bytes of a TLS record that says to have 512, with the beginning of a ClientHello
/// (RFC 8446 section 4.1.2).
fn half_a_hello() -> Vec<u8> {
    let mut bytes = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    bytes.resize(80, 7);
    bytes
}

#[actix_web::test]
async fn handshakes_that_stop_half_way_keep_nobody_waiting_and_are_cut() {
    let app = App::start_with(Options::default().with("HERALD_HANDSHAKES", 400)).await;
    let mut stopped = Vec::new();
    for number in 0..300 {
        let mut socket = TcpStream::connect(("127.0.0.1", app.port)).await.expect("a connection");
        if number % 2 == 0 {
            socket.write_all(&half_a_hello()).await.expect("a socket that takes some bytes");
        }
        stopped.push(socket);
    }
    let mut socket = app.connect(&token("a")).await;
    app.publish("ALL", json!("hello")).await;
    assert_eq!(socket.data().await, "hello");
    for mut socket in stopped {
        let mut rest = Vec::new();
        // The end of the stream or a reset: both are an end.
        let _how = within("the end of a handshake", socket.read_to_end(&mut rest)).await;
    }
    assert_eq!(app.publish("ALL", json!("still there")).await["queued"], 1);
}

/// What a request is answered whose connection ends with it.
async fn answered(app: &App, request: &str) -> String {
    let mut stream = connect_tls(app).await;
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut answer = Vec::new();
    within("the end of the answer", stream.read_to_end(&mut answer)).await.expect("an orderly end");
    String::from_utf8(answer).expect("text")
}

#[actix_web::test]
async fn a_request_for_an_upgrade_where_there_is_none_is_answered_whole_and_its_connection_ends() {
    let app = App::start().await;
    let (reader, admin) = (token("a").sign(), Token::admin("root").sign());
    for (line, bearer, status, text) in [
        ("GET /healthz", &reader, "200 OK", "alive"),
        ("GET /nowhere", &reader, "404 Not Found", "NOT_FOUND"),
        ("GET /v1/channels", &admin, "200 OK", "\"items\":[]"),
        ("GET /v1/channels", &reader, "403 Forbidden", "ROLE_REQUIRED"),
        ("HEAD /healthz", &reader, "404 Not Found", ""),
    ] {
        let request = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\ninstance: main\r\n\
             Authorization: Bearer {bearer}\r\n\r\n"
        );
        let answer = answered(&app, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {answer}");
        assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{line}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(body.contains(text), "{line}: {answer}");
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        assert!(line.starts_with("HEAD") || length == Some(body.len()), "{line}: {answer}");
    }
}

#[actix_web::test]
async fn a_stream_that_asks_for_an_upgrade_too_is_a_stream() {
    let app = App::start().await;
    let mut stream = connect_tls(&app).await;
    let request = format!(
        "GET /v1/stream?instance=main HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Authorization: Bearer {}\r\n\r\n",
        token("a").sign()
    );
    stream.write_all(request.as_bytes()).await.expect("the server reads");
    let mut heard = String::new();
    let mut read = async |until: &str| {
        while !heard.contains(until) {
            let mut bytes = [0; 4_096];
            let length = within(until, stream.read(&mut bytes)).await.expect("the stream goes on");
            assert!(length > 0, "{heard}");
            heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    read("event: CONNECTED").await;
    app.publish("ALL", json!("for streams")).await;
    read("for streams").await;
}

#[actix_web::test]
async fn bytes_behind_the_handshake_are_the_sockets_first() {
    let app = App::start().await;
    let mut stream = connect_tls(&app).await;
    let request = format!(
        "GET /?instance=main HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {}\r\n\r\n",
        token("a").sign()
    );
    // A ping without a body, masked with zeros, in the same write.
    let bytes = [request.as_bytes(), &[0x89, 0x80, 0, 0, 0, 0]].concat();
    stream.write_all(&bytes).await.expect("the server reads");
    let mut heard = Vec::new();
    while !heard.ends_with(&[0x8a, 0]) {
        let mut bytes = [0; 4_096];
        let length = within("CONNECTED and a pong", stream.read(&mut bytes))
            .await
            .expect("the socket goes on");
        assert!(length > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&bytes[..length]);
    }
    assert!(String::from_utf8_lossy(&heard).contains(r#"{"type":"CONNECTED""#));
}

#[actix_web::test]
async fn a_socket_that_is_told_to_go_and_reads_nothing_is_cut() {
    let options = Options::default()
        .with("HERALD_SEND_BUFFER_BYTES", 16_384)
        .with("HERALD_OUTBOX_BYTES", 1 << 20)
        .with("HERALD_OUTBOX_SECONDS", 2)
        .with("HERALD_SOCKET_USER_TIMEOUT_SECONDS", 300);
    let app = App::launch(options, postgres::database().await).await;
    app.create_instance("main", json!({"componentPayloadBytes": 65_536})).await;
    let path = format!("/?authorization={}&instance=main", token("slow").sign());
    let opened = Handshake::new(&app, &path).send_over(connect_narrow(&app).await).await;
    let _slow = opened.unwrap_or_else(|answer| panic!("refused: {answer:?}")).welcomed().await;
    for _ in 0..20 {
        app.publish("ALL", json!("x".repeat(32 << 10))).await;
    }
    let admin = Token::admin("root");
    let gone = app.call("DELETE", "/v1/connections?user=slow", Some(&admin), None, 200).await;
    assert_eq!(gone.body["disconnected"], 1);
    while app.call("GET", "/v1/quotas", Some(&admin), None, 200).await.body["usage"]["connections"]
        != 0
    {
        tokio::task::yield_now().await;
    }
}
