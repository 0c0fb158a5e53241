//! What is remembered of an instance's messages and ended connections, so that it can be said what
//! became of a message.

use crate::domain::principal::UserId;
use crate::relay::head::Head;
use crate::relay::settings::TraceBounds;
use crate::relay::snapshot::ConnectionSnapshot;
use crate::relay::totals::adjust;
use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// One instance's traces and ended connections.
#[derive(Debug)]
pub(crate) struct Traces {
    bounds: TraceBounds,
    state: Mutex<State>,
    /// Bytes of the whole process.
    total: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    /// Numbers of the traces, by their ids; of those with the same id, the newest's.
    known: HashTable<u64>,
    hashes: RandomState,
    /// Oldest first, in places that are used again and again: what was remembered a while ago is
    /// far from any processor, and memory of its own for each would be fetched once to be freed and
    /// once more to be used.
    order: VecDeque<Remembered>,
    /// Number of the oldest.
    first: u64,
    /// With how long they are remembered, oldest first.
    ended: VecDeque<(Instant, Arc<ConnectionSnapshot>)>,
    bytes: usize,
}

#[derive(Debug)]
struct Remembered {
    head: Arc<Head>,
    /// Until when it can be traced.
    kept_until: Instant,
    /// Its id's.
    hash: u64,
    /// What it is counted with.
    bytes: u32,
}

impl Traces {
    /// None yet.
    pub fn new(bounds: TraceBounds, total: Arc<AtomicUsize>) -> Self {
        Self { bounds, state: Mutex::default(), total }
    }

    /// Remembers a message; the oldest gives way, and is left to the caller to let go of where
    /// nobody waits for it.
    pub fn insert(&self, head: Arc<Head>, now: Instant) -> Option<Arc<Head>> {
        let kept_until = now + self.bounds.window;
        self.change(|state| {
            state.forget(now);
            state.push(head, kept_until);
            let mut gone = None;
            while state.order.len() > self.bounds.traces {
                gone = state.drop_trace();
            }
            gone
        })
    }

    /// A message that is still remembered.
    pub fn find(&self, id: &str, now: Instant) -> Option<Arc<Head>> {
        let state = self.state.lock();
        state.find(id).filter(|known| known.kept_until > now).map(|known| known.head.clone())
    }

    /// The newest message that is remembered.
    pub fn newest(&self) -> Option<Arc<Head>> {
        self.state.lock().order.back().map(|known| known.head.clone())
    }

    /// Remembers a connection that has ended; the oldest gives way.
    pub fn leave(&self, connection: ConnectionSnapshot, now: Instant) {
        self.change(|state| {
            state.bytes += connection.bytes();
            state.ended.push_back((now + self.bounds.window, Arc::new(connection)));
            while state.ended.len() > self.bounds.ended {
                state.drop_ended();
            }
        });
    }

    /// The ended connections of a user that are still remembered, oldest first.
    pub fn ended(&self, user: &UserId, now: Instant) -> Vec<Arc<ConnectionSnapshot>> {
        let state = self.state.lock();
        let kept = state
            .ended
            .iter()
            .filter(|(until, connection)| *until > now && connection.principal.user == *user);
        kept.map(|(_, connection)| connection.clone()).collect()
    }

    /// Forgets what is older than the window.
    pub fn trim(&self, now: Instant) {
        self.change(|state| state.forget(now));
    }

    /// Forgets the older half, for the process's bound.
    pub fn evict(&self) {
        self.change(|state| {
            for _ in 0..state.order.len().div_ceil(2) {
                state.drop_trace();
            }
            for _ in 0..state.ended.len().div_ceil(2) {
                state.drop_ended();
            }
        });
    }

    /// What all of it is counted with.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Does something to the state, and tells the process's total what has changed.
    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let before = state.bytes;
        let outcome = act(&mut state);
        adjust(&self.total, before, state.bytes);
        outcome
    }
}

impl State {
    fn push(&mut self, head: Arc<Head>, kept_until: Instant) {
        let bytes = u32::try_from(head.bytes()).unwrap_or(u32::MAX);
        self.bytes += bytes as usize;
        let number = self.first + self.order.len() as u64;
        let hash = self.hashes.hash_one(&*head.id);
        self.order.push_back(Remembered { head, kept_until, hash, bytes });
        let Self { known, order, first, .. } = self;
        let at = |number: &u64| order.get((number - *first) as usize);
        let id_at = |number: &u64| at(number).map(|known| &known.head.id);
        let is_same = |other: &u64| id_at(other) == id_at(&number);
        // A publisher may use an id again: then it is the newer message's.
        match known.entry(hash, is_same, |other| at(other).map_or(0, |other| other.hash)) {
            Entry::Occupied(mut known) => *known.get_mut() = number,
            Entry::Vacant(known) => drop(known.insert(number)),
        }
    }

