//! What waits for one socket, and the socket's task that waits for it.

use super::conflation::Conflation;
use super::pushed::Pushed;
use super::written::Record;
use crate::domain::channel::ChannelName;
use crate::relay::close::Close;
use crate::relay::frame::Frame;
use crate::relay::head::Head;
use crate::relay::progress::Step;
use crate::relay::settings::OutboxBounds;
use chrono::Utc;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Above this many empty places a drained queue gives its memory back.
const KEPT_PLACES: usize = 8;

/// The inside of an outbox.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// What comes before everything else: the first frame and what was missed. Its bound is the
    /// replay's.
    pub opening: VecDeque<Frame>,
    /// Until when the opening must be taken.
    pub opening_ends: Option<Instant>,
    /// With their places, oldest first.
    pub frames: VecDeque<(u64, Frame)>,
    /// Sum of the lengths of `frames` on the wire.
    pub bytes: usize,
    /// Bytes of the batch that the socket was given last, until it asks for the next: it may not
    /// have written them yet.
    pub handed: usize,
    /// What waits under the `latest` policy; none while nothing does.
    pub conflation: Option<Box<Conflation>>,
    /// How many frames were ever queued: the next one's place among `frames` and `conflation`.
    pub places: u64,
    /// When something was last taken, or when the queue was last empty; none while it is empty.
    pub stalled_since: Option<Instant>,
    /// The socket's task, since it first waited for a frame.
    pub waker: Option<Waker>,
    /// Whether it waits for a frame now.
    pub is_awaited: bool,
    /// Since when something waits for which the socket is still to be woken; none once it looks.
    pub called_at: Option<Instant>,
    /// Set once: how the connection ends after the frames. Taken when it is written.
    pub close: Option<Close>,
    /// Whether `close` was ever set.
    pub ending: bool,
    /// What it was handed lately; none until that is a message.
    pub record: Option<Box<Record>>,
    /// What waited when the connection turned out to be too slow, until the socket's turn.
    pub given_up: Option<Box<GivenUp>>,
}

/// What waited for a connection that is too slow. Letting go of hundreds of frames takes longer
/// than queueing one, and one message may be too much for thousands of connections: so it is done
/// at each one's turn, and counted then.
#[derive(Debug)]
pub(crate) struct GivenUp {
    _opening: VecDeque<Frame>,
    frames: VecDeque<(u64, Frame)>,
    conflation: Option<Box<Conflation>>,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        let conflated = self.conflation.iter().flat_map(|conflation| conflation.frames());
        self.frames
            .iter()
            .map(|(_, frame)| frame)
            .chain(conflated)
            .for_each(|frame| frame.count(Step::TooSlow));
    }
}

impl Waiting {
    pub fn push(&mut self, frame: &Frame, bounds: OutboxBounds, now: Instant) -> Pushed {
        if self.ending {
            return Pushed::Ending;
        }
        if self.total() + frame.wire_bytes() > bounds.bytes {
            self.refuse(frame);
            return Pushed::Full;
        }
        let place = self.next_place(now);
        self.bytes += frame.wire_bytes();
        self.frames.push_back((place, frame.clone()));
        Pushed::Queued { replaced: 0 }
    }

    /// The same under the `latest` policy of the message's channel.
    pub fn push_latest(
        &mut self,
        frame: &Frame,
        head: &Head,
        bounds: OutboxBounds,
        now: Instant,
    ) -> Pushed {
        let Some(channel) = head.conflated() else { return self.push(frame, bounds, now) };
        if self.ending {
            return Pushed::Ending;
        }
        let turn = self.turn(now);
        if self.total_behind(channel, turn) + frame.wire_bytes() > bounds.bytes {
            self.refuse(frame);
            return Pushed::Full;
        }
        let place = self.next_place(now);
        let conflation = self.conflation.get_or_insert_default();
        let replaced = conflation.push(place, (channel, head.cursor), frame, turn);
        if !replaced.is_empty() {
            self.record().replace(&replaced);
        }
        Pushed::Queued { replaced: replaced.len() as u64 }
    }

