//! The message that is published: numbered, of a fixed size, and recognised byte for byte when it arrives.

use serde_json::Value;

use crate::Outcome;

/// The least size that holds the sequence number and its names.
pub const SMALLEST: usize = 64;
/// The largest size for which a publish request stays below 64 KiB.
pub const LARGEST: usize = 60_000;

const BEFORE_NUMBER: &str = r#"{"sequence":""#;
const AFTER_NUMBER: &str = r#"","padding":""#;
const DIGITS: usize = 10;
/// How far into a frame the message itself may begin.
const LONGEST_ENVELOPE: usize = 1_024;

/// The shape of all messages of one run.
pub struct Messages {
    /// Everything after the number.
    tail: String,
}

impl Messages {
    /// Messages of exactly `size` bytes, `SMALLEST` to `LARGEST`.
    pub fn new(size: usize) -> Self {
        let padding = size.saturating_sub(BEFORE_NUMBER.len() + DIGITS + AFTER_NUMBER.len() + 2);
        Self { tail: format!("{AFTER_NUMBER}{}\"}}", "x".repeat(padding)) }
    }

    /// The message with this number.
    pub fn text(&self, sequence: u64) -> String {
        format!("{BEFORE_NUMBER}{sequence:0DIGITS$}{}", self.tail)
    }

    /// The number of the message that a server's text frame carries; `None` for a `PONG`.
    /// Errors: a message that differs from what was published, and any other frame.
    pub fn number(&self, frame: &[u8]) -> Outcome<Option<u64>> {
        let head = &frame[..frame.len().min(LONGEST_ENVELOPE)];
        let marker = BEFORE_NUMBER.as_bytes();
        let Some(start) = head.windows(marker.len()).position(|window| window == marker) else {
            return other_frame(frame);
        };
        let (digits, rest) = frame[start + marker.len()..].split_at_checked(DIGITS).ok_or("a message that was cut")?;
        if !rest.starts_with(self.tail.as_bytes()) {
            return Err("a message whose bytes differ from what was published".into());
        }
        Ok(Some(std::str::from_utf8(digits)?.parse()?))
    }
}

/// The `type` of a frame, or what stands in its place.
fn frame_type(frame: &[u8]) -> Outcome<String> {
    let value: Value = serde_json::from_slice(frame)?;
    Ok(value["type"].as_str().unwrap_or("none").to_owned())
}

fn other_frame(frame: &[u8]) -> Outcome<Option<u64>> {
    match frame_type(frame)?.as_str() {
        "PONG" => Ok(None),
        other => Err(format!("a frame of type {other} that nobody asked for").into()),
    }
}
