//! The audit: its filters and pages, and how it forgets what is old.

use crate::support::postgres::{database, execute_in as run, store, tables};
use crate::support::{App, Options, Token, within};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use url::form_urlencoded::Serializer;
use uuid::Uuid;

/// From when the entries of these tests are counted: ten days ago, to the second.
static BEGIN: LazyLock<DateTime<Utc>> = LazyLock::new(|| {
    let seconds = Utc::now().timestamp() - 10 * 86_400;
    DateTime::from_timestamp(seconds, 0).expect("a time")
});

fn at(minutes: i64) -> String {
    (*BEGIN + TimeDelta::minutes(minutes)).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Writes entries of these minutes from the beginning, one a minute, two of each, with ids of their times.
async fn write_entries(database: &str, instance: &str, minutes: std::ops::Range<i64>) {
    let (first, last) = (minutes.start, minutes.end - 1);
    run(
        database,
        &format!(
            "insert into audit (instance, id, time, actor, action, target)
             select '{instance}', (lpad(to_hex((extract(epoch from time) * 1000)::bigint), 12, '0')
                     || '7' || lpad(to_hex(twin), 3, '0') || substr(md5('{instance}' || n), 1, 16))::uuid,
                 time, 'actor' || n % 2, 'action' || n % 3, 'target' || n % 5
             from generate_series({first}, {last}) n, generate_series(1, 2) twin,
                 lateral (select timestamptz '{}' + n * interval '1 minute' as time) t",
            at(0),
        ),
    )
    .await;
}

/// All that is there, by pages of this size; asked by an operator.
async fn list(app: &App, filters: &[(&str, &str)], limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(filters).append_pair("limit", &limit.to_string());
        if let Some(after) = &after {
            query.append_pair("after", after);
        }
        let path = format!("/v1/audit?{}", query.finish());
        let request = app.request("GET", &path).bearer_auth(Token::operator().sign());
        let page = app.send(request, 200).await.body;
        let items = page["items"].as_array().expect("a list");
        assert!(items.len() <= limit && (page["next"].is_null() || items.len() == limit));
        all.extend(items.iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return all,
        }
    }
}

fn passes(item: &Value, (name, value): (&str, &str)) -> bool {
    let time = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
    let made = time(item["time"].as_str().expect("a time"));
    match name {
        "from" => made >= time(value),
        "to" => made < time(value),
        name => item[name] == value,
    }
}

#[actix_web::test]
async fn filters_alone_and_together_leave_what_passes_them_all_in_order_page_by_page() {
    let database = database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    app.create_instance("other", json!({})).await;
    write_entries(&database, "main", 0..40).await;
    write_entries(&database, "other", 0..40).await;
    let all = list(&app, &[], 200).await;
    assert_eq!(all.len(), 162);
    let (from, to) = (at(7), at(31));
    let filters = [
        ("actor", "actor1"),
        ("action", "action1"),
        ("target", "target3"),
        ("from", from.as_str()),
        ("to", to.as_str()),
        ("instance", "other"),
    ];
    for chosen in 0..1_u32 << filters.len() {
        let is_chosen = |place: &usize| chosen & (1 << place) != 0;
        let chosen: Vec<(&str, &str)> =
            (0..filters.len()).filter(is_chosen).map(|place| filters[place]).collect();
        let passing = all.iter().filter(|item| chosen.iter().all(|filter| passes(item, *filter)));
        let expected: Vec<&Value> = passing.collect();
        assert!(!expected.is_empty(), "{chosen:?}");
        for limit in [3, 200] {
            let found = list(&app, &chosen, limit).await;
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{chosen:?} by {limit}");
        }
    }
}

#[actix_web::test]
async fn administrators_filter_what_was_done_in_their_instance_alone() {
    let database = database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    write_entries(&database, "other", 0..3).await;
    write_entries(&database, "main", 0..3).await;
    let admin = Token::admin("root");
    for (query, expected) in [("actor=actor1", 2), ("target=target2", 2), ("action=unknown", 0)] {
        let page = app.call("GET", &format!("/v1/audit?{query}"), Some(&admin), None, 200).await;
        let items = page.body["items"].as_array().expect("a list");
        assert_eq!(items.len(), expected, "{query}");
        assert!(items.iter().all(|item| item["instance"] == "main"), "{items:?}");
    }
}

