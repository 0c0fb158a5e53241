//! `when` expressions and filters: CEL over what a verified token says, checked when saved and
//! bounded when evaluated.

mod bounds;
mod calls;
mod check;
pub mod compiled;
mod cost;
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
pub use cost::{Cost, Excess};
pub use error::ExpressionError;
pub use facts::{ConnectionFacts, Facts};
pub use meter::Work;

use compiled::{Checked, Pool};
use evaluate::Evaluator;
use explain::Explainer;
use meter::{Cause, Failure, Meter};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tree::Node;

/// What an expression is counted with beyond its text while it is not compiled, its places in its
/// pool included.
const KEPT_BYTES: usize = 256;

/// An expression that was checked: it can be true or false, and its evaluation takes at most
/// `MAX_WORK`. Cloning copies a reference. Two are equal if their texts and scopes are.
#[derive(Clone)]
pub struct Expression(Arc<Checked>);

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
        Checked::alone(text, scope).map(Self)
    }

    /// The same, compiled with an instance's others; a text that somebody holds is not read again.
    pub fn parse_in(pool: &Pool, text: &str, scope: Scope) -> Result<Self, ExpressionError> {
        let stored = Self::stored_in(pool, text, scope);
        match stored.fault() {
            None => Ok(stored),
            Some(fault) => Err(fault.clone()),
        }
    }

    /// The same of a text that was stored; it is read once somebody needs that. Where it is not
    /// understood any more, it has no answer for anyone and tells why.
    pub fn stored_in(pool: &Pool, text: &str, scope: Scope) -> Self {
        Self(pool.checked(text, scope))
    }

    /// The text that was parsed.
    pub fn as_str(&self) -> &str {
        self.0.text()
    }

    /// Where it stands.
    pub fn scope(&self) -> Scope {
        self.0.scope()
    }

    /// The most steps that evaluating it takes for any token of at most 16 KiB; at most
    /// `MAX_WORK`.
    pub fn price(&self) -> u64 {
        self.0.measure().map_or(0, |measure| measure.price)
    }

    /// What it costs to have and to evaluate.
    pub fn cost(&self) -> Cost {
        let form_bytes = self.0.measure().map_or(0, |measure| measure.form_bytes);
        Cost { steps: self.price(), bytes: self.kept_bytes() + form_bytes }
    }

    /// What it takes while it is not compiled, in bytes.
    pub fn kept_bytes(&self) -> usize {
        KEPT_BYTES + self.0.text().len()
    }

    /// Why it has no answer for anyone, where it was stored and is not understood any more.
    pub fn fault(&self) -> Option<&ExpressionError> {
        self.0.measure().err()
    }

    /// What it says of someone. For claims larger than a token can carry it ends after `MAX_WORK`
    /// with `Error`.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Outcome {
        self.evaluate_counted(facts).0
    }

    /// What `evaluate` says, and what it took.
    pub fn evaluate_counted(&self, facts: &Facts<'_>) -> (Outcome, Work) {
        facts.count();
        let counted = |root: &Node| {
            let (truth, work) = truth(root, facts);
            (Outcome::of(&truth), work)
        };
        self.with_form(counted).unwrap_or((Outcome::Error, Work::default()))
    }

    /// What `evaluate` says, and why.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        facts.count();
        self.with_form(|root| explained(root, facts)).unwrap_or_else(|fault| Explanation {
            outcome: Outcome::Error,
            reason: write::bounded(MAX_REASON, fault),
        })
    }

    /// Does something with what it is evaluated by, which is made where it has given way. Errors:
    /// why it has no answer for anyone.
    fn with_form<T>(&self, act: impl FnOnce(&Node) -> T) -> Result<T, ExpressionError> {
        if let Some(root) = &*self.0.form() {
            return Ok(act(root));
        }
        let root = self.0.make()?;
        Ok(act(&root))
    }
}

fn truth<'a>(root: &'a Node, facts: &'a Facts<'a>) -> (Result<bool, Failure<'a>>, Work) {
    let mut evaluator = Evaluator::new(facts, Meter::new(MAX_WORK));
    let truth = evaluator.truth(root);
    (truth, evaluator.meter.work())
}

fn explained(root: &Node, facts: &Facts<'_>) -> Explanation {
    let (truth, _) = truth(root, facts);
    let outcome = Outcome::of(&truth);
    let reason = match truth {
        // Its parts may well have an answer, and would seem to contradict it.
        Err(failure) if failure.cause == Cause::TooMuchWork => explain::failed(root, &failure),
        _ => Explainer::new(facts).reason(root),
    };
    Explanation { outcome, reason }
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
