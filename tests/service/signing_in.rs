//! Signing in: where the token and the instance may stand, what is refused, and how a socket is
//! told.

use crate::support::socket::Handshake;
use crate::support::{App, Options, Token, token};
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

/// Publishes to nobody with this token text; the status and the code.
async fn try_token(app: &App, text: &str, expected: u16) -> String {
    let request = app
        .request("POST", "/v1/messages")
        .header("instance", "main")
        .header("authorization", text);
    let body = json!({"channel": "user:nobody", "message": 1});
    app.send(request.json(&body), expected).await.code().to_owned()
}

#[actix_web::test]
async fn the_token_and_the_instance_may_stand_in_header_or_query() {
    let app = App::start().await;
    let signed = token("alice").component().sign();
    let body = json!({"channel": "user:nobody", "message": 1});
    let post = |query: &str| app.request("POST", &format!("/v1/messages{query}")).json(&body);
    app.send(
        post("").header("authorization", format!("Bearer {signed}")).header("instance", "main"),
        202,
    )
    .await;
    app.send(post("").header("authorization", &signed).header("instance", "main"), 202).await;
    app.send(
        post("").header("authorization", format!("bearer {signed}")).header("instance", "main"),
        202,
    )
    .await;
    app.send(post(&format!("?authorization={signed}&instance=main")), 202).await;
    app.send(post(&format!("?authorization=Bearer%20{signed}&instance=main")), 202).await;
    app.send(
        post(&format!("?authorization={signed}&instance=main")).header("instance", "main"),
        202,
    )
    .await;
    let same = post(&format!("?authorization={signed}"))
        .header("authorization", format!("Bearer {signed}"));
    app.send(same.header("instance", "main"), 202).await;
}

#[actix_web::test]
async fn two_different_values_of_one_parameter_are_a_conflict() {
    let app = App::start().await;
    let (signed, other) = (token("alice").component().sign(), token("bob").component().sign());
    let body = json!({"channel": "user:nobody", "message": 1});
    let post = |query: String| app.request("POST", &format!("/v1/messages{query}")).json(&body);
    for request in [
        post(format!("?authorization={other}")).bearer_auth(&signed).header("instance", "main"),
        post("?instance=other".into()).bearer_auth(&signed).header("instance", "main"),
        post(format!("?authorization={signed}&authorization={other}&instance=main")),
        post("?instance=main&instance=other".into()).bearer_auth(&signed),
        post(String::new())
            .bearer_auth(&signed)
            .header("instance", "main")
            .header("instance", "other"),
        post("?dryRun=true&dryRun=false".into()).bearer_auth(&signed).header("instance", "main"),
    ] {
        assert_eq!(app.send(request, 400).await.code(), "CONFLICTING_PARAMETER");
    }
    app.send(post("".into()).bearer_auth(&signed), 400).await;
    assert_eq!(
        app.send(post("".into()).header("instance", "main"), 401).await.code(),
        "TOKEN_MISSING"
    );
}

