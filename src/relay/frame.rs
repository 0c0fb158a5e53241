//! What a socket is sent; a message is encoded here, once, whatever the number of receivers.

mod unplaced;

pub use unplaced::Unplaced;

use super::progress::{Progress, Step};
use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::message::Message;
use bytes::BufMut;
use serde::Serialize;
use std::sync::Arc;

/// Most bytes of a close frame's reason (RFC 6455 section 5.5: a control frame has at most 125, two
/// are the code).
const MAX_REASON_BYTES: usize = 123;

/// A text frame (RFC 6455 section 11.8).
const TEXT: u8 = 0x1;

/// Bytes of a message's JSON that are neither payload nor id nor channel: names and punctuation,
/// the cursor, the time.
const MESSAGE_OVERHEAD: usize = 69 + Cursor::TEXT_BYTES + 24;

/// One whole WebSocket frame as it goes over the wire. Server frames are unmasked (RFC 6455 section
/// 5.1), hence the same bytes serve every receiver, and a clone costs one reference. Two are equal
/// if their bytes are.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    bytes: Box<[u8]>,
    /// Of a message, where what becomes of it is counted; none after a restart.
    progress: Option<Arc<Progress>>,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Frame {}

impl Frame {
    /// `MESSAGE`: what every receiver of `message` gets.
    pub fn message(message: &Message, cursor: Cursor) -> Self {
        Unplaced::new(message).at(cursor)
    }

    /// How long that frame is, in bytes: what an outbox has room for can be told before the message
    /// has its place.
    pub fn message_bytes(message: &Message) -> usize {
        let json = json_bytes(message);
        json + header_bytes(json)
    }

    /// Any other frame of the contract's table.
    pub fn of(notice: &Notice<'_>) -> Self {
        Self::text(&serde_json::to_vec(notice).unwrap_or_default())
    }

    /// A WebSocket pong that answers a ping of this payload (at most 125 bytes).
    pub fn pong(payload: &[u8]) -> Self {
        Self::new(0xA, payload, None)
    }

    /// A WebSocket ping; an event stream writes it as a comment.
    pub fn ping() -> Self {
        Self::new(0x9, &[], None)
    }

    /// The close frame; a reason over 123 bytes is cut at a character's border.
    pub fn close(close: &Close) -> Self {
        let mut end = close.reason.len().min(MAX_REASON_BYTES);
        while !close.reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = Vec::with_capacity(2 + end);
        payload.put_u16(close.code);
        payload.extend_from_slice(&close.reason.as_bytes()[..end]);
        Self::new(0x8, &payload, None)
    }

    /// A text frame that was encoded before: see [`Frame::json`].
    pub fn of_json(json: &[u8]) -> Self {
        Self::text(json)
    }

    /// The text of a text frame, without its header.
    pub fn json(&self) -> &[u8] {
        let header = match self.0.bytes.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        self.0.bytes.get(header..).unwrap_or_default()
    }

    /// Where what becomes of a message is counted.
    pub fn progress(&self) -> Option<&Arc<Progress>> {
        self.0.progress.as_ref()
    }

    /// Counts a step of a message; nothing for other frames.
    pub fn count(&self, step: Step) {
        if let Some(progress) = &self.0.progress {
            progress.count(step);
        }
    }

    /// Whether it holds a JSON text; the others are pings, pongs and closes.
    pub fn is_text(&self) -> bool {
        self.0.bytes.first() == Some(&0x81)
    }

