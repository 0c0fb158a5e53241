//! What a connection of HTTP is at, told by those who answer its requests to the one who reads.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Waker;

/// What a connection is at; one handle for whoever reads and one for whoever answers.
#[derive(Clone, Default)]
pub struct Exchange(Rc<Shared>);

#[derive(Default)]
struct Shared {
    awaited: Cell<Awaited>,
    /// How often that has changed.
    changes: Cell<u64>,
    /// The body of the request that was answered last.
    body: Cell<AnnouncedBody>,
    /// Who waits for a change.
    waiting: Cell<Option<Waker>>,
}

/// What is to come from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Awaited {
    /// A head.
    #[default]
    Head,
    /// A body, which is waited for.
    Body,
    /// Nothing: a request is being answered.
    Nothing,
}

/// What a request's head says of its body (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnnouncedBody {
    /// There is none, or it was read to its end.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunks,
}

/// A request is being answered until this is dropped.
#[must_use]
pub struct Answering(Exchange);

/// A request's body is being read until this is dropped.
#[must_use]
pub struct ReadingBody(Exchange);

impl Exchange {
    /// To be called when an answer begins to a request with such a body.
    pub fn answering(&self, body: AnnouncedBody) -> Answering {
        self.0.body.set(body);
        self.change(Awaited::Nothing);
        Answering(self.clone())
    }

    /// To be called where a body is read, within an answer.
    pub fn reading_body(&self) -> ReadingBody {
        self.change(Awaited::Body);
        ReadingBody(self.clone())
    }

    /// To be called where a body was read to its end.
    pub fn has_read_body(&self) {
        if self.body() == AnnouncedBody::Chunks {
            self.0.body.set(AnnouncedBody::None);
        }
    }

    pub(super) fn body(&self) -> AnnouncedBody {
        self.0.body.get()
    }

    pub(super) fn awaited(&self) -> Awaited {
        self.0.awaited.get()
    }

    pub(super) fn changes(&self) -> u64 {
        self.0.changes.get()
    }

    /// Wakes once something is to come again.
    pub(super) fn wait(&self, waker: &Waker) {
        self.0.waiting.set(Some(waker.clone()));
    }

    /// Wakes whoever waits.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.0.waiting.take() {
            waker.wake();
        }
    }

    fn change(&self, awaited: Awaited) {
        self.0.awaited.set(awaited);
        self.0.changes.set(self.0.changes.get() + 1);
        if awaited != Awaited::Nothing {
            self.wake();
        }
    }
}

impl Answering {
    /// Whether a body in chunks was not read to its end: nobody but HTTP's dispatcher can tell where
    /// it ends, so the connection had better end with this answer.
    pub fn leaves_chunks(&self) -> bool {
        self.0.body() == AnnouncedBody::Chunks
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(Awaited::Head);
    }
}

impl Drop for ReadingBody {
    fn drop(&mut self) {
        self.0.change(Awaited::Nothing);
    }
}
