//! Who computes next on a thread: newcomers and leavers one at a time, with everything else that is ready between two.

use std::rc::Rc;
use tokio::sync::Semaphore;

/// Lets the work of those who come and go through one piece at a time. A thousand clients that come at once are a thousand
/// pieces of some hundred microseconds, and those that go as many smaller ones, all ready at the same moment; without
/// turns, a message that comes meanwhile would wait behind every one of them. Clones share it; of one thread.
#[derive(Clone, Debug)]
pub struct Turnstile(Rc<Semaphore>);

impl Default for Turnstile {
    fn default() -> Self {
        Self(Rc::new(Semaphore::new(1)))
    }
}

impl Turnstile {
    /// Does `work` when it is its turn, first come, first served. Between two pieces of work whatever else is ready runs,
    /// and the sockets are looked at.
    pub async fn pass<T>(&self, work: impl FnOnce() -> T) -> T {
        // The semaphore is never closed: without a turn there would still be the work.
        let _turn = self.0.acquire().await.ok();
        let outcome = work();
        // A task that yields goes on only once the runtime has looked at its sockets.
        tokio::task::yield_now().await;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::task::LocalSet;

    #[tokio::test]
    async fn what_is_ready_runs_between_two_pieces_of_work_and_nobody_is_passed_over() {
        let (turnstile, done) = (Turnstile::default(), Rc::new(RefCell::new(Vec::new())));
        let local = LocalSet::new();
        for number in 0..3 {
            let (turnstile, done) = (turnstile.clone(), done.clone());
            local.spawn_local(async move { turnstile.pass(|| done.borrow_mut().push(number)).await });
        }
        let others = done.clone();
        local.spawn_local(async move {
            for _ in 0..3 {
                others.borrow_mut().push(9);
                tokio::task::yield_now().await;
            }
        });
        local.await;
        let done = done.borrow();
        let numbers: Vec<_> = done.iter().filter(|number| **number != 9).collect();
        assert_eq!(numbers, [&0, &1, &2]);
        assert!(done.windows(2).all(|pair| pair.contains(&9)), "{done:?}");
    }
}
