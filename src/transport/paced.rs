//! The pace of a connection that HTTP is spoken on: its requests are read one after another, and who
//! neither sends a head that was begun nor takes an answer is cut.

use super::exchange::{Awaited, Exchange};
use super::heads::Heads;
use super::wire::{Transport, Wire};
use bytes::Bytes;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Heads that are handed on before anyone is asked whether the first of them is being answered. A
/// body that came with its head may look like one.
const HEADS_AT_ONCE: usize = 2;
/// The same while a body is read, in which empty lines are no rarity.
const HEADS_IN_A_BODY: usize = 16;
/// Bytes that are read ahead while a request is answered.
const AHEAD: usize = 4_096;
/// Read at once of them.
const AHEAD_AT_ONCE: usize = 1_024;
/// How often whoever answers is asked again because more came than is read ahead: an event stream
/// tells its client by that to stop.
const NUDGES: u32 = 128;

/// How long a client may take.
#[derive(Clone, Debug)]
pub struct PaceSettings {
    /// For a head that was begun, and for the first one.
    pub head: Duration,
    /// What it is told if it takes longer: a whole answer.
    pub late: Bytes,
    /// For taking anything of what is written.
    pub stall: Duration,
}

/// The wire of a connection in the hands of HTTP's dispatcher.
pub struct Paced {
    wire: Wire,
    exchange: Exchange,
    settings: Arc<PaceSettings>,
    /// Changes of the exchange that were noticed; none before the first request.
    noticed: u64,
    /// Since the last change.
    heads: Heads,
    /// Heads that may still be handed on in this turn.
    left: usize,
    /// Heads were handed on and nobody answers: not since they were looked at.
    is_unanswered: bool,
    head: Deadline,
    /// Read and not handed on yet.
    kept: Vec<u8>,
    nudges: u32,
    /// The client takes nothing.
    is_stalled: bool,
    /// What waited for it when it was last looked at.
    unsent: usize,
    stall: Deadline,
    /// Nothing more is read.
    is_over: bool,
}

/// A point in time that is set when it is first asked for.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn is_over(&mut self, cx: &mut Context<'_>, after: Duration) -> bool {
        self.0.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx).is_ready()
    }

    fn is_set(&self) -> bool {
        self.0.is_some()
    }

    fn clear(&mut self) {
        self.0 = None;
    }
}

impl Paced {
    /// A wire on which nothing was requested.
    pub fn new(wire: Wire, settings: Arc<PaceSettings>) -> Self {
        Self {
            wire,
            exchange: Exchange::default(),
            settings,
            noticed: 0,
            heads: Heads::default(),
            left: HEADS_AT_ONCE,
            is_unanswered: false,
            head: Deadline::default(),
            kept: Vec::new(),
            nudges: 0,
            is_stalled: false,
            unsent: 0,
            stall: Deadline::default(),
            is_over: false,
        }
    }

    /// How it reached us.
    pub fn transport(&self) -> Transport {
        self.wire.transport()
    }

    /// For those who answer its requests.
    pub fn exchange(&self) -> Exchange {
        self.exchange.clone()
    }

    /// The wire without its pace, and what was read of it and not handed on.
    pub fn into_wire(self) -> (Wire, Vec<u8>) {
        (self.wire, self.kept)
    }

    /// Begins anew where the exchange has gone on.
    fn notice(&mut self) {
        let changes = self.exchange.changes();
        if changes != self.noticed {
            self.noticed = changes;
            self.heads = Heads::default();
            self.left = self.heads_at_once();
            self.is_unanswered = false;
            self.head.clear();
            self.nudges = 0;
        }
    }

    fn heads_at_once(&self) -> usize {
        match self.exchange.awaited() {
            Awaited::Body => HEADS_IN_A_BODY,
            _ => HEADS_AT_ONCE,
        }
    }

    /// Hands on what was kept, else what comes; keeps what is beyond the heads of this turn.
    fn read_on(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let taken = self.kept.len().min(buffer.remaining());
        match taken {
            0 => ready!(Pin::new(&mut self.wire).poll_read(cx, buffer))?,
            _ => buffer.put_slice(&self.kept[..taken]),
        }
        let new = &buffer.filled()[before..];
        let mut handed = 0;
        while handed < new.len() && self.left > 0 {
            let (followed, is_end) = self.heads.follow(&new[handed..]);
            handed += followed;
            self.left -= usize::from(is_end);
        }
        match taken {
            0 => self.kept.extend_from_slice(&new[handed..]),
            _ => drop(self.kept.drain(..handed)),
        }
        if self.kept.is_empty() {
            self.kept = Vec::new();
        }
        buffer.set_filled(before + handed);
        Poll::Ready(Ok(()))
    }

