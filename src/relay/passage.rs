//! What became of one message for one connection, told from what is remembered of both.

use super::record::{Farewell, Record, When};
use super::roster::Origin;
use super::traces::Trace;
use crate::catalog::Tenant;
use crate::domain::audience::{Audience, Narrowing, audiences_of};
use crate::domain::channel::{Channel, ChannelName};
use crate::domain::expression;
use crate::domain::principal::Principal;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// Where in the order a connection begins.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// What is behind this position is sent live.
    pub position: u64,
    /// What is behind this one was replayed before.
    pub since: Option<u64>,
    /// When.
    pub at: Instant,
}

/// What is known of a connection, open or ended.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Its id.
    pub id: String,
    /// The newest token's bearer.
    pub principal: Arc<Principal>,
    /// How it came.
    pub origin: Origin,
    /// What the client wants to hear.
    pub narrowing: Option<Narrowing>,
    /// Where it begins.
    pub begun: Begun,
    /// When its token, or what it hears, last changed; in milliseconds since the Unix epoch.
    pub rights_since_ms: i64,
    /// How far the client says that it has everything; 0 before it did.
    pub acknowledged_to: u64,
    /// What it was handed lately.
    pub record: Record,
    /// Whether it is there.
    pub stage: Stage,
}

/// Whether a connection is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is.
    Open {
        /// Whether the message that was asked about waits for it.
        holds: bool,
    },
    /// It has ended.
    Gone {
        /// The newest position by then.
        position: u64,
        /// When.
        at: DateTime<Utc>,
    },
}

/// What became of a message for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handed to the socket.
    Written(When),
    /// Handed to the socket of one who resumed.
    Replayed(When),
    /// In the outbox.
    Waiting,
    /// A newer message took its place.
    Replaced,
    /// Handed to the socket, or replaced: which of both is no longer remembered.
    WrittenOrReplaced,
    /// There was no room: 4420.
    Dropped,
    /// It was queued, and the connection ended before it was written.
    Lost,
    /// The connection began later.
    NotYetConnected,
    /// The connection began later, with a cursor that lies behind the message.
    Resumed,
    /// The connection resumed, but the message was not kept for that, or its `ttl` was over.
    NotReplayed,
    /// The connection had ended.
    NoLongerConnected,
    /// The connection was being closed.
    Ending,
    /// `exclude.users` names the user.
    UserExcluded,
    /// `exclude.connections` names the connection.
    ConnectionExcluded,
    /// The client wants to hear other channels.
    Narrowed,
    /// The user is none of those that it was for.
    NotAddressed,
    /// It may not hear the channel.
    Denied(ChannelName, Denial),
    /// The filter is not true of it, and why.
    Filtered(String),
    /// It is not queued: its worker has not come to it, or it was not for it then.
    NotQueued,
}

/// Why a channel is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The rule of this index denies it.
    Rule(usize),
    /// No rule allows it.
    NoRule,
    /// The channel is disabled.
    Disabled,
    /// The channel was deleted.
    Gone,
}

impl Begun {
    /// What is up to here was never sent on this connection.
    pub fn floor(&self) -> u64 {
        self.since.unwrap_or(self.position)
    }
}

/// What a witness is counted with beyond what its size depends on.
const WITNESS_BYTES: usize = 2_048;

impl Witness {
    /// What it takes at most, in bytes: its token's claims may be its own.
    pub fn bytes(&self) -> usize {
        let claims = self
            .principal
            .claims
            .iter()
            .map(|(name, value)| name.len() + weight(value))
            .sum::<usize>();
        let groups =
            self.principal.groups.iter().map(|group| group.as_str().len() + size_of::<usize>() * 4);
        WITNESS_BYTES + claims + groups.sum::<usize>()
    }

    /// What became of a message here. Rights are those of now, which is told by `rights_changed`.
    pub fn outcome(&self, trace: &Trace, tenant: &Tenant) -> Outcome {
        let (position, record) = (trace.cursor.position, &self.record);
        match self.stage {
            Stage::Open { holds: true } => return Outcome::Waiting,
            Stage::Gone { position: last, .. } if position > last => {
                return Outcome::NoLongerConnected;
            }
            _ if record.was_replaced(position) => return Outcome::Replaced,
            _ if record.refused() == Some(position) => return Outcome::Dropped,
            _ => {}
        }
        if position > self.begun.position {
            return match self.barred(trace, tenant, Sent::Live) {
                Some(barred) => barred,
                None if self.is_behind_the_end(trace) => Outcome::Ending,
                None if record.may_be_replaced(position) && trace.progress.was_replaced() => {
                    Outcome::WrittenOrReplaced
                }
                None => record.written(position).map_or_else(|| self.unwritten(), Outcome::Written),
            };
        }
        match self.begun.since {
            None => Outcome::NotYetConnected,
            Some(since) if since >= position => Outcome::Resumed,
            Some(_) if trace.replayed_until.is_none_or(|until| until <= self.begun.at) => {
                Outcome::NotReplayed
            }
            Some(_) => match self.barred(trace, tenant, Sent::Again) {
                Some(barred) => barred,
                None => {
                    record.written(position).map_or_else(|| self.unwritten(), Outcome::Replayed)
                }
            },
        }
    }

