//! Does someone hear a message, and why: the one decision that a delivery, a dry run, a trace and
//! an explanation tell of.

use super::audience::{Audience, Narrowing};
use super::channel::{ChannelName, Channels};
use super::expression::{Explanation, Facts, Outcome};
use super::message::Reach;
use super::rule::{Effect, Rules, Subject};
use std::cmp::Ordering;

/// Most allow rules that a denial tells of where none of them applies.
const MAX_TOLD: usize = 3;

/// One who may hear a message.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Who it is, and what rules and filters are asked about.
    pub facts: &'a Facts<'a>,
    /// The connection's id, which `exclude.connections` may name; none for one who resumes, whom
    /// that does not concern, and for one who is not connected.
    pub connection: Option<&'a str>,
    /// What the client wants to hear; none for all.
    pub narrowing: Option<&'a Narrowing>,
    /// The instance's channels.
    pub channels: &'a Channels,
}

/// Whether someone hears a message, and what decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is for them.
    Hears {
        /// The first audience of the message that they hear.
        audience: Audience,
        /// What the filter says, where there is one: it is true.
        filter: Option<Explanation>,
    },
    /// `exclude.users` names the user.
    UserExcluded,
    /// `exclude.connections` names the connection.
    ConnectionExcluded,
    /// They belong to this audience, and the client wants to hear others.
    Narrowed(Audience),
    /// They are none of the users and in none of the groups that it is for: of each, the reason.
    NotAddressed(Vec<String>),
    /// They may not hear the channel that it is for.
    Denied(ChannelName, Denial),
    /// The filter is not true of them.
    Filtered(Explanation),
}

/// Why someone may not hear a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// This rule denies it.
    Rule(RuleReason),
    /// No rule allows it; the first allow rules, three at most.
    NoRule(Vec<RuleReason>),
    /// The channel is disabled.
    Disabled,
    /// There is no such channel.
    Gone,
}

/// What one rule of a list says of someone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReason {
    /// Its place in the list, from 0.
    pub index: usize,
    /// Why it means them or not; at most 512 bytes.
    pub reason: String,
}

/// Whether someone hears a message of this reach, in the order in which a delivery looks at it:
/// who is excluded, whom it is for, whom the filter leaves.
pub fn verdict(reach: &Reach, who: &Candidate<'_>) -> Verdict {
    if reach.exclude.users.contains(&who.facts.principal().user) {
        return Verdict::UserExcluded;
    }
    let mut excluded = reach.exclude.connections.iter().map(String::as_str);
    if who.connection.is_some_and(|id| excluded.any(|excluded| excluded == id)) {
        return Verdict::ConnectionExcluded;
    }
    let Some(audience) = reach.audiences.iter().find(|audience| hears(audience, who)) else {
        return unheard(reach, who);
    };
    match reach.filter.as_ref().map(|filter| filter.explain(who.facts)) {
        Some(filter) if filter.outcome != Outcome::True => Verdict::Filtered(filter),
        filter => Verdict::Hears { audience: audience.clone(), filter },
    }
}

/// Whether someone hears an audience: the client wants it, and they belong to it. Rules of what is
/// not wanted are not asked.
pub fn hears(audience: &Audience, who: &Candidate<'_>) -> bool {
    who.wants(audience) && who.belongs_to(audience)
}

/// What someone hears whatever the rules say: of everyone, the user and its groups what the client
/// wants, in the order of audiences, without doubles.
pub fn own_audiences(who: &Candidate<'_>) -> Vec<Audience> {
    let principal = who.facts.principal();
    let own = [Audience::All, Audience::User(principal.user.clone())].into_iter();
    let groups = principal.groups.values().map(Audience::Group);
    let mut audiences: Vec<Audience> =
        own.chain(groups).filter(|audience| who.wants(audience)).collect();
    audiences.sort_unstable();
    audiences
}

/// Whether a channel is among audiences whose channels stand by name, behind all others.
pub fn hears_channel(audiences: &[Audience], name: &ChannelName) -> bool {
    let found = audiences.binary_search_by(|audience| match audience {
        Audience::Channel(other) => other.cmp(name),
        _ => Ordering::Less,
    });
    found.is_ok()
}

/// Why none of the message's audiences is heard; where one of them is a channel, why not that.
fn unheard(reach: &Reach, who: &Candidate<'_>) -> Verdict {
    let audiences = &reach.audiences;
    if let Some(audience) = audiences.iter().find(|audience| who.belongs_to(audience)) {
        return Verdict::Narrowed(audience.clone());
    }
    let channel = audiences.iter().find_map(|audience| match audience {
        Audience::Channel(name) => Some(name),
        _ => None,
    });
    match channel {
        Some(name) => Verdict::Denied(name.clone(), who.denial(name)),
        None => {
            let reasons = audiences.iter().filter_map(|audience| who.why_not(audience));
            Verdict::NotAddressed(reasons.collect())
        }
    }
}

impl Candidate<'_> {
    /// Whether the client wants to hear an audience.
    fn wants(&self, audience: &Audience) -> bool {
        self.narrowing.is_none_or(|narrowing| narrowing.includes(audience, self.channels))
    }

    /// Whether the client wants to hear a channel.
    pub fn wants_channel(&self, name: &ChannelName) -> bool {
        self.narrowing.is_none() || self.wants(&Audience::Channel(name.clone()))
    }

    /// Whether an audience means them, whatever the client wants.
    fn belongs_to(&self, audience: &Audience) -> bool {
        let principal = self.facts.principal();
        match audience {
            Audience::All => true,
            Audience::User(user) => principal.user == *user,
            Audience::Group(group) => principal.groups.contains(group),
            Audience::Channel(name) => {
                self.channels.get(name).is_some_and(|channel| channel.lets_in(self.facts))
            }
        }
    }

    /// Why they are not this user or not in this group, as a rule would say it.
    fn why_not(&self, audience: &Audience) -> Option<String> {
        let subject = match audience {
            Audience::User(user) => Subject::User(user.clone()),
            Audience::Group(group) => Subject::Group(group.clone()),
            Audience::All | Audience::Channel(_) => return None,
        };
        Some(subject.explain(self.facts).reason)
    }

    /// Why they may not hear a channel that does not let them in.
    fn denial(&self, name: &ChannelName) -> Denial {
        match self.channels.get(name) {
            None => Denial::Gone,
            Some(channel) if !channel.enabled => Denial::Disabled,
            Some(channel) => Denial::by(&channel.rules, self.facts),
        }
    }
}

impl Denial {
    /// Why these rules do not allow.
    fn by(rules: &Rules, facts: &Facts<'_>) -> Self {
        if let Some(index) = rules.decide(facts).rule {
            return Self::Rule(RuleReason::of(rules, index, facts));
        }
        let indexed = rules.as_slice().iter().enumerate();
        let allows = indexed.filter(|(_, rule)| rule.effect == Effect::Allow).take(MAX_TOLD);
        Self::NoRule(allows.map(|(index, _)| RuleReason::of(rules, index, facts)).collect())
    }
}

impl RuleReason {
    fn of(rules: &Rules, index: usize, facts: &Facts<'_>) -> Self {
        Self { index, reason: rules.as_slice()[index].subject.explain(facts).reason }
    }
}
