//! Who may stay and what each may hear, asked again when rules, channels or a token change.

use crate::catalog::{Known, Tenant};
use crate::domain::audience::Audience;
use crate::relay::close::Close;
use crate::relay::frame::{Frame, Notice, names};
use crate::relay::member::Member;
use crate::relay::settings::ConnectionBounds;
use chrono::Utc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Why a connection is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The rules may have changed: it is told only if what it hears has.
    Rules,
    /// It sent the token anew that it has: it is told anyway, and rules that have not changed are
    /// not asked.
    SameToken,
    /// Its token has changed: it is told anyway.
    Token,
}

/// What a connection hears otherwise than before.
#[derive(Debug)]
pub(crate) struct Rights {
    /// What it hears no more.
    pub lost: Vec<Audience>,
    /// What it hears now.
    pub gained: Vec<Audience>,
}

/// Asks again whether a connection may stay and what it may hear, and tells it when that changed or
/// when it asked. None where nothing changed, or where it is told to go.
pub fn authorize(
    member: &mut Member,
    tenant: Option<&Arc<Tenant>>,
    reason: Reason,
    (bounds, now): (ConnectionBounds, Instant),
    evaluations: &AtomicU64,
) -> Option<Rights> {
    let tenant = match may_stay(member, tenant) {
        Ok(tenant) => tenant,
        Err(close) => {
            member.link.outbox.close(close);
            return None;
        }
    };
    let heard = heard_by(member, tenant, reason, evaluations);
    member.authorized_by = tenant.clone();
    let is_changed = heard != member.audiences;
    if is_changed || reason != Reason::Rules {
        let told = Frame::of(&Notice::Channels { channels: names(&heard) });
        member.link.outbox.push(&told, bounds.outbox, now);
    }
    if !is_changed && reason != Reason::Token {
        return None;
    }
    member.rights_since_ms = Utc::now().timestamp_millis();
    let before = std::mem::replace(&mut member.audiences, heard);
    let now = &member.audiences;
    let gained = now.iter().filter(|audience| !before.contains(audience)).cloned().collect();
    let lost = before.into_iter().filter(|audience| !now.contains(audience)).collect();
    Some(Rights { lost, gained })
}

/// The instance, for one who may stay. Errors: how it is told to go.
fn may_stay<'a>(
    member: &Member,
    tenant: Option<&'a Arc<Tenant>>,
) -> Result<&'a Arc<Tenant>, Close> {
    match tenant {
        None => Err(Close::instance_gone(member.principal.is_valid_everywhere())),
        Some(tenant) if !tenant.instance.enabled => Err(Close::instance_disabled()),
        Some(tenant) if tenant.revokes(&member.principal) => Err(Close::token_revoked()),
        Some(tenant) => Ok(tenant),
    }
}

/// What it may hear. Rules that have not changed are asked again only of a new token.
fn heard_by(
    member: &Member,
    tenant: &Tenant,
    reason: Reason,
    evaluations: &AtomicU64,
) -> Vec<Audience> {
    let facts = member.facts();
    let known = Known { tenant: &member.authorized_by, heard: &member.audiences };
    let known = (reason != Reason::Token).then_some(known);
    let heard = tenant.audiences_of(&facts, member.narrowing.as_ref(), known);
    evaluations.fetch_add(facts.asked(), Relaxed);
    heard
}
