//! A message before it has its place in the order: its head, and its frame but for the cursor. One
//! wire form serves the window file and a shared log.

use super::frame::{Frame, TEXT, header_bytes, with_header};
use super::head::Head;
use super::progress::Progress;
use crate::domain::audience::{Address, Audience};
use crate::domain::channel::Slow;
use crate::domain::cursor::Cursor;
use crate::domain::expression::compiled::Pool;
use crate::domain::expression::{Expression, Scope};
use crate::domain::message::{Author, Exclusion, Message, Reach};
use crate::domain::principal::UserId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::BufMut;
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The form in which messages are written; it grows with every change of it or of the language of
/// filters. Another one is not read.
pub const FORM: u32 = 1;

/// Bytes of a message's JSON that are neither payload nor id nor channel: names and punctuation,
/// the cursor, the time.
const MESSAGE_OVERHEAD: usize = 69 + Cursor::TEXT_BYTES + 24;

/// What stands where the cursor will be.
const NO_CURSOR: &[u8; Cursor::TEXT_BYTES] = &[b'-'; Cursor::TEXT_BYTES];

/// What makes two requests with the same id the same: a digest of the user and of everything that
/// was asked for.
pub type Digest = [u8; 32];

/// A message that has no place yet. All that takes time is done: little is left while the order is
/// locked.
#[derive(Debug)]
pub struct Sealed {
    /// Nobody else has it yet.
    head: Arc<Head>,
    /// The whole frame but for its cursor.
    bytes: Vec<u8>,
    /// Where in the frame the cursor goes.
    cursor_at: usize,
    /// Of a message whose publisher chose its id.
    digest: Option<Digest>,
}

/// Why a text is not read as a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no message in a form that this version reads")]
pub struct SealedError;

/// All of a message but its frame, as one line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    form: u32,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    audiences: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    without_users: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    without_connections: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    latest: bool,
    user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    component: Option<String>,
    time_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// In the text behind this line.
    cursor_at: usize,
}

impl Sealed {
    /// Encodes a message. `digest` is given where its publisher chose the id.
    pub fn new(message: Message, digest: Option<Digest>) -> Self {
        let (bytes, cursor_at) = encode(&message);
        let Message { id, author, address, reach, slow, time, ttl, payload: _ } = message;
        let head = Head {
            id,
            author,
            address,
            reach,
            policy: slow,
            time,
            ttl,
            cursor: Cursor { epoch: 0, position: 0 },
            expires: None,
            progress: Progress::default(),
        };
        Self { head: Arc::new(head), bytes, cursor_at, digest }
    }

    /// How long the frame of `message` is, in bytes.
    pub fn wire_bytes_of(message: &Message) -> usize {
        let json = json_bytes(message);
        json + header_bytes(json)
    }

    /// Length of its frame on the wire, in bytes.
    pub fn wire_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What is known of it.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Of a message whose publisher chose its id.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same, with what is the same in another head of one allocation with it: messages often
    /// come in rows for the same receivers, and what is remembered of them is then far from any
    /// processor when it is let go of.
    pub fn sharing_with(mut self, other: &Head) -> Self {
        if let Some(head) = Arc::get_mut(&mut self.head) {
            if head.reach == other.reach {
                head.reach = other.reach.clone();
            }
            if head.address == other.address {
                head.address = other.address.clone();
            }
            if head.author == other.author {
                head.author = other.author.clone();
            }
        }
        self
    }

    /// Its head and its frame at this place of the order, for so many workers. `expires` is none
    /// where it is never sent again.
    pub fn place(
        mut self,
        cursor: Cursor,
        expires: Option<Instant>,
        workers: usize,
    ) -> (Arc<Head>, Frame) {
        // Nobody else has had it: it was made by `new` or `read`, and is given away here alone.
        if let Some(head) = Arc::get_mut(&mut self.head) {
            head.cursor = cursor;
            head.expires = expires;
            head.progress.expect(workers);
        }
        write_cursor(&mut self.bytes, self.cursor_at, cursor);
        (self.head.clone(), Frame::of_message(self.bytes, self.head))
    }

