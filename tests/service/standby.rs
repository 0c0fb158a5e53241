//! A node that stands by: what it says meanwhile, when it takes over, and that no message is taken
//! twice or told as whole that another node took.

use crate::command_line::{Herald, ca, data_directory};
use crate::support::road::Road;
use crate::support::socket::Handshake;
use crate::support::{App, Options, Socket, Token, postgres, token, tokens, trusting, within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn standby() -> Options {
    Options::default().with("HERALD_STANDBY", true)
}

/// What `/readyz` says, and whether with 200.
async fn readiness(app: &App) -> (bool, Value) {
    let answer = app.request("GET", "/readyz").send().await.expect("the server answers");
    let is_ready = answer.status() == 200;
    (is_ready, answer.json().await.expect("JSON"))
}

/// Waits until a node is ready, or is not.
async fn becomes(app: &App, ready: bool) {
    let turned = async { while readiness(app).await.0 != ready {} };
    within("a node's readiness", turned).await;
}

/// Tries to publish: the status and the code.
async fn try_to_publish(app: &App, message: Value) -> (u16, String) {
    let body = json!({"channel": "ALL", "message": message});
    let request = app.request("POST", "/v1/messages").header("instance", "main");
    let request = request.bearer_auth(token("publisher").component().sign()).json(&body);
    let answer = request.send().await.expect("the server answers");
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.expect("JSON");
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

/// Connects with a cursor; whether what was missed came whole, or why not.
async fn resumed(app: &App, cursor: &Value) -> Value {
    let cursor = cursor.as_str().expect("a cursor");
    let socket = app.connect_with(&token("a"), &format!("&cursor={cursor}")).await;
    socket.connected.get("reason").unwrap_or(&socket.connected["recovered"]).clone()
}

/// Reads on until the node has sent the client away.
async fn is_sent_away(mut socket: Socket) {
    while socket.frame().await["type"] != "RECONNECT" {}
    let (code, reason) = socket.closed().await;
    assert_eq!(code, 1012, "{reason}");
}

async fn standbys(database: &str) -> usize {
    postgres::texts(database, "select id::text from standbys").await.len()
}

#[actix_web::test]
async fn a_standby_is_alive_and_says_so_and_takes_over_with_all_that_is_stored() {
    let database = postgres::database().await;
    let mut first = App::launch(Options::default(), database.clone()).await;
    first.create_instance("main", json!({})).await;
    first.create_channel(json!({"name": "news"})).await;
    let second = App::launch(standby(), database.clone()).await;
    let (is_ready, says) = readiness(&second).await;
    assert_eq!(
        (is_ready, &says["standby"], &says["accepting"]),
        (false, &json!(true), &json!(true))
    );
    second.send(second.request("GET", "/healthz"), 200).await;
    let metrics = second.metrics().await;
    assert!(metrics.contains("herald_lease_held 0"), "{metrics}");
    for (method, path) in [
        ("GET", "/v1/channels"),
        ("POST", "/v1/messages"),
        ("GET", "/v1/stream"),
        ("GET", "/docs/"),
        ("GET", "/"),
        ("GET", "/nowhere"),
    ] {
        let answer = second.call(method, path, Some(&Token::admin("root")), None, 503).await;
        assert_eq!((answer.code(), answer.header("retry-after")), ("STANDBY", "1"), "{path}");
    }
    let path = format!("/?authorization={}&instance=main", token("a").sign());
    let refused = Handshake::new(&second, &path).send(&second).await;
    assert_eq!(refused.err().expect("no socket is opened").status(), 503);
    let left = async { while standbys(&database).await != 1 {} };
    within("the row of the standby", left).await;

    let socket = first.connect(&token("a")).await;
    first.publish("ALL", json!("one")).await;
    let cursor = socket.connected["cursor"].clone();
    first.begin_stop();
    becomes(&second, true).await;
    assert_eq!(second.publish("news", json!("two")).await["duplicate"], false);
    assert_eq!(resumed(&second, &cursor).await, "EPOCH");
    is_sent_away(socket).await;
    assert_eq!(standbys(&database).await, 0);
    let metrics = second.metrics().await;
    assert!(metrics.contains("herald_lease_held 1") && metrics.contains("herald_lease_term 2"));
}

/// Waits until the holder of the lease has renewed it twice from now on: of the first time it knows
/// by then what it was told.
async fn has_renewed_twice(database: &str) {
    for _ in 0..2 {
        let now = postgres::texts(database, "select clock_timestamp()::text").await.concat();
        let query = format!("select 'renewed' from lease where renewed_at > '{now}'");
        let renewed = async { while postgres::texts(database, &query).await.is_empty() {} };
        within("a renewal", renewed).await;
    }
}

#[actix_web::test]
async fn a_standby_takes_over_from_a_node_that_was_killed() {
    let (database, data) = (postgres::database().await, data_directory());
    let herald = Herald::start(data.path(), &settings(&database)).await;
    let other = App::launch(standby(), database.clone()).await;
    assert_eq!(herald.end(Signal::KILL).await, None);
    becomes(&other, true).await;
    other.create_instance("main", json!({})).await;
    assert_eq!(try_to_publish(&other, json!("here")).await.0, 202);
}

fn settings(database: &str) -> [(&str, &str); 2] {
    [("DATABASE_URL", database), ("HERALD_JWT_SECRET", tokens::SECRET)]
}

#[actix_web::test]
async fn a_frozen_node_that_wakes_takes_no_message_sends_its_clients_away_and_ends() {
    let (database, data) = (postgres::database().await, data_directory());
    let herald = Herald::start(data.path(), &settings(&database)).await;
    let (ca, operator) = (ca(&data), Token::operator().sign());
    let demo = Some(json!({"id": "demo", "name": "Demo"}));
    assert_eq!(herald.call(&ca, "POST", "/v1/instances", &operator, demo).await.0, 201);
    let mut client = herald.connect(&ca, &token("a").instances(&["demo"]).sign()).await;
    let other = App::launch(standby(), database.clone()).await;
    has_renewed_twice(&database).await;
    let tls = Arc::new(trusting(&ca));
    let tcp = TcpStream::connect(("127.0.0.1", herald.port)).await.expect("it listens");
    let publisher = TlsConnector::from(tls).connect("localhost".try_into().unwrap(), tcp);
    let mut publisher = publisher.await.expect("it is trusted");
    herald.signal(Signal::STOP);
    becomes(&other, true).await;
    let (body, by) =
        (r#"{"channel":"ALL","message":1}"#, token("p").component().instances(&["demo"]));
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\ninstance: demo\r\n\
         Authorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        by.sign(),
        body.len()
    );
    publisher.write_all(request.as_bytes()).await.expect("the kernel takes it");
    herald.signal(Signal::CONT);
    let mut answer = Vec::new();
    // A connection that breaks is no answer either.
    let _how = within("the answer", publisher.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.contains("STANDBY"), "{answer}");
    let told = client.frame().await;
    assert_eq!(told["type"], "RECONNECT", "{told}");
    assert_eq!(herald.ended().await, Some(1));
    assert!(!data.path().join("window.jsonl").exists(), "it keeps nothing");
}

/// Two nodes that both stand by, of which the first reaches the database by a way of its own.
async fn behind_a_road(first: Options, second: Options) -> (Road, App, App, String) {
    let database = postgres::database().await;
    let road = Road::to(&database).await;
    let one = App::launch(first, road.url.clone()).await;
    let most = json!({"messagesPerSecond": 1_000_000, "messageBurst": 1_000_000,
        "userMessagesPerSecond": 1_000_000, "userMessageBurst": 1_000_000});
    one.create_instance("main", most).await;
    let other = App::launch(second, database.clone()).await;
    (road, one, other, database)
}

#[actix_web::test]
async fn a_holder_that_cannot_renew_stops_before_its_standby_begins() {
    let (road, one, other, database) = behind_a_road(Options::default(), standby()).await;
    has_renewed_twice(&database).await;
    let socket = one.connect(&token("a")).await;
    let cursor = socket.connected["cursor"].clone();
    road.close();
    let (mut refused, mut taken_by_other) = (false, false);
    while !taken_by_other {
        // The standby first: were the other to take one after that, it would be seen.
        let by_other = try_to_publish(&other, json!("other")).await;
        let by_one = try_to_publish(&one, json!("one")).await;
        match (by_one.0, by_other.0) {
            (202, 503) => assert!(!refused, "it is sure again"),
            (503, 503) => refused = true,
            (503, 202) => taken_by_other = true,
            both => panic!("{both:?}"),
        }
        assert!(by_one.0 == 202 || by_one.1 == "STANDBY", "{by_one:?}");
    }
    let (is_ready, says) = readiness(&one).await;
    assert_eq!((is_ready, &says["standby"]), (false, &json!(true)));
    let refused =
        Handshake::new(&one, &format!("/?authorization={}&instance=main", token("b").sign()));
    assert_eq!(refused.send(&one).await.err().expect("no socket is opened").status(), 503);
    assert_eq!(resumed(&other, &cursor).await, "EPOCH");

    road.open();
    is_sent_away(socket).await;
    one.stopped().await;
    assert_eq!(try_to_publish(&other, json!("goes on")).await.0, 202);
}

#[actix_web::test]
async fn a_holder_that_stands_by_comes_back_as_a_standby_and_knows_nothing_of_before() {
    let (road, one, other, _) = behind_a_road(standby(), standby()).await;
    let socket = one.connect(&token("a")).await;
    one.publish("ALL", json!("first")).await;
    let cursor = socket.connected["cursor"].clone();
    road.close();
    becomes(&other, true).await;
    other.publish("ALL", json!("meanwhile")).await;
    other.create_channel(json!({"name": "new"})).await;
    road.open();
    is_sent_away(socket).await;
    becomes(&one, false).await;
    drop(other);
    becomes(&one, true).await;
    assert_eq!(resumed(&one, &cursor).await, "EPOCH");
    let mut socket = one.connect(&token("a")).await;
    assert_eq!(socket.connected["channels"], json!(["ALL", "user:a", "channel:new"]));
    assert_eq!(one.publish("new", json!("second")).await["queued"], 1);
    assert_eq!(socket.data().await, "second");
    assert_eq!(resumed(&one, &socket.connected["cursor"]).await, true);
}

#[actix_web::test]
async fn a_holder_that_may_be_followed_goes_on_where_it_was_if_nobody_was_there() {
    let database = postgres::database().await;
    let road = Road::to(&database).await;
    let app = App::launch(standby(), road.url.clone()).await;
    app.create_instance("main", json!({})).await;
    let mut socket = app.connect(&token("a")).await;
    road.close();
    becomes(&app, false).await;
    assert_eq!(try_to_publish(&app, json!("unsure")).await, (503, "STANDBY".into()));
    road.open();
    becomes(&app, true).await;
    assert_eq!(app.publish("ALL", json!("sure")).await["queued"], 1);
    assert_eq!(socket.data().await, "sure");
    assert_eq!(resumed(&app, &socket.connected["cursor"]).await, true);
}

#[actix_web::test]
async fn a_holder_that_nobody_would_follow_goes_on_without_the_database() {
    let database = postgres::database().await;
    let road = Road::to(&database).await;
    let app = App::launch(Options::default(), road.url.clone()).await;
    app.create_instance("main", json!({})).await;
    let socket = app.connect(&token("a")).await;
    road.close();
    let is_lost = async { while !app.metrics().await.contains("herald_lease_held 0") {} };
    within("the end of the lease", is_lost).await;
    assert_eq!(app.publish("ALL", json!("goes on")).await["queued"], 1);
    assert!(readiness(&app).await.0);
    assert_eq!(resumed(&app, &socket.connected["cursor"]).await, true);
    road.open();
    let is_back = async { while !app.metrics().await.contains("herald_lease_held 1") {} };
    within("the lease", is_back).await;
    assert_eq!(resumed(&app, &socket.connected["cursor"]).await, true);
}

/// What an older copy of the database says, or another node does, in the holder's place.
async fn replace(database: &str, row: &str) {
    let statement = format!(
        "update lease set (term, holder, place, renewed_at, given_back) = (select term, holder, place, \
         renewed_at, given_back from ({row}) row)"
    );
    postgres::execute_in(database, &statement).await;
}

#[actix_web::test]
async fn a_lease_that_an_older_copy_of_the_database_knows_nothing_of_is_taken_back() {
    let database = postgres::database().await;
    let before = App::launch(Options::default(), database.clone()).await;
    before.create_instance("main", json!({})).await;
    before.stopped().await;
    postgres::execute_in(&database, "create table older as select * from lease").await;
    let app = App::launch(Options::default(), database.clone()).await;
    let mut socket = app.connect(&token("a")).await;
    let cursor = socket.connected["cursor"].clone();
    for older in ["replaced", "deleted"] {
        match older {
            "replaced" => replace(&database, "select * from older").await,
            _ => postgres::execute_in(&database, "delete from lease").await,
        }
        has_renewed_twice(&database).await;
        assert_eq!(app.publish("ALL", json!(older)).await["queued"], 1);
        assert_eq!(socket.data().await, older);
        assert_eq!(resumed(&app, &cursor).await, true);
    }
    let term = "select term::text from lease";
    assert_eq!(postgres::texts(&database, term).await, ["2"]);
}

#[actix_web::test]
async fn after_a_lease_of_another_that_is_over_everything_is_forgotten_and_it_goes_on() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let socket = app.connect(&token("a")).await;
    let cursor = socket.connected["cursor"].clone();
    replace(
        &database,
        "select 7 as term, gen_random_uuid() as holder, null::text as place, \
        now() - interval '5 seconds' as renewed_at, false as given_back",
    )
    .await;
    is_sent_away(socket).await;
    becomes(&app, true).await;
    assert_eq!(resumed(&app, &cursor).await, "EPOCH");
    assert!(app.metrics().await.contains("herald_lease_term 8"));
    assert_eq!(try_to_publish(&app, json!("here")).await.0, 202);
}

#[actix_web::test]
async fn a_stop_ends_publishing_gives_the_lease_back_and_then_sends_clients_away() {
    let database = postgres::database().await;
    let mut app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let mut socket = app.connect(&token("a")).await;
    app.begin_stop();
    assert_eq!(socket.frame().await["type"], "RECONNECT");
    let given_back = "select given_back::text from lease";
    assert_eq!(postgres::texts(&database, given_back).await, ["true"]);
    assert_eq!(try_to_publish(&app, json!("too late")).await, (503, "STANDBY".into()));
}

#[actix_web::test]
async fn a_standby_migrates_before_it_waits_and_migrating_needs_no_lease() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    postgres::execute_in(
        &database,
        "delete from _sqlx_migrations where version = 3; alter table channels drop column slow",
    )
    .await;
    let other = App::launch(standby(), database.clone()).await;
    assert!(!readiness(&other).await.0);
    let third = "select version::text from _sqlx_migrations where version = 3";
    assert_eq!(postgres::texts(&database, third).await, ["3"]);
    postgres::store(&database).migrate().await.expect("it needs no lease");
    app.create_instance("main", json!({})).await;
}
