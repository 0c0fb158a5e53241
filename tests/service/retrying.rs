//! Safe retries: an id of the publisher's makes a message be sent once.

use crate::support::app::Answer;
use crate::support::socket::{Handshake, connect_tls};
use crate::support::{App, Options, Token, postgres, token};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

fn publisher() -> Token {
    token("publisher").component()
}

async fn send(app: &App, body: Value, expected: u16) -> Answer {
    app.call("POST", "/v1/messages", Some(&publisher()), Some(body), expected).await
}

async fn send_with_key(app: &App, key: &str, body: Value, expected: u16) -> Answer {
    let request = app
        .request("POST", "/v1/messages")
        .header("instance", "main")
        .header("idempotency-key", key);
    app.send(request.bearer_auth(publisher().sign()).json(&body), expected).await
}

/// The first answer, told again.
fn repeated(answer: &Answer) -> Value {
    let mut body = answer.body.clone();
    body["duplicate"] = json!(true);
    body
}

#[actix_web::test]
async fn the_same_request_again_sends_nothing_and_is_answered_as_the_first() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let body = json!({"channel": "ALL", "message": {"n": 1}, "id": "order-1", "ttl": 60});
    let first = send(&app, body.clone(), 202).await;
    assert_eq!((&first.body["id"], &first.body["duplicate"]), (&json!("order-1"), &json!(false)));
    assert_eq!(alice.frame().await["id"], "order-1");
    let _bob = app.connect(&token("bob")).await;
    assert_eq!(
        send(&app, body.clone(), 202).await.body,
        repeated(&first),
        "the first counts, not new ones"
    );
    app.publish("ALL", json!("next")).await;
    assert_eq!(alice.data().await, "next");
}

#[actix_web::test]
async fn the_header_is_the_same_as_the_field() {
    let app = App::start().await;
    let body = json!({"channel": "ALL", "message": 1});
    let first = send_with_key(&app, "k-1", body.clone(), 202).await;
    assert_eq!(first.body["id"], "k-1");
    for again in [
        send_with_key(&app, "\"k-1\"", body.clone(), 202).await,
        send(&app, json!({"channel": "ALL", "message": 1, "id": "k-1"}), 202).await,
        send_with_key(&app, "k-1", json!({"channel": "ALL", "message": 1, "id": "k-1"}), 202).await,
    ] {
        assert_eq!(again.body, repeated(&first));
    }
    let both = json!({"channel": "ALL", "message": 1, "id": "k-2"});
    assert_eq!(send_with_key(&app, "k-1", both, 400).await.code(), "CONFLICTING_PARAMETER");
    let batch = json!({"messages": [{"channel": "ALL", "message": 1}]});
    let request = app
        .request("POST", "/v1/messages/batch")
        .header("instance", "main")
        .header("idempotency-key", "k-3");
    let refused = app.send(request.bearer_auth(publisher().sign()).json(&batch), 400).await;
    assert_eq!(refused.code(), "CONFLICTING_PARAMETER");
}

#[actix_web::test]
async fn another_request_or_another_user_does_not_get_the_first_answer() {
    let app = App::start().await;
    let body =
        |message: i32, channel: &str| json!({"channel": channel, "message": message, "id": "a"});
    send(&app, body(1, "ALL"), 202).await;
    for other in [
        body(2, "ALL"),
        body(1, "user:x"),
        json!({"channel": "ALL", "message": 1, "id": "a", "ttl": 5}),
        json!({"channel": "ALL", "message": 1, "id": "a", "exclude": {"users": ["x"]}}),
    ] {
        let refused = send(&app, other, 409).await;
        assert_eq!((refused.code(), refused.body.get("cursor")), ("ID_REUSED", None));
    }
    let stranger = token("another").component();
    let refused =
        app.call("POST", "/v1/messages", Some(&stranger), Some(body(1, "ALL")), 409).await;
    assert_eq!(refused.code(), "ID_REUSED");
    app.create_instance("other", json!({})).await;
    let request =
        app.request("POST", "/v1/messages").header("instance", "other").json(&body(2, "ALL"));
    app.send(request.bearer_auth(publisher().instances(&["other"]).sign()), 202).await;
}

#[actix_web::test]
async fn dry_runs_and_refusals_reserve_nothing() {
    let app = App::start().await;
    let request = app.request("POST", "/v1/messages?dryRun=true").header("instance", "main");
    let body = json!({"channel": "ALL", "message": "dry", "id": "a"});
    app.send(request.bearer_auth(publisher().sign()).json(&body), 202).await;
    send(&app, json!({"channel": "channel:nowhere", "message": 1, "id": "a"}), 404).await;
    send(&app, json!({"channel": "ALL", "message": "x".repeat(5_000), "id": "a"}), 413).await;
    assert_eq!(
        send(&app, json!({"channel": "ALL", "message": 2, "id": "a"}), 202).await.body["duplicate"],
        false
    );
}

#[actix_web::test]
async fn ids_are_words_of_at_most_128() {
    let app = App::start().await;
    let body = |id: &str| json!({"channel": "ALL", "message": 1, "id": id});
    for good in ["a", "A-1_b.c:d", &"x".repeat(128)] {
        send(&app, body(good), 202).await;
    }
    for bad in ["", "a b", "ä", "a/b", &"x".repeat(129)] {
        assert_eq!(send(&app, body(bad), 422).await.body["errors"][0]["pointer"], "/id", "{bad}");
        if !bad.is_ascii() {
            continue;
        }
        let answer = send_with_key(&app, bad, json!({"channel": "ALL", "message": 1}), 422).await;
        assert_eq!(answer.body["errors"][0]["pointer"], "Idempotency-Key");
    }
}

