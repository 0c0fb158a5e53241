//! How long the rest of a request's body is waited for.

use super::error::{Code, Outcome, Problem};
use actix_web::dev::Payload;
use actix_web::web::Bytes;
use futures_util::StreamExt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long bodies may take.
#[derive(Clone, Copy, Debug)]
pub struct LeastRate {
    /// Before the rate counts.
    pub grace: Duration,
    /// After that, on average.
    pub bytes_per_second: u32,
}

impl LeastRate {
    /// How long after its beginning more of a body must come of which so many bytes are there.
    fn allows(self, received: usize) -> Duration {
        self.grace + Duration::from_secs_f64(received as f64 / f64::from(self.bytes_per_second))
    }
}

/// The wait for one body. What came with the head needs neither a clock nor a timer.
pub struct Patience {
    least: LeastRate,
    waiting: Waiting,
}

enum Waiting {
    /// Nothing was waited for.
    Not,
    /// Asked once in vain: what came with the head may not have been taken apart yet.
    Once,
    /// The client is waited for.
    Since(Instant, Pin<Box<Sleep>>),
}

impl Patience {
    /// Nothing was waited for.
    pub fn new(least: LeastRate) -> Self {
        Self { least, waiting: Waiting::Not }
    }

    /// The next piece after `received` bytes; none at the end. Errors: 408 `REQUEST_TIMEOUT`, 400
    /// `MALFORMED_JSON`.
    pub async fn next_piece(
        &mut self,
        payload: &mut Payload,
        received: usize,
    ) -> Outcome<Option<Bytes>> {
        let allowed = self.least.allows(received);
        if let Waiting::Since(start, timer) = &mut self.waiting {
            timer.as_mut().reset(*start + allowed);
        }
        poll_fn(|cx| match payload.poll_next_unpin(cx) {
            Poll::Ready(piece) => Poll::Ready(piece.transpose().map_err(|_| broken())),
            Poll::Pending => self.poll_overdue(cx, allowed).map(Err),
        })
        .await
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>, allowed: Duration) -> Poll<Problem> {
        match &mut self.waiting {
            Waiting::Not => {
                self.waiting = Waiting::Once;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Waiting::Once => {
                let now = Instant::now();
                self.waiting = Waiting::Since(now, Box::pin(sleep_until(now + allowed)));
                self.poll_overdue(cx, allowed)
            }
            Waiting::Since(_, timer) => timer.as_mut().poll(cx).map(|()| self.overdue()),
        }
    }

    fn overdue(&self) -> Problem {
        let LeastRate { grace, bytes_per_second: rate } = self.least;
        let seconds = grace.as_secs();
        let detail = format!(
            "the body did not come within {seconds} s, nor at {rate} bytes a second after that"
        );
        Problem::new(Code::RequestTimeout, detail)
    }
}

fn broken() -> Problem {
    Problem::new(Code::MalformedJson, "the body did not come whole")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_grace_and_then_its_rate() {
        let least = LeastRate { grace: Duration::from_secs(10), bytes_per_second: 4_096 };
        let allows = |received| least.allows(received).as_millis();
        assert_eq!([0, 4_095, 4_096, 4_097].map(allows), [10_000, 10_999, 11_000, 11_000]);
        assert_eq!(allows(1 << 20), 266_000);
    }
}
