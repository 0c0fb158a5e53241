//! The little of RFC 6455 that the benchmark speaks: the accept key, a server's text frame, and a
//! parser for what a server sends.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};

use crate::Outcome;

/// A text frame (section 11.8).
pub const TEXT: u8 = 1;
/// A close frame.
pub const CLOSE: u8 = 8;
/// A client's ping without a body, masked with a key of zeros (sections 5.3 and 5.5.2).
pub const MASKED_PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

/// The longest frame that a server may send here; anything longer is an error and is not buffered.
const LONGEST: usize = 256 * 1024;

/// What `Sec-WebSocket-Accept` must say for a `Sec-WebSocket-Key` (section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// `text` as one unmasked, final text frame (section 5.2).
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(text.len() + 10);
    frame.push(0x80 | TEXT);
    match text.len() {
        length @ 0..126 => frame.push(length as u8),
        length @ 126..65_536 => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(text);
    frame
}

/// The code of a close frame (section 5.5.1); none of any other frame, and of one that says
/// nothing.
pub fn close_code(frame: &Frame) -> Option<u16> {
    let (code, _) = frame.payload.split_first_chunk()?;
    (frame.opcode == CLOSE).then(|| u16::from_be_bytes(*code))
}

/// One whole frame of a server's.
pub struct Frame {
    /// Its kind.
    pub opcode: u8,
    /// What it carries.
    pub payload: BytesMut,
}

/// Takes the first frame out of `received` if it is whole. Errors: a fragment, a reserved bit, a
/// mask, or a length over `LONGEST`.
pub fn next_frame(received: &mut BytesMut) -> Outcome<Option<Frame>> {
    let [first, second, ..] = received[..] else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(format!(
            "a frame that begins {first:#04x} {second:#04x}: a fragment, an extension or a mask"
        )
        .into());
    }
    let (header, length) = match second {
        126 => match received.get(2..4) {
            Some(mut bytes) => (4, bytes.get_u16() as usize),
            None => return Ok(None),
        },
        127 => match received.get(2..10) {
            Some(mut bytes) => (10, usize::try_from(bytes.get_u64())?),
            None => return Ok(None),
        },
        short => (2, short as usize),
    };
    if length > LONGEST {
        return Err(format!("a frame of {length} bytes").into());
    }
    if received.len() < header + length {
        return Ok(None);
    }
    received.advance(header);
    Ok(Some(Frame { opcode: first & 0x0f, payload: received.split_to(length) }))
}