    /// The next frame; `clock` is read once, when the first message needs it.
    pub fn take(&mut self, clock: &mut Option<i64>) -> Option<Frame> {
        if let Some(frame) = self.opening.pop_front() {
            if self.opening.is_empty() {
                (self.opening, self.opening_ends) = (VecDeque::new(), None);
            }
            self.note(&frame, Step::Replayed, clock);
            return Some(frame);
        }
        let frame = self.take_live()?;
        self.note(&frame, Step::Written, clock);
        Some(frame)
    }

    /// Counts a message that is handed to the socket, and remembers when.
    pub fn note(&mut self, frame: &Frame, step: Step, clock: &mut Option<i64>) {
        if let Some(head) = frame.head() {
            head.progress.count(step);
            let now_ms = *clock.get_or_insert_with(|| Utc::now().timestamp_millis());
            self.record().write(head.cursor.position, now_ms);
        }
    }

    /// Something was taken.
    pub fn go_on(&mut self, now: impl FnOnce() -> Instant) {
        self.stalled_since = if self.is_empty() { None } else { Some(now()) };
    }

    pub fn is_empty(&self) -> bool {
        self.opening.is_empty() && self.frames.is_empty() && self.conflation.is_none()
    }

    /// There is no frame: the close, if that is due; remembers the task otherwise.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        if self.frames.capacity() > KEPT_PLACES {
            self.frames = VecDeque::new();
        }
        if let Some(close) = self.close.take() {
            return Poll::Ready(close);
        }
        self.is_awaited = true;
        self.remember(cx);
        Poll::Pending
    }

    /// Remembers the socket's task.
    pub fn remember(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub fn record(&mut self) -> &mut Record {
        self.record.get_or_insert_default()
    }

    pub fn take_live(&mut self) -> Option<Frame> {
        let first_conflated = self.conflation.as_ref().and_then(|conflation| conflation.first());
        if first_conflated
            .is_some_and(|place| self.frames.front().is_none_or(|(first, _)| place < *first))
        {
            return self.take_conflated();
        }
        let (_, frame) = self.frames.pop_front()?;
        self.bytes -= frame.wire_bytes();
        Some(frame)
    }

    pub fn take_conflated(&mut self) -> Option<Frame> {
        let conflation = self.conflation.as_mut()?;
        let frame = conflation.pop();
        if conflation.is_empty() {
            self.conflation = None;
        }
        frame
    }

    pub fn next_place(&mut self, now: Instant) -> u64 {
        self.stalled_since.get_or_insert(now);
        self.places += 1;
        self.places
    }

    /// Bytes that wait.
    pub fn total(&self) -> usize {
        self.handed
            + self.bytes
            + self.conflation.as_ref().map_or(0, |conflation| conflation.bytes())
    }

    /// Since when what is queued now counts as waiting: the socket's turn has not come for anything
    /// that came since.
    pub fn turn(&self, now: Instant) -> Instant {
        self.called_at.unwrap_or(now)
    }

    /// Bytes that would wait once the channel's messages from before this turn have made room.
    pub fn total_behind(&self, channel: &ChannelName, turn: Instant) -> usize {
        self.total()
            - self.conflation.as_ref().map_or(0, |conflation| conflation.replaceable(channel, turn))
    }

    /// What waits of what was published since the connection began.
    pub fn messages(&self) -> impl Iterator<Item = &Frame> {
        let conflated = self.conflation.iter().flat_map(|conflation| conflation.frames());
        self.frames.iter().map(|(_, frame)| frame).chain(conflated)
    }

    /// There is no room for a frame.
    pub fn refuse(&mut self, frame: &Frame) {
        if let Some(head) = frame.head() {
            self.record().refuse(head.cursor.position);
        }
        self.end(Close::too_slow(), true);
    }

    pub fn end(&mut self, close: Close, give_up: bool) {
        if self.ending {
            return;
        }
        if give_up {
            let (opening, frames) =
                (std::mem::take(&mut self.opening), std::mem::take(&mut self.frames));
            self.given_up = Some(Box::new(GivenUp {
                _opening: opening,
                frames,
                conflation: self.conflation.take(),
            }));
            (self.bytes, self.stalled_since, self.opening_ends) = (0, None, None);
        }
        self.ending = true;
        self.record().end(close.clone(), Utc::now().timestamp_millis());
        self.close = Some(close);
    }

    pub fn wake(&mut self) {
        if std::mem::replace(&mut self.is_awaited, false)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.messages().for_each(|frame| frame.count(Step::Ended));
    }
}