#[actix_web::test]
async fn tokens_that_are_not_understood_are_refused() {
    let app = App::start().await;
    let good = || token("alice").component();
    assert_eq!(try_token(&app, &good().sign(), 202).await, "");
    let header = |change: fn(&mut Header)| {
        let mut header = Header::new(Algorithm::HS256);
        change(&mut header);
        header
    };
    let secret = crate::support::tokens::SECRET.as_bytes();
    let signed = |header: &Header| good().sign_with(header, secret);
    for (what, text) in [
        ("no token at all", "Bearer nonsense".to_owned()),
        (
            "another secret",
            good().sign_with(&header(|_| ()), b"another-secret-with-more-than-32-bytes!"),
        ),
        ("HS384", signed(&header(|header| header.alg = Algorithm::HS384))),
        ("an unknown crit", signed(&header(|header| header.extras.insert("crit", json!(["x"]))))),
        ("b64 false", signed(&header(|header| header.extras.insert("b64", json!(false))))),
        ("no exp", good().without("exp").sign()),
        ("exp as text", good().with("exp", "9999999999").sign()),
        ("exp null", good().with("exp", Value::Null).sign()),
        ("nbf in an hour", good().with("nbf", chrono::Utc::now().timestamp() + 3_600).sign()),
        ("nbf as text", good().with("nbf", "1").sign()),
        ("a list of issuers", good().with("iss", json!(["a"])).sign()),
        ("no sub", good().without("sub").sign()),
        ("an empty sub", good().with("sub", "").sign()),
        ("a number as sub", good().with("sub", 7).sign()),
        ("a sub of 129 bytes", good().with("sub", "x".repeat(129)).sign()),
        ("a sub with a line break", good().with("sub", "a\nb").sign()),
        (
            "257 groups",
            good()
                .with("groups", json!((0..257).map(|n| n.to_string()).collect::<Vec<_>>()))
                .sign(),
        ),
        ("a number as group", good().with("groups", json!([7])).sign()),
        ("groups as text", good().with("groups", "a").sign()),
        ("roles as a number", good().with("roles", 7).sign()),
        ("over 16 KiB", good().sign_to(16_385)),
    ] {
        assert_eq!(try_token(&app, &text, 401).await, "TOKEN_INVALID", "{what}");
    }
    let mut tampered = good().sign();
    tampered.truncate(tampered.len() - 4);
    assert_eq!(try_token(&app, &tampered, 401).await, "TOKEN_INVALID");
    assert_eq!(try_token(&app, &good().expires_in(-31).sign(), 401).await, "TOKEN_EXPIRED");
    try_token(&app, &good().expires_in(-28).sign(), 202).await;
    try_token(&app, &good().with("roles", "A REALTIME_CONNECT").sign(), 202).await;
    try_token(
        &app,
        &good()
            .without("roles")
            .with("realm_access", json!({"roles": ["REALTIME_CONNECT"]}))
            .sign(),
        202,
    )
    .await;
    try_token(&app, &good().without("instances").with("instance", "main").sign(), 202).await;
    let groups = (0..256).map(|number| number.to_string()).collect::<Vec<_>>();
    try_token(&app, &good().with("groups", json!(groups)).sign(), 202).await;
    try_token(&app, &good().with("sub", "x".repeat(128)).sign(), 202).await;
}

#[actix_web::test]
async fn issuer_and_audience_are_held_to_the_settings() {
    let options = Options::default()
        .with("HERALD_JWT_ISSUER", "https://id.example")
        .with("HERALD_JWT_AUDIENCE", "herald");
    let database = crate::support::postgres::database().await;
    let app = App::launch(options, database).await;
    let operator = |change: fn(Token) -> Token| {
        let token = Token::operator().with("iss", "https://id.example").with("aud", "herald");
        app.send(app.request("GET", "/v1/instances").bearer_auth(change(token).sign()), 200)
    };
    operator(|token| token).await;
    operator(|token| token.with("aud", json!(["other", "herald"]))).await;
    for wrong in [
        Token::operator(),
        Token::operator().with("iss", "https://evil.example").with("aud", "herald"),
        Token::operator().with("iss", "https://id.example").with("aud", "other"),
        Token::operator().with("iss", "https://id.example").with("aud", json!(["other"])),
        Token::operator().with("iss", "https://id.example").with("aud", 7),
    ] {
        app.send(app.request("GET", "/v1/instances").bearer_auth(wrong.sign()), 401).await;
    }
}

#[actix_web::test]
async fn a_socket_is_told_by_its_close_code() {
    let app = App::start().await;
    app.create_instance("off", json!({})).await;
    let off = json!({"name": "off", "enabled": false});
    let request =
        app.request("PUT", "/v1/instances/off").bearer_auth(Token::operator().sign()).json(&off);
    app.send(request.header("if-match", "\"1\""), 200).await;
    let everywhere = token("a").instances(&["*"]).sign();
    let here = token("a").sign();
    for (path, code, word) in [
        ("/?instance=main".into(), 4401, "TOKEN_MISSING"),
        ("/?instance=main&authorization=Bearer%20x".into(), 4401, "TOKEN_INVALID"),
        (
            format!("/?instance=main&authorization={}", token("a").expires_in(-40).sign()),
            4401,
            "TOKEN_EXPIRED",
        ),
        (format!("/?authorization={here}"), 4400, "INSTANCE_REQUIRED"),
        (
            format!("/?instance=main&instance=other&authorization={here}"),
            4400,
            "CONFLICTING_PARAMETER",
        ),
        (format!("/?instance=main&authorization={here}&unknown=x"), 4400, "INVALID_REQUEST"),
        (
            format!("/?instance=main&authorization={}", token("a").roles(&["OTHER"]).sign()),
            4403,
            "ROLE_REQUIRED",
        ),
        (format!("/?instance=nowhere&authorization={here}"), 4403, "INSTANCE_FORBIDDEN"),
        (format!("/?instance=nowhere&authorization={everywhere}"), 4404, "INSTANCE_NOT_FOUND"),
        (format!("/?instance=off&authorization={everywhere}"), 4403, "INSTANCE_DISABLED"),
        (
            format!("/?instance=main&authorization={}", token("a").without("instances").sign()),
            4403,
            "INSTANCE_FORBIDDEN",
        ),
    ] {
        let mut socket = Handshake::new(&app, &path).send(&app).await.unwrap();
        let (closed, reason) = socket.closed().await;
        assert_eq!((closed, reason.split(':').next().unwrap()), (code, word), "{reason}");
    }
}

