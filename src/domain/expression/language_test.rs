//! What expressions mean, what is refused and where, and how an outcome is explained.

use super::support_test::{alice, outcome, reason};
use super::{Expression, MAX_REASON, Outcome, Scope};
use serde_json::json;
use std::collections::HashSet;

fn all(expected: Outcome, expressions: &[&str]) {
    for text in expressions {
        assert_eq!(outcome(text, &alice()), expected, "{text}");
    }
}

#[test]
fn what_holds_is_true() {
    all(
        Outcome::True,
        &[
            "true",
            "user == \"alice\" && user.startsWith('al') && user.endsWith(\"ce\") && user.contains('lic')",
            "\"eng\" in groups && !(\"sales\" in groups) && \"EDITOR\" in roles",
            "groups.exists(g, g.startsWith(\"eu-\")) && groups.exists_one(g, g == 'eng') && groups.all(g, size(g) < 8)",
            "claims.plan == \"pro\" && claims[\"plan\"] == claims.plan && \"plan\" in claims && has(claims.plan)",
            "!has(claims.missing) && has(claims.nothing) && claims.nothing == null && !has(claims.org.name)",
            "claims.tier == 3 && claims.tier == 3u && claims.tier == 3.0 && claims.tier < 3.5 && claims.tier >= 3",
            "claims.big > 9223372036854775807 && claims.big == 18446744073709551615u && claims.big > 1.5",
            "claims.tier + 1 == 4 && claims.tier * 2 - 1 == 5 && claims.tier / 2 == 1 && claims.tier % 2 == 1 && -claims.tier < 0",
            "claims.score * 2.0 == 5.0 && double(claims.tier) + 0.5 == 3.5 && 1.0 / 0.0 > 1e308 && !(0.0 / 0.0 == 0.0 / 0.0)",
            "claims.plan in ['free', 'pro'] && claims.tier in [1, 2, 3.0] && 2 in claims.list && !(\"2\" in claims.list)",
            "claims.org.id == 'acme' && claims.org.deep.er[0] && claims.list[1] == 2 && claims.list[1.0] == 2",
            "claims.teams.exists(t, t.name == 'y') && claims.teams.filter(t, has(t.lead)).map(t, t.name) == ['x']",
            "claims.list.map(x, x * x) == [1, 4, 9] && claims.tags + ['c'] == ['a', 'b', 'c'] && size(claims.list) == 3",
            "claims.org.exists(key, key == 'seats') && size(claims.org) == 3 && claims.empty.all(x, x) && claims.empty == []",
            "{'free': 1, 'pro': 2}[claims.plan] == 2 && 'pro' in {'pro': true} && {'a': 1} == {'a': 1.0} && {1: true}[1u]",
            "claims.flag ? claims.tier == 3 : claims.missing",
            "(claims.missing == 1 || true) && !(claims.missing == 1 && false) && (true || claims.missing == 1)",
            "claims.teams.exists(t, t.lead) && !claims.list.all(x, x == 3 && claims.missing)",
            "size('Zoë') == 3 && claims.name.size() == 3 && 'Zoë' == 'Zo\\u00eb' && \"a\" < \"b\" && false < true",
            "int('42') == 42 && int(2.9) == 2 && uint(3) == 3u && string(claims.tier) == '3' && double('1.5') == 1.5 && string(true) == 'true'",
            "claims.email.matches(r'^[^@]+@example\\.com$') && !claims.plan.matches('^r') && connection.userAgent.matches('Android \\\\d+')",
            "connection.address == '10.1.2.3' && connection.address.startsWith('10.') && has(connection.userAgent)",
            "'team-' + claims.org.id == 'team-acme' && [user] + groups == ['alice', 'eng', 'eu-west']",
            "!!claims.flag && ((((((((claims.flag))))))))",
            "9007199254740993 != 9007199254740992.0 && 9223372036854775807 < 9223372036854775808.0 && -9223372036854775808 == -9223372036854775808.0",
        ],
    );
}

