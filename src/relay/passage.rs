//! What became of one message for one connection, told from what is remembered of both.

use super::record::{Farewell, Record, When};
use super::roster::Origin;
use super::traces::Trace;
use crate::catalog::Tenant;
use crate::domain::audience::Narrowing;
use crate::domain::principal::Principal;
use crate::domain::verdict::{Candidate, Verdict, verdict};
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
pub enum Fate {
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
    /// It is not for the connection: any verdict but `Hears`.
    NotFor(Verdict),
    /// It is not queued: its worker has not come to it, or it was not for it then.
    NotQueued,
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
    pub fn fate(&self, trace: &Trace, tenant: &Tenant) -> Fate {
        let (position, record) = (trace.cursor.position, &self.record);
        match self.stage {
            Stage::Open { holds: true } => return Fate::Waiting,
            Stage::Gone { position: last, .. } if position > last => {
                return Fate::NoLongerConnected;
            }
            _ if record.was_replaced(position) => return Fate::Replaced,
            _ if record.refused() == Some(position) => return Fate::Dropped,
            _ => {}
        }
        if position > self.begun.position {
            return match self.verdict(trace, tenant, Sent::Live) {
                Verdict::Hears { .. } => self.sent_live(trace),
                verdict => Fate::NotFor(verdict),
            };
        }
        match self.begun.since {
            None => Fate::NotYetConnected,
            Some(since) if since >= position => Fate::Resumed,
            Some(_) if trace.replayed_until.is_none_or(|until| until <= self.begun.at) => {
                Fate::NotReplayed
            }
            Some(_) => match self.verdict(trace, tenant, Sent::Again) {
                Verdict::Hears { .. } => {
                    record.written(position).map_or_else(|| self.unwritten(), Fate::Replayed)
                }
                verdict => Fate::NotFor(verdict),
            },
        }
    }

    /// What became of a message that is for it.
    fn sent_live(&self, trace: &Trace) -> Fate {
        let (position, record) = (trace.cursor.position, &self.record);
        if self.is_behind_the_end(trace) {
            return Fate::Ending;
        }
        if record.may_be_replaced(position) && trace.progress.was_replaced() {
            return Fate::WrittenOrReplaced;
        }
        record.written(position).map_or_else(|| self.unwritten(), Fate::Written)
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

    fn unwritten(&self) -> Fate {
        match self.stage {
            Stage::Open { .. } if self.farewell().is_none() => Fate::NotQueued,
            _ => Fate::Lost,
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

    /// Whether a message is for this connection, and why.
    fn verdict(&self, trace: &Trace, tenant: &Tenant, sent: Sent) -> Verdict {
        let connection = match sent {
            Sent::Live => Some(&*self.id),
            Sent::Again => None,
        };
        let who = Candidate {
            facts: &self.origin.facts(&self.principal),
            connection,
            narrowing: self.narrowing.as_ref(),
            channels: &tenant.channels,
        };
        verdict(&trace.reach, &who)
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
