//! What a dry run tells beyond its counts: the users whom a message is for, and what becomes of one
//! user's connections.

use super::Relay;
use super::frame::Frame;
use super::outbox::Pushed;
use super::publishing::delivery;
use super::roster::{Filter, Present, Silent, What};
use super::shard::{Delivery, Key, Member, Shard};
use crate::domain::cursor::Cursor;
use crate::domain::instance::InstanceId;
use crate::domain::message::Message;
use crate::domain::principal::UserId;
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Most connections of the user asked about that are told one by one.
const MAX_CONSIDERED: usize = 20;

/// What is asked of a message that is not sent.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// Only users behind this one, in byte order.
    pub after: Option<UserId>,
    /// Most users to answer with, at least 1.
    pub most: usize,
    /// Whose connections to tell one by one.
    pub about: Option<UserId>,
}

/// What there is to say of it.
#[derive(Debug, Default)]
pub struct Findings {
    /// Users whom the message is for, in byte order, and how many of their connections.
    pub users: Vec<(UserId, u64)>,
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
    pub who: Present,
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

impl Relay {
    /// Whom `message` would be for now. Errors: `Silent`.
    pub async fn inquire(
        &self,
        instance: &InstanceId,
        message: &Message,
        inquiry: &Inquiry,
    ) -> Result<Findings, Silent> {
        let realm = self.realm(instance);
        // News for everyone: what is not sent is behind no position.
        let cursor = Cursor { epoch: realm.epoch(), position: u64::MAX };
        let delivery =
            Arc::new(delivery(&realm, message, cursor, Err(Frame::message_bytes(message))));
        let what = |answer| What::Rehearse {
            delivery: delivery.clone(),
            inquiry: inquiry.clone(),
            answer,
        };
        let parts = self.ask(instance, &Filter::default(), what).await?;
        Ok(Findings::whole(parts, inquiry.most))
    }
}

impl Findings {
    /// Each worker tells the first `most` of its own users, hence all that are among the first
    /// `most` of the whole.
    fn whole(parts: Vec<Self>, most: usize) -> Self {
        let mut whole = Self::default();
        let mut users: BTreeMap<UserId, u64> = BTreeMap::new();
        for part in parts {
            part.users
                .into_iter()
                .for_each(|(user, connections)| *users.entry(user).or_default() += connections);
            whole.considered.extend(part.considered);
            whole.connections += part.connections;
            whole.receiving += part.receiving;
        }
        whole.users = users.into_iter().take(most).collect();
        whole.considered.sort_unstable_by(|a, b| a.who.id.cmp(&b.who.id));
        whole.considered.truncate(MAX_CONSIDERED);
        whole
    }
}

impl Inquiry {
    /// One worker's part.
    pub(super) fn answer(&self, delivery: &Delivery, shard: &mut Shard) -> Findings {
        let bytes = delivery.frame.as_ref().map_or_else(|bytes| *bytes, Frame::wire_bytes);
        let chosen = shard.rehearse(delivery, bytes, Instant::now());
        let mut findings = Findings { users: self.users(&chosen, shard), ..Findings::default() };
        let Some(about) = &self.about else { return findings };
        let keys = shard.keys(&delivery.instance).into_iter();
        let theirs = keys
            .filter_map(|key| Some((key, shard.get(key)?)))
            .filter(|(_, it)| it.principal.user == *about);
        let mut results: Vec<(&Member, DryRunResult)> = theirs
            .map(|(key, member)| (member, DryRunResult::of(member, chosen.get(&key))))
            .collect();
        findings.connections = results.len() as u64;
        findings.receiving =
            results.iter().filter(|(_, result)| *result == DryRunResult::Receives).count() as u64;
        results.sort_unstable_by(|(a, _), (b, _)| a.link.id.cmp(&b.link.id));
        let first = results.into_iter().take(MAX_CONSIDERED);
        findings.considered =
            first.map(|(member, result)| Considered { who: member.present(), result }).collect();
        findings
    }

    /// The first `most` users behind `after`; holds no more than one beyond that at any time.
    fn users(&self, chosen: &IndexMap<Key, Pushed>, shard: &Shard) -> Vec<(UserId, u64)> {
        let mut users: BTreeMap<UserId, u64> = BTreeMap::new();
        let matched = chosen.iter().filter(|(_, pushed)| **pushed != Pushed::Ending);
        for user in
            matched.filter_map(|(key, _)| shard.get(*key)).map(|member| &member.principal.user)
        {
            if self.after.as_ref().is_some_and(|after| user <= after) {
                continue;
            }
            *users.entry(user.clone()).or_default() += 1;
            if users.len() > self.most {
                users.pop_last();
            }
        }
        users.into_iter().collect()
    }
}

impl DryRunResult {
    fn of(member: &Member, pushed: Option<&Pushed>) -> Self {
        match pushed {
            _ if member.link.outbox.is_ending() => Self::Ending,
            Some(Pushed::Queued { .. }) => Self::Receives,
            Some(Pushed::Full) => Self::NoRoom,
            Some(Pushed::Ending) => Self::Ending,
            None => Self::NotMeant,
        }
    }
}
