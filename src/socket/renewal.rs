//! A new token on an open socket. Sockets know no tokens: whoever does implements [`Renewer`].

use crate::domain::instance::InstanceId;
use crate::domain::principal::Principal;
use crate::relay::Close;
use futures_util::future::LocalBoxFuture;
use std::sync::Arc;

/// What became of a new token.
pub enum Renewal {
    /// It is the same user's, and good: its rights hold from now on.
    Accepted(Arc<Principal>),
    /// The old one stays.
    Refused {
        /// A stable code.
        code: &'static str,
        /// One sentence.
        detail: String,
    },
    /// It takes the connection's right away.
    Ended(Close),
}

/// Verifies the token of an `AUTH` frame.
pub trait Renewer {
    /// Judges `token` for a connection that `current` has in `instance`.
    fn renew(
        &self,
        current: Arc<Principal>,
        instance: InstanceId,
        token: String,
    ) -> LocalBoxFuture<'static, Renewal>;
}
