//! A TLS connection that holds no buffer while nothing is under way: rustls' unbuffered interface
//! over a socket.

use super::records::{Drained, Session};
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Read from the socket at once; a whole record (RFC 8446 section 5.2: 16,640 bytes and its header)
/// fits.
const READ_BYTES: usize = 17 * 1_024;
/// Most ciphertext that may wait for the rest of a handshake message (RFC 8446 section 4: 24 bits
/// of length, of which rustls takes 65,535) or of a record.
const MAX_INCOMPLETE_BYTES: usize = 80 * 1_024;
/// Most plaintext that is encrypted at once.
const WRITE_BYTES: usize = 64 * 1_024;

/// What all connections of a thread read into and encrypt into, one at a time: none needs buffers
/// of its own for that.
#[derive(Clone, Debug, Default)]
pub struct Scratch(Rc<RefCell<Buffers>>);

#[derive(Debug, Default)]
struct Buffers {
    /// Ciphertext that was just read.
    incoming: Vec<u8>,
    /// Ciphertext that is about to be written.
    outgoing: Vec<u8>,
}

/// The server's end of a TLS connection. What it holds between two records is rustls' own state and
/// what the other side has not taken or not completed; a connection on which nothing is under way
/// holds no buffer.
pub struct TlsStream {
    socket: TcpStream,
    session: Session,
    /// Ciphertext that is no whole record yet.
    incomplete: Vec<u8>,
    /// Plaintext that the reader had no room for.
    unread: Vec<u8>,
    /// How much of that was read.
    read: usize,
    /// Ciphertext that the socket has not taken yet.
    unsent: Vec<u8>,
    /// How much of that was sent.
    sent: usize,
    /// The other side sends nothing more.
    is_over: bool,
    scratch: Scratch,
}

impl TlsStream {
    /// A connection on which no byte was exchanged. Errors: rustls' own, for settings that it
    /// refuses.
    pub fn new(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        scratch: Scratch,
    ) -> Result<Self, rustls::Error> {
        let session = Session::new(UnbufferedServerConnection::new(config)?);
        Ok(Self {
            socket,
            session,
            incomplete: Vec::new(),
            unread: Vec::new(),
            read: 0,
            unsent: Vec::new(),
            sent: 0,
            is_over: false,
            scratch,
        })
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Ciphertext that the socket has not taken yet, in bytes.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Waits until the socket has something to read: the next [`TlsStream::advance`] will not be in
    /// vain. Errors: the socket's.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes what has come of the handshake one step further, without waiting: this is where its
    /// arithmetic happens. What is to be sent is sent by `flush`. Errors: the socket's, its end,
    /// and rustls' as `InvalidData`.
    pub fn advance(&mut self) -> io::Result<()> {
        let read = |socket: &mut TcpStream, incoming: &mut ReadBuf<'_>| {
            match socket.try_read(incoming.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                outcome => incoming.advance(outcome?),
            }
            Poll::Ready(Ok(()))
        };
        match self.receive(&mut ReadBuf::new(&mut []), read) {
            Poll::Ready(Ok(())) if self.is_over => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Ok(()),
        }
    }

    /// Waits until everything is sent. Errors: the socket's.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Reads once from the socket by `read` and decrypts it, into `buffer` as far as it has room.
    /// Errors: the socket's, and rustls'.
    fn receive(
        &mut self,
        buffer: &mut ReadBuf<'_>,
        read: impl FnOnce(&mut TcpStream, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let scratch = self.scratch.clone();
        let incoming = &mut scratch.0.borrow_mut().incoming;
        incoming.resize(incoming.len().max(READ_BYTES + MAX_INCOMPLETE_BYTES), 0);
        let before = self.incomplete.len();
        if before > MAX_INCOMPLETE_BYTES {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a TLS message without an end",
            )));
        }
        let mut room = ReadBuf::new(&mut incoming[before..before + READ_BYTES]);
        ready!(read(&mut self.socket, &mut room))?;
        let read = room.filled().len();
        if read == 0 {
            self.is_over = true;
            return Poll::Ready(Ok(()));
        }
        incoming[..before].copy_from_slice(&self.incomplete);
        let whole = &mut incoming[..before + read];
        let unread = &mut self.unread;
        let take = |payload: &[u8]| {
            let room = if unread.is_empty() { payload.len().min(buffer.remaining()) } else { 0 };
            buffer.put_slice(&payload[..room]);
            unread.extend_from_slice(&payload[room..]);
        };
        let drained = self.session.receive(whole, take, &mut self.unsent);
        let Drained { used, is_over } =
            drained.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.is_over |= is_over;
        keep(&mut self.incomplete, &whole[used..]);
        Poll::Ready(Ok(()))
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            match self.socket.try_write(&self.unsent[self.sent..]) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        (self.unsent, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Encrypts and sends; keeps what the socket does not take at once. Nothing else may wait to be
    /// sent.
    fn send(&mut self, plaintext: &[u8]) -> io::Result<()> {
        let scratch = self.scratch.clone();
        let outgoing = &mut scratch.0.borrow_mut().outgoing;
        let length = self
            .session
            .encrypt(plaintext, &mut self.incomplete, outgoing)
            .map_err(io::Error::other)?;
        let sent = match self.socket.try_write(&outgoing[..length]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            outcome => outcome?,
        };
        self.unsent.extend_from_slice(&outgoing[sent..length]);
        Ok(())
    }
}

#[cfg(test)]
impl TlsStream {
    /// Bytes of all buffers that it holds.
    pub fn held_bytes(&self) -> usize {
        self.incomplete.capacity() + self.unread.capacity() + self.unsent.capacity()
    }
}

/// Makes `kept` hold these bytes, and no memory where there are none.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        *kept = Vec::new();
    } else {
        kept.clear();
        kept.extend_from_slice(bytes);
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = &mut *self;
        let before = buffer.filled().len();
        loop {
            if stream.read < stream.unread.len() {
                let left = &stream.unread[stream.read..];
                let taken = left.len().min(buffer.remaining());
                buffer.put_slice(&left[..taken]);
                stream.read += taken;
                if stream.read == stream.unread.len() {
                    (stream.unread, stream.read) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            if stream.is_over || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            // By tokio's own reading, which knows from a short one that nothing more is there and
            // does not ask again.
            let read = |socket: &mut TcpStream, incoming: &mut ReadBuf<'_>| {
                Pin::new(socket).poll_read(cx, incoming)
            };
            let outcome = ready!(stream.receive(buffer, read));
            // What rustls answers by itself, such as an alert. What the socket does not take of it
            // now goes before the next write.
            let sent = stream.poll_send(cx);
            outcome?;
            if let Poll::Ready(sent) = sent {
                sent?;
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plaintext: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let taken = &plaintext[..plaintext.len().min(WRITE_BYTES)];
        self.send(taken)?;
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut *self;
        stream.session.close(&mut stream.incomplete, &mut stream.unsent);
        ready!(stream.poll_send(cx))?;
        Pin::new(&mut stream.socket).poll_shutdown(cx)
    }
}
