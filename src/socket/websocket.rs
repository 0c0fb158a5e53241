//! One socket's life: the handshake, inbound frames, what is written, expiry, close.

use super::client_input::{Asked, ClientInput};
use super::reader::Reader;
use super::renewal::Renewal;
use super::sockets::{Held, Sockets};
use crate::relay::outbox::Batch;
use crate::relay::{Close, Frame, Link, OutboxBounds, Registration, Renewed};
use actix_web::body::BoxBody;
use actix_web::{Error, FromRequest, HttpRequest, HttpResponse, dev, web};
use bytes::BytesMut;
use futures_util::future::LocalBoxFuture;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// The WebSocket subprotocol that Herald speaks.
pub const SUBPROTOCOL: &str = "herald.v1";
/// How long a close waits for the client's answer.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a closed connection is read on: closing with unread bytes would reset it, and the
/// client might never see why.
const LINGER: Duration = Duration::from_millis(500);
/// Read from a socket at once. Clients send little.
const READ_BYTES: usize = 4 * 1_024;

/// A socket that waits for its connection: the extension of an answer that switches protocols.
pub struct Upgrade(Box<Parts>);

struct Parts {
    sockets: Sockets,
    client_input: ClientInput,
    /// None for a socket that was refused.
    registration: Option<Registration>,
    held: Held,
}

/// Answers the handshake with a socket that lives as long as `registration`. Errors: the handshake's
/// own, when the request is no WebSocket handshake (RFC 6455 section 4.2.1).
pub async fn accept(
    sockets: &Sockets,
    request: &HttpRequest,
    registration: Registration,
    held: Held,
) -> Result<HttpResponse, Error> {
    upgrade(request, Upgrade::accepted(sockets.clone(), registration, held)).await
}

/// Answers the handshake with a socket that is closed at once, so that a browser can read the
/// reason. Errors: as for `accept`.
pub async fn refuse(
    sockets: &Sockets,
    request: &HttpRequest,
    close: Close,
    held: Held,
) -> Result<HttpResponse, Error> {
    upgrade(request, Upgrade::refused(sockets.clone(), close, held)).await
}

/// The handshake is actix-ws'. Its session and stream are not used: they would hold a channel and
/// buffers a connection.
async fn upgrade(request: &HttpRequest, upgrade: Upgrade) -> Result<HttpResponse, Error> {
    let nothing = web::Payload::from_request(request, &mut dev::Payload::None).await?;
    let (response, _session, _stream) =
        actix_ws::handle_with_protocols(request, nothing, &[SUBPROTOCOL])?;
    let mut response = response.set_body(BoxBody::new(()));
    response.extensions_mut().insert(upgrade);
    Ok(response)
}

impl Upgrade {
    /// To a socket that lives as long as `registration`.
    fn accepted(sockets: Sockets, registration: Registration, held: Held) -> Self {
        let client_input = ClientInput::new(registration.link.clone(), sockets.0.bounds);
        let registration = Some(registration);
        Self(Box::new(Parts { sockets, client_input, registration, held }))
    }

    /// To a socket that is closed at once.
    fn refused(sockets: Sockets, close: Close, held: Held) -> Self {
        let link = Rc::new(Link::new(String::new()));
        link.outbox.close(close);
        let bounds = OutboxBounds { bytes: 0, stall: CLOSE_PATIENCE };
        let client_input = ClientInput::new(link, bounds);
        Self(Box::new(Parts { sockets, client_input, registration: None, held }))
    }

    /// Lives on `io` until it is closed; `read` is what was read of it behind the handshake. A drain
    /// waits for its registration.
    pub fn run<T: AsyncRead + AsyncWrite + Unpin + 'static>(
        self,
        io: T,
        read: BytesMut,
    ) -> LocalBoxFuture<'static, ()> {
        let Parts { sockets, client_input, registration, held } = *self.0;
        let socket = Open {
            io,
            sockets,
            client_input,
            reader: Reader::new(Instant::now()),
            registration,
            renewal: None,
            held,
            unsent: Vec::new(),
            sent: 0,
            is_blocked: false,
            ending_since: None,
        };
        Box::pin(Socket::Begun(Some(Box::new((socket, read)))))
    }
}

