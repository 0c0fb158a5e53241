//! The ids that publishers chose, remembered for the window's time, so that a repeated request
//! sends nothing twice (the header `Idempotency-Key` is the same).

use crate::relay::head::Head;
use crate::relay::sealed::Digest;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How long a repeated request waits for the first one's place before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One instance's ids.
#[derive(Debug)]
pub(crate) struct Ids {
    state: Mutex<State>,
    /// Ids of the whole process.
    total: Arc<AtomicUsize>,
    /// Most ids of the whole process.
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Arc<str>, Known>,
    /// By when they are forgotten, oldest first; only of those whose message has its place.
    order: VecDeque<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Known {
    digest: Digest,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The first request is on its way to the order; told when its message has a place.
    Claimed(Arc<Notify>),
    /// The message has its place, and the id is remembered until then.
    Placed(Arc<Head>, Instant),
}

/// What an id means for a request.
pub enum Claim {
    /// It is the first: publish.
    First(Claimed),
    /// It was published: this is its message, whose counts are the answer.
    Repeat(Arc<Head>),
}

/// Why an id cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another request, or another user's, has it.
    #[error("the id was used for another message, or by another user")]
    Reused,
    /// The instance remembers as many as it may: with what it has already, no more than it leaves
    /// to the others.
    #[error(
        "of the {most} ids that are remembered together, {own} are this instance's: no more can be"
    )]
    Full {
        /// Of the instance.
        own: usize,
        /// Of the whole process.
        most: usize,
    },
}

/// The right to be the first with an id. Dropping it before the message has its place leaves the
/// id free.
#[derive(Debug)]
pub struct Claimed {
    ids: Arc<Ids>,
    id: Arc<str>,
    digest: Digest,
    told: Arc<Notify>,
}

/// An id between two processes.
#[derive(Debug)]
pub(crate) struct ExportedId {
    /// Its message.
    pub head: Arc<Head>,
    /// Of the request.
    pub digest: Digest,
    /// Until when it is remembered.
    pub until: Instant,
}

enum Looked {
    Free(Claimed),
    /// Resolves when the first has its place, also if it has it before this is awaited.
    Claimed(OwnedNotified),
    Placed(Arc<Head>),
}

impl Ids {
    /// None yet.
    pub fn new(most: usize, total: Arc<AtomicUsize>) -> Self {
        Self { state: Mutex::default(), total, most }
    }

    /// Claims an id; waits while another request with it is on its way to the order. Errors:
    /// `ClaimError`.
    pub async fn claim(self: &Arc<Self>, id: &str, digest: Digest) -> Result<Claim, ClaimError> {
        loop {
            let told = match self.look(id, digest)? {
                Looked::Free(claimed) => return Ok(Claim::First(claimed)),
                Looked::Placed(head) => return Ok(Claim::Repeat(head)),
                Looked::Claimed(told) => told,
            };
            // Told or not, the next look decides.
            drop(tokio::time::timeout(LOOK_AGAIN, told).await);
        }
    }

    fn look(self: &Arc<Self>, id: &str, digest: Digest) -> Result<Looked, ClaimError> {
        let mut state = self.lock();
        self.forget(&mut state, Instant::now());
        if let Some(known) = state.known.get(id) {
            return match &known.stage {
                _ if known.digest != digest => Err(ClaimError::Reused),
                Stage::Claimed(told) => Ok(Looked::Claimed(told.clone().notified_owned())),
                Stage::Placed(head, _) => Ok(Looked::Placed(head.clone())),
            };
        }
        // As with the workers' queues: alone an instance takes at most half, and however many fill
        // the whole, one that comes new finds space.
        let (own, before) = (state.known.len(), self.total.fetch_add(1, Relaxed));
        if own + before >= self.most {
            self.total.fetch_sub(1, Relaxed);
            return Err(ClaimError::Full { own, most: self.most });
        }
        let (id, told): (Arc<str>, _) = (id.into(), Arc::new(Notify::new()));
        let known = Known { digest, stage: Stage::Claimed(told.clone()) };
        state.known.insert(id.clone(), known);
        Ok(Looked::Free(Claimed { ids: self.clone(), id, digest, told }))
    }

    /// The message with this id has its place; claimed here or not.
    pub fn place(&self, head: &Arc<Head>, digest: Digest, until: Instant) {
        let mut state = self.lock();
        let placed = Known { digest, stage: Stage::Placed(head.clone(), until) };
        match state.known.insert(head.id.clone(), placed).map(|known| known.stage) {
            Some(Stage::Claimed(told)) => told.notify_waiters(),
            Some(Stage::Placed(..)) => {}
            None => _ = self.total.fetch_add(1, Relaxed),
        }
        state.order.push_back((until, head.id.clone()));
    }

    /// The message with this id that has its place, and the digest of its request.
    pub fn find(&self, id: &str) -> Option<(Arc<Head>, Digest)> {
        let state = self.lock();
        let known = state.known.get(id)?;
        match &known.stage {
            Stage::Placed(head, _) => Some((head.clone(), known.digest)),
            Stage::Claimed(_) => None,
        }
    }

    /// Forgets what is older than the window.
    pub fn trim(&self, now: Instant) {
        self.forget(&mut self.lock(), now);
    }

