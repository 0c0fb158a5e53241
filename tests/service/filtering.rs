//! Expressions in rules and filters, over real tokens and sockets.

use crate::support::app::Answer;
use crate::support::socket::Handshake;
use crate::support::{App, Options, Socket, Token, token};
use serde_json::{Value, json};

async fn channel(app: &App, body: Value, expected: u16) -> Answer {
    app.call("POST", "/v1/channels", Some(&Token::admin("root")), Some(body), expected).await
}

async fn replace(app: &App, version: u64, body: Value) -> Answer {
    let request =
        app.request("PUT", &format!("/v1/channels/{}", body["name"].as_str().expect("a name")));
    let request = request.header("instance", "main").header("if-match", format!("\"{version}\""));
    app.send(request.bearer_auth(Token::admin("root").sign()).json(&body), 200).await
}

async fn send(app: &App, by: &Token, body: Value, expected: u16) -> Answer {
    app.call("POST", "/v1/messages", Some(by), Some(body), expected).await
}

async fn filtered(app: &App, filter: &str, message: Value) -> Value {
    let body = json!({"channel": "ALL", "message": message, "filter": filter});
    send(app, &token("shop").component(), body, 202).await.body
}

fn plan(user: &str, plan: &str) -> Token {
    token(user).with("plan", plan)
}

/// The metric that counts evaluations.
async fn evaluations(app: &App) -> u64 {
    let metrics = app.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("herald_evaluations_total "));
    line.expect("it is counted").parse().expect("a number")
}

async fn hears(socket: &mut Socket) -> Value {
    let frame = socket.frame().await;
    assert_eq!(frame["type"], "CHANNELS", "{frame}");
    frame["channels"].clone()
}

#[actix_web::test]
async fn a_rule_asks_the_claims_and_an_error_does_not_allow_and_does_deny() {
    let app = App::start().await;
    let rules = json!([{"effect": "allow", "when": "claims.plan == 'pro'"}]);
    channel(&app, json!({"name": "pro", "rules": rules}), 201).await;
    let rules = json!([{"effect": "allow", "everyone": true}, {"effect": "deny", "when": "claims.age < 18"}]);
    let made = channel(&app, json!({"name": "adult", "rules": rules}), 201).await;
    assert_eq!(made.body["rules"], rules);
    for (person, heard) in [
        (plan("a", "pro").with("age", 20), vec!["channel:adult", "channel:pro"]),
        (plan("b", "free").with("age", 17), vec![]),
        (token("c").with("age", 18), vec!["channel:adult"]),
        (plan("d", "pro"), vec!["channel:pro"]),
        (token("e").with("plan", json!(["pro"])).with("age", "20"), vec![]),
    ] {
        let socket = app.connect(&person).await;
        let channels = socket.connected["channels"].as_array().expect("channels").iter();
        let channels: Vec<_> = channels
            .filter_map(Value::as_str)
            .filter(|name| name.starts_with("channel:"))
            .collect();
        assert_eq!(channels, heard, "{}", socket.connected);
    }
}

#[actix_web::test]
async fn a_rule_may_ask_how_a_connection_came() {
    let app = App::start().await;
    let when = "connection.address == '127.0.0.1' && connection.userAgent.startsWith('Herald')";
    channel(&app, json!({"name": "app", "rules": [{"effect": "allow", "when": when}]}), 201).await;
    for (agent, heard) in [("Herald/1", true), ("curl/8", false)] {
        let path = format!("/?authorization={}&instance=main", token("alice").sign());
        let handshake = Handshake::new(&app, &path).header("user-agent", agent);
        let socket =
            handshake.send(&app).await.unwrap_or_else(|_| panic!("refused")).welcomed().await;
        let channels = socket.connected["channels"].as_array().expect("channels");
        assert_eq!(channels.contains(&json!("channel:app")), heard, "{agent}");
    }
}

#[actix_web::test]
async fn publish_rules_ask_the_publisher() {
    let app = App::start().await;
    let rules = json!([{"effect": "allow", "when": "claims.component.startsWith('billing')"}]);
    channel(&app, json!({"name": "invoices", "publishRules": rules}), 201).await;
    let body = json!({"channel": "invoices", "message": 1});
    send(&app, &token("a").with("component", "billing-eu"), body.clone(), 202).await;
    let refused = send(&app, &token("a").with("component", "shop"), body, 403).await;
    assert_eq!(refused.code(), "PUBLISH_DENIED");
    let rules = json!([{"effect": "allow", "when": "connection.address == '127.0.0.1'"}]);
    let refused = channel(&app, json!({"name": "b", "publishRules": rules}), 422).await;
    assert_eq!(refused.code(), "EXPRESSION_INVALID");
}