#[test]
fn what_has_no_answer_is_an_error_unless_another_part_decides() {
    all(
        Outcome::Error,
        &[
            "claims.missing == 'x'",
            "claims.missing",
            "claims.plan",
            "claims.nothing",
            "claims.plan.x == 1",
            "has(claims.plan.x)",
            "has(claims.missing.x)",
            "!claims.plan",
            "claims.plan && true",
            "true && claims.missing",
            "claims.missing && true",
            "claims.missing || false",
            "claims.plan > 3",
            "claims.plan + 1 == 2",
            "claims.tier + 1.0 == 4.0",
            "claims.list[3] == 1",
            "claims.list[-1] == 1",
            "claims.list['x'] == 1",
            "claims.list[0.5] == 1",
            "claims[1] == 1",
            "claims.tier / 0 == 1",
            "claims.tier % 0 == 1",
            "-9223372036854775808 / (claims.tier - 4) == 1",
            "claims.tier + 9223372036854775807 > 0",
            "-(claims.tier - 4 - 9223372036854775807) > 0",
            "claims.big * claims.big > 0",
            "int(claims.big) > 0",
            "int(1e19) > 0",
            "uint(-1) > 0u",
            "int(claims.plan) > 0",
            "'x' in claims.plan",
            "claims.plan.exists(x, true)",
            "claims.list.exists(x, x.y == 1)",
            "claims.list.exists_one(x, x.y == 1 || x == 1)",
            "claims.list.all(x, x < 9 && x.y)",
            "claims.tier.startsWith('x')",
            "claims.tier.matches('x')",
            "claims.list[0] ? true : false",
            "{'free': true}[claims.plan]",
            "size(claims.tier) == 1",
            "bucket(claims.tier) == 1",
        ],
    );
    let elsewhere = json!({"claims": {"plan": "pro"}});
    assert_eq!(outcome("connection.address == 'x'", &elsewhere), Outcome::Error);
    assert_eq!(outcome("has(connection.address)", &elsewhere), Outcome::Error);
}

#[test]
fn lists_beyond_the_bound_are_errors_and_at_the_bound_are_not() {
    let with =
        |count: usize| json!({"claims": {"list": vec![1; count], "text": "x".repeat(count)}});
    for text in
        ["2 in claims.list", "claims.list.exists(x, x == 2)", "size(claims.list.map(x, x)) < 9"]
    {
        assert_eq!(outcome(text, &with(256)), Outcome::False, "{text}");
        assert_eq!(outcome(text, &with(257)), Outcome::Error, "{text}");
    }
    assert_eq!(outcome("size(claims.list + claims.list) == 256", &with(128)), Outcome::True);
    assert_eq!(outcome("size(claims.list + claims.list) == 258", &with(129)), Outcome::Error);
    for text in ["claims.text.matches('^x*$')", "claims.text + '' != ''"] {
        assert_eq!(outcome(text, &with(1_024)), Outcome::True, "{text}");
        assert_eq!(outcome(text, &with(1_025)), Outcome::Error, "{text}");
    }
}

