//! Why a text is not an expression.

/// Why a text is not an expression, for the one who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ExpressionError {
    /// Where, in bytes from the start of the text; 0 is the first. At most the text's length.
    pub position: usize,
    /// A sentence without a full stop.
    pub reason: String,
}
