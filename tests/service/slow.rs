//! What slow clients get of a channel whose policy is `latest`; for the other policy see
//! `bounds.rs`.

use crate::documents::assert_described;
use crate::support::socket::{Handshake, connect_narrow};
use crate::support::tokens::{Token, token};
use crate::support::{App, Options, Socket, postgres};
use serde_json::{Value, json};

/// Bytes of a message that fills the slow client's buffers soon.
const LARGE: usize = 32 << 10;
/// Messages to the channel: many times what all buffers on the way to the slow client hold.
const MESSAGES: u64 = 100;
/// Before this one, the slow client is sent a message that nothing replaces.
const MIDDLE: u64 = 50;

async fn app() -> App {
    let options = Options::default()
        .with("HERALD_SEND_BUFFER_BYTES", 16_384)
        .with("HERALD_OUTBOX_BYTES", 131_072)
        .with("HERALD_OUTBOX_SECONDS", 60)
        .with("HERALD_SOCKET_USER_TIMEOUT_SECONDS", 300);
    let app = App::launch(options, postgres::database().await).await;
    let limits = json!({"messagesPerSecond": 1_000, "messageBurst": 1_000, "userMessagesPerSecond": 1_000,
        "userMessageBurst": 1_000, "componentPayloadBytes": 65_536});
    app.create_instance("main", limits).await;
    let prices = json!({"name": "prices", "slow": "latest"});
    app.create_channel(prices).await;
    app
}

/// A client with little room for what it does not read.
async fn connect_slow(app: &App, query: &str) -> Socket {
    let path = format!("/?authorization={}&instance=main{query}", token("slow").sign());
    let opened = Handshake::new(app, &path).send_over(connect_narrow(app).await).await;
    opened.unwrap_or_else(|answer| panic!("refused: {answer:?}")).welcomed().await
}

/// Publishes to the channel while nobody but `healthy` reads; what the receipts say was replaced.
async fn flood(app: &App, healthy: &mut Socket) -> u64 {
    let mut replaced = 0;
    for number in 1..=MESSAGES {
        if number == MIDDLE {
            app.publish("user:slow", json!("in between")).await;
        }
        let receipt =
            app.publish("prices", json!({"number": number, "padding": "x".repeat(LARGE)})).await;
        assert_eq!(
            (&receipt["matched"], &receipt["queued"], &receipt["dropped"]),
            (&json!(2), &json!(2), &json!(0))
        );
        replaced += receipt.get("replaced").map_or(0, |count| count.as_u64().expect("a count"));
        assert_eq!(
            healthy.frame().await["data"]["number"],
            number,
            "nothing is replaced for one who reads"
        );
    }
    replaced
}

/// What a client read, up to the last message of the channel.
#[derive(Default)]
struct Seen {
    numbers: Vec<u64>,
    /// Sum of the counts in `DROPPED`.
    dropped: u64,
    /// Whether the message that nothing replaces came, and how many numbers and how many dropped
    /// were before it.
    between: Option<(usize, u64)>,
}

async fn read_all(slow: &mut Socket) -> Seen {
    let mut seen = Seen::default();
    while seen.numbers.last() != Some(&MESSAGES) {
        let frame = slow.frame().await;
        match frame["type"].as_str() {
            Some("DROPPED") => {
                assert_described(&frame);
                seen.dropped += frame["count"].as_u64().expect("a count");
            }
            _ if frame["data"] == "in between" => {
                seen.between = Some((seen.numbers.len(), seen.dropped))
            }
            _ => {
                let number = frame["data"]["number"].as_u64().expect("a number");
                let missing = number - 1 - seen.numbers.len() as u64;
                assert!(missing <= seen.dropped, "{number} came before word of what is missing");
                assert!(
                    seen.numbers.last().is_none_or(|last| *last < number),
                    "{number} came late"
                );
                seen.numbers.push(number);
            }
        }
    }
    seen
}

#[actix_web::test]
async fn a_slow_client_gets_the_latest_and_is_told_how_many_it_did_not_get() {
    let app = app().await;
    let mut healthy = app.connect(&token("healthy")).await;
    let mut slow = connect_slow(&app, "").await;
    let replaced = flood(&app, &mut healthy).await;
    assert!(replaced > MESSAGES / 2, "{replaced} were replaced");
    let seen = read_all(&mut slow).await;
    assert_eq!((seen.dropped, seen.numbers.len() as u64), (replaced, MESSAGES - replaced));
    let (numbers, dropped) = seen.between.expect("what nothing replaces arrives");
    assert!(
        numbers as u64 + dropped >= MIDDLE - 1,
        "what was replaced before it is told before it"
    );
    assert!(
        app.metrics()
            .await
            .contains(&format!("herald_replaced_total{{instance=\"main\"}} {replaced}\n"))
    );
    app.publish("prices", json!("after")).await;
    assert_eq!(slow.data().await, "after");
}

#[actix_web::test]
async fn resuming_brings_what_was_replaced() {
    let app = app().await;
    let mut healthy = app.connect(&token("healthy")).await;
    let slow = connect_slow(&app, "").await;
    let cursor = slow.connected["cursor"].as_str().expect("a cursor").to_owned();
    for number in 0..20 {
        app.publish("prices", json!({"number": number, "padding": "x".repeat(LARGE)})).await;
        healthy.frame().await;
    }
    drop(slow);
    let mut back = app.connect_with(&token("slow"), &format!("&cursor={cursor}")).await;
    assert_eq!(back.connected["recovered"], true);
    for number in 0..20 {
        assert_eq!(back.data().await["number"], number);
    }
}

#[actix_web::test]
async fn the_policy_can_be_changed_while_clients_are_connected() {
    let app = app().await;
    let mut socket = app.connect(&token("alice")).await;
    let body = json!({"slow": "disconnect"});
    let admin = Token::admin("root");
    let request = app
        .request("PUT", "/v1/channels/prices")
        .header("instance", "main")
        .header("if-match", "\"1\"");
    let changed: Value = app.send(request.bearer_auth(admin.sign()).json(&body), 200).await.body;
    assert_eq!(changed["slow"], "disconnect");
    app.publish("prices", json!(1)).await;
    assert_eq!(socket.data().await, 1);
}
