//! Publishing: audiences, counts, exclusions, dry runs, batches, sizes, rates.

use crate::support::{App, Options, Token, token};
use serde_json::{Value, json};

fn publisher() -> Token {
    token("publisher").component()
}

async fn send(app: &App, body: Value, expected: u16) -> crate::support::app::Answer {
    app.call("POST", "/v1/messages", Some(&publisher()), Some(body), expected).await
}

#[actix_web::test]
async fn all_reaches_everyone_and_the_answer_counts_them() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let mut bob = app.connect(&token("bob")).await;
    let receipt = app.publish("ALL", json!({"hello": "world!"})).await;
    assert_eq!(
        (&receipt["matched"], &receipt["queued"], &receipt["dropped"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert_eq!((&receipt["audience"], &receipt["duplicate"]), (&json!(["ALL"]), &json!(false)));
    for socket in [&mut alice, &mut bob] {
        let frame = socket.frame().await;
        assert_eq!(frame["type"], "MESSAGE");
        assert_eq!((&frame["id"], &frame["cursor"]), (&receipt["id"], &receipt["cursor"]));
        assert_eq!(
            (&frame["channel"], &frame["data"]),
            (&json!("ALL"), &json!({"hello": "world!"}))
        );
        assert!(chrono::DateTime::parse_from_rfc3339(frame["time"].as_str().unwrap()).is_ok());
    }
}

#[actix_web::test]
async fn users_groups_and_channels_of_the_same_word_are_never_confused() {
    let app = App::start().await;
    let mut user = app.connect(&token("news")).await;
    let mut member = app.connect(&token("alice").groups(&["news"])).await;
    let mut both = app.connect(&token("news").groups(&["news"])).await;
    let bare = app.publish("news", json!(1)).await;
    assert_eq!(
        (&bare["audience"], &bare["matched"]),
        (&json!(["group:news", "user:news"]), &json!(3))
    );
    assert_eq!(app.publish("user:news", json!(2)).await["matched"], 2);
    assert_eq!(app.publish("group:news", json!(3)).await["matched"], 2);
    let channel = json!({"name": "news", "rules": [{"effect": "allow", "user": "alice"}]});
    app.create_channel(channel).await;
    let to_channel = app.publish("news", json!(4)).await;
    assert_eq!(
        (&to_channel["audience"], &to_channel["matched"]),
        (&json!(["channel:news"]), &json!(1))
    );
    app.publish("ALL", json!("end")).await;
    let seen = |data: Vec<Value>| json!(data);
    assert_eq!(seen(until_end(&mut user).await), json!([1, 2]));
    assert_eq!(seen(until_end(&mut member).await), json!([1, 3, 4]));
    assert_eq!(seen(until_end(&mut both).await), json!([1, 2, 3]));
}

/// The data of all messages before `"end"`, past other frames.
async fn until_end(socket: &mut crate::support::Socket) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let frame = socket.frame().await;
        match &frame["data"] {
            Value::Null => {}
            data if data == "end" => return seen,
            data => seen.push(data.clone()),
        }
    }
}

#[actix_web::test]
async fn odd_ids_are_reached_byte_for_byte_and_look_alikes_are_not() {
    let app = App::start().await;
    let long = "x".repeat(128);
    for id in ["group:x", "*", "../b", "ALL", "all", "ü", "acct:42", "a b", &long] {
        let mut socket = app.connect(&token(id)).await;
        let receipt = app.publish(&format!("user:{id}"), json!(id)).await;
        assert_eq!(receipt["matched"], 1, "{id}");
        assert_eq!(socket.data().await, json!(id));
        assert_eq!(app.publish("user:u\u{308}", json!(0)).await["matched"], 0, "a look-alike of ü");
        socket.close().await;
    }
}

