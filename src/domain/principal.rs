//! Who a verified token says you are.

pub use super::role::{Role, RoleError};

use super::instance::InstanceId;
use super::text::{is_id, text_value};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

text_value! {
    /// A user's id: 1 to 128 bytes of any text without control characters, compared byte for byte.
    UserId, UserIdError,
    "a user id is 1 to 128 bytes without control characters",
    is_id
}

text_value! {
    /// A group's id: 1 to 128 bytes of any text without control characters, compared byte for byte.
    GroupId, GroupIdError,
    "a group id is 1 to 128 bytes without control characters",
    is_id
}

/// Most groups that a token may name (contract, "Signing in").
pub const MAX_GROUPS: usize = 256;

/// Where a token is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The claim held `"*"`.
    Everywhere,
    /// The claim listed these; an empty list is valid nowhere.
    Instances(Vec<InstanceId>),
}

/// Whether the key that a token was verified with is still accepted; clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct KeyStanding(Arc<AtomicBool>);

impl KeyStanding {
    /// The key is accepted no more.
    pub fn withdraw(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether the key is accepted no more.
    pub fn is_withdrawn(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl PartialEq for KeyStanding {
    fn eq(&self, other: &Self) -> bool {
        self.is_withdrawn() == other.is_withdrawn()
    }
}

/// A verified token's bearer. Role and claim names are the configured ones, already mapped.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// From `sub`.
    pub user: UserId,
    /// At most 256, without doubles, in the token's order.
    pub groups: Vec<GroupId>,
    /// Without doubles, in the token's order.
    pub roles: Vec<Role>,
    /// Where the token is valid.
    pub scope: Scope,
    /// The server-side caller's name, when the token carries a non-empty `component`.
    pub component: Option<String>,
    /// Every claim as it stood in the token.
    pub claims: Map<String, Value>,
    /// `jti`.
    pub token_id: Option<String>,
    /// `iat`, seconds since the Unix epoch.
    pub issued_at: Option<i64>,
    /// `exp`, seconds since the Unix epoch, without leeway.
    pub expires_at: i64,
    /// Of the key that the token was verified with. One of a key set by URL is never withdrawn:
    /// keys leave such a set when they are rotated, and their tokens are good until they end.
    pub key: KeyStanding,
}

impl Principal {
    /// A user without groups, roles and other claims, valid nowhere, until `expires_at` (Unix
    /// seconds).
    pub fn new(user: UserId, expires_at: i64) -> Self {
        Self {
            user,
            groups: Vec::new(),
            roles: Vec::new(),
            scope: Scope::Instances(Vec::new()),
            component: None,
            claims: Map::new(),
            token_id: None,
            issued_at: None,
            expires_at,
            key: KeyStanding::default(),
        }
    }

    /// Whether the token is valid in `instance`.
    pub fn is_valid_in(&self, instance: &InstanceId) -> bool {
        match &self.scope {
            Scope::Everywhere => true,
            Scope::Instances(instances) => instances.contains(instance),
        }
    }

    /// Whether the token is valid everywhere: its bearer may be told which instances exist.
    pub fn is_valid_everywhere(&self) -> bool {
        self.scope == Scope::Everywhere
    }

    /// Whether the token carries exactly this role; no role implies another.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held.as_str() == role)
    }

    /// Whether the token may publish at all: `REALTIME_CONNECT`, and either a component or one of
    /// `publish_roles`.
    pub fn may_publish(&self, publish_roles: &[Role]) -> bool {
        self.has_role(Role::CONNECT)
            && (self.component.is_some()
                || publish_roles.iter().any(|role| self.roles.contains(role)))
    }

    /// Whether the bearer may learn about others' claims (`dryRun` and the like).
    pub fn may_see_others(&self) -> bool {
        self.component.is_some() || self.has_role(Role::ADMIN)
    }
}
