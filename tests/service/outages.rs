//! Postgres away: what runs goes on, managing waits, and recovery needs no restart.

use crate::command_line::{
    ANYWHERE, Client, Herald, ca, data_directory, development_token, herald, kill, postmaster,
    servers,
};
use crate::support::postgres::OwnPostgres;
use crate::support::road::Road;
use crate::support::{App, Options, Token, postgres, token, until, within};
use herald::domain::channel::{Channel, ChannelName, Slow};
use herald::domain::instance::InstanceId;
use herald::domain::principal::UserId;
use herald::domain::rule::Rules;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[actix_web::test]
async fn without_postgres_messages_go_on_and_management_answers_503() {
    let mut postgres = OwnPostgres::start().await;
    let app = App::launch(Options::default(), postgres.url()).await;
    app.create_instance("main", json!({})).await;
    let admin = Token::admin("root");
    app.call("POST", "/v1/channels", Some(&admin), Some(json!({"name": "news"})), 201).await;
    let mut before = app.connect(&token("a")).await;
    postgres.go_away().await;

    for (method, path, body) in [
        ("GET", "/v1/channels", None),
        ("GET", "/v1/channels/news", None),
        ("POST", "/v1/channels", Some(json!({"name": "more"}))),
        ("GET", "/v1/audit", None),
        (
            "POST",
            "/v1/quota-requests",
            Some(json!({"limit": "connections", "value": 20_000, "reason": "x"})),
        ),
    ] {
        let answer = app.call(method, path, Some(&admin), body, 503).await;
        assert_eq!(
            (answer.code(), answer.header("retry-after")),
            ("STORE_UNAVAILABLE", "1"),
            "{method} {path}"
        );
    }
    let mut meanwhile = app.connect(&token("b")).await;
    assert_eq!(app.publish("news", json!("still here")).await["matched"], 2);
    assert_eq!(
        (before.data().await, meanwhile.data().await),
        (json!("still here"), json!("still here"))
    );
    // Whoever looks after the catalog finds out by itself, after its own attempt to connect.
    let noticed = async {
        while app.send(app.request("GET", "/readyz"), 200).await.body["postgres"] != false {}
    };
    within("the loss is noticed", noticed).await;
    assert!(app.metrics().await.contains("herald_postgres_up 0"));

    postgres.come_back().await;
    let mut created = false;
    while !created {
        let request = app
            .request("POST", "/v1/channels")
            .header("instance", "main")
            .bearer_auth(admin.sign());
        let status = request.json(&json!({"name": "more"})).send().await.unwrap().status().as_u16();
        assert!([201, 503].contains(&status), "{status}");
        created = status == 201;
    }
    let heard = before.frame().await;
    assert_eq!(heard["channels"], json!(["ALL", "user:a", "channel:more", "channel:news"]));
}

#[actix_web::test]
async fn a_change_made_elsewhere_arrives_without_a_request() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let mut socket = app.connect(&token("a")).await;
    let news = Channel {
        name: ChannelName::new("news").unwrap(),
        description: String::new(),
        enabled: true,
        rules: Rules::everyone(),
        publish_rules: Rules::everyone(),
        payload_limit: None,
        slow: Slow::default(),
        version: 1,
    };
    let (by, main) = (UserId::new("root").unwrap(), InstanceId::new("main").unwrap());
    let stored = postgres::store(&database).insert_channel(&by, &main, &news, None).await;
    stored.expect("it is stored");
    assert_eq!(socket.frame().await["channels"], json!(["ALL", "user:a", "channel:news"]));
}

/// Has the server take no changes, as one does that follows another; sessions that are open too.
async fn set_read_only(postgres: &OwnPostgres, is_on: bool) {
    let setting = format!("ALTER SYSTEM SET default_transaction_read_only = {is_on}");
    postgres::execute_in(&postgres.url(), &setting).await;
    postgres::execute_in(&postgres.url(), "SELECT pg_reload_conf()").await;
}

