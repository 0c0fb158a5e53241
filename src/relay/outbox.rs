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

/// What the socket is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Write this frame.
    Frame(Frame),
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
    /// The socket's task, while it waits for a frame.
    waker: Option<Waker>,
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
        self.0.borrow_mut().wake();
    }

    /// The next thing to write; remembers the task otherwise.
    pub fn poll_next(&self, cx: &mut Context<'_>, now: impl FnOnce() -> Instant) -> Poll<Next> {
        let mut waiting = self.0.borrow_mut();
        if let Some(frame) = waiting.take() {
            let is_empty = waiting.opening.is_empty() && waiting.frames.is_empty() && waiting.lanes.is_none();
            waiting.stalled_since = if is_empty { None } else { Some(now()) };
            return Poll::Ready(Next::Frame(frame));
        }
        if waiting.frames.capacity() > KEPT_PLACES {
            waiting.frames = VecDeque::new();
        }
        match waiting.close.take() {
            Some(close) => Poll::Ready(Next::Close(close)),
            None => {
                if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    waiting.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Frame> {
        if let Some(frame) = self.opening.pop_front() {
            if self.opening.is_empty() {
                (self.opening, self.opening_ends) = (VecDeque::new(), None);
            }
            self.note(&frame, Step::Replayed);
            return Some(frame);
        }
        let frame = self.take_live()?;
        self.note(&frame, Step::Written);
        Some(frame)
    }

    /// Counts a message that is handed to the socket, and remembers when.
    fn note(&mut self, frame: &Frame, step: Step) {
        if let Some(progress) = frame.progress() {
            progress.count(step);
            self.record().write(progress.position, Utc::now().timestamp_millis());
        }
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
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.messages().for_each(|frame| frame.count(Step::Ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::frame::Notice;

    const BOUNDS: OutboxBounds = OutboxBounds { bytes: 34, stall: Duration::from_secs(10) };

    const QUEUED: Pushed = Pushed::Queued { replaced: 0 };

    fn poll(outbox: &Outbox) -> Poll<Next> {
        outbox.poll_next(&mut Context::from_waker(Waker::noop()), Instant::now)
    }

    #[test]
    fn frames_leave_in_order_and_the_close_comes_last() {
        let (outbox, now) = (Outbox::default(), Instant::now());
        let frame = Frame::of(&Notice::Pong {});
        assert_eq!(frame.wire_bytes(), 17);
        assert_eq!(outbox.push(&frame, BOUNDS, now), QUEUED);
        assert_eq!(outbox.push(&frame, BOUNDS, now), QUEUED);
        outbox.close(Close::restarting());
        outbox.close(Close::token_expired());
        assert_eq!(outbox.push(&frame, BOUNDS, now), Pushed::Ending);
        assert!(matches!(poll(&outbox), Poll::Ready(Next::Frame(_))));
        assert!(matches!(poll(&outbox), Poll::Ready(Next::Frame(_))));
        assert_eq!(poll(&outbox), Poll::Ready(Next::Close(Close::restarting())));
        assert_eq!(poll(&outbox), Poll::Pending);
    }

    #[test]
    fn a_frame_over_the_bound_gives_up_what_waits_and_ends_with_4420() {
        let (outbox, now) = (Outbox::default(), Instant::now());
        let frame = Frame::of(&Notice::Pong {});
        assert_eq!([outbox.push(&frame, BOUNDS, now), outbox.push(&frame, BOUNDS, now)], [QUEUED; 2]);
        assert_eq!(outbox.rehearse(1, None, BOUNDS, now), Pushed::Full);
        assert_eq!(outbox.push(&frame, BOUNDS, now), Pushed::Full);
        assert_eq!(outbox.push(&frame, BOUNDS, now), Pushed::Ending);
        assert_eq!(outbox.waiting_bytes(), 0);
        assert_eq!(poll(&outbox), Poll::Ready(Next::Close(Close::too_slow())));
    }

    #[test]
    fn a_stall_counts_from_the_last_frame_that_was_taken() {
        let (outbox, start) = (Outbox::default(), Instant::now());
        let frame = Frame::of(&Notice::Pong {});
        assert!(!outbox.close_if_stalled(BOUNDS, start + Duration::from_secs(100)));
        outbox.push(&frame, BOUNDS, start);
        outbox.push(&frame, BOUNDS, start);
        let taken = start + Duration::from_secs(9);
        assert!(outbox.poll_next(&mut Context::from_waker(Waker::noop()), || taken).is_ready());
        assert!(!outbox.close_if_stalled(BOUNDS, taken + Duration::from_millis(9_999)));
        assert!(outbox.close_if_stalled(BOUNDS, taken + Duration::from_secs(10)));
        assert!(!outbox.close_if_stalled(BOUNDS, taken + Duration::from_secs(20)));
    }
}