#[actix_web::test]
async fn a_bad_filter_is_named() {
    let app = App::start().await;
    let admin = Token::admin("root");
    let of = |length: usize| "a".repeat(length);
    for (query, name) in [
        (format!("actor={}", of(129)), "actor"),
        ("actor=".into(), "actor"),
        (format!("action={}", of(201)), "action"),
        (format!("target={}", of(201)), "target"),
        ("target=%00".into(), "target"),
        ("from=yesterday".into(), "from"),
        ("to=2026-01-01T00:00:00".into(), "to"),
        ("from=2026-01-01T00:00:01Z&to=2026-01-01T00:00:00Z".into(), "to"),
        ("after=news".into(), "after"),
        ("user=a".into(), "user"),
    ] {
        let path = format!("/v1/audit?{query}");
        let refused = app.call("GET", &path, Some(&admin), None, 422).await;
        assert_eq!(refused.code(), "INVALID_REQUEST", "{query}");
        let pointer = refused.body["errors"][0]["pointer"].as_str().expect("a pointer");
        assert_eq!(pointer, name, "{}", refused.body);
    }
    for query in [
        format!("actor={}", of(128)),
        format!("action={}&target={}", of(200), of(200)),
        "from=0000-01-01T00:00:00Z&to=9999-12-31T23:59:59Z".into(),
        "from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z&actor=a".into(),
        "from=2026-01-01T00:00:00%2B02:00".into(),
    ] {
        app.call("GET", &format!("/v1/audit?{query}"), Some(&admin), None, 200).await;
    }
}

#[actix_web::test]
async fn a_page_goes_on_where_the_last_one_ended_also_when_that_entry_is_gone() {
    let database = database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    write_entries(&database, "main", 0..20).await;
    for filters in [&[][..], &[("actor", "actor1")][..]] {
        let all = list(&app, filters, 200).await;
        let gone = all[4]["id"].as_str().expect("an id");
        run(&database, &format!("delete from audit where id = '{gone}'")).await;
        let rest = list(&app, &[filters, &[("after", gone)]].concat(), 200).await;
        assert_eq!(rest, all[5..], "{filters:?}");
    }
}

async fn count(database: &str) -> i64 {
    let mut connection = PgConnection::connect(database).await.expect("Postgres answers");
    let count = sqlx::query_scalar("select count(*) from audit");
    count.fetch_one(&mut connection).await.expect("a number")
}

#[actix_web::test]
async fn what_is_older_is_deleted_and_what_is_as_old_or_younger_stays() {
    let database = tables().await;
    let end = *BEGIN;
    for microseconds in [-1, 0, 1] {
        let time = end + TimeDelta::microseconds(microseconds);
        // The clock that made the ids is ahead of Postgres's, or behind it.
        for (skew, place) in [(-299, 1_u128), (0, 2), (299, 3)] {
            let moment = (time + TimeDelta::seconds(skew)).timestamp_millis() as u128;
            let id = Uuid::from_u128((moment << 80) + place * 16 + (microseconds + 1) as u128);
            let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
            let row = format!("('{id}', '{time}', 'a', 'b', 'c')");
            let insert = "insert into audit (id, time, actor, action, target) values";
            run(&database, &format!("{insert} {row}")).await;
        }
    }
    let store = store(&database);
    let deleted = store.delete_old_audit(end, Uuid::nil(), 100).await.expect("Postgres answers");
    assert_eq!((deleted.len(), count(&database).await), (3, 6));
    assert!(deleted.iter().all(|id| id.as_u128() & 15 == 0), "{deleted:?}");
    store.close().await;
}

