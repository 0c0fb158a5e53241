//! Server-sent events: the same frames, order, rights and limits as a socket, in plain HTTP.

use crate::support::socket::connect_tls;
use crate::support::stream::Event;
use crate::support::{App, Options, Stream, Token, token, within};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::Message;

/// Publishes a JSON text as it stands.
async fn publish_text(app: &App, channel: &str, message: &str) {
    let body = format!("{{\"channel\":{},\"message\":{message}}}", json!(channel));
    let request = app
        .request("POST", "/v1/messages")
        .header("instance", "main")
        .bearer_auth(token("p").component().sign());
    app.send(request.header("content-type", "application/json").body(body), 202).await;
}

/// Waits until the instance has so many connections; says how often it looked.
async fn until_connections(app: &App, expected: u64) {
    let look = async {
        loop {
            let quotas =
                app.call("GET", "/v1/quotas", Some(&Token::admin("root")), None, 200).await;
            if quotas.body["usage"]["connections"] == expected {
                return;
            }
        }
    };
    within(&format!("{expected} connections"), look).await;
}

#[actix_web::test]
async fn the_frames_are_those_of_a_socket_byte_for_byte_and_in_order() {
    let app = App::start().await;
    let alice = token("alice").groups(&["eng"]);
    let (mut socket, mut stream) =
        (app.connect(&alice).await, Stream::open(app.stream_request(&alice, "")).await);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(stream.headers[name], value, "{name}");
    }
    let connected = stream.connected.json();
    assert_eq!(connected["channels"], socket.connected["channels"]);
    assert_eq!(
        (&connected["cursor"], &connected["userId"]),
        (&json!(stream.connected.id), &json!("alice"))
    );
    let texts = [
        "null",
        " { \"b\" :\r\n[ 1.50 , 1e300 ],\t\"a\": \"\\r\\n\\u2028\u{2028}\u{85} ü\" } ",
        "\": keep-alive\\n\\n\"",
    ];
    for (channel, text) in ["ALL", "group:eng", "alice"].into_iter().zip(texts) {
        publish_text(&app, channel, text).await;
        let Some(Message::Text(frame)) = socket.message().await else { panic!("a frame") };
        let event = stream.event().await;
        assert_eq!(
            (event.data.as_str(), event.name.as_str(), event.retry.as_str()),
            (frame.as_str(), "", "")
        );
        assert_eq!(event.json()["cursor"], event.id);
    }
    for number in 0..100 {
        app.publish("user:alice", json!({"n": number})).await;
    }
    for number in 0..100 {
        assert_eq!(stream.data().await, json!({"n": number}));
    }
}

#[actix_web::test]
async fn a_stream_resumes_by_last_event_id_or_by_cursor() {
    let app = App::start().await;
    let (alice, stream) = (token("alice"), app.stream("alice").await);
    let cursor = stream.connected.id.clone();
    assert!(stream.connected.json().get("recovered").is_none());
    drop(stream);
    app.publish("ALL", json!("missed")).await;
    app.publish("user:alice", json!("too")).await;
    let by_header =
        |query: &str, id: &str| app.stream_request(&alice, query).header("last-event-id", id);
    let by_query = |cursor: &str| app.stream_request(&alice, &format!("&cursor={cursor}"));
    let both = by_header(&format!("&cursor={cursor}"), &cursor);
    for request in [by_header("", &cursor), by_header("&cursor=", &cursor), by_query(&cursor), both]
    {
        let mut stream = Stream::open(request).await;
        assert_eq!(stream.connected.json()["recovered"], true);
        assert_eq!(stream.connected.id, cursor, "a stream that is cut here begins here again");
        assert_eq!((stream.data().await, stream.data().await), (json!("missed"), json!("too")));
    }
    let mut stream = Stream::open(by_header("", "nonsense")).await;
    let connected = stream.connected.json();
    assert_eq!((&connected["recovered"], &connected["reason"]), (&json!(false), &json!("EPOCH")));
    app.publish("ALL", json!("new")).await;
    assert_eq!(stream.data().await, "new");
    assert!(Stream::open(by_header("", "")).await.connected.json().get("recovered").is_none());
    for request in [
        by_header("&cursor=other", &cursor),
        by_header("", &cursor).header("last-event-id", "other"),
    ] {
        assert_eq!(app.send(request, 400).await.code(), "CONFLICTING_PARAMETER");
    }
}

