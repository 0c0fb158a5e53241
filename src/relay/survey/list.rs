//! The list of connections, as one answers for itself.

use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::principal::{GroupId, UserId};
use crate::relay::member::{Member, Transport};
use crate::relay::snapshot::Origin;

/// One connection as it is now.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub user: UserId,
    /// The user's groups, by the newest token.
    pub groups: Vec<GroupId>,
    /// What it hears.
    pub audiences: Vec<Audience>,
    /// How it receives.
    pub transport: Transport,
    /// How it came.
    pub origin: Origin,
    /// `exp` of the newest token, in seconds since the Unix epoch.
    pub expires_at: i64,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// How far the client says that it has heard everything.
    pub acknowledged: Option<Cursor>,
    /// Messages of the instance between that and the newest that was queued for it, as far as they
    /// are kept.
    pub lag: Option<u64>,
}

/// A part of the list.
#[derive(Debug, Default)]
pub struct Listing {
    /// By id.
    pub items: Vec<ConnectionInfo>,
    /// How many there are, on all pages.
    pub total: u64,
}

impl Listing {
    /// Counts a connection, and lists it if it is among the first `most` behind `after`.
    pub(super) fn add(&mut self, member: &Member, after: Option<&str>, most: usize) {
        self.total += 1;
        let id = member.link.id.as_str();
        let is_too_late =
            self.items.len() >= most && self.items.last().is_none_or(|last| last.id.as_str() < id);
        if is_too_late || after.is_some_and(|after| id <= after) {
            return;
        }
        let place = self.items.partition_point(|item| item.id.as_str() < id);
        self.items.insert(place, ConnectionInfo::of(member));
        self.items.truncate(most);
    }

    /// The first `most` of both.
    pub(super) fn with(mut self, other: Self, most: usize) -> Self {
        self.total += other.total;
        self.items.extend(other.items);
        self.items.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        self.items.truncate(most);
        self
    }
}

impl ConnectionInfo {
    fn of(member: &Member) -> Self {
        let acknowledged = member.link.acknowledged.get();
        let lag =
            |cursor: Cursor| member.timeline.numbers_between(cursor.position, member.position);
        Self {
            id: member.link.id.clone(),
            user: member.principal.user.clone(),
            groups: member.principal.groups.values().collect(),
            audiences: member.heard.iter().cloned().collect(),
            transport: member.transport,
            origin: member.origin.clone(),
            expires_at: member.principal.expires_at,
            queued_bytes: member.link.outbox.waiting_bytes(),
            acknowledged,
            lag: acknowledged.map(lag),
        }
    }
}
