//! The pace of a connection that HTTP is spoken on: its requests are read one after another, the
//! heads that were begun are counted, and who neither ends one nor takes an answer is cut.

use super::exchange::{AnnouncedBody, Awaited, Exchange};
use super::heads::Heads;
use super::unfinished::{Holder, Holding, Unfinished};
use super::wire::{LINGER, Transport, Wire};
use bytes::Bytes;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
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
/// Bytes that are read ahead while a request is answered, and behind a head before anyone is asked
/// whether it is.
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
    /// What it is told if it takes longer: a whole answer, as those that follow.
    pub late: Bytes,
    /// Most bytes of a head.
    pub head_bytes: usize,
    /// What a client is told whose head has more.
    pub large: Bytes,
    /// What it is told where its address has as many bytes of unfinished heads as it may.
    pub crowded: Bytes,
    /// What it is told where the process has.
    pub full: Bytes,
    /// For taking anything of what is written.
    pub stall: Duration,
}

#[cfg(test)]
impl PaceSettings {
    /// All the time in the world, and answers of one word.
    pub fn of_a_test() -> Self {
        let long = Duration::from_secs(60);
        let [late, large, crowded, full] =
            ["late", "large", "crowded", "full"].map(|word| Bytes::from_static(word.as_bytes()));
        Self { head: long, late, head_bytes: 9_000, large, crowded, full, stall: long }
    }
}

/// The wire of a connection in the hands of HTTP's dispatcher.
pub struct Paced {
    wire: Wire,
    exchange: Exchange,
    settings: Arc<PaceSettings>,
    /// Where unfinished heads are counted.
    unfinished: Unfinished,
    /// Whom they count for; none where a proxy will name the client.
    client: Option<IpAddr>,
    /// What a head holds that has begun and not ended.
    held: Option<Holding>,
    /// Changes of the exchange that were noticed; none before the first request.
    noticed: u64,
    /// Since the last change.
    heads: Heads,
    /// Heads that may still be handed on in this turn.
    left: usize,
    /// Bytes that were handed on in it behind the first of them.
    behind: usize,
    /// Bytes that were handed on since a head ended; none where none has.
    since_head: Option<u64>,
    /// Bytes of the body of the last request that nobody read and that are still to come.
    unread: u64,
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
    /// Nothing more is handed on.
    is_over: bool,
    /// How long what still comes is read and thrown away, so that the last answer is seen: closing
    /// with unread bytes would reset the connection.
    lingering: Option<Deadline>,
    /// Nothing more is written.
    is_shut: bool,
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
    /// A wire on which nothing was requested, of this client.
    pub fn new(
        wire: Wire,
        settings: Arc<PaceSettings>,
        unfinished: Unfinished,
        client: Option<IpAddr>,
    ) -> Self {
        Self {
            wire,
            exchange: Exchange::default(),
            settings,
            unfinished,
            client,
            held: None,
            noticed: 0,
            heads: Heads::default(),
            left: HEADS_AT_ONCE,
            behind: 0,
            since_head: None,
            unread: 0,
            is_unanswered: false,
            head: Deadline::default(),
            kept: Vec::new(),
            nudges: 0,
            is_stalled: false,
            unsent: 0,
            stall: Deadline::default(),
            is_over: false,
            lingering: None,
            is_shut: false,
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
            if self.exchange.awaited() == Awaited::Head {
                self.unread = match self.exchange.body() {
                    AnnouncedBody::Length(length) => {
                        length.saturating_sub(self.since_head.unwrap_or(0))
                    }
                    AnnouncedBody::None | AnnouncedBody::Chunks => 0,
                };
                self.since_head = None;
            }
            self.heads = Heads::default();
            self.held = None;
            self.begin_turn();
            self.is_unanswered = false;
            self.head.clear();
            self.nudges = 0;
        }
    }

