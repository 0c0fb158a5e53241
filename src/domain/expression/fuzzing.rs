//! What holds for any text whatever: the fuzz target and the property tests run this. No part of
//! the service: only tests and the feature `fuzzing` compile it.

use super::{ConnectionFacts, Expression, Facts, MAX_BYTES, MAX_REASON, MAX_WORK, Scope};
use crate::domain::claims::Claims;
use crate::domain::names::Names;
use crate::domain::principal::{self, GroupId, Principal, UserId};
use serde_json::json;
use std::net::Ipv4Addr;

/// Reads, evaluates and explains. Panics where a promise is broken.
pub fn fuzz(text: &str) {
    let principal = principal();
    for scope in [Scope::Hear, Scope::Publish, Scope::Filter] {
        match Expression::parse(text, scope) {
            Ok(expression) => {
                let connection = ConnectionFacts::new(Ipv4Addr::LOCALHOST.into(), "Mozilla/5.0");
                for connection in [None, Some(connection)] {
                    hold(&expression, &Facts::new(&principal, connection));
                }
            }
            Err(error) => {
                assert!(
                    error.position <= text.len().min(MAX_BYTES),
                    "{text:?}: position {}",
                    error.position
                );
                assert!(!error.reason.is_empty(), "{text:?}: no reason");
            }
        }
    }
}

fn hold(expression: &Expression, facts: &Facts<'_>) {
    let (outcome, work) = expression.evaluate_counted(facts);
    assert!(
        work.steps <= expression.price() && expression.price() <= MAX_WORK,
        "{expression}: {} steps",
        work.steps
    );
    assert!(work.bytes_written <= work.steps, "{expression}: {} bytes", work.bytes_written);
    let explanation = expression.explain(facts);
    assert_eq!(explanation.outcome, outcome, "{expression}");
    assert!(
        explanation.reason.len() <= MAX_REASON && !explanation.reason.is_empty(),
        "{expression}: no reason"
    );
}

fn principal() -> Principal {
    let claims = json!({
        "l": [1, 2.5, "x", null, true, [1], {"x": 1}], "s": "xyé", "i": -1, "x": {"y": {"x": "y"}}, "big": u64::MAX,
    });
    let groups: Vec<GroupId> =
        ["x", "eng"].iter().filter_map(|group| GroupId::new(group).ok()).collect();
    let user = UserId::new("alice").unwrap_or_else(|error| panic!("{error}"));
    Principal {
        groups: Names::new(&groups).unwrap_or_default(),
        scope: principal::Scope::Everywhere,
        claims: claims.as_object().map(Claims::from).unwrap_or_default(),
        ..Principal::new(user, 0)
    }
}