/// An expression, the position of what is wrong with it, and a part of the reason.
const REFUSED: &[(&str, usize, &str)] = &[
    ("", 0, "empty"),
    ("  ", 0, "empty"),
    ("claims.plan = 1", 12, "\"=\" is not understood"),
    ("claims.plan == ", 15, "ends too early"),
    ("(user == 'a'", 12, "')' is missing"),
    ("user == 'é' && 'é' + ü", 23, "\"ü\" is not understood"),
    ("'é' == 'é' && 99999999999999999999 == 1", 16, "invalid int"),
    ("user ==\n  'a' &&\n  ] 1", 19, "\"]\" is not expected"),
    ("user == 'abc", 8, "is not understood"),
    ("usr == 'a'", 0, "usr is not known"),
    ("'é' == user || clams.plan == 'é'", 16, "clams is not known"),
    ("now > 1", 0, "once a connection"),
    (".user == 'a'", 1, "not known"),
    ("true && connection == null", 8, "stands only before"),
    ("connection.port == 1", 0, "has address and userAgent"),
    ("timestamp(claims.iat) > 1", 0, "once a connection"),
    ("user == 'a' || claims.a.lower() == 'x'", 24, "lower is not known"),
    ("type(user) == 1", 0, "type is not known"),
    ("optional.of(1) == 1", 9, "function of is not known"),
    ("claims.?a == 1", 6, "unsupported syntax"),
    ("claims[?'a'] == 1", 6, "unsupported syntax"),
    ("Foo{a: 1} == 1", 3, "Foo is not known"),
    ("b'abc' == 1", 0, "bytes"),
    ("package == 1", 0, "reserved"),
    ("1", 0, "1 is a number, but an expression must be true or false"),
    ("user", 0, "user is a text"),
    ("groups", 0, "groups is a list"),
    ("claims", 0, "claims is a map"),
    ("size(claims.a)", 0, "is a number"),
    ("claims.a + 1", 0, "must be true or false"),
    ("bucket(user)", 0, "is a number"),
    ("claims.list.map(x, x)", 0, "is a list"),
    ("true ? user : 'b'", 0, "is a text"),
    ("true && 'a'", 8, "each side of && must be true or false"),
    ("groups || true", 0, "each side of ||"),
    ("!user", 1, "behind !"),
    ("user == 1", 5, "two alike"),
    ("groups == 'eng'", 7, "two alike"),
    ("user < 1", 5, "two alike"),
    ("groups > 1", 0, "each side of >"),
    ("1 + 'a' == 1", 2, "two alike"),
    ("1 + 1.0 == 2.0", 2, "two alike"),
    ("user - 'a' == 'b'", 0, "each side of -"),
    ("1 in groups", 2, "never in"),
    ("'a' in user", 7, "behind in"),
    ("groups.contains('eng')", 7, "element in list"),
    ("user.name == 'x'", 4, "has fields"),
    ("user.exists(x, x == 'a')", 0, "walks over"),
    ("groups.exists(g, g + 1 == 2)", 19, "two alike"),
    ("groups.exists(g, g)", 17, "condition of exists"),
    ("groups.exists(g, claims.a.exists(x, x == g))", 26, "do not nest"),
    ("groups.exists(user, true)", 14, "has a meaning already"),
    ("groups.exists(1, true)", 14, "name for the element"),
    ("groups.exists(g, true) && g == 'x'", 26, "g is not known"),
    ("exists(groups, true)", 0, "exists is written"),
    ("claims.a.matches(claims.b)", 17, "must be a literal"),
    ("claims.a.matches('a' + 'b')", 17, "must be a literal"),
    ("claims.a.matches('(')", 17, "not a regular expression"),
    ("claims.a.matches('(a{1000}){1000}')", 17, "too large"),
    ("matches(user, 'a')", 0, "is written"),
    ("has(user)", 4, "has takes a field"),
    ("has(claims['a'])", 4, "write \"key\" in claims"),
    ("has(claims.a, 1)", 0, "has takes one field"),
    ("size() == 1", 0, "size is written"),
    ("startsWith(user, 'a')", 0, "startsWith is written"),
    ("user.int() == 1", 5, "int is written"),
    ("{'a': 1, 'a': 2}['a'] == 1", 9, "stands twice"),
    ("{user: 1}['a'] == 1", 1, "must be a literal"),
    ("{1.5: 1}[1] == 1", 1, "a key of a map"),
];

