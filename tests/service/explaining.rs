//! Explanations: who hears a channel and may publish to it, and why; who would get a message, and
//! why not.

use crate::support::app::Answer;
use crate::support::{App, Token, token};
use serde_json::{Value, json};

async fn create(app: &App, channel: Value) {
    app.create_channel(channel).await;
}

async fn explain(app: &App, channel: &str, body: Value, expected: u16) -> Answer {
    let path = format!("/v1/channels/{channel}/explain");
    app.call("POST", &path, Some(&Token::admin("root")), Some(body), expected).await
}

async fn dry_run(app: &App, query: &str, body: Value, expected: u16) -> Answer {
    let path = format!("/v1/messages?dryRun=true{query}");
    app.call("POST", &path, Some(&token("publisher").component()), Some(body), expected).await
}

/// `allowed`, `rule` and the result and the reason of every rule.
fn verdict(of: &Value) -> (&Value, &Value, Vec<(&Value, &str)>) {
    let rules = of["rules"].as_array().expect("rules").iter().enumerate();
    let rules = rules.map(|(index, rule)| {
        assert_eq!(rule["index"], index);
        (&rule["result"], rule["reason"].as_str().expect("a reason"))
    });
    (&of["allowed"], &of["rule"], rules.collect())
}

#[actix_web::test]
async fn a_user_is_explained_as_he_would_sign_in() {
    let app = App::start().await;
    let rules = json!([
        {"effect": "allow", "group": "eng"},
        {"effect": "allow", "when": "claims.plan == 'pro'"},
        {"effect": "deny", "user": "mallory"},
        {"effect": "deny", "when": "has(claims.age) && claims.age < 18"}
    ]);
    let publish = json!([{"effect": "allow", "when": "claims.component == 'shop'"}]);
    create(&app, json!({"name": "news", "rules": rules, "publishRules": publish})).await;
    let no_plan = "claims.plan == \"pro\" fails: claims.plan: no such key";
    for (body, allowed, rule, reasons) in [
        (
            json!({"userId": "alice"}),
            false,
            Value::Null,
            ["not a member of the group eng", no_plan, "the user is alice, not mallory"],
        ),
        (
            json!({"userId": "alice", "groups": ["ops", "eng", "eng"]}),
            true,
            json!(0),
            ["a member of the group eng", no_plan, "the user is alice, not mallory"],
        ),
        (
            json!({"userId": "alice", "claims": {"plan": "free"}}),
            false,
            Value::Null,
            [
                "not a member of the group eng",
                "claims.plan == \"pro\" is false: claims.plan is \"free\"",
                "the user is alice, not mallory",
            ],
        ),
        (
            json!({"userId": "mallory", "claims": {"plan": "pro"}}),
            false,
            json!(2),
            [
                "not a member of the group eng",
                "claims.plan == \"pro\" is true: claims.plan is \"pro\"",
                "the user is mallory",
            ],
        ),
    ] {
        let answer = explain(&app, "news", body, 200).await.body;
        let (is_allowed, decisive, rules) = verdict(&answer["hear"]);
        assert_eq!((is_allowed, decisive), (&json!(allowed), &rule), "{answer}");
        assert_eq!(rules[..3].iter().map(|(_, reason)| *reason).collect::<Vec<_>>(), reasons);
        assert_eq!(answer["hear"]["rules"][1]["result"] == "error", reasons[1] == no_plan);
        assert_eq!(
            (&answer["hear"]["rules"][2]["effect"], &answer["hear"].get("reason")),
            (&json!("deny"), &None)
        );
        assert_eq!(answer["publish"]["allowed"], false);
    }
    let young = json!({"userId": "alice", "groups": ["eng"], "claims": {"age": 17}});
    assert_eq!(explain(&app, "news", young, 200).await.body["hear"]["rule"], 3);
    for (component, allowed, rule) in [("shop", true, json!(0)), ("other", false, Value::Null)] {
        let body = json!({"userId": "alice", "claims": {"component": component}});
        let answer = explain(&app, "news", body, 200).await.body;
        assert_eq!(
            (&answer["publish"]["allowed"], &answer["publish"]["rule"]),
            (&json!(allowed), &rule)
        );
        assert!(answer["publish"].get("reason").is_none());
    }
}

