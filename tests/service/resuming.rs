//! Resuming by cursor: everything missed, in order, once, then live; or a plain word that something
//! is missing.

use crate::support::app::Answer;
use crate::support::socket::Handshake;
use crate::support::{App, Options, Socket, Token, postgres, token};
use serde_json::{Value, json};

async fn send(app: &App, body: Value, expected: u16) -> Answer {
    app.call("POST", "/v1/messages", Some(&token("publisher").component()), Some(body), expected)
        .await
}

/// Connects with a cursor and checks what `CONNECTED` says of it.
async fn resume(app: &App, token: &Token, cursor: &Value, reason: Option<&str>) -> Socket {
    let cursor = cursor.as_str().expect("a cursor");
    let socket = app.connect_with(token, &format!("&cursor={cursor}")).await;
    assert_eq!(socket.connected["recovered"], reason.is_none(), "{}", socket.connected);
    assert_eq!(socket.connected.get("reason").and_then(Value::as_str), reason);
    socket
}

#[actix_web::test]
async fn what_was_missed_comes_in_order_once_and_then_what_is_new() {
    let app = App::start().await;
    let alice = token("alice").groups(&["eng"]);
    let mut socket = app.connect(&alice).await;
    assert!(
        socket.connected.get("recovered").is_none() && socket.connected.get("reason").is_none()
    );
    app.publish("ALL", json!("heard")).await;
    let cursor = socket.frame().await["cursor"].clone();
    socket.close().await;
    for (channel, message) in
        [("ALL", 1), ("user:bob", 2), ("group:eng", 3), ("alice", 4), ("eng", 5)]
    {
        app.publish(channel, json!(message)).await;
    }
    let mut socket = resume(&app, &alice, &cursor, None).await;
    let mut last = Value::Null;
    for expected in [1, 3, 4, 5] {
        let frame = socket.frame().await;
        assert_eq!(frame["data"], expected, "{frame}");
        last = frame["cursor"].clone();
    }
    app.publish("ALL", json!("new")).await;
    assert_eq!(socket.data().await, "new");
    let mut again = resume(&app, &alice, &last, None).await;
    assert_eq!(again.data().await, "new");
}

#[actix_web::test]
async fn a_client_that_is_cut_before_its_replay_misses_nothing_by_keeping_the_cursor_of_its_first_frame()
 {
    let app = App::start().await;
    let alice = token("alice");
    let cursor = app.connect(&alice).await.connected["cursor"].clone();
    for number in 0..3 {
        app.publish("ALL", json!(number)).await;
    }
    let first = resume(&app, &alice, &cursor, None).await.connected["cursor"].clone();
    let mut socket = resume(&app, &alice, &first, None).await;
    for number in 0..3 {
        assert_eq!(socket.data().await, number);
    }
}

#[actix_web::test]
async fn an_idle_client_resumes_from_its_first_frame() {
    let app = App::start().await;
    app.publish("ALL", json!("before")).await;
    let socket = app.connect(&token("alice")).await;
    let cursor = socket.connected["cursor"].clone();
    socket.close().await;
    app.publish("ALL", json!("missed")).await;
    assert_eq!(resume(&app, &token("alice"), &cursor, None).await.data().await, "missed");
}

#[actix_web::test]
async fn what_is_no_cursor_of_this_memory_is_said_to_be_none() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    let alice = token("alice");
    let cursor = app.connect(&alice).await.connected["cursor"].clone();
    let foreign = "AAAAAAAAAAAAAAAAAAAAAA";
    for bad in [
        "x",
        foreign,
        "%20",
        "%C3%84",
        &"A".repeat(23),
        &format!("{}B", &cursor.as_str().unwrap()[..21]),
    ] {
        let mut socket = resume(&app, &alice, &json!(bad), Some("EPOCH")).await;
        app.publish("ALL", json!("live")).await;
        assert_eq!(socket.data().await, "live");
    }
    let first = app.connect_with(&alice, "&cursor=").await;
    assert!(first.connected.get("recovered").is_none(), "an empty cursor is none");
}

#[actix_web::test]
async fn an_audience_that_was_trimmed_is_too_old_and_others_are_not() {
    let app = App::start_with(Options::default().with("HERALD_HISTORY_MESSAGES", 3)).await;
    let (alice, bob) = (token("alice"), token("bob"));
    let cursor = app.connect(&alice).await.connected["cursor"].clone();
    for number in 0..3 {
        app.publish("user:alice", json!(number)).await;
    }
    let mut whole = resume(&app, &alice, &cursor, None).await;
    for number in 0..3 {
        assert_eq!(whole.data().await, number);
    }
    app.publish("user:alice", json!(3)).await;
    let mut partial = resume(&app, &alice, &cursor, Some("TOO_OLD")).await;
    resume(&app, &bob, &cursor, None).await;
    app.publish("ALL", json!("live")).await;
    assert_eq!(partial.data().await, "live", "nothing partial is sent");
}