    fn begin_turn(&mut self) {
        self.left = self.heads_at_once();
        self.behind = 0;
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
        let (handed, longest) = self.follow(new);
        match taken {
            0 => self.kept.extend_from_slice(&new[handed..]),
            _ => drop(self.kept.drain(..handed)),
        }
        if self.kept.is_empty() {
            self.kept = Vec::new();
        }
        buffer.set_filled(before + handed);
        if self.exchange.awaited() == Awaited::Head
            && let Err(answer) = self.hold(longest)
        {
            buffer.set_filled(before);
            self.give_up(cx, &answer);
            self.lingering = Some(Deadline::default());
            return self.linger(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// How much of what came may be handed on in this turn, and the longest head that ended in it.
    fn follow(&mut self, new: &[u8]) -> (usize, usize) {
        let (mut handed, mut longest) = (0, 0);
        if self.exchange.awaited() == Awaited::Head {
            let unread = self.unread.min(new.len() as u64);
            self.unread -= unread;
            handed = unread as usize;
        }
        while handed < new.len() && self.left > 0 {
            let mut rest = &new[handed..];
            let is_behind = self.exchange.awaited() == Awaited::Head && self.left < HEADS_AT_ONCE;
            if is_behind {
                rest = &rest[..rest.len().min(AHEAD - self.behind)];
            }
            let (followed, ended) = self.heads.follow(rest);
            handed += followed;
            match (&mut self.since_head, ended) {
                (Some(bytes), _) => *bytes += followed as u64,
                (none, Some(length)) => {
                    *none = Some(0);
                    longest = length;
                }
                (None, None) => {}
            }
            self.left -= usize::from(ended.is_some());
            if is_behind {
                self.behind += followed;
                if self.behind == AHEAD {
                    self.left = 0;
                }
            }
        }
        (handed, longest)
    }

    /// Counts the head that has begun and not ended, if there is one. What comes behind a head may
    /// be its body, and is not looked at until it is known what it is. Errors: what the client is
    /// told instead of an answer.
    fn hold(&mut self, longest: usize) -> Result<(), Bytes> {
        // A body in chunks that nobody read may still come.
        let is_head = !self.is_unanswered && self.exchange.body() != AnnouncedBody::Chunks;
        let is_first = self.left == HEADS_AT_ONCE;
        let bytes = if is_first { self.heads.bytes() } else { 0 };
        if is_head && bytes.max(longest) > self.settings.head_bytes {
            return Err(self.settings.large.clone());
        }
        if !is_head || !is_first || !self.heads.is_within() {
            self.held = None;
            return Ok(());
        }
        let begin = || self.unfinished.begin(self.client, None);
        self.held.get_or_insert_with(begin).grow_to(bytes).map_err(|error| match error.holder {
            Holder::Address => self.settings.crowded.clone(),
            Holder::Instance | Holder::Server => self.settings.full.clone(),
        })
    }

    /// Whether something came that nobody read.
    fn has_unread(&mut self, cx: &mut Context<'_>) -> bool {
        let mut room = [MaybeUninit::uninit(); AHEAD_AT_ONCE];
        let mut room = ReadBuf::uninit(&mut room);
        let read = Pin::new(&mut self.wire).poll_read(cx, &mut room);
        !self.kept.is_empty() || (read.is_ready() && !room.filled().is_empty())
    }

    /// Throws away what still comes, until the client ends or its time is over.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.lingering else { return Poll::Ready(Ok(())) };
        loop {
            let mut room = [MaybeUninit::uninit(); AHEAD_AT_ONCE];
            let mut room = ReadBuf::uninit(&mut room);
            match Pin::new(&mut self.wire).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {}
                Poll::Pending if !deadline.is_over(cx, LINGER) => return Poll::Pending,
                _ => break,
            }
        }
        (self.lingering, self.held) = (None, None);
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
        let is_waiting = self.noticed == 0 || self.heads.is_within() || self.unread > 0;
        if self.head.is_set() || self.is_unanswered || (is_waiting && !found) {
            return self.head.is_over(cx, self.settings.head);
        }
        // What was handed on is a request, or else will be noticed next time.
        self.is_unanswered = found;
        false
    }

    /// Tells the client why its head is not waited for, if it takes that at once, and hands on no
    /// more.
    fn give_up(&mut self, cx: &mut Context<'_>, answer: &[u8]) {
        self.is_over = true;
        if !self.is_stalled {
            let told = Pin::new(&mut self.wire).poll_write(cx, answer);
            tracing::debug!(told = told.is_ready(), "a request's head is not waited for");
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
            return paced.linger(cx);
        }
        if awaited == Awaited::Nothing || paced.is_stalled {
            return paced.read_ahead(cx);
        }
        if paced.left == 0 {
            paced.begin_turn();
            paced.is_unanswered = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let outcome = paced.read_on(cx, buffer);
        if outcome.is_pending() && awaited == Awaited::Head && paced.is_late(cx) {
            let late = paced.settings.late.clone();
            paced.give_up(cx, &late);
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
        if !paced.is_shut {
            let outcome = Pin::new(&mut paced.wire).poll_shutdown(cx);
            ready!(paced.written(cx, outcome))?;
            paced.is_shut = true;
            if paced.has_unread(cx) {
                paced.lingering = Some(Deadline::default());
            }
        }
        paced.linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::unfinished::UnfinishedBounds;
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const HEAD: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// A connection of which nothing is known to the system, and its other end.
    async fn pair(head: Duration, stall: Duration) -> (Paced, TcpStream) {
        let (wire, peer) = wire().await;
        let settings = PaceSettings { head, stall, ..PaceSettings::of_a_test() };
        (Paced::new(wire, Arc::new(settings), unfinished(), None), peer)
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
        let answering = exchange.answering(AnnouncedBody::None);
        let read = paced.read(&mut buffer);
        let ended = async { drop(answering) };
        let (read, ()) = tokio::join!(read, ended);
        assert_eq!(read.unwrap(), 2 * HEAD.len());
    }

    #[actix_web::test]
    async fn what_comes_while_a_request_is_answered_is_read_ahead_up_to_a_bound() {
        let (mut paced, mut peer) = pair(LONG, LONG).await;
        let exchange = paced.exchange();
        let answering = exchange.answering(AnnouncedBody::None);
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

    /// A wire and its other end.
    async fn wire() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Wire::Plain(accepted.unwrap().0), peer.unwrap())
    }

    /// Several of one client, with 12,000 bytes for unfinished heads; of another, with 30,000 for
    /// all.
    async fn connection(unfinished: &Unfinished, last: u8) -> (Paced, TcpStream) {
        let (wire, peer) = wire().await;
        let client = Some([192, 0, 2, last].into());
        (Paced::new(wire, Arc::new(PaceSettings::of_a_test()), unfinished.clone(), client), peer)
    }

    fn unfinished() -> Unfinished {
        Unfinished::new(UnfinishedBounds { process: 30_000, instance: 1, address: 12_000 })
    }

    /// Reads on until so many bytes are held.
    async fn until_held(paced: &mut Paced, unfinished: &Unfinished, bytes: usize) {
        let mut buffer = [0; 4_096];
        while unfinished.bytes() != bytes {
            drop(paced.read(&mut buffer).now_or_never());
            tokio::task::yield_now().await;
        }
    }

    /// What the peer is told instead of an answer; the server reads the end.
    async fn told(mut paced: Paced, mut peer: TcpStream) -> String {
        let mut said = Vec::new();
        let reading = async {
            paced.read_to_end(&mut Vec::new()).await.unwrap();
            drop(paced);
        };
        let hearing = async {
            peer.readable().await.unwrap();
            peer.shutdown().await.unwrap();
            peer.read_to_end(&mut said).await.unwrap();
        };
        tokio::join!(reading, hearing);
        String::from_utf8(said).unwrap()
    }

    fn head(bytes: usize) -> String {
        let rest = "GET / HTTP/1.1\r\nx: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(bytes - rest))
    }

    #[actix_web::test]
    async fn a_head_is_taken_up_to_its_bound_in_one_piece_and_in_several() {
        for pieces in [1, 2, 9] {
            for (bytes, is_taken) in [(8_999, true), (9_000, true), (9_001, false)] {
                let unfinished = unfinished();
                let (mut paced, mut peer) = connection(&unfinished, 1).await;
                let text = head(bytes);
                let mut sent = 0;
                for piece in text.as_bytes().chunks(bytes.div_ceil(pieces)) {
                    peer.write_all(piece).await.unwrap();
                    sent += piece.len();
                    if sent < bytes {
                        until_held(&mut paced, &unfinished, sent).await;
                    }
                }
                if is_taken {
                    let mut rest = vec![0; 9_000];
                    assert!(paced.read(&mut rest).await.unwrap() > 0);
                    assert!(!paced.is_over);
                } else {
                    assert_eq!(told(paced, peer).await, "large", "{bytes} in {pieces}");
                }
            }
        }
    }

    #[actix_web::test]
    async fn unfinished_heads_are_counted_until_they_end_and_a_whole_one_is_not() {
        let unfinished = unfinished();
        let (mut paced, mut peer) = connection(&unfinished, 1).await;
        peer.write_all(HEAD.as_bytes()).await.unwrap();
        assert_eq!(paced.read(&mut [0; 1_024]).await.unwrap(), HEAD.len());
        assert_eq!(unfinished.bytes(), 0);
        drop(paced.exchange().answering(AnnouncedBody::None));
        peer.write_all(&HEAD.as_bytes()[..9]).await.unwrap();
        until_held(&mut paced, &unfinished, 9).await;
        peer.write_all(&HEAD.as_bytes()[9..]).await.unwrap();
        until_held(&mut paced, &unfinished, 0).await;
        drop(paced.exchange().answering(AnnouncedBody::None));
        peer.write_all(b"GET").await.unwrap();
        until_held(&mut paced, &unfinished, 3).await;
        drop(paced);
        assert_eq!(unfinished.bytes(), 0);
    }

    #[actix_web::test]
    async fn an_address_and_the_process_have_their_bounds_for_unfinished_heads() {
        let unfinished = unfinished();
        let hold = async |last: u8, bytes: usize| {
            let (mut paced, mut peer) = connection(&unfinished, last).await;
            let before = unfinished.bytes();
            peer.write_all(&head(9_000).as_bytes()[..bytes]).await.unwrap();
            until_held(&mut paced, &unfinished, before + bytes).await;
            (paced, peer)
        };
        let tell = async |last: u8, bytes: usize| {
            let (paced, mut peer) = connection(&unfinished, last).await;
            peer.write_all(&head(9_000).as_bytes()[..bytes]).await.unwrap();
            told(paced, peer).await
        };
        let first = hold(1, 8_000).await;
        let second = hold(1, 4_000).await;
        assert_eq!(tell(1, 1).await, "crowded");
        // Nobody takes more of the whole than he leaves free for others.
        let others = [hold(2, 8_500).await, hold(3, 4_900).await];
        assert_eq!(tell(4, 4_700).await, "full");
        drop(hold(4, 2_000).await);
        drop(second);
        drop(hold(1, 500).await);
        drop((first, others));
        assert_eq!(unfinished.bytes(), 0);
    }

    #[actix_web::test]
    async fn a_body_that_nobody_read_is_no_head() {
        let unfinished = unfinished();
        let (mut paced, mut peer) = connection(&unfinished, 1).await;
        let mut buffer = vec![0; 20_000];
        peer.write_all(HEAD.as_bytes()).await.unwrap();
        assert_eq!(paced.read(&mut buffer).await.unwrap(), HEAD.len());
        drop(paced.exchange().answering(AnnouncedBody::Length(15_000)));
        let body = [&vec![b'x'; 15_000], &HEAD.as_bytes()[..9]].concat();
        let send = async { peer.write_all(&body).await.unwrap() };
        let read = async { paced.read_exact(&mut buffer[..body.len()]).await.unwrap() };
        tokio::join!(send, read);
        assert!(!paced.is_over);
        assert_eq!(unfinished.bytes(), 9, "behind it a head is one again");
        peer.write_all(&HEAD.as_bytes()[9..]).await.unwrap();
        until_held(&mut paced, &unfinished, 0).await;
        let (exchange, chunks) = (paced.exchange(), AnnouncedBody::Chunks);
        drop(exchange.answering(chunks));
        peer.write_all(b"5").await.unwrap();
        assert_eq!(paced.read(&mut buffer).await.unwrap(), 1);
        assert_eq!(unfinished.bytes(), 0, "nobody knows where chunks end");
        let answering = exchange.answering(chunks);
        exchange.has_read_body();
        drop(answering);
        peer.write_all(b"G").await.unwrap();
        until_held(&mut paced, &unfinished, 1).await;
    }

    #[actix_web::test]
    async fn what_comes_behind_a_head_is_no_head_before_it_is_asked() {
        let (mut paced, mut peer) = connection(&unfinished(), 1).await;
        let exchange = paced.exchange();
        peer.write_all(HEAD.as_bytes()).await.unwrap();
        let body = vec![b'x'; 20_000];
        let mut buffer = vec![0; 20_000];
        let send = async { peer.write_all(&body).await.unwrap() };
        let read = async {
            let mut read = 0;
            // At most so much is handed on before it is known what it is.
            while read < HEAD.len() + AHEAD {
                read += paced.read(&mut buffer).await.unwrap();
            }
            assert_eq!(read, HEAD.len() + AHEAD);
            let answering = exchange.answering(AnnouncedBody::None);
            let reading = exchange.reading_body();
            paced.read_exact(&mut buffer[AHEAD..]).await.unwrap();
            drop((reading, answering));
        };
        tokio::join!(send, read);
        assert_eq!(buffer[AHEAD..], body[AHEAD..]);
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
        drop(paced.exchange().answering(AnnouncedBody::None));
        paced.read_to_end(&mut said).await.unwrap();
        assert!(said.ends_with(begun.last().unwrap().as_bytes()));
        drop(paced);
        let mut told = Vec::new();
        peer.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, b"late");
    }
}