#[actix_web::test]
async fn the_claims_that_a_token_carries_are_filled_in_and_a_user_has_no_connection() {
    let app = App::start().await;
    let when = "claims.sub == 'alice' && claims.groups == ['eng'] && 'EDITOR' in claims.roles && roles == claims.roles";
    create(&app, json!({"name": "filled", "rules": [{"effect": "allow", "when": when}]})).await;
    let body =
        json!({"userId": "alice", "groups": ["eng"], "roles": ["EDITOR", "REALTIME_CONNECT"]});
    let answer = explain(&app, "filled", body.clone(), 200).await.body;
    assert_eq!(answer["hear"]["allowed"], true, "{answer}");
    let mut other = body;
    other["claims"] = json!({"sub": "somebody"});
    assert_eq!(explain(&app, "filled", other, 200).await.body["hear"]["allowed"], false);
    let rules = |effect: &str| json!([{"effect": "allow", "everyone": true}, {"effect": effect, "when": "connection.address == '10.0.0.1'"}]);
    create(&app, json!({"name": "near", "rules": rules("deny")})).await;
    let answer = explain(&app, "near", json!({"userId": "alice"}), 200).await.body;
    let (allowed, rule, rules) = verdict(&answer["hear"]);
    assert_eq!((allowed, rule, rules[1].0), (&json!(false), &json!(1), &json!("error")));
    assert!(rules[1].1.contains("no connection"), "{}", rules[1].1);
    let socket = app.connect(&token("alice")).await;
    let body = json!({"connectionId": socket.connected["connectionId"]});
    let answer = explain(&app, "near", body, 200).await.body;
    let (allowed, rule, rules) = verdict(&answer["hear"]);
    assert_eq!((allowed, rule, rules[1].0), (&json!(true), &json!(0), &json!(false)));
    assert!(rules[1].1.contains("connection.address is \"127.0.0.1\""), "{}", rules[1].1);
}

