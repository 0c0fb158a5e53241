//! Connections, for administrators: the list, acknowledgements, and sending connections away.

use crate::support::app::Answer;
use crate::support::socket::Handshake;
use crate::support::{App, Options, Token, token, within};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;

async fn ask(app: &App, method: &str, query: &str, expected: u16) -> Answer {
    let path = format!("/v1/connections{query}");
    app.call(method, &path, Some(&Token::admin("root")), None, expected).await
}

fn users(answer: &Answer) -> Vec<&str> {
    let items = answer.body["items"].as_array().expect("items");
    items.iter().map(|item| item["userId"].as_str().expect("a user")).collect()
}

#[actix_web::test]
async fn a_connection_is_listed_with_what_it_is() {
    let app = App::start().await;
    app.create_channel(json!({"name": "news"})).await;
    let socket = app.connect(&token("alice").groups(&["eng"])).await;
    let list = ask(&app, "GET", "", 200).await.body;
    let one = &list["items"][0];
    for (field, value) in [
        ("connectionId", socket.connected["connectionId"].clone()),
        ("userId", json!("alice")),
        ("groups", json!(["eng"])),
        ("channels", json!(["ALL", "user:alice", "group:eng", "channel:news"])),
        ("address", json!("127.0.0.1")),
        ("transport", json!("wss")),
        ("queuedBytes", json!(0)),
        ("ackedCursor", Value::Null),
        ("lag", Value::Null),
    ] {
        assert_eq!(one[field], value, "{field}");
    }
    assert!(
        one["connectedAt"].is_string()
            && one["expiresAt"].is_string()
            && one["userAgent"].is_string()
    );
    assert_eq!((&list["total"], &list["next"]), (&json!(1), &Value::Null));
}

#[actix_web::test]
async fn two_hundred_characters_of_a_user_agent_are_kept() {
    let app = App::start().await;
    for (length, kept) in [(199, 199), (200, 200), (201, 200)] {
        let path = format!("/?authorization={}&instance=main", token("alice").sign());
        let handshake = Handshake::new(&app, &path).header("user-agent", &"x".repeat(length));
        let socket =
            handshake.send(&app).await.unwrap_or_else(|_| panic!("refused")).welcomed().await;
        let list = ask(&app, "GET", "?user=alice", 200).await.body;
        let shown = list["items"].as_array().expect("items").iter();
        let mut shown =
            shown.filter(|item| item["connectionId"] == socket.connected["connectionId"]);
        assert_eq!(shown.next().expect("it is listed")["userAgent"], "x".repeat(kept));
    }
}

#[actix_web::test]
async fn lists_are_filtered_and_come_in_pages() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    let rules = json!([{"effect": "allow", "group": "eng"}]);
    let channel = json!({"name": "news", "rules": rules});
    app.create_channel(channel).await;
    let mut sockets = Vec::new();
    for (user, groups) in [("a", &["eng"][..]), ("b", &[]), ("a", &["ops"]), ("c", &["eng", "ops"])]
    {
        sockets.push(app.connect(&token(user).groups(groups)).await);
    }
    for (query, expected) in [
        ("", vec!["a", "b", "a", "c"]),
        ("?user=a", vec!["a", "a"]),
        ("?group=eng", vec!["a", "c"]),
        ("?channel=news", vec!["a", "c"]),
        ("?channel=channel:news&user=a", vec!["a"]),
        ("?user=nobody", vec![]),
    ] {
        let answer = ask(&app, "GET", query, 200).await;
        assert_eq!(
            (users(&answer), &answer.body["total"]),
            (expected.clone(), &json!(expected.len())),
            "{query}"
        );
    }
    let first = ask(&app, "GET", "?limit=3", 200).await;
    assert_eq!((users(&first), &first.body["total"]), (vec!["a", "b", "a"], &json!(4)));
    let rest =
        ask(&app, "GET", &format!("?after={}", first.body["next"].as_str().unwrap()), 200).await;
    assert_eq!((users(&rest), &rest.body["next"]), (vec!["c"], &Value::Null));
    for bad in ["?limit=0", "?limit=201", "?channel=%2F", "?user=", "?groups=a"] {
        ask(&app, "GET", bad, 422).await;
    }
    let other = app.request("GET", "/v1/connections").header("instance", "other");
    let other =
        app.send(other.bearer_auth(Token::admin("x").instances(&["other"]).sign()), 200).await;
    assert_eq!(other.body["total"], 0);
}

#[actix_web::test]
async fn a_ping_with_a_cursor_acknowledges() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice")).await;
    let mut cursors = vec![socket.connected["cursor"].clone()];
    for number in 0..3 {
        app.publish("ALL", json!(number)).await;
        cursors.push(socket.frame().await["cursor"].clone());
    }
    for (cursor, lag) in [(&cursors[1], 2), (&cursors[3], 0)] {
        socket.send(&json!({"type": "PING", "cursor": cursor}).to_string()).await;
        assert_eq!(socket.frame().await["type"], "PONG");
        let one = ask(&app, "GET", "", 200).await.body["items"][0].clone();
        assert_eq!((&one["ackedCursor"], &one["lag"]), (cursor, &json!(lag)));
    }
    for foreign in ["AAAAAAAAAAAAAAAAAAAAAA", "x"] {
        socket.send(&json!({"type": "PING", "cursor": foreign}).to_string()).await;
        assert_eq!(socket.frame().await["type"], "PONG");
    }
    assert_eq!(ask(&app, "GET", "", 200).await.body["items"][0]["ackedCursor"], cursors[3]);
    let metrics = app.metrics().await;
    assert!(
        metrics.contains("herald_ack_lag_count 2") && metrics.contains("herald_ack_lag_sum 2.0"),
        "{metrics}"
    );
}

