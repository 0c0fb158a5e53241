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

use arc_swap::ArcSwapOption;
use compiled::Pool;
use evaluate::Evaluator;
use explain::Explainer;
use meter::{Cause, Failure, Meter};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use tree::Node;

/// What an expression is counted with beyond its text while it is not compiled, its places in its
/// pool included.
const KEPT_BYTES: usize = 256;

/// An expression that was checked: it can be true or false, and its evaluation takes at most
/// `MAX_WORK`. Cloning copies a reference. Two are equal if their texts and scopes are.
#[derive(Clone)]
pub struct Expression(Arc<Checked>);

/// A text that was checked, or is when that is needed. What it is evaluated by may give way, and is
/// then made again.
struct Checked {
    text: Box<str>,
    scope: Scope,
    /// What reading it showed; empty of a stored text that was not read yet.
    measured: OnceLock<Result<Measure, Box<ExpressionError>>>,
    /// What it is evaluated by; none while it has given way.
    form: ArcSwapOption<Node>,
    /// Whether it was evaluated since its pool last looked.
    used: AtomicBool,
    /// Where its form is counted, and its hash there; none where it is kept as long as this.
    pool: Option<(Pool, u64)>,
}

/// What a text that was read costs.
#[derive(Clone, Copy)]
struct Measure {
    /// The most steps of an evaluation.
    price: u64,
    /// The most bytes that its form takes.
    form_bytes: usize,
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
        let (root, measure) = Checked::read(text, scope)?;
        let checked = Checked::new(text, scope, None);
        let _was_empty = checked.measured.set(Ok(measure));
        checked.form.store(Some(Arc::new(root)));
        Ok(Self(Arc::new(checked)))
    }

    /// The text that was parsed.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Where it stands.
    pub fn scope(&self) -> Scope {
        self.0.scope
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
        KEPT_BYTES + self.0.text.len()
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
        if let Some(root) = &*self.0.form.load() {
            self.0.note_use();
            return Ok(act(root));
        }
        let root = self.0.make()?;
        Ok(act(&root))
    }
}

impl Checked {
    /// Reads and checks a text. Errors: `ExpressionError`.
    fn read(text: &str, scope: Scope) -> Result<(Node, Measure), ExpressionError> {
        let root = Self::root(text, scope).map_err(ExpressionError::without_long_words)?;
        let price = price::price(&root).within_bounds();
        let price = price.map_err(|reason| ExpressionError { position: root.at, reason })?;
        let form_bytes = root.bytes();
        Ok((root, Measure { price, form_bytes }))
    }

    fn root(text: &str, scope: Scope) -> Result<Node, ExpressionError> {
        let (parsed, positions) = syntax::read(text)?;
        check::check(text, scope, &parsed, &positions)
    }

    /// Not read yet.
    fn new(text: &str, scope: Scope, pool: Option<(Pool, u64)>) -> Self {
        Self {
            text: text.into(),
            scope,
            measured: OnceLock::new(),
            form: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            pool,
        }
    }

    /// What reading it showed. Errors: why it is not understood.
    fn measure(self: &Arc<Self>) -> Result<Measure, &ExpressionError> {
        if self.measured.get().is_none() {
            drop(self.make());
        }
        match self.measured.get() {
            Some(Ok(measure)) => Ok(*measure),
            Some(Err(fault)) => Err(fault),
            None => Ok(Measure { price: 0, form_bytes: 0 }),
        }
    }

    /// What it is evaluated by, made from its text. Errors: why it is not understood.
    fn make(self: &Arc<Self>) -> Result<Arc<Node>, ExpressionError> {
        if let Some(Err(fault)) = self.measured.get() {
            return Err((**fault).clone());
        }
        match Self::read(&self.text, self.scope) {
            Ok((root, measure)) => {
                let root = Arc::new(root);
                self.measured.get_or_init(|| Ok(measure));
                if let Some((pool, _)) = &self.pool {
                    pool.keep(self, measure.form_bytes, root.clone());
                }
                Ok(root)
            }
            Err(fault) => {
                self.measured.get_or_init(|| Err(Box::new(fault.clone())));
                Err(fault)
            }
        }
    }

    /// What its form takes, where it has one.
    fn form_bytes(&self) -> usize {
        match (self.measured.get(), &*self.form.load()) {
            (Some(Ok(measure)), Some(_)) => measure.form_bytes,
            _ => 0,
        }
    }

    /// It is used: others give way before it.
    fn note_use(&self) {
        // Writing takes the place from the other workers.
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if let Some((pool, hash)) = self.pool.take() {
            pool.forget(self, hash);
        }
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
