//! What a publisher is told of its message.

use super::dry_run::{ConsideredUser, MatchedUser, Told};
use super::resource::Page;
use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::message::{Message, Reach};
use crate::relay::Published;
use crate::relay::repeats::Remembered;
use actix_web::HttpResponse;
use serde::{Serialize, Serializer};
use std::sync::Arc;
use utoipa::ToSchema;

/// What became of a message. Counted are connections; `matched` = `queued` + `dropped`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The message's id.
    #[schema(value_type = String)]
    id: Arc<str>,
    /// Its place in the instance's order.
    #[serde(serialize_with = "write_cursor")]
    #[schema(value_type = String)]
    cursor: Cursor,
    /// Canonical names of whom it was for.
    #[schema(value_type = Vec<String>, example = json!(["group:eng", "user:eng"]))]
    audience: Named,
    /// Connections it was for.
    matched: u64,
    /// Connections it is on its way to.
    queued: u64,
    /// Connections that were too slow to have room for it; they are closed with 4420.
    dropped: u64,
    /// Only present where a channel's slow receivers get the latest and some were slow: messages
    /// that had not been written yet, and never will, because this one took their place.
    #[serde(skip_serializing_if = "is_zero")]
    replaced: u64,
    /// Whether this answer repeats that of an earlier request.
    duplicate: bool,
    /// Only present, and true, when a part of the server took more than a second to count: the
    /// counts are then too low.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
    /// Only present in a dry run of one message: the users whom it is for, in byte order of their
    /// ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    users: Option<Page<MatchedUser>>,
    /// Only present where `explain` was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    explain: Option<ConsideredUser>,
    /// What is remembered of it.
    #[serde(skip)]
    published: Published,
}

impl Receipt {
    /// Of a message that was just sent or counted.
    pub fn new(message: &Message, published: Published) -> Self {
        Self::of(message.id.clone(), Named::Reach(message.reach.clone()), &published, Duplicate::No)
    }

    /// The first answer again.
    pub fn repeated(id: &str, remembered: &Remembered) -> Self {
        Self::of(
            id.into(),
            Named::Names(remembered.audiences.clone()),
            &remembered.published,
            Duplicate::Yes,
        )
    }

    fn of(id: Arc<str>, audience: Named, published: &Published, duplicate: Duplicate) -> Self {
        Self {
            id,
            cursor: published.cursor,
            audience,
            matched: published.counts.matched,
            queued: published.counts.queued,
            dropped: published.counts.dropped,
            replaced: published.counts.replaced,
            duplicate: duplicate == Duplicate::Yes,
            incomplete: !published.complete,
            users: None,
            explain: None,
            published: *published,
        }
    }

    /// The same with what a dry run tells.
    pub fn telling(self, told: Option<Told>) -> Self {
        let Some(Told { users, explain }) = told else { return self };
        Self { users: Some(users), explain, ..self }
    }

    /// What a repetition is answered from.
    pub fn remembered(&self) -> Remembered {
        Remembered { published: self.published, audiences: self.audience.names() }
    }

    /// 202.
    pub fn into_response(self) -> HttpResponse {
        HttpResponse::Accepted().json(self)
    }
}

/// Whom a message was for, as its names: written from what the message shares anyway, without a
/// text of its own for each.
#[derive(Debug)]
enum Named {
    Reach(Arc<Reach>),
    Names(Vec<String>),
}

impl Named {
    fn names(&self) -> Vec<String> {
        match self {
            Self::Reach(reach) => reach.audiences.iter().map(Audience::name).collect(),
            Self::Names(names) => names.clone(),
        }
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Reach(reach) => serializer.collect_seq(reach.audiences.iter().map(Name)),
            Self::Names(names) => names.serialize(serializer),
        }
    }
}

/// One of them.
struct Name<'a>(&'a Audience);

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

fn write_cursor<S: Serializer>(cursor: &Cursor, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = [0; Cursor::TEXT_BYTES];
    cursor.write(&mut text);
    serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Whether a receipt repeats an earlier one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Duplicate {
    No,
    Yes,
}
