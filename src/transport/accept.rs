//! From an accepted socket to a connection that HTTP can be spoken on: socket options, then TLS.

use super::{PaceSettings, Paced, Wire};
use crate::admittance::Admittance;
use crate::tls::{Scratch, TlsStream};
use actix_http::Protocol;
use actix_service::{Service, ServiceFactory};
use actix_utils::counter::Counter;
use futures_util::future::{LocalBoxFuture, Ready, ok};
use rustls::ServerConfig;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// What every accepted socket is set to.
#[derive(Clone, Debug)]
pub struct AcceptSettings {
    /// `TCP_USER_TIMEOUT`: a peer that reads nothing for so long is cut, whatever the layers above
    /// do.
    pub user_timeout: Duration,
    /// `SO_SNDBUF` in bytes; 0 leaves the system's own tuning.
    pub send_buffer_bytes: usize,
    /// TLS handshakes under way in one worker; beyond them nobody is accepted.
    pub handshakes: usize,
    /// How long the requests on it may take.
    pub pace: Arc<PaceSettings>,
}

/// Makes connections out of accepted sockets, on one worker.
pub struct Acceptor {
    settings: AcceptSettings,
    /// None for the listener for proxies.
    tls: Option<Arc<ServerConfig>>,
    admittance: Admittance,
    scratch: Scratch,
    under_way: Counter,
}

impl Acceptor {
    /// With TLS if there are settings for it; computing handshakes waits at `admittance`.
    pub fn new(
        settings: AcceptSettings,
        tls: Option<Arc<ServerConfig>>,
        admittance: Admittance,
    ) -> Self {
        let under_way = Counter::new(settings.handshakes);
        Self { settings, tls, admittance, scratch: Scratch::default(), under_way }
    }
}

/// What HTTP is spoken on, which version of it, and with whom.
type Accepted = (Paced, Protocol, Option<SocketAddr>);

impl ServiceFactory<TcpStream> for Acceptor {
    type Response = Accepted;
    type Error = io::Error;
    type Config = ();
    type Service = AcceptorService;
    type InitError = ();
    type Future = Ready<Result<AcceptorService, ()>>;

    fn new_service(&self, _: ()) -> Self::Future {
        let Self { settings, tls, admittance, scratch, under_way } = self;
        ok(AcceptorService {
            settings: settings.clone(),
            tls: tls.clone(),
            admittance: admittance.clone(),
            scratch: scratch.clone(),
            under_way: under_way.clone(),
        })
    }
}

/// A worker's acceptor.
pub struct AcceptorService {
    settings: AcceptSettings,
    tls: Option<Arc<ServerConfig>>,
    admittance: Admittance,
    scratch: Scratch,
    under_way: Counter,
}

impl Service<TcpStream> for AcceptorService {
    type Response = Accepted;
    type Error = io::Error;
    type Future = LocalBoxFuture<'static, io::Result<Accepted>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.under_way.available(cx) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&self, socket: TcpStream) -> Self::Future {
        if let Err(error) = set(SockRef::from(&socket), &self.settings) {
            tracing::warn!(%error, "a socket option could not be set");
        }
        let pace = self.settings.pace.clone();
        let Some(tls) = self.tls.clone() else {
            let peer = socket.peer_addr().ok();
            let paced = Paced::new(Wire::Plain(socket), pace);
            return Box::pin(std::future::ready(Ok((paced, Protocol::Http1, peer))));
        };
        let (admittance, scratch, under_way) =
            (self.admittance.clone(), self.scratch.clone(), self.under_way.get());
        Box::pin(async move {
            let stream = TlsStream::new(socket, tls, scratch).map_err(io::Error::other)?;
            let shaken = tokio::time::timeout(HANDSHAKE, shake_hands(stream, &admittance)).await;
            drop(under_way);
            let wire = Wire::Tls(Box::new(shaken.map_err(io::Error::from).flatten()?));
            let peer = wire.peer();
            Ok((Paced::new(wire, pace), Protocol::Http1, peer))
        })
    }
}

/// Answers the client until both agree. Only the arithmetic waits for its turn; who is slow to send
/// keeps nobody waiting.
async fn shake_hands(mut stream: TlsStream, admittance: &Admittance) -> io::Result<TlsStream> {
    while stream.is_handshaking() {
        stream.readable().await?;
        let advanced = admittance.in_turn(|| stream.advance()).await;
        // Also where it failed: the alert says why.
        let sent = stream.flush().await;
        advanced.and(sent)?;
    }
    Ok(stream)
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