#[actix_web::test]
async fn what_addresses_nobody_is_422_or_404() {
    let app = App::start().await;
    for channel in
        ["all", "All", "", "user:", "group:", "channel:", "channel:../b", "a\nb", &"x".repeat(129)]
    {
        let answer = send(&app, json!({"channel": channel, "message": 1}), 422).await;
        assert_eq!(
            (answer.code(), &answer.body["errors"][0]["pointer"]),
            ("INVALID_REQUEST", &json!("/channel"))
        );
    }
    assert_eq!(
        send(&app, json!({"channel": "channel:nowhere", "message": 1}), 404).await.code(),
        "CHANNEL_NOT_FOUND"
    );
}

#[actix_web::test]
async fn a_disabled_channel_is_a_conflict_and_never_the_user_of_that_name() {
    let app = App::start().await;
    let _socket = app.connect(&token("news")).await;
    let channel = json!({"name": "news", "enabled": false});
    app.create_channel(channel).await;
    for channel in ["news", "channel:news"] {
        assert_eq!(
            send(&app, json!({"channel": channel, "message": 1}), 409).await.code(),
            "CHANNEL_DISABLED"
        );
    }
    assert_eq!(app.publish("user:news", json!(1)).await["matched"], 1);
}

#[actix_web::test]
async fn excluded_users_and_connections_do_not_get_it() {
    let app = App::start().await;
    let mut first = app.connect(&token("alice")).await;
    let mut second = app.connect(&token("alice")).await;
    let mut bob = app.connect(&token("bob")).await;
    let id = first.connected["connectionId"].as_str().unwrap().to_owned();
    let exclude = json!({"users": ["bob"], "connections": [id, "unknown"]});
    let body = json!({"channel": "ALL", "message": "some", "exclude": exclude});
    assert_eq!(send(&app, body, 202).await.body["matched"], 1);
    app.publish("ALL", json!("end")).await;
    assert_eq!(second.data().await, "some");
    for socket in [&mut first, &mut second, &mut bob] {
        assert_eq!(socket.data().await, "end");
    }
    let many = |count: usize| json!({"channel": "ALL", "message": 1, "exclude": {"users": vec!["x"; count]}});
    send(&app, many(99), 202).await;
    send(&app, many(100), 202).await;
    assert_eq!(send(&app, many(101), 422).await.body["limit"], 100);
}

#[actix_web::test]
async fn a_dry_run_counts_and_sends_nothing() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice").groups(&["alice"])).await;
    let body = json!({"channel": "alice", "message": 1});
    let path = "/v1/messages?dryRun=true";
    let answer = app.call("POST", path, Some(&publisher()), Some(body.clone()), 202).await;
    assert_eq!((&answer.body["matched"], &answer.body["queued"]), (&json!(1), &json!(1)));
    app.publish("ALL", json!("end")).await;
    assert_eq!(alice.data().await, "end");
    for wrong in
        ["/v1/messages?dryRun=maybe", "/v1/messages?dryrun=true", "/v1/messages?explain=user:a"]
    {
        assert_eq!(
            app.call("POST", wrong, Some(&publisher()), Some(body.clone()), 422).await.code(),
            "INVALID_REQUEST"
        );
    }
}

#[actix_web::test]
async fn the_publishers_bytes_are_what_is_delivered() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let message = "{ \"b\": 1.50, \"a\": [1e400, \"\\u00e9 \\\" x\"],\n \"b\": -0 }";
    let request = app
        .request("POST", "/v1/messages")
        .header("instance", "main")
        .bearer_auth(publisher().sign());
    let body = format!("{{\"channel\": \"ALL\", \"message\": {message} }}");
    app.send(request.header("content-type", "application/json").body(body), 202).await;
    match alice.message().await {
        Some(tokio_tungstenite::tungstenite::Message::Text(text)) => {
            let data = text.as_str().split_once("\"data\":").unwrap().1;
            assert_eq!(data, "{\"b\":1.50,\"a\":[1e400,\"\\u00e9 \\\" x\"],\"b\":-0}}");
        }
        other => panic!("{other:?}"),
    }
}