    /// Length on the wire, in bytes.
    pub fn wire_bytes(&self) -> usize {
        self.0.bytes.len()
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    fn text(json: &[u8]) -> Self {
        Self::new(TEXT, json, None)
    }

    fn new(opcode: u8, payload: &[u8], progress: Option<Arc<Progress>>) -> Self {
        let mut frame = with_header(opcode, payload.len());
        frame.extend_from_slice(payload);
        Self(Arc::new(Encoded { bytes: frame.into_boxed_slice(), progress }))
    }
}

/// The header of a final frame (RFC 6455 section 5.2) with the shortest form of its length, and
/// room for the payload.
fn with_header(opcode: u8, length: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(header_bytes(length) + length);
    frame.put_u8(0x80 | opcode);
    match length {
        0..=125 => frame.put_u8(length as u8),
        126..=0xFFFF => {
            frame.put_u8(126);
            frame.put_u16(length as u16);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
    frame
}

fn json_bytes(message: &Message) -> usize {
    // As `put_string` escapes (RFC 8259 section 7); ids and names hold no more than the first two
    // of them.
    let written = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..=0x1F => 6,
        _ => 1,
    };
    // Hardly any text has one, and seeing that is cheap.
    let is_escaped = |byte: u8| byte < 0x20 || matches!(byte, b'"' | b'\\');
    let escaped = |text: &str| match text.bytes().filter(|byte| is_escaped(*byte)).count() {
        0 => text.len(),
        _ => text.bytes().map(written).sum::<usize>(),
    };
    message.payload.as_str().len()
        + escaped(&message.address)
        + escaped(&message.id)
        + MESSAGE_OVERHEAD
}

fn header_bytes(payload: usize) -> usize {
    match payload {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

fn put_string(json: &mut Vec<u8>, text: &str) {
    // Writing a string into memory cannot fail; nothing of it is lost if it did, since the frame
    // stays valid JSON.
    if serde_json::to_writer(&mut *json, text).is_err() {
        json.extend_from_slice(b"\"\"");
    }
}

/// A frame about the connection itself (contract, "Receiving").
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "UPPERCASE", rename_all_fields = "camelCase")]
pub enum Notice<'a> {
    /// Always first.
    Connected {
        /// This connection's id.
        connection_id: &'a str,
        /// The instance.
        instance: &'a str,
        /// The token's user.
        user_id: &'a str,
        /// Canonical names of all it will hear.
        channels: Vec<String>,
        /// Everything after this position follows.
        cursor: String,
        /// Send a keep-alive at least this often.
        keep_alive_seconds: u64,
        /// Whether everything since the client's cursor follows; absent where none was given.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
        /// Why not: `EPOCH`, `TOO_OLD` or `TOO_MUCH`.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
    /// Answers `PING`.
    Pong {},
    /// What it hears from now on.
    Channels {
        /// Canonical names.
        channels: Vec<String>,
    },
    /// The token ends: send a new one.
    Expiring {
        /// Until its `exp`; 0 when it has passed and only the leeway is left.
        seconds: u64,
    },
    /// Under the `latest` policy older messages were replaced by newer ones.
    Dropped {
        /// The canonical name of their channel.
        channel: String,
        /// How many.
        count: u64,
        /// Of the first of them. Everything before it was sent.
        cursor: String,
    },
    /// This node is going away.
    Reconnect {
        /// When to connect again, in milliseconds from now.
        after_ms: u64,
    },
    /// The last of an event stream, which has no close frame.
    Close {
        /// As a close frame's.
        code: u16,
        /// As a close frame's.
        reason: &'a str,
    },
    /// A frame of the client's was refused.
    Error {
        /// A stable code.
        code: &'static str,
        /// One sentence.
        detail: &'a str,
    },
}

/// The canonical names of `audiences`.
pub fn names(audiences: &[Audience]) -> Vec<String> {
    audiences.iter().map(Audience::name).collect()
}

/// Why a connection ends: a close code (RFC 6455 section 7.4, or 44xx of the contract) and `CODE:
/// short sentence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// 1000 to 4999.
    pub code: u16,
    /// At most 123 bytes reach the client.
    pub reason: String,
}

impl Close {
    /// A close with its code, its word and its sentence.
    pub fn new(code: u16, word: &str, sentence: &str) -> Self {
        Self { code, reason: format!("{word}: {sentence}") }
    }

    /// 4408.
    pub fn keep_alive_missed() -> Self {
        Self::new(4408, "KEEP_ALIVE_MISSED", "send PING at least once a minute")
    }

    /// 4401.
    pub fn token_expired() -> Self {
        Self::new(4401, "TOKEN_EXPIRED", "fetch a new token and reconnect")
    }

    /// 4401: an administrator revoked the token while the connection was open.
    pub fn token_revoked() -> Self {
        Self::new(4401, "TOKEN_REVOKED", "the token was revoked; sign in again")
    }

    /// 4420.
    pub fn too_slow() -> Self {
        Self::new(4420, "TOO_SLOW", "messages were not read fast enough; reconnect")
    }

    /// 4409, with the administrator's words.
    pub fn disconnected(reason: &str) -> Self {
        Self::new(4409, "DISCONNECTED", reason)
    }

    /// 1012.
    pub fn restarting() -> Self {
        Self::new(1012, "RESTARTING", "this node is going away; reconnect")
    }

    /// 4403: the instance was disabled while the connection was open.
    pub fn instance_disabled() -> Self {
        Self::new(4403, "INSTANCE_DISABLED", "the instance was disabled")
    }

    /// The instance was deleted: 4404 for a token valid everywhere, 4403 for others, who are not
    /// told what exists.
    pub fn instance_gone(valid_everywhere: bool) -> Self {
        if valid_everywhere {
            Self::new(4404, "INSTANCE_NOT_FOUND", "the instance was deleted")
        } else {
            Self::new(4403, "INSTANCE_FORBIDDEN", "the token is not valid in this instance")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Payload;

    #[test]
    fn a_message_frame_carries_the_publishers_bytes_and_the_shortest_length() {
        for (payload, header) in [(0, 4), (10, 4), (60_000, 4), (70_000, 10)] {
            let json = format!("\"{}\"", "x".repeat(payload));
            let message = Message {
                address: "group:\"a\"".into(),
                payload: Payload::new(&json, 100_000).unwrap(),
                ..Message::of_a_test("m\"1")
            };
            let frame = Frame::message(&message, Cursor { epoch: 1, position: 2 });
            let bytes = frame.bytes();
            assert_eq!(bytes.len(), Frame::message_bytes(&message));
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
            let frame = Frame::message(&short, Cursor { epoch: 1, position: 2 });
            assert_eq!((frame.wire_bytes(), frame.bytes()[1]), (Frame::message_bytes(&short), 120));
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_characters_border() {
        let close = Close { code: 4403, reason: format!("{}é", "a".repeat(122)) };
        let frame = Frame::close(&close);
        let bytes = frame.bytes();
        assert_eq!((bytes[0], bytes[1]), (0x88, 124));
        assert_eq!(&bytes[2..4], &4403u16.to_be_bytes());
    }

    #[test]
    fn notices_have_the_contracts_names() {
        let text = |notice: Notice<'_>| {
            String::from_utf8(Frame::of(&notice).bytes()[2..].to_vec()).unwrap()
        };
        assert_eq!(text(Notice::Pong {}), r#"{"type":"PONG"}"#);
        assert_eq!(text(Notice::Reconnect { after_ms: 5 }), r#"{"type":"RECONNECT","afterMs":5}"#);
        assert_eq!(
            text(Notice::Channels { channels: vec!["ALL".into()] }),
            r#"{"type":"CHANNELS","channels":["ALL"]}"#
        );
    }
}
