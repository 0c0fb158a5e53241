//! What became of a message for a user's connections: every outcome; and what cannot be asked.

use crate::support::tokens::{Token, token};
use crate::support::{App, Options, Socket, postgres, within};
use crate::traces::{publish, trace};
use serde_json::{Value, json};
use std::collections::HashSet;

async fn create_channel(app: &App, name: &str, rules: Value) {
    let body = json!({"name": name, "rules": rules});
    app.create_channel(body).await;
}

/// What became of a message for the newest connection of a user.
async fn outcome(app: &App, id: &str, user: &str) -> Value {
    let shown = trace(app, id, &format!("?user={user}")).await;
    let connections = shown["user"]["connections"].as_array().expect("a list").clone();
    connections.last().cloned().unwrap_or_else(|| panic!("no connection in {shown}"))
}

/// Closes the only connection, and waits until it has ended on the server's side too.
async fn ended(app: &App, socket: Socket) {
    socket.close().await;
    let admin = Token::admin("root");
    let left = async || {
        app.call("GET", "/v1/quotas", Some(&admin), None, 200).await.body["usage"]["connections"]
            .clone()
    };
    within("the connection's end", async { while left().await != 0 {} }).await;
}

#[actix_web::test]
async fn every_reason_that_someone_connected_did_or_did_not_get_it_is_told() {
    let app = App::start().await;
    let rules = json!([{"effect": "allow", "group": "eng"}, {"effect": "allow", "user": "narrow"}, {"effect": "deny", "user": "denied"}]);
    create_channel(&app, "news", rules).await;
    let mut alice = app.connect(&token("alice").groups(&["eng"]).with("plan", "pro")).await;
    let _others = [
        app.connect(&token("denied").groups(&["eng"])).await,
        app.connect(&token("outside")).await,
        app.connect_with(&token("narrow"), "&channels=ALL").await,
        app.connect(&token("free").groups(&["eng"]).with("plan", "free")).await,
    ];
    let second = app.connect(&token("second").groups(&["eng"])).await;
    let exclude = json!({"users": ["free"], "connections": [second.connected["connectionId"]]});
    publish(&app, "news", json!({"channel": "news"})).await;
    publish(&app, "pro", json!({"channel": "news", "filter": "claims.plan == 'pro'"})).await;
    publish(&app, "without", json!({"channel": "news", "exclude": exclude})).await;
    publish(&app, "eng", json!({"channel": "group:eng"})).await;
    for id in ["news", "pro", "without", "eng"] {
        assert_eq!(alice.frame().await["id"], id);
    }
    for (id, user, word, detail) in [
        ("news", "alice", "written", ", written "),
        ("news", "denied", "denied", "rule 2 denied: the user is denied"),
        (
            "news",
            "outside",
            "denied",
            "no rule allowed; rule 0: not a member of the group eng; rule 1: the user is outside, not narrow",
        ),
        ("news", "narrow", "narrowed", "left channel:news out with channels="),
        ("pro", "alice", "written", ", written "),
        (
            "pro",
            "free",
            "filtered",
            "the filter is false: claims.plan == \"pro\" is false: claims.plan is \"free\"",
        ),
        (
            "pro",
            "second",
            "filtered",
            "the filter has no answer: claims.plan == \"pro\" fails: claims.plan: no such key",
        ),
        ("without", "free", "excluded", "exclude.users names the user"),
        ("without", "second", "excluded", "exclude.connections names the connection"),
        ("without", "alice", "written", ", written "),
        ("eng", "outside", "notAddressed", "not a member of the group eng"),
        ("eng", "denied", "written", ", written "),
    ] {
        let told = within("what is known is there", async {
            loop {
                let told = outcome(&app, id, user).await;
                if told["outcome"] != "waiting" {
                    return told;
                }
            }
        })
        .await;
        assert_eq!(told["outcome"], word, "{id} {user}: {told}");
        assert!(
            told["detail"].as_str().is_some_and(|text| text.contains(detail)),
            "{id} {user}: {told}"
        );
        assert_eq!((&told["rightsChanged"], &told["acknowledged"]), (&json!(false), &json!(false)));
        assert_eq!(told.get("rule"), (user == "denied" && id == "news").then_some(&json!(2)));
    }
    let shown = trace(&app, "news", "?user=nobody").await["user"].clone();
    assert_eq!((&shown["total"], &shown["connections"]), (&json!(0), &json!([])));
    assert!(
        shown["reason"].as_str().is_some_and(|reason| reason.starts_with("not connected")),
        "{shown}"
    );
}

