//! What is said between a connection's place and its task: that it must go, and that it is closed.

use futures_util::task::AtomicWaker;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Said once each, from any thread.
#[derive(Debug, Default)]
pub(super) struct Signal {
    must_go: AtomicBool,
    is_closed: AtomicBool,
    /// Of the task that reads from the connection.
    reader: AtomicWaker,
    /// Of the task that waits for its end.
    keeper: AtomicWaker,
}

impl Signal {
    /// Tells the connection to go.
    pub fn tell_to_go(&self) {
        self.must_go.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// It may stay after all.
    pub fn take_back(&self) {
        self.must_go.store(false, Ordering::Release);
    }

    /// Whether it was told to go.
    pub fn must_go(&self) -> bool {
        self.must_go.load(Ordering::Acquire)
    }

    /// The same; if not, the task of `cx` is woken once it is.
    pub fn poll_must_go(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader.register(cx.waker());
        if self.must_go() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Says that the connection is closed.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.keeper.wake();
    }

    /// Waits until the connection is closed.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            self.keeper.register(cx.waker());
            match self.is_closed.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}