#[actix_web::test]
async fn a_slice_takes_the_oldest_and_the_next_one_goes_on_behind_it() {
    let database = tables().await;
    write_entries(&database, "one", 0..50).await;
    write_entries(&database, "two", 0..50).await;
    let store = store(&database);
    let (mut after, mut sizes, mut seen) = (Uuid::nil(), Vec::new(), BTreeSet::new());
    loop {
        // 40 minutes of two instances with two entries each.
        let end = *BEGIN + TimeDelta::minutes(40);
        let slice = store.delete_old_audit(end, after, 60).await.expect("Postgres answers");
        sizes.push(slice.len());
        let Some(last) = slice.iter().max() else { break };
        assert!(slice.iter().all(|id| *id > after && seen.insert(*id)));
        after = *last;
    }
    assert_eq!((sizes, count(&database).await), (vec![60, 60, 40, 0], 40));
    store.close().await;
}

#[actix_web::test]
async fn an_entry_that_somebody_holds_is_passed_over_and_taken_next_time() {
    let database = tables().await;
    write_entries(&database, "one", 0..10).await;
    let mut holder = PgConnection::connect(&database).await.expect("Postgres answers");
    let mut held = holder.begin().await.expect("a transaction");
    let oldest: Uuid = sqlx::query_scalar("select id from audit order by id limit 1 for update")
        .fetch_one(&mut *held)
        .await
        .expect("the oldest");
    let store = store(&database);
    let end = *BEGIN + TimeDelta::hours(1);
    let deleted = within("others' entries", store.delete_old_audit(end, Uuid::nil(), 100)).await;
    let deleted = deleted.expect("Postgres answers");
    assert!(deleted.len() == 19 && !deleted.contains(&oldest));
    held.rollback().await.expect("the row is free");
    let deleted = store.delete_old_audit(end, Uuid::nil(), 100).await.expect("Postgres answers");
    assert_eq!(deleted, [oldest]);
    store.close().await;
}

#[actix_web::test]
async fn while_a_slice_is_deleted_others_list_and_change() {
    let database = database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    write_entries(&database, "main", 0..100).await;
    let mut trimmer = PgConnection::connect(&database).await.expect("Postgres answers");
    let mut slice = trimmer.begin().await.expect("a transaction");
    let statement = delete_statement();
    let deleted: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(Uuid::nil())
        .bind(Uuid::max())
        .bind(*BEGIN + TimeDelta::minutes(50))
        .bind(1_000_i64)
        .fetch_all(&mut *slice)
        .await
        .expect("a slice");
    assert_eq!(deleted.len(), 100);
    app.create_channel(json!({"name": "news"})).await;
    let all = list(&app, &[], 200).await;
    assert_eq!((all.len(), &all[0]["action"]), (202, &json!("channel.create")));
    assert_eq!(list(&app, &[("actor", "actor1")], 200).await.len(), 100);
    let elsewhere = store(&database);
    let end = *BEGIN + TimeDelta::minutes(60);
    let others = within("a second trimmer", elsewhere.delete_old_audit(end, Uuid::nil(), 1_000));
    assert_eq!(others.await.expect("Postgres answers").len(), 20);
    elsewhere.close().await;
    slice.commit().await.expect("it is deleted");
    assert_eq!(list(&app, &[], 200).await.len(), 82);
}

/// The statement of the code.
fn delete_statement() -> String {
    let mut found = crate::plans::queries("delete from audit");
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Waits until so many entries are left.
async fn until_left(database: &str, expected: i64) {
    let look = async { while count(database).await != expected {} };
    within("the old entries are gone", look).await;
}

#[actix_web::test]
async fn a_server_trims_what_is_older_than_its_setting_in_several_slices() {
    let database = tables().await;
    let day = 24 * 60;
    // 1,500 minutes beyond three days, and half an hour on this side of three and two days.
    write_entries(&database, "main", 7 * day - 1_500..7 * day).await;
    write_entries(&database, "main", 7 * day + 30..7 * day + 60).await;
    write_entries(&database, "main", 8 * day + 30..8 * day + 60).await;
    let app = App::launch(Options::default().with("HERALD_AUDIT_DAYS", 3), database.clone()).await;
    until_left(&database, 120).await;
    app.stopped().await;
    let app = App::launch(Options::default().with("HERALD_AUDIT_DAYS", 2), database.clone()).await;
    until_left(&database, 60).await;
    assert_eq!(list(&app, &[], 200).await.len(), 60);
}
