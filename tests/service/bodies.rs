//! What unfinished request bodies may take: time, and memory of an address, an instance, the
//! process.

use crate::bounds::{peak_kib, resident_kib};
use crate::secrets::Herald;
use crate::support::socket::connect_tls;
use crate::support::tokens::token;
use crate::support::{App, Options, postgres, within};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Most bytes of a batch, by default.
const BATCH: usize = 1 << 20;
/// Clients that never finish their batch.
const CLIENTS: usize = 300;
/// How much memory they may take together, in KiB.
const ROOM_KIB: u64 = 80 << 10;
/// The smallest bound.
const LEAST: usize = 64 << 10;

/// The head of a batch, and the beginning of its body.
fn begun(instance: &str, announced: usize, sent: usize) -> Vec<u8> {
    let bearer = token("publisher").component().instances(&["*"]).sign();
    let head = format!(
        "POST /v1/messages/batch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\n\
         instance: {instance}\r\ncontent-type: application/json\r\ncontent-length: {announced}\r\n\r\n"
    );
    [head.as_bytes(), &vec![b' '; sent]].concat()
}

/// The answer that ends the connection: its head, and its body as JSON.
async fn answer(mut stream: impl AsyncRead + Unpin) -> (String, Value) {
    let mut said = Vec::new();
    // A client that still writes may be told by a reset.
    drop(within("the end of the stream", stream.read_to_end(&mut said)).await);
    let said = String::from_utf8_lossy(&said).into_owned();
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {said}"));
    (head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).expect("a status")
}

/// Connects from this address of the machine's own.
async fn connect_from(app: &App, address: [u8; 4]) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("all of 127.0.0.0/8 is ours");
    let tcp = socket.connect(([127, 0, 0, 1], app.port).into()).await.expect("the server listens");
    let tls = TlsConnector::from(app.tls.clone());
    within("a TLS session", tls.connect("localhost".try_into().expect("a name"), tcp))
        .await
        .expect("the certificate is trusted")
}

/// Waits until unfinished bodies hold so many bytes.
async fn until_held(app: &App, bytes: usize) {
    let line = format!("herald_unfinished_request_bytes {bytes}.0\n");
    within("the bytes are held", async { while !app.metrics().await.contains(&line) {} }).await;
}

/// A server with bounds of so many bodies of the largest size, and the instances `main` and `side`.
async fn app(process: usize, instance: usize, address: usize) -> App {
    let options = Options::default()
        .with("HERALD_BODY_BYTES", LEAST)
        .with("HERALD_BATCH_BODY_BYTES", LEAST)
        .with("HERALD_UNFINISHED_BYTES", process * LEAST)
        .with("HERALD_UNFINISHED_INSTANCE_BYTES", instance * LEAST)
        .with("HERALD_UNFINISHED_ADDRESS_BYTES", address * LEAST);
    let app = App::start_with(options).await;
    app.create_instance("side", json!({})).await;
    app
}

/// Sends all of a body but its last byte, so that it holds all that it ever will.
async fn hold(app: &App, address: [u8; 4], instance: &str) -> TlsStream<TcpStream> {
    let mut stream = connect_from(app, address).await;
    let sent = stream.write_all(&begun(instance, LEAST, LEAST - 1)).await;
    sent.and(stream.flush().await).expect("the server reads");
    stream
}

/// Tries to send as much and reads what it is told.
async fn refused(app: &App, address: [u8; 4], instance: &str) -> (String, Value) {
    answer(hold(app, address, instance).await).await
}

#[actix_web::test]
async fn a_body_that_stops_coming_is_408_and_its_connection_ends() {
    let app = App::start_with(Options::default().with("HERALD_REQUEST_SECONDS", 1)).await;
    for sent in [0, 10, 40_000] {
        let mut stream = connect_tls(&app).await;
        stream.write_all(&begun("main", 500_000, sent)).await.expect("the server reads");
        let (head, problem) = answer(stream).await;
        assert_eq!((status(&head), &problem["code"]), ("408", &json!("REQUEST_TIMEOUT")), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        until_held(&app, 0).await;
    }
}

#[actix_web::test]
async fn a_body_that_keeps_its_least_rate_is_taken() {
    let app = App::start_with(
        Options::default()
            .with("HERALD_REQUEST_SECONDS", 1)
            .with("HERALD_BODY_BYTES_PER_SECOND", 1_000),
    )
    .await;
    let body = json!({"messages": [{"channel": "ALL", "message": 1}]}).to_string();
    let length = 9_000 + body.len();
    let mut slow = connect_tls(&app).await;
    slow.write_all(&begun("main", length, 9_000)).await.expect("the server reads");
    // Meanwhile another is cut: the grace is over, and what it sent has not earned it more.
    let mut slower = connect_tls(&app).await;
    slower.write_all(&begun("main", length, 100)).await.expect("the server reads");
    assert_eq!(status(&answer(slower).await.0), "408");
    slow.write_all(body.as_bytes()).await.expect("the server reads");
    let mut said = [0; 12];
    within("the answer", slow.read_exact(&mut said)).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&said), "HTTP/1.1 200");
}