    /// The wire form: a line of JSON, a line feed, and the frame's JSON without its cursor, which
    /// holds no line feed.
    pub fn write(&self) -> Vec<u8> {
        let json = Frame::json_of(&self.bytes);
        let header = self.bytes.len() - json.len();
        wire(&self.head, json, self.cursor_at - header, self.digest)
    }

    /// The wire form of a message that has its place, without it.
    pub fn write_placed(frame: &Frame, digest: Option<Digest>) -> Option<Vec<u8>> {
        let head = frame.head()?;
        let mut json = frame.json().to_vec();
        let cursor_at = cursor_at(&head.id, &head.address);
        json.get_mut(cursor_at..cursor_at + Cursor::TEXT_BYTES)?.copy_from_slice(NO_CURSOR);
        Some(wire(head, &json, cursor_at, digest))
    }

    /// Reads what `write` wrote; its filter is compiled with its instance's others. Errors:
    /// `SealedError`, for another form and for what is no message.
    pub fn read(text: &[u8], pool: &Pool) -> Result<Self, SealedError> {
        let end = text.iter().position(|byte| *byte == b'\n').ok_or(SealedError)?;
        let (line, json) = (&text[..end], &text[end + 1..]);
        let line: Line<'_> = serde_json::from_slice(line).map_err(|_| SealedError)?;
        let gap = json.get(line.cursor_at..line.cursor_at.saturating_add(Cursor::TEXT_BYTES));
        if line.form != FORM || gap != Some(NO_CURSOR) {
            return Err(SealedError);
        }
        let mut bytes = with_header(TEXT, json.len());
        let cursor_at = bytes.len() + line.cursor_at;
        bytes.extend_from_slice(json);
        let digest = line.digest.as_deref().map(digest).transpose()?;
        Ok(Self { head: Arc::new(line.into_head(pool)?), bytes, cursor_at, digest })
    }
}

impl Line<'_> {
    fn into_head(self, pool: &Pool) -> Result<Head, SealedError> {
        let audiences = self.audiences.iter().map(|name| audience(name));
        let users = self.without_users.iter().map(|id| UserId::new(id).map_err(|_| SealedError));
        let exclude = Exclusion {
            users: users.collect::<Result<_, _>>()?,
            connections: self.without_connections,
        };
        let filter = self.filter.map(|filter| Expression::parse_in(pool, &filter, Scope::Filter));
        let filter = filter.transpose().map_err(|_| SealedError)?;
        let audiences = audiences.collect::<Result<_, _>>()?;
        let user = UserId::new(self.user).map_err(|_| SealedError)?;
        Ok(Head {
            id: self.id.into(),
            author: Arc::new(Author { user, component: self.component.map(Into::into) }),
            address: self.channel.into(),
            reach: Arc::new(Reach { audiences, exclude, filter }),
            policy: if self.latest { Slow::Latest } else { Slow::Disconnect },
            time: DateTime::from_timestamp_millis(self.time_ms).ok_or(SealedError)?,
            ttl: self.ttl_ms.map(Duration::from_millis),
            cursor: Cursor { epoch: 0, position: 0 },
            expires: None,
            progress: Progress::default(),
        })
    }
}

/// Reads a canonical name. Errors: `SealedError`.
pub fn audience(name: &str) -> Result<Audience, SealedError> {
    use Address::{All, Channel, Group, User};
    match Address::parse(name) {
        Ok(address @ (All | User(_) | Group(_) | Channel(_))) => {
            address.audiences().pop().ok_or(SealedError)
        }
        _ => Err(SealedError),
    }
}

/// The text of a digest.
pub fn digest_text(digest: &Digest) -> String {
    URL_SAFE_NO_PAD.encode(digest)
}

/// Reads what `digest_text` wrote. Errors: `SealedError`.
pub fn digest(text: &str) -> Result<Digest, SealedError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealedError)?;
    bytes.try_into().map_err(|_| SealedError)
}

