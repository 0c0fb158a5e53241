//! Every flood at once: of strangers without a token, and of one tenant at its limits. Whoever comes
//! honestly gets in, a neighbour's messages arrive, and the memory stays within what is stated.

use crate::bounds::{peak_kib, resident_kib};
use crate::secrets::{Herald, JSON, exchange, request};
use crate::support::socket::{Handshake, Socket};
use crate::support::{Token, postgres, token, within};
use futures_util::future::{Either, join, join_all, select};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::protocol::Message;

/// How much memory a flood may take, in KiB: about what the bounds of its instance and its address
/// say together, of expressions compiled, unfinished bodies and messages kept.
const ROOM_KIB: u64 = 96 << 10;
/// Newcomers that come during a flood, one behind the other, and the messages that each is sent.
const NEWCOMERS: usize = 20;
const MESSAGES: usize = 5;
/// Where strangers come from.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];
/// Connections that one kind of flood keeps open.
const OPEN: usize = 300;
/// Heavy rules of the tenant's channels: an expression over a claim of 3 KB.
const HEAVY_CHANNELS: usize = 60;

async fn start() -> Herald {
    let database = postgres::database().await;
    let variables = [
        ("DATABASE_URL", database.as_str()),
        ("HERALD_MAX_CONNECTIONS", "2000"),
        ("HERALD_LOG", "error"),
    ];
    let herald = Herald::start(&variables).await;
    for id in ["main", "storm"] {
        let limits = json!({"connectsPerSecond": 10_000, "messagesPerSecond": 1_000,
            "messageBurst": 10_000, "userMessagesPerSecond": 1_000, "userMessageBurst": 10_000});
        let body = json!({"id": id, "name": id, "limits": limits});
        let answer = call(&herald, "/v1/instances", &Token::operator(), "", &body).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    herald
}

async fn call(herald: &Herald, path: &str, by: &Token, instance: &str, body: &Value) -> String {
    let bearer = format!("Bearer {}", by.sign());
    let mut headers = vec![("authorization", bearer.as_str()), JSON];
    if !instance.is_empty() {
        headers.push(("instance", instance));
    }
    exchange(herald.connect().await, &request("POST", path, &headers, &body.to_string())).await
}

async fn listen(herald: &Herald, by: &Token, instance: &str) -> Option<Socket> {
    let path = format!("/?instance={instance}&authorization={}", by.sign());
    let handshake = Handshake::at(herald.port("Try it"), &path);
    handshake.send_over(herald.connect().await).await.ok()
}

/// Newcomers come to the neighbour, one behind the other, and are sent messages; the longest that
/// one waited, and that a message took.
async fn honest(herald: &Herald) -> (Duration, Duration) {
    let (mut waited, mut took) = (Duration::ZERO, Duration::ZERO);
    let shop = token("shop").component();
    for number in 0..NEWCOMERS {
        let begun = Instant::now();
        let newcomer = listen(herald, &token(&format!("honest-{number}")), "main").await;
        let mut newcomer = newcomer.expect("there is a place").welcomed().await;
        waited = waited.max(begun.elapsed());
        for message in 0..MESSAGES {
            let begun = Instant::now();
            let body = json!({"channel": "ALL", "message": message});
            let answer = call(herald, "/v1/messages", &shop, "main", &body).await;
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
            assert_eq!(newcomer.data().await, message);
            took = took.max(begun.elapsed());
        }
    }
    (waited, took)
}

/// While `flood` goes on, who comes honestly is served and the memory stays within what is stated.
async fn survives(name: &str, herald: &Herald, flood: impl Future<Output = ()>) {
    let before = resident_kib(herald.id());
    let (waited, took) = match select(pin!(honest(herald)), pin!(flood)).await {
        Either::Left((figures, _)) => figures,
        Either::Right(_) => panic!("the flood has ended"),
    };
    let grown = peak_kib(herald.id()) - before;
    println!("{name}: a newcomer waited {waited:?}, a message took {took:?}, {grown} KiB more");
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
}

async fn connect_from(herald: &Herald, address: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("every address of 127.0.0.0/8 is ours");
    let to = ([127, 0, 0, 1], herald.port("Try it")).into();
    within("a TCP connection", socket.connect(to)).await.expect("the server listens")
}

/// Connections that say `bytes` and no more, and read nothing, without end.
async fn strangers(herald: &Herald, with_tls: bool, bytes: &[u8]) {
    let mut plain = VecDeque::new();
    let mut secure = VecDeque::new();
    loop {
        let mut tcp = connect_from(herald, ELSEWHERE).await;
        if !with_tls {
            // The server may have closed it already.
            drop(tcp.write_all(bytes).await);
            plain.push_back(tcp);
        } else if let Ok(mut tls) = herald.agree(tcp).await {
            let written = async { drop(tls.write_all(bytes).await) };
            // It reads no more than it takes.
            drop(tokio::time::timeout(Duration::from_millis(20), written).await);
            secure.push_back(tls);
        }
        if plain.len() > OPEN {
            plain.pop_front();
        }
        if secure.len() > OPEN {
            secure.pop_front();
        }
        tokio::task::yield_now().await;
    }
}

#[actix_web::test]
async fn strangers_who_flood_in_every_way_keep_no_newcomer_out() {
    let herald = start().await;
    let half_a_hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 69]].concat();
    let files = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(500);
    let bearer = token("publisher").component().sign();
    let body = format!(
        "POST /v1/messages/batch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\n\
         instance: main\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{}",
        " ".repeat(200_000)
    );
    let flood = async {
        let shared = &herald;
        let kinds: [(bool, &[u8]); 6] = [
            (false, b""),
            (false, &half_a_hello),
            (true, b""),
            (true, b"GET / HTTP/1.1\r\nhost: "),
            (true, files.as_bytes()),
            (true, body.as_bytes()),
        ];
        join_all(kinds.map(|(with_tls, bytes)| strangers(shared, with_tls, bytes))).await;
    };
    survives("strangers", &herald, flood).await;
    herald.stopped().await;
}

