//! One socket's life: inbound frames, keep-alive, expiry, close.

use super::Registration;
use super::client_frame::{ClientFrame, MAX_TEXT_BYTES};
use super::frame::{Close, Frame, Notice};
use super::inbound::{Bounded, InboundRefusal, MAX_MESSAGE_BYTES};
use super::outbox::{Next, OutboxBounds};
use super::renewal::{Renewal, Renewer};
use super::shard::Link;
use crate::domain::cursor::Cursor;
use actix_http::ws::ProtocolError;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::error::PayloadError;
use actix_web::{Error, FromRequest, HttpRequest, HttpResponse, dev, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::LocalBoxFuture;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The WebSocket subprotocol that Herald speaks.
pub const SUBPROTOCOL: &str = "herald.v1";
/// A second refused frame within this time ends the connection.
const REFUSAL_MEMORY: Duration = Duration::from_secs(60);
/// How long a close waits for the client's answer.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// What a socket holds as long as it is open, such as its place among the sockets of its address.
pub type Held = Box<dyn std::any::Any>;

/// What a socket is given beside its registration.
pub struct Terms {
    /// Of its outbox.
    pub bounds: OutboxBounds,
    /// Verifies new tokens.
    pub renewer: Arc<dyn Renewer>,
    /// Dropped with the socket.
    pub held: Held,
}

/// Answers the handshake with a socket that lives as long as `registration`. Errors: the handshake's own, when the
/// request is no WebSocket handshake (RFC 6455 section 4.2.1).
pub async fn accept(
    request: &HttpRequest,
    payload: dev::Payload,
    registration: Registration,
    terms: Terms,
) -> Result<HttpResponse, Error> {
    let (response, stream) = upgrade(request, payload).await?;
    let Terms { bounds, renewer, held } = terms;
    let inbound = Inbound::new(registration.link.clone(), bounds);
    let admitted = Some(Admitted { registration, renewer });
    Ok(response.map_body(|_, _handshake| {
        Socket { stream, inbound, _handshake, admitted, renewal: None, _held: held, closed_at: None }.boxed()
    }))
}

/// Answers the handshake with a socket that is closed at once, so that a browser can read the reason.
pub async fn refuse(
    request: &HttpRequest,
    payload: dev::Payload,
    close: Close,
    held: Held,
) -> Result<HttpResponse, Error> {
    let (response, stream) = upgrade(request, payload).await?;
    let link = Rc::new(Link::new(String::new()));
    link.outbox.close(close);
    let bounds = OutboxBounds { bytes: 0, stall: CLOSE_PATIENCE };
    let inbound = Inbound::new(link.clone(), bounds);
    // No shard ticks for a socket that was never registered: this wakes it when its time is over.
    actix_web::rt::spawn(async move {
        tokio::time::sleep(CLOSE_PATIENCE).await;
        link.outbox.wake();
    });
    Ok(response.map_body(|_, _handshake| {
        Socket { stream, inbound, _handshake, admitted: None, renewal: None, _held: held, closed_at: None }.boxed()
    }))
}

async fn upgrade(
    request: &HttpRequest,
    payload: dev::Payload,
) -> Result<(HttpResponse, AggregatedMessageStream), Error> {
    let bounded: dev::Payload = dev::Payload::Stream { payload: Box::pin(Bounded::new(payload)) };
    let payload = web::Payload::from_request(request, &mut { bounded }).await?;
    let (response, _session, stream) = actix_ws::handle_with_protocols(request, payload, &[SUBPROTOCOL])?;
    let stream = stream.max_frame_size(MAX_MESSAGE_BYTES).aggregate_continuations();
    Ok((response, stream.max_continuation_size(MAX_MESSAGE_BYTES)))
}

/// The response's body: it yields what the outbox holds and reads what the client sends, in the dispatcher's own task.
struct Socket {
    /// What the client sends, decoded by actix-ws.
    stream: AggregatedMessageStream,
    inbound: Inbound,
    /// actix-ws' own body; its end would end the stream.
    _handshake: BoxBody,
    /// None for a socket that was refused.
    admitted: Option<Admitted>,
    /// A new token that is being verified; a newer one takes its place.
    renewal: Option<LocalBoxFuture<'static, Renewal>>,
    _held: Held,
    /// When the close frame was handed to the dispatcher.
    closed_at: Option<Instant>,
}

/// What a socket has that was let in.
struct Admitted {
    registration: Registration,
    renewer: Arc<dyn Renewer>,
}

impl MessageBody for Socket {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let socket = &mut *self;
        // Behind an error or a close frame the stream only ends; what waits, and the close, are still to be written.
        while !socket.inbound.close_received {
            let Poll::Ready(item) = Pin::new(&mut socket.stream).poll_next(cx) else { break };
            let Some(message) = item else { return Poll::Ready(None) };
            match (socket.inbound.take(message), &socket.admitted) {
                (Some(Asked::Renewal(token)), Some(_)) => socket.begin_renewal(token),
                (Some(Asked::Acknowledgement(cursor)), Some(admitted)) => admitted.registration.acknowledge(cursor),
                _ => {}
            }
        }
        socket.poll_renewal(cx);
        match socket.inbound.link.outbox.poll_next(cx, Instant::now) {
            Poll::Ready(Next::Frame(frame)) => Poll::Ready(Some(Ok(frame.into_bytes()))),
            Poll::Ready(Next::Close(close)) => {
                socket.closed_at = Some(Instant::now());
                tracing::debug!(connection.id = socket.inbound.link.id, close.code = close.code, "closing a socket");
                Poll::Ready(Some(Ok(Frame::close(&close).into_bytes())))
            }
            Poll::Pending if socket.is_over() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Socket {
    fn begin_renewal(&mut self, token: String) {
        let Some(Admitted { registration, renewer }) = &self.admitted else { return };
        let Some(current) = registration.principal() else { return };
        self.renewal = Some(renewer.renew(current, registration.instance().clone(), token));
    }

    fn poll_renewal(&mut self, cx: &mut Context<'_>) {
        let Some(Poll::Ready(renewal)) = self.renewal.as_mut().map(|renewal| renewal.as_mut().poll(cx)) else { return };
        self.renewal = None;
        let Some(Admitted { registration, .. }) = &self.admitted else { return };
        match renewal {
            Renewal::Accepted(principal) => registration.renew(principal),
            Renewal::Refused { code, detail } => {
                self.inbound.send(&Frame::of(&Notice::Error { code, detail: &detail }), Instant::now());
            }
            Renewal::Ended(close) => self.inbound.link.outbox.close(close),
        }
    }

    /// Both sides have said goodbye, or the client had its time to.
    fn is_over(&self) -> bool {
        self.closed_at.is_some_and(|at| self.inbound.close_received || at.elapsed() >= CLOSE_PATIENCE)
    }
}

/// What a client's frame asks for beyond an answer.
enum Asked {
    /// This token instead of the old one.
    Renewal(String),
    /// Everything up to here was heard.
    Acknowledgement(Cursor),
}

/// Judges what the client sends.
struct Inbound {
    link: Rc<Link>,
    bounds: OutboxBounds,
    /// When a frame was last refused.
    refused_at: Option<Instant>,
    /// Whether the client has sent its close frame, or can send nothing sensible any more.
    close_received: bool,
}

impl Inbound {
    fn new(link: Rc<Link>, bounds: OutboxBounds) -> Self {
        Self { link, bounds, refused_at: None, close_received: false }
    }

    /// Answers what can be answered at once; what is left to do.
    fn take(&mut self, message: Result<AggregatedMessage, ProtocolError>) -> Option<Asked> {
        let now = Instant::now();
        self.link.last_heard.set(now);
        match message {
            Ok(AggregatedMessage::Text(text)) => return self.take_text(&text, now),
            Ok(AggregatedMessage::Binary(bytes)) if bytes.len() > MAX_TEXT_BYTES => self.link.outbox.close(too_large()),
            Ok(AggregatedMessage::Binary(_)) => self.refuse(now),
            Ok(AggregatedMessage::Ping(payload)) => self.send(&Frame::pong(&payload), now),
            Ok(AggregatedMessage::Pong(_)) => {}
            Ok(AggregatedMessage::Close(reason)) => {
                self.close_received = true;
                let code = reason.map_or(1000, |reason| reason.code.into());
                self.link.outbox.close(Close { code, reason: String::new() });
            }
            Err(error) => {
                self.close_received = true;
                self.link.outbox.close(close_for(&error));
            }
        }
        None
    }

    fn take_text(&mut self, text: &str, now: Instant) -> Option<Asked> {
        match ClientFrame::parse(text) {
            ClientFrame::Auth { authorization } => return Some(Asked::Renewal(authorization.into_owned())),
            ClientFrame::Ping { cursor } => {
                self.send(&Frame::of(&Notice::Pong {}), now);
                return cursor.and_then(|cursor| Cursor::parse(&cursor).ok()).map(Asked::Acknowledgement);
            }
            ClientFrame::TooLarge => self.link.outbox.close(too_large()),
            ClientFrame::Other => self.refuse(now),
        }
        None
    }

    fn refuse(&mut self, now: Instant) {
        let (code, detail) =
            ("ONE_DIRECTIONAL", "clients only send PING and AUTH; messages are sent through the REST API");
        if self.refused_at.is_some_and(|at| now.duration_since(at) < REFUSAL_MEMORY) {
            return self.link.outbox.close(Close::new(4400, code, detail));
        }
        self.refused_at = Some(now);
        self.send(&Frame::of(&Notice::Error { code, detail }), now);
    }

    fn send(&self, frame: &Frame, now: Instant) {
        self.link.outbox.push(frame, self.bounds, now);
    }
}

fn too_large() -> Close {
    Close::new(1009, "PAYLOAD_TOO_LARGE", "a client's message has at most 1024 bytes")
}

/// RFC 6455 section 7.4.1: 1007 for text that is not UTF-8, 1009 for too much, 1002 for a broken protocol.
fn close_for(error: &ProtocolError) -> Close {
    let ProtocolError::Io(error) = error else {
        return match error {
            ProtocolError::Overflow => too_large(),
            _ => Close::new(1002, "PROTOCOL_ERROR", "the frame breaks RFC 6455"),
        };
    };
    if let Some(refusal) = inbound_refusal(error) {
        return match refusal {
            InboundRefusal::TooLarge => too_large(),
            InboundRefusal::TooManyFrames => {
                Close::new(4429, "RATE_LIMITED", "at most 60 frames at once, then 10 a second")
            }
        };
    }
    match is_utf8_error(error) {
        true => Close::new(1007, "INVALID_UTF8", "text must be UTF-8"),
        false => Close::new(1002, "PROTOCOL_ERROR", "the frame breaks RFC 6455"),
    }
}

fn inbound_refusal(error: &std::io::Error) -> Option<InboundRefusal> {
    let PayloadError::Io(inner) = error.get_ref()?.downcast_ref::<PayloadError>()? else { return None };
    inner.get_ref()?.downcast_ref::<InboundRefusal>().copied()
}

/// actix-ws hands over the error itself for a whole text and only its words for one in fragments; for reserved bits it
/// uses the same kind with other words.
fn is_utf8_error(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData && error.to_string().contains("utf-8")
}
