//! How Postgres answers every list and filter beside many entries of many instances: from an index,
//! whose order is the list's, without reading what is not asked for.

use crate::support::postgres::{execute_in as run, store, tables};
use crate::support::within;
use chrono::{DateTime, TimeDelta, Utc};
use herald::domain::instance::InstanceId;
use herald::domain::principal::UserId;
use herald::store::AuditFilter;
use serde_json::Value;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, Connection, PgConnection};
use std::fs;
use std::path::Path;
use uuid::Uuid;

/// Rows that an index found and that are then sorted, at most, as Postgres expects them.
const A_PAGE_OR_TWO: u64 = 100;

/// 50,000 audit entries, 30,000 channels, quota requests and revocations, 3,000 instances; of the
/// first ten instances, which are the largest. Ids have their times, one a minute.
const FILL: &str = "
    insert into instances (id, name, enabled, publish_roles, origins, limits, version)
        select 't' || n, '', true, '{}', '{}', '{}', 1 from generate_series(0, 2999) n;
    insert into channels (instance, name, description, enabled, rules, publish_rules, version)
        select 't' || n / 1000, 'c' || n % 1000, '', true, '[]', '[]', 1 from generate_series(0, 29999) n;
    create function id_of(n bigint) returns uuid language sql as $$
        select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - n * 60000), 12, '0')
            || lpad(to_hex(n), 20, '0'))::uuid $$;
    insert into quota_requests (instance, id, limit_name, current, value, reason, requested_by, status,
            decided_by, decided_at)
        select 't' || n % 10, id_of(n), 'connections', 1, 2, '', 'alice',
            case when n < 1000 then 'pending' else 'denied' end,
            case when n >= 1000 then 'bob' end, case when n >= 1000 then now() end
        from generate_series(0, 29999) n;
    insert into revocations (instance, id, token_id, expires_at, user_id, issued_before, ends_at, created_by)
        select 't' || n % 10, id_of(n), case when n % 2 = 0 then 'j' || n end,
            case when n % 2 = 0 then now() end, case when n % 2 = 1 then 'u' || n end,
            case when n % 2 = 1 then now() end, now() + (n - 100) * interval '1 minute', 'alice'
        from generate_series(0, 29999) n;
    insert into audit (instance, id, time, actor, action, target, after)
        select 't' || n % 10, id_of(n), now() - n * interval '1 minute',
            case when n % 5000 = 3 then 'carol' when n % 3 = 0 then 'alice' else 'backend' end,
            case when n % 7000 = 4 then 'instance.update' when n % 3 = 0 then 'channel.update'
                else 'revocation.create' end,
            case when n % 3 = 0 then 'news' else 'c' || n % 500 end, '{\"rules\": []}'
        from generate_series(0, 49999) n;
    analyze";

/// What Postgres was asked when the code was compiled, with what it asks for.
pub fn queries(containing: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let files = fs::read_dir(folder).expect("the queries of the code");
    let query = |file: fs::DirEntry| {
        let text = fs::read_to_string(file.path()).expect("a query");
        let query: Value = serde_json::from_str(&text).expect("JSON");
        query["query"].as_str().expect("a query").to_owned()
    };
    let all = files.map(|file| query(file.expect("a file")));
    all.filter(|query| query.contains(containing)).collect()
}

/// The one query with these two in it.
fn query(one: &str, other: &str) -> String {
    let mut found = queries(one);
    found.retain(|query| query.contains(other));
    found.retain(|query| one.starts_with("delete") || !query.starts_with("delete from audit"));
    assert_eq!(found.len(), 1, "{one}, {other}: {found:?}");
    found.remove(0)
}

async fn filled() -> PgConnection {
    let database = tables().await;
    run(&database, FILL).await;
    PgConnection::connect(&database).await.expect("Postgres answers")
}

async fn plan(connection: &mut PgConnection, query: &str, arguments: PgArguments) -> Value {
    let explain = AssertSqlSafe(format!("explain (format json) {query}"));
    let explain = sqlx::query_scalar_with::<_, Value, _>(explain, arguments);
    explain.fetch_one(connection).await.expect("a plan")[0]["Plan"].clone()
}

/// Every step of a plan, from the answer to the tables.
fn steps(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten();
    [plan].into_iter().chain(below.flat_map(steps)).collect()
}

