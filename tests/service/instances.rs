//! Instances, quotas, quota requests and the audit.

use crate::support::app::Answer;
use crate::support::socket::Handshake;
use crate::support::{App, Token, token};
use serde_json::{Value, json};

async fn operate(
    app: &App,
    method: &str,
    path: &str,
    version: &str,
    body: Option<Value>,
    expected: u16,
) -> Answer {
    let mut request = app.request(method, path).bearer_auth(Token::operator().sign());
    if !version.is_empty() {
        request = request.header("if-match", version);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    app.send(request, expected).await
}

async fn ask(app: &App, body: Value, expected: u16) -> Answer {
    app.call("POST", "/v1/quota-requests", Some(&Token::admin("root")), Some(body), expected).await
}

#[actix_web::test]
async fn an_instance_is_created_read_replaced_and_deleted() {
    let app = App::start().await;
    let created =
        operate(&app, "POST", "/v1/instances", "", Some(json!({"id": "shop"})), 201).await;
    let whole = json!({
        "id": "shop", "name": "", "enabled": true, "publishRoles": [], "origins": [],
        "limits": {
            "payloadBytes": 1024, "componentPayloadBytes": 4096, "messagesPerSecond": 100, "messageBurst": 200,
            "userMessagesPerSecond": 50, "userMessageBurst": 100, "connections": 10000, "connectionsPerUser": 20,
            "connectsPerSecond": 200
        },
        "version": 1
    });
    assert_eq!(created.body, whole);
    assert_eq!(
        (created.header("location"), created.header("etag")),
        ("/v1/instances/shop", "\"1\"")
    );
    assert_eq!(
        operate(&app, "POST", "/v1/instances", "", Some(json!({"id": "shop"})), 409).await.code(),
        "INSTANCE_EXISTS"
    );
    let mut new = whole.clone();
    new["publishRoles"] = json!(["EDITOR"]);
    new["origins"] = json!(["https://shop.example", "null"]);
    new["limits"]["connections"] = json!(5);
    let replaced =
        operate(&app, "PUT", "/v1/instances/shop", "\"1\"", Some(new.clone()), 200).await;
    new["version"] = json!(2);
    assert_eq!((&replaced.body, replaced.header("etag")), (&new, "\"2\""));
    assert_eq!(operate(&app, "GET", "/v1/instances/shop", "", None, 200).await.body, new);
    operate(&app, "PUT", "/v1/instances/shop", "\"1\"", Some(json!({})), 412).await;
    operate(&app, "DELETE", "/v1/instances/shop", "", None, 428).await;
    operate(&app, "DELETE", "/v1/instances/shop", "\"2\"", None, 204).await;
    assert_eq!(
        operate(&app, "GET", "/v1/instances/shop", "", None, 404).await.code(),
        "INSTANCE_NOT_FOUND"
    );
}

#[actix_web::test]
async fn what_is_no_instance_is_refused_with_its_place() {
    let app = App::start().await;
    let many = |count: usize| vec!["https://a.example"; count];
    for (body, pointer) in [
        (json!({}), "/id"),
        (json!({"id": "a b"}), "/id"),
        (json!({"id": "*"}), "/id"),
        (json!({"id": "x".repeat(65)}), "/id"),
        (json!({"id": "a", "name": "x".repeat(201)}), "/name"),
        (json!({"id": "a", "publishRoles": ["a b"]}), "/publishRoles/0"),
        (json!({"id": "a", "origins": ["https://a.example/"]}), "/origins/0"),
        (json!({"id": "a", "origins": ["null", "*"]}), "/origins/1"),
        (json!({"id": "a", "origins": ["https://A.example"]}), "/origins/0"),
        (json!({"id": "a", "origins": many(101)}), "/origins"),
        (json!({"id": "a", "limits": {"connections": 0}}), "/limits/connections"),
        (json!({"id": "a", "limits": {"payloadBytes": 65_537}}), "/limits/payloadBytes"),
        (json!({"id": "a", "limits": {"connexions": 1}}), "/limits/connexions"),
        (json!({"id": "a", "limits": {"connections": -1}}), "/limits/connections"),
    ] {
        let answer = operate(&app, "POST", "/v1/instances", "", Some(body.clone()), 422).await;
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{body}: {}", answer.body);
    }
    let good = json!({"id": "x".repeat(64), "name": "x".repeat(200), "origins": many(100), "limits": {"payloadBytes": 65_536}});
    operate(&app, "POST", "/v1/instances", "", Some(good), 201).await;
}

#[actix_web::test]
async fn disabling_or_deleting_an_instance_ends_its_connections() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    let open = async || {
        let token = token("a").instances(&["other"]).sign();
        let path = format!("/?instance=other&authorization={token}");
        Handshake::new(&app, &path).send(&app).await.unwrap()
    };
    let mut socket = open().await.welcomed().await;
    let mut bystander = app.connect(&token("b")).await;
    operate(&app, "PUT", "/v1/instances/other", "\"1\"", Some(json!({"enabled": false})), 200)
        .await;
    let (code, reason) = socket.closed().await;
    assert_eq!((code, reason.split(':').next().unwrap()), (4403, "INSTANCE_DISABLED"));
    assert_eq!(open().await.closed().await.0, 4403);
    operate(&app, "PUT", "/v1/instances/other", "\"2\"", Some(json!({"enabled": true})), 200).await;
    let mut socket = open().await.welcomed().await;
    operate(&app, "DELETE", "/v1/instances/other", "\"3\"", None, 204).await;
    assert_eq!(socket.closed().await.0, 4403);
    bystander.ping(b"still here").await;
}

