//! `when` expressions and filters: CEL over what a verified token says, checked when saved and
//! bounded when evaluated.

mod calls;
mod check;
mod compiled;
mod evaluate;
mod explain;
mod functions;
mod fuzzing;
mod kinds;
mod linear;
mod meter;
mod price;
mod syntax;
mod tree;
mod value;
mod write;

pub use compiled::Compiled;

use super::principal::Principal;
use evaluate::Evaluator;
use explain::Explainer;
use meter::{Cause, Failure, Meter};
use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use tree::Node;

/// Longest expression, in bytes (contract, "Channels and rules").
pub const MAX_BYTES: usize = 512;
/// Most steps of one evaluation (`Work` says what a step is), and so the most bytes that it writes.
pub const MAX_STEPS: u64 = 1_000_000;
/// Most elements that a macro or `in` walks over, and that `+` makes; a longer list is an error
/// when evaluated.
pub const MAX_ELEMENTS: usize = 256;
/// Longest text that `+` makes and that a regular expression reads, in bytes.
pub const MAX_TEXT: usize = 1_024;
/// Longest reason of an explanation, in bytes.
pub const MAX_REASON: usize = 512;

/// How deep brackets and `?:` may nest.
const MAX_NESTING: u16 = 12;
/// How deep the parts of an expression may lie within each other; `a.b.c` is two deep.
const MAX_DEPTH: usize = 32;
/// Largest compiled regular expression, in bytes.
const MAX_REGEX: usize = 64 << 10;
/// Most text in the claims of a token of 8 KiB, which is Base64 of the claims beside a signature,
/// in bytes.
const MAX_CLAIM_BYTES: usize = 6_144;
/// Most values in the same claims: each takes two bytes of JSON.
const MAX_CLAIM_VALUES: usize = MAX_CLAIM_BYTES / 2;
/// Longest text of an address, in bytes.
const MAX_ADDRESS: usize = 45;
/// Longest user agent that is kept, in bytes; what is longer is cut.
const MAX_USER_AGENT: usize = 800;

/// Where an expression stands, which decides what it may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A rule about who hears a channel.
    Hear,
    /// A rule about who publishes to it. It knows no `connection`: publishing has none.
    Publish,
    /// A message's filter.
    Filter,
}

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

/// Why a text is not an expression, for the one who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ExpressionError {
    /// Where, in bytes from the start of the text; 0 is the first. At most the text's length.
    pub position: usize,
    /// A sentence without a full stop.
    pub reason: String,
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

/// What an evaluation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// A step is a part of the expression evaluated, an element or a pair looked at, up to 16 bytes
    /// of text read (8 steps a byte where a regular expression reads, one a byte where `bucket`
    /// does), or one byte of a new text or list written.
    pub steps: u64,
    /// The bytes of texts, lists and maps that were made; each was a step.
    pub bytes_written: u64,
}

/// What expressions are evaluated over. Making it copies nothing of the claims; it serves any
/// number of expressions.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    principal: &'a Principal,
    connection: Option<ConnectionFacts>,
    /// How often an expression was evaluated over them.
    asked: Cell<u64>,
}

/// What expressions see of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    address: Box<str>,
    user_agent: Box<str>,
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
        let price = price::price(&root);
        if price > MAX_STEPS {
            let reason = format!(
                "evaluating this could take {price} steps; at most {MAX_STEPS} are allowed"
            );
            return Err(ExpressionError { position: root.at, reason });
        }
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
        facts.asked.set(facts.asked.get() + 1);
        let mut evaluator = Evaluator::new(facts, Meter::new(MAX_STEPS));
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

impl<'a> Facts<'a> {
    /// What is known of a principal, and of its connection where there is one.
    pub fn new(principal: &'a Principal, connection: Option<ConnectionFacts>) -> Self {
        Self { principal, connection, asked: Cell::new(0) }
    }

    /// How often an expression was evaluated over them.
    pub fn asked(&self) -> u64 {
        self.asked.get()
    }

    /// Who it is about.
    pub fn principal(&self) -> &'a Principal {
        self.principal
    }
}

impl ConnectionFacts {
    /// `user_agent` is empty where there was none, and cut to 800 bytes. An IPv4 address in IPv6
    /// clothes is shown as IPv4.
    pub fn new(address: IpAddr, user_agent: &str) -> Self {
        let end = user_agent.floor_char_boundary(MAX_USER_AGENT);
        Self {
            address: address.to_canonical().to_string().into(),
            user_agent: user_agent[..end].into(),
        }
    }
}

/// What the fuzz target and the tests run on any text: reading, evaluating and explaining hold
/// their bounds. Panics where they do not.
#[doc(hidden)]
pub fn fuzz(text: &str) {
    fuzzing::fuzz(text);
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
