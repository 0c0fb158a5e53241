//! What is worked out for one connection, a piece at each of its room's turns: what a newcomer or
//! the bearer of a new token hears, and what an acknowledgement counts for.

use super::authorize::may_stay;
use super::newcomer::Newcomer;
use super::turns::Turn;
use crate::catalog::{Authorizing, Tenant};
use crate::domain::audience::Audience;
use crate::domain::expression::{Expression, Outcome};
use crate::domain::principal::Principal;
use crate::relay::frame::Frame;
use crate::relay::member::{Key, Link, Member};
use crate::relay::progress::Step;
use crate::relay::timeline::Passing;
use slab::Slab;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use std::vec::IntoIter;
use tokio::sync::oneshot;

/// Messages that are counted between two looks at the clock, where none has a filter.
const STRIDE: usize = 64;

/// A piece of work for one connection.
#[derive(Debug)]
pub(super) enum Job {
    /// It is to be let in.
    Arrive(Arrive),
    /// It has a new token.
    Renew(Box<Renew>),
    /// It says how far it has everything.
    Count(Box<Count>),
}

/// A newcomer that waits.
#[derive(Debug)]
pub(super) struct Arrive {
    newcomer: Box<Newcomer>,
    /// Where it waits for its turn to register.
    reply: oneshot::Sender<Box<Newcomer>>,
}

/// A new token: until it is known what its bearer hears, the old one holds.
#[derive(Debug)]
pub(super) struct Renew {
    key: Key,
    link: Rc<Link>,
    principal: Arc<Principal>,
    authorizing: Authorizing,
    /// Who waits until it holds.
    done: oneshot::Sender<()>,
}

/// What is counted as acknowledged.
#[derive(Debug)]
pub(super) struct Count {
    key: Key,
    link: Rc<Link>,
    /// Up to here it is counted.
    counted_to: u64,
    /// Up to here it is to be counted.
    to: u64,
    /// What lies between, once it is looked at, with the answers of its filters.
    begun: Option<(IntoIter<Frame>, Passing)>,
}

/// How a job goes on.
pub(super) enum Advance {
    /// There is more to do.
    More(Job),
    /// It is done.
    Done,
    /// It is known what the bearer of a connection's new token hears.
    Renewed(Renewed),
}

/// A new token of a connection, with what its bearer hears.
pub(super) struct Renewed {
    /// Whose.
    pub key: Key,
    /// The bearer.
    pub principal: Arc<Principal>,
    /// By which picture of the instance.
    pub tenant: Arc<Tenant>,
    /// In its order.
    pub heard: Vec<Audience>,
    /// Who waits until it holds.
    pub done: oneshot::Sender<()>,
}

impl Job {
    /// To let someone in. `reply` is told when it can register.
    pub fn arrive(newcomer: Box<Newcomer>, reply: oneshot::Sender<Box<Newcomer>>) -> Self {
        Self::Arrive(Arrive { newcomer, reply })
    }

    /// To give a connection the rights of a new token. `done` is told when they hold.
    pub fn renew(
        key: Key,
        member: &mut Member,
        principal: Arc<Principal>,
        done: oneshot::Sender<()>,
    ) -> Self {
        member.is_renewing = true;
        let authorizing = Authorizing::new(member.authorized_by.clone());
        let link = member.link.clone();
        Self::Renew(Box::new(Renew { key, link, principal, authorizing, done }))
    }

    /// To count what a connection acknowledged behind one position and up to another.
    pub fn count(key: Key, member: &mut Member, (after, to): (u64, u64)) -> Self {
        member.is_counting = true;
        let link = member.link.clone();
        Self::Count(Box::new(Count { key, link, counted_to: after, to, begun: None }))
    }

    /// Whether nobody waits for it any more.
    pub fn is_abandoned(&self) -> bool {
        matches!(self, Self::Arrive(arrive) if arrive.reply.is_closed())
    }

    /// Whether a newcomer waits for it.
    pub fn is_arrival(&self) -> bool {
        matches!(self, Self::Arrive(_))
    }

    /// Works on until then, at one rule or filter at least.
    pub fn go_on(self, members: &mut Slab<Member>, turn: &Turn<'_>, until: Instant) -> Advance {
        match self {
            Self::Arrive(arrive) => arrive.go_on(turn, until),
            Self::Renew(renew) => renew.go_on(members, turn, until),
            Self::Count(count) => count.go_on(members, turn, until),
        }
    }

