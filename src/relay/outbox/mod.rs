//! One connection's bounded queue, and what happens when it is full.

mod conflation;
mod pushed;
mod waiting;
mod written;

#[cfg(test)]
mod outbox_test;

pub use pushed::Pushed;
pub(super) use pushed::Wake;
pub use written::{CloseRecord, Record, When};

use super::close::Close;
use super::frame::Frame;
use super::settings::OutboxBounds;
use crate::domain::channel::ChannelName;
use std::cell::RefCell;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use waiting::Waiting;

/// How long a socket may take to read its first frame and what it missed: messages that left the
/// window are held no longer than that.
const OPENING_PATIENCE: Duration = Duration::from_secs(60);

/// Frames are joined up to about so many bytes before they are written: fewer writes beat
/// everything.
pub const JOINED_BYTES: usize = 32 * 1_024;

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
        let pushed = waiting.push(frame, bounds, now);
        waiting.wake();
        pushed
    }

    /// Queues a message as `push` does; under the `latest` policy, in the place of those of its
    /// channel that had their turn. Wakes nobody yet: the caller is to call `wake` when it is the
    /// socket's turn.
    pub(crate) fn push_message(
        &self,
        frame: &Frame,
        bounds: OutboxBounds,
        now: Instant,
    ) -> (Pushed, Wake) {
        let mut waiting = self.0.borrow_mut();
        let conflated = frame.head().filter(|head| head.conflated().is_some());
        let pushed = match conflated {
            None => waiting.push(frame, bounds, now),
            Some(head) => waiting.push_latest(frame, head, bounds, now),
        };
        let is_awaited = std::mem::replace(&mut waiting.is_awaited, false);
        if is_awaited || pushed == Pushed::Full {
            waiting.called_at = Some(now);
            return (pushed, Wake::Due);
        }
        (pushed, Wake::NotDue)
    }

    /// What `push_message` would say now of a frame of so many bytes, but for what it would
    /// replace. `conflated` is its channel under the `latest` policy.
    pub fn would_take(
        &self,
        frame_bytes: usize,
        conflated: Option<&ChannelName>,
        bounds: OutboxBounds,
        now: Instant,
    ) -> Pushed {
        let waiting = self.0.borrow();
        let waiting_bytes = conflated
            .map_or_else(|| waiting.total(), |it| waiting.total_behind(it, waiting.turn(now)));
        match waiting.ending {
            true => Pushed::Ending,
            false if waiting_bytes + frame_bytes > bounds.bytes => Pushed::Full,
            false => Pushed::Queued { replaced: 0 },
        }
    }

    /// Ends the connection after what waits was written. Only the first reason counts.
    pub fn close(&self, close: Close) {
        let mut waiting = self.0.borrow_mut();
        waiting.end(close, false);
        waiting.wake();
    }

    /// Ends the connection with 4420 if something waits and nothing was taken for `bounds.stall`.
    /// True when it did.
    pub fn close_if_stalled(&self, bounds: OutboxBounds, now: Instant) -> bool {
        let mut waiting = self.0.borrow_mut();
        let stalled =
            waiting.stalled_since.is_some_and(|since| now.duration_since(since) >= bounds.stall)
                || waiting.opening_ends.is_some_and(|end| now >= end);
        if stalled && !waiting.ending {
            waiting.end(Close::too_slow(), true);
            waiting.wake();
            return true;
        }
        false
    }

    /// Lets go of what waited, where the connection turned out to be too slow.
    pub fn let_go(&self) {
        let given_up = self.0.borrow_mut().given_up.take();
        drop(given_up);
    }

    /// Remembers the socket's task, which is to be woken when it is its turn.
    pub fn wait_for_turn(&self, cx: &Context<'_>) {
        self.0.borrow_mut().remember(cx);
    }

    /// Whether there is something to write.
    pub fn has_something(&self) -> bool {
        let waiting = self.0.borrow();
        !waiting.is_empty() || waiting.close.is_some()
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
        frames.any(|frame| frame.head().is_some_and(|head| head.cursor.position == position))
    }

    /// Whether a newer message took the place of this one, or may have.
    pub fn may_be_replaced(&self, position: u64) -> bool {
        let waiting = self.0.borrow();
        let record = waiting.record.as_ref();
        record
            .is_some_and(|record| record.was_replaced(position) || record.may_be_replaced(position))
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
        (waiting.called_at, waiting.given_up) = (None, None);
        match waiting.take(&mut None) {
            Some(frame) => {
                waiting.go_on(now);
                Poll::Ready(Next::Frame(frame))
            }
            None => waiting.poll_close(cx).map(Next::Close),
        }
    }

    /// Everything that is to be written next, up to about 32 KiB, joined in `joined` where it is
    /// more than one frame; remembers the task otherwise.
    pub fn poll_batch(&self, cx: &mut Context<'_>, joined: &mut Vec<u8>) -> Poll<Batch> {
        let mut waiting = self.0.borrow_mut();
        (waiting.called_at, waiting.handed) = (None, 0);
        let mut clock = None;
        let Some(first) = waiting.take(&mut clock) else {
            return waiting.poll_close(cx).map(Batch::Close);
        };
        if waiting.is_empty() {
            waiting.go_on(Instant::now);
            waiting.handed = first.wire_bytes();
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
        waiting.handed = joined.len();
        Poll::Ready(Batch::Joined)
    }
}