/// A server to which one client may connect again and again.
async fn patient(options: Options) -> App {
    let options = options.with("HERALD_CONNECTS_PER_ADDRESS_PER_SECOND", 100_000);
    let app = App::launch(options, postgres::database().await).await;
    app.create_instance("main", json!({"connectsPerSecond": 100_000})).await;
    app
}

#[actix_web::test]
async fn bytes_time_and_replays_have_their_bounds() {
    let options = Options::default()
        .with("HERALD_HISTORY_BYTES", 4_096)
        .with("HERALD_HISTORY_SECONDS", 2)
        .with("HERALD_REPLAY_MESSAGES", 2);
    let app = patient(options).await;
    let cursor = async |user: &str| app.connect(&token(user)).await.connected["cursor"].clone();
    let (a, b, c) = (cursor("a").await, cursor("b").await, cursor("c").await);
    for _ in 0..2 {
        app.publish("user:a", json!("x".repeat(2_500))).await;
    }
    resume(&app, &token("a"), &a, Some("TOO_OLD")).await;
    for number in 0..2 {
        app.publish("user:b", json!(number)).await;
    }
    let before = cursor("b").await;
    resume(&app, &token("b"), &b, None).await;
    app.publish("user:b", json!(2)).await;
    resume(&app, &token("b"), &b, Some("TOO_MUCH")).await;
    loop {
        let socket =
            app.connect_with(&token("b"), &format!("&cursor={}", before.as_str().unwrap())).await;
        match socket.connected["reason"].as_str() {
            Some(reason) => break assert_eq!(reason, "TOO_OLD"),
            None => socket.close().await,
        }
    }
    resume(&app, &token("c"), &c, None).await;
}

#[actix_web::test]
async fn a_replay_has_as_many_bytes_as_are_set_and_not_one_more() {
    const MOST: usize = 65_536;
    /// What a frame over 125 bytes takes beside its text.
    const HEADER: usize = 4;
    let app = App::launch(
        Options::default().with("HERALD_REPLAY_BYTES", MOST),
        postgres::database().await,
    )
    .await;
    app.create_instance("main", json!({"componentPayloadBytes": 65_536})).await;
    for more in [0, 1] {
        let mut live = app.connect(&token("a")).await;
        let cursor = live.connected["cursor"].clone();
        let mut left = MOST;
        app.publish("ALL", json!("x".repeat(30_000))).await;
        let frame = live.frame().await.to_string().len() + HEADER;
        left -= frame;
        app.publish("ALL", json!("x".repeat(30_000 + left - frame + more))).await;
        let reason = if more == 0 { None } else { Some("TOO_MUCH") };
        resume(&app, &token("a"), &cursor, reason).await;
    }
}

#[actix_web::test]
async fn where_the_process_keeps_too_much_the_instance_that_was_used_least_recently_gives_way() {
    let options = Options::default().with("HERALD_HISTORY_TOTAL_BYTES", 1 << 20);
    let app = App::launch(options, postgres::database().await).await;
    for instance in ["main", "other"] {
        app.create_instance(instance, json!({"componentPayloadBytes": 65_536})).await;
    }
    let publisher = token("publisher").component().instances(&["*"]).sign();
    let publish = async |instance: &str| {
        let body = json!({"channel": "ALL", "message": "x".repeat(60_000)});
        let request = app.request("POST", "/v1/messages").header("instance", instance);
        app.send(request.bearer_auth(&publisher).json(&body), 202).await.body["cursor"].clone()
    };
    let recovered = async |instance: &str, cursor: &Value| {
        let cursor = cursor.as_str().expect("a cursor");
        let path = format!(
            "/?authorization={}&instance={instance}&cursor={cursor}",
            token("a").instances(&["*"]).sign()
        );
        let socket =
            Handshake::new(&app, &path).send(&app).await.unwrap_or_else(|_| panic!("refused"));
        socket.welcomed().await.connected["recovered"].clone()
    };
    let (main, other) = (publish("main").await, publish("other").await);
    for _ in 0..7 {
        publish("main").await;
        publish("other").await;
    }
    assert_eq!(
        (recovered("main", &main).await, recovered("other", &other).await),
        (json!(true), json!(true))
    );
    for _ in 0..3 {
        publish("other").await;
    }
    assert_eq!(
        (recovered("main", &main).await, recovered("other", &other).await),
        (json!(false), json!(true))
    );
}

