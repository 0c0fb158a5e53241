//! An accepted connection with its place, which it gives up when it is told to go.

use super::exchange::Exchange;
use super::paced::{PaceSettings, Paced};
use super::places::{Occupancy, Place};
use super::register::Stage;
use super::unfinished::Unfinished;
use super::wire::{Transport, Wire};
use futures_util::future::LocalBoxFuture;
use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection's task goes on with once HTTP is done with it.
pub(super) type Afterwards = Rc<Cell<Option<Socket>>>;

/// What a connection is once it is a socket.
pub(super) struct Socket {
    /// Resolves once it is closed.
    pub life: LocalBoxFuture<'static, ()>,
    /// To be dropped after it.
    pub place: Place,
}

/// What HTTP is spoken on. Told to go, it ends as if the other side had ended it, and waits for
/// nobody who does not take what is written; also where its pace reads nothing of the wire.
pub struct Connection {
    /// Dropped before its place.
    paced: Paced,
    place: Place,
    /// Whether no byte has come yet.
    is_silent: bool,
    /// Where its socket is left, if it becomes one.
    afterwards: Afterwards,
}

impl Connection {
    /// On a wire on which TLS, if any, was agreed upon.
    pub(super) fn new(
        wire: Wire,
        pace: (Arc<PaceSettings>, Unfinished),
        client: Option<IpAddr>,
        place: Place,
        afterwards: Afterwards,
    ) -> Self {
        let is_silent = wire.transport() == Transport::Proxy;
        let paced = Paced::new(wire, pace.0, pace.1, client);
        Self { paced, place, is_silent, afterwards }
    }

    /// How it reached us.
    pub fn transport(&self) -> Transport {
        self.paced.transport()
    }

    /// For its requests.
    pub fn occupancy(&self) -> Occupancy {
        self.place.occupancy().clone()
    }

    /// For those who answer its requests.
    pub fn exchange(&self) -> Exchange {
        self.paced.exchange()
    }

    /// Its place, which is to be dropped last; its wire, which nobody tells to go any more; and where
    /// to leave its socket.
    pub(super) fn into_parts(self) -> (Place, Paced, Afterwards) {
        (self.place, self.paced, self.afterwards)
    }

    /// The first byte has come.
    fn hear(&mut self) -> io::Result<()> {
        self.is_silent = false;
        self.place.enter(Stage::Idle).map_err(io::Error::other)
    }

    /// Who must go waits for no room in the socket.
    fn unless_it_must_go<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Pending if self.place.must_go() => {
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
        match Pin::new(&mut connection.paced).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if connection.is_silent => Poll::Ready(connection.hear()),
            Poll::Pending => connection.place.poll_must_go(cx).map(Ok),
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
        let written = Pin::new(&mut connection.paced).poll_write(cx, bytes);
        connection.unless_it_must_go(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let flushed = Pin::new(&mut connection.paced).poll_flush(cx);
        connection.unless_it_must_go(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let ended = Pin::new(&mut connection.paced).poll_shutdown(cx);
        connection.unless_it_must_go(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::super::exchange::AnnouncedBody;
    use super::super::places::Places;
    use super::super::register::PlaceSettings;
    use super::super::unfinished::UnfinishedBounds;
    use super::*;
    use futures_util::FutureExt;
    use std::net::IpAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[actix_web::test]
    async fn who_is_held_back_while_a_request_is_answered_goes_when_told_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut peer, wire) = (peer.unwrap(), Wire::Plain(accepted.unwrap().0));
        let [connections, spare, handshakes_per_address, http_per_address] = [1, 0, 9, 9];
        let settings =
            PlaceSettings { connections, spare, handshakes_per_address, http_per_address };
        let (places, client) = (Places::new(settings), Some(IpAddr::from([192, 0, 2, 1])));
        let bounds = UnfinishedBounds { process: 9_000, instance: 0, address: 9_000 };
        let pace = (PaceSettings::of_a_test().into(), Unfinished::new(bounds));
        let place = places.take(client).unwrap();
        let mut connection = Connection::new(wire, pace, client, place, Afterwards::default());
        let mut buffer = [0; 1_024];
        peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 18);
        let _answering = connection.exchange().answering(AnnouncedBody::None);
        // More than is read ahead: from then on nobody looks at the wire.
        peer.write_all(&[b'x'; 100_000]).await.unwrap();
        for _ in 0..1_000 {
            assert!(connection.read(&mut buffer).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        let newcomer = async {
            tokio::task::yield_now().await;
            places.take(client).unwrap()
        };
        let (read, _newcomer) = tokio::join!(connection.read(&mut buffer), newcomer);
        assert_eq!(read.unwrap(), 0);
    }
}
