//! Why a connection ends, as its client is told.

/// Why a connection ends: a close code (RFC 6455 section 7.4, or 44xx of the contract) and `CODE:
/// short sentence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// 1000 to 4999.
    pub code: u16,
    /// At most 123 bytes reach the client.
    pub reason: String,
}

impl Close {
    /// A close with its code, its word and its sentence.
    pub fn new(code: u16, word: &str, sentence: &str) -> Self {
        Self { code, reason: format!("{word}: {sentence}") }
    }

    /// 4408.
    pub fn keep_alive_missed() -> Self {
        Self::new(4408, "KEEP_ALIVE_MISSED", "send PING at least once a minute")
    }

    /// 4401.
    pub fn token_expired() -> Self {
        Self::new(4401, "TOKEN_EXPIRED", "fetch a new token and reconnect")
    }

    /// 4401: an administrator revoked the token while the connection was open.
    pub fn token_revoked() -> Self {
        Self::new(4401, "TOKEN_REVOKED", "the token was revoked; sign in again")
    }

    /// 4401: the key that the token was signed with was taken away while the connection was open.
    pub fn key_withdrawn() -> Self {
        let sentence = "its signing key is accepted no more; fetch a new token and reconnect";
        Self::new(4401, "TOKEN_INVALID", sentence)
    }

    /// 4420.
    pub fn too_slow() -> Self {
        Self::new(4420, "TOO_SLOW", "messages were not read fast enough; reconnect")
    }

    /// 4409, with the administrator's words.
    pub fn disconnected(reason: &str) -> Self {
        Self::new(4409, "DISCONNECTED", reason)
    }

    /// 1012.
    pub fn restarting() -> Self {
        Self::new(1012, "RESTARTING", "this node is going away; reconnect")
    }

    /// 1013: a change made more sets of groups and channels than an instance's connections may hear.
    pub fn too_many_sets() -> Self {
        Self::new(1013, "OVERLOADED", "too many connections hear something of their own")
    }

    /// 4403: the instance was disabled while the connection was open.
    pub fn instance_disabled() -> Self {
        Self::new(4403, "INSTANCE_DISABLED", "the instance was disabled")
    }

    /// The instance was deleted: 4404 for a token valid everywhere, 4403 for others, who are not
    /// told what exists.
    pub fn instance_gone(valid_everywhere: bool) -> Self {
        if valid_everywhere {
            Self::new(4404, "INSTANCE_NOT_FOUND", "the instance was deleted")
        } else {
            Self::new(4403, "INSTANCE_FORBIDDEN", "the token is not valid in this instance")
        }
    }
}