#[actix_web::test]
async fn quotas_show_limits_and_usage() {
    let app = App::start().await;
    let _sockets = [app.connect(&token("a")).await, app.connect(&token("b")).await];
    let quotas = app.call("GET", "/v1/quotas", Some(&token("a")), None, 200).await.body;
    assert_eq!(
        (&quotas["limits"]["connections"], &quotas["usage"]),
        (&json!(10_000), &json!({"connections": 2}))
    );
}

#[actix_web::test]
async fn an_approved_increase_holds_at_once_and_a_request_is_decided_once() {
    let app = App::start().await;
    let publisher = token("p").component();
    let message =
        |bytes: usize| Some(json!({"channel": "user:x", "message": "x".repeat(bytes - 2)}));
    app.call("POST", "/v1/messages", Some(&publisher), message(4_097), 413).await;
    let filed =
        ask(&app, json!({"limit": "componentPayloadBytes", "value": 8_192, "reason": "maps"}), 201)
            .await;
    let id = filed.body["id"].as_str().unwrap().to_owned();
    assert_eq!(filed.header("location"), format!("/v1/quota-requests/{id}"));
    for (field, value) in [
        ("instance", json!("main")),
        ("current", json!(4_096)),
        ("status", json!("pending")),
        ("requestedBy", json!("root")),
        ("decidedBy", Value::Null),
        ("note", Value::Null),
    ] {
        assert_eq!(filed.body[field], value, "{field}");
    }
    let approved = operate(
        &app,
        "POST",
        &format!("/v1/quota-requests/{id}/approve"),
        "",
        Some(json!({"note": "ok"})),
        200,
    )
    .await;
    assert_eq!(
        (&approved.body["status"], &approved.body["decidedBy"], &approved.body["note"]),
        (&json!("approved"), &json!("operator"), &json!("ok"))
    );
    app.call("POST", "/v1/messages", Some(&publisher), message(8_192), 202).await;
    app.call("POST", "/v1/messages", Some(&publisher), message(8_193), 413).await;
    for verdict in ["approve", "deny"] {
        let again =
            operate(&app, "POST", &format!("/v1/quota-requests/{id}/{verdict}"), "", None, 409)
                .await;
        assert_eq!(again.code(), "ALREADY_DECIDED");
    }
    let instance = operate(&app, "GET", "/v1/instances/main", "", None, 200).await.body;
    assert_eq!(
        (&instance["limits"]["componentPayloadBytes"], &instance["version"]),
        (&json!(8_192), &json!(2))
    );
}

#[actix_web::test]
async fn a_denied_increase_changes_nothing() {
    let app = App::start().await;
    let id = ask(&app, json!({"limit": "connections", "value": 20_000, "reason": "growth"}), 201)
        .await
        .body["id"]
        .clone();
    let path = format!("/v1/quota-requests/{}/deny", id.as_str().unwrap());
    assert_eq!(operate(&app, "POST", &path, "", None, 200).await.body["status"], "denied");
    let quotas = app.call("GET", "/v1/quotas", Some(&Token::admin("root")), None, 200).await.body;
    assert_eq!(quotas["limits"]["connections"], 10_000);
}