#[actix_web::test]
async fn what_else_decides_is_said() {
    let app = App::start().await;
    create(&app, json!({"name": "on"})).await;
    create(&app, json!({"name": "off", "enabled": false})).await;
    let revoked = json!({"jti": "stolen", "expiresAt": (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339()});
    app.call("POST", "/v1/revocations", Some(&Token::admin("root")), Some(revoked), 201).await;
    let shop = json!({"component": "shop"});
    let no_publisher =
        "publishing needs a token with a component claim, or one of the instance's publishRoles";
    let role = "the token lacks the role REALTIME_CONNECT";
    for (channel, body, hear, publish) in [
        ("on", json!({"userId": "a"}), None, Some(no_publisher)),
        ("on", json!({"userId": "a", "claims": {"component": ""}}), None, Some(no_publisher)),
        ("on", json!({"userId": "a", "claims": shop}), None, None),
        ("on", json!({"userId": "a", "roles": [], "claims": shop}), Some(role), Some(role)),
        ("on", json!({"userId": "a", "roles": ["REALTIME_ADMIN"]}), Some(role), Some(role)),
        (
            "off",
            json!({"userId": "a", "claims": shop}),
            Some("the channel is disabled"),
            Some("the channel is disabled"),
        ),
        (
            "on",
            json!({"userId": "a", "claims": {"jti": "stolen"}}),
            Some("an administrator revoked the token"),
            Some("an administrator revoked the token"),
        ),
    ] {
        let answer = explain(&app, channel, body.clone(), 200).await.body;
        for (part, reason) in [("hear", hear), ("publish", publish)] {
            let part = &answer[part];
            assert_eq!(part.get("reason").and_then(Value::as_str), reason, "{body} {answer}");
            let rule = if reason.is_some() { Value::Null } else { json!(0) };
            assert_eq!((&part["allowed"], &part["rule"]), (&json!(reason.is_none()), &rule));
            assert_eq!(
                part["rules"].as_array().expect("rules").len(),
                1,
                "the rules are told all the same"
            );
        }
    }
    let mut narrowed = app.connect_with(&token("a"), "&channels=ALL").await;
    let body = json!({"connectionId": narrowed.connected["connectionId"]});
    let hear = explain(&app, "on", body, 200).await.body["hear"].clone();
    assert_eq!((&hear["allowed"], &hear["rule"]), (&json!(false), &Value::Null));
    assert_eq!(hear["reason"], "left channel:on out with channels=");
    narrowed.ping(b"open").await;
}

#[actix_web::test]
async fn what_is_asked_wrongly_is_refused_where_it_is_wrong() {
    let app = App::start().await;
    create(&app, json!({"name": "news"})).await;
    let socket = app.connect(&token("alice")).await;
    let id = &socket.connected["connectionId"];
    explain(&app, "news", json!({"connectionId": id, "userId": null}), 200).await;
    let groups =
        |count: usize| json!((0..count).map(|number| number.to_string()).collect::<Vec<_>>());
    let claims = |bytes: usize| json!({"x": "y".repeat(bytes - 8)});
    for (body, pointer) in [
        (json!({}), "/userId"),
        (json!({"groups": ["eng"]}), "/userId"),
        (json!({"userId": ""}), "/userId"),
        (json!({"userId": 1}), "/userId"),
        (json!({"connectionId": id, "userId": "alice"}), "/connectionId"),
        (json!({"connectionId": id, "groups": []}), "/connectionId"),
        (json!({"connectionId": id, "claims": {}}), "/connectionId"),
        (json!({"connectionId": id, "roles": []}), "/connectionId"),
        (json!({"userId": "a", "groups": ["eng", ""]}), "/groups/1"),
        (json!({"userId": "a", "roles": ["two words"]}), "/roles/0"),
        (json!({"userId": "a", "claims": ["plan"]}), "/claims"),
        (json!({"userId": "a", "claims": {"component": 7}}), "/claims/component"),
        (json!({"userId": "a", "user": "b"}), "/user"),
        (json!({"userId": "a", "groups": groups(257)}), "/groups"),
        (json!({"userId": "a", "claims": claims(16_385)}), "/claims"),
    ] {
        let answer = explain(&app, "news", body, 422).await;
        assert_eq!(
            (answer.code(), &answer.body["errors"][0]["pointer"]),
            ("INVALID_REQUEST", &json!(pointer))
        );
    }
    for count in [255, 256] {
        explain(&app, "news", json!({"userId": "a", "groups": groups(count)}), 200).await;
    }
    for bytes in [16_383, 16_384] {
        explain(&app, "news", json!({"userId": "a", "claims": claims(bytes)}), 200).await;
    }
    for (body, limit, actual) in [
        (json!({"userId": "a", "groups": groups(257)}), 256, 257),
        (json!({"userId": "a", "claims": claims(16_385)}), 16_384, 16_385),
    ] {
        let answer = explain(&app, "news", body, 422).await.body;
        assert_eq!((&answer["limit"], &answer["actual"]), (&json!(limit), &json!(actual)));
    }
    let nobody = json!({"connectionId": "nobody"});
    assert_eq!(explain(&app, "news", nobody, 404).await.code(), "NOT_FOUND");
    for channel in ["nowhere", "all", "%20"] {
        assert_eq!(
            explain(&app, channel, json!({"userId": "a"}), 404).await.code(),
            "CHANNEL_NOT_FOUND"
        );
        assert_eq!(
            explain(&app, channel, json!({"connectionId": id}), 404).await.code(),
            "CHANNEL_NOT_FOUND"
        );
    }
    app.create_instance("other", json!({})).await;
    let admin = Token::admin("x").instances(&["other"]);
    let channels =
        app.request("POST", "/v1/channels").header("instance", "other").bearer_auth(admin.sign());
    app.send(channels.json(&json!({"name": "news"})), 201).await;
    let foreign = app.request("POST", "/v1/channels/news/explain").header("instance", "other");
    let foreign = foreign.bearer_auth(admin.sign()).json(&json!({"connectionId": id}));
    assert_eq!(app.send(foreign, 404).await.code(), "NOT_FOUND");
}

/// The users of a dry run with how many connections each, and what the next page begins behind.
fn users(answer: &Answer) -> (Vec<(&str, u64)>, &Value) {
    let items = answer.body["users"]["items"].as_array().expect("users").iter();
    let user = |item: &'_ Value| item["connections"].as_u64().expect("a count");
    (
        items.map(|item| (item["userId"].as_str().expect("a user"), user(item))).collect(),
        &answer.body["users"]["next"],
    )
}

#[actix_web::test]
async fn a_dry_run_names_the_users_in_pages() {
    let app = App::start().await;
    let mut sockets = Vec::new();
    for user in ["bob", "Zoe", "alice", "é", "bob", "carol", "bob"] {
        sockets.push(
            app.connect(&token(user).groups(if user == "carol" { &[] } else { &["eng"] })).await,
        );
    }
    let everyone = json!({"channel": "ALL", "message": 1});
    let whole = dry_run(&app, "", everyone.clone(), 202).await;
    let all = vec![("Zoe", 1), ("alice", 1), ("bob", 3), ("carol", 1), ("é", 1)];
    assert_eq!(users(&whole), (all.clone(), &Value::Null), "in byte order");
    assert_eq!((&whole.body["matched"], &whole.body.get("explain")), (&json!(7), &None));
    for limit in 1..=6 {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page =
                dry_run(&app, &format!("&limit={limit}{after}"), everyone.clone(), 202).await;
            assert_eq!(page.body["matched"], 7, "the counts are those of all pages");
            let (items, next) = users(&page);
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(|(user, connections)| ((*user).to_owned(), *connections)));
            match next.as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let seen: Vec<_> =
            seen.iter().map(|(user, connections)| (user.as_str(), *connections)).collect();
        assert_eq!(seen, all, "{limit}");
    }
    let id = sockets[0].connected["connectionId"].clone();
    let some = json!({
        "channel": "group:eng", "message": 1, "filter": "user != 'alice'",
        "exclude": {"users": ["Zoe"], "connections": [id]}
    });
    let answer = dry_run(&app, "&limit=200&after=alice", some, 202).await;
    assert_eq!(
        (users(&answer).0, &answer.body["matched"]),
        (vec![("bob", 2), ("é", 1)], &json!(3))
    );
    for (query, pointer) in [
        ("&limit=0", "limit"),
        ("&limit=201", "limit"),
        ("&limit=x", "limit"),
        ("&after=", "after"),
        ("&explain=alice", "explain"),
        ("&explain=group:eng", "explain"),
        ("&explain=user:", "explain"),
    ] {
        let answer = dry_run(&app, query, everyone.clone(), 422).await;
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{query}");
    }
    let publisher = token("publisher").component();
    for query in ["limit=1", "after=a", "explain=user:a", "dryRun=false&limit=1"] {
        app.call(
            "POST",
            &format!("/v1/messages?{query}"),
            Some(&publisher),
            Some(everyone.clone()),
            422,
        )
        .await;
    }
    let batch = json!({"messages": [everyone]});
    let entry = app
        .call("POST", "/v1/messages/batch?dryRun=true", Some(&publisher), Some(batch.clone()), 200)
        .await;
    assert_eq!(
        (&entry.body["results"][0]["matched"], &entry.body["results"][0].get("users")),
        (&json!(7), &None)
    );
    for query in ["limit=1", "after=a", "explain=user:a"] {
        let path = format!("/v1/messages/batch?dryRun=true&{query}");
        app.call("POST", &path, Some(&publisher), Some(batch.clone()), 422).await;
    }
    assert!(
        app.publish("ALL", json!(1)).await.get("users").is_none(),
        "what is sent tells nobody's name"
    );
}

