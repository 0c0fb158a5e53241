//! Migrations on a database that is in use: indexes are made while others write, by one node at a
//! time, and one that was interrupted is made anew.

use crate::support::postgres::{database, execute_in as run, store};
use crate::support::within;
use futures_util::future::join;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// What an interrupted migration leaves: the index, which nothing uses, and no word of it.
const HALF_MADE: &str = "
    update pg_index set indisvalid = false where indexrelid = 'audit_by_actor'::regclass;
    delete from _sqlx_migrations where version = 20";

async fn ask(database: &str, question: &str) -> bool {
    let mut connection = PgConnection::connect(database).await.expect("Postgres answers");
    let question = sqlx::query_scalar(AssertSqlSafe(format!("select {question}")));
    question.fetch_one(&mut connection).await.expect("an answer")
}

async fn migrate(database: &str) {
    let store = store(database);
    let migrated = within("the migrations", store.migrate()).await;
    migrated.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    store.close().await;
}

/// A database as the release before these indexes left it, in which something was done.
async fn before_the_indexes() -> String {
    let database = database().await;
    migrate(&database).await;
    let drop_all = "
        do $$ declare made text; begin
            for made in select 'drop index ' || replace(description, ' ', '_') from _sqlx_migrations
                where version between 20 and 29 loop execute made; end loop;
        end $$;
        delete from _sqlx_migrations where version >= 20;
        create index audit_by_instance on audit (instance, id desc);
        create index quota_requests_by_instance on quota_requests (instance, id desc);
        create index revocations_by_instance on revocations (instance, id desc);
        insert into audit (id, actor, action, target)
            select gen_random_uuid(), 'a', 'b', 'c' from generate_series(1, 20000)";
    run(&database, drop_all).await;
    database
}

const ALL_ARE_VALID: &str =
    "bool_and(indisvalid) and count(*) = 7 + 1 from pg_index where indrelid = 'audit'::regclass";

#[actix_web::test]
async fn an_index_that_was_interrupted_is_made_anew() {
    let database = database().await;
    migrate(&database).await;
    assert!(ask(&database, ALL_ARE_VALID).await);
    run(&database, HALF_MADE).await;
    migrate(&database).await;
    assert!(ask(&database, ALL_ARE_VALID).await);
    assert!(ask(&database, "exists (select from _sqlx_migrations where version = 20)").await);
}

#[actix_web::test]
async fn an_index_that_is_there_without_word_of_it_stays() {
    let database = database().await;
    migrate(&database).await;
    let same = "'audit_by_actor'::regclass::oid::bigint";
    let mut connection = PgConnection::connect(&database).await.expect("Postgres answers");
    let question = AssertSqlSafe(format!("select {same}"));
    let before: i64 =
        sqlx::query_scalar(question).fetch_one(&mut connection).await.expect("a number");
    run(&database, "delete from _sqlx_migrations where version = 20").await;
    migrate(&database).await;
    assert!(ask(&database, &format!("{same} = {before}")).await);
}

#[actix_web::test]
async fn nodes_that_start_at_once_do_not_wait_for_each_other_in_a_circle() {
    let database = before_the_indexes().await;
    join(migrate(&database), join(migrate(&database), migrate(&database))).await;
    assert!(ask(&database, ALL_ARE_VALID).await);
}

#[actix_web::test]
async fn while_an_index_waits_for_a_writer_others_write() {
    let database = before_the_indexes().await;
    let insert = "insert into audit (id, actor, action, target)
        values (gen_random_uuid(), 'a', 'b', 'c')";
    let mut writer = PgConnection::connect(&database).await.expect("Postgres answers");
    let mut writing = writer.begin().await.expect("a transaction");
    sqlx::raw_sql(insert).execute(&mut *writing).await.expect("it is written");
    let others = async {
        let waits = "exists (select from pg_stat_activity where wait_event_type = 'Lock'
            and datname = current_database() and query like '%create index concurrently%'
            and pid <> pg_backend_pid())";
        within("the index waits", async { while !ask(&database, waits).await {} }).await;
        within("others write", run(&database, insert)).await;
        writing.commit().await.expect("it is committed");
    };
    join(migrate(&database), others).await;
    assert!(ask(&database, ALL_ARE_VALID).await);
}
