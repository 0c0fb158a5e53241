//! What became of a message: the counts, each user's connections, and how much is remembered. See
//! also `tracing_users.rs`.

use crate::support::socket::{Handshake, connect_narrow};
use crate::support::tokens::{Token, token};
use crate::support::{App, Options, Socket, Stream, postgres, within};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// Bytes of a message that fills a slow client's buffers soon.
const LARGE: usize = 32 << 10;
/// So many large messages are more than all buffers on the way to a slow client hold.
const ENOUGH: usize = 100;
/// Messages of an instance that can be traced.
const MAX_TRACES: usize = 10_000;
/// Ended connections of an instance that are remembered.
const MAX_ENDED: usize = 1_000;
/// Replaced messages that are remembered of a connection.
const MAX_REPLACED: u64 = 64;
/// Connections of a user that one answer tells about.
const MAX_SHOWN: usize = 100;

/// Publishes with an id; the receipt.
pub async fn publish(app: &App, id: &str, body: Value) -> Value {
    let mut body = body;
    body["id"] = id.into();
    body.as_object_mut().expect("an object").entry("message").or_insert(json!(1));
    app.call("POST", "/v1/messages", Some(&token("shop").component()), Some(body), 202).await.body
}

/// What is told of a message.
pub async fn trace(app: &App, id: &str, query: &str) -> Value {
    let path = format!("/v1/messages/{id}{query}");
    app.call("GET", &path, Some(&token("observer").component()), None, 200).await.body
}

/// Waits until a field has a value; the whole trace.
async fn until(app: &App, id: &str, pointer: &str, value: u64) -> Value {
    let wait = async {
        loop {
            let shown = trace(app, id, "").await;
            assert_whole(&shown);
            if shown.pointer(pointer) == Some(&json!(value)) {
                return shown;
            }
        }
    };
    within(&format!("{pointer} of {id} is {value}"), wait).await
}

fn count(shown: &Value, pointer: &str) -> u64 {
    shown
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer} is no count of {shown}"))
}

/// Nothing goes missing: whoever it was for has it, waits for it, or lost it for a reason.
fn assert_whole(shown: &Value) {
    let lost = ["/lost/outboxFull", "/lost/tooSlow", "/lost/ended", "/lost/replaced"]
        .map(|why| count(shown, why));
    let rest: u64 = lost.iter().sum();
    assert_eq!(
        count(shown, "/matched"),
        count(shown, "/written") + count(shown, "/waiting") + rest,
        "{shown}"
    );
    assert_eq!(
        count(shown, "/matched"),
        count(shown, "/queued") + count(shown, "/dropped"),
        "{shown}"
    );
    assert_eq!(count(shown, "/dropped"), lost[0]);
}

async fn roomy(options: Options) -> App {
    let app = App::launch(options, postgres::database().await).await;
    let most = 1_000_000;
    let limits = json!({"messagesPerSecond": most, "messageBurst": most, "userMessagesPerSecond": most,
        "userMessageBurst": most, "componentPayloadBytes": 65_536, "connectsPerSecond": most, "connectionsPerUser": most});
    app.create_instance("main", limits).await;
    app
}

/// Slow clients have little room there, and are not cut for being silent.
async fn narrow() -> App {
    let options = Options::default()
        .with("HERALD_SEND_BUFFER_BYTES", 16_384)
        .with("HERALD_OUTBOX_BYTES", 131_072)
        .with("HERALD_OUTBOX_SECONDS", 60)
        .with("HERALD_SOCKET_USER_TIMEOUT_SECONDS", 300);
    roomy(options).await
}

/// A client that reads nothing behind `CONNECTED`.
async fn connect_slow(app: &App) -> Socket {
    let path = format!("/?authorization={}&instance=main", token("slow").sign());
    let opened = Handshake::new(app, &path).send_over(connect_narrow(app).await).await;
    opened.unwrap_or_else(|answer| panic!("refused: {answer:?}")).welcomed().await
}

async fn ping(socket: &mut Socket, cursor: &Value) {
    socket.send(&json!({"type": "PING", "cursor": cursor}).to_string()).await;
    assert_eq!(socket.frame().await["type"], "PONG");
}

