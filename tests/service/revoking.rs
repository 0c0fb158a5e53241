//! Revoking tokens: by id, by user and time, on open sockets and new ones, and what ends a
//! revocation.

use crate::support::app::Answer;
use crate::support::postgres::{OwnPostgres, database, execute_in as execute, store, tables};
use crate::support::{App, Options, Socket, Token, token, within};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use herald::domain::instance::InstanceId;
use herald::domain::principal::UserId;
use herald::domain::revocation::{Revocation, TokenId};
use serde_json::{Value, json};

const PATH: &str = "/v1/revocations";

/// RFC 3339, so many seconds from now.
fn in_seconds(seconds: i64) -> String {
    at(Utc::now().timestamp() + seconds)
}

fn at(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap().to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn revoke(app: &App, body: Value, expected: u16) -> Answer {
    app.call("POST", PATH, Some(&Token::admin("root")), Some(body), expected).await
}

/// Revokes one token for an hour; the revocation's id.
async fn revoke_token(app: &App, id: &str) -> String {
    let made = revoke(app, json!({"jti": id, "expiresAt": in_seconds(3_600)}), 201).await;
    made.body["id"].as_str().unwrap().to_owned()
}

async fn list(app: &App) -> Vec<Value> {
    let page =
        app.call("GET", &format!("{PATH}?limit=200"), Some(&Token::admin("root")), None, 200).await;
    page.body["items"].as_array().unwrap().clone()
}

/// Publishes with this token, which must be a component's.
async fn publish_as(app: &App, token: &Token, expected: u16) -> Answer {
    let body = json!({"channel": "user:nobody", "message": 1});
    app.call("POST", "/v1/messages", Some(token), Some(body), expected).await
}

async fn is_closed_as_revoked(mut socket: Socket) {
    let (code, reason) = socket.closed().await;
    assert_eq!(code, 4401, "{reason}");
    assert!(reason.starts_with("TOKEN_REVOKED: "), "{reason}");
}

#[actix_web::test]
async fn a_token_is_revoked_by_its_id() {
    let app = App::start().await;
    let component = |id: &str| token("shop").component().with("jti", id);
    let mut other = app.connect(&component("other")).await;
    let mut none = app.connect(&token("shop")).await;
    let open = app.connect(&component("stolen")).await;
    publish_as(&app, &component("stolen"), 202).await;
    revoke_token(&app, "stolen").await;

    is_closed_as_revoked(open).await;
    is_closed_as_revoked(app.open(&component("stolen"), "").await).await;
    assert_eq!(publish_as(&app, &component("stolen"), 401).await.code(), "TOKEN_REVOKED");
    let batch = json!({"messages": [{"channel": "ALL", "message": 1}]});
    let refused =
        app.call("POST", "/v1/messages/batch", Some(&component("stolen")), Some(batch), 401).await;
    assert_eq!((refused.code(), refused.header("www-authenticate")), ("TOKEN_REVOKED", "Bearer"));
    publish_as(&app, &component("other"), 202).await;
    publish_as(&app, &component("Stolen"), 202).await;
    app.publish("ALL", json!("still here")).await;
    assert_eq!((other.data().await, none.data().await), (json!("still here"), json!("still here")));
}

#[actix_web::test]
async fn a_users_tokens_are_revoked_by_when_they_were_issued() {
    let app = App::start().await;
    let now = Utc::now().timestamp();
    let issued = |user: &str, seconds: i64| token(user).component().with("iat", now + seconds);
    let (old, new) = (issued("mallory", -61), issued("mallory", -60));
    let mut stays = app.connect(&new).await;
    let mut namesake = app.connect(&issued("Mallory", -61)).await;
    let (open, without) = (app.connect(&old).await, app.connect(&token("mallory")).await);
    let made =
        revoke(&app, json!({"user": "mallory", "issuedBefore": at(now - 60)}), 201).await.body;
    assert_eq!((&made["user"], &made["issuedBefore"]), (&json!("mallory"), &json!(at(now - 60))));

    is_closed_as_revoked(open).await;
    is_closed_as_revoked(without).await;
    assert_eq!(publish_as(&app, &old, 401).await.code(), "TOKEN_REVOKED");
    assert_eq!(publish_as(&app, &token("mallory").component(), 401).await.code(), "TOKEN_REVOKED");
    publish_as(&app, &new, 202).await;
    app.publish("ALL", json!(1)).await;
    assert_eq!((stays.data().await, namesake.data().await), (json!(1), json!(1)));
}

#[actix_web::test]
async fn without_a_time_all_that_a_user_got_until_now_is_revoked() {
    let app = App::start().await;
    let now = Utc::now().timestamp();
    let made = revoke(&app, json!({"user": "mallory"}), 201).await.body;
    let before =
        DateTime::parse_from_rfc3339(made["issuedBefore"].as_str().unwrap()).unwrap().timestamp();
    assert!((now + 1..=now + 5).contains(&before), "{before} {now}");
    let issued = |seconds: i64| token("mallory").component().with("iat", seconds);
    publish_as(&app, &issued(now), 401).await;
    publish_as(&app, &issued(before), 202).await;
}

#[actix_web::test]
async fn an_administrators_token_is_revoked_like_any_other() {
    let app = App::start().await;
    let lost = Token::admin("a").with("jti", "lost");
    app.call("GET", "/v1/channels", Some(&lost), None, 200).await;
    revoke_token(&app, "lost").await;
    for path in ["/v1/channels", "/v1/quotas", "/v1/quota-requests", "/v1/audit", PATH] {
        assert_eq!(
            app.call("GET", path, Some(&lost), None, 401).await.code(),
            "TOKEN_REVOKED",
            "{path}"
        );
    }
}

#[actix_web::test]
async fn a_revocation_holds_in_its_instance_alone() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    let everywhere =
        Token::operator().roles(&["REALTIME_OPERATOR", "REALTIME_ADMIN"]).with("jti", "t");
    let id = revoke_token(&app, "t").await;
    app.call("GET", "/v1/channels", Some(&everywhere), None, 401).await;
    let in_other = |method: &str, path: &str| {
        app.request(method, path).header("instance", "other").bearer_auth(everywhere.sign())
    };
    app.send(in_other("GET", "/v1/channels"), 200).await;
    app.send(app.request("GET", "/v1/instances").bearer_auth(everywhere.sign()), 200).await;
    assert_eq!(app.send(in_other("GET", PATH), 200).await.body["items"], json!([]));
    for method in ["GET", "DELETE"] {
        assert_eq!(
            app.send(in_other(method, &format!("{PATH}/{id}")), 404).await.code(),
            "NOT_FOUND"
        );
    }
    assert_eq!(list(&app).await.len(), 1);
}

