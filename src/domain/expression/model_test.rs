//! Random expressions over random claims mean what a naive evaluator, and the parser's own
//! interpreter, say they mean.

use super::support_test::principal;
use super::{Expression, Facts, Outcome, Scope};
use crate::domain::principal::Principal;
use cel::{Context, Env, ExecutionError, Value as CelValue};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;

/// An expression of the subset that the naive evaluator knows.
#[derive(Clone, Debug)]
enum Model {
    Flag(&'static str),
    Has(&'static str),
    Compare(&'static str, &'static str, Json),
    Within(Json, &'static str),
    InGroups(&'static str),
    Not(Box<Model>),
    And(Box<Model>, Box<Model>),
    Or(Box<Model>, Box<Model>),
    Any(&'static str, &'static str, Json),
}

const CLAIMS: [&str; 4] = ["a", "b", "c", "missing"];

impl Model {
    fn text(&self) -> String {
        match self {
            Self::Flag(claim) => format!("claims.{claim}"),
            Self::Has(claim) => format!("has(claims.{claim})"),
            Self::Compare(claim, operator, literal) => {
                format!("claims.{claim} {operator} {literal}")
            }
            Self::Within(literal, claim) => format!("{literal} in claims.{claim}"),
            Self::InGroups(claim) => format!("claims.{claim} in groups"),
            Self::Not(operand) => format!("!({})", operand.text()),
            Self::And(left, right) => format!("({}) && ({})", left.text(), right.text()),
            Self::Or(left, right) => format!("({}) || ({})", left.text(), right.text()),
            Self::Any(claim, operator, literal) => {
                format!("claims.{claim}.exists(x, x {operator} {literal})")
            }
        }
    }

    /// `None` is an error.
    fn naive(&self, principal: &Principal) -> Option<bool> {
        let claims = principal.claims.to_json();
        let claim = |name: &str| claims.get(name);
        match self {
            Self::Flag(name) => claim(name)?.as_bool(),
            Self::Has(name) => Some(claim(name).is_some()),
            Self::Compare(name, operator, literal) => compare(claim(name)?, operator, literal),
            Self::Within(literal, name) => match claim(name)? {
                Json::Array(list) => Some(list.iter().any(|element| equal(element, literal))),
                Json::Object(map) => {
                    Some(literal.as_str().is_some_and(|key| map.contains_key(key)))
                }
                _ => None,
            },
            Self::InGroups(name) => {
                let value = claim(name)?;
                Some(principal.groups.iter().any(|group| value.as_str() == Some(group)))
            }
            Self::Not(operand) => operand.naive(principal).map(|truth| !truth),
            Self::And(left, right) => match (left.naive(principal), right.naive(principal)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(left, right) => match (left.naive(principal), right.naive(principal)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Any(name, operator, literal) => {
                let elements: Vec<Json> = match claim(name)? {
                    Json::Array(list) => list.clone(),
                    Json::Object(map) => map.keys().map(|key| json!(key)).collect(),
                    _ => return None,
                };
                let verdicts: Vec<_> =
                    elements.iter().map(|element| compare(element, operator, literal)).collect();
                if verdicts.contains(&Some(true)) {
                    Some(true)
                } else {
                    verdicts.iter().all(Option::is_some).then_some(false)
                }
            }
        }
    }
}

fn equal(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        _ => one == other,
    }
}

fn compare(one: &Json, operator: &str, other: &Json) -> Option<bool> {
    let order = match (one, other) {
        _ if operator == "==" => return Some(equal(one, other)),
        _ if operator == "!=" => return Some(!equal(one, other)),
        (Json::Number(one), Json::Number(other)) => one.as_f64()?.partial_cmp(&other.as_f64()?)?,
        (Json::String(one), Json::String(other)) => one.as_bytes().cmp(other.as_bytes()),
        (Json::Bool(one), Json::Bool(other)) => one.cmp(other),
        _ => return None,
    };
    Some(match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}

fn scalar() -> impl Strategy<Value = Json> {
    prop_oneof![
        prop::sample::select(vec![json!("x"), json!("y"), json!("eng"), json!("")]),
        prop::sample::select(vec![
            json!(0),
            json!(1),
            json!(-2),
            json!(1.5),
            json!(1.0),
            json!(4_000_000_000_u64)
        ]),
        any::<bool>().prop_map(Json::Bool),
    ]
}

fn claim_value() -> impl Strategy<Value = Json> {
    prop_oneof![
        4 => scalar(),
        1 => Just(Json::Null),
        2 => prop::collection::vec(scalar(), 0..4).prop_map(Json::Array),
        1 => prop::collection::hash_map("[xy]", scalar(), 0..3).prop_map(|map| json!(map)),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    let name = || prop::sample::select(&CLAIMS[..]);
    let operator = || prop::sample::select(&["==", "!=", "<", "<=", ">", ">="][..]);
    let leaf = prop_oneof![
        name().prop_map(Model::Flag),
        name().prop_map(Model::Has),
        name().prop_map(Model::InGroups),
        (name(), operator(), scalar())
            .prop_map(|(name, operator, literal)| Model::Compare(name, operator, literal)),
        (scalar(), name()).prop_map(|(literal, name)| Model::Within(literal, name)),
        (name(), operator(), scalar())
            .prop_map(|(name, operator, literal)| Model::Any(name, operator, literal)),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|operand| Model::Not(Box::new(operand))),
            (inner.clone(), inner.clone())
                .prop_map(|(left, right)| Model::And(Box::new(left), Box::new(right))),
            (inner.clone(), inner)
                .prop_map(|(left, right)| Model::Or(Box::new(left), Box::new(right))),
        ]
    })
}

fn cel_value(json: &Json) -> CelValue {
    match json {
        Json::Null => CelValue::Null,
        Json::Bool(value) => CelValue::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => CelValue::Int(value),
            (None, Some(value)) => CelValue::UInt(value),
            _ => CelValue::Float(number.as_f64().unwrap()),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(list) => list.iter().map(cel_value).collect::<Vec<_>>().into(),
        Json::Object(map) => map
            .iter()
            .map(|(key, value)| (key.as_str(), cel_value(value)))
            .collect::<HashMap<_, _>>()
            .into(),
    }
}

/// What the parser's own interpreter says.
fn interpreted(text: &str, principal: &Principal) -> Outcome {
    let env = Arc::new(Env::stdlib());
    let program = env.compile(text).unwrap();
    let mut context = Context::with_env(env);
    context.add_variable_from_value("user", principal.user.as_str());
    let groups: Vec<CelValue> = principal.groups.iter().map(Into::into).collect();
    context.add_variable_from_value("groups", groups);
    context.add_variable_from_value("claims", cel_value(&Json::Object(principal.claims.to_json())));
    let result: Result<CelValue, ExecutionError> = program.execute(&context);
    match result {
        Ok(CelValue::Bool(true)) => Outcome::True,
        Ok(CelValue::Bool(false)) => Outcome::False,
        _ => Outcome::Error,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_expression_means_what_the_models_say(
        model in model(),
        values in prop::collection::vec(prop::option::weighted(0.8, claim_value()), 3),
        groups in prop::sample::subsequence(vec!["x", "eng"], 0..=2),
    ) {
        let claims: serde_json::Map<String, Json> = CLAIMS.iter().zip(values)
            .filter_map(|(name, value)| Some(((*name).to_owned(), value?)))
            .collect();
        let principal = principal(&json!({"groups": groups, "claims": claims}));
        let text = model.text();
        // What is nested too deep or too long is refused, and nothing else of this subset.
        let Ok(expression) = Expression::parse(&text, Scope::Hear) else {
            prop_assert!(text.len() > 150, "{} is refused", text);
            return Ok(());
        };
        let facts = Facts::new(&principal, None);
        let outcome = expression.evaluate(&facts);
        let expected = match model.naive(&principal) {
            Some(true) => Outcome::True,
            Some(false) => Outcome::False,
            None => Outcome::Error,
        };
        prop_assert_eq!(outcome, expected, "{}", &text);
        prop_assert_eq!(outcome, interpreted(&text, &principal), "{} interpreted", &text);
        prop_assert_eq!(outcome, expression.explain(&facts).outcome, "{} explained", &text);
    }

    #[test]
    fn arithmetic_and_functions_mean_what_the_interpreter_says(
        (a, b) in (claim_value(), claim_value()),
        form in prop::sample::select(&[
            "A + B == A", "A - B < A", "A * B >= B", "A / B != A", "A % B == A", "-A < B", "A == B", "A in [B, A]", "A in B",
            "size(A) > size(B)", "int(A) == int(B)", "uint(A) < 2u", "string(A) == B", "double(A) > 1.0", "A[B] == 1",
            "A.contains(B)", "A.startsWith(B)", "A.endsWith(B)", "A ? B : A", "A.map(x, x == B) == [true]",
            "A.filter(x, x == B) == A", "A.exists_one(x, x == B)", "A.all(x, x == B)", "{'x': A}['x'] == B", "[A] + [B] == A",
            "{'x': A, 'y': B} == {'y': B, 'x': A}", "A.x == B.y", "has(A.x) || has(B.y)", "A < B ? A : B",
        ][..]),
    ) {
        // The interpreter appends a map's keys to a list, which CEL does not know.
        prop_assume!(!(form == "A + B == A" && a.is_array() && b.is_object()));
        let text = form.replace('A', "claims.a").replace('B', "claims.b");
        let principal = principal(&json!({"claims": {"a": a, "b": b}}));
        let outcome = Expression::parse(&text, Scope::Hear).unwrap().evaluate(&Facts::new(&principal, None));
        prop_assert_eq!(outcome, interpreted(&text, &principal), "{} of {:?}", &text, &principal.claims);
    }
}
