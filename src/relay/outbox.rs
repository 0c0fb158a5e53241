//! One connection's bounded queue, and what happens when it is full.

use super::frame::{Close, Frame};
use super::lanes::{Lane, Lanes};
use super::progress::Step;
use super::record::Record;
use chrono::Utc;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Above this many empty places a drained queue gives its memory back.
const KEPT_PLACES: usize = 8;

/// How long a socket may take to read its first frame and what it missed: messages that left the window are held no
/// longer than that.
const OPENING_PATIENCE: Duration = Duration::from_secs(60);

/// How much may wait for one socket.
#[derive(Clone, Copy, Debug)]
pub struct OutboxBounds {
    /// Bytes of frames that wait.
    pub bytes: usize,
    /// How long nothing may have been taken while something waits.
    pub stall: Duration,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits for the socket, in the place of so many older ones of its lane.
    Queued {
        /// 0 without a lane.
        replaced: u64,
    },
    /// There was no room: what waited is given up and the connection ends with 4420.
    Full,
    /// The connection is ending anyway; it is no receiver any more.
    Ending,
}

/// Frames are joined up to about so many bytes before they are written: fewer writes beat everything.
const JOINED_BYTES: usize = 32 * 1_024;

/// What the socket is to do next, one frame at a time.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Write this frame.
    Frame(Frame),
    /// Write a close frame with this reason; there is nothing behind it.
    Close(Close),
}

/// What the socket is to do next, as many frames at a time as fit.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// Write this frame: nothing else waits.
    Frame(Frame),
    /// Write the frames that were joined.
    Joined,
    /// Write a close frame with this reason; there is nothing behind it.
    Close(Close),
}

/// Frames on their way to one socket. Used on one thread only.
#[derive(Debug, Default)]
pub struct Outbox(RefCell<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// What comes before everything else: the first frame and what was missed. Its bound is the replay's.
    opening: VecDeque<Frame>,
    /// Until when the opening must be taken.
    opening_ends: Option<Instant>,
    /// With their places, oldest first.
    frames: VecDeque<(u64, Frame)>,
    /// Sum of the lengths of `frames` on the wire.
    bytes: usize,
    /// What waits under the `latest` policy; none while nothing does.
    lanes: Option<Box<Lanes>>,
    /// How many frames were ever queued: the next one's place among `frames` and `lanes`.
    places: u64,
    /// When something was last taken, or when the queue was last empty; none while it is empty.
    stalled_since: Option<Instant>,
    /// The socket's task, since it first waited for a frame.
    waker: Option<Waker>,
    /// Whether it waits for a frame now.
    is_awaited: bool,
    /// Set once: how the connection ends after the frames. Taken when it is written.
    close: Option<Close>,
    /// Whether `close` was ever set.
    ending: bool,
    /// What it was handed lately; none until that is a message.
    record: Option<Box<Record>>,
}

impl Outbox {
    /// Queues the first frame and what was missed, before anything else.
    pub fn begin(&self, first: Frame, missed: Vec<Frame>, now: Instant) {
        let mut waiting = self.0.borrow_mut();
        waiting.opening = [first].into_iter().chain(missed).collect();
        waiting.opening_ends = Some(now + OPENING_PATIENCE);
        waiting.stalled_since = Some(now);
        waiting.wake();
    }

    /// Queues a frame within `bounds`, or ends the connection with 4420.
    pub fn push(&self, frame: &Frame, bounds: OutboxBounds, now: Instant) -> Pushed {
        let mut waiting = self.0.borrow_mut();
        if waiting.ending {
            return Pushed::Ending;
        }
        if waiting.total() + frame.wire_bytes() > bounds.bytes {
            waiting.refuse(frame);
            return Pushed::Full;
        }
        let place = waiting.next_place(now);
        waiting.bytes += frame.wire_bytes();
        waiting.frames.push_back((place, frame.clone()));
        waiting.wake();
        Pushed::Queued { replaced: 0 }
    }

