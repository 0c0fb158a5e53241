//! What is known of a message beside its bytes: one head, shared by all that carries the message.

use super::progress::Progress;
use crate::domain::audience::Audience;
use crate::domain::channel::{ChannelName, Slow};
use crate::domain::cursor::Cursor;
use crate::domain::expression::Expression;
use crate::domain::message::{Author, Exclusion, Reach};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a head is counted with beyond its texts, its places in indexes included.
const HEAD_BYTES: usize = 512;

/// One message, but for its bytes. Its frame, its trace and its id share it.
#[derive(Debug)]
pub struct Head {
    /// Unique in the instance.
    pub id: Arc<str>,
    /// Who published it.
    pub author: Arc<Author>,
    /// As published; what receivers see in `channel`.
    pub address: Arc<str>,
    /// Whom it is for; excluded connections count only when it is sent first.
    pub reach: Arc<Reach>,
    /// What a receiver gets that does not read fast enough.
    pub policy: Slow,
    /// When it was accepted.
    pub time: DateTime<Utc>,
    /// How long it is worth sending to those who resume; none for as long as the window.
    pub ttl: Option<Duration>,
    /// Its place in the instance's order; written once, before anyone else has the head.
    pub cursor: Cursor,
    /// Until when it is sent to those who resume; none if it never is. Written with the place.
    pub expires: Option<Instant>,
    /// How far it has got.
    pub progress: Progress,
}

impl Head {
    /// The channel of which a newer message takes its place where a receiver is slow. Only a
    /// message for one channel can have one: the policy is the channel's.
    pub fn conflated(&self) -> Option<&ChannelName> {
        match (self.policy, self.reach.audiences.as_slice()) {
            (Slow::Latest, [Audience::Channel(channel)]) => Some(channel),
            _ => None,
        }
    }

    /// Whether it is for those alone who are connected when it gets its place.
    pub fn is_live_only(&self) -> bool {
        self.ttl.is_some_and(|ttl| ttl.is_zero())
    }

    /// What it is counted with, in bytes.
    pub fn bytes(&self) -> usize {
        HEAD_BYTES + self.text_bytes()
    }

    /// What its texts are counted with, of which publishers choose the length; of a filter its
    /// text, since what it is evaluated by is counted where it is compiled.
    pub fn text_bytes(&self) -> usize {
        let Reach { audiences, exclude: Exclusion { users, connections }, filter } = &*self.reach;
        let excluded = users.iter().map(|user| user.as_str().len());
        let excluded = excluded.chain(connections.iter().map(String::len));
        let texts = audiences.iter().map(Audience::name_bytes).chain(excluded);
        let texts: usize = texts.map(|text| text + size_of::<Audience>()).sum();
        let component = self.author.component.as_deref().map_or(0, str::len);
        let filter = filter.as_ref().map_or(0, Expression::kept_bytes);
        self.id.len() + self.address.len() + component + texts + filter
    }
}

#[cfg(test)]
impl Head {
    /// Of a message for everyone.
    pub fn of_a_test(id: &str, cursor: Cursor) -> Self {
        let message = crate::domain::message::Message::of_a_test(id);
        Self {
            id: message.id,
            author: message.author,
            address: message.address,
            reach: message.reach,
            policy: message.slow,
            time: message.time,
            ttl: message.ttl,
            cursor,
            expires: None,
            progress: Progress::default(),
        }
    }
}