#[actix_web::test]
async fn times_say_when_it_was_queued_and_written_and_what_was_acknowledged() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let cursor = publish(&app, "one", json!({"channel": "ALL"})).await["cursor"].clone();
    assert_eq!(alice.frame().await["id"], "one");
    let told = outcome(&app, "one", "alice").await;
    let clock = |text: &str| text.len() == 12 && text.is_ascii() && text.as_bytes()[8] == b'.';
    let detail = told["detail"].as_str().expect("a sentence");
    let (queued, written) = detail
        .strip_prefix("queued ")
        .and_then(|rest| rest.split_once(", written "))
        .expect("times");
    assert!(clock(queued) && clock(written) && queued <= written, "{detail}");
    assert_eq!(
        (&told["acknowledged"], &told["closeCode"], &told["endedAt"]),
        (&json!(false), &Value::Null, &Value::Null)
    );
    alice.send(&json!({"type": "PING", "cursor": cursor}).to_string()).await;
    assert_eq!(alice.frame().await["type"], "PONG");
    assert_eq!(outcome(&app, "one", "alice").await["acknowledged"], true);
    // More moments than are remembered: a message is written in its own millisecond or up to the
    // next one's.
    let (mut moments, mut number) = (HashSet::new(), 0);
    while moments.len() < 40 {
        number += 1;
        publish(&app, &format!("later-{number}"), json!({"channel": "ALL"})).await;
        moments.insert(alice.frame().await["time"].to_string());
    }
    let old = outcome(&app, "one", "alice").await;
    assert!(old["detail"].as_str().is_some_and(|text| text.contains(", written before ")), "{old}");
    let new = outcome(&app, &format!("later-{number}"), "alice").await;
    assert!(!new["detail"].as_str().is_some_and(|text| text.contains("before")), "{new}");
}

#[actix_web::test]
async fn who_was_not_there_and_who_resumed_is_told() {
    let app = App::start().await;
    let early = app.connect(&token("early")).await;
    let start = early.connected["cursor"].as_str().expect("a cursor").to_owned();
    ended(&app, early).await;
    let stays = app.connect(&token("closed")).await;
    publish(&app, "live", json!({"channel": "ALL", "ttl": 0})).await;
    let cursor = publish(&app, "one", json!({"channel": "ALL"})).await["cursor"]
        .as_str()
        .expect("a cursor")
        .to_owned();
    ended(&app, stays).await;
    let _late = app.connect(&token("late")).await;
    let mut resumed = app.connect_with(&token("resumed"), &format!("&cursor={start}")).await;
    let _behind = app.connect_with(&token("behind"), &format!("&cursor={cursor}")).await;
    assert_eq!(resumed.frame().await["id"], "one");
    for (id, user, word, detail) in [
        ("one", "early", "notConnected", "not connected at the time: disconnected 1000"),
        ("one", "closed", "written", ", written "),
        ("one", "late", "notConnected", "not connected at the time: connected "),
        ("one", "resumed", "replayed", " and resumed, replayed "),
        ("one", "behind", "notConnected", "with a cursor behind the message"),
        ("live", "resumed", "notReplayed", "for those connected at the time"),
        ("live", "closed", "written", ", written "),
    ] {
        let told = outcome(&app, id, user).await;
        assert_eq!(told["outcome"], word, "{id} {user}: {told}");
        assert!(
            told["detail"].as_str().is_some_and(|text| text.contains(detail)),
            "{id} {user}: {told}"
        );
        assert_eq!(told["endedAt"].is_string(), ["early", "closed"].contains(&user), "{told}");
    }
}

