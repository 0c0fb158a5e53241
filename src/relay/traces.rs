//! What is remembered of an instance's messages and ended connections, so that it can be said what
//! became of a message.

use super::memory::settle;
use super::passage::Witness;
use super::progress::Progress;
use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::message::{Author, Exclusion, Message, Reach};
use crate::domain::principal::UserId;
use ahash::RandomState;
use chrono::{DateTime, Utc};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a trace is counted with beyond its texts; its counters and its places in the index
/// included.
const TRACE_BYTES: usize = 512;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct TraceBounds {
    /// For how long: the window's time.
    pub window: Duration,
    /// Messages of one instance.
    pub traces: usize,
    /// Ended connections of one instance.
    pub ended: usize,
    /// Bytes of the whole process.
    pub total_bytes: usize,
}

#[cfg(test)]
impl TraceBounds {
    /// Wide enough for any test that is not about them.
    pub const WIDE: Self = Self {
        window: Duration::from_secs(120),
        traces: 10_000,
        ended: 1_000,
        total_bytes: 64 << 20,
    };
}

/// One message as its publisher meant it, and how far it has got.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Unique in the instance.
    pub id: Arc<str>,
    /// Its place in the order.
    pub cursor: Cursor,
    /// Who published it.
    pub author: Arc<Author>,
    /// As published.
    pub address: Arc<str>,
    /// Whom it was for.
    pub reach: Arc<Reach>,
    /// When it was accepted.
    pub time: DateTime<Utc>,
    /// Until when it is sent to those who resume; none if it never is.
    pub replayed_until: Option<Instant>,
    /// The counters, shared with its frame.
    pub progress: Arc<Progress>,
    /// Until when it can be traced.
    kept_until: Instant,
    /// What it is counted with.
    bytes: u32,
}

/// One instance's traces and ended connections.
#[derive(Debug)]
pub struct Traces {
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
    ended: VecDeque<(Instant, Arc<Witness>)>,
    bytes: usize,
}

#[derive(Debug)]
struct Remembered {
    trace: Trace,
    /// Its id's.
    hash: u64,
}

impl Trace {
    /// Of a message that got its place just now.
    pub fn new(message: &Message, cursor: Cursor, progress: Arc<Progress>, until: Until) -> Self {
        Self {
            id: message.id.clone(),
            cursor,
            author: message.author.clone(),
            address: message.address.clone(),
            reach: message.reach.clone(),
            time: message.time,
            replayed_until: until.replayed,
            progress,
            kept_until: until.kept,
            bytes: bytes(message),
        }
    }

    /// The same trace, with what is the same as in another's of one allocation with it: messages
    /// often come in rows for the same receivers.
    fn sharing_with(self, other: &Self) -> Self {
        let shared = |own: Arc<Reach>, others: &Arc<Reach>| {
            if own == *others { others.clone() } else { own }
        };
        let shared_text =
            |own: Arc<str>, others: &Arc<str>| if own == *others { others.clone() } else { own };
        Self {
            reach: shared(self.reach, &other.reach),
            address: shared_text(self.address, &other.address),
            ..self
        }
    }
}

/// What a message's trace is counted with.
fn bytes(message: &Message) -> u32 {
    let Exclusion { users, connections } = &message.reach.exclude;
    let excluded =
        users.iter().map(|user| user.as_str().len()).chain(connections.iter().map(String::len));
    let texts = message.reach.audiences.iter().map(Audience::name_bytes).chain(excluded);
    let texts: usize = texts.map(|text| text + size_of::<Audience>()).sum();
    u32::try_from(TRACE_BYTES + message.id.len() + message.address.len() + texts)
        .unwrap_or(u32::MAX)
}

/// How long a message can be traced and replayed.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// When its trace is forgotten.
    pub kept: Instant,
    /// When it is no longer sent to those who resume; none if it never is.
    pub replayed: Option<Instant>,
}

impl Traces {
    /// None yet.
    pub fn new(bounds: TraceBounds, total: Arc<AtomicUsize>) -> Self {
        Self { bounds, state: Mutex::default(), total }
    }

    /// Remembers a message; the oldest gives way, and is left to the caller to let go of where
    /// nobody waits for it.
    pub fn insert(&self, trace: Trace, now: Instant) -> Option<Trace> {
        self.change(|state| {
            state.forget(now);
            state.push(trace);
            let mut gone = None;
            while state.order.len() > self.bounds.traces {
                gone = state.drop_trace();
            }
            gone
        })
    }

    /// A message that is still remembered.
    pub fn find(&self, id: &str, now: Instant) -> Option<Trace> {
        self.state.lock().find(id).filter(|trace| trace.kept_until > now).cloned()
    }

    /// Remembers a connection that has ended; the oldest gives way.
    pub fn leave(&self, witness: Witness, now: Instant) {
        self.change(|state| {
            state.bytes += witness.bytes();
            state.ended.push_back((now + self.bounds.window, Arc::new(witness)));
            while state.ended.len() > self.bounds.ended {
                state.drop_ended();
            }
        });
    }

