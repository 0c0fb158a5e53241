//! One who connects, before it is registered: what it hears, and which filters let through what it
//! missed, worked out a piece at a time.

use crate::catalog::{Authorizing, Tenant};
use crate::domain::audience::Narrowing;
use crate::domain::cursor::Cursor;
use crate::domain::expression::{Expression, Facts, Outcome};
use crate::domain::principal::Principal;
use crate::relay::frame::Frame;
use crate::relay::member::Transport;
use crate::relay::snapshot::Origin;
use crate::relay::timeline::{Hearing, Passing, Timeline};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Who connects, and what it wants to hear.
#[derive(Debug)]
pub struct Joining {
    /// How it receives.
    pub transport: Transport,
    /// The verified bearer.
    pub principal: Arc<Principal>,
    /// Its instance, as it is now.
    pub tenant: Arc<Tenant>,
    /// How it came.
    pub origin: Origin,
    /// `channels=`.
    pub narrowing: Option<Narrowing>,
    /// `cursor=`, where it was given: how far the client has heard everything; none within for a
    /// text that is no cursor.
    pub since: Option<Option<Cursor>>,
}

#[cfg(test)]
impl Joining {
    /// Someone who hears all that the rules let it, and says no cursor.
    pub fn of_a_test(principal: Principal, tenant: Arc<Tenant>) -> Self {
        let origin = Origin {
            address: [127, 0, 0, 1].into(),
            user_agent: "".into(),
            connected_at: chrono::DateTime::UNIX_EPOCH,
        };
        let (transport, principal) = (Transport::Wss, Arc::new(principal));
        Self { transport, principal, tenant, origin, narrowing: None, since: None }
    }
}

/// Who connects, and what is worked out for it.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// Who it is, and what it wants to hear.
    pub joining: Joining,
    /// Of its instance.
    pub timeline: Arc<Timeline>,
    /// What it hears.
    pub authorizing: Authorizing,
    /// The filters that were asked.
    pub passing: Passing,
    /// Messages that it missed and whose filters are still to be asked.
    unasked: Vec<Frame>,
    /// Up to where it was looked what it missed; none before the first look.
    looked_to: Option<u64>,
}

impl Newcomer {
    /// Nothing is worked out yet.
    pub fn new(timeline: Arc<Timeline>, joining: Joining) -> Self {
        Self {
            authorizing: Authorizing::new(joining.tenant.clone()),
            joining,
            timeline,
            passing: Passing::default(),
            unasked: Vec::new(),
            looked_to: None,
        }
    }

    /// Works on until all is known by this picture of the instance or `has_time` says no; one rule
    /// or filter at least. True when all is known.
    pub fn go_on(
        &mut self,
        tenant: &Arc<Tenant>,
        evaluations: &AtomicU64,
        mut has_time: impl FnMut() -> bool,
    ) -> bool {
        if !Arc::ptr_eq(self.authorizing.tenant(), tenant) {
            // It may hear others now.
            self.looked_to = None;
            self.authorizing.follow(tenant);
        }
        let principal = self.joining.principal.clone();
        let facts = self.joining.origin.facts(&principal);
        let only = self.joining.narrowing.as_ref();
        let is_whole = self.authorizing.go_on(&facts, only, None, &mut has_time)
            && self.ask_filters(&facts, has_time);
        evaluations.fetch_add(facts.asked(), Relaxed);
        is_whole
    }

    /// Asks the filters of what it missed. True when all are known.
    fn ask_filters(&mut self, facts: &Facts<'_>, mut has_time: impl FnMut() -> bool) -> bool {
        let Some(since) = self.joining.since.flatten() else { return true };
        let passes = |filter: &Expression| filter.evaluate(facts) == Outcome::True;
        loop {
            while let Some(frame) = self.unasked.pop() {
                self.passing.lets_through(&frame, passes);
                if !has_time() {
                    return false;
                }
            }
            let newest = self.timeline.cursor().position;
            if self.looked_to == Some(newest) {
                return true;
            }
            self.looked_to = Some(newest);
            let who = Hearing {
                own: self.authorizing.heard(),
                shared: &[],
                user: &facts.principal().user,
            };
            self.unasked = self.passing.unknown_of(self.timeline.filtered(since, who));
            if self.unasked.is_empty() {
                // What comes from now on is asked when it registers.
                return true;
            }
        }
    }
}
