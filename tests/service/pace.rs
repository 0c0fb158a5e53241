//! Connections that ask and do not read, ask without end, or never finish asking: what they may
//! hold, and when they are cut.

use crate::bounds::{peak_kib, resident_kib};
use crate::secrets::Herald;
use crate::support::socket::connect_tls;
use crate::support::tokens::token;
use crate::support::{App, Options, postgres, within};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

/// Clients that read nothing.
const CLIENTS: usize = 400;
/// Operators that do: as many as their listener takes.
const OPERATORS: usize = 16;
/// How much memory they may take together, in KiB.
const ROOM_KIB: u64 = 150 << 10;
/// What each of them asks for, in bytes of requests.
const ASKED: usize = 1 << 20;

/// Files and sockets that a process has open.
fn open_files(id: i32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).expect("the process runs").count()
}

/// Waits until a process has no more open than this.
async fn until_open(id: i32, files: usize) {
    let ended = async {
        while open_files(id) > files {
            tokio::task::yield_now().await;
        }
    };
    within("the connections are cut", ended).await;
}

/// A connection of either kind.
trait Connection: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

/// A TCP connection with little room for what is not read.
async fn connect_narrow(herald: &Herald, word: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let address = ([127, 0, 0, 1], herald.port(word)).into();
    within("a TCP connection", socket.connect(address)).await.expect("the server listens")
}

/// The same, with TLS unless the word is that of the operators' listener.
async fn connect(herald: &Herald, word: &str) -> Box<dyn Connection> {
    let tcp = connect_narrow(herald, word).await;
    match word {
        "Metrics" => Box::new(tcp),
        _ => Box::new(herald.agree(tcp).await.expect("there is a place for it")),
    }
}

/// Asks on many connections to this listener, for ever and without reading; what the process took
/// for it, in KiB.
async fn ask_and_read_nothing(word: &str, request: &str) -> u64 {
    let database = postgres::database().await;
    let variables = [
        ("DATABASE_URL", database.as_str()),
        ("HERALD_SOCKET_USER_TIMEOUT_SECONDS", "5"),
        ("HERALD_OUTBOX_SECONDS", "5"),
        // Small answers would long fit into the system's own buffers.
        ("HERALD_SEND_BUFFER_BYTES", "16384"),
        ("HERALD_LOG", "warn"),
    ];
    let herald = Herald::start(&variables).await;
    herald.create_instance().await;
    let mut first = connect(&herald, word).await;
    let mut status = [0; 10];
    first.write_all(request.as_bytes()).await.expect("the server reads");
    within("an answer", first.read_exact(&mut status)).await.expect("the server answers");
    assert!(matches!(&status, b"HTTP/1.1 2" | b"HTTP/1.1 3"), "{status:?}");
    drop(first);
    let (before, files) = (resident_kib(herald.id()), open_files(herald.id()));
    let clients = if word == "Metrics" { OPERATORS } else { CLIENTS };
    let mut streams = Vec::new();
    for _ in 0..clients {
        streams.push(connect(&herald, word).await);
    }
    let requests = request.repeat(ASKED / request.len());
    let asking = streams.iter_mut().map(async |stream| {
        // It ends with an error, once the server has cut it.
        drop(stream.write_all(requests.as_bytes()).await);
    });
    within("the ends of those who read nothing", join_all(asking)).await;
    until_open(herald.id(), files).await;
    let grown = peak_kib(herald.id()) - before;
    println!("{clients} times {:?} and nothing read: {grown} KiB more", request.lines().next());
    herald.stopped().await;
    grown
}

#[actix_web::test]
async fn four_hundred_that_ask_for_the_largest_file_and_read_nothing_take_little_and_are_cut() {
    let request = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let grown = ask_and_read_nothing("Try it", request).await;
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
}

#[actix_web::test]
async fn four_hundred_that_ask_in_the_fewest_bytes_and_read_nothing_take_little_and_are_cut() {
    let grown = ask_and_read_nothing("Try it", "GET / HTTP/1.1\nhost:x\n\n").await;
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
}

