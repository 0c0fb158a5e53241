//! Who may come and stay, and what follows where someone hears otherwise than before.

use crate::catalog::Tenant;
use crate::domain::principal::Principal;
use crate::relay::close::Close;
use crate::relay::frame::Frame;
use crate::relay::heard::Heard;
use crate::relay::member::Member;
use crate::relay::settings::ConnectionBounds;
use chrono::Utc;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Why a connection may not come, or not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such instance any more.
    #[error("there is no such instance")]
    InstanceGone,
    /// An operator has disabled it.
    #[error("an operator has disabled the instance")]
    InstanceDisabled,
    /// An administrator has revoked the token.
    #[error("an administrator revoked the token")]
    TokenRevoked,
    /// The token has ended.
    #[error("the token has expired")]
    TokenExpired,
    /// The key that the token was signed with is accepted no more.
    #[error("the token's signing key is accepted no more")]
    KeyWithdrawn,
}

/// Why a connection is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The rules may have changed: it is told only if what it hears has.
    Rules,
    /// Its token has changed: it is told anyway.
    Token,
}

/// The instance, for one who may stay there. Errors: `Refusal`.
pub(super) fn may_stay<'a>(
    principal: &Principal,
    tenant: Option<&'a Arc<Tenant>>,
) -> Result<&'a Arc<Tenant>, Refusal> {
    match tenant {
        None => Err(Refusal::InstanceGone),
        Some(tenant) if !tenant.instance.enabled => Err(Refusal::InstanceDisabled),
        Some(tenant) if tenant.revokes(principal) => Err(Refusal::TokenRevoked),
        Some(tenant) => Ok(tenant),
    }
}

/// The same for one who comes: its token may have ended since it was verified, or lost its key.
pub(super) fn may_come<'a>(
    principal: &Principal,
    tenant: Option<&'a Arc<Tenant>>,
    bounds: ConnectionBounds,
) -> Result<&'a Arc<Tenant>, Refusal> {
    let ends = principal.expires_at.saturating_add(bounds.leeway_seconds);
    if principal.key.is_withdrawn() {
        return Err(Refusal::KeyWithdrawn);
    }
    if Utc::now().timestamp() >= ends {
        return Err(Refusal::TokenExpired);
    }
    may_stay(principal, tenant)
}

/// A connection hears this from now on. It is told so where that is something else than before, or
/// where it has a new token. What it heard before, unless it is the same.
pub(super) fn settle(
    member: &mut Member,
    heard: Heard,
    reason: Reason,
    at: (ConnectionBounds, Instant),
) -> Option<Heard> {
    let is_same = Rc::ptr_eq(heard.set(), member.heard.set()) && heard.own() == member.heard.own();
    let before = (!is_same).then(|| std::mem::replace(&mut member.heard, heard));
    if before.is_some() || reason == Reason::Token {
        tell(member, at);
        member.rights_since_ms = Utc::now().timestamp_millis();
    }
    before
}

/// Tells a connection what it hears.
pub(super) fn tell(member: &Member, (bounds, now): (ConnectionBounds, Instant)) {
    member.link.outbox.push(&Frame::channels(&member.heard.names()), bounds.outbox, now);
}

impl Refusal {
    /// How a connection of this principal is told to go.
    pub fn close(self, principal: &Principal) -> Close {
        match self {
            Self::InstanceGone => Close::instance_gone(principal.is_valid_everywhere()),
            Self::InstanceDisabled => Close::instance_disabled(),
            Self::TokenRevoked => Close::token_revoked(),
            Self::TokenExpired => Close::token_expired(),
            Self::KeyWithdrawn => Close::key_withdrawn(),
        }
    }
}
