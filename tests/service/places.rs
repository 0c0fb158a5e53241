//! What connections take from each other: places, which idle ones give up, and files, of which some
//! are kept.

use crate::secrets::{Herald, exchange};
use crate::support::tokens::{SECRET, token};
use crate::support::{App, Options, postgres, within};
use futures_util::{StreamExt, stream};
use serde_json::json;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

type Https = TlsStream<TcpStream>;

/// Where the others come from.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];
const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Asks on an open connection and reads the answer's head; none if the connection has ended.
async fn ask(stream: &mut Https, request: &[u8]) -> Option<String> {
    let mut said = Vec::new();
    let answered = async {
        stream.write_all(request).await.ok()?;
        stream.flush().await.ok()?;
        while !said.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            stream.read_buf(&mut said).await.ok().filter(|read| *read > 0)?;
        }
        Some(String::from_utf8_lossy(&said).into_owned())
    };
    within("an answer", answered).await
}

/// Whether an open connection is served.
async fn is_served(stream: &mut Https) -> bool {
    ask(stream, HEALTH).await.is_some_and(|head| head.starts_with("HTTP/1.1 200"))
}

/// Waits until the server has ended a connection.
async fn ended(mut stream: impl AsyncReadExt + Unpin) {
    let mut rest = Vec::new();
    drop(within("the end of a connection", stream.read_to_end(&mut rest)).await);
}

/// What the metrics listener answers.
async fn operators_page(herald: &Herald, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    exchange(herald.connect_plain("Metrics").await, request.as_bytes()).await
}

/// Accepted connections at this stage.
async fn accepted(herald: &Herald, stage: &str) -> usize {
    let page = operators_page(herald, "/metrics").await;
    let series = format!("herald_accepted_connections{{stage=\"{stage}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series)).expect("a series");
    value.parse().expect("a number")
}

/// Files that a process has open.
fn files(herald: &Herald) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", herald.id())).expect("it runs").count()
}

async fn start(settings: &[(&str, &str)]) -> Herald {
    let database = postgres::database().await;
    let settings = [&[("DATABASE_URL", database.as_str())], settings].concat();
    Herald::start(&settings).await
}

/// The binary where at most so many files may be open.
fn limited(files: u64) -> Command {
    let mut command = Command::new("/bin/sh");
    let line = format!("ulimit -n {files} && exec {}", env!("CARGO_BIN_EXE_herald"));
    command.args(["-c", &line]);
    command
}

/// A TCP connection to the client listener from an address such as 127.0.0.2.
async fn connect_from(herald: &Herald, address: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("every address of 127.0.0.0/8 is ours");
    let to = ([127, 0, 0, 1], herald.port("Try it")).into();
    within("a TCP connection", socket.connect(to)).await.expect("the server listens")
}

/// So many idle https connections from one address.
async fn idle_from(herald: &Herald, address: [u8; 4], count: usize) -> Vec<Https> {
    let mut open = Vec::new();
    for _ in 0..count {
        let tcp = connect_from(herald, address).await;
        open.push(herald.agree(tcp).await.expect("there is a place"));
    }
    open
}

/// The same, one after another: the first is the oldest. The last one makes `all` in sum.
async fn idle_in_order(herald: &Herald, address: [u8; 4], count: usize, all: usize) -> Vec<Https> {
    let mut open = Vec::new();
    for left in (0..count).rev() {
        open.extend(idle_from(herald, address, 1).await);
        let shaken = async { while accepted(herald, "idle").await < all - left {} };
        within("the server's end of the handshake", shaken).await;
    }
    open
}

#[actix_web::test]
async fn the_process_has_the_connections_that_were_set_and_the_oldest_idle_one_gives_way() {
    for most in [3, 300] {
        let herald = start(&[("HERALD_MAX_CONNECTIONS", &most.to_string())]).await;
        let mut open = VecDeque::from(idle_in_order(&herald, [127, 0, 0, 1], most, most).await);
        for beyond in 0..most {
            let newcomer = idle_from(&herald, [127, 0, 0, 1], 1).await.pop();
            let mut newcomer = newcomer.expect("a place for the newcomer");
            assert!(is_served(&mut newcomer).await, "newcomer {beyond} of {most}");
            open.push_back(newcomer);
            ended(open.pop_front().expect("the oldest")).await;
        }
        assert!(accepted(&herald, "idle").await <= most);
        for stays in open.iter_mut().take(50) {
            assert!(is_served(stays).await, "who is not the oldest stays");
        }
        herald.stopped().await;
    }
}