#[actix_web::test]
async fn what_is_taken_back_is_accepted_again() {
    let app = App::start().await;
    let admin = Token::admin("root");
    let component = token("shop").component().with("jti", "t");
    let location = format!("{PATH}/{}", revoke_token(&app, "t").await);
    assert_eq!(app.call("GET", &location, Some(&admin), None, 200).await.body["jti"], "t");
    publish_as(&app, &component, 401).await;
    app.call("DELETE", &location, Some(&admin), None, 204).await;
    publish_as(&app, &component, 202).await;
    app.connect(&component).await;
    for method in ["GET", "DELETE"] {
        for path in [&location, "/v1/revocations/none"] {
            assert_eq!(app.call(method, path, Some(&admin), None, 404).await.code(), "NOT_FOUND");
        }
    }
}

#[actix_web::test]
async fn one_entry_a_user_and_a_token_keeps_the_later_time() {
    let app = App::start().await;
    let now = Utc::now().timestamp();
    for (what, id, time) in [("user", "mallory", "issuedBefore"), ("jti", "mallory", "expiresAt")] {
        let base = if what == "user" { now - 100 } else { now + 100 };
        let body = |seconds: i64| json!({what: id, time: at(base + seconds)});
        let first = revoke(&app, body(10), 201).await;
        assert_eq!(
            first.header("location"),
            format!("{PATH}/{}", first.body["id"].as_str().unwrap())
        );
        for (sent, kept) in [(20, 20), (0, 20), (20, 20)] {
            let next = revoke(&app, body(sent), 201).await.body;
            assert_eq!(next[time], at(base + kept), "{what}");
            for field in ["id", "createdBy", "createdAt"] {
                assert_eq!(next[field], first.body[field], "{what} {field}");
            }
        }
    }
    assert_eq!(list(&app).await.len(), 2);
    publish_as(&app, &token("mallory").component().with("iat", now - 81), 401).await;
    publish_as(&app, &token("mallory").component().with("iat", now - 80), 202).await;
}

