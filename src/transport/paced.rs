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
#[path = "paced_test.rs"]
mod tests;
