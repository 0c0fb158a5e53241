//! From an accepted socket to a connection that HTTP is spoken on: a place, socket options, TLS.

use super::connection::{Afterwards, Connection, Socket};
use super::handshake::Handshakes;
use super::paced::PaceSettings;
use super::places::{Place, Places};
use super::register::Stage;
use super::unfinished::Unfinished;
use super::wire::Wire;
use crate::admittance::Admittance;
use actix_http::Protocol;
use actix_http::error::DispatchError;
use actix_service::{Service, ServiceFactory};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use ipnet::IpNet;
use rustls::ServerConfig;
use socket2::SockRef;
use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// What every accepted socket is set to.
#[derive(Clone, Debug)]
pub struct AcceptSettings {
    /// `TCP_USER_TIMEOUT`: a peer that reads nothing for so long is cut, whatever the layers above
    /// do.
    pub user_timeout: Duration,
    /// `SO_SNDBUF` in bytes; 0 leaves the system's own tuning.
    pub send_buffer_bytes: usize,
    /// TLS handshakes under way in one worker; those beyond them wait for their turn.
    pub handshakes: usize,
    /// How long the requests on it may take.
    pub pace: Arc<PaceSettings>,
    /// Where their heads are counted that have begun and not ended.
    pub unfinished: Unfinished,
    /// What a client is told whose address has the connections that it may: a whole answer.
    pub crowded: Bytes,
}

/// Speaks HTTP on accepted sockets, on one worker: a place, options, TLS for clients, then `http`
/// until the connection is closed.
pub struct Acceptor<H> {
    settings: AcceptSettings,
    guests: Guests,
    places: Places,
    handshakes: Handshakes,
    http: H,
}

/// Who comes to a listener.
#[derive(Clone)]
pub enum Guests {
    /// Clients, with our own TLS.
    Clients(Arc<ServerConfig>),
    /// These proxies, which name their clients.
    Proxies(Arc<[IpNet]>),
    /// Operators, in plain HTTP.
    Operators,
}

/// What HTTP is spoken on, which version of it, and with whom.
type Accepted = (Connection, Protocol, Option<SocketAddr>);

impl<H> Acceptor<H> {
    /// With places among `places`; computing handshakes waits at `admittance`.
    pub fn new(
        settings: AcceptSettings,
        guests: Guests,
        places: Places,
        admittance: Admittance,
        http: H,
    ) -> Self {
        let handshakes = Handshakes::new(settings.handshakes, admittance, places.clone());
        Self { settings, guests, places, handshakes, http }
    }
}

impl<H> ServiceFactory<TcpStream> for Acceptor<H>
where
    H: ServiceFactory<Accepted, Config = (), Response = (), Error = DispatchError, InitError = ()>,
    H::Future: 'static,
    H::Service: 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Config = ();
    type Service = AcceptorService<H::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, _: ()) -> Self::Future {
        let Self { settings, guests, places, handshakes, http } = self;
        let (settings, guests, http) = (settings.clone(), guests.clone(), http.new_service(()));
        let (places, handshakes) = (places.clone(), handshakes.clone());
        Box::pin(async move {
            let http = Rc::new(http.await?);
            Ok(AcceptorService { settings, guests, places, handshakes, http })
        })
    }
}

/// A worker's acceptor.
pub struct AcceptorService<S> {
    settings: AcceptSettings,
    guests: Guests,
    places: Places,
    handshakes: Handshakes,
    http: Rc<S>,
}

impl<S> Service<TcpStream> for AcceptorService<S>
where
    S: Service<Accepted, Response = (), Error = DispatchError> + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Future = LocalBoxFuture<'static, Result<(), DispatchError>>;

    /// Whoever comes is looked at, since there are always places for being sent away: a worker that
    /// takes nobody would leave those who wait without an answer.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        self.http.poll_ready(cx)
    }

    fn call(&self, socket: TcpStream) -> Self::Future {
        let Ok(peer) = socket.peer_addr() else { return Box::pin(ready(Ok(()))) };
        let place = match self.places.take(self.guests.client(peer.ip())) {
            Ok(place) => place,
            Err(error) => {
                tracing::debug!(%error, "a connection is closed at once");
                return Box::pin(ready(Ok(())));
            }
        };
        if let Err(error) = set(SockRef::from(&socket), &self.settings) {
            tracing::warn!(%error, "a socket option could not be set");
        }
        let (http, afterwards) = (self.http.clone(), Afterwards::default());
        let connecting = self.connect(socket, peer, place, afterwards.clone());
        // A box that is given back once HTTP is done: a socket holds nothing of it.
        let served = Box::pin(async move {
            let connection = connecting.await?;
            http.call((connection, Protocol::Http1, Some(peer))).await?;
            Ok(afterwards.take())
        });
        Box::pin(live(served))
    }
}

/// Lets a connection be served, and live on as a socket if it became one. Its socket lives in this
/// task, which actix counts as an open connection: so it accepts no more than there are files for,
/// however fast they come.
async fn live<E>(served: impl Future<Output = Result<Option<Socket>, E>>) -> Result<(), E> {
    let Some(Socket { life, place }) = served.await? else { return Ok(()) };
    life.await;
    drop(place);
    Ok(())
}

impl<S> AcceptorService<S> {
    fn connect(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        place: Place,
        afterwards: Afterwards,
    ) -> LocalBoxFuture<'static, io::Result<Connection>> {
        let pace = (self.settings.pace.clone(), self.settings.unfinished.clone());
        let client = self.guests.client(peer.ip());
        let Guests::Clients(tls) = &self.guests else {
            let wire = Wire::Plain(socket);
            let connection = Connection::new(wire, pace, client, place, afterwards);
            return Box::pin(ready(Ok(connection)));
        };
        let (handshakes, tls) = (self.handshakes.clone(), tls.clone());
        let crowded = self.settings.crowded.clone();
        Box::pin(async move {
            let stream = handshakes.shake(socket, tls, peer.ip(), &place).await?;
            let mut wire = Wire::Tls(Box::new(stream));
            if let Err(error) = place.enter(Stage::Idle) {
                wire.part(&crowded).await;
                return Err(io::Error::other(error));
            }
            Ok(Connection::new(wire, pace, client, place, afterwards))
        })
    }
}

impl Guests {
    /// Whom a connection from this address counts for; none for a proxy's.
    fn client(&self, peer: IpAddr) -> Option<IpAddr> {
        let peer = peer.to_canonical();
        match self {
            Self::Proxies(proxies) if proxies.iter().any(|network| network.contains(&peer)) => None,
            _ => Some(peer),
        }
    }
}

fn set(socket: SockRef<'_>, settings: &AcceptSettings) -> io::Result<()> {
    // A frame must not wait for the acknowledgement of the one before it, nor a handshake for its
    // delay of 40 ms.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    if settings.send_buffer_bytes > 0 {
        socket.set_send_buffer_size(settings.send_buffer_bytes)?;
    }
    set_user_timeout(socket, settings.user_timeout)
}

#[cfg(target_os = "linux")]
fn set_user_timeout(socket: SockRef<'_>, timeout: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(timeout))
}

#[cfg(not(target_os = "linux"))]
fn set_user_timeout(_: SockRef<'_>, _: Duration) -> io::Result<()> {
    Ok(())
}