#[actix_web::test]
async fn a_revocation_outlives_a_restart() {
    let database = database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    revoke_token(&app, "t").await;
    let directory = app.stopped().await;
    let app = App::launch_in(directory, Options::default(), database).await;
    publish_as(&app, &token("a").component().with("jti", "t"), 401).await;
    is_closed_as_revoked(app.open(&token("a").with("jti", "t"), "").await).await;
}

#[actix_web::test]
async fn a_revocation_made_elsewhere_closes_sockets_too() {
    let database = database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let open = app.connect(&token("a").with("jti", "t")).await;
    let (id, main) = (TokenId::new("t").unwrap(), InstanceId::new("main").unwrap());
    let hour = Utc::now() + TimeDelta::hours(1);
    let revocation = Revocation::Token { id, expires_at: hour };
    let by = UserId::new("root").unwrap();
    store(&database).insert_revocation(&by, &main, revocation, hour).await.expect("it is stored");
    is_closed_as_revoked(open).await;
}

#[actix_web::test]
async fn without_postgres_a_revocation_holds_on() {
    let mut postgres = OwnPostgres::start().await;
    let app = App::launch(Options::default(), postgres.url()).await;
    app.create_instance("main", json!({})).await;
    let id = revoke_token(&app, "t").await;
    postgres.go_away().await;
    publish_as(&app, &token("a").component().with("jti", "t"), 401).await;
    is_closed_as_revoked(app.open(&token("a").with("jti", "t"), "").await).await;
    let admin = Token::admin("root");
    for (method, path) in [("GET", PATH.to_owned()), ("DELETE", format!("{PATH}/{id}"))] {
        assert_eq!(
            app.call(method, &path, Some(&admin), None, 503).await.code(),
            "STORE_UNAVAILABLE"
        );
    }
    assert_eq!(revoke(&app, json!({"user": "a"}), 503).await.code(), "STORE_UNAVAILABLE");
    publish_as(&app, &token("a").component(), 202).await;
}

