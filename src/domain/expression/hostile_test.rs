//! Hostile expressions are refused or bounded, over the largest claims that a token can carry:
//! counted, not timed.

use super::bounds::MAX_CLAIM_BYTES;
use super::fuzzing::fuzz;
use super::support_test::{connection, principal};
use super::{ConnectionFacts, Expression, Facts, MAX_BYTES, MAX_STEPS, MAX_WORK, Outcome, Scope};
use crate::domain::principal::Principal;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// Repeats a part as often as the longest expression lets it.
fn fill(before: &str, part: &str, after: &str, most: usize) -> String {
    let room = MAX_BYTES - before.len() - after.len();
    format!("{before}{}{after}", part.repeat((room / part.len()).min(most)))
}

fn nest(open: &str, middle: &str, close: &str) -> String {
    let times = (MAX_BYTES - middle.len()) / (open.len() + close.len());
    format!("{}{middle}{}", open.repeat(times), close.repeat(times))
}

/// What costs much to read.
fn deep() -> Vec<String> {
    vec![
        nest("(", "claims.a", ")"),
        "(".repeat(512),
        nest("[", "", "]"),
        "[".repeat(512),
        nest("{1:", "1", "}"),
        "{".repeat(512),
        nest("claims[", "1", "]"),
        nest("size(", "1", ")"),
        "claims.a(".repeat(56),
        nest("!(", "claims.a", ")"),
        nest("-(", "1", ")"),
        fill("", "!", "true", 600),
        fill("", "-", "1", 600),
        fill("claims", ".a", "", 600),
        fill("claims", "[0]", "", 600),
        fill("1", "+1", " == 1", 600),
        fill("1", "<1", "", 600),
        fill("", "true?", "true", 600),
        fill("", "true?true:", "true", 600),
        nest("true?", "true", ":true"),
        fill("true", "&&true", "", 600),
        fill("true", "||true&&true", "", 600),
        fill("", "\"", "", 600),
        fill("", "'\\x", "", 600),
        fill("", "r'", "", 600),
        fill("", "//", "", 600),
        fill("", "`", "", 600),
        fill("", "\0", "", 600),
        fill("", "?", "", 600),
        fill("", "1 ", "", 600),
        fill("", "a{", "", 600),
        fill("", "9", "", 600),
        format!("1e{}", "9".repeat(400)),
        "x".repeat(513),
        "\u{1F600}".repeat(128),
        "ma[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\u{c}\0\0\0\0\0\0\0[[[[[[[putTo?[[[[[[[[[[ep".into(),
    ]
}