#[actix_web::test]
async fn a_server_that_takes_no_changes_is_left_for_the_one_that_does() {
    let mut postgres = OwnPostgres::start().await;
    let app = App::launch(Options::default(), postgres.url()).await;
    app.create_instance("main", json!({})).await;
    let mut socket = app.connect(&token("a")).await;
    set_read_only(&postgres, true).await;
    for series in ["herald_postgres_up 0", "herald_lease_held 0"] {
        let said = async { while !app.metrics().await.contains(series) {} };
        within(series, said).await;
    }
    let (admin, news) = (Token::admin("root"), Some(json!({"name": "news"})));
    let refused = app.call("POST", "/v1/channels", Some(&admin), news.clone(), 503).await;
    assert_eq!(refused.code(), "STORE_UNAVAILABLE");
    assert_eq!(app.publish("ALL", json!("goes on")).await["queued"], 1);
    assert_eq!(socket.data().await, "goes on");
    set_read_only(&postgres, false).await;
    for series in ["herald_postgres_up 1", "herald_lease_held 1"] {
        let said = async { while !app.metrics().await.contains(series) {} };
        within(series, said).await;
    }
    app.call("POST", "/v1/channels", Some(&admin), news, 201).await;
    assert_eq!(socket.frame().await["channels"], json!(["ALL", "user:a", "channel:news"]));
    drop(app);
    postgres.go_away().await;
}

#[actix_web::test]
async fn connections_that_lead_nowhere_are_left_for_new_ones() {
    let database = postgres::database().await;
    let road = Road::to(&database).await;
    let app = App::launch(Options::default(), road.url.clone()).await;
    app.create_instance("main", json!({})).await;
    let mut socket = app.connect(&token("a")).await;
    road.strand();
    let (admin, news) = (Token::admin("root"), json!({"name": "news"}));
    let mut created = false;
    while !created {
        let request = app.request("POST", "/v1/channels").header("instance", "main");
        let request = request.bearer_auth(admin.sign()).json(&news);
        created = request.send().await.expect("it answers").status() == 201;
    }
    assert_eq!(socket.frame().await["channels"], json!(["ALL", "user:a", "channel:news"]));
    assert!(app.metrics().await.contains("herald_lease_held 1"));
    app.stopped().await;
}

#[actix_web::test]
async fn another_change_of_the_same_number_is_not_taken_for_the_same() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    app.create_channel(json!({"name": "one"})).await;
    let mut socket = app.connect(&token("a")).await;
    assert_eq!(socket.connected["channels"], json!(["ALL", "user:a", "channel:one"]));
    // A failover to a copy without the last change, and another change there.
    postgres::execute_in(
        &database,
        "update channels set name = 'two'; \
         update catalog_version set marks = array_prepend(gen_random_uuid(), marks[2:])",
    )
    .await;
    assert_eq!(socket.frame().await["channels"], json!(["ALL", "user:a", "channel:two"]));
    app.create_channel(json!({"name": "three"})).await;
    let told = json!(["ALL", "user:a", "channel:three", "channel:two"]);
    assert_eq!(socket.frame().await["channels"], told);
}

/// Programs of Postgres of which the server can be kept from starting.
struct Programs(TempDir);

impl Programs {
    fn new() -> Self {
        let programs = Self(data_directory());
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(programs.0.path(), open.clone()).unwrap();
        for (name, condition) in [("initdb", ""), ("postgres", "[ -e \"$0.broken\" ] && exit 1")] {
            let path = programs.0.path().join(name);
            let places = "/usr/local/bin /usr/bin /usr/lib/postgresql/*/bin";
            let real = format!("[ -x $dir/{name} ] && exec $dir/{name} \"$@\"");
            let text = format!("#!/bin/sh\n{condition}\nfor dir in {places}; do {real}; done\n");
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, open.clone()).unwrap();
        }
        programs
    }

    fn folder(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn break_server(&self) {
        fs::write(self.0.path().join("postgres.broken"), "").unwrap();
    }

    fn mend_server(&self) {
        fs::remove_file(self.0.path().join("postgres.broken")).unwrap();
    }
}

/// Creates a channel of `demo`: the status, which is 201 or 503.
async fn try_to_create(herald: &Herald, ca: &[u8], admin: &str, name: &str) -> u16 {
    let body = Some(json!({"name": name}));
    let (status, answer) = herald.call(ca, "POST", "/v1/channels", admin, body).await;
    assert!(status == 201 || (status, &answer["code"]) == (503, &json!("STORE_UNAVAILABLE")));
    status
}

