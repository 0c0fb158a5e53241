//! Why a token is not accepted.

/// Why a token was not accepted. Holds nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The form, the signature or a claim is wrong; the text says which, in half a sentence.
    #[error("{0}")]
    Invalid(&'static str),
    /// All is well but `exp`, which is more than the leeway ago.
    #[error("the token has expired")]
    Expired,
    /// No known key verifies it, and a key set that may hold its key cannot be fetched.
    #[error("the signing keys cannot be fetched")]
    KeysUnavailable,
}