/// A WebSocket that is open once this returns; else the answer's head.
async fn open_socket(herald: &Herald, user: &str) -> Result<Https, String> {
    let mut stream = herald.connect().await;
    let request = format!(
        "GET /?instance=main&authorization={} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token(user).sign()
    );
    let head = ask(&mut stream, request.as_bytes()).await.unwrap_or_default();
    if head.starts_with("HTTP/1.1 101") { Ok(stream) } else { Err(head) }
}

/// Whether an open WebSocket answers a ping.
async fn answers(socket: &mut Https) -> bool {
    let pong = async {
        socket.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.ok()?;
        let mut heard = Vec::new();
        while !heard.ends_with(&[0x8a, 0]) {
            socket.read_buf(&mut heard).await.ok().filter(|read| *read > 0)?;
        }
        Some(())
    };
    within("a pong", pong).await.is_some()
}

#[actix_web::test]
async fn sockets_never_give_way_and_a_process_full_of_them_says_so_everywhere() {
    let herald = start(&[("HERALD_MAX_CONNECTIONS", "20")]).await;
    herald.create_instance().await;
    let mut sockets = Vec::new();
    for number in 0..19 {
        sockets.push(open_socket(&herald, &format!("user-{number}")).await.expect("below"));
    }
    assert!(operators_page(&herald, "/readyz").await.starts_with("HTTP/1.1 200"), "below");
    sockets.push(open_socket(&herald, "last").await.expect("at the bound"));
    assert!(operators_page(&herald, "/readyz").await.starts_with("HTTP/1.1 503"), "at it");
    for _ in 0..40 {
        let refused = open_socket(&herald, "beyond").await.expect_err("beyond it");
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        let mut idle = herald.connect().await;
        let ready = ask(&mut idle, b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(ready.is_some_and(|head| head.starts_with("HTTP/1.1 503")));
    }
    for socket in &mut sockets {
        assert!(answers(socket).await, "a socket stays");
    }
    drop(sockets.pop());
    let ready =
        async { while !operators_page(&herald, "/readyz").await.starts_with("HTTP/1.1 200") {} };
    within("room again", ready).await;
    drop(sockets);
    herald.stopped().await;
}

#[actix_web::test]
async fn a_request_under_way_keeps_its_place_until_it_is_answered() {
    let herald = start(&[("HERALD_MAX_CONNECTIONS", "20")]).await;
    herald.create_instance().await;
    let body = br#"{"channel": "ALL", "message": 1}"#;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ninstance: main\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        token("publisher").component().sign(),
        body.len()
    );
    let mut slow = herald.connect().await;
    slow.write_all(head.as_bytes()).await.expect("the server reads");
    within("a request under way", async { while accepted(&herald, "request").await < 1 {} }).await;
    let _idle = idle_from(&herald, [127, 0, 0, 1], 60).await;
    let answer = ask(&mut slow, body).await.expect("it kept its place");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    herald.stopped().await;
}

#[actix_web::test]
async fn at_the_limit_on_open_files_newcomers_and_operators_are_answered_and_files_are_kept() {
    let database = postgres::database().await;
    let herald = Herald::start_as(limited(1_024), &[("DATABASE_URL", &database)]).await;
    herald.create_instance().await;
    let mut idle = VecDeque::new();
    for number in 0..1_400 {
        let tcp = connect_from(&herald, ELSEWHERE).await;
        idle.push_back(herald.agree(tcp).await.expect("there is a place"));
        if number % 100 == 99 {
            let mut newcomer = herald.connect().await;
            assert!(is_served(&mut newcomer).await, "behind {number}");
            assert!(operators_page(&herald, "/readyz").await.starts_with("HTTP/1.1 200"));
            assert!(files(&herald) <= 1_024 - 200, "{} files behind {number}", files(&herald));
        }
    }
    let silent: Vec<_> = stream::iter(0..1_000)
        .map(async |_| connect_from(&herald, ELSEWHERE).await)
        .buffered(64)
        .collect()
        .await;
    assert!(files(&herald) <= 1_024 - 150, "{} files", files(&herald));
    let mut newcomer = herald.connect().await;
    assert!(is_served(&mut newcomer).await);
    assert!(open_socket(&herald, "alice").await.is_ok());
    drop((silent, idle));
    let log = herald.stopped().await;
    assert!(!log.contains("Error accepting"), "{log}");
}

/// Opens connections of an address that say `bytes` and no more, until it is told to stop; the
/// latest thousand stay open.
async fn flood(herald: &Herald, bytes: &[u8], mut over: watch::Receiver<bool>) {
    let mut open = VecDeque::new();
    while !*over.borrow_and_update() {
        let mut tcp = connect_from(herald, ELSEWHERE).await;
        // The server may have closed it already.
        drop(tcp.write_all(bytes).await);
        open.push_back(tcp);
        if open.len() > 1_000 {
            open.pop_front();
        }
        tokio::task::yield_now().await;
    }
}