#[actix_web::test]
async fn rights_are_those_of_now_and_an_answer_says_so() {
    let app = App::start().await;
    create_channel(&app, "news", json!([{"effect": "allow", "everyone": true}])).await;
    let mut alice = app.connect(&token("alice")).await;
    publish(&app, "one", json!({"channel": "news"})).await;
    assert_eq!(alice.frame().await["id"], "one");
    let body = json!({"rules": [{"effect": "deny", "user": "alice"}]});
    let request = app
        .request("PUT", "/v1/channels/news")
        .header("instance", "main")
        .header("if-match", "\"1\"");
    app.send(request.bearer_auth(Token::admin("root").sign()).json(&body), 200).await;
    assert_eq!(alice.frame().await["type"], "CHANNELS");
    let told = outcome(&app, "one", "alice").await;
    assert_eq!(
        (&told["outcome"], &told["rule"], &told["rightsChanged"]),
        (&json!("denied"), &json!(0), &json!(true))
    );
    let request = app
        .request("DELETE", "/v1/channels/news")
        .header("instance", "main")
        .header("if-match", "\"2\"");
    app.send(request.bearer_auth(Token::admin("root").sign()), 204).await;
    let told = outcome(&app, "one", "alice").await;
    assert_eq!(told["detail"], "the channel was deleted");
}

#[actix_web::test]
async fn what_is_not_remembered_is_404() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    publish(&app, "here", json!({"channel": "ALL"})).await;
    let shop = token("shop").component();
    let dry = json!({"channel": "ALL", "message": 1, "id": "dry"});
    app.call("POST", "/v1/messages?dryRun=true", Some(&shop), Some(dry), 202).await;
    for id in ["nothing", "batch", "dry"] {
        let path = format!("/v1/messages/{id}");
        assert_eq!(
            app.call("GET", &path, Some(&shop), None, 404).await.code(),
            "NOT_FOUND",
            "{id}"
        );
    }
    let elsewhere = app.request("GET", "/v1/messages/here").header("instance", "other");
    app.send(elsewhere.bearer_auth(shop.clone().instances(&["other"]).sign()), 404).await;
    for bad in ["?user=", "?user=a%0Ab", "?users=a"] {
        app.call("GET", &format!("/v1/messages/here{bad}"), Some(&shop), None, 422).await;
    }
}

#[actix_web::test]
async fn a_trace_ends_with_the_windows_time_and_with_the_process() {
    let database = postgres::database().await;
    let options =
        || Options::default().with("HERALD_HISTORY_SECONDS", 2).with("HERALD_HISTORY_MESSAGES", 0);
    let app = App::launch(options(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    publish(&app, "one", json!({"channel": "ALL"})).await;
    assert_eq!(
        trace(&app, "one", "").await["id"],
        "one",
        "also where nothing is kept for clients that resume"
    );
    let observer = token("observer").component();
    let forgotten = async {
        loop {
            let request = app.request("GET", "/v1/messages/one").header("instance", "main");
            let answer =
                request.bearer_auth(observer.sign()).send().await.expect("the server answers");
            if answer.status() == 404 {
                return;
            }
        }
    };
    within("the window's end", forgotten).await;
    drop(app);
    let app = App::launch(Options::default(), database.clone()).await;
    publish(&app, "two", json!({"channel": "ALL"})).await;
    let directory = app.stopped().await;
    let app = App::launch_in(directory, Options::default(), database).await;
    app.call("GET", "/v1/messages/two", Some(&observer), None, 404).await;
}
