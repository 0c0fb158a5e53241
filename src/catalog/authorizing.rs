//! What someone hears in an instance, worked out a piece at a time: heavy rules take longer than
//! anyone else should wait for.

use super::tenant::{Known, Tenant};
use crate::domain::audience::{Audience, Narrowing};
use crate::domain::channel::{Channel, ChannelName};
use crate::domain::expression::Facts;
use crate::domain::rule::{Effect, Subject};
use crate::domain::verdict::{Candidate, own_audiences};
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;
use std::sync::Arc;

/// Plain rules that are asked between two looks at the clock; an expression counts as so many.
const STRIDE: u32 = 64;

/// What someone hears by one picture of an instance, as far as it is worked out. Who it is, and
/// what the client wants to hear, must be the same from the first piece to the last.
#[derive(Debug)]
pub struct Authorizing {
    tenant: Arc<Tenant>,
    /// What was heard so far; none before the first piece.
    heard: Option<Vec<Audience>>,
    /// The last channel that is answered; none before the first.
    last: Option<ChannelName>,
    /// How far the rules of the channel behind it were asked.
    asking: Option<(Arc<Channel>, Asking)>,
    /// What is known by an earlier picture, by the channels' names.
    before: Vec<(Arc<Channel>, Answer)>,
    /// Where only these channels are looked at.
    changes: Option<Rc<Changes>>,
}

/// What is different in two pictures of an instance: the channels that came, went or changed, by
/// name.
#[derive(Debug)]
pub struct Changes {
    names: Vec<ChannelName>,
    /// Whether a channel came or went: a bare name may mean something else now.
    are_names_others: bool,
}

/// What is known of a channel.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Whether it lets someone in.
    Whole(bool),
    /// How far its rules were asked.
    Part(Asking),
}

/// How far a list of rules was asked.
#[derive(Clone, Copy, Debug)]
struct Asking {
    effect: Effect,
    next: usize,
}

/// When to look at the clock.
struct Pace<F> {
    has_time: F,
    /// Rules asked since it was last looked at.
    asked: u32,
}

impl Authorizing {
    /// Nothing is worked out yet.
    pub fn new(tenant: Arc<Tenant>) -> Self {
        let (heard, last, asking, before, changes) = (None, None, None, Vec::new(), None);
        Self { tenant, heard, last, asking, before, changes }
    }

    /// The same for the channels of `changes` alone, and nothing else that is heard.
    pub fn of_changes(tenant: Arc<Tenant>, changes: Rc<Changes>) -> Self {
        Self { changes: Some(changes), ..Self::new(tenant) }
    }

    /// By which picture.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// Goes on by another picture. What was answered holds for channels that have not changed.
    pub fn follow(&mut self, tenant: &Arc<Tenant>) {
        if !Arc::ptr_eq(&self.tenant, tenant) {
            self.turn_to(Self::new(tenant.clone()));
        }
    }

    /// Goes on with `next`, of which nothing is worked out yet. What was answered holds for
    /// channels that have not changed.
    pub fn turn_to(&mut self, next: Self) {
        let before = self.answered();
        *self = Self { before, ..next };
    }

    /// Asks rules until all is known or `has_time` says no; one rule at least. True when all is
    /// known. `known` is what the same person heard by an earlier picture: of channels that have
    /// not changed since, that holds.
    pub fn go_on(
        &mut self,
        facts: &Facts<'_>,
        only: Option<&Narrowing>,
        known: Option<Known<'_>>,
        has_time: impl FnMut() -> bool,
    ) -> bool {
        let Self { tenant, heard, last, asking, before, changes } = self;
        let who =
            Candidate { facts, connection: None, narrowing: only, channels: &tenant.channels };
        let heard = heard.get_or_insert_with(|| match changes {
            Some(_) => Vec::new(),
            None => own_audiences(&who),
        });
        let mut pace = Pace { has_time, asked: 0 };
        let from = last.clone();
        let behind = from.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for (name, channel) in looked_at(tenant, changes.as_deref(), (behind, Bound::Unbounded)) {
            if who.wants_channel(name) {
                let known = known.and_then(|known| known.says_of(channel));
                let at = asking.take().map(|(_, at)| Answer::Part(at));
                let answer = known.map(Answer::Whole).or(at).or_else(|| answer_of(before, channel));
                let mut at = match answer {
                    Some(Answer::Part(at)) => at,
                    _ => Asking { effect: Effect::Deny, next: 0 },
                };
                let lets_in = match answer {
                    Some(Answer::Whole(lets_in)) => Some(lets_in),
                    _ => at.go_on(channel, facts, &mut pace),
                };
                let Some(lets_in) = lets_in else {
                    *asking = Some((channel.clone(), at));
                    return false;
                };
                if lets_in {
                    heard.push(Audience::Channel(name.clone()));
                }
            }
            *last = Some(name.clone());
        }
        true
    }

