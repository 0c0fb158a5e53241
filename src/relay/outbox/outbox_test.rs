//! What an outbox does with frames, bounds and stalls.

use super::{Batch, Next, Outbox, Pushed};
use crate::relay::close::Close;
use crate::relay::frame::{Frame, Notice};
use crate::relay::settings::OutboxBounds;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

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
    assert_eq!(outbox.would_take(1, None, BOUNDS, now), Pushed::Full);
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

#[test]
fn frames_that_wait_are_joined_up_to_a_bound_and_a_lone_one_is_not_copied() {
    let (outbox, now) = (Outbox::default(), Instant::now());
    let bounds = OutboxBounds { bytes: 1 << 20, ..BOUNDS };
    let mut joined = b"of another".to_vec();
    let batch =
        |joined: &mut Vec<u8>| outbox.poll_batch(&mut Context::from_waker(Waker::noop()), joined);
    let frame = Frame::of_json("x".repeat(20_000).as_bytes());
    outbox.push(&frame, bounds, now);
    assert_eq!(batch(&mut joined), Poll::Ready(Batch::Frame(frame.clone())));
    for _ in 0..3 {
        outbox.push(&frame, bounds, now);
    }
    outbox.close(Close::restarting());
    assert_eq!(
        (batch(&mut joined), joined.len()),
        (Poll::Ready(Batch::Joined), 2 * frame.wire_bytes())
    );
    assert_eq!(joined, [frame.bytes(), frame.bytes()].concat());
    assert_eq!(
        outbox.waiting_bytes(),
        3 * frame.wire_bytes(),
        "what was handed over may not be written yet"
    );
    assert_eq!(batch(&mut joined), Poll::Ready(Batch::Frame(frame)));
    assert_eq!(batch(&mut joined), Poll::Ready(Batch::Close(Close::restarting())));
    assert_eq!(batch(&mut joined), Poll::Pending);
}
