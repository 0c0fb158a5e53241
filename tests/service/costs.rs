//! What expressions weigh and cost: rules and filters take no more of a node than an instance and
//! the process may have.

use crate::bounds::{peak_kib, resident_kib};
use crate::secrets::{Herald, JSON, MAIN, exchange, request};
use crate::support::app::Answer;
use crate::support::socket::Handshake;
use crate::support::{App, Options, Token, postgres, token, within};
use futures_util::future::join;
use herald::domain::expression::{Cost, Expression, Scope};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A plain rule, whose price is what the tests count in.
const PLAIN: &str = "'eng' in groups";
/// How much a flood of regular expressions may take, in KiB: what an instance may have compiled
/// unless set otherwise, and as much again for what is under way.
const ROOM_KIB: u64 = 64 << 10;

fn cost(text: &str) -> Cost {
    Expression::parse(text, Scope::Hear).expect("a good expression").cost()
}

/// So many times the same rule, which counts each time.
fn rules(text: &str, times: usize) -> Value {
    json!(vec![json!({"effect": "allow", "when": text}); times])
}

fn channel(name: &str, times: usize) -> Value {
    json!({"name": name, "rules": rules(PLAIN, times)})
}

async fn create(app: &App, body: Value, expected: u16) -> Answer {
    app.call("POST", "/v1/channels", Some(&Token::admin("root")), Some(body), expected).await
}

async fn replace(app: &App, version: u64, body: Value, expected: u16) -> Answer {
    let name = body["name"].as_str().expect("a name");
    let request = app.request("PUT", &format!("/v1/channels/{name}"));
    let request = request.header("instance", "main").header("if-match", format!("\"{version}\""));
    app.send(request.bearer_auth(Token::admin("root").sign()).json(&body), expected).await
}

async fn delete(app: &App, name: &str, version: u64) {
    let request = app.request("DELETE", &format!("/v1/channels/{name}"));
    let request = request.header("instance", "main").header("if-match", format!("\"{version}\""));
    app.send(request.bearer_auth(Token::admin("root").sign()), 204).await;
}

/// Asserts that a channel was refused because of what all expressions cost.
fn assert_too_costly(answer: &Answer, limit: u64, actual: u64) {
    assert_eq!(answer.code(), "EXPRESSION_INVALID", "{}", answer.body);
    assert_eq!((&answer.body["limit"], &answer.body["actual"]), (&json!(limit), &json!(actual)));
}

async fn execute(database: &str, statement: &str) {
    let mut connection = PgConnection::connect(database).await.expect("Postgres answers");
    let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
    statement.execute(&mut connection).await.expect("a good statement");
}

async fn metric(app: &App, name: &str) -> usize {
    let metrics = app.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.expect("it is told").trim().trim_end_matches(".0").parse().expect("a number")
}

#[actix_web::test]
async fn an_instances_rules_are_saved_up_to_their_bound_of_steps_and_refused_above_with_the_figures()
 {
    let one = cost(PLAIN).steps;
    let bound = 10 * one;
    let app = App::start_with(Options::default().with("HERALD_EXPRESSION_STEPS", bound)).await;
    app.create_instance("other", json!({})).await;
    create(&app, channel("a", 9), 201).await;
    create(&app, channel("b", 1), 201).await;
    assert_too_costly(&create(&app, channel("c", 1), 422).await, bound, 11 * one);
    let publishing = json!({"name": "c", "publishRules": rules(PLAIN, 2)});
    assert_too_costly(&create(&app, publishing, 422).await, bound, 12 * one);
    create(&app, json!({"name": "c"}), 201).await;
    assert_too_costly(&replace(&app, 1, channel("a", 10), 422).await, bound, 11 * one);
    replace(&app, 1, channel("a", 8), 200).await;
    replace(&app, 1, channel("c", 1), 200).await;
    assert_too_costly(&replace(&app, 1, channel("b", 2), 422).await, bound, 11 * one);
    delete(&app, "a", 2).await;
    create(&app, channel("d", 8), 201).await;
    // A list that is beyond the bound by itself is not read to its end.
    assert_too_costly(&create(&app, channel("e", 100), 422).await, bound, 11 * one);
    let elsewhere = app.request("POST", "/v1/channels").header("instance", "other");
    let everywhere = Token::admin("root").instances(&["*"]).sign();
    let elsewhere = elsewhere.bearer_auth(everywhere).json(&channel("a", 10));
    app.send(elsewhere, 201).await;
}