#[actix_web::test]
async fn a_dry_run_says_why_a_user_is_among_them_or_not() {
    let app = App::start().await;
    let rules = json!([
        {"effect": "allow", "group": "eng"},
        {"effect": "deny", "user": "mallory"},
        {"effect": "deny", "when": "claims.plan == 'none'"}
    ]);
    create(&app, json!({"name": "news", "rules": rules})).await;
    create(&app, json!({"name": "open"})).await;
    let free = token("alice").groups(&["eng"]).with("plan", "free");
    let alice = app.connect(&free).await;
    let _bob = app.connect(&token("bob")).await;
    let _mallory = app.connect(&token("mallory").groups(&["eng"]).with("plan", "free")).await;
    let _dave = app
        .connect_with(&token("dave").groups(&["eng"]).with("plan", "pro"), "&channels=open")
        .await;
    let filter = "claims.plan == 'pro'";
    let id = &alice.connected["connectionId"];
    for (user, message, receives, reason) in [
        ("alice", json!({"channel": "ALL"}), true, "hears ALL"),
        (
            "alice",
            json!({"channel": "bob"}),
            false,
            "not a member of the group bob; the user is alice, not bob",
        ),
        ("bob", json!({"channel": "bob"}), true, "hears user:bob"),
        ("nobody", json!({"channel": "ALL"}), false, "not connected"),
        (
            "nobody",
            json!({"channel": "ALL", "exclude": {"users": ["nobody"]}}),
            false,
            "exclude.users names the user",
        ),
        (
            "alice",
            json!({"channel": "ALL", "exclude": {"users": ["alice"]}}),
            false,
            "exclude.users names the user",
        ),
        (
            "alice",
            json!({"channel": "ALL", "exclude": {"connections": [id]}}),
            false,
            "exclude.connections names the connection",
        ),
        ("alice", json!({"channel": "group:ops"}), false, "not a member of the group ops"),
        (
            "alice",
            json!({"channel": "ALL", "filter": filter}),
            false,
            "the filter is false: claims.plan == \"pro\" is false: claims.plan is \"free\"",
        ),
        (
            "bob",
            json!({"channel": "ALL", "filter": filter}),
            false,
            "the filter has no answer: claims.plan == \"pro\" fails: claims.plan: no such key",
        ),
        (
            "alice",
            json!({"channel": "news", "filter": "claims.plan == 'free'"}),
            true,
            "hears channel:news; the filter is true: claims.plan == \"free\" is true: claims.plan is \"free\"",
        ),
        ("mallory", json!({"channel": "news"}), false, "rule 1 denied: the user is mallory"),
        (
            "bob",
            json!({"channel": "news"}),
            false,
            "rule 2 denied: claims.plan == \"none\" fails: claims.plan: no such key",
        ),
        ("dave", json!({"channel": "news"}), false, "left channel:news out with channels="),
        ("dave", json!({"channel": "user:dave"}), false, "left user:dave out with channels="),
        ("dave", json!({"channel": "group:eng"}), false, "left group:eng out with channels="),
        ("dave", json!({"channel": "ALL"}), false, "left ALL out with channels="),
        (
            "dave",
            json!({"channel": "open", "filter": filter}),
            true,
            "hears channel:open; the filter is true: claims.plan == \"pro\" is true: claims.plan is \"pro\"",
        ),
    ] {
        let mut body = message.clone();
        body["message"] = json!(1);
        let answer = dry_run(&app, &format!("&explain=user:{user}"), body, 202).await;
        let explained = &answer.body["explain"];
        assert_eq!(explained["userId"], user);
        assert_eq!(
            (&explained["receives"], &explained["reason"]),
            (&json!(receives), &json!(reason)),
            "{message}"
        );
        assert_eq!(
            users(&answer).0.iter().any(|(listed, _)| *listed == user),
            receives,
            "{message}"
        );
        let connections = explained["connections"].as_array().expect("connections");
        assert_eq!(connections.len(), usize::from(user != "nobody"));
        for connection in connections {
            assert_eq!(
                (&connection["receives"], &connection["reason"]),
                (&json!(receives), &json!(reason))
            );
        }
    }
}