#[actix_web::test]
async fn connections_that_say_nothing_or_half_keep_no_newcomer_of_another_address_out() {
    let half_a_hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 69]].concat();
    for (bytes, handshakes) in [(&b""[..], "8"), (&half_a_hello, "8"), (&half_a_hello, "256")] {
        let settings = [("HERALD_HANDSHAKES", handshakes), ("HERALD_MAX_CONNECTIONS", "400")];
        let herald = start(&settings).await;
        let (stop, over) = watch::channel(false);
        let newcomers = async {
            within("the flood", async {
                while accepted(&herald, "silent").await + accepted(&herald, "handshake").await < 300
                {
                }
            })
            .await;
            for number in 0..24 {
                assert!(is_served(&mut herald.connect().await).await, "newcomer {number}");
            }
            stop.send_replace(true);
        };
        tokio::join!(flood(&herald, bytes, over), newcomers);
        herald.stopped().await;
    }
}

#[actix_web::test]
async fn an_address_has_a_share_of_handshakes_and_its_own_oldest_gives_way() {
    let herald = start(&[("HERALD_HANDSHAKES_PER_ADDRESS", "3")]).await;
    let other = connect_from(&herald, [127, 0, 0, 1]).await;
    let mut silent = VecDeque::new();
    for all in 2..=4 {
        silent.push_back(connect_from(&herald, ELSEWHERE).await);
        within("its place", async { while accepted(&herald, "silent").await < all {} }).await;
    }
    silent.push_back(connect_from(&herald, ELSEWHERE).await);
    ended(silent.pop_front().expect("the oldest")).await;
    for stays in silent.into_iter().chain([other]) {
        let mut stays = herald.agree(stays).await.expect("a place");
        assert!(is_served(&mut stays).await);
    }
    herald.stopped().await;
}

#[actix_web::test]
async fn an_address_has_a_share_of_http_connections_and_its_own_oldest_gives_way() {
    let herald = start(&[("HERALD_HTTP_CONNECTIONS_PER_ADDRESS", "3")]).await;
    let mut other = herald.connect().await;
    let mut idle = VecDeque::from(idle_in_order(&herald, ELSEWHERE, 3, 4).await);
    idle.extend(idle_from(&herald, ELSEWHERE, 1).await);
    ended(idle.pop_front().expect("the oldest")).await;
    for stays in idle.iter_mut().chain([&mut other]) {
        assert!(is_served(stays).await);
    }
    herald.stopped().await;
}

#[actix_web::test]
async fn an_address_whose_share_is_at_work_is_told_so_and_others_are_served() {
    let herald = start(&[("HERALD_HTTP_CONNECTIONS_PER_ADDRESS", "2")]).await;
    herald.create_instance().await;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         instance: main\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n",
        token("publisher").component().sign(),
    );
    let mut busy = idle_from(&herald, ELSEWHERE, 2).await;
    for stream in &mut busy {
        stream.write_all(head.as_bytes()).await.expect("the server reads");
    }
    within("requests under way", async { while accepted(&herald, "request").await < 2 {} }).await;
    let tcp = connect_from(&herald, ELSEWHERE).await;
    let mut third = herald.agree(tcp).await.expect("a handshake");
    let answer = ask(&mut third, HEALTH).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("problem+json"), "{answer}");
    assert!(is_served(&mut herald.connect().await).await, "another address");
    drop(busy.pop());
    let first_is_left = async { while accepted(&herald, "request").await > 1 {} };
    within("a connection gone", first_is_left).await;
    let tcp = connect_from(&herald, ELSEWHERE).await;
    assert!(is_served(&mut herald.agree(tcp).await.expect("a place")).await);
    herald.stopped().await;
}

#[actix_web::test]
async fn idle_connections_to_the_operators_listener_keep_no_operator_out() {
    let herald = start(&[]).await;
    let mut held = Vec::new();
    for number in 0..60 {
        let mut tcp = herald.connect_plain("Metrics").await;
        if number % 2 == 0 {
            tcp.write_all(HEALTH).await.expect("the server reads");
            let mut first = [0; 12];
            within("an answer", tcp.read_exact(&mut first)).await.expect("it is served");
            assert_eq!(&first, b"HTTP/1.1 200");
        }
        held.push(tcp);
    }
    assert!(operators_page(&herald, "/readyz").await.starts_with("HTTP/1.1 200"));
    herald.stopped().await;
}

/// A connection through the proxy on which a client was served.
async fn proxied(herald: &Herald, client: &str) -> TcpStream {
    let mut tcp = herald.connect_plain("Proxies").await;
    serve_proxied(&mut tcp, client).await.expect("it is served");
    tcp
}