/// What costs much to evaluate.
fn costly() -> Vec<String> {
    let walks = |body: &str| format!("claims.l.exists(x, {body})");
    vec![
        walks("claims.l.exists(y, claims.l.exists(z, x == y && y == z))"),
        fill("claims.l.map(x, x)", ".map(x, [x, x])", " == []", 600),
        fill("claims.l.map(x, x", " + x", ") == []", 600),
        fill("claims.l.map(x, [x", ", x", "]) == []", 600),
        fill("claims.l.map(x, [claims", ", claims", "]) == []", 600),
        fill("claims.s", " + claims.s", " == ''", 600),
        fill("claims.l", " + claims.l", " == []", 600),
        fill("[claims", ", claims", "] == claims.l", 600),
        walks("x in claims.l"),
        fill("claims.l.exists(x, x in claims.l", " || x in claims.l", ")", 2),
        fill("claims.l.exists(x, x in claims.l", " || x in claims.l", ")", 600),
        walks("x in groups"),
        "groups.exists(g, g in claims.l)".into(),
        "roles.all(r, r in roles)".into(),
        walks("claims == claims"),
        walks("claims.l == claims.m"),
        walks("x == x && x != claims"),
        walks("[x, x, x] == [x, x, x]"),
        walks("claims.s + 'y' == x"),
        walks("x + x + x == claims.s"),
        walks("claims.s.contains(x) || x.contains(claims.s)"),
        fill("claims.s.contains(claims.s + 'x')", " || claims.s.contains(claims.s + 'x')", "", 600),
        walks("claims.s.matches('(x+x+)+y')"),
        walks("x.matches('(x+x+)+y')"),
        "claims.s.matches('(a|aa)+$') || claims.s.matches('(.*)(.*)(.*)(.*)(.*)[^x]')".into(),
        "claims.s.matches('(x{100}){100}')".into(),
        "claims.s.matches('((((x{50}){50}){50}){50})')".into(),
        "claims.s.matches('(){100000}')".into(),
        "claims.s.matches('\\\\p{L}{1000}')".into(),
        format!("claims.s.matches('{}')", "(".repeat(400)),
        format!("claims.s.matches('{}{}')", "(".repeat(200), ")".repeat(200)),
        fill("claims.s.matches('", "(a|", "')", 600),
        walks("bucket(claims.s) == 1"),
        walks("bucket(x) == 1"),
        fill("bucket(claims.s) == 1", " || bucket(claims.s) == 1", "", 600),
        walks("size(claims.s) == size(x)"),
        walks("string(x) == string(claims.d) + string(1e-300)"),
        walks("int(claims.s) == int(x)"),
        walks("{'a': claims, 'b': claims} == {'b': claims, 'a': claims}"),
        fill("claims.l.exists(x, {'a': x", ", 'b': x", "} == x)", 1),
        walks("x == {'a': 1, 'b': 2, 'c': 3, 'd': 4} || x in [{'a': 1}, {'b': 1}]"),
        "claims.l.filter(x, true).map(x, [x, x]).exists(x, x in claims.l)".into(),
        "claims.l.map(x, claims.l).exists(x, x == claims.l)".into(),
        "claims.l.map(x, claims).map(x, [x, x]).map(x, [x, x]).exists(x, x == claims)".into(),
        "{'k': {'k': {'k': claims}}}.k.k.k == claims || {'k': claims}['k'] == {'k': claims}".into(),
        "(claims.l + claims.l).exists(x, x in claims.l + claims.l)".into(),
        "connection.userAgent.contains(claims.s) || claims.s.contains(connection.userAgent)".into(),
        walks("connection.userAgent.contains(x) || connection.userAgent + x == x"),
        walks("claims.o == claims.o && x == claims.o"),
        "9223372036854775807 + claims.i == 0 || -9223372036854775808 / claims.i == 0 || claims.i % 0 == 0".into(),
    ]
}

/// Claims of the largest size, each of a shape that is bad for something.
fn largest() -> Vec<Json> {
    let room = MAX_CLAIM_BYTES - 200;
    let texts =
        |length: usize, most: usize| vec!["x".repeat(length); (room / (length + 3)).min(most)];
    let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let object: serde_json::Map<String, Json> =
        (0..500).map(|number| (format!("k{number}"), json!(1))).collect();
    let wide: Vec<Json> = (0..250).map(|last| json!([1, 1, 1, 1, 1, 1, 1, 1, 1, last])).collect();
    let maps: Vec<Json> = (0..250).map(|last| json!({"a": 1, "b": [last]})).collect();
    vec![
        json!({"l": texts(20, 256), "s": "x", "i": -1, "d": 1e-300}),
        json!({"l": texts(1, 256), "m": texts(1, 256), "s": "x".repeat(1_000), "i": -1}),
        json!({"l": texts(1, 100), "s": "x".repeat(room - 800), "i": 1}),
        json!({"l": vec![1; room / 2], "s": "y"}),
        json!({"l": vec![1; 256], "m": vec![1; 256], "s": "12", "d": 5e-324}),
        json!({"l": wide, "s": ""}),
        json!({"l": maps, "s": "x"}),
        json!({"l": object, "o": {"a": 1}, "s": "x"}),
        json!({"l": (0..20).map(|_| nested(100)).collect::<Vec<_>>(), "s": "x"}),
        json!({"l": texts(800, 3), "s": "x".repeat(1_024), "d": 1.5}),
        json!({}),
    ]
}

fn worst_principals() -> Vec<Principal> {
    let named: Vec<String> = (0..256).map(|number| format!("{}{number}", "x".repeat(18))).collect();
    let groups = [vec![], named];
    let with = |claims: &Json, groups: &[String]| {
        principal(
            &json!({"user": "u".repeat(128), "groups": groups, "roles": groups, "claims": claims}),
        )
    };
    largest()
        .iter()
        .flat_map(|claims| groups.iter().map(move |groups| with(claims, groups)))
        .collect()
}

fn worst_connection() -> Option<ConnectionFacts> {
    connection(
        &json!({"address": "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", "userAgent": "x".repeat(900)}),
    )
}