#[actix_web::test]
async fn sizes_are_held_to_the_quota_of_the_token_and_of_the_channel() {
    let app = App::start().await;
    let instance = json!({"name": "main", "enabled": true, "publishRoles": ["SENDER"]});
    let request = app
        .request("PUT", "/v1/instances/main")
        .bearer_auth(Token::operator().sign())
        .json(&instance);
    app.send(request.header("if-match", "\"1\""), 200).await;
    let sender = token("sender").roles(&["REALTIME_CONNECT", "SENDER"]);
    let channel = json!({"name": "small", "payloadLimit": 10});
    app.create_channel(channel).await;
    for (token, channel, limit) in
        [(&sender, "ALL", 1_024), (&publisher(), "ALL", 4_096), (&publisher(), "small", 10)]
    {
        for (length, status) in [(limit - 1, 202), (limit, 202), (limit + 1, 413)] {
            let body = json!({"channel": channel, "message": "x".repeat(length - 2)});
            let answer = app.call("POST", "/v1/messages", Some(token), Some(body), status).await;
            if status == 413 {
                assert_eq!(answer.code(), "PAYLOAD_TOO_LARGE");
                assert_eq!(
                    (&answer.body["limit"], &answer.body["actual"]),
                    (&json!(limit), &json!(length))
                );
            }
        }
    }
}

#[actix_web::test]
async fn depth_shape_and_fields_are_checked() {
    let app = App::start().await;
    let nested = |depth: usize| {
        serde_json::from_str::<Value>(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)))
    };
    for (depth, status) in [(63, 202), (64, 202), (65, 422)] {
        send(&app, json!({"channel": "ALL", "message": nested(depth).unwrap()}), status).await;
    }
    assert_eq!(
        send(&app, json!({"channel": "ALL", "message": null}), 202).await.body["duplicate"],
        false
    );
    for body in [
        json!({"channel": "ALL"}),
        json!({"message": 1}),
        json!({"channel": 1, "message": 1}),
        json!({"channel": "ALL", "message": 1, "filter": 1}),
        json!({"channel": "ALL", "message": 1, "exclude": {"users": [""]}}),
        json!({"channel": "ALL", "message": 1, "exclude": {"user": []}}),
        json!([1]),
    ] {
        let answer = send(&app, body, 422).await;
        assert_eq!(answer.code(), "INVALID_REQUEST");
        assert!(answer.body["errors"][0]["pointer"].is_string(), "{}", answer.body);
    }
}

#[actix_web::test]
async fn bodies_that_are_not_json_or_too_large_are_refused() {
    let app = App::start().await;
    let post = |path: &str, body: Vec<u8>, kind: &str| {
        let request =
            app.request("POST", path).header("instance", "main").bearer_auth(publisher().sign());
        request.header("content-type", kind).body(body)
    };
    let path = "/v1/messages";
    for bad in [
        "",
        "{",
        "{\"channel\":\"ALL\",\"message\":01}",
        "nul",
        "{\"channel\":\"ALL\",\"message\":1}}",
    ] {
        let answer = app.send(post(path, bad.into(), "application/json"), 400).await;
        assert_eq!(answer.code(), "MALFORMED_JSON", "{bad}");
    }
    let latin = b"{\"channel\":\"ALL\",\"message\":\"\xE9\"}".to_vec();
    assert_eq!(app.send(post(path, latin, "application/json"), 400).await.code(), "MALFORMED_JSON");
    assert_eq!(
        app.send(post(path, b"{}".to_vec(), "text/plain"), 415).await.code(),
        "JSON_REQUIRED"
    );
    let deep = format!("{{\"channel\":\"ALL\",\"message\":{}}}", "[".repeat(30_000));
    assert_eq!(
        app.send(post(path, deep.into(), "application/json"), 400).await.code(),
        "MALFORMED_JSON"
    );
    for (path, limit) in [(path, 65_536), ("/v1/messages/batch", 1_048_576)] {
        for (length, status) in [(limit - 1, 422), (limit, 422), (limit + 1, 413)] {
            let body = format!("{{\"wrong\":\"{}\"}}", "x".repeat(length - 12));
            assert_eq!(body.len(), length);
            let answer =
                app.send(post(path, body.clone().into(), "application/json"), status).await;
            if status == 413 {
                assert_eq!(
                    (answer.code(), &answer.body["limit"]),
                    ("BODY_TOO_LARGE", &json!(limit))
                );
            }
            let pieces = body
                .into_bytes()
                .chunks(8_192)
                .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
                .collect::<Vec<_>>();
            let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
            let request = app
                .request("POST", path)
                .header("instance", "main")
                .bearer_auth(publisher().sign());
            app.send(request.header("content-type", "application/json").body(stream), status).await;
        }
    }
}

