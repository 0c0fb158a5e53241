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
    /// Whether the client has sent its close frame, or can send nothing sensible any more.
    is_done: bool,
}

impl ClientInput {
    /// Of the client behind `link`.
    pub fn new(link: Rc<Link>, bounds: OutboxBounds) -> Self {
        Self { link, bounds, refused_at: None, is_done: false }
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