#[actix_web::test]
async fn a_trace_says_who_published_when_to_whom_and_counts_every_step() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice").groups(&["eng"])).await;
    let mut bob = app.connect(&token("bob").groups(&["eng"])).await;
    let mut stream = Stream::open(app.stream_request(&token("eng"), "")).await;
    let body = json!({"channel": "eng", "filter": "user != 'mallory'"});
    let receipt = publish(&app, "one", body.clone()).await;
    assert_eq!(
        (alice.data().await, bob.frame().await["id"].clone(), stream.data().await),
        (1.into(), "one".into(), 1.into())
    );
    let shown = until(&app, "one", "/written", 3).await;
    for (field, value) in [
        ("id", json!("one")),
        ("cursor", receipt["cursor"].clone()),
        ("publisher", json!({"userId": "shop", "component": "tests"})),
        ("channel", json!("eng")),
        ("audience", json!(["group:eng", "user:eng"])),
        ("filter", json!("user != 'mallory'")),
        ("matched", json!(3)),
        ("queued", json!(3)),
        ("dropped", json!(0)),
        ("waiting", json!(0)),
        ("replayed", json!(0)),
        ("acknowledged", json!(0)),
        ("lost", json!({"outboxFull": 0, "tooSlow": 0, "ended": 0, "replaced": 0})),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    assert!(shown.get("user").is_none());
    assert!(
        shown["time"].as_str() <= shown["queuedAt"].as_str() && shown["time"].is_string(),
        "{shown}"
    );
    let repeated = publish(&app, "one", body).await;
    assert_eq!((&repeated["duplicate"], &trace(&app, "one", "").await), (&json!(true), &shown));
}

#[actix_web::test]
async fn an_acknowledgement_counts_once_a_connection_and_only_for_what_it_was_sent() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let mut bob = app.connect(&token("bob")).await;
    let mut cursors = vec![alice.connected["cursor"].clone()];
    let without_alice = json!({"connections": [alice.connected["connectionId"]]});
    for (id, body) in [
        ("all", json!({"channel": "ALL"})),
        ("bob", json!({"channel": "user:bob"})),
        ("filtered", json!({"channel": "ALL", "filter": "user == 'bob'"})),
        ("without", json!({"channel": "ALL", "exclude": {"users": ["alice"]}})),
        ("elsewhere", json!({"channel": "ALL", "exclude": without_alice})),
        ("last", json!({"channel": "ALL"})),
    ] {
        cursors.push(publish(&app, id, body).await["cursor"].clone());
    }
    assert_eq!(
        [alice.frame().await["id"].clone(), alice.frame().await["id"].clone()],
        ["all", "last"]
    );
    let acknowledged = async || {
        let ids = ["all", "bob", "filtered", "without", "elsewhere", "last"];
        let shown = join_all(ids.iter().map(|id| trace(&app, id, ""))).await;
        shown.iter().map(|shown| count(shown, "/acknowledged")).collect::<Vec<_>>()
    };
    for (cursor, expected) in [
        (&cursors[0], [0, 0, 0, 0, 0, 0]),
        (&cursors[1], [1, 0, 0, 0, 0, 0]),
        (&cursors[1], [1, 0, 0, 0, 0, 0]),
        (&cursors[6], [1, 0, 0, 0, 0, 1]),
        (&cursors[0], [1, 0, 0, 0, 0, 1]),
        (&cursors[6], [1, 0, 0, 0, 0, 1]),
        (&json!("AAAAAAAAAAAAAAAAAAAAAA"), [1, 0, 0, 0, 0, 1]),
    ] {
        ping(&mut alice, cursor).await;
        assert_eq!(acknowledged().await, expected, "{cursor}");
    }
    for _ in 0..6 {
        bob.frame().await;
    }
    ping(&mut bob, &cursors[6]).await;
    assert_eq!(acknowledged().await, [2, 1, 1, 1, 1, 2]);
    // Another connection of the same user, to which everything is sent again.
    let mut again = app
        .connect_with(&token("alice"), &format!("&cursor={}", cursors[0].as_str().unwrap()))
        .await;
    for id in ["all", "elsewhere", "last"] {
        assert_eq!(again.frame().await["id"], id);
    }
    ping(&mut again, &cursors[6]).await;
    assert_eq!(acknowledged().await, [3, 1, 1, 1, 2, 3]);
    for (id, replayed, written) in [("all", 1, 2), ("bob", 0, 1), ("elsewhere", 1, 1)] {
        let shown = trace(&app, id, "").await;
        assert_eq!(
            (count(&shown, "/replayed"), count(&shown, "/written")),
            (replayed, written),
            "{id}"
        );
    }
}

