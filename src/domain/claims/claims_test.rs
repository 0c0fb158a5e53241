//! Claims are what `serde_json` reads, to the bit, and take at most twice their JSON.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn map(json: &Value) -> Map<String, Value> {
    json.as_object().unwrap().clone()
}

/// Compares also what `==` of JSON does not: the sign of zero, and the bits of every double.
fn assert_same(claims: &Claims, json: &Map<String, Value>) {
    assert_eq!(claims.root().len(), json.len());
    for (name, value) in json {
        assert_same_value(claims.get(name).unwrap(), value);
    }
    let names: Vec<&str> = claims.root().iter().map(|(name, _)| name).collect();
    assert_eq!(names, json.keys().collect::<Vec<_>>());
    assert_eq!(claims.get("no such name").is_some(), json.contains_key("no such name"));
}

fn assert_same_value(claim: Claim<'_>, value: &Value) {
    match (claim, value) {
        (Claim::Null, Value::Null) => {}
        (Claim::Bool(one), Value::Bool(other)) => assert_eq!(one, *other),
        (Claim::Int(one), Value::Number(other)) => assert_eq!(Some(one), other.as_i64()),
        (Claim::Uint(one), Value::Number(other)) => {
            assert_eq!((None, Some(one)), (other.as_i64(), other.as_u64()));
        }
        (Claim::Double(one), Value::Number(other)) => {
            assert!(other.is_f64(), "{other}");
            assert_eq!(one.to_bits(), other.as_f64().unwrap().to_bits(), "{other}");
        }
        (Claim::Text(one), Value::String(other)) => assert_eq!(one, other),
        (Claim::List(one), Value::Array(other)) => {
            assert_eq!((one.len(), one.is_empty()), (other.len(), other.is_empty()));
            assert!(one.get(other.len()).is_none());
            let pairs = one.iter().zip(other).enumerate();
            pairs.for_each(|(index, (claim, value))| {
                assert_same_value(claim, value);
                assert_same_place(one.get(index).unwrap(), claim);
            });
        }
        (Claim::Map(one), Value::Object(other)) => {
            assert_eq!((one.len(), one.is_empty()), (other.len(), other.is_empty()));
            for ((name, claim), (other, value)) in one.iter().zip(other) {
                assert_eq!(name, other);
                assert_same_value(claim, value);
                assert_same_place(one.get(name).unwrap(), claim);
            }
        }
        (claim, value) => panic!("{claim:?} is not {value}"),
    }
}

/// Whether two ways lead to the same place.
fn assert_same_place(one: Claim<'_>, other: Claim<'_>) {
    match (one, other) {
        (Claim::List(one), Claim::List(other)) => assert_eq!(one.0.at, other.0.at),
        (Claim::Map(one), Claim::Map(other)) => assert_eq!(one.0.at, other.0.at),
        (one, other) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
    }
}

fn of_text(text: &str) -> (Claims, Map<String, Value>) {
    let json: Map<String, Value> = serde_json::from_str(text).unwrap();
    (Claims::from(&json), json)
}

#[test]
fn numbers_are_what_they_were_to_the_bit() {
    let whole = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, !0 >> bit]);
    let mut numbers: Vec<String> = whole.flat_map(|n| [format!("{n}"), format!("-{n}")]).collect();
    let doubles = [
        "0.0",
        "-0",
        "-0.0",
        "0e9",
        "1.0",
        "1.5",
        "-1.5",
        "0.1",
        "0.30000000000000004",
        "1e9",
        "1e22",
        "1e23",
        "1e99",
        "123456789012345e-30",
        "9007199254740993.0",
        "5e-324",
        "2.2250738585072014e-308",
        "1.7976931348623157e308",
        "18446744073709551616",
        "-9223372036854775809",
        "1099511627775.5",
        "1099511627776.5",
        "1e-22",
        "1e-23",
        "1E1",
    ];
    numbers.extend(doubles.map(str::to_owned));
    for number in numbers {
        let (claims, json) = of_text(&format!("{{\"n\":{number}}}"));
        assert_same(&claims, &json);
    }
}

#[test]
fn texts_and_tables_are_read_at_each_of_their_widths() {
    for len in [0, 1, 62, 63, 64, 127, 128, 16_383, 16_384, 70_000] {
        let text = "x".repeat(len);
        let json = map(&json!({"t": text, &text: 1, "é": "é".repeat(len)}));
        assert_same(&Claims::from(&json), &json);
    }
    for len in [0, 1, 2, 60, 64, 127, 128, 4_000, 8_191, 8_192, 16_384, 700_000] {
        let json = map(&json!({"list": vec![1; len], "after": [[], {}, "é"]}));
        assert_same(&Claims::from(&json), &json);
    }
    for len in [1, 30, 31, 32, 42, 43, 3_000, 5_000] {
        let inner: Map<String, Value> = (0..len).map(|n| (format!("k{n}"), json!(n))).collect();
        let json = map(&json!({"map": inner}));
        assert_same(&Claims::from(&json), &json);
    }
}

