//! Pure values and decisions: no I/O, no async, no clock. A value that exists is valid.

pub mod audience;
pub mod channel;
pub mod claims;
pub mod cursor;
pub mod expression;
pub mod instance;
pub mod message;
pub mod names;
pub mod principal;
pub mod revocation;
pub mod role;
pub mod rule;
mod text;
pub mod verdict;

#[cfg(test)]
mod verdict_test;

pub use text::MAX_ID_BYTES;
