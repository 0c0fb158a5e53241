//! HTTP in, HTTP out: the one route table, grouped by audience.

pub mod error;