#[actix_web::test]
async fn what_a_stalled_client_does_not_get_is_counted_with_the_reason() {
    let app = narrow().await;
    let slow = connect_slow(&app).await;
    let mut last = 0;
    for number in 0..ENOUGH {
        let body = json!({"channel": "ALL", "message": "x".repeat(LARGE)});
        let receipt = publish(&app, &number.to_string(), body).await;
        last = number;
        if receipt["dropped"] == 1 {
            break;
        }
    }
    let shown = trace(&app, &last.to_string(), "?user=slow").await;
    assert_whole(&shown);
    assert_eq!(
        (&shown["lost"]["outboxFull"], &shown["matched"]),
        (&json!(1), &json!(1)),
        "{shown}"
    );
    let one = &shown["user"]["connections"][0];
    assert_eq!((&one["outcome"], &one["closeCode"]), (&json!("dropped"), &json!(4420)), "{one}");
    assert!(
        one["detail"]
            .as_str()
            .is_some_and(|text| text.starts_with("outbox full: disconnected 4420")),
        "{one}"
    );
    let waited = until(&app, &(last - 1).to_string(), "/lost/tooSlow", 1).await;
    assert_eq!((&waited["written"], &waited["waiting"]), (&json!(0), &json!(0)));
    let lost =
        trace(&app, &(last - 1).to_string(), "?user=slow").await["user"]["connections"][0].clone();
    assert_eq!(lost["outcome"], "lost");
    assert!(
        lost["detail"].as_str().is_some_and(|text| text.contains("not written: disconnected 4420")),
        "{lost}"
    );
    assert_eq!(
        trace(&app, "0", "?user=slow").await["user"]["connections"][0]["outcome"],
        "written"
    );
    publish(&app, "after", json!({"channel": "ALL"})).await;
    let after = trace(&app, "after", "?user=slow").await;
    let word = after["user"]["connections"][0]["outcome"].clone();
    assert!(after["matched"] == 0 && (word == "ending" || word == "notConnected"), "{after}");
    drop(slow);
}

#[actix_web::test]
async fn what_waits_for_a_connection_that_breaks_is_counted_as_that() {
    let app = narrow().await;
    let slow = connect_slow(&app).await;
    let mut waiting = None;
    for number in 0..ENOUGH {
        let id = number.to_string();
        publish(&app, &id, json!({"channel": "ALL", "message": "x".repeat(LARGE)})).await;
        // A second look tells whether the socket would have taken it.
        let queued = app
            .call("GET", "/v1/connections?user=slow", Some(&Token::admin("root")), None, 200)
            .await;
        if queued.body["items"][0]["queuedBytes"].as_u64() >= Some(2 * LARGE as u64) {
            waiting = Some(id);
            break;
        }
    }
    let id = waiting.expect("the buffers are full");
    let shown = trace(&app, &id, "?user=slow").await;
    assert_eq!(
        (&shown["waiting"], &shown["user"]["connections"][0]["outcome"]),
        (&json!(1), &json!("waiting"))
    );
    drop(slow);
    until(&app, &id, "/lost/ended", 1).await;
    let shown = trace(&app, &id, "?user=slow").await["user"]["connections"][0].clone();
    assert_eq!(shown["outcome"], "lost");
    assert!(
        shown["endedAt"].is_string()
            && shown["detail"].as_str().is_some_and(|text| text.contains("not written"))
    );
}

#[actix_web::test]
async fn what_a_newer_message_replaced_is_counted_and_told() {
    let app = narrow().await;
    let prices = json!({"name": "prices", "slow": "latest"});
    app.create_channel(prices).await;
    let (mut healthy, slow) = (app.connect(&token("healthy")).await, connect_slow(&app).await);
    let (mut replaced, mut ids) = (0, Vec::new());
    while replaced <= MAX_REPLACED {
        let number = ids.len();
        assert!(number < 4 * ENOUGH, "only {replaced} were replaced");
        let body = json!({"channel": "prices", "message": "x".repeat(LARGE)});
        let receipt = publish(&app, &number.to_string(), body).await;
        replaced += receipt["replaced"].as_u64().unwrap_or(0);
        ids.push(number.to_string());
        healthy.frame().await;
    }
    let all = join_all(ids.iter().map(|id| trace(&app, id, ""))).await;
    all.iter().for_each(assert_whole);
    let counted: u64 = all.iter().map(|shown| count(shown, "/lost/replaced")).sum();
    assert_eq!(counted, replaced);
    let oldest =
        all.iter().position(|shown| count(shown, "/lost/replaced") == 1).expect("one was replaced");
    let newest = all
        .iter()
        .rposition(|shown| count(shown, "/lost/replaced") == 1)
        .expect("one was replaced");
    for (number, user, outcome) in [
        (newest, "slow", "replaced"),
        (oldest, "slow", "writtenOrReplaced"),
        (oldest, "healthy", "written"),
    ] {
        let shown = trace(&app, &number.to_string(), &format!("?user={user}")).await;
        assert_eq!(shown["user"]["connections"][0]["outcome"], outcome);
    }
    drop(slow);
}