/// A socket's life. The boxes of its short stages keep it small.
#[expect(
    clippy::large_enum_variant,
    reason = "the largest is the stage that lasts; a box would be one more allocation"
)]
enum Socket<T> {
    /// What came behind the handshake is to be looked at.
    Begun(Option<Box<(Open<T>, BytesMut)>>),
    /// Frames come as they come.
    Open(Open<T>),
    /// The close frame is on its way, or behind it the client's.
    Leaving(LocalBoxFuture<'static, ()>),
}

/// An open socket.
struct Open<T> {
    io: T,
    sockets: Sockets,
    client_input: ClientInput,
    reader: Reader,
    /// None for a socket that was refused.
    registration: Option<Registration>,
    /// A new token on its way; what the client sends behind it waits.
    renewal: Option<Renewing>,
    held: Held,
    /// What `io` did not take of a write.
    unsent: Vec<u8>,
    /// How much of that it has taken since.
    sent: usize,
    /// Whether something that was handed to `io` is not sent yet.
    is_blocked: bool,
    /// Since when the connection is to end.
    ending_since: Option<Instant>,
}

/// How far a new token is.
enum Renewing {
    /// It is being verified.
    Verified(LocalBoxFuture<'static, Renewal>),
    /// It is good, and being worked out what its bearer hears.
    Authorized(Renewed),
}

/// How a socket goes on.
enum SocketStep {
    /// It waits for the client, the outbox or a renewal.
    Wait,
    /// This close frame is the last that is written.
    Leave(Close),
    /// The connection is gone.
    Gone,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Future for Socket<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Begun(begun) = &mut *self {
            let Some((mut open, read)) = begun.take().map(|begun| *begun) else {
                return Poll::Ready(());
            };
            open.take(&read);
            *self = Self::Open(open);
        }
        if let Self::Open(open) = &mut *self {
            match open.step(cx) {
                SocketStep::Wait => return Poll::Pending,
                step => {
                    let Self::Open(open) = std::mem::replace(&mut *self, Self::Begun(None)) else {
                        return Poll::Ready(());
                    };
                    *self = Self::Leaving(match step {
                        SocketStep::Leave(close) => Box::pin(open.leave(close)),
                        _ => Box::pin(open.vanish()),
                    });
                }
            }
        }
        match &mut *self {
            Self::Leaving(leaving) => leaving.as_mut().poll(cx),
            _ => Poll::Ready(()),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Open<T> {
    /// Reads what there is, then writes what there is.
    fn step(&mut self, cx: &mut Context<'_>) -> SocketStep {
        loop {
            if self.read(cx).is_err() {
                return SocketStep::Gone;
            }
            if !self.ends_renewal(cx) {
                break;
            }
        }
        match self.poll_write(cx) {
            Poll::Ready(Ok(close)) => SocketStep::Leave(close),
            Poll::Ready(Err(_)) => SocketStep::Gone,
            Poll::Pending if self.takes_too_long_to_end() => SocketStep::Gone,
            Poll::Pending => SocketStep::Wait,
        }
    }

    /// Reads until there is nothing left, or a new token is to be judged: what comes behind it waits.
    /// Errors: the connection is gone.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let sockets = self.sockets.clone();
        let incoming = &mut sockets.0.buffers.borrow_mut().incoming;
        incoming.resize(READ_BYTES, 0);
        self.take_messages();
        // Behind an error or a close frame nothing is read; what waits, and the close, are still to
        // be written.
        while !self.client_input.is_done() && self.renewal.is_none() {
            let mut buffer = ReadBuf::new(incoming);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(outcome) => outcome?,
            }
            match buffer.filled() {
                [] => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => self.take(bytes),
            }
        }
        Ok(())
    }

    /// Does what the client asks for.
    fn take(&mut self, bytes: &[u8]) {
        if let Err(error) = self.reader.receive(bytes, Instant::now()) {
            return self.client_input.give_up(&error);
        }
        self.take_messages();
    }

    /// Does what the whole messages ask for, up to a new token.
    fn take_messages(&mut self) {
        let now = Instant::now();
        while !self.client_input.is_done() && self.renewal.is_none() {
            let asked = match self.reader.next() {
                Ok(None) => return,
                Ok(Some(message)) => self.client_input.take(message, now),
                Err(error) => return self.client_input.give_up(&error),
            };
            match (asked, &self.registration) {
                (Some(Asked::Renewal(token)), Some(_)) => self.begin_renewal(token),
                (Some(Asked::Acknowledgement(cursor)), Some(registration)) => {
                    registration.acknowledge(cursor)
                }
                _ => {}
            }
        }
    }

    fn begin_renewal(&mut self, token: String) {
        let Some(registration) = &self.registration else { return };
        let Some(current) = registration.principal() else { return };
        let instance = registration.instance().clone();
        let verified = self.sockets.0.renewer.renew(current, instance, token);
        self.renewal = Some(Renewing::Verified(verified));
    }

