//! What is done about a client's messages: answers, refusals, and what they ask for.

use super::client_frame::{ClientFrame, MAX_TEXT_BYTES};
use super::inbound::InboundRefusal;
use super::reader::ReadError;
use crate::domain::cursor::Cursor;
use crate::relay::{Close, Frame, Link, Notice, OutboxBounds};
use actix_http::ws::ProtocolError;
use actix_ws::AggregatedMessage;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A second refused frame within this time ends the connection.
const REFUSAL_MEMORY: Duration = Duration::from_secs(60);

/// `AUTH` frames that a client may send at once (contract, "Receiving").
const RENEWALS: u32 = 10;
/// One more for each of these.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// What a client's message asks for beyond an answer.
pub(super) enum Asked {
    /// This token instead of the old one.
    Renewal(String),
    /// Everything up to here was heard.
    Acknowledgement(Cursor),
}

/// What one client sends: answered or refused here, as far as that needs nobody else.
pub(super) struct ClientInput {
    link: Rc<Link>,
    bounds: OutboxBounds,
    /// When a frame was last refused.
    refused_at: Option<Instant>,
    renewals: Renewals,
    /// Whether the client has sent its close frame, or can send nothing sensible any more.
    is_done: bool,
}

impl ClientInput {
    /// Of the client behind `link`.
    pub fn new(link: Rc<Link>, bounds: OutboxBounds) -> Self {
        Self { link, bounds, refused_at: None, renewals: Renewals::default(), is_done: false }
    }

    /// The connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Of its outbox.
    pub fn bounds(&self) -> OutboxBounds {
        self.bounds
    }

    /// Whether the client has said its last word.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Answers what can be answered at once; what is left to do.
    pub fn take(&mut self, message: AggregatedMessage, now: Instant) -> Option<Asked> {
        self.link.last_heard.set(now);
        match message {
            AggregatedMessage::Text(text) => return self.take_text(&text, now),
            AggregatedMessage::Binary(bytes) if bytes.len() > MAX_TEXT_BYTES => {
                self.link.outbox.close(too_large())
            }
            AggregatedMessage::Binary(_) => self.refuse(now),
            AggregatedMessage::Ping(payload) => self.send(&Frame::pong(&payload), now),
            AggregatedMessage::Pong(_) => {}
            AggregatedMessage::Close(reason) => {
                self.is_done = true;
                let code = reason.map_or(1000, |reason| reason.code.into());
                self.link.outbox.close(Close { code, reason: String::new() });
            }
        }
        None
    }

    /// Ends the connection of a client whose bytes make no sense.
    pub fn give_up(&mut self, error: &ReadError) {
        self.is_done = true;
        self.link.outbox.close(close_for(error));
    }

    /// Tells the client that something it sent was refused.
    pub fn report(&self, code: &'static str, detail: &str, now: Instant) {
        self.send(&Frame::of(&Notice::Error { code, detail }), now);
    }

    fn take_text(&mut self, text: &str, now: Instant) -> Option<Asked> {
        match ClientFrame::parse(text) {
            ClientFrame::Auth { .. } if !self.renewals.spend(now) => {
                let detail = "at most 10 AUTH at once, then one a second; the old token stays";
                self.report("RATE_LIMITED", detail, now);
            }
            ClientFrame::Auth { authorization } => {
                return Some(Asked::Renewal(authorization.into_owned()));
            }
            ClientFrame::Ping { cursor } => {
                self.send(&Frame::of(&Notice::Pong {}), now);
                return cursor
                    .and_then(|cursor| Cursor::parse(&cursor).ok())
                    .map(Asked::Acknowledgement);
            }
            ClientFrame::TooLarge => self.link.outbox.close(too_large()),
            ClientFrame::Other => self.refuse(now),
        }
        None
    }

    fn refuse(&mut self, now: Instant) {
        let (code, detail) = (
            "ONE_DIRECTIONAL",
            "clients only send PING and AUTH; messages are sent through the REST API",
        );
        if self.refused_at.is_some_and(|at| now.duration_since(at) < REFUSAL_MEMORY) {
            return self.link.outbox.close(Close::new(4400, code, detail));
        }
        self.refused_at = Some(now);
        self.report(code, detail, now);
    }

    fn send(&self, frame: &Frame, now: Instant) {
        self.link.outbox.push(frame, self.bounds, now);
    }
}

/// How many `AUTH` frames a client has sent lately, good and bad: the generic cell rate algorithm,
/// in one time.
#[derive(Default)]
struct Renewals {
    /// When all that were sent are forgotten.
    forgotten_at: Option<Instant>,
}

impl Renewals {
    /// Counts one more. False when it is one too many; then it counts for nothing.
    fn spend(&mut self, now: Instant) -> bool {
        let forgotten_at = self.forgotten_at.map_or(now, |at| at.max(now));
        if forgotten_at - now > RENEWAL_INTERVAL * (RENEWALS - 1) {
            return false;
        }
        self.forgotten_at = Some(forgotten_at + RENEWAL_INTERVAL);
        true
    }
}

fn too_large() -> Close {
    Close::new(1009, "PAYLOAD_TOO_LARGE", "a client's message has at most 1024 bytes")
}

/// RFC 6455 section 7.4.1: 1007 for text that is not UTF-8, 1009 for too much, 1002 for a broken
/// protocol.
fn close_for(error: &ReadError) -> Close {
    match error {
        ReadError::Refused(InboundRefusal::TooLarge)
        | ReadError::Protocol(ProtocolError::Overflow) => too_large(),
        ReadError::Refused(InboundRefusal::TooManyFrames) => {
            Close::new(4429, "RATE_LIMITED", "at most 60 frames at once, then 10 a second")
        }
        ReadError::Utf8 => Close::new(1007, "INVALID_UTF8", "text must be UTF-8"),
        ReadError::Protocol(_) => Close::new(1002, "PROTOCOL_ERROR", "the frame breaks RFC 6455"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_renewals_at_once_pass_and_then_one_a_second() {
        let start = Instant::now();
        let mut renewals = Renewals::default();
        let mut passed =
            |at: Duration, asked: u32| (0..asked).filter(|_| renewals.spend(start + at)).count();
        assert_eq!(passed(Duration::ZERO, 9), 9);
        assert_eq!(passed(Duration::ZERO, 5), 1);
        assert_eq!(passed(Duration::from_millis(999), 3), 0);
        assert_eq!(passed(Duration::from_secs(1), 3), 1);
        assert_eq!(passed(Duration::from_secs(4), 9), 3);
        assert_eq!(passed(Duration::from_secs(60), 20), 10);
    }
}
