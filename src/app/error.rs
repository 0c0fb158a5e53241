//! Why the service does not start, or does not end well.

use std::error::Error;

/// Why the service does not start, or does not end well; one sentence for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub(super) String);

impl StartError {
    /// What failed, and the whole chain of why.
    pub(super) fn because<E: Error>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| {
            let mut text = format!("{what}: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            Self(text)
        }
    }
}
