//! Questions to all connections of an instance and their answers: each worker answers for its own
//! connections, a slice at each of the room's turns, and the answers are folded into one.

mod dry_run;
mod list;

pub use dry_run::{Considered, DryRun, DryRunReport, DryRunResult};
pub use list::{ConnectionInfo, Listing};

use super::close::Close;
use super::member::Member;
use super::settings::ConnectionBounds;
use super::snapshot::ConnectionSnapshot;
use crate::domain::audience::Audience;
use crate::domain::principal::{GroupId, UserId};
use std::time::Instant;

/// What is asked of an instance's connections.
#[derive(Clone, Debug)]
pub enum Query {
    /// The first `most` behind `after`, by id.
    List {
        /// Which.
        selection: Selection,
        /// An id.
        after: Option<String>,
        /// At least 1.
        most: usize,
    },
    /// Close them all.
    Disconnect {
        /// Which.
        selection: Selection,
        /// How they are told.
        close: Close,
    },
    /// What is known of one.
    Find {
        /// Its id.
        id: String,
    },
    /// Whom a message would be for.
    DryRun(DryRun),
    /// What is known of a user's connections, for the message of this position.
    Trace {
        /// Whose.
        user: UserId,
        /// In the instance's order.
        position: u64,
    },
}

/// Which connections of an instance are meant; what is none does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Its id.
    pub id: Option<String>,
    /// Whose it is.
    pub user: Option<UserId>,
    /// A group of its user.
    pub group: Option<GroupId>,
    /// What it hears.
    pub audience: Option<Audience>,
}

/// What there is to say.
#[derive(Debug)]
pub enum Answer {
    /// To `List`.
    List(Listing),
    /// To `Disconnect`: how many.
    Disconnected(u64),
    /// To `Find` and `Trace`.
    Known(Vec<ConnectionSnapshot>),
    /// To `DryRun`.
    DryRun(DryRunReport),
}

impl Query {
    /// The audiences whose hearers have to be looked at; none where everyone has.
    pub fn hearers_of(&self) -> Option<&[Audience]> {
        match self {
            Self::List { selection, .. } | Self::Disconnect { selection, .. } => {
                selection.audience.as_ref().map(std::slice::from_ref)
            }
            Self::DryRun(dry_run) => dry_run.hearers_of(),
            Self::Find { .. } | Self::Trace { .. } => None,
        }
    }

    /// The answer where nobody was looked at.
    pub fn nobody(&self) -> Answer {
        match self {
            Self::List { .. } => Answer::List(Listing::default()),
            Self::Disconnect { .. } => Answer::Disconnected(0),
            Self::Find { .. } | Self::Trace { .. } => Answer::Known(Vec::new()),
            Self::DryRun(_) => Answer::DryRun(DryRunReport::default()),
        }
    }

    /// Looks at one connection.
    pub(crate) fn look_at(
        &self,
        member: &Member,
        (bounds, now): (ConnectionBounds, Instant),
        answer: &mut Answer,
    ) {
        match (self, answer) {
            (Self::DryRun(dry_run), Answer::DryRun(report)) => {
                dry_run.look_at(member, (bounds.outbox, now), report);
            }
            (Self::Trace { user, position }, Answer::Known(known))
                if member.principal.user == *user =>
            {
                known.push(member.open_snapshot(*position));
            }
            // Of the others, one that is ending is none any more.
            (Self::Trace { .. }, _) => {}
            _ if member.link.outbox.is_ending() => {}
            (Self::List { selection, after, most }, Answer::List(listing))
                if selection.includes(member) =>
            {
                listing.add(member, after.as_deref(), *most);
            }
            (Self::Disconnect { selection, close }, Answer::Disconnected(closed))
                if selection.includes(member) =>
            {
                member.link.outbox.close(close.clone());
                *closed += 1;
            }
            (Self::Find { id }, Answer::Known(known)) if member.link.id == *id => {
                known.push(member.open_snapshot(0));
            }
            // An answer is begun by `nobody`, and so is of its query's kind.
            _ => {}
        }
    }

    /// One answer from those of two workers. Each tells the first of its own, hence all that are
    /// among the first of the whole.
    pub fn fold(&self, one: Answer, other: Answer) -> Answer {
        match (one, other) {
            (Answer::List(one), Answer::List(other)) => {
                let most = if let Self::List { most, .. } = self { *most } else { 0 };
                Answer::List(one.with(other, most))
            }
            (Answer::Disconnected(one), Answer::Disconnected(other)) => {
                Answer::Disconnected(one + other)
            }
            (Answer::Known(one), Answer::Known(other)) => {
                Answer::Known(one.into_iter().chain(other).collect())
            }
            (Answer::DryRun(one), Answer::DryRun(other)) => {
                let most = if let Self::DryRun(dry_run) = self { dry_run.most } else { 0 };
                Answer::DryRun(one.with(other, most))
            }
            (one, _) => one,
        }
    }
}

impl Selection {
    fn includes(&self, member: &Member) -> bool {
        let principal = &member.principal;
        self.id.as_ref().is_none_or(|id| *id == member.link.id)
            && self.user.as_ref().is_none_or(|user| *user == principal.user)
            && self.group.as_ref().is_none_or(|group| principal.groups.contains(group))
    }
}
