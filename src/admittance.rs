//! Who computes next on a thread: newcomers and leavers one at a time, with everything else that is
//! ready between two.

use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Semaphore;

/// How many turns of messages under way a newcomer or leaver lets go first. Bounded, so that they
/// come through a storm of messages too, only more slowly.
const GIVES_WAY: usize = 3;

/// Lets the work of those who come and go through one piece at a time. A thousand clients that come
/// at once are a thousand pieces of some hundred microseconds, and those that go as many smaller
/// ones, all ready at the same moment; without turns, a message that comes meanwhile would wait
/// behind every one of them. Clones share it; of one thread.
#[derive(Clone, Debug)]
pub struct Admittance(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    one_at_a_time: Semaphore,
    /// Whether messages are under way to this thread's sockets.
    is_delivering: Cell<bool>,
}

impl Default for Admittance {
    fn default() -> Self {
        Self(Rc::new(Inner { one_at_a_time: Semaphore::new(1), is_delivering: Cell::new(false) }))
    }
}

impl Admittance {
    /// Says whether messages are under way to this thread's sockets.
    pub fn note_deliveries(&self, under_way: bool) {
        self.0.is_delivering.set(under_way);
    }

    /// Does `work` when it is its turn, first come, first served; while messages are under way, a
    /// few turns of theirs later. Between two pieces of work whatever else is ready runs, and the
    /// sockets are looked at.
    pub async fn in_turn<T>(&self, work: impl FnOnce() -> T) -> T {
        // The semaphore is never closed: without a turn there would still be the work.
        let _turn = self.0.one_at_a_time.acquire().await.ok();
        for _ in 0..GIVES_WAY {
            if !self.0.is_delivering.get() {
                break;
            }
            tokio::task::yield_now().await;
        }
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
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use tokio::task::LocalSet;

    #[tokio::test]
    async fn what_is_ready_runs_between_two_pieces_of_work_and_nobody_is_passed_over() {
        let (admittance, done) = (Admittance::default(), Rc::new(RefCell::new(Vec::new())));
        let local = LocalSet::new();
        for number in 0..3 {
            let (admittance, done) = (admittance.clone(), done.clone());
            local.spawn_local(async move {
                admittance.in_turn(|| done.borrow_mut().push(number)).await
            });
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

    #[tokio::test]
    async fn messages_under_way_go_first_for_a_few_turns_and_no_longer() {
        let below = GIVES_WAY - 1;
        for (turns, expected) in
            [(0, 0), (1, 1), (below, below), (GIVES_WAY, GIVES_WAY), (GIVES_WAY + 1, GIVES_WAY)]
        {
            let (admittance, taken) = (Admittance::default(), Cell::new(0));
            admittance.note_deliveries(turns > 0);
            let mut passing = pin!(admittance.in_turn(|| taken.get()));
            let before = loop {
                match passing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(before) => break before,
                    // Between two steps of the newcomer is one turn of the messages.
                    Poll::Pending => taken.set(taken.get() + 1),
                }
                admittance.note_deliveries(taken.get() < turns);
            };
            assert_eq!(before, expected, "of {turns} turns");
        }
    }
}
