//! An accepted connection, whichever listener it came by.

use crate::tls::TlsStream;
use socket2::SockRef;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a refused client is read on, so that it sees the answer before the connection ends.
pub(super) const LINGER: Duration = Duration::from_millis(500);
/// Read at once of what a refused client still sends.
const LINGER_BYTES: usize = 1_024;

/// How a connection reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Our own TLS.
    Tls,
    /// Plain HTTP on the proxy listener.
    Proxy,
}

/// A connection that bytes of HTTP or WebSocket go over.
pub enum Wire {
    /// With our own TLS.
    Tls(Box<TlsStream>),
    /// From a proxy that ends TLS.
    Plain(TcpStream),
}

impl Wire {
    /// How it reached us.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Tls(_) => Transport::Tls,
            Self::Plain(_) => Transport::Proxy,
        }
    }

    /// Bytes that were taken to be written and that the system has not taken yet.
    pub fn unsent_bytes(&self) -> usize {
        match self {
            Self::Tls(stream) => stream.unsent_bytes(),
            Self::Plain(_) => 0,
        }
    }

    /// Writes last words, within [`LINGER`], and then listens as [`Wire::linger`] does.
    pub async fn part(&mut self, words: &[u8]) {
        let said = timeout(LINGER, async {
            self.write_all(words).await?;
            self.shutdown().await
        });
        if matches!(said.await, Ok(Ok(()))) {
            self.linger().await;
        }
    }

    /// Reads on for [`LINGER`] at most, behind the last words: closing with unread bytes would reset
    /// the connection, and the client might never see them.
    pub async fn linger(&mut self) {
        let mut rest = [0; LINGER_BYTES];
        let read_on = async { while self.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
        timeout(LINGER, read_on).await.unwrap_or_default();
    }

    /// Lets the system forget what the other side has not taken, once this is dropped.
    pub fn abandon(&self) {
        let socket = match self {
            Self::Tls(stream) => SockRef::from(stream.socket()),
            Self::Plain(socket) => SockRef::from(socket),
        };
        if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection cannot be abandoned at once");
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
