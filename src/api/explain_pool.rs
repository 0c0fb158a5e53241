//! Work that evaluates rules many times over, as explaining does: off the workers' threads, and a
//! few at a time.

use super::error::{Code, Outcome, Problem};
use actix_web::web;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The turns that such work takes; cheap to clone.
#[derive(Clone)]
pub struct ExplainPool(Arc<Semaphore>);

impl ExplainPool {
    /// At most so many at a time.
    pub fn new(turns: usize) -> Self {
        Self(Arc::new(Semaphore::new(turns)))
    }

    /// Does the work; its turn lasts as long as it does, even if nobody waits for the outcome any
    /// more. Errors: 503 `OVERLOADED` when all turns are taken.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let Ok(turn) = self.0.clone().try_acquire_owned() else {
            let busy = Problem::new(Code::Overloaded, "too much is being explained at this moment");
            return Err(busy.with_retry_after(Duration::from_secs(1)));
        };
        let done = web::block(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| Problem::new(Code::Overloaded, "the server is going away"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[actix_web::test]
    async fn as_many_as_there_are_turns_are_done_at_a_time_and_the_next_is_refused() {
        let explain_pool = ExplainPool::new(2);
        let (ends, waiting): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::sync_channel::<()>(1)).unzip();
        let running = waiting.into_iter().map(|end| {
            let explain_pool = explain_pool.clone();
            actix_web::rt::spawn(async move { explain_pool.run(move || end.recv().is_err()).await })
        });
        let running: Vec<_> = running.collect();
        while explain_pool.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = explain_pool.run(|| ()).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after_seconds), (Code::Overloaded, Some(1)));
        drop(ends);
        for run in running {
            assert_eq!(run.await.unwrap(), Ok(true));
        }
        assert_eq!(explain_pool.run(|| 7).await, Ok(7));
    }
}
