//! The ids that publishers chose, remembered for the window's time, so that a repeated request
//! sends nothing twice.

use super::Published;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How long a repeated request waits for the first one's answer before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What makes two requests the same: a digest of the user and of everything that was asked for.
pub type Fingerprint = [u8; 32];

/// The first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// What became of the message.
    pub published: Published,
    /// Canonical names of whom it was for.
    pub audiences: Vec<String>,
}

/// One instance's ids.
#[derive(Debug)]
pub struct Repeats {
    ids: Mutex<Ids>,
    /// For how long an id is remembered.
    window: Duration,
    /// Ids of the whole process.
    total: Arc<AtomicUsize>,
    /// Most ids of the whole process.
    most: usize,
}

#[derive(Debug, Default)]
struct Ids {
    known: HashMap<Arc<str>, Known>,
    /// By when they are forgotten; only of those that have an answer.
    order: VecDeque<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Known {
    fingerprint: Fingerprint,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The first request is being answered; told when it is.
    UnderWay(Arc<Notify>),
    Answered(Arc<Remembered>),
}

/// What an id means for a request.
pub enum Claim {
    /// It is the first: publish, and keep the answer.
    First(Ticket),
    /// It was published: this was the answer.
    Repeat(Arc<Remembered>),
}

/// Why an id cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another request, or another user's, has it.
    #[error("the id was used for another message, or by another user")]
    Reused,
    /// The process remembers as many as it may.
    #[error("{0} ids are remembered, and no more can be")]
    Full(usize),
}

/// The right to be the first with an id. Dropping it without an answer leaves the id free.
pub struct Ticket {
    repeats: Arc<Repeats>,
    id: Arc<str>,
    told: Arc<Notify>,
}

impl Repeats {
    /// None yet.
    pub fn new(window: Duration, most: usize, total: Arc<AtomicUsize>) -> Self {
        Self { ids: Mutex::default(), window, total, most }
    }

    /// Claims an id; waits while another request with it is being answered. Errors: `ClaimError`.
    pub async fn claim(
        self: &Arc<Self>,
        id: &str,
        fingerprint: Fingerprint,
    ) -> Result<Claim, ClaimError> {
        loop {
            let told = match self.look(id, fingerprint)? {
                Looked::Free(ticket) => return Ok(Claim::First(ticket)),
                Looked::Answered(remembered) => return Ok(Claim::Repeat(remembered)),
                Looked::UnderWay(told) => told,
            };
            // Told or not, the next look decides.
            drop(tokio::time::timeout(LOOK_AGAIN, told).await);
        }
    }

    fn look(self: &Arc<Self>, id: &str, fingerprint: Fingerprint) -> Result<Looked, ClaimError> {
        let mut ids = self.lock();
        self.forget(&mut ids, Instant::now());
        if let Some(known) = ids.known.get(id) {
            return match &known.state {
                _ if known.fingerprint != fingerprint => Err(ClaimError::Reused),
                State::UnderWay(told) => Ok(Looked::UnderWay(told.clone().notified_owned())),
                State::Answered(remembered) => Ok(Looked::Answered(remembered.clone())),
            };
        }
        if self.total.fetch_add(1, Relaxed) >= self.most {
            self.total.fetch_sub(1, Relaxed);
            return Err(ClaimError::Full(self.most));
        }
        let (id, told): (Arc<str>, _) = (id.into(), Arc::new(Notify::new()));
        ids.known.insert(id.clone(), Known { fingerprint, state: State::UnderWay(told.clone()) });
        Ok(Looked::Free(Ticket { repeats: self.clone(), id, told }))
    }

    /// Forgets what is older than the window.
    pub fn trim(&self, now: Instant) {
        self.forget(&mut self.lock(), now);
    }