#[actix_web::test]
async fn refusals_are_problems_in_plain_http() {
    let app = App::start().await;
    for (id, change) in [
        ("off", json!({"enabled": false})),
        ("strict", json!({"origins": ["https://good.example"]})),
    ] {
        app.create_instance(id, json!({})).await;
        let mut body = json!({"name": id});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let request = app
            .request("PUT", &format!("/v1/instances/{id}"))
            .bearer_auth(Token::operator().sign());
        app.send(request.header("if-match", "\"1\"").json(&body), 200).await;
    }
    let everywhere = token("a").instances(&["*"]);
    let good = Some(&everywhere);
    let cases = [
        (None, "instance=main", 401, "TOKEN_MISSING"),
        (good, "", 400, "INSTANCE_REQUIRED"),
        (good, "instance=main&instance=off", 400, "CONFLICTING_PARAMETER"),
        (good, "instance=nowhere", 404, "INSTANCE_NOT_FOUND"),
        (good, "instance=off", 403, "INSTANCE_DISABLED"),
        (good, "instance=main&limit=1", 422, "INVALID_REQUEST"),
        (good, "instance=main&channels=[1", 422, "INVALID_REQUEST"),
        (Some(&token("a").instances(&["other"])), "instance=main", 403, "INSTANCE_FORBIDDEN"),
        (Some(&Token::admin("a")), "instance=main", 403, "ROLE_REQUIRED"),
        (Some(&token("a").expires_in(-60)), "instance=main", 401, "TOKEN_EXPIRED"),
    ];
    for (token, query, status, code) in cases {
        let mut request = app.request("GET", &format!("/v1/stream?{query}"));
        if let Some(token) = token {
            request = request.bearer_auth(token.sign());
        }
        let answer = app.send(request, status).await;
        assert_eq!(
            (answer.code(), answer.header("content-type")),
            (code, "application/problem+json"),
            "{query}"
        );
    }
    let request = app.request("GET", "/v1/stream?instance=main").bearer_auth("not.a.token");
    assert_eq!(app.send(request, 401).await.code(), "TOKEN_INVALID");
    let from = |origin: &str| {
        let request =
            app.request("GET", "/v1/stream?instance=strict").bearer_auth(everywhere.sign());
        request.header("origin", origin)
    };
    let refused = app.send(from("https://evil.example"), 403).await;
    assert_eq!(
        (refused.code(), refused.header("access-control-allow-origin")),
        ("ORIGIN_FORBIDDEN", "")
    );
    let stream = Stream::open(from("https://good.example")).await;
    assert_eq!(stream.headers["access-control-allow-origin"], "https://good.example");
    assert_eq!(stream.headers["vary"], "Origin");
    app.send(app.request("POST", "/v1/stream?instance=main").bearer_auth(everywhere.sign()), 404)
        .await;
}

#[actix_web::test]
async fn streams_count_like_sockets_until_they_are_gone() {
    let app = App::start().await;
    let (_socket, stream) = (app.connect(&token("alice")).await, app.stream("alice").await);
    let receipt = app.publish("user:alice", json!(1)).await;
    assert_eq!(
        (&receipt["matched"], &receipt["queued"], &receipt["dropped"]),
        (&json!(2), &json!(2), &json!(0))
    );
    until_connections(&app, 2).await;
    assert!(app.metrics().await.contains("herald_connections{instance=\"main\"} 2"));
    let id = stream.connected.json()["connectionId"].clone();
    let exclude = json!({"channel": "ALL", "message": 1, "exclude": {"connections": [id]}});
    let answer =
        app.call("POST", "/v1/messages", Some(&token("p").component()), Some(exclude), 202).await;
    assert_eq!(answer.body["matched"], 1);
    drop(stream);
    until_connections(&app, 1).await;
    assert_eq!(app.publish("user:alice", json!(1)).await["matched"], 1);
}