#[actix_web::test]
async fn wishes_that_make_no_sense_are_refused() {
    let app = App::start().await;
    let wish = |limit: &str, value: i64, reason: &str| json!({"limit": limit, "value": value, "reason": reason});
    for (body, pointer) in [
        (wish("payloads", 5, "x"), "/limit"),
        (wish("payloadBytes", 1_024, "x"), "/value"),
        (wish("payloadBytes", 65_537, "x"), "/value"),
        (wish("payloadBytes", -1, "x"), "/value"),
        (wish("payloadBytes", 2_048, " "), "/reason"),
        (wish("payloadBytes", 2_048, &"x".repeat(1_001)), "/reason"),
    ] {
        assert_eq!(
            ask(&app, body.clone(), 422).await.body["errors"][0]["pointer"],
            pointer,
            "{body}"
        );
    }
    ask(&app, wish("payloadBytes", 1_025, "x"), 201).await;
    ask(&app, wish("payloadBytes", 65_536, &"x".repeat(1_000)), 201).await;
    let id = "01234567-89ab-7def-8123-456789abcdef";
    for path in ["x", id] {
        operate(&app, "POST", &format!("/v1/quota-requests/{path}/approve"), "", None, 404).await;
    }
}

#[actix_web::test]
async fn requests_are_seen_by_their_instance_and_by_operators() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    let id = ask(&app, json!({"limit": "connections", "value": 20_000, "reason": "x"}), 201)
        .await
        .body["id"]
        .clone();
    let path = format!("/v1/quota-requests/{}", id.as_str().unwrap());
    app.call("GET", &path, Some(&Token::admin("root")), None, 200).await;
    let stranger = || app.request("GET", &path).header("instance", "other");
    app.send(stranger().bearer_auth(Token::admin("x").instances(&["other"]).sign()), 404).await;
    app.send(stranger().bearer_auth(Token::operator().sign()), 404).await;
    operate(&app, "GET", &path, "", None, 200).await;
    let list = operate(&app, "GET", "/v1/quota-requests", "", None, 200).await;
    assert_eq!(list.body["items"].as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn every_change_is_in_the_audit() {
    let app = App::start().await;
    let admin = Token::admin("root");
    app.call("POST", "/v1/channels", Some(&admin), Some(json!({"name": "news"})), 201).await;
    let request = app
        .request("PUT", "/v1/channels/news")
        .header("instance", "main")
        .header("if-match", "\"1\"");
    app.send(request.bearer_auth(admin.sign()).json(&json!({"enabled": false})), 200).await;
    let request = app
        .request("DELETE", "/v1/channels/news")
        .header("instance", "main")
        .header("if-match", "\"2\"");
    app.send(request.bearer_auth(admin.sign()), 204).await;
    let id = ask(&app, json!({"limit": "connections", "value": 20_000, "reason": "x"}), 201)
        .await
        .body["id"]
        .clone();
    operate(
        &app,
        "POST",
        &format!("/v1/quota-requests/{}/approve", id.as_str().unwrap()),
        "",
        None,
        200,
    )
    .await;
    let audit = app.call("GET", "/v1/audit", Some(&admin), None, 200).await.body;
    let items = audit["items"].as_array().unwrap();
    let actions: Vec<&str> =
        items.iter().rev().map(|item| item["action"].as_str().unwrap()).collect();
    for expected in [
        "instance.create",
        "channel.create",
        "channel.update",
        "channel.delete",
        "quota_request.create",
        "quota_request.approve",
        "instance.update",
    ] {
        assert!(actions.contains(&expected), "{expected} is not in {actions:?}");
    }
    let update = items.iter().find(|item| item["action"] == "channel.update").unwrap();
    assert_eq!(
        (&update["actor"], &update["target"], &update["instance"]),
        (&json!("root"), &json!("news"), &json!("main"))
    );
    assert_eq!(
        (&update["before"]["enabled"], &update["after"]["enabled"]),
        (&json!(true), &json!(false))
    );
    assert!(update["id"].is_string() && update["time"].as_str().unwrap().ends_with('Z'));
    let page = app.call("GET", "/v1/audit?limit=2", Some(&admin), None, 200).await.body;
    let next = format!("/v1/audit?limit=200&after={}", page["next"].as_str().unwrap());
    let rest = app.call("GET", &next, Some(&admin), None, 200).await.body;
    assert_eq!(rest["items"].as_array().unwrap().len(), items.len() - 2);
}

#[actix_web::test]
async fn a_hundred_quota_requests_wait_and_no_more() {
    let app = App::start().await;
    let wish = || json!({"limit": "payloadBytes", "value": 2_048, "reason": "more"});
    for _ in 0..99 {
        ask(&app, wish(), 201).await;
    }
    let last = ask(&app, wish(), 201).await.body["id"].clone();
    let refused = ask(&app, wish(), 422).await;
    assert_eq!((&refused.body["limit"], &refused.body["actual"]), (&json!(100), &json!(101)));
    let path = format!("/v1/quota-requests/{}/deny", last.as_str().expect("an id"));
    operate(&app, "POST", &path, "", None, 200).await;
    ask(&app, wish(), 201).await;
}