    fn forget(&self, ids: &mut Ids, now: Instant) {
        while ids.order.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, id)) = ids.order.pop_front() else { return };
            ids.known.remove(&id);
            self.total.fetch_sub(1, Relaxed);
        }
        if ids.known.capacity() > 1_024 && ids.known.len() * 4 < ids.known.capacity() {
            ids.known.shrink_to_fit();
            ids.order.shrink_to_fit();
        }
    }

    /// Every answered id, with its answer and how long it is still remembered; for the next start.
    pub fn export(&self, now: Instant) -> Vec<(Arc<str>, Fingerprint, Arc<Remembered>, Duration)> {
        let ids = self.lock();
        let line = |(until, id): &(Instant, Arc<str>)| {
            let known = ids.known.get(id)?;
            let State::Answered(remembered) = &known.state else { return None };
            Some((
                id.clone(),
                known.fingerprint,
                remembered.clone(),
                until.saturating_duration_since(now),
            ))
        };
        ids.order.iter().filter_map(line).collect()
    }

    /// Takes up one line of `export`; lines must come in its order.
    pub fn import(
        &self,
        id: &str,
        fingerprint: Fingerprint,
        remembered: Remembered,
        until: Instant,
    ) {
        let (id, mut ids): (Arc<str>, _) = (id.into(), self.lock());
        let known = Known { fingerprint, state: State::Answered(Arc::new(remembered)) };
        if ids.known.insert(id.clone(), known).is_none() {
            self.total.fetch_add(1, Relaxed);
            ids.order.push_back((until, id));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Looked {
    Free(Ticket),
    /// Resolves when the first has its answer, also if it has it before this is awaited.
    UnderWay(OwnedNotified),
    Answered(Arc<Remembered>),
}

impl Ticket {
    /// Remembers the answer from now on.
    pub fn keep(self, remembered: Remembered) {
        let mut ids = self.repeats.lock();
        let until = Instant::now() + self.repeats.window;
        if let Some(known) = ids.known.get_mut(&self.id) {
            known.state = State::Answered(Arc::new(remembered));
            ids.order.push_back((until, self.id.clone()));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut ids = self.repeats.lock();
        if ids.known.get(&self.id).is_some_and(|known| matches!(known.state, State::UnderWay(_))) {
            ids.known.remove(&self.id);
            self.repeats.total.fetch_sub(1, Relaxed);
        }
        drop(ids);
        self.told.notify_waiters();
    }
}

impl Drop for Repeats {
    fn drop(&mut self) {
        let known = self.ids.get_mut().unwrap_or_else(PoisonError::into_inner).known.len();
        self.total.fetch_sub(known, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cursor::Cursor;
    use crate::relay::shard::Counts;

    const WINDOW: Duration = Duration::from_secs(60);

    fn answer(position: u64) -> Remembered {
        let cursor = Cursor { epoch: 1, position };
        Remembered {
            published: Published { cursor, counts: Counts::default(), complete: true },
            audiences: vec![],
        }
    }

    async fn first(repeats: &Arc<Repeats>, id: &str) -> Ticket {
        match repeats.claim(id, [1; 32]).await {
            Ok(Claim::First(ticket)) => ticket,
            Ok(Claim::Repeat(_)) => panic!("{id} is taken"),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn the_first_answers_and_the_others_are_told_its_answer() {
        let repeats = Arc::new(Repeats::new(WINDOW, 10, Arc::default()));
        let ticket = first(&repeats, "a").await;
        assert!(matches!(repeats.claim("a", [2; 32]).await, Err(ClaimError::Reused)));
        let second = tokio::spawn({
            let repeats = repeats.clone();
            async move {
                matches!(repeats.claim("a", [1; 32]).await, Ok(Claim::Repeat(known)) if *known == answer(7))
            }
        });
        tokio::task::yield_now().await;
        ticket.keep(answer(7));
        assert!(second.await.unwrap());
        assert!(matches!(repeats.claim("a", [2; 32]).await, Err(ClaimError::Reused)));
    }

    #[tokio::test]
    async fn a_first_that_fails_leaves_the_id_to_the_next() {
        let repeats = Arc::new(Repeats::new(WINDOW, 10, Arc::default()));
        drop(first(&repeats, "a").await);
        first(&repeats, "a").await.keep(answer(1));
    }

    #[tokio::test]
    async fn ids_are_bounded_and_forgotten_with_the_window() {
        let total = Arc::new(AtomicUsize::new(0));
        let repeats = Arc::new(Repeats::new(WINDOW, 2, total.clone()));
        first(&repeats, "a").await.keep(answer(1));
        let held = first(&repeats, "b").await;
        assert!(matches!(repeats.claim("c", [1; 32]).await, Err(ClaimError::Full(2))));
        drop(held);
        first(&repeats, "c").await.keep(answer(2));
        assert_eq!(repeats.export(Instant::now()).len(), 2);
        repeats.trim(Instant::now() + WINDOW);
        assert_eq!(total.load(Relaxed), 0);
        first(&repeats, "a").await.keep(answer(3));
        drop(repeats);
        assert_eq!(total.load(Relaxed), 0);
    }
}