#[actix_web::test]
async fn a_batch_answers_for_each_entry_and_one_bad_message_fails_alone() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice")).await;
    let entries = json!([
        {"channel": "ALL", "message": 1},
        {"channel": "all", "message": 2},
        {"channel": "ALL", "message": "x".repeat(5_000)},
        {"channel": "user:alice", "message": 4},
        17
    ]);
    let body = json!({ "messages": entries });
    let answer = app.call("POST", "/v1/messages/batch", Some(&publisher()), Some(body), 200).await;
    let results = answer.body["results"].as_array().unwrap();
    let statuses: Vec<_> =
        results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [202, 422, 413, 202, 422]);
    assert_eq!(
        (&results[1]["code"], &results[2]["code"]),
        (&json!("INVALID_REQUEST"), &json!("PAYLOAD_TOO_LARGE"))
    );
    assert_eq!(
        (&results[0]["matched"], &results[3]["audience"]),
        (&json!(1), &json!(["user:alice"]))
    );
    assert_eq!((alice.data().await, alice.data().await), (json!(1), json!(4)));
    let many =
        |count: usize| json!({"messages": vec![json!({"channel": "user:x", "message": 1}); count]});
    let path = "/v1/messages/batch";
    app.call("POST", path, Some(&token("other").component()), Some(many(1)), 200).await;
    app.call("POST", path, Some(&token("another").component()), Some(many(100)), 200).await;
    for count in [0, 101] {
        app.call("POST", path, Some(&publisher()), Some(many(count)), 422).await;
    }
}

#[actix_web::test]
async fn a_batch_keeps_its_order_whatever_its_entries_need_and_waits_where_the_queue_is_short() {
    // Queues of far fewer places than messages are handed over at once: with one, each waits for
    // the one before it.
    for places in [1_024, 4, 1] {
        let app =
            App::start_with(Options::default().with("HERALD_SHARD_QUEUE_MESSAGES", places)).await;
        let mut sockets = [app.connect(&token("alice")).await, app.connect(&token("bob")).await];
        // Every seventh has an id of its own, every eleventh is refused, every thirteenth is for
        // nobody who is here.
        let entry = |number: usize| match number {
            _ if number % 7 == 6 => {
                json!({"channel": "ALL", "message": number, "id": format!("n-{number}")})
            }
            _ if number % 11 == 10 => json!({"channel": "all", "message": number}),
            _ if number % 13 == 12 => json!({"channel": "user:nobody", "message": number}),
            _ => json!({"channel": "ALL", "message": number}),
        };
        let entries: Vec<Value> = (0..100).map(entry).collect();
        let body = json!({ "messages": entries });
        let answer =
            app.call("POST", "/v1/messages/batch", Some(&publisher()), Some(body), 200).await;
        let results = answer.body["results"].as_array().unwrap();
        assert_eq!(results.len(), 100);
        let is_heard = |number: &usize| entries[*number]["channel"] == "ALL";
        for (number, (entry, result)) in entries.iter().zip(results).enumerate() {
            let expected = match entry["channel"].as_str().unwrap() {
                "ALL" => json!([202, 2]),
                "all" => json!([422, null]),
                _ => json!([202, 0]),
            };
            assert_eq!(json!([result["status"], result["matched"]]), expected, "entry {number}");
        }
        for socket in &mut sockets {
            for number in (0..100).filter(is_heard) {
                let frame = socket.frame().await;
                assert_eq!(
                    (&frame["data"], &frame["cursor"]),
                    (&json!(number), &results[number]["cursor"])
                );
            }
        }
    }
}