/// What a search costs: names of usual claims whose mark another has too are few.
#[test]
fn usual_claims_are_told_apart_by_their_marks() {
    let names = [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "azp",
        "scope",
        "roles",
        "groups",
        "instances",
        "instance",
        "component",
        "email",
        "email_verified",
        "name",
        "given_name",
        "family_name",
        "preferred_username",
        "plan",
        "tier",
        "realm_access",
        "resource_access",
        "session_state",
        "acr",
        "sid",
        "user_metadata",
        "app_metadata",
        "locale",
        "tenant",
        "org_id",
    ];
    assert_eq!(names.len(), MARKED);
    let marks: std::collections::HashSet<u8> = names.into_iter().map(mark).collect();
    assert!(marks.len() >= 26, "{} of {}", marks.len(), names.len());
}

#[test]
fn of_members_with_the_same_name_the_last_counts() {
    let (claims, json) = of_text(r#"{"a":1,"b":{"x":1,"x":[2]},"a":{"c":null},"":true}"#);
    assert_same(&claims, &json);
    assert_eq!(
        Value::Object(claims.to_json()),
        json!({"": true, "a": {"c": null}, "b": {"x": [2]}})
    );
    assert_eq!(
        format!("{claims:?}"),
        r#"{"": Bool(true), "a": Map({"c": Null}), "b": Map({"x": List([Int(2)])})}"#
    );
}

/// What users may write into their own tokens, of about so many bytes: each shape is the worst for
/// something.
pub(crate) fn shapes(bytes: usize) -> Vec<Map<String, Value>> {
    let list = |element: &str| {
        let elements = vec![element; bytes.saturating_sub(8) / (element.len() + 1)].join(",");
        format!("{{\"l\":[{elements}]}}")
    };
    let many = |entry: &dyn Fn(usize) -> String, each: usize| {
        let entries: Vec<String> = (0..bytes / each).map(entry).collect();
        format!("{{\"m\":{{{}}}}}", entries.join(","))
    };
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"\":".repeat(depth), "}".repeat(depth));
    let mut texts: Vec<String> = [
        "1",
        "-1",
        "99",
        "[]",
        "{}",
        "\"\"",
        "\"a\"",
        "[1]",
        "[[1]]",
        "[1,1]",
        "[[],[]]",
        "{\"\":1}",
        "{\"a\":1}",
        "{\"a\":{}}",
        "{\"a\":[1]}",
        "{\"a\":1,\"b\":2}",
        "1.5",
        "0.1",
        "1e9",
        "1e99",
        "5e-324",
        "-0",
        "0e9",
        "1e23",
        "-0.5",
        "null",
        "true",
        "123456789",
        "-1e-99",
        "18446744073709551615",
        "12345678901.5",
        "\"é\"",
    ]
    .map(list)
    .into();
    texts.extend(
        [1, 2, 3, 10, 60, 100, 124]
            .into_iter()
            .flat_map(|depth| [list(&deep(depth)), list(&objects(depth))]),
    );
    texts.push(many(&|n| format!("\"{n}\":{n}"), 12));
    texts.push(many(
        &|n| format!("\"{}\":[]", char::from_u32(0x100 + n as u32 % 50_000).unwrap()),
        8,
    ));
    texts.push(many(&|n| format!("\"{n:0>120}\":1"), 125));
    texts.push(format!("{{\"t\":\"{}\"}}", "x".repeat(bytes.saturating_sub(8))));
    texts.push(format!("{{\"{}\":1}}", "x".repeat(bytes.saturating_sub(8))));
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

#[test]
fn no_shape_takes_more_than_twice_its_json() {
    for bytes in [10, 100, 200, 1_000, 2_000, 6_000, 12_288] {
        for json in shapes(bytes) {
            let claims = Claims::from(&json);
            assert_same(&claims, &json);
            let text = serde_json::to_string(&json).unwrap();
            // `serde_json` writes doubles longer than they were: the shapes say how short they may be.
            let most = 2 * text.len().min(bytes.max(16)) + 16;
            assert!(claims.bytes() <= most, "{} of {most}: {text:.60}", claims.bytes());
        }
    }
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200_i64..200).prop_map(Value::from),
        any::<f64>().prop_map(|value| json!(value)),
        (any::<i32>(), -30..30_i32).prop_map(|(mantissa, exponent)| {
            serde_json::from_str(&format!("{mantissa}e{exponent}")).unwrap()
        }),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let text = || prop_oneof!["[a-zé\u{0}\u{10ffff}]{0,4}", "[x ]{60,70}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number(),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(6, 200, 12, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..12).prop_map(Value::Array),
            prop::collection::btree_map(text(), inner, 0..12)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_claims_are_what_serde_json_reads(
        members in prop::collection::btree_map("[a-e]{0,2}", value(), 0..12),
    ) {
        let text = json!(members).to_string();
        let (claims, json) = of_text(&text);
        assert_same(&claims, &json);
        prop_assert!(claims.bytes() <= 2 * text.len() + 16, "{} of {}: {}", claims.bytes(), text.len(), text);
        prop_assert_eq!(Claims::from(&claims.to_json()).root().len(), json.len());
    }
}