#[actix_web::test]
async fn an_instances_rules_are_saved_up_to_their_bound_of_bytes() {
    const LEAST: usize = 65_536;
    let app = App::start_with(Options::default().with("HERALD_EXPRESSION_BYTES", LEAST)).await;
    let letters = "user.matches('^[a-z]+$')";
    let one = cost(letters).bytes;
    let fit = LEAST / one;
    assert!(fit >= 2, "{one}");
    let body = |times| json!({"name": "a", "rules": rules(letters, times)});
    let refused = create(&app, body(fit + 1), 422).await;
    assert_too_costly(&refused, LEAST as u64, ((fit + 1) * one) as u64);
    create(&app, body(fit), 201).await;
    assert!(metric(&app, "herald_expression_bytes").await <= LEAST);
}

#[actix_web::test]
async fn two_channels_that_are_saved_at_once_do_not_pass_the_bound_together() {
    let bound = 10 * cost(PLAIN).steps;
    let app = App::start_with(Options::default().with("HERALD_EXPRESSION_STEPS", bound)).await;
    let admin = Token::admin("root").sign();
    for _ in 0..10 {
        let save = async |name: &str| {
            let request = app.request("POST", "/v1/channels").header("instance", "main");
            let request = request.bearer_auth(&admin).json(&channel(name, 6));
            request.send().await.expect("the server answers").status().as_u16()
        };
        let saved = join(save("a"), save("b")).await;
        assert!([(201, 422), (422, 201)].contains(&saved), "{saved:?}");
        delete(&app, if saved.0 == 201 { "a" } else { "b" }, 1).await;
    }
}

#[actix_web::test]
async fn stored_channels_that_no_longer_fit_count_as_disabled_by_name_and_find_their_way_back() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    for (name, times) in [("a", 6), ("b", 6), ("c", 3), ("d", 1)] {
        create(&app, channel(name, times), 201).await;
    }
    drop(app.stopped().await);
    let too_large = r#"[{"effect": "allow", "when": "user.matches(''(a{1000}){1000}'')"}]"#;
    execute(&database, &format!("update channels set rules = '{too_large}' where name = 'd'"))
        .await;
    let options = Options::default().with("HERALD_EXPRESSION_STEPS", 10 * cost(PLAIN).steps);
    let app = App::launch(options, database).await;
    let engineer = token("e").groups(&["eng"]);
    let mut socket = app.connect(&engineer).await;
    let heard = ["ALL", "user:e", "group:eng", "channel:a", "channel:c"];
    assert_eq!(socket.connected["channels"], json!(heard));
    let shop = token("shop").component();
    let message = |channel: &str| Some(json!({"channel": channel, "message": 1}));
    let refused = app.call("POST", "/v1/messages", Some(&shop), message("channel:b"), 409).await;
    assert_eq!(refused.code(), "CHANNEL_DISABLED");
    let admin = Token::admin("root");
    for (name, part) in [
        ("b", "have at least 11484 steps, and at most 10440 are allowed"),
        ("d", "/rules/0/when is refused by this version: the regular expression is too large"),
    ] {
        let asked = Some(json!({"userId": "e", "groups": ["eng"]}));
        let path = format!("/v1/channels/{name}/explain");
        let explained = app.call("POST", &path, Some(&admin), asked, 200).await.body;
        let reason = explained["hear"]["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("the channel counts as disabled") && reason.contains(part));
        assert_eq!(explained["hear"]["allowed"], false);
        let path = format!("/v1/channels/{name}");
        assert_eq!(app.call("GET", &path, Some(&admin), None, 200).await.body["enabled"], true);
    }
    replace(&app, 1, json!({"name": "b", "rules": rules(PLAIN, 6), "description": "same"}), 200)
        .await;
    replace(&app, 1, json!({"name": "d"}), 200).await;
    let told = socket.frame().await;
    assert!(told["channels"].as_array().expect("a list").contains(&json!("channel:d")), "{told}");
    replace(&app, 2, channel("b", 1), 200).await;
    let told = socket.frame().await;
    assert!(told["channels"].as_array().expect("a list").contains(&json!("channel:b")), "{told}");
    let sent = app.call("POST", "/v1/messages", Some(&shop), message("channel:b"), 202).await;
    assert_eq!(sent.body["queued"], 1);
}

