//! Channels: creating, reading, replacing and deleting them, and what is refused.

use crate::support::app::Answer;
use crate::support::{App, Token, token};
use serde_json::{Value, json};

async fn create(app: &App, channel: Value, expected: u16) -> Answer {
    app.call("POST", "/v1/channels", Some(&Token::admin("root")), Some(channel), expected).await
}

async fn change(
    app: &App,
    method: &str,
    path: &str,
    version: &str,
    body: Option<Value>,
    expected: u16,
) -> Answer {
    let mut request = app
        .request(method, path)
        .header("instance", "main")
        .bearer_auth(Token::admin("root").sign());
    if !version.is_empty() {
        request = request.header("if-match", version);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    app.send(request, expected).await
}

#[actix_web::test]
async fn a_channel_is_created_read_replaced_and_deleted() {
    let app = App::start().await;
    let created = create(&app, json!({"name": "news"}), 201).await;
    let whole = json!({
        "name": "news", "description": "", "enabled": true, "rules": [{"effect": "allow", "everyone": true}],
        "publishRules": [{"effect": "allow", "everyone": true}], "payloadLimit": null, "slow": "disconnect", "version": 1
    });
    assert_eq!(created.body, whole);
    assert_eq!(
        (created.header("location"), created.header("etag")),
        ("/v1/channels/news", "\"1\"")
    );
    let read = change(&app, "GET", "/v1/channels/news", "", None, 200).await;
    assert_eq!((&read.body, read.header("etag")), (&whole, "\"1\""));
    let rules = json!([{"effect": "allow", "group": "eng"}, {"effect": "deny", "user": "ü*:../b"}]);
    let new = json!({
        "name": "news", "description": "For engineers", "enabled": false, "rules": rules, "publishRules": [],
        "payloadLimit": 65_536, "slow": "latest", "version": 1
    });
    let replaced = change(&app, "PUT", "/v1/channels/news", "\"1\"", Some(new.clone()), 200).await;
    assert_eq!(replaced.header("etag"), "\"2\"");
    let read = change(&app, "GET", "/v1/channels/news", "", None, 200).await;
    assert_eq!(read.body["version"], 2);
    for field in ["description", "enabled", "rules", "publishRules", "payloadLimit", "slow"] {
        assert_eq!(read.body[field], new[field], "{field}");
    }
    change(&app, "DELETE", "/v1/channels/news", "\"2\"", None, 204).await;
    assert_eq!(
        change(&app, "GET", "/v1/channels/news", "", None, 404).await.code(),
        "CHANNEL_NOT_FOUND"
    );
    assert_eq!(create(&app, json!({"name": "news"}), 201).await.body["version"], 1);
}

#[actix_web::test]
async fn what_was_read_is_a_good_body_for_replacing() {
    let app = App::start().await;
    let created =
        create(&app, json!({"name": "news", "rules": [{"effect": "allow", "user": "a"}]}), 201)
            .await;
    let replaced = change(
        &app,
        "PUT",
        "/v1/channels/news",
        created.header("etag"),
        Some(created.body.clone()),
        200,
    )
    .await;
    assert_eq!(replaced.body["rules"], created.body["rules"]);
}

#[actix_web::test]
async fn a_change_needs_the_version_that_was_read() {
    let app = App::start().await;
    create(&app, json!({"name": "news"}), 201).await;
    let body = || Some(json!({}));
    for (method, body) in [("PUT", body()), ("DELETE", None)] {
        let without = change(&app, method, "/v1/channels/news", "", body.clone(), 428).await;
        assert_eq!(without.code(), "IF_MATCH_REQUIRED");
        for wrong in ["\"0\"", "\"2\"", "1", "W/\"1\"", "\"x\""] {
            assert_eq!(
                change(&app, method, "/v1/channels/news", wrong, body.clone(), 412).await.code(),
                "VERSION_STALE"
            );
        }
        assert_eq!(
            change(&app, method, "/v1/channels/old", "\"1\"", body, 404).await.code(),
            "CHANNEL_NOT_FOUND"
        );
    }
    change(&app, "PUT", "/v1/channels/news", "\"7\", \"1\"", body(), 200).await;
    change(&app, "DELETE", "/v1/channels/news", "*", None, 204).await;
}

#[actix_web::test]
async fn of_many_changes_at_once_one_wins() {
    let app = App::start().await;
    create(&app, json!({"name": "news"}), 201).await;
    let changes = (0..8).map(|number| {
        let request = app
            .request("PUT", "/v1/channels/news")
            .header("instance", "main")
            .header("if-match", "\"1\"");
        let request = request
            .bearer_auth(Token::admin("root").sign())
            .json(&json!({"description": number.to_string()}));
        async { request.send().await.unwrap().status().as_u16() }
    });
    let mut statuses = futures_util::future::join_all(changes).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [[200].as_slice(), &[412; 7]].concat());
}