/// Evaluates over all of them. Every count is within the price, and the price within the bound.
fn assert_bounded(expression: &Expression, principals: &[Principal]) -> u64 {
    assert!(expression.price() <= MAX_WORK, "{expression}");
    let mut most = 0;
    for principal in principals {
        let facts = Facts::new(principal, worst_connection());
        let (outcome, work) = expression.evaluate_counted(&facts);
        assert!(
            work.steps <= expression.price(),
            "{expression}: {} of {} steps",
            work.steps,
            expression.price()
        );
        assert!(work.bytes_written <= work.steps, "{expression}");
        assert_eq!(expression.explain(&facts).outcome, outcome, "{expression}");
        most = most.max(work.steps);
    }
    most
}

#[test]
fn hostile_expressions_are_refused_or_bounded() {
    let principals = worst_principals();
    let expressions: Vec<String> = deep().into_iter().chain(costly()).collect();
    assert!(expressions.len() >= 80);
    let (mut accepted, mut most) = (0, 0);
    for text in &expressions {
        if let Ok(expression) = Expression::parse(text, Scope::Hear) {
            accepted += 1;
            most = most.max(assert_bounded(&expression, &principals));
        }
    }
    assert!((20..60).contains(&accepted), "{accepted} of {} accepted", expressions.len());
    assert!(
        most > MAX_STEPS / 20,
        "the worst took {most} steps: the list does not come near the bound"
    );
}

