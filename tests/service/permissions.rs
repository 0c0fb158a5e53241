//! Every operation, tried with no token, a bad one, no role, the wrong role, another instance's
//! token and the right one. An operation of the document without a row here fails the test.

use crate::support::{App, Token, token};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Who may call an operation.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// Anyone, without a token.
    Anyone,
    /// Administrators of the instance.
    Admin,
    /// Administrators of the instance and whoever may connect.
    Member,
    /// Operators; no instance is named.
    Operator,
    /// Operators, and administrators of the instance for their own.
    AdminOrOperator,
    /// Components.
    Publisher,
    /// Components, and administrators of the instance.
    Observer,
}

struct Row {
    id: &'static str,
    method: &'static str,
    path: &'static str,
    who: Who,
    body: Value,
    /// What the right token gets.
    status: u16,
}

fn row(
    id: &'static str,
    method: &'static str,
    path: &'static str,
    who: Who,
    body: Value,
    status: u16,
) -> Row {
    Row { id, method, path, who, body, status }
}

/// In an order in which each finds what it needs.
#[expect(clippy::too_many_lines, reason = "a list, with one entry after another")]
fn rows() -> Vec<Row> {
    use Who::*;
    let message = json!({"channel": "user:nobody", "message": 1, "id": "traced"});
    let request = json!({"limit": "payloadBytes", "value": 2048, "reason": "larger documents"});
    vec![
        row("check_health", "GET", "/healthz", Anyone, Value::Null, 200),
        row("check_readiness", "GET", "/readyz", Anyone, Value::Null, 200),
        row("publish_message", "POST", "/v1/messages", Publisher, message.clone(), 202),
        row(
            "publish_batch",
            "POST",
            "/v1/messages/batch",
            Publisher,
            json!({"messages": [message]}),
            200,
        ),
        row("get_message", "GET", "/v1/messages/traced", Observer, Value::Null, 200),
        row("create_channel", "POST", "/v1/channels", Admin, json!({"name": "news"}), 201),
        row("list_channels", "GET", "/v1/channels", Admin, Value::Null, 200),
        row("get_channel", "GET", "/v1/channels/news", Admin, Value::Null, 200),
        row("replace_channel", "PUT", "/v1/channels/news", Admin, json!({"name": "news"}), 200),
        row(
            "explain_channel",
            "POST",
            "/v1/channels/news/explain",
            Admin,
            json!({"userId": "alice"}),
            200,
        ),
        row("delete_channel", "DELETE", "/v1/channels/news", Admin, Value::Null, 204),
        row("list_connections", "GET", "/v1/connections", Admin, Value::Null, 200),
        row(
            "disconnect_connections",
            "DELETE",
            "/v1/connections?user=nobody",
            Admin,
            Value::Null,
            200,
        ),
        row("disconnect_connection", "DELETE", "/v1/connections/nobody", Admin, Value::Null, 404),
        row("get_quotas", "GET", "/v1/quotas", Member, Value::Null, 200),
        row("create_quota_request", "POST", "/v1/quota-requests", Admin, request.clone(), 201),
        row("list_quota_requests", "GET", "/v1/quota-requests", AdminOrOperator, Value::Null, 200),
        row(
            "get_quota_request",
            "GET",
            "/v1/quota-requests/{request}",
            AdminOrOperator,
            Value::Null,
            200,
        ),
        row(
            "approve_quota_request",
            "POST",
            "/v1/quota-requests/{request}/approve",
            Operator,
            json!({}),
            200,
        ),
        row(
            "deny_quota_request",
            "POST",
            "/v1/quota-requests/{second}/deny",
            Operator,
            json!({"note": "no"}),
            200,
        ),
        row("list_audit", "GET", "/v1/audit", AdminOrOperator, Value::Null, 200),
        row("create_revocation", "POST", "/v1/revocations", Admin, json!({"user": "mallory"}), 201),
        row("list_revocations", "GET", "/v1/revocations", Admin, Value::Null, 200),
        row("get_revocation", "GET", "/v1/revocations/{revocation}", Admin, Value::Null, 200),
        row("delete_revocation", "DELETE", "/v1/revocations/{revocation}", Admin, Value::Null, 204),
        row(
            "create_instance",
            "POST",
            "/v1/instances",
            Operator,
            json!({"id": "third", "name": "third"}),
            201,
        ),
        row("list_instances", "GET", "/v1/instances", Operator, Value::Null, 200),
        row("get_instance", "GET", "/v1/instances/third", Operator, Value::Null, 200),
        row(
            "replace_instance",
            "PUT",
            "/v1/instances/third",
            Operator,
            json!({"name": "third"}),
            200,
        ),
        row("delete_instance", "DELETE", "/v1/instances/third", Operator, Value::Null, 204),
    ]
}

/// Operations without an end to their answer: the socket, whose refusals are close codes (see
/// `signing_in`), and the event stream (see `streaming`).
const SOCKETS: [&str; 2] = ["connect", "stream"];