#[actix_web::test]
async fn with_no_history_every_miss_is_told() {
    let app = App::start_with(Options::default().with("HERALD_HISTORY_MESSAGES", 0)).await;
    let cursor = app.connect(&token("a")).await.connected["cursor"].clone();
    resume(&app, &token("a"), &cursor, None).await;
    app.publish("ALL", json!(1)).await;
    resume(&app, &token("a"), &cursor, Some("TOO_OLD")).await;
}

#[actix_web::test]
async fn a_ttl_ends_a_message_early_and_zero_is_live_only() {
    let app = patient(Options::default()).await;
    let mut live = app.connect(&token("a")).await;
    let cursor = live.connected["cursor"].clone();
    for (ttl, message) in [
        (json!(0), "live only"),
        (json!(120), "longest"),
        (Value::Null, "default"),
        (json!(1), "short"),
    ] {
        send(&app, json!({"channel": "ALL", "message": message, "ttl": ttl}), 202).await;
        assert_eq!(live.data().await, message);
    }
    for bad in [json!(121), json!(-1), json!(1.5), json!("1")] {
        let answer = send(&app, json!({"channel": "ALL", "message": 1, "ttl": bad}), 422).await;
        assert_eq!(answer.body["errors"][0]["pointer"], "/ttl");
    }
    app.publish("user:a", json!("end")).await;
    loop {
        let mut socket = resume(&app, &token("a"), &cursor, None).await;
        assert_eq!(
            (socket.data().await, socket.data().await),
            (json!("longest"), json!("default"))
        );
        match socket.data().await.as_str() {
            Some("short") => socket.close().await,
            last => break assert_eq!(last, Some("end")),
        }
    }
}

#[actix_web::test]
async fn present_rights_alone_decide() {
    let app = App::start().await;
    let admin = Token::admin("root");
    let rules = |rules: Value| Some(json!({"name": "news", "rules": rules}));
    let allow = |user: &str| json!([{"effect": "allow", "user": user}]);
    app.call("POST", "/v1/channels", Some(&admin), rules(allow("alice")), 201).await;
    let cursor = app.connect(&token("alice")).await.connected["cursor"].clone();
    app.publish("channel:news", json!("secret")).await;
    app.publish("group:eng", json!("for engineers")).await;
    let request = app
        .request("PUT", "/v1/channels/news")
        .header("instance", "main")
        .header("if-match", "\"1\"");
    app.send(request.bearer_auth(admin.sign()).json(&rules(allow("bob"))), 200).await;
    let mut alice = resume(&app, &token("alice").groups(&["eng"]), &cursor, None).await;
    assert_eq!(alice.data().await, "for engineers");
    let mut bob = resume(&app, &token("bob"), &cursor, None).await;
    assert_eq!(bob.data().await, "secret");
}

#[actix_web::test]
async fn excluded_users_stay_excluded_and_connections_are_others_now() {
    let app = App::start().await;
    let socket = app.connect(&token("alice")).await;
    let cursor = socket.connected["cursor"].clone();
    let exclude = json!({"users": ["bob"], "connections": [socket.connected["connectionId"]]});
    send(&app, json!({"channel": "ALL", "message": 1, "exclude": exclude}), 202).await;
    send(&app, json!({"channel": "ALL", "message": 2}), 202).await;
    assert_eq!(resume(&app, &token("alice"), &cursor, None).await.data().await, 1);
    assert_eq!(resume(&app, &token("bob"), &cursor, None).await.data().await, 2);
}

#[actix_web::test]
async fn a_graceful_restart_loses_nothing() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let alice = token("alice");
    let cursor = app.connect(&alice).await.connected["cursor"].clone();
    app.publish("ALL", json!("before")).await;
    app.publish("user:bob", json!("for bob")).await;
    let directory = app.stopped().await;
    assert!(directory.path().join("window.jsonl").exists());
    let app = App::launch_in(directory, Options::default(), database.clone()).await;
    assert!(
        !app.directory.path().join("window.jsonl").exists(),
        "a kill now must not find it again"
    );
    app.publish("ALL", json!("after")).await;
    let mut socket = resume(&app, &alice, &cursor, None).await;
    assert_eq!((socket.data().await, socket.data().await), (json!("before"), json!("after")));
    let directory = app.stopped().await;
    std::fs::remove_file(directory.path().join("window.jsonl")).unwrap();
    let app = App::launch_in(directory, Options::default(), database).await;
    resume(&app, &alice, &cursor, Some("EPOCH")).await;
}

#[actix_web::test]
async fn a_window_that_is_not_whole_is_not_taken_up() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let cursor = app.connect(&token("a")).await.connected["cursor"].clone();
    app.publish("ALL", json!(1)).await;
    let directory = app.stopped().await;
    let path = directory.path().join("window.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 3]).unwrap();
    let app = App::launch_in(directory, Options::default(), database).await;
    resume(&app, &token("a"), &cursor, Some("EPOCH")).await;
}