#[actix_web::test]
async fn a_bad_expression_is_refused_with_its_position_and_reason() {
    let app = App::start().await;
    for (when, position) in [
        ("claims.plan ==", None),
        ("user == 'a' && nobody", Some(15)),
        ("now() > 1", Some(0)),
        ("1 + 1", None),
        ("groups", Some(0)),
        ("user.matches(claims.pattern)", None),
        ("claims.a.all(x, claims.b.exists(y, y == x))", None),
        (&format!("user == '{}'", "x".repeat(503)), None),
        ("", None),
    ] {
        for field in ["rules", "publishRules"] {
            let body = json!({"name": "x", field: [{"effect": "allow", "everyone": true}, {"effect": "deny", "when": when}]});
            let refused = channel(&app, body, 422).await;
            assert_eq!(refused.code(), "EXPRESSION_INVALID", "{when}");
            assert_eq!(refused.body["errors"][0]["pointer"], format!("/{field}/1/when"));
            assert!(
                refused.body["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
                "{}",
                refused.body
            );
            let found = refused.body["position"].as_u64().expect("a position");
            assert!(
                found <= when.len() as u64 && position.is_none_or(|position| position == found),
                "{}",
                refused.body
            );
        }
        let body = json!({"channel": "ALL", "message": 1, "filter": when});
        let refused = send(&app, &token("shop").component(), body, 422).await;
        assert_eq!(
            (refused.code(), &refused.body["errors"][0]["pointer"]),
            ("EXPRESSION_INVALID", &json!("/filter"))
        );
    }
    let longest = format!("user == '{}'", "x".repeat(501));
    assert_eq!(longest.len(), 511);
    for when in [longest.clone(), format!("{longest} ")] {
        send(
            &app,
            &token("shop").component(),
            json!({"channel": "ALL", "message": 1, "filter": when}),
            202,
        )
        .await;
    }
}

#[actix_web::test]
async fn a_filter_reaches_those_of_whom_it_is_true_live_and_on_resume() {
    let app = App::start().await;
    let (pro, free, none) = (plan("pro", "pro"), plan("free", "free"), token("none"));
    let mut sockets = Vec::new();
    for person in [&pro, &free, &none] {
        sockets.push(app.connect(person).await);
    }
    let receipt = filtered(&app, "claims.plan == 'pro'", json!("for pro")).await;
    assert_eq!((&receipt["matched"], &receipt["queued"]), (&json!(1), &json!(1)));
    let receipt =
        filtered(&app, "!(has(claims.plan) && claims.plan == 'pro')", json!("for others")).await;
    assert_eq!(receipt["matched"], 2);
    app.publish("ALL", json!("for all")).await;
    let mut seen = Vec::new();
    for socket in &mut sockets {
        seen.push([socket.data().await, socket.data().await]);
    }
    assert_eq!(
        seen,
        [["for pro", "for all"], ["for others", "for all"], ["for others", "for all"]]
    );
    for (socket, (person, heard)) in
        sockets.iter().zip([(&pro, "for pro"), (&free, "for others"), (&none, "for others")])
    {
        let cursor = socket.connected["cursor"].as_str().expect("a cursor");
        let mut back = app.connect_with(person, &format!("&cursor={cursor}")).await;
        assert_eq!(back.connected["recovered"], true);
        assert_eq!([back.data().await, back.data().await], [heard, "for all"]);
        // Present rights decide: with another token, what was for the other is missed too.
        let upgraded = if heard == "for pro" { plan("pro", "free") } else { plan("free", "pro") };
        let mut other = app.connect_with(&upgraded, &format!("&cursor={cursor}")).await;
        let expected = if heard == "for pro" { "for others" } else { "for pro" };
        assert_eq!([other.data().await, other.data().await], [expected, "for all"]);
    }
}

#[actix_web::test]
async fn a_filter_needs_a_component_or_an_administrator() {
    let app = App::start().await;
    let limits = json!({"publishRoles": ["WRITER"]});
    let request = app.request("PUT", "/v1/instances/main").header("if-match", "\"1\"");
    app.send(request.bearer_auth(Token::operator().sign()).json(&limits), 200).await;
    let body = json!({"channel": "ALL", "message": 1, "filter": "user == 'a'"});
    let writer = token("w").roles(&["REALTIME_CONNECT", "WRITER"]);
    assert_eq!(send(&app, &writer, body.clone(), 403).await.code(), "ROLE_REQUIRED");
    send(
        &app,
        &token("w").roles(&["REALTIME_CONNECT", "WRITER", "REALTIME_ADMIN"]),
        body.clone(),
        202,
    )
    .await;
    send(&app, &token("w").component(), body, 202).await;
    send(&app, &writer, json!({"channel": "ALL", "message": 1}), 202).await;
}

#[actix_web::test]
async fn the_same_id_with_another_filter_is_another_message() {
    let app = App::start().await;
    let by = token("shop").component();
    let body =
        |filter: &str| json!({"channel": "ALL", "message": 1, "id": "one", "filter": filter});
    send(&app, &by, body("user == 'a'"), 202).await;
    assert_eq!(send(&app, &by, body("user == 'a'"), 202).await.body["duplicate"], true);
    assert_eq!(send(&app, &by, body("user == 'b'"), 409).await.code(), "ID_REUSED");
}

#[actix_web::test]
async fn an_expression_is_evaluated_once_a_connection_and_again_only_for_a_change() {
    let app = App::start().await;
    let pro = json!([{"effect": "allow", "when": "claims.plan == 'pro'"}]);
    channel(&app, json!({"name": "pro", "rules": pro}), 201).await;
    let mut sockets = Vec::new();
    for number in 0..5 {
        sockets.push(app.connect(&plan(&format!("user-{number}"), "pro")).await);
    }
    assert_eq!(evaluations(&app).await, 5);
    for number in 0..3 {
        app.publish("pro", json!(number)).await;
        for socket in &mut sockets {
            assert_eq!(socket.data().await, number);
        }
    }
    assert_eq!(evaluations(&app).await, 5, "never once a message");
    channel(&app, json!({"name": "other"}), 201).await;
    for socket in &mut sockets {
        assert_eq!(hears(socket).await.as_array().expect("channels").len(), 4);
    }
    assert_eq!(evaluations(&app).await, 5, "another channel's change is no reason");
    for _ in 0..3 {
        assert_eq!(filtered(&app, "claims.plan == 'pro'", json!("f")).await["matched"], 5);
    }
    assert_eq!(evaluations(&app).await, 10, "a filter asks each connection once");
    sockets[0]
        .send(&json!({"type": "AUTH", "authorization": plan("user-0", "free").sign()}).to_string())
        .await;
    for _ in 0..3 {
        assert_eq!(sockets[0].data().await, "f");
    }
    assert!(!hears(&mut sockets[0]).await.to_string().contains("channel:pro"));
    assert_eq!(evaluations(&app).await, 11, "a new token is asked anew");
    assert_eq!(filtered(&app, "claims.plan == 'pro'", json!("f")).await["matched"], 4);
    assert_eq!(evaluations(&app).await, 12);
    let free = json!([{"effect": "allow", "when": "claims.plan == 'free'"}]);
    replace(&app, 1, json!({"name": "pro", "rules": free})).await;
    assert!(hears(&mut sockets[0]).await.to_string().contains("channel:pro"));
    assert_eq!(evaluations(&app).await, 17, "a changed rule is asked of everyone");
}

#[actix_web::test]
async fn the_token_that_a_socket_has_is_answered_and_no_rule_is_asked() {
    let app = App::start().await;
    let pro = json!([{"effect": "allow", "when": "claims.plan == 'pro'"}]);
    channel(&app, json!({"name": "pro", "rules": pro}), 201).await;
    let mut socket = app.connect(&plan("alice", "free")).await;
    let auth = |token: String| json!({"type": "AUTH", "authorization": token}).to_string();
    let same = auth(plan("alice", "pro").sign());
    socket.send(&same).await;
    let heard = hears(&mut socket).await;
    assert!(heard.to_string().contains("channel:pro"), "{heard}");
    let before = evaluations(&app).await;
    for _ in 0..3 {
        socket.send(&same).await;
        assert_eq!(hears(&mut socket).await, heard);
    }
    assert_eq!(evaluations(&app).await, before, "the same token asks nothing");
    let expiring = plan("alice", "pro").expires_in(100).sign();
    socket.send(&auth(expiring)).await;
    assert_eq!(hears(&mut socket).await, heard);
    assert_eq!(evaluations(&app).await, before + 1, "another one asks, whatever it says");
}

#[actix_web::test]
async fn as_many_filters_as_are_set_are_kept_and_the_next_asks_again() {
    for (kept, evaluated) in [(1, 4), (2, 2), (3, 2)] {
        let app = App::start_with(
            Options::default().with("HERALD_FILTERS", kept).with("HERALD_WORKERS", 1),
        )
        .await;
        let _socket = app.connect(&plan("alice", "pro")).await;
        for filter in
            ["user == 'alice'", "claims.plan == 'pro'", "user == 'alice'", "claims.plan == 'pro'"]
        {
            assert_eq!(filtered(&app, filter, json!(1)).await["matched"], 1);
        }
        assert_eq!(evaluations(&app).await, evaluated, "{kept} are kept");
    }
}

#[actix_web::test]
async fn an_expression_is_kept_as_it_was_written() {
    let app = App::start().await;
    channel(
        &app,
        json!({"name": "pro", "rules": [{"effect": "allow", "when": "claims.plan == 'pro'"}]}),
        201,
    )
    .await;
    let read =
        app.call("GET", "/v1/channels/pro", Some(&Token::admin("root")), None, 200).await.body;
    assert_eq!(read["rules"], json!([{"effect": "allow", "when": "claims.plan == 'pro'"}]));
    let audit = app.call("GET", "/v1/audit", Some(&Token::admin("root")), None, 200).await.body;
    assert_eq!(audit["items"][0]["after"]["rules"][0]["when"], "claims.plan == 'pro'");
}