    fn find(&self, id: &str) -> Option<&Remembered> {
        let at = |number: &u64| self.order.get((number - self.first) as usize);
        let is_it = |number: &u64| at(number).is_some_and(|known| *known.head.id == *id);
        self.known.find(self.hashes.hash_one(id), is_it).and_then(at)
    }

    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|oldest| oldest.kept_until <= now) {
            self.drop_trace();
        }
        while self.ended.front().is_some_and(|(until, _)| *until <= now) {
            self.drop_ended();
        }
        if self.order.capacity() > 1_024 && self.order.len() * 4 < self.order.capacity() {
            let (order, first) = (&self.order, self.first);
            let hash_of =
                |number: &u64| order.get((number - first) as usize).map_or(0, |known| known.hash);
            self.known.shrink_to_fit(hash_of);
            self.order.shrink_to_fit();
        }
        if self.ended.is_empty() {
            self.ended = VecDeque::new();
        }
    }

    fn drop_trace(&mut self) -> Option<Arc<Head>> {
        let Remembered { head, hash, bytes, .. } = self.order.pop_front()?;
        let number = self.first;
        self.first += 1;
        if let Ok(known) = self.known.find_entry(hash, |known| *known == number) {
            known.remove();
        }
        self.bytes -= bytes as usize;
        Some(head)
    }

    fn drop_ended(&mut self) {
        if let Some((_, connection)) = self.ended.pop_front() {
            self.bytes -= connection.bytes();
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cursor::Cursor;
    use std::time::Duration;

    const BOUNDS: TraceBounds =
        TraceBounds { window: Duration::from_secs(60), traces: 3, ended: 2, total_bytes: 1 << 20 };

    fn head(id: u64, position: u64) -> Arc<Head> {
        Arc::new(Head::of_a_test(&id.to_string(), Cursor { epoch: 1, position }))
    }

    #[test]
    fn so_many_messages_are_remembered_for_the_windows_time() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let traces = Traces::new(BOUNDS, total.clone());
        let found = |traces: &Traces, at| {
            (1..=5).filter(|id| traces.find(&id.to_string(), at).is_some()).count()
        };
        for (number, expected) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
            traces.insert(head(number, number), now);
            assert_eq!(found(&traces, now), expected);
        }
        assert!(
            traces.find("1", now).is_none() && traces.find("4", now).is_some(),
            "the oldest gives way"
        );
        assert_eq!(found(&traces, now + BOUNDS.window - Duration::from_millis(1)), 3);
        assert_eq!(found(&traces, now + BOUNDS.window), 0);
        traces.evict();
        assert!(
            traces.find("3", now).is_none() && traces.find("4", now).is_some(),
            "the older half gives way"
        );
        traces.trim(now + BOUNDS.window);
        assert_eq!((traces.bytes(), total.load(Relaxed)), (0, 0));
    }

    #[test]
    fn an_id_that_is_used_again_is_the_newer_messages() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let traces = Traces::new(TraceBounds { traces: 2, ..BOUNDS }, total.clone());
        for (id, position) in [("7", 1), ("7", 2), ("8", 3)] {
            traces.insert(head(id.parse().unwrap(), position), now);
        }
        assert_eq!(traces.find("7", now).map(|trace| trace.cursor.position), Some(2));
        drop(traces);
        assert_eq!(total.load(Relaxed), 0);
    }

    #[test]
    fn the_index_finds_what_is_kept_as_it_grows_and_shrinks() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let traces = Traces::new(TraceBounds { traces: 5_000, ..BOUNDS }, total.clone());
        let later = now + Duration::from_secs(1);
        for number in 0..6_000 {
            traces.insert(head(number, number), if number < 5_500 { now } else { later });
        }
        let found = |range: std::ops::Range<u64>, at| {
            range
                .filter(|id| {
                    traces
                        .find(&id.to_string(), at)
                        .is_some_and(|trace| trace.cursor.position == *id)
                })
                .count()
        };
        assert_eq!((found(0..1_000, now), found(1_000..6_000, now)), (0, 5_000));
        let places = |traces: &Traces| {
            let state = traces.state.lock();
            (state.order.capacity(), state.known.capacity())
        };
        let before = places(&traces);
        traces.trim(now + BOUNDS.window);
        let after = places(&traces);
        assert!(after.0 < before.0 / 4 && after.1 < before.1 / 4, "{before:?} and {after:?}");
        assert_eq!((found(0..5_500, later), found(5_500..6_000, later)), (0, 500));
        traces.trim(later + BOUNDS.window);
        assert_eq!((traces.bytes(), total.load(Relaxed)), (0, 0));
    }

    #[test]
    fn so_many_ended_connections_are_remembered_for_the_windows_time() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let traces = Traces::new(BOUNDS, total.clone());
        let ids = |at| {
            let ended = traces.ended(&UserId::new("alice").unwrap(), at);
            ended.iter().map(|connection| connection.id.clone()).collect::<Vec<_>>()
        };
        for (id, expected) in [("1", &["1"][..]), ("2", &["1", "2"]), ("3", &["2", "3"])] {
            traces.leave(ConnectionSnapshot::of_a_test(id, "alice"), now);
            assert_eq!(ids(now), expected);
        }
        assert!(traces.ended(&UserId::new("bob").unwrap(), now).is_empty());
        assert!(ids(now + BOUNDS.window).is_empty());
        assert_eq!(total.load(Relaxed), ConnectionSnapshot::of_a_test("2", "alice").bytes() * 2);
        traces.trim(now + BOUNDS.window);
        assert_eq!((traces.bytes(), total.load(Relaxed)), (0, 0));
    }
}