#[actix_web::test]
async fn caps_are_429_and_503_and_shared_with_sockets() {
    let options = Options::default()
        .with("HERALD_CONNECTIONS_PER_ADDRESS", 5)
        .with("HERALD_MAX_CONNECTIONS", 4);
    let app = App::start_with(options).await;
    app.create_instance("tight", json!({"connections": 2, "connectionsPerUser": 1})).await;
    let tight = |user: &str| {
        let token = token(user).instances(&["tight"]).sign();
        app.request("GET", "/v1/stream?instance=tight")
            .bearer_auth(token)
            .timeout(Duration::from_secs(300))
    };
    let refused = async |request, status, code: &str, sentence: &str| {
        let answer = app.send(request, status).await;
        assert_eq!((answer.code(), answer.body["detail"].as_str().unwrap()), (code, sentence));
    };
    let _first = Stream::open(tight("a")).await;
    refused(tight("a"), 429, "TOO_MANY_CONNECTIONS", "the user has its 1 connections").await;
    let _second = Stream::open(tight("b")).await;
    refused(tight("c"), 429, "TOO_MANY_CONNECTIONS", "the instance has its 2 connections").await;
    let (_socket, _third) = (app.connect(&token("a")).await, app.stream("b").await);
    refused(
        app.stream_request(&token("c"), ""),
        503,
        "OVERLOADED",
        "the process has its 4 connections",
    )
    .await;
    let app = App::start_with(Options::default().with("HERALD_CONNECTIONS_PER_ADDRESS", 1)).await;
    let first = app.stream("a").await;
    let answer = app.send(app.stream_request(&token("b"), ""), 429).await;
    assert_eq!(answer.body["detail"], "an address may have 1 connections");
    drop(first);
    let again = async {
        while app.stream_request(&token("b"), "").send().await.expect("an answer").status() != 200 {
        }
    };
    within("the address' place to be free", again).await;
}

#[actix_web::test]
async fn a_token_that_ends_closes_its_stream_with_4401() {
    let app = App::start_with(Options::default().with("HERALD_JWT_LEEWAY_SECONDS", 0)).await;
    let mut stream = Stream::open(app.stream_request(&token("alice").expires_in(2), "")).await;
    let reason = "TOKEN_EXPIRED: fetch a new token and reconnect".to_owned();
    assert_eq!(stream.closed().await, (4401, reason));
    until_connections(&app, 0).await;
}

#[actix_web::test]
async fn a_stream_hears_what_it_wants_and_may_and_is_told_of_changes() {
    let app = App::start().await;
    let mut stream =
        Stream::open(app.stream_request(&token("alice"), "&channels=ALL,channel:news")).await;
    assert_eq!(stream.connected.json()["channels"], json!(["ALL"]));
    app.publish("user:alice", json!("not wanted")).await;
    app.create_channel(json!({"name": "news"})).await;
    let channels = r#"{"type":"CHANNELS","channels":["ALL","channel:news"]}"#;
    let expected = Event { name: "CHANNELS".into(), data: channels.into(), ..Event::default() };
    assert_eq!(stream.event().await, expected);
    app.publish("channel:news", json!("wanted")).await;
    assert_eq!(stream.data().await, "wanted");
    let off = app.request("PUT", "/v1/instances/main").bearer_auth(Token::operator().sign());
    app.send(off.header("if-match", "\"1\"").json(&json!({"name": "main", "enabled": false})), 200)
        .await;
    assert_eq!(
        stream.closed().await,
        (4403, "INSTANCE_DISABLED: the instance was disabled".into())
    );
}

#[actix_web::test]
async fn a_node_that_goes_away_says_when_to_come_back() {
    let mut app = App::start().await;
    let mut stream = app.stream("alice").await;
    app.publish("ALL", json!("last")).await;
    app.begin_stop();
    assert_eq!(stream.data().await, "last");
    let event = stream.event().await;
    let after_ms = event.json()["afterMs"].as_u64().expect("milliseconds");
    assert_eq!(
        (event.name.as_str(), event.retry.parse().ok()),
        ("RECONNECT", Some(after_ms.max(1_000)))
    );
    assert_eq!(
        stream.closed().await,
        (1012, "RESTARTING: this node is going away; reconnect".into())
    );
}

