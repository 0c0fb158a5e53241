//! The examples of `docs/expressions.md` do what the page says.

use super::support_test::{connection, parse, principal};
use super::{Facts, Outcome};
use serde_json::Value as Json;

/// An example: a block of CEL, and the principals that stand in the block of JSON behind it.
fn examples() -> Vec<(String, Json)> {
    let page = include_str!("../../../docs/expressions.md");
    let mut blocks = page.split("\n```").skip(1).step_by(2);
    let mut found = Vec::new();
    while let Some(block) = blocks.next() {
        let Some(expression) = block.strip_prefix("cel\n") else { continue };
        let json = blocks
            .next()
            .and_then(|block| block.strip_prefix("json\n"))
            .expect("JSON behind an expression");
        found.push((expression.trim().to_owned(), serde_json::from_str(json).expect(expression)));
    }
    found
}

#[test]
fn the_page_has_twenty_examples_and_does_not_lie() {
    let examples = examples();
    assert!(examples.len() >= 20, "{} examples", examples.len());
    for (text, principals) in examples {
        let expression = parse(&text);
        for (key, expected) in
            [("true", Outcome::True), ("false", Outcome::False), ("error", Outcome::Error)]
        {
            for of in principals[key].as_array().into_iter().flatten() {
                let principal = principal(of);
                let facts = Facts::new(&principal, connection(of));
                let explained = expression.explain(&facts);
                assert_eq!(explained.outcome, expected, "{text} of {of}: {}", explained.reason);
            }
        }
        for needed in ["true", "false"] {
            assert!(
                principals[needed].as_array().is_some_and(|list| !list.is_empty()),
                "{text}: who is {needed}?"
            );
        }
    }
}