#[actix_web::test]
async fn browsers_may_send_the_token_as_a_subprotocol() {
    let app = App::start().await;
    let signed = token("alice").sign();
    let connect = async |protocols: &str| {
        let handshake =
            Handshake::new(&app, "/?instance=main").header("sec-websocket-protocol", protocols);
        handshake.send(&app).await.unwrap()
    };
    let selected = |socket: &crate::support::Socket| {
        socket.response.headers()["sec-websocket-protocol"].clone()
    };
    let socket = connect(&format!("herald.v1, bearer.{signed}")).await;
    assert_eq!(selected(&socket), "herald.v1");
    assert_eq!(socket.welcomed().await.connected["userId"], "alice");
    let mut refused = connect("herald.v1, bearer.wrong").await;
    assert_eq!(selected(&refused), "herald.v1");
    assert_eq!(refused.closed().await.0, 4401);
    let path = format!("/?instance=main&authorization={}", token("bob").sign());
    let both = Handshake::new(&app, &path)
        .header("sec-websocket-protocol", &format!("herald.v1, bearer.{signed}"));
    assert_eq!(both.send(&app).await.unwrap().closed().await.0, 4400);
}

/// 16,384 bytes without the prefix, wherever the token stands.
#[actix_web::test]
async fn a_token_has_at_most_16_kib_on_every_road() {
    let app = App::start().await;
    let body = json!({"channel": "user:nobody", "message": 1});
    for (bytes, status, opcode) in
        [(16_383, 202, None), (16_384, 202, None), (16_385, 401, Some(4401))]
    {
        let signed = token("alice").component().sign_to(bytes);
        assert_eq!(signed.len(), bytes);
        let post = |query: &str| app.request("POST", &format!("/v1/messages{query}")).json(&body);
        for request in [
            post("?instance=main").header("authorization", format!("Bearer {signed}")),
            post("?instance=main").header("authorization", &signed),
            post(&format!("?instance=main&authorization={signed}")),
            post(&format!("?instance=main&authorization=Bearer%20{signed}")),
        ] {
            app.send(request, status).await;
        }
        let stream = format!("/v1/stream?instance=main&authorization={signed}");
        let answer = app.request("GET", &stream).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), if status == 202 { 200 } else { status });
        for handshake in [
            Handshake::new(&app, "/?instance=main")
                .header("authorization", &format!("Bearer {signed}")),
            Handshake::new(&app, &format!("/?instance=main&authorization={signed}")),
            Handshake::new(&app, "/?instance=main")
                .header("sec-websocket-protocol", &format!("herald.v1, bearer.{signed}")),
        ] {
            let mut socket = handshake.send(&app).await.unwrap();
            match opcode {
                None => assert_eq!(socket.welcomed().await.connected["userId"], "alice"),
                Some(code) => assert_eq!(socket.closed().await.0, code),
            }
        }
    }
}

#[actix_web::test]
async fn publishing_needs_a_component_or_one_of_the_instances_publish_roles() {
    let app = App::start().await;
    let body = json!({"channel": "user:nobody", "message": 1});
    let status = async |token: Token, expected| {
        app.call("POST", "/v1/messages", Some(&token), Some(body.clone()), expected)
            .await
            .code()
            .to_owned()
    };
    assert_eq!(status(token("a"), 403).await, "PUBLISH_DENIED");
    assert_eq!(status(token("a").with("component", ""), 403).await, "PUBLISH_DENIED");
    assert_eq!(
        status(token("a").component().roles(&["REALTIME_ADMIN"]), 403).await,
        "ROLE_REQUIRED"
    );
    assert_eq!(status(token("a").component(), 202).await, "");
    let instance = json!({"name": "main", "publishRoles": ["SENDER"]});
    let request = app
        .request("PUT", "/v1/instances/main")
        .bearer_auth(Token::operator().sign())
        .json(&instance);
    app.send(request.header("if-match", "\"1\""), 200).await;
    assert_eq!(status(token("a").roles(&["REALTIME_CONNECT", "SENDER"]), 202).await, "");
    assert_eq!(status(token("a").roles(&["SENDER"]), 403).await, "ROLE_REQUIRED");
}