#[test]
fn reading_and_evaluating_fit_a_quarter_of_a_thread_s_stack() {
    let run = || {
        let principals = worst_principals();
        for text in deep().iter().chain(&costly()) {
            if let Ok(expression) = Expression::parse(text, Scope::Hear) {
                assert_bounded(&expression, &principals[..2]);
            }
        }
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn claims_beyond_a_token_end_at_the_bound() {
    // An administrator may type claims of any size to have a rule explained.
    let element = vec![1; 4_000];
    let huge = principal(&json!({"claims": {"l": vec![element.clone(); 256], "m": element}}));
    let text = fill("claims.l.filter(x, true", " && x == claims.l[0]", ") == []", 10);
    let expression = Expression::parse(&text, Scope::Hear).unwrap();
    let facts = Facts::new(&huge, None);
    let (outcome, work) = expression.evaluate_counted(&facts);
    assert_eq!(outcome, Outcome::Error);
    assert!((MAX_WORK..MAX_WORK + 100).contains(&work.steps), "{} steps", work.steps);
    assert!(expression.explain(&facts).reason.contains("18000000 steps"));
}

/// What could take this many steps with a token of 8 KiB, when a million were allowed and a part or
/// a pair was one step.
const AT_THE_OLD_BOUND: &[(u64, &str)] = &[
    (886_787, "claims.l.exists(x, x in claims.l && false)"),
    (895_237, "claims.l.map(x, claims.s).all(x, x in x)"),
    (
        999_940,
        "claims.l.filter(x, true).exists(x, (true ? x : claims) in claims.l || 'xx' != string(x))",
    ),
    (999_881, "{'a': groups}.a.filter(x, claims.l[string(x)] == claims.s).exists(y, y == claims)"),
    (
        999_300,
        "claims.l.filter(x, true).exists(x, size(claims.s) > 1 || claims in (true ? x : claims))",
    ),
    (998_661, "claims.l.map(x, claims.s).all(x, string((true ? x : claims)) == x)"),
    (998_150, "(claims.l + claims.l).exists(x, string(x) in claims.s)"),
];

#[test]
fn what_was_within_the_bound_for_tokens_of_8_kib_is_not_refused_for_its_steps() {
    let principals = worst_principals();
    let matched = fill("[1", ",1", "].exists(x, claims.s.matches('^x+y'))", 114);
    for (old, text) in AT_THE_OLD_BOUND.iter().chain(&[(946_452, &*matched)]) {
        let expression = Expression::parse(text, Scope::Hear).unwrap();
        assert!(
            (*old / 8..10 * *old).contains(&expression.price()),
            "{text}: {}",
            expression.price()
        );
        assert_bounded(&expression, &principals[..4]);
    }
}

#[test]
fn what_could_take_more_than_the_bound_is_refused_with_the_figure() {
    let walk =
        |times: usize| format!("claims.l.exists(x, {})", vec!["x in claims.l"; times].join(" || "));
    let price = Expression::parse(&walk(1), Scope::Hear).unwrap().price();
    assert!((MAX_STEPS / 2..=MAX_STEPS).contains(&price), "{price}");
    let refused = Expression::parse(&walk(2), Scope::Hear).unwrap_err();
    assert!(refused.reason.ends_with("at most 10000000 are allowed"), "{refused}");
    let counted = |times: usize| vec!["claims.s.matches('(x{100}){10}')"; times].join(" || ");
    let price = Expression::parse(&counted(1), Scope::Filter).unwrap().price();
    assert!(price > 6_000_000, "the size of a regular expression is part of the price: {price}");
    let refused = Expression::parse(&counted(2), Scope::Filter).unwrap_err();
    let said =
        "the size of its regular expressions adds 12349440 steps; at most 8000000 are allowed";
    assert_eq!((refused.position, &*refused.reason), (0, said));
}

#[test]
fn a_filter_of_two_macros_in_a_row_is_no_nesting() {
    assert!(Expression::parse("claims.l.filter(x, x > 1).exists(y, y < 9)", Scope::Filter).is_ok());
}

const WORDS: &[&str] = &[
    "user",
    "groups",
    "roles",
    "claims",
    "connection",
    ".address",
    ".userAgent",
    ".l",
    ".s",
    ".i",
    "x",
    "y",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    ":",
    "?",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "&&",
    "||",
    " in ",
    "has(",
    "size(",
    "int(",
    "string(",
    "bucket(",
    ".exists(x, ",
    ".all(y, ",
    ".map(x, ",
    ".filter(x, ",
    ".matches('x+')",
    ".startsWith(",
    ".contains(",
    "'x'",
    "\"y\"",
    "r'\\d'",
    "1",
    "0",
    "2u",
    "1.5",
    "1e308",
    "9223372036854775807",
    "true",
    "false",
    "null",
    "'",
    "\\",
    "é",
    "\u{1F600}",
    "\n",
    "//",
    "b'x'",
    "`a`",
    "'''",
    ".?a",
    "package",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in ".{0,300}") {
        fuzz(&text);
    }

    #[test]
    fn no_row_of_words_panics_or_passes_its_price(
        words in prop::collection::vec(prop::sample::select(WORDS), 1..40),
    ) {
        fuzz(&words.concat());
    }

    #[test]
    fn what_is_made_of_costly_parts_is_refused_or_within_its_price(
        forms in prop::collection::vec(prop::sample::select(FORMS), 1..4),
        operands in prop::collection::vec(prop::sample::select(OPERANDS), 8),
        range in prop::sample::select(RANGES),
    ) {
        let mut operands = operands.iter().cycle();
        let mut fill = |form: &str| {
            form.chars().map(|c| if c == '_' { operands.next().unwrap().to_string() } else { c.to_string() }).collect::<String>()
        };
        let body = forms.iter().map(|form| fill(form)).collect::<Vec<_>>().join(" && true || ");
        let text = format!("{}.all(x, {body} || true)", fill(range));
        if let Ok(expression) = Expression::parse(&text, Scope::Hear) {
            WORST.with(|principals| {
                for principal in principals {
                    let (_, work) = expression.evaluate_counted(&Facts::new(principal, worst_connection()));
                    assert!(work.steps <= expression.price(), "{text}: {} of {}", work.steps, expression.price());
                    assert!(work.bytes_written <= work.steps, "{text}");
                }
            });
        }
    }
}

thread_local! {
    static WORST: Vec<Principal> = worst_principals();
}

const RANGES: &[&str] = &[
    "claims.l",
    "groups",
    "claims",
    "claims.l.map(x, _)",
    "claims.l.filter(x, true)",
    "[_, _]",
    "(claims.l + _)",
    "{'a': 1}",
    "{'a': _}.a",
    "[_, _][0]",
    "(true ? _ : _)",
];

const OPERANDS: &[&str] = &[
    "x",
    "claims.l",
    "claims.s",
    "claims",
    "groups",
    "roles",
    "'xx'",
    "1",
    "x.a",
    "[x]",
    "[claims.l, x]",
    "{'a': x, 'b': claims}",
    "string(x)",
    "(x + x)",
    "(claims.s + x)",
    "connection.userAgent",
    "(true ? x : claims)",
    "claims.l[0]",
    "{'a': claims.l}['a']",
];

const FORMS: &[&str] = &[
    "_ == _",
    "_ != _",
    "_ in _",
    "_ < _",
    "_ + _ == _",
    "_.contains(_)",
    "_.startsWith(_)",
    "_.matches('x+y')",
    "bucket(_) > 1",
    "size(_) > 1",
    "int(_) > 1",
    "{'a': _, 'b': _} == _",
    "[_, _] == _",
    "_ in [_, _]",
    "has(_.a)",
    "_[_] == _",
    "string(_) == _",
];
