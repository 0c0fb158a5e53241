//! What a publisher is told of its message.

use super::resource::Page;
use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::message::{Message, Reach};
use crate::relay::{Counts, Published};
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
    /// Its place in the instance's order; in a dry run, the place of the newest message.
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
    /// Whether the message was published before with the same id. Nothing was sent then, and the
    /// counts are those of that message.
    duplicate: bool,
    /// Only present, and true, when a part of the server took more than a second to count: the
    /// counts are then too low.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
    /// Only present in a dry run of one message: the users whom it would be for, in byte order of
    /// their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    users: Option<Page<MatchedUser>>,
    /// Only present where `explain` was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    explain: Option<ConsideredUser>,
}

/// A user whom the message is for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchedUser {
    /// Who.
    pub user_id: String,
    /// How many of the user's connections it is for, those without room for it included.
    pub connections: u64,
}

/// Why a user would get the message or not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsideredUser {
    /// Who.
    pub user_id: String,
    /// Whether the message would be on its way to at least one of the user's connections.
    pub receives: bool,
    /// Why, in one sentence.
    pub reason: String,
    /// The user's connections on this node by id, the oldest first, 20 at most.
    pub connections: Vec<ConsideredConnection>,
}

/// Why a connection would get the message or not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsideredConnection {
    /// Which.
    pub connection_id: String,
    /// Whether the message would be on its way to it.
    pub receives: bool,
    /// Why, in one sentence.
    pub reason: String,
}

/// What a dry run tells beyond its counts.
pub struct Told {
    /// Whom the message is for.
    pub users: Page<MatchedUser>,
    /// About the user who was asked about.
    pub explain: Option<ConsideredUser>,
}

impl Receipt {
    /// Of a message that has its place.
    pub fn new(published: Published) -> Self {
        let Published { head, counts, complete, duplicate } = published;
        let receipt = Self::of(head.id.clone(), head.cursor, head.reach.clone(), counts);
        Self { duplicate, incomplete: !complete, ..receipt }
    }

    /// Of a message that was only counted, when the order stood at `cursor`.
    pub fn of_dry_run(
        message: &Message,
        cursor: Cursor,
        counts: Counts,
        completeness: Completeness,
    ) -> Self {
        let receipt = Self::of(message.id.clone(), cursor, message.reach.clone(), counts);
        Self { incomplete: completeness == Completeness::Partial, ..receipt }
    }

    fn of(id: Arc<str>, cursor: Cursor, reach: Arc<Reach>, counts: Counts) -> Self {
        let Counts { matched, queued, dropped, replaced } = counts;
        Self {
            id,
            cursor,
            audience: Named(reach),
            matched,
            queued,
            dropped,
            replaced,
            duplicate: false,
            incomplete: false,
            users: None,
            explain: None,
        }
    }

    /// The same with what a dry run tells.
    pub fn telling(self, told: Told) -> Self {
        let Told { users, explain } = told;
        Self { users: Some(users), explain, ..self }
    }

    /// 202.
    pub fn into_response(self) -> HttpResponse {
        HttpResponse::Accepted().json(self)
    }
}

/// Whether all connections were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// All were.
    Whole,
    /// Some were not in time.
    Partial,
}

/// Whom a message was for, as its names: written from what the message shares anyway, without a
/// text of its own for each.
#[derive(Debug)]
struct Named(Arc<Reach>);

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.audiences.iter().map(Name))
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
