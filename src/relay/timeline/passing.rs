//! Which filters someone passes, each asked once.

use crate::domain::expression::Expression;
use crate::relay::frame::Frame;
use ahash::RandomState;
use indexmap::IndexMap;

/// The answers of one person to the filters of messages.
#[derive(Debug, Default)]
pub(crate) struct Passing(IndexMap<Expression, bool, RandomState>);

impl Passing {
    /// Whether a message's filter lets it through to them; `passes` is asked where that is not
    /// known yet.
    pub fn lets_through(
        &mut self,
        frame: &Frame,
        passes: impl FnOnce(&Expression) -> bool,
    ) -> bool {
        let Some(filter) = frame.head().and_then(|head| head.reach.filter.as_ref()) else {
            return true;
        };
        if let Some(answer) = self.0.get(filter) {
            return *answer;
        }
        let answer = passes(filter);
        self.0.insert(filter.clone(), answer);
        answer
    }

    /// One message for each filter whose answer is not known.
    pub fn unknown_of(&self, frames: Vec<Frame>) -> Vec<Frame> {
        let mut unknown: IndexMap<Expression, Frame, RandomState> = IndexMap::default();
        for frame in frames {
            let filter = frame.head().and_then(|head| head.reach.filter.clone());
            if let Some(filter) = filter.filter(|filter| !self.0.contains_key(filter)) {
                unknown.entry(filter).or_insert(frame);
            }
        }
        unknown.into_values().collect()
    }
}