    /// Whether its rights have changed since the message: what is told of them may have been
    /// otherwise then.
    pub fn rights_changed(&self, trace: &Trace) -> bool {
        self.rights_since_ms >= trace.time.timestamp_millis()
    }

    /// Whether the client says that it has it.
    pub fn has_acknowledged(&self, trace: &Trace) -> bool {
        self.acknowledged_to >= trace.cursor.position
    }

    /// How it was told to go.
    pub fn farewell(&self) -> Option<&Farewell> {
        self.record.farewell()
    }

    fn unwritten(&self) -> Outcome {
        match self.stage {
            Stage::Open { .. } if self.farewell().is_none() => Outcome::NotQueued,
            _ => Outcome::Lost,
        }
    }

    /// Whether it was closing when the message came.
    fn is_behind_the_end(&self, trace: &Trace) -> bool {
        if let Some(refused) = self.record.refused() {
            return trace.cursor.position > refused;
        }
        let queued_at = trace.progress.queued_at_ms();
        self.farewell().is_some_and(|farewell| queued_at.is_some_and(|at| at > farewell.at_ms))
    }

    /// Why a message is not for this connection.
    fn barred(&self, trace: &Trace, tenant: &Tenant, sent: Sent) -> Option<Outcome> {
        if trace.reach.exclude.users.contains(&self.principal.user) {
            return Some(Outcome::UserExcluded);
        }
        if sent == Sent::Live && trace.reach.exclude.connections.contains(&self.id) {
            return Some(Outcome::ConnectionExcluded);
        }
        let facts = self.origin.facts(&self.principal);
        let lets_in = |channel: &Channel| {
            let is_meant = |audience: &Audience| matches!(audience, Audience::Channel(name) if *name == channel.name);
            trace.reach.audiences.iter().any(is_meant)
                && channel.enabled
                && channel.rules.decide(&facts).allowed
        };
        let channels = tenant.channels.values().map(|channel| &**channel);
        let hears = |only: Option<&Narrowing>| {
            let heard = audiences_of(&self.principal, channels.clone(), only, lets_in);
            trace.reach.audiences.iter().any(|audience| heard.contains(audience))
        };
        if !hears(self.narrowing.as_ref()) {
            return Some(if hears(None) { Outcome::Narrowed } else { self.denied(trace, tenant) });
        }
        let explanation = trace.reach.filter.as_ref().map(|filter| filter.explain(&facts));
        let explanation =
            explanation.filter(|explanation| explanation.outcome != expression::Outcome::True);
        explanation.map(|explanation| Outcome::Filtered(explanation.reason))
    }

    fn denied(&self, trace: &Trace, tenant: &Tenant) -> Outcome {
        let named = trace.reach.audiences.iter().find_map(|audience| match audience {
            Audience::Channel(name) => Some(name),
            _ => None,
        });
        let Some(name) = named else { return Outcome::NotAddressed };
        let denial = match tenant.channels.get(name) {
            None => Denial::Gone,
            Some(channel) if !channel.enabled => Denial::Disabled,
            Some(channel) => {
                let decision = channel.rules.decide(&self.origin.facts(&self.principal));
                decision.rule.map_or(Denial::NoRule, Denial::Rule)
            }
        };
        Outcome::Denied(name.clone(), denial)
    }
}

/// What a claim takes: a place in a list or a map, and its texts.
fn weight(value: &Value) -> usize {
    const PLACE: usize = 128;
    PLACE
        + match value {
            Value::String(text) => text.len(),
            Value::Array(list) => list.iter().map(weight).sum(),
            Value::Object(map) => map.iter().map(|(name, value)| name.len() + weight(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// How a message comes to a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Live,
    /// To one who resumes.
    Again,
}

#[cfg(test)]
impl Witness {
    /// An open connection that began before everything.
    pub fn of_a_test(id: &str, user: &str) -> Self {
        use crate::domain::principal::{Scope, UserId};
        let principal = Principal {
            user: UserId::new(user).unwrap(),
            groups: vec![],
            roles: vec![],
            scope: Scope::Everywhere,
            component: None,
            claims: serde_json::Map::new(),
            token_id: None,
            issued_at: None,
            expires_at: i64::MAX,
        };
        let address = [127, 0, 0, 1].into();
        Self {
            id: id.into(),
            principal: Arc::new(principal),
            origin: Origin { address, user_agent: "".into(), connected_at: DateTime::UNIX_EPOCH },
            narrowing: None,
            begun: Begun { position: 0, since: None, at: Instant::now() },
            rights_since_ms: 0,
            acknowledged_to: 0,
            record: Record::default(),
            stage: Stage::Open { holds: false },
        }
    }
}