    /// Queues a message in the place of those of its lane that wait since before `now`, or ends the connection with 4420
    /// where even then there is no room.
    pub fn push_latest(&self, frame: &Frame, lane: &Lane, bounds: OutboxBounds, now: Instant) -> Pushed {
        let mut waiting = self.0.borrow_mut();
        if waiting.ending {
            return Pushed::Ending;
        }
        if waiting.total_behind(lane, now) + frame.wire_bytes() > bounds.bytes {
            waiting.refuse(frame);
            return Pushed::Full;
        }
        let place = waiting.next_place(now);
        let replaced = waiting.lanes.get_or_insert_default().push(place, lane, frame, now);
        if !replaced.is_empty() {
            waiting.record().replace(&replaced);
        }
        waiting.wake();
        Pushed::Queued { replaced: replaced.len() as u64 }
    }

    /// What `push`, or `push_latest` with a lane, would say now, but for what it would replace.
    pub fn rehearse(&self, frame_bytes: usize, lane: Option<&Lane>, bounds: OutboxBounds, now: Instant) -> Pushed {
        let waiting = self.0.borrow();
        let waiting_bytes = lane.map_or_else(|| waiting.total(), |lane| waiting.total_behind(lane, now));
        match waiting.ending {
            true => Pushed::Ending,
            false if waiting_bytes + frame_bytes > bounds.bytes => Pushed::Full,
            false => Pushed::Queued { replaced: 0 },
        }
    }

    /// Ends the connection after what waits was written. Only the first reason counts.
    pub fn close(&self, close: Close) {
        self.0.borrow_mut().end(close, false);
    }

    /// Ends the connection with 4420 if something waits and nothing was taken for `bounds.stall`. True when it did.
    pub fn close_if_stalled(&self, bounds: OutboxBounds, now: Instant) -> bool {
        let mut waiting = self.0.borrow_mut();
        let stalled = waiting.stalled_since.is_some_and(|since| now.duration_since(since) >= bounds.stall)
            || waiting.opening_ends.is_some_and(|end| now >= end);
        if stalled && !waiting.ending {
            waiting.end(Close::too_slow(), true);
            return true;
        }
        false
    }

    /// Whether the connection is ending.
    pub fn is_ending(&self) -> bool {
        self.0.borrow().ending
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.0.borrow().total()
    }

    /// Whether the message of this position waits.
    pub fn holds(&self, position: u64) -> bool {
        let waiting = self.0.borrow();
        let mut frames = waiting.opening.iter().chain(waiting.messages());
        frames.any(|frame| frame.progress().is_some_and(|progress| progress.position == position))
    }

    /// Whether a newer message took the place of this one, or may have.
    pub fn may_be_replaced(&self, position: u64) -> bool {
        let waiting = self.0.borrow();
        let record = waiting.record.as_ref();
        record.is_some_and(|record| record.was_replaced(position) || record.may_be_replaced(position))
    }

    /// What is remembered of it.
    pub fn record(&self) -> Record {
        self.0.borrow().record.as_deref().cloned().unwrap_or_default()
    }

    /// Wakes the socket's task so that it looks at the clock.
    pub fn wake(&self) {
        if let Some(waker) = &self.0.borrow().waker {
            waker.wake_by_ref();
        }
    }

    /// The next thing to write; remembers the task otherwise.
    pub fn poll_next(&self, cx: &mut Context<'_>, now: impl FnOnce() -> Instant) -> Poll<Next> {
        let mut waiting = self.0.borrow_mut();
        match waiting.take(&mut None) {
            Some(frame) => {
                waiting.go_on(now);
                Poll::Ready(Next::Frame(frame))
            }
            None => waiting.poll_close(cx).map(Next::Close),
        }
    }