#[actix_web::test]
async fn the_rate_limits_of_user_and_instance_hold_and_are_told() {
    let app = App::start().await;
    let body = || Some(json!({"channel": "user:x", "message": 1}));
    let first = app.call("POST", "/v1/messages", Some(&publisher()), body(), 202).await;
    assert_eq!(first.header("ratelimit-policy"), "\"instance\";q=200;w=2, \"user\";q=100;w=2");
    assert!(
        first.header("ratelimit").starts_with("\"user\";r=99;t="),
        "{}",
        first.header("ratelimit")
    );
    let batch = |count: usize| {
        Some(json!({"messages": vec![json!({"channel": "user:x", "message": 1}); count]}))
    };
    let path = "/v1/messages/batch";
    app.create_instance(
        "slow",
        json!({"userMessagesPerSecond": 1, "userMessageBurst": 3, "messagesPerSecond": 1, "messageBurst": 5}),
    )
    .await;
    let call = |user: &str, count: usize| {
        let token = token(user).component().instances(&["slow"]).sign();
        let request = app.request("POST", path).header("instance", "slow").bearer_auth(token);
        app.send(request.json(&batch(count)), 200)
    };
    let statuses = |answer: crate::support::app::Answer| {
        let results = answer.body["results"].as_array().unwrap().clone();
        results.iter().map(|result| result["status"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(statuses(call("a", 4).await), [202, 202, 202, 429], "the user's burst is 3");
    assert_eq!(statuses(call("b", 3).await), [202, 202, 429], "the instance's burst is 5");
    let token = token("a").component().instances(&["slow"]).sign();
    let request = app.request("POST", "/v1/messages").header("instance", "slow").bearer_auth(token);
    let refused = app.send(request.json(&body()), 429).await;
    assert_eq!((refused.code(), refused.header("retry-after").is_empty()), ("RATE_LIMITED", false));
    assert!(
        refused.body["retryAfterSeconds"]
            .as_u64()
            .is_some_and(|seconds| (1..=2).contains(&seconds))
    );
}

#[actix_web::test]
async fn nothing_crosses_from_one_instance_to_another() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    let mut here = app.connect(&token("alice")).await;
    let there = token("alice").component().instances(&["other"]).sign();
    let request = |channel: &str| {
        let request =
            app.request("POST", "/v1/messages").header("instance", "other").bearer_auth(&there);
        request.json(&json!({"channel": channel, "message": "there"}))
    };
    for channel in ["ALL", "alice", "user:alice"] {
        assert_eq!(app.send(request(channel), 202).await.body["matched"], 0);
    }
    app.publish("ALL", json!("here")).await;
    assert_eq!(here.data().await, "here");
}

#[actix_web::test]
async fn publish_rules_say_who_may_publish_to_a_channel() {
    let app = App::start().await;
    let rules = json!([{"effect": "allow", "group": "eng"}, {"effect": "deny", "user": "mallory"}]);
    let channel = json!({"name": "news", "publishRules": rules});
    app.create_channel(channel).await;
    for (user, groups, status) in
        [("alice", &["eng"][..], 202), ("mallory", &["eng"], 403), ("bob", &[], 403)]
    {
        let token = token(user).component().groups(groups);
        let body = json!({"channel": "news", "message": 1});
        let answer = app.call("POST", "/v1/messages", Some(&token), Some(body), status).await;
        assert!(status == 202 || answer.code() == "PUBLISH_DENIED");
    }
}