    /// What is heard so far.
    pub fn heard(&self) -> &[Audience] {
        self.heard.as_deref().unwrap_or_default()
    }

    /// What is heard: everyone, the user, its groups, and channels by name.
    pub fn into_heard(self) -> Vec<Audience> {
        self.heard.unwrap_or_default()
    }

    /// What is known of which channels, by their names.
    fn answered(&mut self) -> Vec<(Arc<Channel>, Answer)> {
        let mut answered: Vec<(Arc<Channel>, Answer)> = Vec::new();
        if let Some(last) = &self.last {
            let known = Known { tenant: &self.tenant, heard: self.heard() };
            let to = (Bound::Unbounded, Bound::Included(last));
            let channels = looked_at(&self.tenant, self.changes.as_deref(), to);
            answered.extend(channels.filter_map(|(_, channel)| {
                Some((channel.clone(), Answer::Whole(known.says_of(channel)?)))
            }));
        }
        answered.extend(self.asking.take().map(|(channel, at)| (channel, Answer::Part(at))));
        let last = answered.last().map(|(channel, _)| channel.name.clone());
        let behind = |name: &ChannelName| last.as_ref().is_none_or(|last| name > last);
        answered.extend(self.before.drain(..).filter(|(channel, _)| behind(&channel.name)));
        answered
    }
}

/// The channels between these, or those of `changes` among them, by name.
fn looked_at<'a>(
    tenant: &'a Tenant,
    changes: Option<&'a Changes>,
    between: (Bound<&'a ChannelName>, Bound<&'a ChannelName>),
) -> Box<dyn Iterator<Item = (&'a ChannelName, &'a Arc<Channel>)> + 'a> {
    let channels = &tenant.channels;
    match changes {
        None => Box::new(channels.range::<ChannelName, _>(between)),
        Some(changes) => {
            let names = changes.names.iter().filter(move |name| between.contains(name));
            Box::new(names.filter_map(|name| channels.get_key_value(name)))
        }
    }
}

impl Changes {
    /// What `now` has otherwise than `before`.
    pub fn between(before: &Tenant, now: &Tenant) -> Self {
        let (mut names, mut are_names_others) = (Vec::new(), false);
        for (name, channel) in &now.channels {
            match before.channels.get(name) {
                Some(same) if Arc::ptr_eq(same, channel) => {}
                Some(_) => names.push(name.clone()),
                None => {
                    are_names_others = true;
                    names.push(name.clone());
                }
            }
        }
        let gone = before.channels.keys().filter(|name| !now.channels.contains_key(*name));
        let kept = names.len();
        names.extend(gone.cloned());
        are_names_others |= names.len() > kept;
        names.sort_unstable();
        Self { names, are_names_others }
    }

    /// The channels that came, went or changed, by name.
    pub fn names(&self) -> &[ChannelName] {
        &self.names
    }

    /// Whether a channel came or went: a bare name may mean something else now.
    pub fn are_names_others(&self) -> bool {
        self.are_names_others
    }
}

/// What an earlier picture says of a channel that has not changed since.
fn answer_of(before: &[(Arc<Channel>, Answer)], channel: &Arc<Channel>) -> Option<Answer> {
    let at = before.binary_search_by(|(other, _)| other.name.cmp(&channel.name)).ok()?;
    let (of, answer) = before.get(at)?;
    Arc::ptr_eq(of, channel).then_some(*answer)
}

impl Asking {
    /// What `Channel::lets_in` says; none where there was no time to say so. Denials are asked
    /// first: one that applies decides.
    fn go_on(
        &mut self,
        channel: &Channel,
        facts: &Facts<'_>,
        pace: &mut Pace<impl FnMut() -> bool>,
    ) -> Option<bool> {
        if !channel.enabled {
            return Some(false);
        }
        loop {
            while let Some(rule) = channel.rules.as_slice().get(self.next) {
                if rule.effect == self.effect {
                    if !pace.may_ask(&rule.subject) {
                        return None;
                    }
                    if rule.applies(rule.subject.includes(facts)) {
                        return Some(self.effect == Effect::Allow);
                    }
                }
                self.next += 1;
            }
            if self.effect == Effect::Allow {
                return Some(false);
            }
            *self = Self { effect: Effect::Allow, next: 0 };
        }
    }
}

impl<F: FnMut() -> bool> Pace<F> {
    /// Whether there is time for one more rule. For the first there is.
    fn may_ask(&mut self, subject: &Subject) -> bool {
        if self.asked >= STRIDE {
            if !(self.has_time)() {
                return false;
            }
            self.asked = 0;
        }
        self.asked += match subject {
            Subject::When(_) => STRIDE,
            Subject::User(_) | Subject::Group(_) | Subject::Everyone => 1,
        };
        true
    }
}

#[cfg(test)]
#[path = "authorizing_test.rs"]
mod tests;
