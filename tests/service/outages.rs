//! Postgres away: what runs goes on, managing waits, and recovery needs no restart.

use crate::support::postgres::OwnPostgres;
use crate::support::{App, Options, Token, token, within};
use serde_json::json;

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
    let database = crate::support::postgres::database().await;
    let one = App::launch(Options::default(), database.clone()).await;
    one.create_instance("main", json!({})).await;
    let two = App::launch(Options::default(), database).await;
    let mut socket = two.connect(&token("a")).await;
    one.call(
        "POST",
        "/v1/channels",
        Some(&Token::admin("root")),
        Some(json!({"name": "news"})),
        201,
    )
    .await;
    assert_eq!(socket.frame().await["channels"], json!(["ALL", "user:a", "channel:news"]));
}
