//! The message that is published: numbered, of a fixed size, and recognised byte for byte when it
//! arrives.

use std::fmt;

use serde_json::Value;

use crate::Outcome;

/// The least size that holds the sequence number and its names.
pub const SMALLEST: usize = 64;
/// The largest size for which a publish request stays below 64 KiB.
pub const LARGEST: usize = 60_000;

const BEFORE_NUMBER: &str = r#"{"sequence":""#;
const AFTER_NUMBER: &str = r#"","padding":""#;
/// Digits of a number: those of the lane, then those of the place.
const LANE_DIGITS: usize = 2;
const PLACE_DIGITS: usize = 8;
const DIGITS: usize = LANE_DIGITS + PLACE_DIGITS;
/// How far into a frame the message itself may begin.
const LONGEST_ENVELOPE: usize = 1_024;

/// Which message it is: the `place`th of its lane, counted from 1. Every publisher has a lane of
/// its own. The messages of one lane come in their order, those of different lanes in any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Whose it is.
    pub lane: usize,
    /// Which of these.
    pub place: u64,
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:0LANE_DIGITS$}{:0PLACE_DIGITS$}", self.lane, self.place)
    }
}

/// The shape of all messages of one run.
pub struct Messages {
    /// Everything after the number.
    tail: String,
}

/// What a server's text frame says.
pub enum Content {
    /// A message of ours.
    Message(Number),
    /// An answer to a keep-alive.
    Pong,
    /// That the server goes away.
    Reconnect,
}

impl Messages {
    /// Lanes that messages can be told apart by.
    pub const LANES: usize = 10_usize.pow(LANE_DIGITS as u32);

    /// Messages of exactly `size` bytes, `SMALLEST` to `LARGEST`.
    pub fn new(size: usize) -> Self {
        let padding = size.saturating_sub(BEFORE_NUMBER.len() + DIGITS + AFTER_NUMBER.len() + 2);
        Self { tail: format!("{AFTER_NUMBER}{}\"}}", "x".repeat(padding)) }
    }

    /// The message with this number.
    pub fn text(&self, number: Number) -> String {
        format!("{BEFORE_NUMBER}{number}{}", self.tail)
    }

    /// What a server's text frame says. Errors: a message that differs from what was published, and
    /// any other frame.
    pub fn read(&self, frame: &[u8]) -> Outcome<Content> {
        let head = &frame[..frame.len().min(LONGEST_ENVELOPE)];
        let marker = BEFORE_NUMBER.as_bytes();
        let Some(start) = head.windows(marker.len()).position(|window| window == marker) else {
            return other_frame(frame);
        };
        let (digits, rest) = frame[start + marker.len()..]
            .split_at_checked(DIGITS)
            .ok_or("a message that was cut")?;
        if !rest.starts_with(self.tail.as_bytes()) {
            return Err("a message whose bytes differ from what was published".into());
        }
        let (lane, place) = std::str::from_utf8(digits)?.split_at(LANE_DIGITS);
        Ok(Content::Message(Number { lane: lane.parse()?, place: place.parse()? }))
    }
}

/// The `type` of a frame, or what stands in its place.
fn frame_type(frame: &[u8]) -> Outcome<String> {
    let value: Value = serde_json::from_slice(frame)?;
    Ok(value["type"].as_str().unwrap_or("none").to_owned())
}

fn other_frame(frame: &[u8]) -> Outcome<Content> {
    match frame_type(frame)?.as_str() {
        "PONG" => Ok(Content::Pong),
        "RECONNECT" => Ok(Content::Reconnect),
        other => Err(format!("a frame of type {other} that nobody asked for").into()),
    }
}
