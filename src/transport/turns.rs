//! Whose handshake is under way on a worker: so many at a time, of which one address has at most
//! half.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Turns that are taken in the order in which they are asked for, apart from the share of an
/// address. Clones are the same.
#[derive(Clone)]
pub(super) struct Turns(Rc<Inner>);

struct Inner {
    /// Of one address.
    share: usize,
    all: Semaphore,
    /// The turns of each address that has or waits for one.
    shares: RefCell<HashMap<IpAddr, Rc<Semaphore>, ahash::RandomState>>,
}

/// A turn; dropping it gives it back.
pub(super) struct Turn<'a> {
    _of_all: Option<SemaphorePermit<'a>>,
    _of_the_address: Share<'a>,
}

/// That an address has or waits for a turn; the last one forgets it.
struct Share<'a> {
    turns: &'a Inner,
    address: IpAddr,
    semaphore: Rc<Semaphore>,
    has_one: bool,
}

impl Turns {
    /// At most `most` at a time.
    pub fn new(most: usize) -> Self {
        let (all, shares) = (Semaphore::new(most), RefCell::default());
        Self(Rc::new(Inner { share: most.div_ceil(2), all, shares }))
    }

    /// Waits for a turn.
    pub async fn take(&self, address: IpAddr) -> Turn<'_> {
        let mut share = self.0.share(address);
        // They are never closed: without a turn there would still be the handshake.
        if let Ok(permit) = share.semaphore.acquire().await {
            permit.forget();
            share.has_one = true;
        }
        Turn { _of_all: self.0.all.acquire().await.ok(), _of_the_address: share }
    }

    /// Whether the next one would wait.
    pub fn are_all_taken(&self) -> bool {
        self.0.all.available_permits() == 0
    }
}

impl Inner {
    fn share(&self, address: IpAddr) -> Share<'_> {
        let mut shares = self.shares.borrow_mut();
        let semaphore = shares.entry(address).or_insert_with(|| Semaphore::new(self.share).into());
        Share { turns: self, address, semaphore: semaphore.clone(), has_one: false }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        if self.has_one {
            self.semaphore.add_permits(1);
        }
        // The map has one, and this is the other.
        if Rc::strong_count(&self.semaphore) == 2 {
            self.turns.shares.borrow_mut().remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn an_address_has_half_of_the_turns_and_is_forgotten_with_the_last() {
        let turns = Turns::new(4);
        let [greedy, other]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let first = turns.take(greedy).now_or_never().unwrap();
        let _second = turns.take(greedy).now_or_never().unwrap();
        let mut third = Box::pin(turns.take(greedy));
        assert!(third.as_mut().now_or_never().is_none());
        let others = [(); 2].map(|()| turns.take(other).now_or_never().unwrap());
        assert!(turns.are_all_taken());
        assert!(turns.take([192, 0, 2, 3].into()).now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_some(), "who waited is next");
        drop((third, others, _second));
        assert!(turns.0.shares.borrow().is_empty() && turns.0.all.available_permits() == 4);
    }
}