/// The examples of the page on expressions.
fn examples() -> Vec<&'static str> {
    let page = include_str!("../../docs/expressions.md");
    page.split("```cel\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[actix_web::test]
async fn the_examples_a_list_of_regular_expressions_and_a_thousand_channels_of_plain_rules_are_saved()
 {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    for instance in ["main", "many"] {
        app.create_instance(instance, json!({})).await;
    }
    let list = |texts: Vec<String>| -> Value {
        texts.iter().map(|text| json!({"effect": "allow", "when": text})).collect()
    };
    let examples = examples().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert!(examples.len() >= 20);
    create(&app, json!({"name": "examples", "rules": list(examples)}), 201).await;
    for (name, pattern) in [
        ("mail", r"^[\\w.+-]+@example-NN[.]com$"),
        ("names", "(?i)^team-NN-[a-z0-9]{1,20}$"),
        ("letters", r"(?i)^\\pL+NN$"),
    ] {
        let one = |number: usize| {
            format!("claims.email.matches('{}')", pattern.replace("NN", &number.to_string()))
        };
        let body = json!({"name": name, "rules": list((0..100).map(one).collect())});
        create(&app, body, 201).await;
    }
    // 990 of a thousand are there already.
    let plain =
        "claims.email_verified == true && claims.email.endsWith(''@example-' || r || '.com'')";
    let rule = format!("jsonb_build_object('effect', 'allow', 'when', '{plain}')");
    execute(
        &database,
        &format!(
            "insert into channels (instance, name, description, enabled, rules, publish_rules, version)
             select 'many', 'c' || c, '', true, (select jsonb_agg({rule}) from generate_series(1, 10) r),
                '[]', 1 from generate_series(11, 1000) c;
             update catalog_version set version = version + 1; notify herald_catalog"
        ),
    )
    .await;
    let plain = |number: usize| {
        format!("claims.email_verified == true && claims.email.endsWith('@example-{number}.com')")
    };
    for number in 1..=10 {
        let rules = list((1..=10).map(plain).collect());
        let request = app.request("POST", "/v1/channels").header("instance", "many");
        let request = request.bearer_auth(Token::admin("root").instances(&["*"]).sign());
        app.send(request.json(&json!({"name": format!("c{number}"), "rules": rules})), 201).await;
    }
    let reader = token("a")
        .instances(&["many"])
        .with("email", "a@example-10.com")
        .with("email_verified", true);
    let path = format!("/?authorization={}&instance=many", reader.sign());
    let heard = async || {
        let socket = Handshake::new(&app, &path).send(&app).await;
        let socket = socket.unwrap_or_else(|answer| panic!("{answer:?}")).welcomed().await;
        socket.connected["channels"].as_array().expect("a list").len()
    };
    // Everyone, the user and all channels: none counts as disabled.
    within("all channels", async { while heard().await != 2 + 1_000 {} }).await;
}

#[actix_web::test]
async fn messages_with_the_same_filter_share_what_it_is_compiled_to() {
    let app = App::start().await;
    let by = token("shop").component();
    let publish = async |filter: &str| {
        let body = Some(json!({"channel": "ALL", "message": 1, "filter": filter}));
        app.call("POST", "/v1/messages", Some(&by), body, 202).await;
        metric(&app, "herald_expression_bytes").await
    };
    let first = publish("user.matches('(?i)\\\\pL1')").await;
    assert!(first > 16 << 10, "{first}");
    assert_eq!(publish("user.matches('(?i)\\\\pL1')").await, first);
    let both = publish("user.matches('(?i)\\\\pL2')").await;
    assert!(both > first + (16 << 10), "{both}");
}

/// So many regular expressions, each of all letters.
fn letters(number: usize, times: usize) -> String {
    let part = |part: usize| format!("user.matches('(?i)\\\\pL{number}|{part}')");
    (0..times).map(part).collect::<Vec<_>>().join("||")
}

/// As many of them as a filter or a rule has room for.
fn heavy(number: usize) -> String {
    letters(number, 14)
}

#[actix_web::test]
async fn filters_hold_no_more_than_their_bound_compiled_and_are_right_when_they_are_made_again() {
    const BOUND: usize = 262_144;
    let options =
        Options::default().with("HERALD_EXPRESSION_BYTES", BOUND).with("HERALD_FILTERS", 2);
    let app = App::start_with(options).await;
    let refused = json!({"channel": "ALL", "message": 1, "filter": heavy(0)});
    let by = token("shop").component();
    let refused = app.call("POST", "/v1/messages", Some(&by), Some(refused), 422).await;
    assert_too_costly(&refused, BOUND as u64, cost(&heavy(0)).bytes as u64);
    let mut live = app.connect(&token("a1|")).await;
    let cursor = live.connected["cursor"].as_str().expect("a cursor").to_owned();
    let traces = metric(&app, "herald_trace_bytes").await;
    let window = metric(&app, "herald_history_bytes").await;
    let (mut heard, mut texts) = (Vec::new(), 0);
    for number in 0..24 {
        // Every third is for nobody.
        let filter = match number % 3 {
            0 => format!("!({})", letters(number, 4)),
            _ => format!("({}) || user == 'a1|'", letters(number, 4)),
        };
        texts += filter.len();
        let body = json!({"channel": "ALL", "message": number, "filter": filter});
        let by = token("shop").component();
        let sent = app.call("POST", "/v1/messages", Some(&by), Some(body), 202).await.body;
        let is_for = number % 3 != 0;
        assert_eq!(sent["queued"], usize::from(is_for), "{sent}");
        if is_for {
            heard.push(json!(number));
            assert_eq!(live.data().await, number);
        }
        let held = metric(&app, "herald_expression_bytes").await;
        assert!(held <= BOUND, "{held} bytes are held compiled");
    }
    assert!(metric(&app, "herald_trace_bytes").await >= traces + texts);
    assert!(metric(&app, "herald_history_bytes").await >= window + texts);
    let mut again = app.connect_with(&token("a1|"), &format!("&cursor={cursor}")).await;
    assert_eq!(again.connected["recovered"], true);
    for number in heard {
        assert_eq!(again.data().await, number);
    }
    assert!(metric(&app, "herald_expression_bytes").await <= BOUND);
}

#[actix_web::test]
async fn beyond_the_processs_bound_what_is_compiled_gives_way_and_disables_nobody() {
    const BOUND: usize = 65_536;
    let options = Options::default().with("HERALD_EXPRESSION_TOTAL_BYTES", BOUND);
    let app = App::start_with(options).await;
    app.create_instance("other", json!({})).await;
    let letters: Vec<Value> = (0..10)
        .map(|number| json!({"effect": "allow", "when": format!("user.matches('(?i)\\\\pL{number}')")}))
        .collect();
    let weight: usize =
        letters.iter().map(|rule| cost(rule["when"].as_str().expect("a text")).bytes).sum();
    assert!(weight > 2 * BOUND, "{weight}");
    for instance in ["main", "other"] {
        let by = Token::admin("root").instances(&["*"]).sign();
        let request = app.request("POST", "/v1/channels").header("instance", instance);
        let body = json!({"name": "letters", "rules": letters});
        app.send(request.bearer_auth(by).json(&body), 201).await;
    }
    for round in 0..3 {
        for (user, is_heard) in [("a9", true), ("99", false)] {
            let socket = app.connect(&token(user)).await;
            let heard = socket.connected["channels"].as_array().expect("a list");
            assert_eq!(heard.contains(&json!("channel:letters")), is_heard, "{round}: {user}");
            assert!(metric(&app, "herald_expression_bytes").await <= BOUND);
        }
    }
}

/// A call to a process of its own, as whoever has this token.
async fn call(herald: &Herald, method: &str, path: &str, by: &Token, body: &str) -> String {
    let bearer = format!("Bearer {}", by.sign());
    let headers = [("authorization", bearer.as_str()), JSON, MAIN];
    exchange(herald.connect().await, &request(method, path, &headers, body)).await
}

/// A process of its own that knows instance `main`.
async fn with_instance(variables: &[(&str, &str)]) -> Herald {
    let herald = Herald::start(variables).await;
    herald.create_instance().await;
    let admin = Token::admin("root");
    let is_known =
        async || call(&herald, "GET", "/v1/channels", &admin, "").await.contains("\"items\"");
    within("the instance", async { while !is_known().await {} }).await;
    herald
}

#[actix_web::test]
async fn two_hundred_messages_with_another_heavy_filter_each_take_no_more_memory_than_stated() {
    let database = postgres::database().await;
    let herald = with_instance(&[("DATABASE_URL", database.as_str())]).await;
    let before = resident_kib(herald.id());
    for publisher in 0..2 {
        let messages: Vec<Value> = (0..100)
            .map(|number| json!({"channel": "ALL", "message": 1, "filter": heavy(100 * publisher + number)}))
            .collect();
        let by = token(&format!("shop-{publisher}")).component();
        let body = json!({ "messages": messages }).to_string();
        let answer = call(&herald, "POST", "/v1/messages/batch", &by, &body).await;
        assert_eq!(answer.matches("\"status\":202").count(), 100, "{answer}");
    }
    let grown = peak_kib(herald.id()) - before;
    println!("200 messages with heavy filters: {grown} KiB more");
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
    herald.stopped().await;
}

#[actix_web::test]
async fn eight_channels_of_heavy_rules_take_no_more_memory_than_stated_when_saved_and_when_read() {
    let database = postgres::database().await;
    let variables = [("DATABASE_URL", database.as_str())];
    let herald = with_instance(&variables).await;
    let list = |number: usize| -> Value {
        let rule = |index| json!({"effect": "allow", "when": heavy(100 * number + index)});
        (0..100).map(rule).collect()
    };
    let admin = Token::admin("root");
    let before = resident_kib(herald.id());
    for number in 0..8 {
        let body = json!({"name": format!("c{number}"), "rules": list(number)});
        let answer = call(&herald, "POST", "/v1/channels", &admin, &body.to_string()).await;
        assert!(answer.contains("\"code\":\"EXPRESSION_INVALID\""), "{answer}");
    }
    let grown = peak_kib(herald.id()) - before;
    println!("eight refused channels of heavy rules: {grown} KiB more");
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
    herald.stopped().await;
    // As an earlier version has stored them.
    for number in 0..8 {
        let rules = list(number).to_string().replace('\'', "''");
        let insert = format!(
            "insert into channels (instance, name, description, enabled, rules, publish_rules, version)
             values ('main', 'c{number}', '', true, '{rules}', '[]', 1)"
        );
        execute(&database, &insert).await;
    }
    execute(&database, "update catalog_version set version = version + 1").await;
    let herald = Herald::start(&variables).await;
    let grown = peak_kib(herald.id()) - before.min(peak_kib(herald.id()));
    println!("eight stored channels of heavy rules: {grown} KiB more at the start");
    assert!(grown < ROOM_KIB, "the memory grew by {grown} KiB");
    let log = within("the log", async { herald.log() }).await;
    assert_eq!(log.matches("the channel counts as disabled").count(), 8, "{log}");
    herald.stopped().await;
}