#[test]
fn what_is_wrong_is_refused_where_it_is_wrong() {
    let mut wrong = Vec::new();
    for (text, position, part) in REFUSED {
        let error = Expression::parse(text, Scope::Hear).expect_err(text);
        if error.position != *position || !error.reason.contains(part) {
            wrong.push(format!(
                "{text}: {} at {}, not {part} at {position}",
                error.reason, error.position
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_connection_is_known_where_there_is_one() {
    let text = "true && connection.address == '::1'";
    assert!(
        Expression::parse(text, Scope::Hear).is_ok()
            && Expression::parse(text, Scope::Filter).is_ok()
    );
    let error = Expression::parse(text, Scope::Publish).unwrap_err();
    assert_eq!((error.position, error.reason.contains("publishRules")), (8, true));
}

#[test]
fn expressions_are_equal_by_text_and_scope() {
    let parsed = [
        ("true", Scope::Hear),
        ("true", Scope::Hear),
        ("true", Scope::Publish),
        ("true ", Scope::Hear),
    ]
    .map(|(text, scope)| Expression::parse(text, scope).unwrap());
    assert_eq!(parsed.iter().collect::<HashSet<_>>().len(), 3);
    assert_eq!(format!("{} {:?}", parsed[0], parsed[2]), "true Expression(\"true\", Publish)");
}

#[test]
fn buckets_never_change() {
    // Taken with `printf %s alice | sha256sum`: the first 16 digits as a number, modulo 100.
    for (text, bucket) in
        [("", 52), ("alice", 7), ("bob", 50), ("new-editor:alice", 17), ("Zoë", 48)]
    {
        assert_eq!(
            outcome(&format!("bucket(\"{text}\") == {bucket}"), &alice()),
            Outcome::True,
            "{text}"
        );
    }
}

#[test]
fn buckets_are_even_and_independent() {
    let counts = |test: &str| {
        let expression = super::support_test::parse(test);
        let holds = |user: &usize| {
            let principal =
                super::support_test::principal(&json!({"user": format!("user-{user}")}));
            expression.evaluate(&super::Facts::new(&principal, None)) == Outcome::True
        };
        (0..4_000).filter(holds).count()
    };
    assert!((320..480).contains(&counts("bucket(user) < 10")));
    assert!((900..1_100).contains(&counts("bucket('a:' + user) < 50 && bucket('b:' + user) < 50")));
}

#[test]
fn an_explanation_names_what_decided_with_the_values_seen() {
    for (text, expected) in [
        ("claims.plan == \"free\"", "claims.plan == \"free\" is false: claims.plan is \"pro\""),
        ("claims.plan == 'pro' && claims.tier > 5", "claims.tier > 5 is false: claims.tier is 3"),
        (
            "claims.plan == 'free' || claims.tier > 5",
            "claims.plan == \"free\" is false: claims.plan is \"pro\"; claims.tier > 5 is false: claims.tier is 3",
        ),
        ("claims.off || claims.tier == 3", "claims.tier == 3 is true: claims.tier is 3"),
        ("!('eng' in groups)", "\"eng\" in groups is true: groups is [\"eng\", \"eu-west\"]"),
        ("claims.off", "claims.off is false: claims is {"),
        ("claims.missing == 1", "claims.missing == 1 fails: claims.missing: no such key"),
        ("claims.missing", "claims.missing: no such key"),
        ("claims.plan", "claims.plan is a text, not true or false"),
        ("claims.missing && claims.flag", "claims.missing: no such key"),
        (
            "has(claims.org.nothing)",
            "has(claims.org.nothing) is false: claims.org is {\"deep\": {\"er\": [true]}, ",
        ),
        (
            "claims.list.exists(x, x > 3)",
            "claims.list.exists(x, x > 3) is false: no element matches; claims.list is [1, 2, 3]",
        ),
        (
            "claims.tier > 5 ? true : claims.off",
            "claims.tier > 5 is false: claims.tier is 3, so claims.off is false",
        ),
        ("claims.list + claims.list == [user]", "claims.list + claims.list == [user] is false: "),
        ("size(claims.tags) > 2", "size(claims.tags) > 2 is false: size(claims.tags) is 2"),
        (
            "claims.email.matches('^b')",
            "claims.email.matches(\"^b\") is false: claims.email is \"alice@example.com\"",
        ),
        ("(claims.tier + 1) * 2 == 7 - (1 - 2)", "(claims.tier + 1) * 2 == 7 - (1 - 2) is true: "),
        ("-(claims.tier - 1) == -2", "-(claims.tier - 1) == -2 is true: -(claims.tier - 1) is -2"),
        ("claims.tier / 0 == 1", "claims.tier / 0 == 1 fails: claims.tier / 0: division by zero"),
        ("claims.plan > 1", "claims.plan > 1: a text and a number have no order"),
    ] {
        let reason = reason(text, &alice());
        assert!(reason.starts_with(expected), "{text}: {reason}");
    }
    assert_eq!(
        reason("connection.address == ''", &json!({})).split(": ").nth(1),
        Some("connection.address")
    );
}

#[test]
fn an_explanation_is_short_whatever_the_values() {
    let of = json!({"claims": {"long": "ß".repeat(3_000), "list": vec!["ß".repeat(50); 40]}});
    let many = ["claims.long == 'a'"; 20].join(" || ");
    for text in [
        "claims.long == 'a'",
        "claims.list == ['a']",
        &many,
        &format!("claims.long == '{}'", "é".repeat(200)),
    ] {
        let reason = reason(text, &of);
        assert!(reason.len() <= MAX_REASON, "{} bytes: {reason}", reason.len());
        assert!(reason.contains('…'), "{reason}");
    }
    assert!(reason("claims.long == 'a'", &of).len() < 120);
}
