//! How Postgres answers every list and filter beside many entries of many instances: from an index,
//! whose order is the list's, without reading what is not asked for.

use crate::support::postgres::{database, run, store};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, Connection, PgConnection};
use std::fs;
use std::path::Path;
use uuid::Uuid;

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
fn queries(containing: &str) -> Vec<String> {
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

/// The one query that begins so, and has this in it.
fn query(beginning: &str, containing: &str) -> String {
    let mut found = queries(containing);
    found.retain(|query| query.starts_with(beginning));
    assert_eq!(found.len(), 1, "{beginning} {containing}: {found:?}");
    found.remove(0)
}

async fn filled() -> PgConnection {
    let database = database().await;
    let store = store(&database);
    store.migrate().await.expect("the tables are made");
    store.close().await;
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

/// Asserts that an index answers, in the list's order, and that rows are read for what they answer
/// alone. What is left to compare are times, of which the index knows all but five minutes.
fn assert_from_an_index(plan: &Value, what: &str) {
    let steps = steps(plan);
    let is_index = |step: &&Value| step["Index Name"].is_string();
    assert!(steps.iter().any(is_index), "no index answers {what}: {plan:#}");
    for step in &steps {
        let kind = step["Node Type"].as_str().expect("a kind");
        let is_fine = [
            "Limit",
            "Index Scan",
            "Index Only Scan",
            "Bitmap Index Scan",
            "Bitmap Heap Scan",
            "LockRows",
            "ModifyTable",
            "Aggregate",
            "Result",
        ];
        assert!(is_fine.contains(&kind), "{kind} in {what}: {plan:#}");
        let filter = step["Filter"].as_str().unwrap_or("(\"time\"");
        let compares = filter.replace("(\"time\"", "").replace(['(', ')'], "");
        let others = ["instance", "actor", "action", "target", "id", "status", "ends_at"];
        let word = |word: &&str| compares.split([' ', ':']).any(|part| part == *word);
        let other = others.iter().find(|other| word(other));
        assert_eq!(other, None, "a filter reads rows in vain for {what}: {plan:#}");
    }
}

fn arguments<const N: usize>(add: [&dyn Fn(&mut PgArguments); N]) -> PgArguments {
    let mut arguments = PgArguments::default();
    add.iter().for_each(|add| add(&mut arguments));
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

    fn arguments(self) -> PgArguments {
        let id = |time: DateTime<Utc>| Uuid::from_u128((time.timestamp_millis() as u128) << 80);
        let differ = TimeDelta::minutes(5);
        let first = self.from.map_or(Uuid::nil(), |from| id(from - differ));
        let end = self.to.map_or(Uuid::max(), |to| id(to + differ));
        let middle = id(Utc::now() - TimeDelta::days(15));
        let end = if self.goes_on { middle.min(end) } else { end };
        let mut arguments = PgArguments::default();
        for text in [self.instance, self.actor, self.action, self.target] {
            arguments.add(text).expect("a text");
        }
        arguments.add(first).expect("an id");
        arguments.add(end).expect("an id");
        arguments.add(self.from).expect("a time");
        arguments.add(self.to).expect("a time");
        arguments.add(51_i64).expect("a number");
        arguments
    }
}

#[actix_web::test]
async fn every_filter_of_the_audit_alone_and_with_others_is_answered_from_an_index() {
    let mut connection = filled().await;
    let query = query("select", "from audit");
    let all = Asked::all();
    assert_eq!(all.len(), 2 * 3 * 3 * 4 * 4 * 2);
    for asked in all {
        let plan = plan(&mut connection, &query, asked.arguments()).await;
        assert_from_an_index(&plan, &format!("{asked:?}"));
    }
}
