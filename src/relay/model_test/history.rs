//! What the model remembers of what was sent: everything, for ever.

use super::client::{Due, Open};
use super::naive::{Channels, Person, reading};
use crate::domain::cursor::Cursor;
use crate::relay::{Counts, Digest};

/// A message of one step.
#[derive(Clone, Debug)]
pub struct Draft {
    pub instance: usize,
    pub address: String,
    pub without: Vec<&'static str>,
    /// A client whose connection is left out.
    pub spared: Option<usize>,
    /// One of the expressions.
    pub filter: Option<usize>,
    /// Whether it is for those connected now alone.
    pub live_only: bool,
    /// Whether its publisher chooses the id.
    pub has_own_id: bool,
    /// Whether its publisher does not wait for the answer where workers are late.
    pub is_hurried: bool,
    pub padding: usize,
}

/// A message that has its place.
#[derive(Debug)]
pub struct Sent {
    pub number: usize,
    pub cursor: Cursor,
    pub names: Vec<String>,
    /// The connection that is left out.
    pub spared: Option<String>,
    /// Its channel, where a newer message may take its place.
    pub lane: Option<String>,
    pub draft: Draft,
    /// What its publisher was told, and on which node; none once that node has forgotten.
    pub told: Option<(usize, Counts)>,
}

/// One instance of the model.
#[derive(Default)]
pub struct Tenancy {
    pub channels: Channels,
    /// In this epoch, oldest first.
    pub sent: Vec<Sent>,
}

/// Of the request with this number, or of another one with the same id.
pub fn digest(number: usize, is_same: bool) -> Digest {
    let mut digest = [u8::from(is_same); 32];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    digest
}

impl Sent {
    pub fn id(&self) -> String {
        self.number.to_string()
    }

    /// Due to someone who is there when it comes; or to someone who resumes, where it replaces
    /// nothing.
    pub fn due(&self, lane: Option<String>) -> Due {
        Due::Message { number: self.number, cursor: self.cursor, lane }
    }

    /// Whether it is for this connection, which is there when it comes.
    pub fn is_for_one_there(&self, person: &Person, open: &Open) -> bool {
        self.is_for(person, open)
            && self.spared.as_ref().is_none_or(|id| *id != open.registration.link.id)
    }

    /// Whether someone of its audiences gets it.
    fn is_for(&self, person: &Person, open: &Open) -> bool {
        self.draft.instance == person.instance
            && !self.draft.without.contains(&person.user)
            && self.draft.filter.is_none_or(|which| reading(which, person) == Some(true))
            && self.names.iter().any(|name| open.heard.contains(name))
    }
}

impl Tenancy {
    /// How many messages have a position up to this one.
    pub fn count_to(&self, position: u64) -> usize {
        self.sent.partition_point(|sent| sent.cursor.position <= position)
    }

    /// What of the first `applied` messages someone has not seen who saw everything up to `since`,
    /// of what it hears now.
    pub fn missed(
        &self,
        applied: usize,
        since: Cursor,
        open: &Open,
        person: &Person,
    ) -> Vec<&Sent> {
        let sent = self.sent[self.count_to(since.position).min(applied)..applied].iter();
        sent.filter(|sent| !sent.draft.live_only && sent.is_for(person, open)).collect()
    }

    /// Whether a window that keeps so many of an audience has lost some of these audiences' in
    /// these messages.
    pub fn is_more_than_kept<'a>(
        kept: usize,
        sent: &[&Sent],
        mut names: impl Iterator<Item = &'a String>,
    ) -> bool {
        names.any(|name| {
            let of = sent.iter().filter(|sent| !sent.draft.live_only && sent.names.contains(name));
            of.count() > kept
        })
    }
}