/// Asserts that an index answers, and that rows are read for what they answer alone: none is looked
/// at and then left out, unless it is one of `left` to compare. Sorted is only what an index found
/// to be about a page or two.
fn assert_from_an_index(plan: &Value, left: &str, what: &str) {
    let steps = steps(plan);
    let is_index = |step: &&Value| step["Index Name"].is_string();
    assert!(steps.iter().any(is_index), "no index answers {what}: {plan:#}");
    for step in &steps {
        let is_fine = match step["Node Type"].as_str().expect("a kind") {
            "Limit" | "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" => true,
            "Bitmap Heap Scan" | "LockRows" | "ModifyTable" | "Aggregate" | "Result" => true,
            "Sort" => step["Plan Rows"].as_u64().expect("a number") <= A_PAGE_OR_TWO,
            _ => false,
        };
        assert!(is_fine, "{} in {what}: {plan:#}", step["Node Type"]);
        let filter = step["Filter"].as_str().unwrap_or("");
        let mut compared = filter.split(" AND ").filter(|part| !part.is_empty());
        let is_left =
            |part: &str| !left.is_empty() && part.trim_start_matches('(').starts_with(left);
        assert!(compared.all(is_left), "rows are read in vain for {what}: {plan:#}");
    }
}

fn arguments<const N: usize>(texts: [Option<&str>; N], limit: Option<i64>) -> PgArguments {
    let mut arguments = PgArguments::default();
    texts.into_iter().for_each(|text| arguments.add(text).expect("a text"));
    if let Some(limit) = limit {
        arguments.add(limit).expect("a number");
    }
    arguments
}

/// Asks for the page of an instance, or of all, behind an entry of this time.
fn going_on(instance: Option<&str>, time: Option<DateTime<Utc>>) -> PgArguments {
    let mut arguments = PgArguments::default();
    if let Some(instance) = instance {
        arguments.add(instance).expect("a text");
    }
    arguments.add(time.map(id)).expect("an id");
    if instance.is_some() {
        arguments.add(time).expect("a time");
    }
    arguments.add(51_i64).expect("a number");
    arguments
}

/// One way to ask for the audit.
#[derive(Clone, Copy, Debug)]
struct Asked {
    instance: Option<&'static str>,
    actor: Option<&'static str>,
    action: Option<&'static str>,
    target: Option<&'static str>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    goes_on: bool,
}

impl Asked {
    /// Everything that can be combined, with what is common, rare and unknown.
    fn all() -> Vec<Self> {
        let long_ago = Some(Utc::now() - TimeDelta::days(20));
        let lately = Some(Utc::now() - TimeDelta::days(1));
        let mut all = Vec::new();
        for instance in [None, Some("t1")] {
            for actor in [None, Some("alice"), Some("carol")] {
                for action in [None, Some("revocation.create"), Some("instance.update")] {
                    for target in [None, Some("news"), Some("c77"), Some("nobody")] {
                        for (from, to) in
                            [(None, None), (long_ago, None), (None, long_ago), (long_ago, lately)]
                        {
                            for goes_on in [false, true] {
                                all.push(Self {
                                    instance,
                                    actor,
                                    action,
                                    target,
                                    from,
                                    to,
                                    goes_on,
                                });
                            }
                        }
                    }
                }
            }
        }
        all
    }

    fn is_filtered(self) -> bool {
        [self.instance, self.actor, self.action, self.target].iter().any(Option::is_some)
    }

    fn filtered(self) -> PgArguments {
        let middle = Utc::now() - TimeDelta::days(15);
        let mut arguments = arguments([self.instance, self.actor, self.action, self.target], None);
        arguments.add(self.from).expect("a time");
        arguments.add(self.to).expect("a time");
        arguments.add(self.goes_on.then(|| id(middle))).expect("an id");
        arguments.add(self.goes_on.then_some(middle)).expect("a time");
        arguments.add(51_i64).expect("a number");
        arguments
    }

    fn of_all(self) -> PgArguments {
        let differ = TimeDelta::minutes(5);
        let first = self.from.map_or(Uuid::nil(), |from| id(from - differ));
        let end = self.to.map_or(Uuid::max(), |to| id(to + differ));
        let middle = id(Utc::now() - TimeDelta::days(15));
        let mut arguments = PgArguments::default();
        arguments.add(first).expect("an id");
        arguments.add(if self.goes_on { middle.min(end) } else { end }).expect("an id");
        arguments.add(self.from).expect("a time");
        arguments.add(self.to).expect("a time");
        arguments.add(51_i64).expect("a number");
        arguments
    }
}

fn id(time: DateTime<Utc>) -> Uuid {
    Uuid::from_u128((time.timestamp_millis() as u128) << 80)
}

#[actix_web::test]
async fn every_filter_of_the_audit_alone_and_with_others_is_answered_from_an_index() {
    let mut connection = filled().await;
    let filtered = query("from audit", "order by time desc");
    let of_all = query("from audit", "order by id desc");
    let all = Asked::all();
    assert_eq!(all.len(), 2 * 3 * 3 * 4 * 4 * 2);
    for asked in all {
        let (query, arguments, left) = match asked.is_filtered() {
            true => (&filtered, asked.filtered(), ""),
            // The index knows ids, of which times differ by five minutes at most.
            false => (&of_all, asked.of_all(), "\"time\""),
        };
        let plan = plan(&mut connection, query, arguments).await;
        assert_from_an_index(&plan, left, &format!("{asked:?}"));
    }
}

