//! The TLS handshake: from silence to an agreement, each step with an end.

use super::places::{Place, Places};
use super::register::{Stage, counted_as};
use crate::admittance::Admittance;
use crate::tls::{Scratch, TlsStream};
use ahash::RandomState;
use rustls::ServerConfig;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long the first byte may take, and from its turn on the handshake.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same while others wait for a place or a turn.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);
/// How long a handshake waits for its turn.
const QUEUEING: Duration = Duration::from_secs(10);
/// Groups of addresses that have at most half of the turns each.
const GROUPS: usize = 16;

/// The handshakes of one worker. Clones are the same.
#[derive(Clone)]
pub(super) struct Handshakes(Rc<Inner>);

struct Inner {
    admittance: Admittance,
    scratch: Scratch,
    places: Places,
    /// So many may be under way.
    turns: Semaphore,
    /// Half of them for each group of addresses: one address alone leaves the others the rest.
    groups: [Semaphore; GROUPS],
    /// Nobody can choose addresses that fall into another's group.
    grouping: RandomState,
}

impl Handshakes {
    /// At most `most` under way, whose arithmetic waits for its turn at `admittance`.
    pub fn new(most: usize, admittance: Admittance, places: Places) -> Self {
        Self(Rc::new(Inner {
            admittance,
            scratch: Scratch::default(),
            places,
            turns: Semaphore::new(most),
            groups: std::array::from_fn(|_| Semaphore::new(most.div_ceil(2))),
            grouping: RandomState::new(),
        }))
    }

    /// Agrees with the client on `socket`, as long as it may keep its `place`. Errors: the socket's,
    /// rustls', `TimedOut`, and `ConnectionAborted` for one that gave way.
    pub async fn shake(
        &self,
        socket: TcpStream,
        config: Arc<ServerConfig>,
        peer: IpAddr,
        place: &Place,
    ) -> io::Result<TlsStream> {
        tokio::select! {
            biased;
            shaken = self.hear_and_shake(socket, config, peer, place) => shaken,
            () = place.told_to_go() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    async fn hear_and_shake(
        &self,
        socket: TcpStream,
        config: Arc<ServerConfig>,
        peer: IpAddr,
        place: &Place,
    ) -> io::Result<TlsStream> {
        let Inner { places, turns, groups, grouping, .. } = &*self.0;
        patiently(socket.readable(), || places.is_short()).await?;
        place.enter(Stage::Handshake).map_err(io::Error::other)?;
        let group = &groups[grouping.hash_one(counted_as(peer)) as usize % GROUPS];
        // They are never closed: without a turn there would still be the handshake.
        let _turns =
            timeout(QUEUEING, async { (group.acquire().await, turns.acquire().await) }).await?;
        let is_short = || turns.available_permits() == 0 || places.is_short();
        patiently(self.agree(socket, config), is_short).await
    }

    /// Answers the client until both agree. Only the arithmetic waits for its turn; who is slow to
    /// send keeps nobody waiting.
    async fn agree(&self, socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        let stream = TlsStream::new(socket, config, self.0.scratch.clone());
        let mut stream = stream.map_err(io::Error::other)?;
        while stream.is_handshaking() {
            stream.readable().await?;
            let advanced = self.0.admittance.in_turn(|| stream.advance()).await;
            // Also where it failed: the alert says why.
            let sent = stream.flush().await;
            advanced.and(sent)?;
        }
        Ok(stream)
    }
}

/// Waits for `work`, and for a shorter time while `is_short`. Errors: its own, and `TimedOut`.
async fn patiently<T>(
    work: impl Future<Output = io::Result<T>>,
    is_short: impl Fn() -> bool,
) -> io::Result<T> {
    let mut work = pin!(work);
    if let Ok(outcome) = timeout(SHORT_PATIENCE, &mut work).await {
        return outcome;
    }
    if is_short() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    timeout(PATIENCE.saturating_sub(SHORT_PATIENCE), work).await?
}