fn wire(head: &Head, json: &[u8], cursor_at: usize, digest: Option<Digest>) -> Vec<u8> {
    let Exclusion { users, connections } = &head.reach.exclude;
    let line = Line {
        form: FORM,
        id: Cow::Borrowed(&head.id),
        channel: Cow::Borrowed(&head.address),
        audiences: head.reach.audiences.iter().map(Audience::name).collect(),
        without_users: users.iter().map(ToString::to_string).collect(),
        without_connections: connections.clone(),
        filter: head.reach.filter.as_ref().map(ToString::to_string),
        ttl_ms: head.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        latest: head.policy == Slow::Latest,
        user: head.author.user.to_string(),
        component: head.author.component.as_ref().map(ToString::to_string),
        time_ms: head.time.timestamp_millis(),
        digest: digest.as_ref().map(digest_text),
        cursor_at,
    };
    // Texts and numbers are always JSON. A line that could not be written would not be read.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text.extend_from_slice(json);
    text
}

/// The frame of a message but for its cursor, and where that goes.
fn encode(message: &Message) -> (Vec<u8>, usize) {
    let length = json_bytes(message);
    let mut bytes = with_header(TEXT, length);
    let header = bytes.len();
    bytes.extend_from_slice(b"{\"type\":\"MESSAGE\",\"id\":");
    put_string(&mut bytes, &message.id);
    bytes.extend_from_slice(b",\"channel\":");
    put_string(&mut bytes, &message.address);
    bytes.extend_from_slice(b",\"cursor\":\"");
    let cursor_at = bytes.len();
    bytes.extend_from_slice(NO_CURSOR);
    bytes.extend_from_slice(b"\",\"time\":\"");
    let time = message.time.to_rfc3339_opts(SecondsFormat::Millis, true);
    bytes.extend_from_slice(time.as_bytes());
    bytes.extend_from_slice(b"\",\"data\":");
    bytes.extend_from_slice(message.payload.as_str().as_bytes());
    bytes.put_u8(b'}');
    debug_assert_eq!(bytes.len() - header, length);
    (bytes, cursor_at)
}

/// Where in the JSON of a message's frame its cursor stands.
fn cursor_at(id: &str, address: &str) -> usize {
    const BEFORE: usize = b"{\"type\":\"MESSAGE\",\"id\":\"\",\"channel\":\"\",\"cursor\":\"".len();
    BEFORE + escaped_bytes(id) + escaped_bytes(address)
}

fn write_cursor(bytes: &mut [u8], at: usize, cursor: Cursor) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        cursor.write(place);
    }
}

fn json_bytes(message: &Message) -> usize {
    let texts = escaped_bytes(&message.address) + escaped_bytes(&message.id);
    message.payload.as_str().len() + texts + MESSAGE_OVERHEAD
}

/// How long a text is once it is escaped as `put_string` does (RFC 8259 section 7).
fn escaped_bytes(text: &str) -> usize {
    let written = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..=0x1F => 6,
        _ => 1,
    };
    // Hardly any text has one, and seeing that is cheap.
    let is_escaped = |byte: u8| byte < 0x20 || matches!(byte, b'"' | b'\\');
    match text.bytes().filter(|byte| is_escaped(*byte)).count() {
        0 => text.len(),
        _ => text.bytes().map(written).sum::<usize>(),
    }
}

fn put_string(json: &mut Vec<u8>, text: &str) {
    // Writing a string into memory cannot fail; nothing of it is lost if it did, since the frame
    // stays valid JSON.
    if serde_json::to_writer(&mut *json, text).is_err() {
        json.extend_from_slice(b"\"\"");
    }
}