#[actix_web::test]
async fn a_quiet_stream_is_sent_comments_and_needs_no_keep_alive() {
    let options = Options::default()
        .with("HERALD_STREAM_COMMENT_SECONDS", 1)
        .with("HERALD_KEEP_ALIVE_SECONDS", 1);
    let app = App::start_with(options).await;
    let (mut stream, mut silent) = (app.stream("alice").await, app.connect(&token("alice")).await);
    for _ in 0..3 {
        let comment = Event { comment: "keep-alive".into(), ..Event::default() };
        assert_eq!(stream.block().await, Some(comment));
    }
    assert_eq!(silent.closed().await.0, 4408);
    app.publish("ALL", json!("still here")).await;
    assert_eq!(stream.data().await, "still here");
}

/// A connection of its own.
type RawStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// Sends the request of a stream, and reads nothing.
async fn open_raw(app: &App, query: &str) -> RawStream {
    let mut raw = connect_tls(app).await;
    let request = format!(
        "GET /v1/stream?authorization={}&{query} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        token("slow").instances(&["*"]).sign()
    );
    raw.write_all(request.as_bytes()).await.expect("the server reads");
    raw
}

#[actix_web::test]
async fn a_stream_that_is_not_read_is_given_up_and_the_publisher_is_told() {
    let options = Options::default()
        .with("HERALD_OUTBOX_BYTES", 262_144)
        .with("HERALD_SEND_BUFFER_BYTES", 65_536)
        .with("HERALD_SOCKET_USER_TIMEOUT_SECONDS", 1);
    let app = App::start_with(options).await;
    let limits = json!({"componentPayloadBytes": 65_536, "messageBurst": 100_000, "userMessageBurst": 100_000});
    app.create_instance("wide", limits).await;
    let connections = async || {
        let page = app.metrics().await;
        page.contains("herald_open_connections 1")
    };
    let mut slow = open_raw(&app, "instance=wide").await;
    within("the stream", async { while !connections().await {} }).await;
    let body = json!({"channel": "ALL", "message": "x".repeat(60_000)});
    let publish = async || {
        let request = app.request("POST", "/v1/messages").header("instance", "wide").json(&body);
        let publisher = token("p").component().instances(&["*"]).sign();
        app.send(request.bearer_auth(publisher), 202).await.body
    };
    let full = async {
        loop {
            let receipt = publish().await;
            assert_eq!(receipt["matched"], 1, "{receipt}");
            if receipt["dropped"] == 1 {
                return;
            }
        }
    };
    within("the outbox to be full", full).await;
    assert_eq!(publish().await["matched"], 0, "it is no receiver any more");
    within("the stream to be cut", async { while connections().await {} }).await;
    let mut read = Vec::new();
    within("the end", slow.read_to_end(&mut read)).await.ok();
    assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

/// Reads until `text` has come.
async fn read_until(raw: &mut RawStream, text: &str) {
    let mut read = Vec::new();
    let come = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert_ne!(
                raw.read_buf(&mut read).await.expect("the connection holds"),
                0,
                "ended before {text}"
            );
        }
    };
    within(text, come).await;
}

#[actix_web::test]
async fn a_client_that_is_gone_gives_its_seat_back_long_before_the_next_comment() {
    let app = App::start_with(Options::default().with("HERALD_STREAM_COMMENT_SECONDS", 60)).await;
    let (mut first, mut second) =
        (open_raw(&app, "instance=main").await, open_raw(&app, "instance=main").await);
    read_until(&mut first, "keepAliveSeconds").await;
    read_until(&mut second, "keepAliveSeconds").await;
    first.shutdown().await.expect("it says goodbye");
    drop(first);
    drop(second);
    until_connections(&app, 0).await;
}

#[actix_web::test]
async fn a_client_that_keeps_sending_is_told_to_stop_and_occupies_no_worker() {
    let app = App::start().await;
    let mut raw = open_raw(&app, "instance=main").await;
    read_until(&mut raw, "keepAliveSeconds").await;
    let junk = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20_000);
    let (mut reader, mut writer) = tokio::io::split(raw);
    let write =
        actix_web::rt::spawn(async move { writer.write_all(junk.as_bytes()).await.is_ok() });
    let mut read = Vec::new();
    let told = async {
        while !String::from_utf8_lossy(&read).contains("4400,\"reason\":\"ONE_DIRECTIONAL: ") {
            assert_ne!(
                reader.read_buf(&mut read).await.expect("the connection holds"),
                0,
                "ended untold"
            );
        }
    };
    within("the stream's end", told).await;
    write.abort();
    until_connections(&app, 0).await;
}
