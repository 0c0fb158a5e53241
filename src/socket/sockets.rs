//! What all sockets of one worker share.

use super::renewal::Renewer;
use crate::relay::{OutboxBounds, Worker};
use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// What a socket or a stream holds as long as it is open, such as its place among those of its
/// address. Dropping it gives that back.
pub type Held = Box<dyn Any>;

/// What all sockets of one worker share. Clones are the same; they stay on the worker's thread.
#[derive(Clone)]
pub struct Sockets(pub(super) Rc<Shared>);

pub(super) struct Shared {
    /// Where they are registered.
    worker: Worker,
    /// How much may wait for each of them.
    pub bounds: OutboxBounds,
    /// Verifies their new tokens.
    pub renewer: Arc<dyn Renewer>,
    /// What they read into and join frames in, one at a time.
    pub buffers: RefCell<Buffers>,
}

#[derive(Default)]
pub(super) struct Buffers {
    /// What was just read from a socket.
    pub incoming: Vec<u8>,
    /// Frames that are about to be written to one.
    pub joined: Vec<u8>,
}

impl Sockets {
    /// The sockets of `worker`, which hold no more than `bounds` each and ask `renewer` about new
    /// tokens.
    pub fn new(worker: Worker, bounds: OutboxBounds, renewer: Arc<dyn Renewer>) -> Self {
        Self(Rc::new(Shared { worker, bounds, renewer, buffers: RefCell::default() }))
    }

    /// Where they are registered.
    pub fn worker(&self) -> &Worker {
        &self.0.worker
    }
}