async fn serve_proxied(tcp: &mut TcpStream, client: &str) -> Option<()> {
    let request = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-forwarded-proto: https\r\nx-forwarded-for: {client}\r\n\r\n"
    );
    let mut said = Vec::new();
    let answered = async {
        tcp.write_all(request.as_bytes()).await.ok()?;
        while !said.ends_with(b"alive\n") {
            tcp.read_buf(&mut said).await.ok().filter(|read| *read > 0)?;
        }
        Some(())
    };
    within("an answer", answered).await
}

#[actix_web::test]
async fn a_proxys_connection_counts_for_the_client_that_its_request_names() {
    let settings = [
        ("HERALD_PROXY_LISTEN", "127.0.0.1:0"),
        ("HERALD_TRUSTED_PROXIES", "127.0.0.1"),
        ("HERALD_HANDSHAKES_PER_ADDRESS", "1"),
        ("HERALD_HTTP_CONNECTIONS_PER_ADDRESS", "2"),
    ];
    let herald = start(&settings).await;
    let first = proxied(&herald, "203.0.113.1").await;
    let mut second = proxied(&herald, "203.0.113.1").await;
    let mut others = Vec::new();
    for number in 2..10 {
        others.push(proxied(&herald, &format!("203.0.113.{number}")).await);
    }
    let mut third = proxied(&herald, "203.0.113.1").await;
    ended(first).await;
    for (stream, client) in [(&mut second, "203.0.113.1"), (&mut third, "203.0.113.1")] {
        serve_proxied(stream, client).await.expect("it stays");
    }
    for (number, stream) in others.iter_mut().enumerate() {
        let client = format!("203.0.113.{}", number + 2);
        serve_proxied(stream, &client).await.expect("it stays");
    }
    herald.stopped().await;
}

#[actix_web::test]
async fn two_thousand_clients_behind_one_proxy_are_no_worse_off_than_without_it() {
    let options = Options::default()
        .with("HERALD_PROXY_LISTEN", "127.0.0.1:0")
        .with("HERALD_TRUSTED_PROXIES", "127.0.0.1");
    let app = App::launch(options, postgres::database().await).await;
    app.create_instance("main", json!({"connectsPerSecond": 100_000})).await;
    let port = app.proxy_port.expect("there is a proxy listener");
    let mut sockets = Vec::new();
    for number in 0..2_000 {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        sockets.push((number, tcp));
    }
    // All are silent by now, and twice as many as an address may have.
    for (number, tcp) in &mut sockets {
        let (client, user) = (Ipv4Addr::from(0xC633_6400 + *number), format!("user-{number}"));
        let request = format!(
            "GET /?instance=main&authorization={} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             x-forwarded-proto: https\r\nx-forwarded-for: {client}\r\n\r\n",
            token(&user).sign()
        );
        tcp.write_all(request.as_bytes()).await.expect("it is open");
    }
    for (number, tcp) in &mut sockets {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains("\"CONNECTED\"") {
            let read = within("CONNECTED", tcp.read_buf(&mut said)).await;
            let said = String::from_utf8_lossy(&said);
            assert!(read.is_ok_and(|read| read > 0), "client {number}: {said}");
        }
    }
    assert_eq!(app.publish("ALL", json!(1)).await["queued"], 2_000);
}

#[actix_web::test]
async fn a_start_says_how_many_connections_there_is_room_for_and_refuses_too_few() {
    let output = limited(64)
        .env_clear()
        .envs([("HERALD_JWT_SECRET", SECRET), ("HERALD_WORKERS", "2")])
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .stdin(Stdio::null())
        .output();
    let output = within("the refusal", output).await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("herald: the limit on open files is 64, which leaves room for 0"),
        "{said}"
    );
    for limit in [128, 256, 512] {
        let database = postgres::database().await;
        let herald = Herald::start_as(limited(limit), &[("DATABASE_URL", &database)]).await;
        let log = herald.log();
        let said =
            log.split("connections=").nth(1).expect("it says how many").split_whitespace().next();
        let room: usize = said.and_then(|room| room.parse().ok()).expect("a number");
        let mut idle = idle_from(&herald, ELSEWHERE, room).await;
        within("all of them", async { while accepted(&herald, "idle").await < room {} }).await;
        idle.extend(idle_from(&herald, ELSEWHERE, 2 * room).await);
        assert!(is_served(&mut herald.connect().await).await, "at {limit} files");
        assert!(operators_page(&herald, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(files(&herald) < limit as usize - 16, "{} of {limit} files", files(&herald));
        herald.stopped().await;
    }
}
