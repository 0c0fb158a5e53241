//! Who may stay and what each may hear, asked again when rules, channels or a token change.

use super::{Key, Member, Shard};
use crate::catalog::{Known, Snapshot, Tenant};
use crate::domain::audience::Audience;
use crate::domain::expression::Facts;
use crate::domain::instance::InstanceId;
use crate::domain::principal::Principal;
use crate::relay::frame::{Close, Frame, Notice, names};
use chrono::Utc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Whether a connection is told what it hears.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tell {
    /// The rules may have changed.
    IfChanged,
    /// Its token has changed.
    Always,
}

impl Shard {
    /// The instances with a connection here that `snapshot` shows otherwise than the last one that
    /// was asked about.
    pub(super) fn changed_since_last(&mut self, snapshot: &Snapshot) -> Vec<InstanceId> {
        let mut changed = Vec::new();
        for (instance, room) in &mut self.rooms {
            let tenant = snapshot.tenants.get(instance);
            let same = matches!((&room.judged_by, tenant), (Some(old), Some(new)) if Arc::ptr_eq(old, new));
            if !same {
                room.judged_by = tenant.cloned();
                changed.push(instance.clone());
            }
        }
        changed
    }

    /// Asks again whether a connection may stay and what it may hear, and tells it when that
    /// changed.
    pub fn reassess(&mut self, key: Key, snapshot: &Snapshot, now: Instant) {
        self.judge(key, snapshot, now, Tell::IfChanged);
    }

    /// Puts a new token in the place of the old one, and tells the connection what it hears now.
    pub fn renew(
        &mut self,
        key: Key,
        principal: Arc<Principal>,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        if let Some(member) = self.members.get_mut(key) {
            (member.principal, member.warned) = (principal, false);
            if let Some(room) = self.rooms.get_mut(&member.realm.instance) {
                room.filters.forget(key);
                room.changes += 1;
            }
            self.judge(key, snapshot, now, Tell::Always);
        }
    }

    fn judge(&mut self, key: Key, snapshot: &Snapshot, now: Instant, tell: Tell) {
        let Some(member) = self.members.get_mut(key) else { return };
        let tenant = match snapshot.tenants.get(&member.realm.instance) {
            Some(tenant) if tenant.instance.enabled => tenant,
            Some(_) => return member.link.outbox.close(Close::instance_disabled()),
            None => {
                return member
                    .link
                    .outbox
                    .close(Close::instance_gone(member.principal.is_valid_everywhere()));
            }
        };
        if tenant.revokes(&member.principal) {
            return member.link.outbox.close(Close::token_revoked());
        }
        let facts = member.facts();
        let heard = member.hears(tenant, &facts, tell);
        self.evaluations.fetch_add(facts.asked(), Relaxed);
        member.judged_by = tenant.clone();
        if heard == member.audiences && tell == Tell::IfChanged {
            return;
        }
        member.rights_since_ms = Utc::now().timestamp_millis();
        if let Some(room) = self.rooms.get_mut(&member.realm.instance) {
            room.changes += 1;
            for audience in member.audiences.iter().filter(|audience| !heard.contains(audience)) {
                room.unlist(audience, key);
            }
            for audience in heard.iter().filter(|audience| !member.audiences.contains(audience)) {
                room.list(audience, key);
            }
        }
        member.link.outbox.push(
            &Frame::of(&Notice::Channels { channels: names(&heard) }),
            self.bounds.outbox,
            now,
        );
        member.audiences = heard;
    }
}

impl Member {
    /// What it may hear under the rules of `tenant`. Rules that have not changed are asked again
    /// only of a new token.
    fn hears(&self, tenant: &Tenant, facts: &Facts<'_>, tell: Tell) -> Vec<Audience> {
        let known = Known { tenant: &self.judged_by, heard: &self.audiences };
        let known = (tell == Tell::IfChanged).then_some(known);
        tenant.audiences_of(facts, self.narrowing.as_ref(), known)
    }
}