#[actix_web::test]
async fn ten_thousand_messages_can_be_traced_and_the_oldest_give_way() {
    let app = roomy(Options::default()).await;
    let token = token("shop").component();
    for batch in 0..MAX_TRACES / 100 {
        let message = |number| json!({"channel": "user:nobody", "message": 1, "id": format!("{}", batch * 100 + number)});
        let body = json!({"messages": (0..100).map(message).collect::<Vec<_>>()});
        app.call("POST", "/v1/messages/batch", Some(&token), Some(body), 200).await;
        trace(&app, "0", "").await;
    }
    let gone = async |id: &str| {
        let path = format!("/v1/messages/{id}");
        app.call("GET", &path, Some(&token), None, 404).await.code() == "NOT_FOUND"
    };
    publish(&app, "above", json!({"channel": "user:nobody"})).await;
    assert!(gone("0").await);
    assert_eq!(
        (
            trace(&app, "1", "").await["id"].clone(),
            trace(&app, "above", "").await["matched"].clone()
        ),
        ("1".into(), 0.into())
    );
}

#[actix_web::test]
async fn a_thousand_ended_connections_are_remembered_and_a_hundred_are_shown() {
    let app =
        roomy(Options::default().with("HERALD_CONNECTS_PER_ADDRESS_PER_SECOND", 100_000)).await;
    publish(&app, "one", json!({"channel": "ALL"})).await;
    let mut ended = 0;
    for (goal, remembered) in [
        (MAX_SHOWN, MAX_SHOWN),
        (MAX_SHOWN + 1, MAX_SHOWN + 1),
        (MAX_ENDED, MAX_ENDED),
        (MAX_ENDED + 1, MAX_ENDED),
    ] {
        while ended < goal {
            let some = (goal - ended).min(50);
            let sockets =
                join_all((0..some).map(|_| async { app.connect(&token("alice")).await })).await;
            join_all(sockets.into_iter().map(Socket::close)).await;
            ended += some;
        }
        let wait = async {
            loop {
                let shown = trace(&app, "one", "?user=alice").await["user"].take();
                let connections = shown["connections"].as_array().expect("a list");
                if shown["total"] == remembered
                    && connections.iter().all(|one| one["endedAt"].is_string())
                {
                    return connections.len();
                }
            }
        };
        assert_eq!(within("all have ended", wait).await, goal.min(MAX_SHOWN));
    }
}

#[actix_web::test]
async fn as_much_is_traced_as_is_set() {
    let options =
        Options::default().with("HERALD_TRACED_MESSAGES", 2).with("HERALD_TRACED_CONNECTIONS", 1);
    let app = roomy(options).await;
    for id in ["first", "second", "third"] {
        publish(&app, id, json!({"channel": "ALL"})).await;
        trace(&app, id, "").await;
    }
    let gone =
        app.call("GET", "/v1/messages/first", Some(&token("shop").component()), None, 404).await;
    assert_eq!(gone.code(), "NOT_FOUND");
    for _ in 0..2 {
        app.connect(&token("alice")).await.close().await;
    }
    let one_is_known =
        async { while trace(&app, "second", "?user=alice").await["user"]["total"] != 1 {} };
    within("the end of both, and only one is known", one_is_known).await;
}

#[actix_web::test]
async fn where_the_process_traces_too_much_the_instance_that_was_used_least_recently_gives_way() {
    let options = Options::default().with("HERALD_TRACE_TOTAL_BYTES", 65_536);
    let app = roomy(options).await;
    let most = 1_000_000;
    let limits = json!({"messagesPerSecond": most, "messageBurst": most, "userMessagesPerSecond": most,
        "userMessageBurst": most});
    app.create_instance("other", limits).await;
    let publisher = token("shop").component().instances(&["*"]).sign();
    let send = async |instance: &str, id: &str| {
        let body = json!({"channel": "ALL", "message": 1, "id": id});
        let request = app.request("POST", "/v1/messages").header("instance", instance);
        app.send(request.bearer_auth(&publisher).json(&body), 202).await;
    };
    let traced = async |instance: &str, id: &str, expected: u16| {
        let request = app.request("GET", &format!("/v1/messages/{id}"));
        app.send(request.header("instance", instance).bearer_auth(&publisher), expected).await;
    };
    let bytes = async || -> usize {
        let page = app.metrics().await;
        let line = page.lines().find_map(|line| line.strip_prefix("herald_trace_bytes "));
        line.expect("the metric").trim_end_matches(".0").parse().expect("a number")
    };
    let mut sent = 0;
    while bytes().await < 20_000 {
        send("main", &format!("m-{sent}")).await;
        sent += 1;
    }
    send("other", "o-first").await;
    traced("main", "m-0", 200).await;
    let within_bound = async {
        for number in 0.. {
            if number > 10 && bytes().await > 60_000 {
                break;
            }
            send("other", &format!("o-{number}")).await;
        }
    };
    within("nearly as much as may be", within_bound).await;
    traced("main", "m-0", 200).await;
    for number in 0..sent {
        send("other", &format!("p-{number}")).await;
    }
    traced("main", "m-0", 404).await;
    traced("other", "o-first", 200).await;
    assert!(bytes().await <= 65_536);
}
