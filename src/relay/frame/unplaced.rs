//! A message's frame before the message has its place in the order.

use super::{Encoded, Frame, TEXT, json_bytes, put_string, with_header};
use crate::domain::cursor::Cursor;
use crate::domain::message::Message;
use crate::relay::progress::Progress;
use bytes::BufMut;
use chrono::SecondsFormat;
use std::sync::Arc;

/// The frame of a message that has no place in the order yet: written whole but for its cursor, so
/// that little is left to do while the order is locked.
pub struct Unplaced {
    bytes: Vec<u8>,
    /// Where the cursor goes.
    cursor_at: usize,
}

impl Unplaced {
    /// All that is known of `message` before it has its place.
    pub fn new(message: &Message) -> Self {
        let length = json_bytes(message);
        let mut bytes = with_header(TEXT, length);
        let header = bytes.len();
        bytes.extend_from_slice(b"{\"type\":\"MESSAGE\",\"id\":");
        put_string(&mut bytes, &message.id);
        bytes.extend_from_slice(b",\"channel\":");
        put_string(&mut bytes, &message.address);
        bytes.extend_from_slice(b",\"cursor\":\"");
        let cursor_at = bytes.len();
        bytes.extend_from_slice(&[b'-'; Cursor::TEXT_BYTES]);
        bytes.extend_from_slice(b"\",\"time\":\"");
        bytes.extend_from_slice(
            message.time.to_rfc3339_opts(SecondsFormat::Millis, true).as_bytes(),
        );
        bytes.extend_from_slice(b"\",\"data\":");
        bytes.extend_from_slice(message.payload.as_str().as_bytes());
        bytes.put_u8(b'}');
        debug_assert_eq!(bytes.len() - header, length);
        Self { bytes, cursor_at }
    }

    /// Length on the wire, in bytes.
    pub fn wire_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The frame.
    pub fn at(mut self, cursor: Cursor) -> Frame {
        if let Some(place) = self.bytes.get_mut(self.cursor_at..).and_then(<[u8]>::first_chunk_mut)
        {
            cursor.write(place);
        }
        let progress = Some(Arc::new(Progress::at(cursor.position)));
        Frame(Arc::new(Encoded { bytes: self.bytes.into_boxed_slice(), progress }))
    }
}
