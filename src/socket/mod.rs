//! One socket's or event stream's life: the handshake, what the client sends, what is written to
//! it, and its end.

mod websocket;

mod client_frame;
mod client_input;
mod inbound;
mod reader;
mod renewal;

mod events;

pub use events::open_stream;
pub use renewal::{Renewal, Renewer};
pub use websocket::{SUBPROTOCOL, Upgrade};

use crate::relay::{Close, OutboxBounds, Registration, Worker};
use actix_web::{Error, HttpRequest, HttpResponse};
use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// What a socket or a stream holds as long as it is open, such as its place among those of its
/// address. Dropping it gives that back.
pub type Held = Box<dyn Any>;

/// What all sockets of one worker share. Clones are the same; they stay on the worker's thread.
#[derive(Clone)]
pub struct Sockets(Rc<Shared>);

struct Shared {
    /// Where they are registered.
    worker: Worker,
    /// How much may wait for each of them.
    bounds: OutboxBounds,
    /// Verifies their new tokens.
    renewer: Arc<dyn Renewer>,
    /// What they read into and join frames in, one at a time.
    buffers: RefCell<Buffers>,
}

#[derive(Default)]
struct Buffers {
    /// What was just read from a socket.
    incoming: Vec<u8>,
    /// Frames that are about to be written to one.
    joined: Vec<u8>,
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

    /// Answers the handshake with a socket that lives as long as `registration`. Errors: the
    /// handshake's own, when the request is no WebSocket handshake (RFC 6455 section 4.2.1).
    pub async fn accept(
        &self,
        request: &HttpRequest,
        registration: Registration,
        held: Held,
    ) -> Result<HttpResponse, Error> {
        websocket::upgrade(request, Upgrade::accepted(self.clone(), registration, held)).await
    }

    /// Answers the handshake with a socket that is closed at once, so that a browser can read the
    /// reason. Errors: as for `accept`.
    pub async fn refuse(
        &self,
        request: &HttpRequest,
        close: Close,
        held: Held,
    ) -> Result<HttpResponse, Error> {
        websocket::upgrade(request, Upgrade::refused(self.clone(), close, held)).await
    }
}
