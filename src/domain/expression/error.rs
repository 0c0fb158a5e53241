//! Why a text is not an expression.

use super::write;

/// Why a text is not an expression, for the one who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ExpressionError {
    /// Where, in bytes from the start of the text; 0 is the first. At most the text's length.
    pub position: usize,
    /// A sentence without a full stop.
    pub reason: String,
}

impl ExpressionError {
    /// The same without a token that was pasted in the wrong place.
    pub(super) fn without_long_words(self) -> Self {
        Self { reason: write::without_long_words(&self.reason), ..self }
    }
}