#[actix_web::test]
async fn of_a_user_with_many_connections_twenty_are_explained_and_all_are_counted() {
    let app = App::launch(Default::default(), crate::support::postgres::database().await).await;
    app.create_instance("main", json!({"connectionsPerUser": 25})).await;
    create(&app, json!({"name": "none", "rules": []})).await;
    let mut sockets = Vec::new();
    for (count, told) in [(19, 19), (20, 20), (21, 20)] {
        while sockets.len() < count {
            let narrowed = if sockets.is_empty() { "&channels=none" } else { "" };
            sockets.push(app.connect_with(&token("alice"), narrowed).await);
        }
        let body = json!({"channel": "ALL", "message": 1});
        let answer = dry_run(&app, "&explain=user:alice", body, 202).await;
        let explained = &answer.body["explain"];
        let listed = explained["connections"].as_array().expect("connections");
        let ids: Vec<&Value> =
            listed.iter().map(|connection| &connection["connectionId"]).collect();
        let opened: Vec<&Value> =
            sockets.iter().map(|socket| &socket.connected["connectionId"]).take(told).collect();
        assert_eq!(ids, opened, "the oldest first");
        let reason = format!("{} of the user's {count} connections would get it", count - 1);
        assert_eq!((&explained["receives"], &explained["reason"]), (&json!(true), &json!(reason)));
        assert_eq!(users(&answer).0, [("alice", count as u64 - 1)]);
        let body = json!({"channel": "none", "message": 1});
        let none = dry_run(&app, "&explain=user:alice", body, 202).await.body["explain"].clone();
        assert_eq!(
            (&none["receives"], &none["reason"]),
            (&json!(false), &json!("no rule allowed"))
        );
    }
}