#[actix_web::test]
async fn two_channels_of_one_name_are_a_conflict_within_an_instance_only() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    create(&app, json!({"name": "news"}), 201).await;
    assert_eq!(create(&app, json!({"name": "news"}), 409).await.code(), "CHANNEL_EXISTS");
    create(&app, json!({"name": "News"}), 201).await;
    let request = app
        .request("POST", "/v1/channels")
        .header("instance", "other")
        .json(&json!({"name": "news"}));
    app.send(request.bearer_auth(Token::admin("root").instances(&["other"]).sign()), 201).await;
}

#[actix_web::test]
async fn what_is_no_channel_is_refused_with_its_place() {
    let app = App::start().await;
    let rule = |count: usize| json!(vec![json!({"effect": "allow", "user": "a"}); count]);
    for (body, pointer) in [
        (json!({}), "/name"),
        (json!({"name": null}), "/name"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "all"}), "/name"),
        (json!({"name": "../b"}), "/name"),
        (json!({"name": "group:x"}), "/name"),
        (json!({"name": "nеws"}), "/name"),
        (json!({"name": "x".repeat(65)}), "/name"),
        (json!({"name": "a", "slow": "Latest"}), "/slow"),
        (json!({"name": "a", "version": 1}), "/version"),
        (json!({"name": "a", "enabled": "yes"}), "/enabled"),
        (json!({"name": "a", "description": "x".repeat(1_001)}), "/description"),
        (json!({"name": "a", "description": "a\u{0}"}), "/description"),
        (json!({"name": "a", "payloadLimit": 0}), "/payloadLimit"),
        (json!({"name": "a", "payloadLimit": 65_537}), "/payloadLimit"),
        (json!({"name": "a", "rules": null}), "/rules"),
        (json!({"name": "a", "rules": rule(101)}), "/rules"),
        (json!({"name": "a", "rules": [{"effect": "allow"}]}), "/rules/0"),
        (
            json!({"name": "a", "rules": [{"effect": "allow", "user": "a", "everyone": true}]}),
            "/rules/0",
        ),
        (
            json!({"name": "a", "rules": [{"effect": "allow", "everyone": false}]}),
            "/rules/0/everyone",
        ),
        (json!({"name": "a", "rules": [{"effect": "allow", "user": ""}]}), "/rules/0/user"),
        (
            json!({"name": "a", "publishRules": [{"effect": "deny", "group": "x".repeat(129)}]}),
            "/publishRules/0/group",
        ),
        (json!({"name": "a", "rules": [{"effect": "maybe", "everyone": true}]}), "/rules/0/effect"),
        (
            json!({"name": "a", "rules": [{"effect": "allow", "when": "true", "everyone": true}]}),
            "/rules/0",
        ),
    ] {
        let answer = create(&app, body.clone(), 422).await;
        assert_eq!(
            (answer.code(), &answer.body["errors"][0]["pointer"]),
            ("INVALID_REQUEST", &json!(pointer)),
            "{body}"
        );
    }
    for good in [
        json!({"name": "x".repeat(64), "description": "x".repeat(1_000), "payloadLimit": 65_536, "rules": rule(100)}),
        json!({"name": "a", "payloadLimit": 1, "rules": [{"effect": "allow", "user": "x".repeat(128)}]}),
    ] {
        create(&app, good, 201).await;
    }
    let renamed =
        change(&app, "PUT", "/v1/channels/a", "\"1\"", Some(json!({"name": "b"})), 422).await;
    assert_eq!(renamed.body["errors"][0]["pointer"], "/name");
}

