//! One Herald at a time serves a data directory, and a database.

use crate::command_line::{ANYWHERE, Herald, data_directory, herald, refusal};
use crate::support::road::Road;
use crate::support::{App, Options, postgres, token, tokens};
use rustix::process::Signal;
use serde_json::json;

#[actix_web::test]
async fn a_data_directory_is_served_by_one_at_a_time_whatever_its_database() {
    let data = data_directory();
    let (one, other) = (postgres::database().await, postgres::database().await);
    let key = ("HERALD_JWT_SECRET", tokens::SECRET);
    let first = Herald::start(data.path(), &[("DATABASE_URL", &one), key]).await;
    for settings in [vec![("DATABASE_URL", other.as_str()), key], vec![key]] {
        let said = refusal(herald(&ANYWHERE).arg(data.path()).envs(settings), 1).await;
        assert!(said.contains("another herald is already running on the data directory"), "{said}");
    }
    assert_eq!(first.end(Signal::TERM).await, Some(0));
    let next = Herald::start(data.path(), &[("DATABASE_URL", &other), key]).await;
    assert_eq!(next.end(Signal::KILL).await, None);
    let last = Herald::start(data.path(), &[("DATABASE_URL", &one), key]).await;
    assert_eq!(last.end(Signal::TERM).await, Some(0));
}

/// Settings of a node on this database.
fn on(database: &str) -> Vec<(&str, &str)> {
    vec![("DATABASE_URL", database), ("HERALD_JWT_SECRET", tokens::SECRET)]
}

/// The lease's term, and whether it was given back.
async fn lease(database: &str) -> String {
    let query =
        "select term || case when given_back then ' given back' else ' held' end from lease";
    postgres::texts(database, query).await.concat()
}

#[actix_web::test]
async fn a_second_node_beside_a_living_one_is_refused_and_the_first_goes_on() {
    let (data, database) = (data_directory(), postgres::database().await);
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let mut socket = app.connect(&token("a")).await;
    let said = refusal(herald(&ANYWHERE).arg(data.path()).envs(on(&database)), 1).await;
    assert!(said.contains("another herald holds this database"), "{said}");
    assert!(said.contains("HERALD_STANDBY=true"), "{said}");
    assert_eq!(app.publish("ALL", json!("still here")).await["queued"], 1);
    assert_eq!(socket.data().await, "still here");
    drop(app);
    let next = Herald::start(data.path(), &on(&database)).await;
    assert_eq!(next.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn after_a_crash_elsewhere_the_start_waits_for_the_end_of_the_lease_and_never_fails() {
    let (first, second) = (data_directory(), data_directory());
    let database = postgres::database().await;
    let killed = Herald::start(first.path(), &on(&database)).await;
    assert_eq!(killed.end(Signal::KILL).await, None);
    let herald = Herald::start(second.path(), &on(&database)).await;
    assert_eq!(lease(&database).await, "2 held");
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
    assert_eq!(lease(&database).await, "2 given back");
}

#[actix_web::test]
async fn a_killed_node_takes_its_own_lease_back_at_once() {
    let (data, database) = (data_directory(), postgres::database().await);
    let killed = Herald::start(data.path(), &on(&database)).await;
    assert_eq!(killed.end(Signal::KILL).await, None);
    // A lease that never ends by itself is another's as long as it is not one's own.
    postgres::execute_in(&database, "update lease set renewed_at = now() + interval '1 day'").await;
    let mut herald = Herald::start(data.path(), &on(&database)).await;
    let log = herald.logs("this node holds the database").await;
    assert!(!log.contains("standing by"), "{log}");
    assert_eq!(herald.end(Signal::TERM).await, Some(0));
}

#[actix_web::test]
async fn a_window_is_taken_up_only_by_who_comes_right_after_the_one_that_kept_it() {
    let database = postgres::database().await;
    let app = App::launch(Options::default(), database.clone()).await;
    app.create_instance("main", json!({})).await;
    let cursor = app.connect(&token("a")).await.connected["cursor"].clone();
    app.publish("ALL", json!("kept")).await;
    let query = format!("&cursor={}", cursor.as_str().expect("a cursor"));
    let app = App::launch_in(app.stopped().await, Options::default(), database.clone()).await;
    let mut socket = app.connect_with(&token("a"), &query).await;
    assert_eq!(socket.connected["recovered"], true);
    assert_eq!(socket.data().await, "kept");
    assert_eq!(lease(&database).await, "1 held");
    let directory = app.stopped().await;
    assert!(directory.path().join("window.jsonl").exists());

    let other = App::launch(Options::default(), database.clone()).await;
    other.publish("ALL", json!("taken elsewhere")).await;
    other.stopped().await;
    let app = App::launch_in(directory, Options::default(), database.clone()).await;
    assert_eq!(app.connect_with(&token("a"), &query).await.connected["reason"], "EPOCH");
    assert_eq!(lease(&database).await, "3 held");
    assert!(!app.directory.path().join("window.jsonl").exists());
}

#[actix_web::test]
async fn a_stop_without_the_database_keeps_the_window_for_who_comes_next_in_its_place() {
    let database = postgres::database().await;
    let road = Road::to(&database).await;
    let app = App::launch(Options::default(), road.url.clone()).await;
    app.create_instance("main", json!({})).await;
    let cursor = app.connect(&token("a")).await.connected["cursor"].clone();
    app.publish("ALL", json!("kept")).await;
    road.close();
    let directory = app.stopped().await;
    assert_eq!(lease(&database).await, "1 held");
    road.open();
    let app = App::launch_in(directory, Options::default(), road.url.clone()).await;
    let query = format!("&cursor={}", cursor.as_str().expect("a cursor"));
    let mut socket = app.connect_with(&token("a"), &query).await;
    assert_eq!(socket.connected["recovered"], true);
    assert_eq!(socket.data().await, "kept");
}
