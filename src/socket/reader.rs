//! A client's bytes as messages: metered by the headers of their frames, decoded by actix' codec,
//! fragments joined.

use super::inbound::{InboundRefusal, MAX_MESSAGE_BYTES, Meter};
use actix_codec::Decoder;
use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use actix_ws::AggregatedMessage;
use bytes::{Bytes, BytesMut};
use std::time::Instant;

/// Reads what one client sends. While nothing is under way it holds no buffer.
pub(super) struct Reader {
    meter: Meter,
    /// None while no frame and no fragmented message is under way.
    partial: Option<Box<Partial>>,
}

/// Why the rest of what a client sends is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// Too much of it.
    #[error(transparent)]
    Refused(#[from] InboundRefusal),
    /// Text that is not UTF-8 (RFC 6455 section 8.1).
    #[error("text that is not UTF-8")]
    Utf8,
    /// It breaks RFC 6455.
    #[error("a frame that breaks the protocol")]
    Protocol(#[from] ProtocolError),
}

struct Partial {
    codec: Codec,
    /// What has come of a frame.
    bytes: BytesMut,
    /// What has come of a fragmented message.
    fragments: BytesMut,
    /// Of the fragmented message under way.
    kind: Option<Kind>,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Binary,
}

impl Reader {
    /// Of a connection that begins now.
    pub fn new(now: Instant) -> Self {
        Self { meter: Meter::new(now), partial: None }
    }

    /// Takes what was read. Errors: `ReadError::Refused`; then nothing of it is taken.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) -> Result<(), ReadError> {
        self.meter.read(bytes, now)?;
        self.partial.get_or_insert_default().bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole message. Errors: `ReadError`, after which there is no sense in going on.
    pub fn next(&mut self) -> Result<Option<AggregatedMessage>, ReadError> {
        let Some(partial) = &mut self.partial else { return Ok(None) };
        while let Some(frame) = partial.codec.decode(&mut partial.bytes)? {
            if let Some(message) = partial.take(frame)? {
                return Ok(Some(message));
            }
        }
        if partial.bytes.is_empty() && partial.kind.is_none() {
            self.partial = None;
        }
        Ok(None)
    }
}

impl Default for Partial {
    fn default() -> Self {
        let codec = Codec::new().max_size(MAX_MESSAGE_BYTES);
        Self { codec, bytes: BytesMut::new(), fragments: BytesMut::new(), kind: None }
    }
}

impl Partial {
    /// A message that is whole with this frame. What the codec lets pass as a continuation belongs
    /// to the message that is under way, and the meter has bounded their sum.
    fn take(&mut self, frame: Frame) -> Result<Option<AggregatedMessage>, ReadError> {
        Ok(Some(match frame {
            Frame::Text(bytes) => text(bytes)?,
            Frame::Binary(bytes) => AggregatedMessage::Binary(bytes),
            Frame::Ping(bytes) => AggregatedMessage::Ping(bytes),
            Frame::Pong(bytes) => AggregatedMessage::Pong(bytes),
            Frame::Close(reason) => AggregatedMessage::Close(reason),
            Frame::Continuation(Item::FirstText(bytes)) => {
                return Ok(self.begin(Kind::Text, &bytes));
            }
            Frame::Continuation(Item::FirstBinary(bytes)) => {
                return Ok(self.begin(Kind::Binary, &bytes));
            }
            Frame::Continuation(Item::Continue(bytes)) => {
                self.fragments.extend_from_slice(&bytes);
                return Ok(None);
            }
            Frame::Continuation(Item::Last(bytes)) => {
                self.fragments.extend_from_slice(&bytes);
                let whole = std::mem::take(&mut self.fragments).freeze();
                match self.kind.take() {
                    Some(Kind::Text) => text(whole)?,
                    Some(Kind::Binary) | None => AggregatedMessage::Binary(whole),
                }
            }
        }))
    }

    fn begin(&mut self, kind: Kind, bytes: &Bytes) -> Option<AggregatedMessage> {
        self.kind = Some(kind);
        self.fragments.extend_from_slice(bytes);
        None
    }
}

fn text(bytes: Bytes) -> Result<AggregatedMessage, ReadError> {
    Ok(AggregatedMessage::Text(bytes.try_into().map_err(|_| ReadError::Utf8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame, masked with zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    fn messages(bytes: &[u8], chunk: usize) -> Result<Vec<AggregatedMessage>, ReadError> {
        let now = Instant::now();
        let (mut reader, mut messages) = (Reader::new(now), Vec::new());
        for bytes in bytes.chunks(chunk) {
            reader.receive(bytes, now)?;
            while let Some(message) = reader.next()? {
                messages.push(message);
            }
        }
        assert!(reader.partial.is_none(), "nothing is held once everything is whole");
        Ok(messages)
    }

    #[test]
    fn messages_come_whole_however_they_are_cut_and_nothing_is_held_between_them() {
        let bytes = [
            frame(0x81, b"PING"),
            frame(0x01, "gr\u{fc}n".as_bytes().split_at(3).0),
            frame(0x89, b"between"),
            frame(0x80, "gr\u{fc}n".as_bytes().split_at(3).1),
            frame(0x02, &[0xff]),
            frame(0x00, &[]),
            frame(0x80, &[0xfe]),
            frame(0x88, &[]),
        ]
        .concat();
        let text = |text: &str| AggregatedMessage::Text(text.to_owned().into());
        let expected = [
            text("PING"),
            AggregatedMessage::Ping(Bytes::from_static(b"between")),
            text("gr\u{fc}n"),
            AggregatedMessage::Binary(Bytes::from_static(&[0xff, 0xfe])),
            AggregatedMessage::Close(None),
        ];
        for chunk in [1, 2, 7, bytes.len()] {
            assert_eq!(messages(&bytes, chunk).unwrap(), expected, "in pieces of {chunk}");
        }
    }

    #[test]
    fn what_is_no_utf8_and_what_breaks_the_protocol_ends_the_reading() {
        assert!(matches!(messages(&frame(0x81, &[0xff]), 99), Err(ReadError::Utf8)));
        let halves = [frame(0x01, &[0xc3]), frame(0x80, &[0x28])].concat();
        assert!(matches!(messages(&halves, 99), Err(ReadError::Utf8)));
        assert!(matches!(messages(&frame(0x80, b"x"), 99), Err(ReadError::Protocol(_))));
        assert!(matches!(messages(&[0x81, 0x01, b'x'], 99), Err(ReadError::Protocol(_))));
    }
}
