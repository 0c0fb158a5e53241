//! Herald: realtime as a service.

pub mod api;
pub mod catalog;
pub mod domain;
pub mod relay;