#[actix_web::test]
async fn what_an_address_may_hold_is_429_beyond_and_others_go_on() {
    let app = app(16, 8, 2).await;
    let first = hold(&app, [127, 0, 0, 2], "main").await;
    let _second = hold(&app, [127, 0, 0, 2], "main").await;
    until_held(&app, 2 * LEAST).await;
    let (head, problem) = refused(&app, [127, 0, 0, 2], "main").await;
    assert_eq!((status(&head), &problem["code"]), ("429", &json!("RATE_LIMITED")), "{head}");
    assert_eq!((&problem["limit"], &problem["retryAfterSeconds"]), (&json!(2 * LEAST), &json!(1)));
    assert!(head.contains("retry-after: 1"), "{head}");
    until_held(&app, 2 * LEAST).await;
    let _third = hold(&app, [127, 0, 0, 3], "main").await;
    until_held(&app, 3 * LEAST).await;
    drop(first);
    until_held(&app, 2 * LEAST).await;
    let _fourth = hold(&app, [127, 0, 0, 2], "main").await;
    until_held(&app, 3 * LEAST).await;
}

#[actix_web::test]
async fn what_an_instance_and_the_process_may_hold_is_503_beyond_and_others_go_on() {
    let app = app(7, 3, 1).await;
    let from = |number| [127, 0, 1, number];
    let main = join_all((1..=3).map(|number| hold(&app, from(number), "main"))).await;
    until_held(&app, 3 * LEAST).await;
    let (head, problem) = refused(&app, from(9), "main").await;
    assert_eq!((status(&head), &problem["code"]), ("503", &json!("OVERLOADED")), "{head}");
    assert!(problem["limit"] == 3 * LEAST && head.contains("retry-after: 1"), "{head}");
    let _side = join_all((4..=5).map(|number| hold(&app, from(number), "side"))).await;
    until_held(&app, 5 * LEAST).await;
    // With a third, an instance would hold as much as it leaves free for others.
    let (head, problem) = refused(&app, from(6), "side").await;
    assert_eq!((status(&head), &problem["code"]), ("503", &json!("OVERLOADED")), "{head}");
    assert_eq!(problem["limit"], 7 * LEAST, "{problem}");
    app.create_instance("late", json!({})).await;
    let _late = hold(&app, from(7), "late").await;
    until_held(&app, 6 * LEAST).await;
    // What comes whole with its head holds nothing, and is taken as ever.
    assert_eq!(app.publish("ALL", json!("small")).await["matched"], 0);
    drop(main);
    until_held(&app, 3 * LEAST).await;
}

#[actix_web::test]
async fn three_hundred_unfinished_batches_take_no_more_than_their_bound() {
    let database = postgres::database().await;
    let variables =
        [("DATABASE_URL", database.as_str()), ("HERALD_CONNECTS_PER_ADDRESS_PER_SECOND", "100000")];
    let herald = Herald::start(&variables).await;
    herald.create_instance().await;
    let before = resident_kib(herald.id());
    let request = begun("main", BATCH, BATCH - 1);
    let mut streams = Vec::new();
    let mut refused = 0;
    for _ in 0..CLIENTS {
        let mut stream = herald.connect().await;
        // Who is refused is told so while it still writes.
        if stream.write_all(&request).await.and(stream.flush().await).is_err() {
            refused += 1;
        }
        streams.push(stream);
    }
    let grown = peak_kib(herald.id()) - before;
    println!("{CLIENTS} unfinished batches: {grown} KiB more, {refused} refused while writing");
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
    drop(streams);
    herald.stopped().await;
}

#[actix_web::test]
async fn a_body_in_chunks_that_is_refused_unread_ends_the_connection() {
    let app = App::start().await;
    let request = |bearer: &str| {
        format!(
            "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\ninstance: main\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
             20\r\n{{\"channel\": \"ALL\", \"message\": 1}}\r\n0\r\n\r\n"
        )
    };
    let mut refused = connect_tls(&app).await;
    refused.write_all(request("x").as_bytes()).await.expect("the server reads");
    let (head, problem) = answer(refused).await;
    assert_eq!((status(&head), &problem["code"]), ("401", &json!("TOKEN_INVALID")), "{head}");
    // One that was read goes on.
    let mut taken = connect_tls(&app).await;
    let good = request(&token("publisher").component().sign());
    for _ in 0..2 {
        taken.write_all(good.as_bytes()).await.expect("the server reads");
        let mut said = [0; 12];
        within("the answer", taken.read_exact(&mut said)).await.expect("an answer");
        assert_eq!(String::from_utf8_lossy(&said), "HTTP/1.1 202");
        let mut rest = Vec::new();
        while !rest.ends_with(b"}") {
            rest.push(within("the rest", taken.read_u8()).await.expect("the connection holds"));
        }
    }
}