#[actix_web::test]
async fn one_a_users_and_a_groups_connections_are_closed_with_the_reason() {
    let app = App::start().await;
    let mut one = app.connect(&token("a")).await;
    let mut two = app.connect(&token("a").groups(&["eng"])).await;
    let mut three = app.connect(&token("b").groups(&["eng"])).await;
    let mut four = app.connect(&token("c")).await;
    let id = one.connected["connectionId"].as_str().unwrap().to_owned();
    ask(&app, "DELETE", &format!("/{id}?reason=lunch%20time"), 204).await;
    assert_eq!(one.closed().await, (4409, "DISCONNECTED: lunch time".into()));
    assert_eq!(ask(&app, "DELETE", &format!("/{id}"), 404).await.code(), "NOT_FOUND");
    assert_eq!(ask(&app, "DELETE", "?group=eng", 200).await.body, json!({"disconnected": 2}));
    for socket in [&mut two, &mut three] {
        assert_eq!(
            socket.closed().await,
            (4409, "DISCONNECTED: an administrator closed the connection".into())
        );
    }
    assert_eq!(ask(&app, "DELETE", "?user=nobody", 200).await.body, json!({"disconnected": 0}));
    assert_eq!(ask(&app, "DELETE", "", 422).await.body["errors"][0]["pointer"], "user");
    for (length, status) in [(99, 200), (100, 200), (101, 422)] {
        ask(&app, "DELETE", &format!("?user=nobody&reason={}", "x".repeat(length)), status).await;
    }
    four.ping(b"still here").await;
    app.connect(&token("a")).await;
}

/// So many groups, each of sixty bytes, of which the first bears this number.
fn groups_of(number: usize) -> Vec<String> {
    (0..150)
        .map(|group| format!("{:0>60}", if group == 0 { number } else { 1_000 + group }))
        .collect()
}

#[actix_web::test]
async fn what_an_instances_connections_hear_has_a_bound_and_who_needs_more_comes_later() {
    const BOUND: usize = 1 << 20;
    let bound = Options::default().with("HERALD_MEMBERSHIP_BYTES", BOUND);
    let app = App::start_with(bound.with("HERALD_WORKERS", 1)).await;
    let open = async |number: usize| {
        let by = token(&format!("user-{number}")).with("groups", json!(groups_of(number)));
        app.open(&by, "").await
    };
    let mut held = Vec::new();
    let refused = loop {
        let mut socket = open(held.len()).await;
        match socket.message().await {
            Some(Message::Text(_)) => held.push(socket),
            Some(Message::Close(Some(close))) => break close,
            other => panic!("{other:?}"),
        }
        assert!(held.len() < BOUND / 150 / 60, "the bound does not hold");
    };
    assert_eq!(u16::from(refused.code), 1013);
    assert!(refused.reason.as_str().starts_with("OVERLOADED"), "{}", refused.reason);
    // Who hears what others hear needs no more, and a place that was given back is free.
    let shared = open(0).await.welcomed().await;
    let (count, last) = (held.len(), held.pop().expect("there are some"));
    last.close().await;
    let has_room = async {
        loop {
            if let Some(Message::Text(_)) = open(count).await.message().await {
                return;
            }
        }
    };
    within("room for another set", has_room).await;
    assert_eq!(shared.connected["channels"].as_array().map(Vec::len), Some(152));
}

#[actix_web::test]
async fn of_an_instance_with_heavy_rules_so_many_newcomers_wait_and_the_others_come_later() {
    let waiting = Options::default().with("HERALD_NEWCOMERS", 2).with("HERALD_WORKERS", 1);
    let app = App::start_with(waiting).await;
    let looks: Vec<String> =
        (0..15).map(|look| format!("claims.text.contains('{look}')")).collect();
    let rule = |number: usize| {
        let when = format!("{} || user == '{number}'", looks.join(" || "));
        json!({"effect": "allow", "when": when})
    };
    for channel in 0..20 {
        let rules: Vec<Value> = (0..90).map(rule).collect();
        app.create_channel(json!({"name": format!("c{channel}"), "rules": rules})).await;
    }
    let by = token("x").with("text", "y".repeat(8_000));
    let arrive = async || match app.open(&by, "").await.message().await {
        Some(Message::Text(_)) => None,
        Some(Message::Close(Some(close))) => Some(close),
        other => panic!("{other:?}"),
    };
    let outcomes = join_all((0..12).map(|_| arrive())).await;
    let refused: Vec<_> = outcomes.iter().flatten().collect();
    assert!((1..=10).contains(&refused.len()), "{} of 12 were refused", refused.len());
    for close in refused {
        assert_eq!(u16::from(close.code), 1013);
        assert!(
            close.reason.as_str().starts_with("OVERLOADED: 2 connections wait"),
            "{}",
            close.reason
        );
    }
    assert!(arrive().await.is_none(), "nobody waits any more");
}
