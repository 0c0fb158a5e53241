//! How a connection's task is told that the connection must go.

use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Given from any thread, heard by the task that reads from the connection.
#[derive(Debug, Default)]
pub(super) struct Signal {
    must_go: AtomicBool,
    reader: AtomicWaker,
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
}