    fn forget(&self, state: &mut State, now: Instant) {
        while state.order.front().is_some_and(|(until, _)| *until <= now) {
            let Some((over, id)) = state.order.pop_front() else { return };
            // A message that had the id later keeps it for its own time.
            let is_it =
                |known: &Known| matches!(known.stage, Stage::Placed(_, until) if until == over);
            if state.known.get(&id).is_some_and(is_it) {
                state.known.remove(&id);
                self.total.fetch_sub(1, Relaxed);
            }
        }
        if state.known.capacity() > 1_024 && state.known.len() * 4 < state.known.capacity() {
            state.known.shrink_to_fit();
            state.order.shrink_to_fit();
        }
    }

    /// Every id whose message has its place, oldest first; for the next start.
    pub fn export(&self) -> Vec<ExportedId> {
        let state = self.lock();
        let exported = |(over, id): &(Instant, Arc<str>)| {
            let known = state.known.get(id)?;
            match &known.stage {
                Stage::Placed(head, until) if until == over => {
                    Some(ExportedId { head: head.clone(), digest: known.digest, until: *until })
                }
                _ => None,
            }
        };
        state.order.iter().filter_map(exported).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claimed {
    /// Of the request that claimed it.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut state = self.ids.lock();
        let own =
            |stage: &Stage| matches!(stage, Stage::Claimed(told) if Arc::ptr_eq(told, &self.told));
        if state.known.get(&self.id).is_some_and(|known| own(&known.stage)) {
            state.known.remove(&self.id);
            self.ids.total.fetch_sub(1, Relaxed);
        }
        drop(state);
        self.told.notify_waiters();
    }
}

impl Drop for Ids {
    fn drop(&mut self) {
        let known = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).known.len();
        self.total.fetch_sub(known, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cursor::Cursor;

    const WINDOW: Duration = Duration::from_secs(60);

    fn head(id: &str, position: u64) -> Arc<Head> {
        Arc::new(Head::of_a_test(id, Cursor { epoch: 1, position }))
    }

    async fn first(ids: &Arc<Ids>, id: &str) -> Claimed {
        match ids.claim(id, [1; 32]).await {
            Ok(Claim::First(claimed)) => claimed,
            Ok(Claim::Repeat(_)) => panic!("{id} is taken"),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn the_first_gets_a_place_and_the_others_are_answered_from_its_message() {
        let ids = Arc::new(Ids::new(10, Arc::default()));
        let claimed = first(&ids, "a").await;
        assert!(matches!(ids.claim("a", [2; 32]).await, Err(ClaimError::Reused)));
        let second = tokio::spawn({
            let ids = ids.clone();
            async move { ids.claim("a", [1; 32]).await }
        });
        tokio::task::yield_now().await;
        ids.place(&head("a", 7), claimed.digest(), Instant::now() + WINDOW);
        let Ok(Claim::Repeat(repeated)) = second.await.unwrap() else { panic!("it is a repeat") };
        assert_eq!(repeated.cursor.position, 7);
        drop(claimed);
        assert!(matches!(ids.claim("a", [1; 32]).await, Ok(Claim::Repeat(_))));
        assert!(matches!(ids.claim("a", [2; 32]).await, Err(ClaimError::Reused)));
    }

    #[tokio::test]
    async fn a_first_that_gets_no_place_leaves_the_id_to_the_next() {
        let ids = Arc::new(Ids::new(10, Arc::default()));
        drop(first(&ids, "a").await);
        let claimed = first(&ids, "a").await;
        ids.place(&head("a", 1), claimed.digest(), Instant::now() + WINDOW);
    }

    #[tokio::test]
    async fn ids_are_bounded_and_forgotten_with_the_window() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let ids = Arc::new(Ids::new(4, total.clone()));
        let place = |id: &str, position| ids.place(&head(id, position), [1; 32], now + WINDOW);
        place("a", 1);
        let held = first(&ids, "b").await;
        let full = ids.claim("c", [1; 32]).await;
        assert!(matches!(full, Err(ClaimError::Full { own: 2, most: 4 })));
        let neighbour = Arc::new(Ids::new(4, total.clone()));
        neighbour.place(&head("c", 1), [1; 32], now + WINDOW);
        assert!(neighbour.claim("d", [1; 32]).await.is_err(), "three are taken, one of them here");
        drop((held, neighbour));
        let claimed = first(&ids, "c").await;
        place("c", 2);
        drop(claimed);
        assert_eq!(ids.export().len(), 2);
        ids.trim(now + WINDOW);
        assert_eq!(total.load(Relaxed), 0);
        place("a", 3);
        drop(ids);
        assert_eq!(total.load(Relaxed), 0);
    }

    #[test]
    fn an_id_that_another_log_placed_anew_is_remembered_for_the_newer_ones_time() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let ids = Ids::new(10, total.clone());
        let second = Duration::from_secs(1);
        ids.place(&head("a", 1), [1; 32], now + second);
        ids.place(&head("a", 2), [1; 32], now + second * 2);
        ids.trim(now + second);
        let kept: Vec<u64> = ids.export().iter().map(|id| id.head.cursor.position).collect();
        assert_eq!((kept, total.load(Relaxed)), (vec![2], 1));
        ids.trim(now + second * 2);
        assert_eq!(total.load(Relaxed), 0);
    }
}