#[actix_web::test]
async fn of_many_at_once_one_is_sent() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let body = json!({"channel": "ALL", "message": 1, "id": "once"});
    let answers =
        futures_util::future::join_all((0..20).map(|_| send(&app, body.clone(), 202))).await;
    assert_eq!(answers.iter().filter(|answer| answer.body["duplicate"] == false).count(), 1);
    assert!(answers.iter().all(|answer| answer.body["cursor"] == answers[0].body["cursor"]));
    assert_eq!(alice.data().await, 1);
    app.publish("ALL", json!("next")).await;
    assert_eq!(alice.data().await, "next");
}

/// Sends a request by hand and hangs up as soon as `heard` is done, without waiting for the answer.
async fn hang_up(app: &App, body: &Value, heard: impl Future<Output = ()>) {
    let mut tls = connect_tls(app).await;
    let (token, body) = (publisher().instances(&["busy"]).sign(), body.to_string());
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ninstance: busy\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    heard.await;
    drop(tls);
}

#[actix_web::test]
async fn a_publisher_that_hangs_up_can_try_again() {
    let app = App::start().await;
    let plenty = json!({"messagesPerSecond": 10_000, "messageBurst": 10_000, "userMessagesPerSecond": 10_000,
        "userMessageBurst": 10_000});
    app.create_instance("busy", plenty).await;
    let publisher = publisher().instances(&["busy"]);
    let path =
        format!("/?authorization={}&instance=busy", token("alice").instances(&["busy"]).sign());
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(Handshake::new(&app, &path).send(&app).await.unwrap().welcomed().await);
    }
    for n in 0..200 {
        let body = json!({"channel": "ALL", "message": n, "id": format!("n-{n}")});
        hang_up(&app, &body, async { assert_eq!(sockets[n % 8].data().await, n) }).await;
        let request = app.request("POST", "/v1/messages").header("instance", "busy").json(&body);
        let again = app.send(request.bearer_auth(publisher.sign()), 202).await;
        assert_eq!(again.body["duplicate"], true, "{n}");
        for (index, socket) in sockets.iter_mut().enumerate() {
            if index != n % 8 {
                assert_eq!(socket.data().await, n);
            }
        }
    }
}

#[actix_web::test]
async fn each_entry_of_a_batch_has_its_own_id() {
    let app = App::start().await;
    let entry = |id: &str, message: i32| json!({"channel": "ALL", "message": message, "id": id});
    let body = json!({"messages": [entry("a", 1), entry("a", 1), entry("a", 2), entry("b", 3)]});
    let results =
        app.call("POST", "/v1/messages/batch", Some(&publisher()), Some(body), 200).await.body;
    let results = results["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|one| &one["status"]).collect::<Vec<_>>(), [202, 202, 409, 202]);
    assert_eq!((&results[0]["duplicate"], &results[1]["duplicate"]), (&json!(false), &json!(true)));
}

#[actix_web::test]
async fn ids_are_forgotten_with_the_window_and_bounded() {
    let options =
        Options::default().with("HERALD_HISTORY_SECONDS", 1).with("HERALD_REMEMBERED_IDS", 4);
    let app = App::start_with(options).await;
    let body = |id: &str, message: i32| json!({"channel": "ALL", "message": message, "id": id});
    send(&app, body("a", 1), 202).await;
    send(&app, body("b", 1), 202).await;
    // The oldest is forgotten first: once there is room for c, a is another message.
    for (id, user) in [("c", publisher()), ("a", token("another").component())] {
        loop {
            let request =
                app.request("POST", "/v1/messages").header("instance", "main").json(&body(id, 2));
            let answer = request.bearer_auth(user.sign()).send().await.unwrap();
            let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
            match status {
                503 => assert!(text.contains("OVERLOADED"), "{text}"),
                // Asking so often has used up the rate.
                429 => {}
                _ => {
                    break assert!(status == 202 && text.contains("\"duplicate\":false"), "{text}");
                }
            }
        }
    }
}

#[actix_web::test]
async fn an_instance_that_fills_its_half_of_the_ids_leaves_the_other_half_to_its_neighbours() {
    let app = App::start_with(Options::default().with("HERALD_REMEMBERED_IDS", 8)).await;
    app.create_instance("side", json!({})).await;
    let body = |id: usize| json!({"channel": "ALL", "message": 1, "id": id.to_string()});
    // Below and at its half; beyond it.
    for id in 0..4 {
        send(&app, body(id), 202).await;
    }
    let refused = send(&app, body(4), 503).await.body;
    assert_eq!(refused["code"], "OVERLOADED", "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("4 are this instance's"), "{refused}");
    // A neighbour finds space, and takes half of what is left.
    let neighbour = token("shop").component().instances(&["side"]).sign();
    for (id, status) in [(0, 202), (1, 202), (2, 503)] {
        let request =
            app.request("POST", "/v1/messages").header("instance", "side").json(&body(id));
        app.send(request.bearer_auth(neighbour.clone()), status).await;
    }
    // A repetition needs no more space.
    let repeated = send(&app, body(0), 202).await.body;
    assert_eq!(repeated["duplicate"], true);
}

#[actix_web::test]
async fn a_graceful_restart_remembers_the_ids() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let body = json!({"channel": "ALL", "message": 1, "id": "deploy"});
    let first = send(&app, body.clone(), 202).await;
    let app = App::launch_in(app.stopped().await, Options::default(), database).await;
    assert_eq!(send(&app, body, 202).await.body, repeated(&first));
}