#[actix_web::test]
async fn every_other_list_and_every_count_is_answered_from_an_index() {
    let mut connection = filled().await;
    let middle = Utc::now() - TimeDelta::days(10);
    let requests = query("from quota_requests", "order by requested_at desc, id desc limit $");
    let all_requests = query("from quota_requests", "order by id desc limit $");
    let revocations = query("from revocations", "order by created_at desc, id desc limit $");
    let channels = query("from channels", "limit $");
    let instances = query("from instances", "limit $");
    let ended = query("from revocations", "order by ends_at limit $");
    let has_ended = query("from revocations", "exists");
    let pending = query("from quota_requests", "count(*)");
    let revoked = query("from revocations", "count(*)");
    let page = Some(51);
    let cases = [
        (&all_requests, going_on(None, None)),
        (&all_requests, going_on(None, Some(middle))),
        (&requests, going_on(Some("t1"), None)),
        (&requests, going_on(Some("t1"), Some(middle))),
        (&revocations, going_on(Some("t1"), None)),
        (&revocations, going_on(Some("t1"), Some(middle))),
        (&channels, arguments([Some("t1"), None], page)),
        (&channels, arguments([Some("t1"), Some("c5")], page)),
        (&instances, arguments([None], page)),
        (&instances, arguments([Some("t2")], page)),
        (&ended, arguments([], Some(1_000))),
        (&has_ended, arguments([], None)),
        (&pending, arguments([Some("t1")], None)),
        (&revoked, arguments([Some("t1")], None)),
    ];
    for (query, arguments) in cases {
        let plan = plan(&mut connection, query, arguments).await;
        assert_from_an_index(&plan, "", query);
    }
}

#[actix_web::test]
async fn trimming_reads_what_is_old_alone() {
    let mut connection = filled().await;
    let query = query("delete from audit", "limit $");
    for age in [1, 20, 34, 400] {
        for after in [Uuid::nil(), id(Utc::now() - TimeDelta::days(30))] {
            let end = Utc::now() - TimeDelta::days(age);
            let mut arguments = PgArguments::default();
            arguments.add(after).expect("an id");
            arguments.add(id(end + TimeDelta::minutes(5))).expect("an id");
            arguments.add(end).expect("a time");
            arguments.add(1_000_i64).expect("a number");
            let plan = plan(&mut connection, &query, arguments).await;
            assert_from_an_index(&plan, "\"time\"", &format!("{age} days, after {after}"));
        }
    }
}

#[actix_web::test]
async fn a_list_that_was_often_asked_for_before_the_table_grew_is_answered_from_its_index() {
    let database = tables().await;
    let store = store(&database);
    let instance = Some(InstanceId::new("t1").expect("an id"));
    let actor = Some(UserId::new("alice").expect("an id"));
    let by_actor = AuditFilter { instance: instance.clone(), actor, ..AuditFilter::default() };
    for _ in 0..20 {
        let all = store.list_audit(&by_actor, None, 51).await.expect("Postgres answers");
        assert!(all.is_empty());
    }
    // Nobody tells Postgres how much it became.
    run(&database, FILL.trim_end_matches("analyze")).await;
    let target = Some("c77".into());
    let by_target = AuditFilter {
        instance: Some(InstanceId::new("t7").expect("an id")),
        target,
        ..AuditFilter::default()
    };
    for _ in 0..20 {
        let all = store.list_audit(&by_target, None, 51).await.expect("Postgres answers");
        assert_eq!(all.len(), 51);
    }
    store.close().await;
    // Postgres counts when a connection ends.
    let mut connection = PgConnection::connect(&database).await.expect("Postgres answers");
    let uses = async |connection: &mut PgConnection| -> i64 {
        let uses = "select sum(idx_scan)::bigint from pg_stat_user_indexes
            where indexrelname in ('audit_by_actor', 'audit_by_target')";
        sqlx::query_scalar(uses).fetch_one(connection).await.expect("a number")
    };
    within("each was answered so", async { while uses(&mut connection).await < 40 {} }).await;
}

#[test]
fn every_query_that_answers_a_part_of_something_is_looked_at() {
    let parts = queries("limit $");
    let looked_at = [
        "order by time desc, id desc limit $9",
        "order by id desc limit $5",
        "order by id limit $4",
        "order by ends_at limit $1",
        "order by requested_at desc, id desc limit $4",
        "order by id desc limit $2",
        "order by created_at desc, id desc limit $4",
        "order by name limit $3",
        "order by id limit $2",
    ];
    let is_known = |query: &&String| looked_at.iter().any(|end| query.contains(end));
    assert!(parts.iter().all(|query| is_known(&query)), "{parts:#?}");
    assert_eq!(parts.len(), looked_at.len(), "{parts:#?}");
}
