//! One socket's or event stream's life: the handshake, what the client sends, what is written to
//! it, and its end.

mod websocket;

mod client_frame;
mod client_input;
mod inbound;
mod reader;
mod renewal;

mod events;
mod sockets;

pub use events::open_stream;
pub use renewal::{Renewal, Renewer};
pub use sockets::{Held, Sockets};
pub use websocket::{SUBPROTOCOL, Upgrade, accept, refuse};
