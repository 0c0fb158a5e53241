//! An accepted connection with its place, which it gives up when it is told to go.

use super::places::{Occupancy, Place};
use super::register::Stage;
use super::wire::{Transport, Wire};
use futures_util::future::LocalBoxFuture;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection's task goes on with once HTTP is done with it.
pub(super) type Afterwards = Rc<Cell<Option<LocalBoxFuture<'static, ()>>>>;

/// What HTTP and WebSocket are spoken on. Told to go, it ends as if the other side had ended it,
/// and waits for nobody who does not take what is written.
pub struct Connection {
    /// Dropped before its place.
    wire: Wire,
    place: Place,
    /// Whether no byte has come yet.
    is_silent: bool,
    /// Whether it may be told to go.
    may_go: bool,
    /// Where its socket is left, if it becomes one.
    afterwards: Afterwards,
}

impl Connection {
    /// On a wire on which TLS, if any, was agreed upon.
    pub(super) fn new(wire: Wire, place: Place, afterwards: Afterwards) -> Self {
        let is_silent = wire.transport() == Transport::Proxy;
        Self { wire, place, is_silent, may_go: true, afterwards }
    }

    /// How it reached us.
    pub fn transport(&self) -> Transport {
        self.wire.transport()
    }

    /// For its requests.
    pub fn occupancy(&self) -> Occupancy {
        self.place.occupancy().clone()
    }

    /// It is a socket from now on, and never gives way.
    pub(super) fn stay(&mut self) {
        self.may_go = false;
        self.place.occupancy().stay();
    }

    /// Where to leave its socket.
    pub(super) fn afterwards(&self) -> Afterwards {
        self.afterwards.clone()
    }

    /// The first byte has come.
    fn hear(&mut self) -> io::Result<()> {
        self.is_silent = false;
        self.place.enter(Stage::Idle).map_err(io::Error::other)
    }

    /// Who must go waits for no room in the socket.
    fn unless_it_must_go<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Pending if self.may_go && self.place.must_go() => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            outcome => outcome,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        match Pin::new(&mut connection.wire).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if connection.is_silent => Poll::Ready(connection.hear()),
            Poll::Pending if connection.may_go => connection.place.poll_must_go(cx).map(Ok),
            outcome => outcome,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        let written = Pin::new(&mut connection.wire).poll_write(cx, bytes);
        connection.unless_it_must_go(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let flushed = Pin::new(&mut connection.wire).poll_flush(cx);
        connection.unless_it_must_go(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let ended = Pin::new(&mut connection.wire).poll_shutdown(cx);
        connection.unless_it_must_go(ended)
    }
}