    /// Reads a little, to notice the client's end while nothing is to come from it.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.kept.len() < AHEAD {
            let mut room = [MaybeUninit::uninit(); AHEAD_AT_ONCE];
            let mut room = ReadBuf::uninit(&mut room);
            let outcome = Pin::new(&mut self.wire).poll_read(cx, &mut room)?;
            match (outcome, self.kept.is_empty()) {
                (Poll::Pending, true) => return Poll::Pending,
                (Poll::Ready(()), true) if room.filled().is_empty() => return Poll::Ready(Ok(())),
                (Poll::Ready(()), _) if !room.filled().is_empty() => {
                    self.kept.extend_from_slice(room.filled());
                }
                _ => {
                    self.exchange.wait(cx.waker());
                    return Poll::Pending;
                }
            }
        }
        self.exchange.wait(cx.waker());
        if self.nudges < NUDGES && !self.is_stalled {
            self.nudges += 1;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether a head should have come by now. To be called where nothing is there to be read.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let found = self.left < self.heads_at_once();
        let is_waiting = self.noticed == 0 || self.heads.is_within();
        if self.head.is_set() || self.is_unanswered || (is_waiting && !found) {
            return self.head.is_over(cx, self.settings.head);
        }
        // What was handed on is a request, or else will be noticed next time.
        self.is_unanswered = found;
        false
    }

    /// Tells the client that its head is late, if it takes that at once, and reads no more.
    fn give_up(&mut self, cx: &mut Context<'_>) {
        self.is_over = true;
        if !self.is_stalled {
            let told = Pin::new(&mut self.wire).poll_write(cx, &self.settings.late);
            tracing::debug!(told = told.is_ready(), "a request's head did not come in time");
        }
    }

    /// Looks at what became of a write: cuts the client once it has taken nothing for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if self.is_stalled {
                self.is_stalled = false;
                self.stall.clear();
                self.exchange.wake();
            }
            return outcome;
        }
        self.is_stalled = true;
        let unsent = self.wire.unsent_bytes();
        if unsent != self.unsent {
            self.unsent = unsent;
            self.stall.clear();
        }
        if self.stall.is_over(cx, self.settings.stall) {
            tracing::debug!("a client that takes nothing is cut");
            self.wire.abandon();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        paced.notice();
        let awaited = paced.exchange.awaited();
        if paced.is_over {
            return Poll::Ready(Ok(()));
        }
        if awaited == Awaited::Nothing || paced.is_stalled {
            return paced.read_ahead(cx);
        }
        if paced.left == 0 {
            paced.left = paced.heads_at_once();
            paced.is_unanswered = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let outcome = paced.read_on(cx, buffer);
        if outcome.is_pending() && awaited == Awaited::Head && paced.is_late(cx) {
            paced.give_up(cx);
            return Poll::Ready(Ok(()));
        }
        outcome
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let outcome = Pin::new(&mut paced.wire).poll_write(cx, bytes);
        paced.written(cx, outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        let outcome = Pin::new(&mut paced.wire).poll_flush(cx);
        paced.written(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        let outcome = Pin::new(&mut paced.wire).poll_shutdown(cx);
        paced.written(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const HEAD: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// A connection of which nothing is known to the system, and its other end.
    async fn pair(head: Duration, stall: Duration) -> (Paced, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let settings = PaceSettings { head, late: Bytes::from_static(b"late"), stall };
        (Paced::new(Wire::Plain(accepted.unwrap().0), Arc::new(settings)), peer.unwrap())
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    #[actix_web::test]
    async fn who_takes_nothing_is_cut_whatever_the_system_does() {
        let (mut paced, _peer) = pair(LONG, SHORT).await;
        let error = loop {
            if let Err(error) = paced.write_all(&[0; 65_536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[actix_web::test]
    async fn heads_are_handed_on_two_at_a_time_and_none_while_one_is_answered() {
        let (mut paced, mut peer) = pair(LONG, LONG).await;
        peer.write_all(HEAD.repeat(4).as_bytes()).await.unwrap();
        let mut buffer = [0; 1_024];
        assert_eq!(paced.read(&mut buffer).await.unwrap(), 2 * HEAD.len());
        let exchange = paced.exchange();
        let answering = exchange.answering();
        let read = paced.read(&mut buffer);
        let ended = async { drop(answering) };
        let (read, ()) = tokio::join!(read, ended);
        assert_eq!(read.unwrap(), 2 * HEAD.len());
    }

    #[actix_web::test]
    async fn what_comes_while_a_request_is_answered_is_read_ahead_up_to_a_bound() {
        let (mut paced, mut peer) = pair(LONG, LONG).await;
        let exchange = paced.exchange();
        let answering = exchange.answering();
        peer.write_all(&[b'x'; 100_000]).await.unwrap();
        while paced.kept.len() < AHEAD {
            assert!(paced.read(&mut [0; 1_024]).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert!(paced.read(&mut [0; 1_024]).now_or_never().is_none());
        assert_eq!(paced.kept.len(), AHEAD);
        let reading = exchange.reading_body();
        let mut body = vec![0; 100_000];
        assert_eq!(paced.read_exact(&mut body).await.unwrap(), 100_000);
        drop((reading, answering));
    }

    #[actix_web::test]
    async fn a_head_that_is_late_is_told_so_and_nothing_more_is_read() {
        assert_late(&["\r\n\r\n", "GET /"]).await;
        assert_late(&[&"\r\n".repeat(100)]).await;
    }

    /// What comes behind an answered request is the beginning of a head that does not end.
    async fn assert_late(begun: &[&str]) {
        let (mut paced, mut peer) = pair(SHORT, LONG).await;
        for text in [&[HEAD], begun].concat() {
            peer.write_all(text.as_bytes()).await.unwrap();
        }
        let mut said = Vec::new();
        assert_eq!(paced.read(&mut [0; HEAD.len()]).await.unwrap(), HEAD.len());
        drop(paced.exchange().answering());
        paced.read_to_end(&mut said).await.unwrap();
        assert!(said.ends_with(begun.last().unwrap().as_bytes()));
        drop(paced);
        let mut told = Vec::new();
        peer.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"late");
    }
}