    /// True when a new token holds, or is refused.
    fn ends_renewal(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let verified = match &mut self.renewal {
                None => return false,
                Some(Renewing::Verified(verified)) => verified.as_mut().poll(cx),
                Some(Renewing::Authorized(authorized)) => match Pin::new(authorized).poll(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(()) => {
                        self.renewal = None;
                        return true;
                    }
                },
            };
            let Poll::Ready(verified) = verified else { return false };
            self.renewal = None;
            match (verified, &self.registration) {
                (Renewal::Accepted(principal), Some(registration)) => {
                    self.renewal = Some(Renewing::Authorized(registration.renew(principal)));
                }
                (Renewal::Accepted(_), None) => return true,
                (Renewal::Refused { code, detail }, _) => {
                    self.client_input.report(code, &detail, Instant::now());
                    return true;
                }
                (Renewal::Ended(close), _) => {
                    self.client_input.link().outbox.close(close);
                    return true;
                }
            }
        }
    }

    /// Writes what waits, joined, once a turn, and takes no more than `io` takes; resolves to the
    /// close that is due. Errors: the connection is gone.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Close>> {
        let sockets = self.sockets.clone();
        let joined = &mut sockets.0.buffers.borrow_mut().joined;
        loop {
            // A socket that can be written to again waits for its turn as well: there may be
            // thousands.
            let has_something = self.is_blocked || self.client_input.link().outbox.has_something();
            if has_something && !self.registration.as_ref().is_none_or(Registration::take_turn) {
                self.client_input.link().outbox.wait_for_turn(cx);
                return Poll::Pending;
            }
            self.client_input.link().outbox.let_go();
            self.is_blocked = true;
            ready!(self.poll_unsent(cx))?;
            self.is_blocked = false;
            match ready!(self.client_input.link().outbox.poll_batch(cx, joined)) {
                Batch::Frame(frame) => self.write(cx, frame.bytes())?,
                Batch::Joined => self.write(cx, joined)?,
                Batch::Close(close) => {
                    tracing::debug!(
                        connection.id = self.client_input.link().id,
                        close.code = close.code,
                        "closing a socket"
                    );
                    return Poll::Ready(Ok(close));
                }
            }
            self.is_blocked = true;
            ready!(self.poll_unsent(cx))?;
            self.is_blocked = false;
        }
    }

    /// Writes once; what is not taken is kept.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let taken = match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        if taken < bytes.len() {
            self.unsent.extend_from_slice(&bytes[taken..]);
        }
        Ok(())
    }

    /// Writes what was kept, and lets `io` send what it keeps itself.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.sent += taken,
            }
        }
        if self.sent > 0 {
            (self.unsent, self.sent) = (Vec::new(), 0);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Whether what stands before the close frame is not taken either: a client that reads a byte
    /// now and then holds no connection that is over. The tick looks at those that end.
    fn takes_too_long_to_end(&mut self) -> bool {
        if !self.client_input.link().outbox.is_ending() {
            return false;
        }
        self.ending_since.get_or_insert_with(Instant::now).elapsed()
            >= self.client_input.bounds().stall
    }

    /// The connection is gone already.
    async fn vanish(self) {
        let Self { io, registration, held, .. } = self;
        deregister(registration, (held, io)).await;
    }

    /// Writes the close frame, waits for the client's, and ends the connection; each for a short
    /// time only.
    async fn leave(self, close: Close) {
        let Self { mut io, mut client_input, mut reader, registration, held, .. } = self;
        let farewell = Frame::close(&close);
        let written = timeout(client_input.bounds().stall, async {
            io.write_all(farewell.bytes()).await?;
            io.flush().await
        });
        let is_written = matches!(written.await, Ok(Ok(())));
        if is_written && !client_input.is_done() {
            let answered =
                timeout(CLOSE_PATIENCE, hear_close(&mut io, &mut reader, &mut client_input));
            answered.await.unwrap_or_default();
        }
        deregister(registration, held).await;
        if is_written {
            timeout(LINGER, linger(&mut io)).await.unwrap_or_default();
        }
    }
}

/// Leaves every index, at its turn: thousands may go at once.
async fn deregister(registration: Option<Registration>, held: impl Sized) {
    match registration.as_ref().map(|registration| registration.worker().admittance().clone()) {
        Some(admittance) => admittance.in_turn(|| drop((registration, held))).await,
        None => drop(held),
    }
}

/// Reads until the client's close frame, its end, or something that makes no sense.
async fn hear_close<T: AsyncRead + Unpin>(
    io: &mut T,
    reader: &mut Reader,
    client_input: &mut ClientInput,
) {
    let mut bytes = [0; 256];
    loop {
        // Something may have come already, behind a token that was being judged.
        while let Ok(Some(message)) = reader.next() {
            client_input.take(message, Instant::now());
        }
        if client_input.is_done() {
            return;
        }
        let Ok(read @ 1..) = io.read(&mut bytes).await else { return };
        if reader.receive(&bytes[..read], Instant::now()).is_err() {
            return;
        }
    }
}

/// Says that nothing more comes, and reads until the other side ends too.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) {
    if io.shutdown().await.is_err() {
        return;
    }
    let mut bytes = [0; 1_024];
    while io.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}