#[actix_web::test]
async fn four_hundred_that_ask_for_answers_without_a_body_take_little_and_are_cut() {
    let grown = ask_and_read_nothing("Try it", "GET /docs HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
}

#[actix_web::test]
async fn the_operators_listener_has_the_same_bounds() {
    let request = "GET /healthz HTTP/1.1\nhost:x\n\n";
    let grown = ask_and_read_nothing("Metrics", request).await;
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
}

#[actix_web::test]
async fn who_asks_once_and_takes_nothing_of_the_answer_is_cut() {
    let database = postgres::database().await;
    let herald = Herald::start(&[
        ("DATABASE_URL", database.as_str()),
        ("HERALD_SOCKET_USER_TIMEOUT_SECONDS", "1"),
        ("HERALD_OUTBOX_SECONDS", "1"),
        ("HERALD_SEND_BUFFER_BYTES", "16384"),
    ])
    .await;
    herald.create_instance().await;
    let files = open_files(herald.id());
    let mut streams = Vec::new();
    for path in ["/docs/swagger-ui-bundle.js", "/docs/swagger-ui-standalone-preset.js"] {
        for version in ["1.0", "1.1"] {
            let mut stream = connect(&herald, "Try it").await;
            let request = format!("GET {path} HTTP/{version}\r\nhost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("the server reads");
            streams.push(stream);
        }
    }
    until_open(herald.id(), files).await;
    drop(streams);
    herald.stopped().await;
}

/// One answer: its status and its body.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.expect("the connection holds"));
    }
    let head = String::from_utf8(head).expect("a head is text");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.expect("a length").parse().expect("a number");
    let mut body = vec![0; length];
    within("a body", stream.read_exact(&mut body)).await.expect("the connection holds");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// The last answer on a connection says that the request took too long.
async fn told_late(stream: &mut TlsStream<TcpStream>) {
    let (status, body) = answer(stream).await;
    let problem: Value = serde_json::from_str(&body).expect("a problem");
    assert_eq!((status, &problem["code"]), (408, &json!("REQUEST_TIMEOUT")), "{problem}");
    let mut rest = Vec::new();
    drop(within("the end of the stream", stream.read_to_end(&mut rest)).await);
    assert!(rest.is_empty());
}

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[actix_web::test]
async fn a_head_that_does_not_come_is_408_also_on_a_connection_that_was_used() {
    let app = App::start_with(Options::default().with("HERALD_REQUEST_SECONDS", 1)).await;
    let begin = async |bytes: &[u8]| {
        let mut stream = connect_tls(&app).await;
        stream.write_all(bytes).await.expect("the server reads");
        stream
    };
    let mut idle = begin(HEALTH).await;
    assert_eq!(answer(&mut idle).await.0, 200);
    for beginning in ["", "GET", "GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x"] {
        told_late(&mut begin(beginning.as_bytes()).await).await;
        let mut used = begin(HEALTH).await;
        assert_eq!(answer(&mut used).await.0, 200);
        if !beginning.is_empty() {
            used.write_all(beginning.as_bytes()).await.expect("the server reads");
            told_late(&mut used).await;
        }
    }
    // Whoever has begun nothing may stay.
    idle.write_all(HEALTH).await.expect("the server reads");
    assert_eq!(answer(&mut idle).await.0, 200);
}

#[actix_web::test]
async fn a_head_that_comes_byte_by_byte_has_no_more_time() {
    let app = App::start_with(Options::default().with("HERALD_REQUEST_SECONDS", 1)).await;
    let mut stream = connect_tls(&app).await;
    stream.write_all(HEALTH).await.expect("the server reads");
    assert_eq!(answer(&mut stream).await.0, 200);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nx: ").await.expect("the server reads");
    let drip = async {
        // As slowly as the server answers others.
        while stream.write_all(b"y").await.and(stream.flush().await).is_ok() {
            app.send(app.request("GET", "/healthz"), 200).await;
        }
    };
    within("the end of the connection", drip).await;
}

#[actix_web::test]
async fn requests_in_a_row_are_answered_in_their_order_with_and_without_bodies() {
    let app = App::start().await;
    let bearer = token("publisher").component().sign();
    let mut requests = Vec::new();
    for number in 0..50 {
        // Empty lines in a body are no ends of heads.
        let body = format!("{{\n\n\r\n\r\n\"channel\": \"ALL\",\n\n\"message\": {number}}}");
        requests.extend_from_slice(HEALTH);
        requests.extend_from_slice(
            format!(
                "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\n\
                 instance: main\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
    }
    let mut socket = app.connect(&token("alice")).await;
    let (mut reader, mut writer) = tokio::io::split(connect_tls(&app).await);
    let write = actix_web::rt::spawn(async move {
        writer.write_all(&requests).await.expect("the server reads");
        writer
    });
    for number in 0..50 {
        assert_eq!(answer(&mut reader).await.0, 200);
        assert_eq!(answer(&mut reader).await.0, 202);
        assert_eq!(socket.data().await, json!(number));
    }
    drop(write.await);
}

/// The beginning of a request whose head has so many bytes in all.
fn head(bytes: usize) -> Vec<u8> {
    let begun = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ";
    let end = "\r\n\r\n";
    format!("{begun}{}{end}", "y".repeat(bytes - begun.len() - end.len())).into_bytes()
}

#[actix_web::test]
async fn a_head_over_its_bound_is_431_and_the_connection_ends() {
    let app = App::start_with(Options::default().with("HERALD_HEAD_BYTES", 40_000)).await;
    for (bytes, status) in [(39_999, 200), (40_000, 200), (40_001, 431), (1 << 20, 431)] {
        let mut stream = connect_tls(&app).await;
        // Whoever is refused may not be read to the end.
        drop(stream.write_all(&head(bytes)).await);
        let (told, body) = answer(&mut stream).await;
        assert_eq!(told, status, "{bytes}: {body}");
        if status == 431 {
            let problem: Value = serde_json::from_str(&body).expect("a problem");
            assert_eq!(
                (&problem["code"], &problem["limit"]),
                (&json!("INVALID_REQUEST"), &json!(40_000))
            );
            let mut rest = Vec::new();
            drop(within("the end of the stream", stream.read_to_end(&mut rest)).await);
            assert!(rest.is_empty());
        } else {
            stream.write_all(HEALTH).await.expect("the connection goes on");
            assert_eq!(answer(&mut stream).await.0, 200);
        }
    }
}

/// Waits until unfinished requests hold so many bytes.
async fn until_held(app: &App, bytes: usize) {
    let line = format!("herald_unfinished_request_bytes {bytes}.0\n");
    within("the bytes are held", async { while !app.metrics().await.contains(&line) {} }).await;
}

#[actix_web::test]
async fn unfinished_heads_of_an_address_are_counted_and_beyond_its_bound_429() {
    let options = Options::default()
        .with("HERALD_BODY_BYTES", 65_536)
        .with("HERALD_BATCH_BODY_BYTES", 65_536)
        .with("HERALD_UNFINISHED_ADDRESS_BYTES", 65_536);
    let app = App::start_with(options).await;
    let begin = async |bytes: usize| {
        let mut stream = connect_tls(&app).await;
        stream.write_all(&head(70_000)[..bytes]).await.expect("the server reads");
        stream
    };
    let first = begin(40_000).await;
    until_held(&app, 40_000).await;
    let second = begin(25_536).await;
    until_held(&app, 65_536).await;
    let (status, body) = answer(&mut begin(1).await).await;
    let problem: Value = serde_json::from_str(&body).expect("a problem");
    assert_eq!((status, &problem["code"]), (429, &json!("RATE_LIMITED")), "{body}");
    // A head that comes whole waits for nobody.
    let mut whole = connect_tls(&app).await;
    whole.write_all(HEALTH).await.expect("the server reads");
    assert_eq!(answer(&mut whole).await.0, 200);
    drop(second);
    until_held(&app, 40_000).await;
    let _third = begin(20_000).await;
    until_held(&app, 60_000).await;
    drop(first);
    until_held(&app, 20_000).await;
}

/// Heads that are begun and not ended, of as many bytes as they may have.
#[actix_web::test]
async fn a_thousand_unfinished_heads_hold_no_more_than_their_bound() {
    const BEGUN: usize = 1_000;
    let database = postgres::database().await;
    let variables = [
        ("DATABASE_URL", database.as_str()),
        ("HERALD_UNFINISHED_ADDRESS_BYTES", "8388608"),
        ("HERALD_REQUEST_SECONDS", "60"),
        ("HERALD_LOG", "warn"),
    ];
    let herald = Herald::start(&variables).await;
    herald.create_instance().await;
    let before = resident_kib(herald.id());
    let mut streams = Vec::new();
    for _ in 0..BEGUN {
        let mut stream = connect(&herald, "Try it").await;
        drop(stream.write_all(&head(65_536)[..60_000]).await);
        streams.push(stream);
    }
    let grown = peak_kib(herald.id()) - before;
    println!("{BEGUN} unfinished heads of 60,000 bytes: {grown} KiB more");
    // What every connection takes, and twice the bound: buffers grow by doubling.
    assert!(grown < (16 << 10) + 60 * BEGUN as u64, "the memory grew by {grown} KiB");
    // Who asks in one go is answered meanwhile.
    let mut honest = connect(&herald, "Try it").await;
    honest.write_all(HEALTH).await.expect("the server reads");
    assert_eq!(answer(&mut honest).await.0, 200);
    drop(streams);
    herald.stopped().await;
}