#[actix_web::test]
async fn a_revocation_leaves_when_the_tokens_have_expired_anyway() {
    let database = database().await;
    let settings = || {
        Options::default().with("HERALD_MAX_TOKEN_DAYS", 2).with("HERALD_JWT_LEEWAY_SECONDS", 60)
    };
    let app = App::launch(settings(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    for body in [
        json!({"jti": "day", "expiresAt": in_seconds(86_400)}),
        json!({"jti": "week", "expiresAt": in_seconds(604_800)}),
        json!({"user": "a", "issuedBefore": "2020-01-01T00:00:00Z"}),
    ] {
        revoke(&app, body, 201).await;
    }
    let directory = app.stopped().await;
    // The start sweeps at once, which one that is over shows by leaving. First just short of an end
    // with its leeway, then just past it.
    let later = async |seconds: i64, directory, left: usize| {
        let statement = format!(
            "update revocations set ends_at = ends_at - interval '{seconds} s'; insert into revocations values \
             ('main', gen_random_uuid(), 'over', now(), null, null, now() - interval '1 s', 'root')"
        );
        execute(&database, &statement).await;
        let app = App::launch_in(directory, settings(), database.clone()).await;
        let swept = async { while list(&app).await.iter().any(|entry| entry["jti"] == "over") {} };
        within("the sweep", swept).await;
        assert_eq!(list(&app).await.len(), left);
        app.stopped().await
    };
    let directory = later(86_400 + 30, directory, 3).await;
    let directory = later(60, directory, 2).await;
    let directory = later(86_400 - 60, directory, 2).await;
    let directory = later(60, directory, 1).await;
    let app = App::launch_in(directory, settings(), database).await;
    assert_eq!(list(&app).await[0]["jti"], "week");
    publish_as(&app, &token("a").component(), 202).await;
}

#[actix_web::test]
async fn an_instance_has_at_most_10_000_revocations() {
    let database = database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let statement = "insert into revocations (instance, id, token_id, expires_at, ends_at, created_by) \
        select 'main', gen_random_uuid(), 't' || n, now() + interval '1 day', now() + interval '1 day', 'root' \
        from generate_series(1, 9999) n";
    execute(&database, statement).await;
    revoke(&app, json!({"user": "a", "issuedBefore": in_seconds(-60)}), 201).await;
    for body in [json!({"user": "b"}), json!({"jti": "t0", "expiresAt": in_seconds(60)})] {
        let full = revoke(&app, body, 422).await;
        assert_eq!((full.code(), &full.body["limit"]), ("INVALID_REQUEST", &json!(10_000)));
        assert_eq!(full.body["actual"], 10_001);
    }
    let kept =
        revoke(&app, json!({"user": "a"}), 201).await.body["id"].as_str().unwrap().to_owned();
    publish_as(&app, &token("a").component().with("jti", "t9999"), 401).await;
    app.call("DELETE", &format!("{PATH}/{kept}"), Some(&Token::admin("root")), None, 204).await;
    revoke(&app, json!({"user": "b"}), 201).await;
}

#[actix_web::test]
async fn the_list_comes_in_pages_the_newest_first() {
    let app = App::start().await;
    let mut made = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        made.insert(0, revoke_token(&app, id).await);
    }
    let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
    while pages < 3 {
        let path = format!("{PATH}?limit=2{after}");
        let page = app.call("GET", &path, Some(&Token::admin("root")), None, 200).await.body;
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["id"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((seen, pages), (made, 3));
    for query in ["limit=0", "limit=201", "after=x", "user=a"] {
        let refused = app
            .call("GET", &format!("{PATH}?{query}"), Some(&Token::admin("root")), None, 422)
            .await;
        assert_eq!(
            refused.body["errors"][0]["pointer"],
            query.split('=').next().unwrap(),
            "{query}"
        );
    }
}

#[actix_web::test]
async fn what_is_wrong_is_told_by_pointer() {
    let app = App::start().await;
    let (soon, in_days) = (in_seconds(60), |days: i64| in_seconds(days * 86_400));
    for (body, pointer) in [
        (json!({}), ""),
        (json!({"issuedBefore": soon}), ""),
        (json!({"expiresAt": soon}), ""),
        (json!({"jti": "t", "user": "a", "expiresAt": soon}), ""),
        (json!({"jti": "t", "expiresAt": soon, "issuedBefore": soon}), ""),
        (json!({"jti": "t"}), "/expiresAt"),
        (json!({"jti": "", "expiresAt": soon}), "/jti"),
        (json!({"jti": "x".repeat(513), "expiresAt": soon}), "/jti"),
        (json!({"jti": "a\u{0}", "expiresAt": soon}), "/jti"),
        (json!({"jti": 7, "expiresAt": soon}), "/jti"),
        (json!({"jti": "t", "expiresAt": in_seconds(-1)}), "/expiresAt"),
        (json!({"jti": "t", "expiresAt": in_days(3_654)}), "/expiresAt"),
        (json!({"jti": "t", "expiresAt": Utc::now().timestamp() + 60}), "/expiresAt"),
        (json!({"jti": "t", "expiresAt": "2999-02-30T00:00:00Z"}), "/expiresAt"),
        (json!({"jti": "t", "expiresAt": "2030-01-01T00:00:00"}), "/expiresAt"),
        (json!({"jti": "t", "expiresAt": "2030-01-01"}), "/expiresAt"),
        (json!({"user": ""}), "/user"),
        (json!({"user": "x".repeat(129)}), "/user"),
        (json!({"user": "a", "issuedBefore": in_seconds(40)}), "/issuedBefore"),
        (json!({"user": "a", "issuedBefore": "yesterday"}), "/issuedBefore"),
        (json!({"user": "a", "reason": "theft"}), "/reason"),
    ] {
        let refused = revoke(&app, body.clone(), 422).await;
        assert_eq!(
            (refused.code(), &refused.body["errors"][0]["pointer"]),
            ("INVALID_REQUEST", &json!(pointer)),
            "{body}"
        );
    }
    assert_eq!(list(&app).await, [] as [Value; 0]);
    for body in [
        json!({"jti": "x".repeat(512), "expiresAt": in_days(3_651)}),
        json!({"jti": "t", "expiresAt": "2035-01-01t00:00:00.25+02:00"}),
        json!({"user": "a", "issuedBefore": in_seconds(25)}),
        json!({"user": "b", "issuedBefore": "0000-01-01T00:00:00Z"}),
    ] {
        revoke(&app, body, 201).await;
    }
    assert_eq!(list(&app).await[2]["expiresAt"], "2034-12-31T22:00:01Z");
}

#[actix_web::test]
async fn the_audit_tells_who_revoked_what() {
    let app = App::start().await;
    let time = in_seconds(3_600);
    let made = revoke(&app, json!({"jti": "t", "expiresAt": time}), 201).await.body;
    assert_eq!((&made["createdBy"], made.as_object().unwrap().len()), (&json!("root"), 5));
    revoke(&app, json!({"jti": "t", "expiresAt": in_seconds(7_200)}), 201).await;
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    app.call("DELETE", &path, Some(&Token::admin("second")), None, 204).await;
    let audit =
        app.call("GET", "/v1/audit?limit=3", Some(&Token::admin("root")), None, 200).await.body;
    let [deleted, updated, created] = audit["items"].as_array().unwrap().as_slice() else {
        panic!("{audit}")
    };
    for (entry, action, actor) in [
        (created, "revocation.create", "root"),
        (updated, "revocation.update", "root"),
        (deleted, "revocation.delete", "second"),
    ] {
        assert_eq!((&entry["action"], &entry["actor"]), (&json!(action), &json!(actor)));
        assert_eq!((&entry["target"], &entry["instance"]), (&made["id"], &json!("main")));
    }
    assert_eq!((&created["before"], &deleted["after"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&created["after"], &updated["before"], &updated["after"]),
        (&updated["before"], &created["after"], &deleted["before"])
    );
    assert_eq!(
        (&created["after"]["jti"], &created["after"]["expiresAt"]),
        (&json!("t"), &json!(time))
    );
    assert_eq!(created["after"]["createdBy"], "root");
}

#[actix_web::test]
async fn what_is_over_leaves_by_the_thousand_and_what_is_not_stays() {
    let database = tables().await;
    execute(
        &database,
        "insert into instances (id, name, enabled, publish_roles, origins, limits, version)
             values ('main', '', true, '{}', '{}', '{}', 1);
         insert into revocations (instance, id, token_id, expires_at, ends_at, created_by)
             select 'main', gen_random_uuid(), 'j' || n, now(), now() + n * interval '1 hour', 'root'
             from generate_series(-2499, 3) n",
    )
    .await;
    let store = store(&database);
    let herald = UserId::new("herald").unwrap();
    // The first of them ends now.
    assert_eq!(store.delete_ended_revocations(&herald).await.unwrap(), 2_500);
    assert_eq!(store.find_catalog_version().await.unwrap().number, 3);
    assert_eq!(store.delete_ended_revocations(&herald).await.unwrap(), 0);
    let main = InstanceId::new("main").unwrap();
    assert_eq!(store.list_revocations(&main, None, 10).await.unwrap().len(), 3);
    store.close().await;
}