#[cfg(test)]
impl Sealed {
    /// The frame of a message at this place, which nobody waits for.
    pub fn frame_of(message: &Message, cursor: Cursor) -> Frame {
        Self::new(message.clone(), None).place(cursor, None, 0).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expression::compiled::{Compiled, CompiledBounds};
    use crate::domain::instance::InstanceId;
    use crate::domain::message::Payload;
    use smallvec::smallvec;

    const CURSOR: Cursor = Cursor { epoch: 1, position: 2 };

    #[test]
    fn a_message_frame_carries_the_publishers_bytes_and_the_shortest_length() {
        for (payload, header) in [(0, 4), (10, 4), (60_000, 4), (70_000, 10)] {
            let json = format!("\"{}\"", "x".repeat(payload));
            let message = Message {
                address: "group:\"a\"".into(),
                payload: Payload::new(&json, 100_000).unwrap(),
                ..Message::of_a_test("m\"1")
            };
            let frame = Sealed::frame_of(&message, CURSOR);
            let bytes = frame.bytes();
            assert_eq!(bytes.len(), Sealed::wire_bytes_of(&message));
            assert_eq!(bytes[0], 0x81);
            let value: serde_json::Value = serde_json::from_slice(&bytes[header..]).unwrap();
            assert_eq!(value["data"].to_string(), json);
            assert_eq!((&value["id"], &value["channel"]), (&"m\"1".into(), &"group:\"a\"".into()));
            assert_eq!(value["time"], "1970-01-01T00:00:00.000Z");
            let short = Message {
                id: "m".into(),
                address: "a\\".into(),
                payload: Payload::new("1", 1).unwrap(),
                ..message
            };
            let frame = Sealed::frame_of(&short, CURSOR);
            assert_eq!(
                (frame.wire_bytes(), frame.bytes()[1]),
                (Sealed::wire_bytes_of(&short), 120)
            );
        }
    }

    fn pool() -> Pool {
        Compiled::new(CompiledBounds::default()).pool(&InstanceId::new("demo").unwrap())
    }

    fn everything() -> Message {
        let user = |id: &str| UserId::new(id).unwrap();
        let reach = Reach {
            audiences: smallvec![Audience::All, Audience::User(user("a:\"b"))],
            exclude: Exclusion { users: vec![user("x")], connections: vec!["c".into()] },
            filter: Some(Expression::parse_in(&pool(), "user == 'é'", Scope::Filter).unwrap()),
        };
        Message {
            address: "bare \"word\"".into(),
            author: Arc::new(Author { user: user("shop"), component: Some("till".into()) }),
            reach: Arc::new(reach),
            slow: Slow::Latest,
            ttl: Some(Duration::from_secs(7)),
            payload: Payload::new("[1.50,\"\\n\"]", 100).unwrap(),
            ..Message::of_a_test("id-1")
        }
    }

    #[test]
    fn a_message_comes_back_whole_from_its_wire_form_before_and_after_it_has_its_place() {
        let digest = Some([7; 32]);
        let sealed = Sealed::new(everything(), digest);
        let wire = sealed.write();
        let (head, frame) = sealed.place(CURSOR, None, 0);
        let read = Sealed::read(&wire, &pool()).unwrap();
        assert_eq!((read.digest(), read.write()), (digest, wire.clone()));
        let other = read.head();
        assert_eq!((&head.reach, &head.author), (&other.reach, &other.author));
        assert_eq!((&head.id, &head.address, head.time), (&other.id, &other.address, other.time));
        assert_eq!((head.policy, head.ttl), (other.policy, other.ttl));
        assert_eq!(read.place(CURSOR, None, 0).1, frame);
        assert_eq!(Sealed::write_placed(&frame, digest), Some(wire));
        assert_eq!(Sealed::write_placed(&Frame::ping(), None), None);
    }

    #[test]
    fn what_is_in_another_form_or_cut_is_not_read() {
        let wire = String::from_utf8(Sealed::new(everything(), None).write()).unwrap();
        let (line, json) = wire.split_once('\n').unwrap();
        for wrong in [
            wire.replace("\"form\":1", "\"form\":2"),
            wire.replace("\"audiences\":[\"ALL\"", "\"audiences\":[\"all\""),
            wire.replace("user == ", "user = "),
            wire.replace("-----", "---x-"),
            wire.replace("\"cursorAt\":", "\"cursorAt\":9999"),
            line.to_owned(),
            json.to_owned(),
            String::new(),
        ] {
            assert_eq!(
                Sealed::read(wrong.as_bytes(), &pool()).unwrap_err(),
                SealedError,
                "{wrong}"
            );
        }
    }

    #[test]
    fn messages_in_a_row_share_what_is_the_same() {
        let (first, _) = Sealed::new(Message::of_a_test("1"), None).place(CURSOR, None, 0);
        let second = Sealed::new(Message::of_a_test("2"), None).sharing_with(&first);
        assert!(Arc::ptr_eq(&second.head.reach, &first.reach));
        assert!(Arc::ptr_eq(&second.head.address, &first.address));
        let elsewhere = Sealed::new(everything(), None).sharing_with(&first);
        assert_eq!(&*elsewhere.head.address, "bare \"word\"");
    }
}