/// A token of the tenant with a claim of 3 KB.
fn heavy_token(user: &str) -> Token {
    token(user).instances(&["storm"]).with("text", "x".repeat(3_000))
}

/// An expression of some 500 bytes that looks through the claim eighteen times.
fn heavy(number: usize) -> String {
    let looks: Vec<String> =
        (0..18).map(|look| format!("claims.text.contains('{number}-{look}')")).collect();
    let mut text = looks.join(" || ");
    text.truncate(500);
    text.truncate(text.rfind(" || ").expect("there are several"));
    text
}

/// Connects again and again, resuming from where it was.
async fn connects(herald: &Herald, user: String) {
    let (by, mut cursor) = (heavy_token(&user), String::new());
    loop {
        let path = format!("/?instance=storm&cursor={cursor}&authorization={}", by.sign());
        let handshake = Handshake::at(herald.port("Try it"), &path);
        let Ok(mut socket) = handshake.send_over(herald.connect().await).await else { continue };
        // Where too many wait it is told so and closed.
        if let Some(Message::Text(text)) = socket.message().await {
            let connected: Value = serde_json::from_str(&text).expect("JSON");
            cursor = connected["cursor"].as_str().expect("a cursor").to_owned();
        }
    }
}

/// Sends another token of its own and acknowledgements again and again.
async fn renews(herald: &Herald, user: String) {
    loop {
        let Some(mut socket) = listen(herald, &heavy_token(&user), "storm").await else { continue };
        let mut number = 0;
        // The first frame is `CONNECTED`.
        while let Some(Message::Text(text)) = socket.message().await {
            let frame: Value = serde_json::from_str(&text).expect("JSON");
            number += 1;
            let another = heavy_token(&user).with("number", number);
            let mut said = vec![json!({"type": "AUTH", "authorization": another.sign()})];
            if let Some(cursor) = frame["cursor"].as_str() {
                said.push(json!({"type": "PING", "cursor": cursor}));
            }
            for frame in said {
                socket.try_send(&frame.to_string()).await;
            }
        }
    }
}

/// Publishes batches with another heavy filter in each entry.
async fn publishes(herald: &Herald, user: String) {
    let by = heavy_token(&user).component();
    for round in 0.. {
        let entry = |number: usize| {
            let filter = heavy(1_000 * round + number);
            json!({"channel": "ALL", "message": number, "filter": filter})
        };
        let messages: Vec<Value> = (0..50).map(entry).collect();
        let body = json!({ "messages": messages });
        drop(call(herald, "/v1/messages/batch", &by, "storm", &body).await);
    }
}

#[actix_web::test]
async fn a_tenant_with_the_heaviest_rules_and_filters_slows_no_neighbour() {
    let herald = start().await;
    let admin = Token::admin("root").instances(&["storm"]);
    let mut saved = 0;
    for number in 0..HEAVY_CHANNELS {
        let rule = |rule| json!({"effect": "allow", "when": heavy(100 * number + rule)});
        let rules: Vec<Value> = (0..100).map(rule).collect();
        let body = json!({"name": format!("heavy-{number}"), "rules": rules});
        let answer = call(&herald, "/v1/channels", &admin, "storm", &body).await;
        // As many as the instance's bound takes.
        if !answer.starts_with("HTTP/1.1 201") {
            assert!(answer.contains("EXPRESSION_INVALID"), "{answer}");
            break;
        }
        saved += 1;
    }
    assert!(saved > 0, "not even one channel was saved");
    let flood = async {
        let names = |kind: &str| -> Vec<String> {
            (0..6).map(|number| format!("{kind}-{number}")).collect()
        };
        let connecting = names("connects").into_iter().map(|user| connects(&herald, user));
        let renewing = names("renews").into_iter().map(|user| renews(&herald, user));
        let publishing = names("publishes").into_iter().map(|user| publishes(&herald, user));
        join(join_all(connecting), join(join_all(renewing), join_all(publishing))).await;
    };
    survives("a tenant", &herald, flood).await;
    herald.stopped().await;
}
