//! Principals for the tests of expressions, made of a few lines of JSON.

use super::{ConnectionFacts, Expression, Facts, Outcome, Scope};
use crate::domain::claims::Claims;
use crate::domain::names::Names;
use crate::domain::principal::{self, GroupId, Principal, Role, UserId};
use serde_json::{Value as Json, json};

/// `{"user", "groups", "roles", "claims"}`, each of which may be left out.
pub(super) fn principal(of: &Json) -> Principal {
    let names =
        |key: &str| -> Vec<String> { serde_json::from_value(of[key].clone()).unwrap_or_default() };
    let groups: Vec<GroupId> =
        names("groups").iter().map(|group| GroupId::new(group).unwrap()).collect();
    let roles: Vec<Role> = names("roles").iter().map(|role| Role::new(role).unwrap()).collect();
    let user = UserId::new(of["user"].as_str().unwrap_or("alice")).unwrap();
    Principal {
        groups: Names::new(&groups).unwrap(),
        roles: Names::new(&roles).unwrap(),
        scope: principal::Scope::Everywhere,
        claims: of["claims"].as_object().map(Claims::from).unwrap_or_default(),
        ..Principal::new(user, 0)
    }
}

/// `address` and `userAgent` of the same JSON, where there is an address.
pub(super) fn connection(of: &Json) -> Option<ConnectionFacts> {
    let address = of["address"].as_str()?.parse().unwrap();
    Some(ConnectionFacts::new(address, of["userAgent"].as_str().unwrap_or_default()))
}

/// A principal on which the tables of the tests look.
pub(super) fn alice() -> Json {
    json!({
        "user": "alice", "groups": ["eng", "eu-west"], "roles": ["REALTIME_CONNECT", "EDITOR"],
        "address": "10.1.2.3", "userAgent": "Mozilla/5.0 (Android 15)",
        "claims": {
            "plan": "pro", "tier": 3, "big": u64::MAX, "score": 2.5, "flag": true, "off": false, "nothing": null,
            "email": "alice@example.com", "name": "Zoë", "list": [1, 2, 3], "tags": ["a", "b"], "empty": [],
            "org": {"id": "acme", "seats": 12, "deep": {"er": [true]}},
            "teams": [{"name": "x", "lead": true}, {"name": "y"}],
        },
    })
}

pub(super) fn parse(text: &str) -> Expression {
    Expression::parse(text, Scope::Hear)
        .unwrap_or_else(|error| panic!("{text}: {error} at {}", error.position))
}

pub(super) fn outcome(text: &str, of: &Json) -> Outcome {
    let principal = principal(of);
    parse(text).evaluate(&Facts::new(&principal, connection(of)))
}

pub(super) fn reason(text: &str, of: &Json) -> String {
    let principal = principal(of);
    let facts = Facts::new(&principal, connection(of));
    let explanation = parse(text).explain(&facts);
    assert_eq!(explanation.outcome, parse(text).evaluate(&facts), "{text}");
    explanation.reason
}
