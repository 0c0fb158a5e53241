//! What is known of one connection at one moment, open or ended: from this it is told what it
//! hears, and what became of a message. It holds its token's claims and stays on its node.

use super::outbox::{CloseRecord, Record};
use crate::domain::audience::Narrowing;
use crate::domain::channel::Channels;
use crate::domain::expression::{ConnectionFacts, Facts};
use crate::domain::principal::Principal;
use crate::domain::verdict::Candidate;
use chrono::{DateTime, Utc};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// What a snapshot is counted with beyond what its size depends on.
const SNAPSHOT_BYTES: usize = 2_048;

/// How a connection came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    /// `User-Agent`; empty where there was none.
    pub user_agent: Box<str>,
    /// When it was let in.
    pub connected_at: DateTime<Utc>,
}

impl Origin {
    /// What rules and filters are asked about, of a connection that came like this.
    pub fn facts<'a>(&self, principal: &'a Principal) -> Facts<'a> {
        Facts::new(principal, Some(ConnectionFacts::new(self.address, &self.user_agent)))
    }
}

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

impl Begun {
    /// What is up to here was never sent on this connection.
    pub fn floor(&self) -> u64 {
        self.since.unwrap_or(self.position)
    }
}

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionSnapshot {
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

impl ConnectionSnapshot {
    /// What rules and filters are asked about.
    pub fn facts(&self) -> Facts<'_> {
        self.origin.facts(&self.principal)
    }

    /// The same as one who may hear a message. `facts` are its own.
    pub fn candidate<'a>(&'a self, facts: &'a Facts<'a>, channels: &'a Channels) -> Candidate<'a> {
        let narrowing = self.narrowing.as_ref();
        Candidate { facts, connection: Some(&self.id), narrowing, channels }
    }

    /// How it was told to go.
    pub fn closed(&self) -> Option<&CloseRecord> {
        self.record.closed()
    }

    /// What it takes at most, in bytes: its token's bearer may be its own.
    pub fn bytes(&self) -> usize {
        SNAPSHOT_BYTES + self.principal.bytes()
    }
}

#[cfg(test)]
impl ConnectionSnapshot {
    /// Of an open connection that began before everything.
    pub fn of_a_test(id: &str, user: &str) -> Self {
        use crate::domain::principal::{Scope, UserId};
        let principal = Principal {
            scope: Scope::Everywhere,
            ..Principal::new(UserId::new(user).unwrap(), i64::MAX)
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
