//! Who a verified token says you are.

pub use super::role::{Role, RoleError};

use super::claims::Claims;
use super::instance::InstanceId;
use super::names::Names;
use super::text::{is_id, text_value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

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
    Instances(Names<InstanceId>),
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

/// What all principals that are counted take together, in bytes; clones share the sum.
#[derive(Clone, Debug, Default)]
pub struct PrincipalBytes(Arc<AtomicU64>);

impl PrincipalBytes {
    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Counts so many until what is returned is dropped.
    fn count(&self, bytes: usize) -> Counted {
        self.0.fetch_add(bytes as u64, Relaxed);
        Counted { sum: Some(self.clone()), bytes }
    }
}

/// That a principal is counted while it lives; by default it is not.
#[derive(Debug, Default)]
pub struct Counted {
    sum: Option<PrincipalBytes>,
    bytes: usize,
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.sum.as_ref().map(|sum| sum.count(self.bytes)).unwrap_or_default()
    }
}

impl PartialEq for Counted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(sum) = &self.sum {
            sum.0.fetch_sub(self.bytes as u64, Relaxed);
        }
    }
}

/// A verified token's bearer. Role and claim names are the configured ones, already mapped.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// From `sub`.
    pub user: UserId,
    /// At most 256, without doubles, in the token's order.
    pub groups: Names<GroupId>,
    /// Without doubles, in the token's order.
    pub roles: Names<Role>,
    /// Where the token is valid.
    pub scope: Scope,
    /// The server-side caller's name, when the token carries a non-empty `component`.
    pub component: Option<Box<str>>,
    /// Every claim as it stood in the token.
    pub claims: Claims,
    /// `jti`.
    pub token_id: Option<Box<str>>,
    /// `iat`, seconds since the Unix epoch.
    pub issued_at: Option<i64>,
    /// `exp`, seconds since the Unix epoch, without leeway.
    pub expires_at: i64,
    /// Of the key that the token was verified with. One of a key set by URL is never withdrawn:
    /// keys leave such a set when they are rotated, and their tokens are good until they end.
    pub key: KeyStanding,
    /// That it is counted.
    pub counted: Counted,
}

/// What a principal takes beside its texts and lists, in bytes: itself, and the counts that go with
/// it, its user's id and its key's standing, which are shared.
const PRINCIPAL_BYTES: usize = size_of::<Principal>() + 7 * size_of::<usize>();

impl Principal {
    /// A user without groups, roles and other claims, valid nowhere, until `expires_at` (Unix
    /// seconds).
    pub fn new(user: UserId, expires_at: i64) -> Self {
        Self {
            user,
            groups: Names::default(),
            roles: Names::default(),
            scope: Scope::Instances(Names::default()),
            component: None,
            claims: Claims::default(),
            token_id: None,
            issued_at: None,
            expires_at,
            key: KeyStanding::default(),
            counted: Counted::default(),
        }
    }

    /// What it takes, in bytes: of one that was read from a token at most twice the token and 2 KiB.
    pub fn bytes(&self) -> usize {
        let texts = [&self.component, &self.token_id];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        let instances = match &self.scope {
            Scope::Everywhere => 0,
            Scope::Instances(instances) => instances.bytes(),
        };
        let lists = self.groups.bytes() + self.roles.bytes() + instances;
        PRINCIPAL_BYTES + self.user.as_str().len() + texts + lists + self.claims.bytes()
    }

    /// The same, counted in a sum while it lives.
    pub fn counted_in(self, sum: &PrincipalBytes) -> Self {
        Self { counted: sum.count(self.bytes()), ..self }
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
        self.roles.contains(role)
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
