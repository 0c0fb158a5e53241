//! The TLS handshake: from silence to an agreement, each step with an end.

use super::places::{Place, Places};
use super::register::{Stage, counted_as};
use super::turns::Turns;
use crate::admittance::Admittance;
use crate::tls::{Scratch, TlsStream};
use rustls::ServerConfig;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the first byte may take, and from its turn on the handshake.
const PATIENCE: Patience = Patience { calm: Duration::from_secs(3), short: Duration::from_secs(1) };
/// How long a handshake waits for its turn.
const QUEUEING: Duration = Duration::from_secs(10);

/// How long something may take.
#[derive(Clone, Copy)]
struct Patience {
    /// In any case.
    calm: Duration,
    /// While others wait for a place or a turn.
    short: Duration,
}

/// The handshakes of one worker. Clones are the same.
#[derive(Clone)]
pub(super) struct Handshakes {
    turns: Turns,
    admittance: Admittance,
    scratch: Scratch,
    places: Places,
}

impl Handshakes {
    /// At most `most` under way, whose arithmetic waits for its turn at `admittance`.
    pub fn new(most: usize, admittance: Admittance, places: Places) -> Self {
        Self { turns: Turns::new(most), admittance, scratch: Scratch::default(), places }
    }

    /// Agrees with the client on `socket`, as long as it may keep its `place`. Errors: the
    /// socket's, rustls', `TimedOut`, and `ConnectionAborted` for one that gave way.
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
        PATIENCE.wait_for(socket.readable(), || self.places.is_short()).await?;
        place.enter(Stage::Handshake).map_err(io::Error::other)?;
        let _turn = timeout(QUEUEING, self.turns.take(counted_as(peer))).await?;
        let is_short = || self.turns.are_all_taken() || self.places.is_short();
        PATIENCE.wait_for(self.agree(socket, config), is_short).await
    }

    /// Answers the client until both agree. Only the arithmetic waits for its turn; who is slow to
    /// send keeps nobody waiting.
    async fn agree(&self, socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        let stream = TlsStream::new(socket, config, self.scratch.clone());
        let mut stream = stream.map_err(io::Error::other)?;
        while stream.is_handshaking() {
            stream.readable().await?;
            let advanced = self.admittance.in_turn(|| stream.advance()).await;
            // Also where it failed: the alert says why.
            let sent = stream.flush().await;
            advanced.and(sent)?;
        }
        Ok(stream)
    }
}

impl Patience {
    /// Waits for `work`, for a shorter time if `is_short` then. Errors: its own, and `TimedOut`.
    async fn wait_for<T>(
        self,
        work: impl Future<Output = io::Result<T>>,
        is_short: impl Fn() -> bool,
    ) -> io::Result<T> {
        let mut work = pin!(work);
        if let Ok(outcome) = timeout(self.short, &mut work).await {
            return outcome;
        }
        if is_short() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        timeout(self.calm.saturating_sub(self.short), work).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const SOON: Duration = Duration::from_millis(1);
    const NEVER: Duration = Duration::from_secs(86_400);

    #[tokio::test]
    async fn who_says_nothing_is_given_up_sooner_while_others_wait() {
        for (calm, short, others_wait) in [(NEVER, SOON, true), (SOON * 2, SOON, false)] {
            let patience = Patience { calm, short };
            let outcome = patience.wait_for(pending::<io::Result<()>>(), || others_wait).await;
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        let patience = Patience { calm: NEVER, short: NEVER };
        let outcome = patience.wait_for(async { Ok(1) }, || true).await;
        assert_eq!(outcome.unwrap(), 1);
    }
}
