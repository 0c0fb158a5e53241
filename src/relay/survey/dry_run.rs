//! What a dry run tells: whom a message would be for, and what would become of it at one user's
//! connections. Nothing is sent.

use crate::domain::audience::Audience;
use crate::domain::channel::{ChannelName, Slow};
use crate::domain::message::{Message, Reach};
use crate::domain::principal::UserId;
use crate::relay::member::Member;
use crate::relay::outbox::Pushed;
use crate::relay::progress::Counts;
use crate::relay::sealed::Sealed;
use crate::relay::settings::OutboxBounds;
use crate::relay::snapshot::ConnectionSnapshot;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Most connections of the user asked about that are told one by one.
const MAX_CONSIDERED: usize = 20;

/// What is asked of a message that is not sent.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// Whom it is for.
    pub reach: Arc<Reach>,
    /// How long its frame is, in bytes.
    pub bytes: usize,
    /// Its channel, under the `latest` policy.
    pub conflated: Option<ChannelName>,
    /// Only users behind this one, in byte order.
    pub after: Option<UserId>,
    /// Most users to answer with.
    pub most: usize,
    /// Whose connections to tell one by one.
    pub about: Option<UserId>,
}

/// What there is to say of it.
#[derive(Debug, Default)]
pub struct DryRunReport {
    /// What would become of it, in connections; none of them is replaced.
    pub counts: Counts,
    /// Users whom the message is for, and how many of their connections.
    pub users: BTreeMap<UserId, u64>,
    /// The first 20 connections of the user asked about, by id.
    pub considered: Vec<Considered>,
    /// How many there are.
    pub connections: u64,
    /// How many of them would get the message.
    pub receiving: u64,
}

/// One connection of the user asked about.
#[derive(Debug)]
pub struct Considered {
    /// The connection.
    pub connection: ConnectionSnapshot,
    /// What would become of the message there.
    pub result: DryRunResult,
}

/// What would become of a message at one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRunResult {
    /// It would be queued.
    Receives,
    /// It is for the connection, which has no room and would end with 4420.
    NoRoom,
    /// The connection is ending.
    Ending,
    /// It is not for the connection.
    NotMeant,
}

impl DryRun {
    /// What would become of `message`, in connections alone.
    pub fn of(message: &Message) -> Self {
        let conflated = match (message.slow, message.reach.audiences.as_slice()) {
            (Slow::Latest, [Audience::Channel(channel)]) => Some(channel.clone()),
            _ => None,
        };
        Self {
            reach: message.reach.clone(),
            bytes: Sealed::wire_bytes_of(message),
            conflated,
            after: None,
            most: 0,
            about: None,
        }
    }

    pub(super) fn hearers_of(&self) -> Option<&[Audience]> {
        match self.about {
            None => Some(&self.reach.audiences),
            Some(_) => None,
        }
    }

    pub(super) fn look_at(
        &self,
        member: &Member,
        (bounds, now): (OutboxBounds, Instant),
        report: &mut DryRunReport,
    ) {
        let is_meant = member.heard.hears_any(&self.reach.audiences)
            && !member.is_excluded(&self.reach.exclude)
            && self.reach.filter.as_ref().is_none_or(|filter| member.passes(filter));
        let would_take = || {
            let outbox = &member.link.outbox;
            outbox.would_take(self.bytes, self.conflated.as_ref(), bounds, now)
        };
        let pushed = is_meant.then(would_take);
        let user = &member.principal.user;
        if let Some(pushed) = pushed.filter(|pushed| *pushed != Pushed::Ending) {
            report.counts += pushed.counts();
            self.count_user(user, report);
        }
        if self.about.as_ref() == Some(user) {
            let result = match pushed {
                _ if member.link.outbox.is_ending() => DryRunResult::Ending,
                Some(Pushed::Queued { .. }) => DryRunResult::Receives,
                Some(Pushed::Full) => DryRunResult::NoRoom,
                Some(Pushed::Ending) => DryRunResult::Ending,
                None => DryRunResult::NotMeant,
            };
            report.consider(member, result);
        }
    }

    /// Holds no more than one beyond the first `most` users at any time.
    fn count_user(&self, user: &UserId, report: &mut DryRunReport) {
        if self.most == 0 || self.after.as_ref().is_some_and(|after| user <= after) {
            return;
        }
        *report.users.entry(user.clone()).or_default() += 1;
        if report.users.len() > self.most {
            report.users.pop_last();
        }
    }
}

impl DryRunReport {
    fn consider(&mut self, member: &Member, result: DryRunResult) {
        self.connections += 1;
        self.receiving += u64::from(result == DryRunResult::Receives);
        let id = member.link.id.as_str();
        let place = self.considered.partition_point(|it| it.connection.id.as_str() < id);
        if place < MAX_CONSIDERED {
            let connection = member.open_snapshot(0);
            self.considered.insert(place, Considered { connection, result });
            self.considered.truncate(MAX_CONSIDERED);
        }
    }

    /// Both, with the first `most` users of the whole.
    pub(super) fn with(mut self, other: Self, most: usize) -> Self {
        self.counts += other.counts;
        for (user, connections) in other.users {
            *self.users.entry(user).or_default() += connections;
        }
        while self.users.len() > most {
            self.users.pop_last();
        }
        self.connections += other.connections;
        self.receiving += other.receiving;
        self.considered.extend(other.considered);
        self.considered.sort_unstable_by(|a, b| a.connection.id.cmp(&b.connection.id));
        self.considered.truncate(MAX_CONSIDERED);
        self
    }
}
