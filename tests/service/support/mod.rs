//! What every test starts from: a real server with its own database, a client, sockets, streams,
//! tokens.

pub mod app;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod road;
pub mod socket;
pub mod stream;
pub mod tokens;

pub use app::{App, Options, trusting};
pub use socket::Socket;
pub use stream::Stream;
pub use tokens::{Token, token};

use std::time::Duration;

/// How long a condition may take before a test fails. Nothing is timed: this only ends a test that
/// hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, or fails the test saying what did not happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Waits until something is so that nothing announces.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let wait = async {
        while !is_so() {
            looks.tick().await;
        }
    };
    within(what, wait).await;
}