    /// The ended connections of a user that are still remembered, oldest first.
    pub fn ended(&self, user: &UserId, now: Instant) -> Vec<Arc<Witness>> {
        let state = self.state.lock();
        let kept = state
            .ended
            .iter()
            .filter(|(until, witness)| *until > now && witness.principal.user == *user);
        kept.map(|(_, witness)| witness.clone()).collect()
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
        settle(&self.total, before, state.bytes);
        outcome
    }
}

impl State {
    fn push(&mut self, trace: Trace) {
        let trace = match self.order.back() {
            Some(last) => trace.sharing_with(&last.trace),
            None => trace,
        };
        self.bytes += trace.bytes as usize;
        let (number, hash) =
            (self.first + self.order.len() as u64, self.hashes.hash_one(&*trace.id));
        self.order.push_back(Remembered { trace, hash });
        let Self { known, order, first, .. } = self;
        let at = |number: &u64| order.get((number - *first) as usize);
        let is_same = |other: &u64| {
            at(other).map(|other| &other.trace.id) == at(&number).map(|own| &own.trace.id)
        };
        // A publisher may use an id again: then it is the newer message's.
        match known.entry(hash, is_same, |other| at(other).map_or(0, |other| other.hash)) {
            Entry::Occupied(mut known) => *known.get_mut() = number,
            Entry::Vacant(known) => drop(known.insert(number)),
        }
    }

    fn find(&self, id: &str) -> Option<&Trace> {
        let at = |number: &u64| self.order.get((number - self.first) as usize);
        let is_it = |number: &u64| at(number).is_some_and(|known| *known.trace.id == *id);
        self.known.find(self.hashes.hash_one(id), is_it).and_then(at).map(|known| &known.trace)
    }

    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|oldest| oldest.trace.kept_until <= now) {
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

    fn drop_trace(&mut self) -> Option<Trace> {
        let Remembered { trace, hash } = self.order.pop_front()?;
        let number = self.first;
        self.first += 1;
        if let Ok(known) = self.known.find_entry(hash, |known| *known == number) {
            known.remove();
        }
        self.bytes -= trace.bytes as usize;
        Some(trace)
    }

    fn drop_ended(&mut self) {
        if let Some((_, witness)) = self.ended.pop_front() {
            self.bytes -= witness.bytes();
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

    const BOUNDS: TraceBounds =
        TraceBounds { window: Duration::from_secs(60), traces: 3, ended: 2, total_bytes: 1 << 20 };

    fn trace(number: u64, now: Instant) -> Trace {
        let message = Message::of_a_test(&number.to_string());
        let until = Until { kept: now + BOUNDS.window, replayed: None };
        Trace::new(
            &message,
            Cursor { epoch: 1, position: number },
            Arc::new(Progress::at(number)),
            until,
        )
    }

    #[test]
    fn so_many_messages_are_remembered_for_the_windows_time() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let traces = Traces::new(BOUNDS, total.clone());
        let found = |traces: &Traces, at| {
            (1..=5).filter(|id| traces.find(&id.to_string(), at).is_some()).count()
        };
        for (number, expected) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
            traces.insert(trace(number, now), now);
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
    fn traces_in_a_row_share_what_is_the_same() {
        let (traces, now) = (Traces::new(BOUNDS, Arc::default()), Instant::now());
        let elsewhere = Trace {
            address: "user:alice".into(),
            reach: Arc::new(Reach::all_of(Audience::User(UserId::new("alice").unwrap()))),
            ..trace(3, now)
        };
        for trace in [trace(1, now), trace(2, now), elsewhere] {
            traces.insert(trace, now);
        }
        let [first, second, third] = ["1", "2", "3"].map(|id| traces.find(id, now).unwrap());
        assert!(
            Arc::ptr_eq(&first.reach, &second.reach)
                && Arc::ptr_eq(&first.address, &second.address)
        );
        assert_eq!(
            (&*third.address, third.reach.audiences[0].name().as_str()),
            ("user:alice", "user:alice")
        );
    }

    #[test]
    fn an_id_that_is_used_again_is_the_newer_messages() {
        let (total, now) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let traces = Traces::new(TraceBounds { traces: 2, ..BOUNDS }, total.clone());
        for (id, position) in [("7", 1), ("7", 2), ("8", 3)] {
            let mut again = trace(id.parse().unwrap(), now);
            again.cursor.position = position;
            traces.insert(again, now);
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
            let mut trace = trace(number, now);
            trace.kept_until +=
                if number < 5_500 { Duration::ZERO } else { Duration::from_secs(1) };
            traces.insert(trace, now);
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
            ended.iter().map(|witness| witness.id.clone()).collect::<Vec<_>>()
        };
        for (id, expected) in [("1", &["1"][..]), ("2", &["1", "2"]), ("3", &["2", "3"])] {
            traces.leave(Witness::of_a_test(id, "alice"), now);
            assert_eq!(ids(now), expected);
        }
        assert!(traces.ended(&UserId::new("bob").unwrap(), now).is_empty());
        assert!(ids(now + BOUNDS.window).is_empty());
        assert_eq!(total.load(Relaxed), Witness::of_a_test("2", "alice").bytes() * 2);
        traces.trim(now + BOUNDS.window);
        assert_eq!((traces.bytes(), total.load(Relaxed)), (0, 0));
    }
}
