//! Counts the work of an evaluation in steps, and says what can go wrong in one.

use super::bounds::MAX_WORK;
use super::tree::Node;

/// Bytes of text that are read in one step.
pub(super) const BYTES_PER_STEP: u64 = 16;
/// Steps for a part that is evaluated, or an element that a macro looks at.
pub(super) const STEPS_PER_PART: u64 = 4;
/// Steps for a pair of values that is compared, beside the text in them.
pub(super) const STEPS_PER_PAIR: u64 = 4;
/// Steps for a key that is looked up in claims.
pub(super) const STEPS_PER_LOOKUP: u64 = 8;
/// Steps for a text that is made of another value, beside its bytes.
pub(super) const STEPS_PER_TEXT: u64 = 16;

/// The steps for reading so many bytes.
pub(super) fn steps_to_read(bytes: u64) -> u64 {
    bytes / BYTES_PER_STEP
}

/// What an evaluation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// A step is up to 16 bytes of text read, or one byte of a new text or list written: one to
    /// five nanoseconds, as measured. A part of the expression evaluated, an element or a pair
    /// looked at is four, a key looked up in claims eight, a text made of a number sixteen, a byte
    /// that a regular expression reads one, or of a large one eight and three for each place of it
    /// that may wait, a byte that `bucket` reads one and `bucket` itself 64.
    pub steps: u64,
    /// The bytes of texts, lists and maps that were made; each was a step.
    pub bytes_written: u64,
}

/// The work done so far, within a bound.
#[derive(Debug)]
pub(super) struct Meter {
    work: Work,
    most: u64,
}

impl Meter {
    pub fn new(most: u64) -> Self {
        Self { work: Work::default(), most }
    }

    /// What was counted so far. It passes the bound only by what was asked for last, and that was
    /// not done.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Counts before the work is done. Errors: `TooMuchWork` once the bound is passed.
    pub fn charge(&mut self, steps: u64) -> Result<(), Cause> {
        if self.work.steps > self.most {
            return Err(Cause::TooMuchWork);
        }
        self.work.steps = self.work.steps.saturating_add(steps);
        if self.work.steps > self.most { Err(Cause::TooMuchWork) } else { Ok(()) }
    }

    /// Counts a new text or list before it is made: each of its bytes is a step.
    pub fn charge_writing(&mut self, bytes: usize) -> Result<(), Cause> {
        self.charge(bytes as u64)?;
        self.work.bytes_written += bytes as u64;
        Ok(())
    }

    /// Counts a text that is read once.
    pub fn charge_reading(&mut self, text: &str) -> Result<(), Cause> {
        self.charge(steps_to_read(text.len() as u64))
    }
}

/// Why a part of an expression has no value for someone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cause {
    #[error("no such key")]
    NoSuchKey,
    #[error("no such position in the list")]
    NoSuchPosition,
    #[error("is {0}, not {1}")]
    Kind(&'static str, &'static str),
    #[error("{0} and {1} have no order")]
    NotOrdered(&'static str, &'static str),
    #[error("{1} cannot be used with {0} here")]
    NotAdded(&'static str, &'static str),
    #[error("the number is too large or too small")]
    Overflow,
    #[error("division by zero")]
    DivisionByZero,
    #[error("not a number")]
    NotANumber,
    #[error("the text is longer than {0} bytes")]
    TextTooLong(usize),
    #[error("the list is longer than {0} elements")]
    ListTooLong(usize),
    #[error("not known here: no connection is looked at")]
    NoConnection,
    #[error("takes more than {} steps", MAX_WORK)]
    TooMuchWork,
}

/// A part of an expression that has no value.
#[derive(Clone, Debug)]
pub(super) struct Failure<'a> {
    pub at: &'a Node,
    pub cause: Cause,
}

impl Cause {
    /// Names the part.
    pub fn at(self, at: &Node) -> Failure<'_> {
        Failure { at, cause: self }
    }
}