/// Creates a channel as soon as Postgres is there; the socket, which had heard all before, hears it.
async fn create(herald: &Herald, ca: &[u8], admin: &str, name: &str, socket: &mut Client) {
    let made = async { while try_to_create(herald, ca, admin, name).await != 201 {} };
    within("managing goes on", made).await;
    let told = socket.frame().await;
    let hears = |channel: &Value| *channel == format!("channel:{name}");
    assert!(told["channels"].as_array().unwrap().iter().any(hears), "{told}");
}

#[actix_web::test]
async fn a_killed_private_postgres_is_started_again_and_messages_go_on_meanwhile() {
    let (data, programs) = (data_directory(), Programs::new());
    let mut herald = Herald::start(data.path(), &[("HERALD_PG_BIN", programs.folder())]).await;
    let ca = ca(&data);
    let token = async |arguments: &[&str]| development_token(data.path(), arguments).await;
    let admin = token(&["--user", "root", "--role", "REALTIME_ADMIN"]).await;
    let shop = token(&["--user", "shop", "--component", "shop"]).await;
    let mut alice = herald.connect(&ca, &token(&["--user", "alice"]).await).await;

    let first = postmaster(&data);
    kill(first, Signal::KILL);
    herald.logs("the private Postgres has ended").await;
    herald.logs("the private Postgres is ready again").await;
    create(&herald, &ca, &admin, "one", &mut alice).await;
    let second = postmaster(&data);
    assert_ne!(second, first);

    programs.break_server();
    kill(second, Signal::KILL);
    herald.logs("the private Postgres has ended").await;
    for pause in ["pause_ms=1000", "pause_ms=2000"] {
        let said = herald.logs("does not start again").await;
        assert!(said.contains(pause) && said.matches("Postgres").count() <= 4, "{said}");
    }
    assert_eq!(try_to_create(&herald, &ca, &admin, "two").await, 503);
    let message = Some(json!({"channel": "ALL", "message": "still here"}));
    let (status, receipt) = herald.call(&ca, "POST", "/v1/messages", &shop, message).await;
    assert_eq!((status, &receipt["queued"]), (202, &json!(1)));
    assert_eq!(alice.frame().await["data"], "still here");
    programs.mend_server();
    herald.logs("the private Postgres is ready again").await;
    create(&herald, &ca, &admin, "two", &mut alice).await;
    drop(alice);
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
    assert_eq!(servers(&data), BTreeSet::new());
}

#[actix_web::test]
async fn a_herald_whose_private_postgres_does_not_start_again_still_stops_in_order() {
    let (data, programs) = (data_directory(), Programs::new());
    let mut herald = Herald::start(data.path(), &[("HERALD_PG_BIN", programs.folder())]).await;
    programs.break_server();
    kill(postmaster(&data), Signal::KILL);
    herald.logs("does not start again").await;
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
    assert!(data.path().join("window.jsonl").exists());
    assert_eq!(servers(&data), BTreeSet::new());
    programs.mend_server();
    let herald = Herald::start(data.path(), &[("HERALD_PG_BIN", programs.folder())]).await;
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
}

/// Folders in which initdb makes a cluster that is not in its place yet.
fn unfinished(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_unfinished = |path: &PathBuf| path.to_string_lossy().contains("/postgres.new");
    entries.filter(is_unfinished).collect()
}

#[actix_web::test]
async fn a_herald_that_is_killed_while_it_makes_its_cluster_makes_it_anew() {
    let is_begun = |data: &Path| !unfinished(data).is_empty();
    let has = |data: &Path, file: &str| unfinished(data).iter().any(|dir| dir.join(file).exists());
    let moments: [&dyn Fn(&Path) -> bool; 4] = [
        &is_begun,
        &|data| has(data, "PG_VERSION"),
        &|data| has(data, "global/pg_control"),
        &|data| data.join("postgres").exists(),
    ];
    for has_come in moments {
        let data = data_directory();
        let mut command = herald(&ANYWHERE);
        let mut first = command.arg(data.path()).spawn().expect("it runs");
        until("initdb at work", || has_come(data.path())).await;
        first.kill().await.expect("it runs");
        let second = Herald::start(data.path(), &[]).await;
        assert_eq!(unfinished(data.path()), [""; 0].map(PathBuf::from));
        let admin = ["--user", "root", "--role", "REALTIME_ADMIN"];
        let admin = development_token(data.path(), &admin).await;
        assert_eq!(try_to_create(&second, &ca(&data), &admin, "news").await, 201);
        assert_eq!(second.end(Signal::TERM).await, Some(0));
    }
}
