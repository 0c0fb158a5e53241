//! What one client can take from the others: nothing. Slow readers, floods, and memory.

use crate::secrets::{Herald, exchange};
use crate::support::raw::frame;
use crate::support::socket::{connect_narrow, connect_tls};
use crate::support::tokens::{Token, token};
use crate::support::{App, Options, postgres, within};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What floods send, in bytes.
const FLOOD: usize = 400 << 20;
/// How much memory a flood may take, in KiB.
const ROOM_KIB: u64 = 64 << 10;
/// Clients that read what they get.
const HEALTHY: usize = 50;
/// Bytes of a message that fills the slow client's buffers soon.
const LARGE: usize = 32 << 10;
/// So many large messages are more than all buffers on the way to the slow client hold.
const ENOUGH: usize = 100;

fn handshake(token: &str) -> Vec<u8> {
    format!(
        "GET /v1/connect?instance=main&authorization={token} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// Connects, waits for `CONNECTED`, and has little room for more.
async fn connect_slow(app: &App) -> TlsStream<TcpStream> {
    let mut stream = connect_narrow(app).await;
    stream.write_all(&handshake(&token("slow").sign())).await.expect("the server reads");
    let mut received = Vec::new();
    // The frame is one object and ends with its only brace.
    while !(received.ends_with(b"}")
        && String::from_utf8_lossy(&received).contains("\"CONNECTED\""))
    {
        let read = within("CONNECTED", stream.read_buf(&mut received)).await;
        assert!(read.is_ok_and(|bytes| bytes > 0), "the stream ended");
    }
    stream
}

#[actix_web::test]
async fn one_client_that_stops_reading_changes_nothing_for_fifty_others_and_is_gone() {
    let options = Options::default()
        .with("HERALD_SEND_BUFFER_BYTES", 16_384)
        .with("HERALD_OUTBOX_BYTES", 131_072)
        .with("HERALD_SOCKET_USER_TIMEOUT_SECONDS", 5);
    let app = App::launch(options, postgres::database().await).await;
    let rates = json!({"messagesPerSecond": 1_000, "messageBurst": 1_000, "userMessagesPerSecond": 1_000,
        "userMessageBurst": 1_000, "componentPayloadBytes": 65_536});
    app.create_instance("main", rates).await;
    let mut healthy = Vec::new();
    for number in 0..HEALTHY {
        healthy.push(app.connect(&token(&format!("healthy-{number}"))).await);
    }
    let _slow = connect_slow(&app).await;
    let mut dropped = 0;
    for number in 0..ENOUGH {
        let message = json!({"number": number, "padding": "x".repeat(LARGE)});
        let receipt = app.publish("ALL", message).await;
        let count = |name: &str| receipt[name].as_u64().expect("a count") as usize;
        assert_eq!(count("matched"), count("queued") + count("dropped"), "{receipt}");
        assert!(count("queued") >= HEALTHY && count("matched") <= HEALTHY + 1, "{receipt}");
        dropped += count("dropped");
        // Everyone has read it before the next one is sent: nobody else has reason to be slow.
        for data in join_all(healthy.iter_mut().map(|socket| socket.data())).await {
            assert_eq!(data["number"], number);
        }
        if count("matched") == HEALTHY {
            break;
        }
    }
    assert!(dropped <= 1, "{dropped} messages were dropped for one slow client");
    let admin = Token::admin("root");
    let left = async || {
        app.call("GET", "/v1/quotas", Some(&admin), None, 200).await.body["usage"]["connections"]
            .clone()
    };
    within("the end of the slow client", async { while left().await != HEALTHY {} }).await;
    let receipt = app.publish("ALL", json!("end")).await;
    assert_eq!((&receipt["matched"], &receipt["dropped"]), (&json!(HEALTHY), &json!(0)));
    assert_eq!(
        join_all(healthy.iter_mut().map(|socket| socket.data())).await,
        vec![json!("end"); HEALTHY]
    );
    assert!(app.metrics().await.contains(&format!("herald_open_connections {HEALTHY}.0\n")));
}

/// The most memory that a process ever had, in KiB.
pub fn peak_kib(id: i32) -> u64 {
    memory_kib(id, "VmHWM:")
}

/// The memory of a process, in KiB.
pub fn resident_kib(id: i32) -> u64 {
    memory_kib(id, "VmRSS:")
}

fn memory_kib(id: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("Linux counts it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Sends `head` and then `piece` until it has sent everything or the server has gone; what the
/// server said.
async fn flood(
    stream: impl AsyncRead + AsyncWrite,
    head: &[u8],
    piece: &[u8],
    tail: &[u8],
) -> Vec<u8> {
    let (mut reading, mut writing) = split(stream);
    let write = async {
        writing.write_all(head).await?;
        for _ in 0..FLOOD / piece.len() {
            writing.write_all(piece).await?;
        }
        writing.write_all(tail).await?;
        writing.flush().await
    };
    let mut said = Vec::new();
    let read = async { drop(reading.read_to_end(&mut said).await) };
    within("the end of the flood", async {
        tokio::pin!(read);
        tokio::select! {
            () = &mut read => {}
            _ = write => read.await,
        }
    })
    .await;
    said
}

/// The header of a frame of 1 GiB.
fn announced() -> Vec<u8> {
    [&[0x82, 0xFF][..], &(1u64 << 30).to_be_bytes(), &[1, 2, 3, 4]].concat()
}

/// The server's frames, which are shorter than 64 KiB: opcode and payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [first, length, ..] = bytes {
        let (length, header) = match (length, bytes) {
            (126, [_, _, high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 4),
            (length, _) => (usize::from(*length), 2),
        };
        let Some(payload) = bytes.get(header..header + length) else { break };
        found.push((first & 0x0F, payload));
        bytes = &bytes[header + length..];
    }
    found
}

fn close_code(frames: &[(u8, &[u8])]) -> Option<u16> {
    let (_, payload) = frames.iter().find(|(opcode, _)| *opcode == 8)?;
    Some(u16::from_be_bytes([*payload.first()?, *payload.get(1)?]))
}

/// The code of the close frame somewhere behind a handshake's answer.
fn close_code_behind_head(said: &[u8]) -> Option<u16> {
    let end = said.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    close_code(&frames(&said[end..]))
}

/// Sends a flood to a process of its own, whose memory is nobody else's.
async fn flooded(head: &[u8], piece: &[u8], tail: &[u8]) -> Vec<u8> {
    let herald = Herald::start(&[("DATABASE_URL", &postgres::database().await)]).await;
    herald.create_instance().await;
    // A first one, so that what every connection needs is there.
    let first = [handshake(&token("first").sign()), frame(0x88, &1_000u16.to_be_bytes())].concat();
    assert!(exchange(herald.connect().await, &first).await.contains("\"CONNECTED\""));
    let before = peak_kib(herald.id());
    let said = flood(herald.connect().await, head, piece, tail).await;
    let grown = peak_kib(herald.id()) - before;
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
    herald.stopped().await;
    said
}

#[actix_web::test]
async fn a_gigabyte_announced_and_sent_takes_no_memory() {
    let head = [handshake(&token("greedy").sign()), announced()].concat();
    let said = flooded(&head, &vec![0; 1 << 20], b"").await;
    assert_eq!(close_code_behind_head(&said), Some(1009), "{}", String::from_utf8_lossy(&said));
}

#[actix_web::test]
async fn a_message_of_endless_fragments_takes_no_memory() {
    let head = [handshake(&token("greedy").sign()), frame(0x01, &[b'x'; 1_000])].concat();
    let said = flooded(&head, &frame(0x00, &[b'x'; 1_000]).repeat(1_000), b"").await;
    assert_eq!(close_code_behind_head(&said), Some(1009), "{}", String::from_utf8_lossy(&said));
}

#[actix_web::test]
async fn a_body_of_unknown_length_is_refused_while_it_streams_and_takes_no_memory() {
    let bearer = token("greedy").component().sign();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\ninstance: main\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    let chunk = [b"10000\r\n", &[b' '; 1 << 16][..], b"\r\n"].concat();
    let said = flooded(head.as_bytes(), &chunk, b"0\r\n\r\n").await;
    let said = String::from_utf8_lossy(&said);
    let (head, body) = said.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 413"), "{said}");
    let problem: Value = serde_json::from_str(body).expect("a problem");
    assert_eq!((&problem["code"], &problem["limit"]), (&json!("BODY_TOO_LARGE"), &json!(65_536)));
}

#[actix_web::test]
async fn what_waits_is_written_before_the_close_that_a_refused_frame_brings() {
    const BACKLOG: usize = 30;
    let options = Options::default()
        .with("HERALD_SEND_BUFFER_BYTES", 16_384)
        .with("HERALD_OUTBOX_BYTES", 4 << 20);
    let app =
        App::launch(options.with("HERALD_OUTBOX_SECONDS", 60), postgres::database().await).await;
    app.create_instance("main", json!({"componentPayloadBytes": 65_536})).await;
    let mut slow = connect_slow(&app).await;
    for _ in 0..BACKLOG {
        assert_eq!(app.publish("ALL", json!("x".repeat(LARGE))).await["queued"], 1);
    }
    slow.write_all(&announced()).await.expect("the server reads");
    let mut said = Vec::new();
    drop(within("the end of the stream", slow.read_to_end(&mut said)).await);
    let frames = frames(&said);
    let messages = frames.iter().filter(|(opcode, _)| *opcode == 1).count();
    assert_eq!((messages, close_code(&frames)), (BACKLOG, Some(1009)));
}

/// Waits until the server has ended the stream; what it said.
async fn until_its_end(mut stream: impl AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    // A connection that is cut ends with an error instead.
    drop(within("the end of the stream", stream.read_to_end(&mut said)).await);
    String::from_utf8_lossy(&said).into_owned()
}

#[actix_web::test]
async fn a_refused_socket_is_gone_and_counts_no_more_even_if_its_client_never_closes() {
    let app = App::start_with(Options::default().with("HERALD_CONNECTIONS_PER_ADDRESS", 1)).await;
    for bad in [
        "nonsense".to_owned(),
        token("alice").expires_in(-3_600).sign(),
        token("alice").roles(&[]).sign(),
    ] {
        let mut stream = connect_tls(&app).await;
        within("the handshake is sent", stream.write_all(&handshake(&bad)))
            .await
            .expect("the server reads");
        let said = until_its_end(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 101") || said.starts_with("HTTP/1.1 429"), "{said}");
    }
    let alice = handshake(&token("alice").sign());
    within("a place for another socket", async {
        loop {
            let (mut stream, mut said) = (connect_tls(&app).await, Vec::new());
            stream.write_all(&alice).await.expect("the server reads");
            stream.read_buf(&mut said).await.expect("the server answers");
            match said.starts_with(b"HTTP/1.1 101") {
                true => break,
                false => {
                    assert!(said.starts_with(b"HTTP/1.1 429"), "{}", String::from_utf8_lossy(&said))
                }
            }
        }
    })
    .await;
}

#[actix_web::test]
async fn who_never_finishes_a_handshake_or_a_head_is_cut() {
    let app = App::start().await;
    let tcp = async |bytes: &'static [u8]| {
        let address = ("127.0.0.1", app.port);
        let mut stream = within("a TCP connection", TcpStream::connect(address))
            .await
            .expect("the server listens");
        stream.write_all(bytes).await.expect("the system takes it");
        assert_eq!(until_its_end(stream).await, "");
    };
    let tls = async |bytes: &'static [u8]| {
        let mut stream = connect_tls(&app).await;
        stream.write_all(bytes).await.expect("the server reads");
        let said = until_its_end(stream).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    };
    futures_util::join!(
        tcp(b""),
        tcp(b"\x16\x03\x01\x02\x00\x01"),
        tls(b""),
        tls(b"GET"),
        tls(b"GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x"),
    );
}
