//! What a socket is sent; a message is encoded here, once, whatever the number of receivers.

use super::close::Close;
use super::head::Head;
use super::progress::Step;
use bytes::BufMut;
use serde::Serialize;
use std::sync::Arc;

/// Most bytes of a close frame's reason (RFC 6455 section 5.5: a control frame has at most 125, two
/// are the code).
const MAX_REASON_BYTES: usize = 123;

/// What stands in the place of a frame that cannot be written.
const UNWRITABLE: &[u8] =
    br#"{"type":"ERROR","code":"INTERNAL","detail":"a frame could not be written"}"#;

/// A text frame (RFC 6455 section 11.8).
pub(super) const TEXT: u8 = 0x1;

/// One whole WebSocket frame as it goes over the wire. Server frames are unmasked (RFC 6455 section
/// 5.1), hence the same bytes serve every receiver, and a clone costs one reference. Two are equal
/// if their bytes are.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    bytes: Box<[u8]>,
    /// Of a message; none for what is about the connection itself.
    head: Option<Arc<Head>>,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Frame {}

impl Frame {
    /// A message's frame: the same bytes for every receiver.
    pub(super) fn of_message(bytes: Vec<u8>, head: Arc<Head>) -> Self {
        Self(Arc::new(Encoded { bytes: bytes.into_boxed_slice(), head: Some(head) }))
    }

    /// A frame that tells what is heard: `names` is a JSON array, of which the part that many share
    /// is encoded once.
    pub fn with_channels(notice: &Notice<'_>, names: &str) -> Self {
        const FIELD: &[u8] = b"\"channels\":";
        let json = Self::json_of_notice(notice);
        // The text does not stand within a JSON string: a quote there follows a backslash.
        let at = json.windows(FIELD.len()).position(|window| window == FIELD);
        let (before, behind) = json.split_at(at.map_or(json.len(), |at| at + FIELD.len()));
        let empty = behind.strip_prefix(b"[]").unwrap_or(behind);
        Self::text(&[before, names.as_bytes(), empty].concat())
    }

    /// `CHANNELS`; `names` as above.
    pub fn channels(names: &str) -> Self {
        Self::with_channels(&Notice::Channels { channels: [] }, names)
    }

    /// Any other frame of the contract's table.
    pub fn of(notice: &Notice<'_>) -> Self {
        // Texts and numbers are always JSON; should that change, the client is told and not left
        // with an empty frame.
        Self::text(&Self::json_of_notice(notice))
    }

    fn json_of_notice(notice: &Notice<'_>) -> Vec<u8> {
        serde_json::to_vec(notice).unwrap_or_else(|error| {
            tracing::error!(%error, "a frame could not be written");
            UNWRITABLE.to_vec()
        })
    }

    /// A WebSocket pong that answers a ping of this payload (at most 125 bytes).
    pub fn pong(payload: &[u8]) -> Self {
        Self::new(0xA, payload)
    }

    /// A WebSocket ping; an event stream writes it as a comment.
    pub fn ping() -> Self {
        Self::new(0x9, &[])
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
        Self::new(0x8, &payload)
    }

    /// The text of a text frame, without its header.
    pub fn json(&self) -> &[u8] {
        Self::json_of(&self.0.bytes)
    }

    /// The text of a text frame of these bytes.
    pub(super) fn json_of(bytes: &[u8]) -> &[u8] {
        let header = match bytes.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        bytes.get(header..).unwrap_or_default()
    }

    /// What is known of the message; none for frames about the connection itself.
    pub fn head(&self) -> Option<&Arc<Head>> {
        self.0.head.as_ref()
    }

    /// Counts a step of a message; nothing for other frames.
    pub fn count(&self, step: Step) {
        if let Some(head) = &self.0.head {
            head.progress.count(step);
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
        Self::new(TEXT, json)
    }

    fn new(opcode: u8, payload: &[u8]) -> Self {
        let mut bytes = with_header(opcode, payload.len());
        bytes.extend_from_slice(payload);
        Self(Arc::new(Encoded { bytes: bytes.into_boxed_slice(), head: None }))
    }
}

#[cfg(test)]
impl Frame {
    /// A text frame of any JSON.
    pub fn of_json(json: &[u8]) -> Self {
        Self::text(json)
    }
}

/// The header of a final frame (RFC 6455 section 5.2) with the shortest form of its length, and
/// room for the payload.
pub(super) fn with_header(opcode: u8, length: usize) -> Vec<u8> {
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

/// How long the header of a frame is whose payload has so many bytes.
pub(super) fn header_bytes(payload: usize) -> usize {
    match payload {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
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
        /// Canonical names of all it will hear: put in by [`Frame::with_channels`].
        channels: [&'a str; 0],
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
        /// Canonical names: put in by [`Frame::with_channels`].
        channels: [&'a str; 0],
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn what_is_heard_stands_in_its_own_field_whatever_the_others_say() {
        let text = |frame: Frame| String::from_utf8(frame.json().to_vec()).unwrap();
        let expected = r#"{"type":"CHANNELS","channels":["ALL"]}"#;
        assert_eq!(text(Frame::channels(r#"["ALL"]"#)), expected);
        for user in ["a", r#""channels":[]"#, r#"","channels":["x"],""#] {
            let connected = Notice::Connected {
                connection_id: "c",
                instance: "main",
                user_id: user,
                channels: [],
                cursor: "AAA".into(),
                keep_alive_seconds: 60,
                recovered: None,
                reason: None,
            };
            let frame = Frame::with_channels(&connected, r#"["ALL","user:x"]"#);
            let frame: serde_json::Value = serde_json::from_str(&text(frame)).unwrap();
            assert_eq!(frame["channels"], serde_json::json!(["ALL", "user:x"]));
            assert_eq!(frame["userId"], user);
        }
    }
}