#[actix_web::test]
async fn lists_come_in_pages() {
    let app = App::start().await;
    for name in ["d", "B", "a", "c", "e.1"] {
        create(&app, json!({"name": name}), 201).await;
    }
    let list = async |query: &str, status| {
        let path = format!("/v1/channels?{query}");
        app.call("GET", &path, Some(&Token::admin("root")), None, status).await
    };
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.body["items"].as_array().expect("items");
        items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    };
    let all = list("", 200).await;
    assert_eq!(
        (names(&all), &all.body["next"]),
        (["B", "a", "c", "d", "e.1"].map(str::to_owned).into(), &Value::Null)
    );
    let first = list("limit=2", 200).await;
    assert_eq!((names(&first), &first.body["next"]), (vec!["B".into(), "a".into()], &json!("a")));
    let last = list("limit=3&after=a", 200).await;
    assert_eq!(
        (names(&last), &last.body["next"]),
        (vec!["c".into(), "d".into(), "e.1".into()], &Value::Null)
    );
    for (query, status) in [
        ("limit=1", 200),
        ("limit=200", 200),
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=x", 422),
        ("after=%2F", 422),
        ("offset=1", 422),
    ] {
        list(query, status).await;
    }
    assert_eq!(list("limit=1&limit=2", 400).await.code(), "CONFLICTING_PARAMETER");
}

#[actix_web::test]
async fn an_instance_has_at_most_a_thousand_channels() {
    let app = App::start().await;
    for batch in 0..40 {
        let created =
            (0..25).map(|number| create(&app, json!({"name": format!("c{batch}-{number}")}), 201));
        futures_util::future::join_all(created).await;
    }
    let full = create(&app, json!({"name": "one-more"}), 422).await;
    assert_eq!((full.code(), &full.body["limit"]), ("INVALID_REQUEST", &json!(1_000)));
    change(&app, "DELETE", "/v1/channels/c0-0", "\"1\"", None, 204).await;
    create(&app, json!({"name": "one-more"}), 201).await;
}

#[actix_web::test]
async fn a_change_reaches_open_connections_at_once_and_tells_them() {
    let app = App::start().await;
    let mut alice = app.connect(&token("alice").groups(&["eng"])).await;
    let mut bob = app.connect(&token("bob")).await;
    let created =
        create(&app, json!({"name": "news", "rules": [{"effect": "allow", "group": "eng"}]}), 201)
            .await;
    assert_eq!(
        alice.frame().await,
        json!({"type": "CHANNELS", "channels": ["ALL", "user:alice", "group:eng", "channel:news"]})
    );
    app.publish("news", json!(1)).await;
    assert_eq!(alice.data().await, 1);
    let rules = json!({"rules": [{"effect": "allow", "user": "bob"}]});
    change(&app, "PUT", "/v1/channels/news", created.header("etag"), Some(rules), 200).await;
    assert_eq!(alice.frame().await["channels"], json!(["ALL", "user:alice", "group:eng"]));
    assert_eq!(bob.frame().await["channels"], json!(["ALL", "user:bob", "channel:news"]));
    assert_eq!(app.publish("news", json!(2)).await["matched"], 1);
    assert_eq!(bob.data().await, 2);
    change(&app, "DELETE", "/v1/channels/news", "\"2\"", None, 204).await;
    assert_eq!(bob.frame().await["channels"], json!(["ALL", "user:bob"]));
    assert_eq!(app.publish("news", json!(3)).await["audience"], json!(["group:news", "user:news"]));
}