    /// Everything that is to be written next, up to about 32 KiB, joined in `joined` where it is more than one frame;
    /// remembers the task otherwise.
    pub fn poll_batch(&self, cx: &mut Context<'_>, joined: &mut Vec<u8>) -> Poll<Batch> {
        let mut waiting = self.0.borrow_mut();
        let mut clock = None;
        let Some(first) = waiting.take(&mut clock) else { return waiting.poll_close(cx).map(Batch::Close) };
        if waiting.is_empty() {
            waiting.go_on(Instant::now);
            return Poll::Ready(Batch::Frame(first));
        }
        joined.clear();
        joined.extend_from_slice(first.bytes());
        while joined.len() < JOINED_BYTES
            && let Some(frame) = waiting.take(&mut clock)
        {
            joined.extend_from_slice(frame.bytes());
        }
        waiting.go_on(Instant::now);
        Poll::Ready(Batch::Joined)
    }
}

impl Waiting {
    /// The next frame; `clock` is read once, when the first message needs it.
    fn take(&mut self, clock: &mut Option<i64>) -> Option<Frame> {
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
    fn note(&mut self, frame: &Frame, step: Step, clock: &mut Option<i64>) {
        if let Some(progress) = frame.progress() {
            progress.count(step);
            let now_ms = *clock.get_or_insert_with(|| Utc::now().timestamp_millis());
            self.record().write(progress.position, now_ms);
        }
    }

    /// Something was taken.
    fn go_on(&mut self, now: impl FnOnce() -> Instant) {
        self.stalled_since = if self.is_empty() { None } else { Some(now()) };
    }

    fn is_empty(&self) -> bool {
        self.opening.is_empty() && self.frames.is_empty() && self.lanes.is_none()
    }

    /// There is no frame: the close, if that is due; remembers the task otherwise.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        if self.frames.capacity() > KEPT_PLACES {
            self.frames = VecDeque::new();
        }
        if let Some(close) = self.close.take() {
            return Poll::Ready(close);
        }
        self.is_awaited = true;
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn record(&mut self) -> &mut Record {
        self.record.get_or_insert_default()
    }

    fn take_live(&mut self) -> Option<Frame> {
        let first_of_a_lane = self.lanes.as_ref().and_then(|lanes| lanes.first());
        if first_of_a_lane.is_some_and(|place| self.frames.front().is_none_or(|(first, _)| place < *first)) {
            return self.take_of_a_lane();
        }
        let (_, frame) = self.frames.pop_front()?;
        self.bytes -= frame.wire_bytes();
        Some(frame)
    }

    fn take_of_a_lane(&mut self) -> Option<Frame> {
        let lanes = self.lanes.as_mut()?;
        let frame = lanes.pop();
        if lanes.is_empty() {
            self.lanes = None;
        }
        frame
    }

    fn next_place(&mut self, now: Instant) -> u64 {
        self.stalled_since.get_or_insert(now);
        self.places += 1;
        self.places
    }

    /// Bytes that wait.
    fn total(&self) -> usize {
        self.bytes + self.lanes.as_ref().map_or(0, |lanes| lanes.bytes())
    }

    /// Bytes that would wait once the lane's older messages have made room.
    fn total_behind(&self, lane: &Lane, now: Instant) -> usize {
        self.total() - self.lanes.as_ref().map_or(0, |lanes| lanes.replaceable(&lane.channel, now))
    }

    /// What waits of what was published since the connection began.
    fn messages(&self) -> impl Iterator<Item = &Frame> {
        let of_lanes = self.lanes.iter().flat_map(|lanes| lanes.frames());
        self.frames.iter().map(|(_, frame)| frame).chain(of_lanes)
    }

    /// There is no room for a frame.
    fn refuse(&mut self, frame: &Frame) {
        if let Some(progress) = frame.progress() {
            self.record().refuse(progress.position);
        }
        self.end(Close::too_slow(), true);
    }

    fn end(&mut self, close: Close, give_up: bool) {
        if self.ending {
            return;
        }
        if give_up {
            self.messages().for_each(|frame| frame.count(Step::TooSlow));
            (self.opening, self.frames, self.lanes) = (VecDeque::new(), VecDeque::new(), None);
            (self.bytes, self.stalled_since, self.opening_ends) = (0, None, None);
        }
        self.ending = true;
        self.record().end(close.clone(), Utc::now().timestamp_millis());
        self.close = Some(close);
        self.wake();
    }

    fn wake(&mut self) {
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
