//! `when` expressions and filters: CEL over what a verified token says, checked when saved and
//! bounded when evaluated.

mod bounds;
mod calls;
mod check;
pub mod compiled;
mod error;
mod evaluate;
mod explain;
mod facts;
mod functions;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod kinds;
mod linear;
mod meter;
mod pattern;
mod price;
mod syntax;
mod tree;
mod value;
mod write;

pub use bounds::{
    MAX_BYTES, MAX_ELEMENTS, MAX_PATTERN_STEPS, MAX_REASON, MAX_STEPS, MAX_TEXT, MAX_WORK,
};
pub use check::Scope;
pub use error::ExpressionError;
pub use facts::{ConnectionFacts, Facts};
pub use meter::Work;

use evaluate::Evaluator;
use explain::Explainer;
use meter::{Cause, Failure, Meter};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tree::Node;

/// An expression that was checked: it can be true or false, and its evaluation takes at most
/// `MAX_STEPS`. Cloning copies a reference. Two are equal if their texts and scopes are.
#[derive(Clone)]
pub struct Expression(Arc<Checked>);

struct Checked {
    text: Box<str>,
    scope: Scope,
    root: Node,
    price: u64,
}

/// What an expression says of someone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It has no answer for them: a missing claim, another kind of value than it takes, or none of
    /// true and false. This "does not allow" and "does deny".
    Error,
}

/// An outcome and what decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The same that `evaluate` says.
    pub outcome: Outcome,
    /// Which parts decided, with the values seen; at most `MAX_REASON` bytes.
    pub reason: String,
}

impl Expression {
    /// Reads and checks a text (contract, "Channels and rules"). Errors: `ExpressionError`, the
    /// first mistake found.
    pub fn parse(text: &str, scope: Scope) -> Result<Self, ExpressionError> {
        Self::read(text, scope).map_err(|ExpressionError { position, reason }| ExpressionError {
            position,
            reason: write::without_long_words(&reason),
        })
    }

    fn read(text: &str, scope: Scope) -> Result<Self, ExpressionError> {
        let (parsed, positions) = syntax::read(text)?;
        let root = check::check(text, scope, &parsed, &positions)?;
        let price = price::price(&root).within_bounds();
        let price = price.map_err(|reason| ExpressionError { position: root.at, reason })?;
        Ok(Self(Arc::new(Checked { text: text.into(), scope, root, price })))
    }

    /// The text that was parsed.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Where it stands.
    pub fn scope(&self) -> Scope {
        self.0.scope
    }

    /// The most steps that evaluating it takes for any token of at most 8 KiB; at most `MAX_STEPS`.
    pub fn price(&self) -> u64 {
        self.0.price
    }

    /// What it says of someone. For claims larger than a token can carry it ends after `MAX_STEPS`
    /// with `Error`.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Outcome {
        self.evaluate_counted(facts).0
    }

    /// What `evaluate` says, and what it took.
    pub fn evaluate_counted(&self, facts: &Facts<'_>) -> (Outcome, Work) {
        let (truth, work) = self.truth(facts);
        (Outcome::of(&truth), work)
    }

    /// What `evaluate` says, and why.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let (truth, _) = self.truth(facts);
        let outcome = Outcome::of(&truth);
        let reason = match truth {
            // Its parts may well have an answer, and would seem to contradict it.
            Err(failure) if failure.cause == Cause::TooMuchWork => {
                explain::failed(&self.0.root, &failure)
            }
            _ => Explainer::new(facts).reason(&self.0.root),
        };
        Explanation { outcome, reason }
    }

    fn truth<'a>(&'a self, facts: &'a Facts<'a>) -> (Result<bool, Failure<'a>>, Work) {
        facts.count();
        let mut evaluator = Evaluator::new(facts, Meter::new(MAX_WORK));
        let truth = evaluator.truth(&self.0.root);
        (truth, evaluator.meter.work())
    }
}

impl Outcome {
    fn of(truth: &Result<bool, Failure<'_>>) -> Self {
        match truth {
            Ok(true) => Self::True,
            Ok(false) => Self::False,
            Err(_) => Self::Error,
        }
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        (self.as_str(), self.scope()) == (other.as_str(), other.scope())
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.as_str(), self.scope()).hash(state);
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.as_str()).field(&self.scope()).finish()
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod hostile_test;
#[cfg(test)]
mod language_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod page_test;
#[cfg(test)]
mod support_test;
