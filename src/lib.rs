//! Herald: realtime as a service.

pub mod domain;
