//! Who may come and stay, and what follows where someone hears otherwise than before.

use crate::catalog::Tenant;
use crate::domain::audience::Audience;
use crate::domain::principal::Principal;
use crate::domain::verdict::hears_channel;
use crate::relay::close::Close;
use crate::relay::frame::{Frame, Notice, names};
use crate::relay::member::Member;
use crate::relay::settings::ConnectionBounds;
use chrono::Utc;
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

/// What a connection hears otherwise than before.
#[derive(Debug)]
pub(super) struct Rights {
    /// What it hears no more.
    pub lost: Vec<Audience>,
    /// What it hears now.
    pub gained: Vec<Audience>,
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

/// A connection hears this from now on, by this picture of its instance. It is told where that is
/// something else than before, or where it asked. None where nothing changed.
pub(super) fn settle(
    member: &mut Member,
    tenant: &Arc<Tenant>,
    heard: Vec<Audience>,
    reason: Reason,
    (bounds, now): (ConnectionBounds, Instant),
) -> Option<Rights> {
    member.authorized_by = tenant.clone();
    let is_changed = heard != member.audiences;
    if is_changed || reason == Reason::Token {
        tell(member, &heard, (bounds, now));
        member.rights_since_ms = Utc::now().timestamp_millis();
    }
    if !is_changed {
        return (reason == Reason::Token).then(|| Rights { lost: vec![], gained: vec![] });
    }
    let before = std::mem::replace(&mut member.audiences, heard);
    let now = &member.audiences;
    Some(Rights { lost: without(&before, now), gained: without(now, &before) })
}

/// Tells a connection what it hears.
pub(super) fn tell(
    member: &Member,
    heard: &[Audience],
    (bounds, now): (ConnectionBounds, Instant),
) {
    let told = Frame::of(&Notice::Channels { channels: names(heard) });
    member.link.outbox.push(&told, bounds.outbox, now);
}

/// Those of `these` that are not among `others`; the channels of both stand by name, behind all
/// else.
fn without(these: &[Audience], others: &[Audience]) -> Vec<Audience> {
    let is_channel = |audience: &Audience| matches!(audience, Audience::Channel(_));
    let own = &others[..others.partition_point(|audience| !is_channel(audience))];
    let is_missing = |audience: &&Audience| match audience {
        Audience::Channel(name) => !hears_channel(others, name),
        _ => !own.contains(audience),
    };
    these.iter().filter(is_missing).cloned().collect()
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