struct Caller<'a> {
    app: &'a App,
    request: String,
    second: String,
    revocation: String,
}

impl Caller<'_> {
    async fn call(
        &self,
        row: &Row,
        token: Option<String>,
        instance: Option<&str>,
        expected: u16,
    ) -> String {
        let ids = [
            ("{request}", &self.request),
            ("{second}", &self.second),
            ("{revocation}", &self.revocation),
        ];
        let path = ids.iter().fold(row.path.to_owned(), |path, (name, id)| path.replace(name, id));
        let mut request = self.app.request(row.method, &path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(instance) = instance {
            request = request.header("instance", instance);
        }
        if matches!(row.method, "PUT" | "DELETE") {
            request =
                request.header("if-match", if row.method == "PUT" { "\"1\"" } else { "\"2\"" });
        }
        if !row.body.is_null() {
            request = request.json(&row.body);
        }
        eprintln!("{} as expected {expected}", row.id);
        self.app.send(request, expected).await.code().to_owned()
    }
}

#[actix_web::test]
async fn every_operation_asks_for_the_right_token() {
    let app = App::start().await;
    app.create_instance("other", json!({})).await;
    let make = async |path: &str, body: Value| {
        let answer = app.call("POST", path, Some(&Token::admin("root")), Some(body), 201).await;
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let ask = async |value: u32| {
        let body =
            json!({"limit": "componentPayloadBytes", "value": value, "reason": "larger documents"});
        make("/v1/quota-requests", body).await
    };
    let revocation = make("/v1/revocations", json!({"user": "somebody"})).await;
    let caller =
        Caller { app: &app, request: ask(8_192).await, second: ask(16_384).await, revocation };
    for row in rows() {
        check(&caller, &row).await;
    }
}

async fn check(caller: &Caller<'_>, row: &Row) {
    let in_main = (row.who != Who::Operator).then_some("main");
    let refused = async |token: Option<Token>, instance: Option<&str>, status: u16, code: &str| {
        let found = caller.call(row, token.map(|token| token.sign()), instance, status).await;
        assert_eq!(found, code, "{}", row.id);
    };
    if row.who != Who::Anyone {
        refused(None, in_main, 401, "TOKEN_MISSING").await;
        let bad = caller.call(row, Some("not.a.token".into()), in_main, 401).await;
        assert_eq!(bad, "TOKEN_INVALID", "{}", row.id);
        refused(Some(token("a").component().roles(&[])), in_main, 403, "ROLE_REQUIRED").await;
    }
    let wrong: Vec<Token> = match row.who {
        Who::Anyone => vec![],
        Who::Publisher => vec![
            Token::admin("a").component(),
            token("a").component().roles(&["REALTIME_OPERATOR"]),
        ],
        Who::Operator => vec![
            token("a").roles(&["REALTIME_ADMIN", "REALTIME_CONNECT"]).instances(&["*"]),
            token("a").roles(&["REALTIME_OPERATOR"]),
        ],
        Who::Member => vec![token("a").roles(&["REALTIME_OPERATOR"])],
        Who::Observer => vec![token("a"), token("a").component().roles(&["REALTIME_OPERATOR"])],
        Who::Admin | Who::AdminOrOperator => {
            vec![token("a").component(), token("a").roles(&["realtime_admin", "REALTIME_ADMINS"])]
        }
    };
    for token in wrong {
        refused(Some(token), in_main, 403, "ROLE_REQUIRED").await;
    }
    let right = match row.who {
        Who::Anyone => None,
        Who::Operator => Some(Token::operator()),
        Who::Publisher | Who::Observer => Some(token("a").component()),
        Who::Admin | Who::Member | Who::AdminOrOperator => Some(Token::admin("a")),
    };
    if let Some(right) = right.clone().filter(|_| in_main.is_some()) {
        refused(Some(right.clone().instances(&["other"])), in_main, 403, "INSTANCE_FORBIDDEN")
            .await;
        refused(Some(right.clone().without("instances")), in_main, 403, "INSTANCE_FORBIDDEN").await;
        let required = if row.who == Who::AdminOrOperator {
            (403, "ROLE_REQUIRED")
        } else {
            (400, "INSTANCE_REQUIRED")
        };
        refused(Some(right), None, required.0, required.1).await;
    }
    if row.who == Who::AdminOrOperator {
        caller.call(row, Some(Token::operator().sign()), None, row.status).await;
    }
    if row.who == Who::Observer {
        caller.call(row, Some(Token::admin("a").sign()), in_main, row.status).await;
    }
    caller.call(row, right.map(|token| token.sign()), in_main, row.status).await;
}

#[test]
fn every_operation_of_the_document_has_a_row() {
    let document = herald::api::openapi::operations_list();
    let documented: BTreeSet<&str> =
        document.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    let tried: BTreeSet<&str> = rows().iter().map(|row| row.id).chain(SOCKETS).collect();
    assert_eq!(documented, tried);
}
