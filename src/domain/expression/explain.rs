//! Says why an expression is true, false or fails for someone: which parts decided, with the values
//! seen.

use super::bounds::MAX_REASON;
use super::evaluate::Evaluator;
use super::facts::Facts;
use super::meter::{Cause, Failure, Meter};
use super::tree::{Macro, Node, Walk, What};
use super::write::{bounded, quoted, shown};

/// Parts are evaluated again on the way down; all of that together may take so many steps.
const MOST_STEPS: u64 = 64_000_000;

pub(super) struct Explainer<'a> {
    evaluator: Evaluator<'a>,
}

impl<'a> Explainer<'a> {
    pub fn new(facts: &'a Facts<'a>) -> Self {
        Self { evaluator: Evaluator::new(facts, Meter::new(MOST_STEPS)) }
    }

    /// The reason in at most `MAX_REASON` bytes.
    pub fn reason(mut self, root: &'a Node) -> String {
        bounded(MAX_REASON, self.explain(root))
    }

    fn explain(&mut self, node: &'a Node) -> String {
        let truth = self.evaluator.truth(node);
        match (&node.what, truth) {
            (What::And(parts), Ok(false)) => self.those(parts, |truth| matches!(truth, Ok(false))),
            (What::Or(parts), Ok(true)) => self.first(parts),
            (What::And(parts) | What::Or(parts), Ok(_)) => self.those(parts, |_| true),
            (What::And(parts) | What::Or(parts), Err(_)) => self.those(parts, Result::is_err),
            (What::Not(operand), Ok(_)) => self.explain(operand),
            (What::Choice(three), Ok(_)) => {
                let chosen = usize::from(!self.evaluator.truth(&three[0]).unwrap_or_default()) + 1;
                format!("{}, so {}", self.explain(&three[0]), self.explain(&three[chosen]))
            }
            (What::Walk(walk), Ok(truth)) => self.walk(node, walk, truth),
            (_, Ok(truth)) => {
                let seen = self.seen(node);
                format!(
                    "{} is {truth}{}{seen}",
                    quoted(node),
                    if seen.is_empty() { "" } else { ": " }
                )
            }
            (_, Err(failure)) => failed(node, &failure),
        }
    }

    /// The reasons of the parts whose outcome is asked for.
    fn those(
        &mut self,
        parts: &'a [Node],
        wanted: impl Fn(&Result<bool, Failure<'a>>) -> bool,
    ) -> String {
        let mut reasons = Vec::new();
        let mut bytes = 0;
        for part in parts {
            if bytes <= MAX_REASON && wanted(&self.evaluator.truth(part)) {
                let reason = self.explain(part);
                bytes += reason.len();
                reasons.push(reason);
            }
        }
        reasons.join("; ")
    }

    fn first(&mut self, parts: &'a [Node]) -> String {
        for part in parts {
            if let Ok(true) = self.evaluator.truth(part) {
                return self.explain(part);
            }
        }
        String::new()
    }

    fn walk(&mut self, node: &'a Node, walk: &'a Walk, truth: bool) -> String {
        let Ok(range) = self.evaluator.value(&walk.range) else { return String::new() };
        let count = match (walk.name, truth) {
            (Macro::Exists, false) => "no element matches",
            (Macro::Exists, true) => "an element matches",
            (Macro::All, true) => "every element matches",
            (Macro::All, false) => "an element does not match",
            (_, true) => "one element matches",
            (_, false) => "not exactly one element matches",
        };
        format!(
            "{} is {truth}: {count}; {} is {}",
            quoted(node),
            quoted(&walk.range),
            shown(&range)
        )
    }

    /// The operands that do not show their value in the text, with their values.
    fn seen(&mut self, node: &'a Node) -> String {
        let mut seen: Vec<String> = Vec::new();
        for operand in node.operands() {
            // Whether a field is there shows in the container.
            let operand = match (&node.what, &operand.what) {
                (What::Has(_), What::Select(container, _)) => container,
                _ => operand,
            };
            if matches!(operand.what, What::Literal(_)) {
                continue;
            }
            if let Ok(value) = self.evaluator.value(operand) {
                let operand = format!("{} is {}", quoted(operand), shown(&value));
                if !seen.contains(&operand) {
                    seen.push(operand);
                }
            }
        }
        seen.join(", ")
    }
}

pub(super) fn failed(node: &Node, failure: &Failure<'_>) -> String {
    let part = quoted(failure.at);
    let cause = match failure.cause {
        Cause::Kind(..) => format!("{part} {}", failure.cause),
        _ => format!("{part}: {}", failure.cause),
    };
    if std::ptr::eq(node, failure.at) { cause } else { format!("{} fails: {cause}", quoted(node)) }
}