    /// The same, to stand in a line: what it holds of the window is collected anew.
    pub fn in_line(mut self) -> Self {
        if let Self::Count(count) = &mut self {
            count.begun = None;
        }
        self
    }
}

impl Arrive {
    fn go_on(mut self, turn: &Turn<'_>, until: Instant) -> Advance {
        let joining = &self.newcomer.joining;
        let tenant = turn.snapshot.tenants.get(&joining.tenant.instance.id);
        // Who may not come any more is told so where it would register.
        if let Ok(tenant) = may_stay(&joining.principal, tenant)
            && !self.newcomer.go_on(tenant, &turn.counts.evaluations, || Instant::now() < until)
        {
            return Advance::More(Job::Arrive(self));
        }
        let _has_gone = self.reply.send(self.newcomer);
        Advance::Done
    }
}

impl Renew {
    fn go_on(
        mut self: Box<Self>,
        members: &mut Slab<Member>,
        turn: &Turn<'_>,
        until: Instant,
    ) -> Advance {
        let Some(member) = own(members, self.key, &self.link) else { return Advance::Done };
        let tenant = turn.snapshot.tenants.get(member.timeline.instance());
        let tenant = match may_stay(&self.principal, tenant) {
            Ok(tenant) => tenant,
            Err(refusal) => {
                member.link.outbox.close(refusal.close(&self.principal));
                member.is_renewing = false;
                return Advance::Done;
            }
        };
        let Self { principal, authorizing, .. } = &mut *self;
        authorizing.follow(tenant);
        let (facts, only) = (member.origin.facts(principal), member.narrowing.as_ref());
        let is_whole = authorizing.go_on(&facts, only, None, || Instant::now() < until);
        turn.counts.evaluations.fetch_add(facts.asked(), Relaxed);
        if !is_whole {
            return Advance::More(Job::Renew(self));
        }
        let Self { key, principal, authorizing, done, .. } = *self;
        let (tenant, heard) = (tenant.clone(), authorizing.into_heard());
        Advance::Renewed(Renewed { key, principal, tenant, heard, done })
    }
}

impl Count {
    fn go_on(
        mut self: Box<Self>,
        members: &mut Slab<Member>,
        turn: &Turn<'_>,
        until: Instant,
    ) -> Advance {
        let Some(member) = own(members, self.key, &self.link) else { return Advance::Done };
        while self.counted_to < self.to {
            if !self.count_some(member, turn, until) {
                return Advance::More(Job::Count(self));
            }
            // What it has said meanwhile.
            let said = self.link.acknowledged.get();
            self.to = said.map_or(self.to, |cursor| cursor.position);
        }
        member.is_counting = false;
        Advance::Done
    }

    /// True when all up to `to` is counted.
    fn count_some(&mut self, member: &Member, turn: &Turn<'_>, until: Instant) -> bool {
        let sent = || member.sent_between(self.counted_to, self.to).into_iter();
        let (frames, passing) = self.begun.get_or_insert_with(|| (sent(), Passing::default()));
        let facts = member.facts();
        let passes = |filter: &Expression| filter.evaluate(&facts) == Outcome::True;
        let mut has_time = true;
        for (number, frame) in frames.by_ref().enumerate() {
            let Some(head) = frame.head() else { continue };
            if passing.lets_through(&frame, passes) {
                frame.count(Step::Acknowledged);
            }
            self.counted_to = head.cursor.position;
            let is_piece = head.reach.filter.is_some() || number % STRIDE == STRIDE - 1;
            if is_piece && Instant::now() >= until {
                has_time = false;
                break;
            }
        }
        turn.counts.evaluations.fetch_add(facts.asked(), Relaxed);
        let is_whole = has_time || frames.len() == 0;
        if is_whole {
            (self.counted_to, self.begun) = (self.to, None);
        }
        is_whole
    }
}

/// The connection of a job, unless it is gone: another one may have its key by now.
fn own<'a>(members: &'a mut Slab<Member>, key: Key, link: &Rc<Link>) -> Option<&'a mut Member> {
    members.get_mut(key).filter(|member| Rc::ptr_eq(&member.link, link))
}
