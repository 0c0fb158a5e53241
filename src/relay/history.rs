//! The window that resuming reads: what was sent lately, by audience, within bounds of time,
//! messages and bytes.

use super::entry::Entry;
use super::frame::Frame;
use super::memory::settle;
use crate::domain::audience::Audience;
use crate::domain::expression::Expression;
use crate::domain::principal::UserId;
use ahash::RandomState;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Audiences that have nothing left and are remembered only for how far they were trimmed; beyond
/// so many, the older half is forgotten, and whoever resumes from before that is told `TOO_OLD`.
const MAX_EMPTY_RINGS: usize = 16_384;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct HistoryBounds {
    /// For how long.
    pub window: Duration,
    /// Messages of one audience; 0 keeps nothing.
    pub messages: usize,
    /// Bytes of one audience's frames.
    pub bytes: usize,
    /// Bytes of the whole process.
    pub total_bytes: usize,
    /// Most messages of one replay.
    pub replay_messages: usize,
    /// Most bytes of one replay.
    pub replay_bytes: usize,
}

/// Why what was missed cannot be sent whole (contract, "Receiving").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The cursor is none of this memory's.
    Epoch,
    /// Something that may have been missed is no longer kept.
    TooOld,
    /// More was missed than is sent at once.
    TooMuch,
}

impl Loss {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Epoch => "EPOCH",
            Self::TooOld => "TOO_OLD",
            Self::TooMuch => "TOO_MUCH",
        }
    }
}

/// One instance's window. An entry's position tells its place in `line`.
#[derive(Debug)]
pub struct History {
    bounds: HistoryBounds,
    /// Everything kept, oldest first; a hole where no audience keeps the message any more.
    line: VecDeque<Option<Arc<Entry>>>,
    /// Position of the line's first place.
    first: u64,
    /// By audience; one with nothing left stays to tell how far it was trimmed.
    rings: HashMap<Audience, Ring, RandomState>,
    /// How many rings have nothing left.
    empty: usize,
    /// Up to here, an audience without a ring may have had messages.
    forgotten_to: u64,
    /// What this window takes of the process's bytes.
    bytes: usize,
    /// What all windows of the process take.
    total: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Position of the newest message that it once held and holds no more.
    trimmed_to: u64,
}

impl History {
    /// An empty window of an order that stands at `position`, of which nothing before is known.
    pub fn new(bounds: HistoryBounds, position: u64, total: Arc<AtomicUsize>) -> Self {
        Self {
            bounds,
            line: VecDeque::new(),
            first: position + 1,
            rings: HashMap::default(),
            empty: 0,
            forgotten_to: position,
            bytes: 0,
            total,
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a message; must be called for every position in turn, with none for a message that is
    /// live only. What gives way to it is left to the caller to let go of where nobody waits for
    /// it.
    pub fn push(
        &mut self,
        position: u64,
        entry: Option<Entry>,
        now: Instant,
    ) -> Option<Arc<Entry>> {
        debug_assert_eq!(position, self.first + self.line.len() as u64);
        let before = self.bytes;
        self.let_go(now);
        let last_gone = self.take_in(position, entry);
        settle(&self.total, before, self.bytes);
        last_gone
    }

    /// What someone who heard everything up to `position` has missed of these audiences, in order,
    /// once; filters are still to be asked, by `replay`. Errors: `Loss`, when that cannot be said
    /// whole.
    pub fn since(
        &mut self,
        position: u64,
        who: Listener<'_>,
        now: Instant,
    ) -> Result<Vec<Arc<Entry>>, Loss> {
        // What has left the window is a loss; only a message's own ttl may end it unseen.
        self.trim(now);
        let trimmed_to =
            |audience| self.rings.get(audience).map_or(self.forgotten_to, |ring| ring.trimmed_to);
        if who.audiences.iter().any(|audience| trimmed_to(audience) > position) {
            return Err(Loss::TooOld);
        }
        let mut missed = self.between(position, u64::MAX, who);
        missed.retain(|entry| entry.expires > now);
        Ok(missed)
    }

    /// What is kept of what someone was sent behind `after` and up to `to`, in order, once; filters
    /// are still to be asked.
    pub fn between(&self, after: u64, to: u64, who: Listener<'_>) -> Vec<Arc<Entry>> {
        let mut found: Vec<&Arc<Entry>> = Vec::new();
        for ring in who.audiences.iter().filter_map(|audience| self.rings.get(audience)) {
            let from = ring.entries.partition_point(|entry| entry.position <= after);
            found.extend(ring.entries.range(from..).take_while(|entry| entry.position <= to));
        }
        found.sort_unstable_by_key(|entry| entry.position);
        found.dedup_by_key(|entry| entry.position);
        found
            .into_iter()
            .filter(|entry| !entry.reach.exclude.users.contains(who.user))
            .cloned()
            .collect()
    }

    /// Lets go of what is older than the window.
    pub fn trim(&mut self, now: Instant) {
        let before = self.bytes;
        self.let_go(now);
        settle(&self.total, before, self.bytes);
    }

    /// Lets go of the older half, or of everything where little is left. For the process's bound.
    pub fn evict(&mut self) {
        let before = self.bytes;
        let goal = if self.line.len() < 16 { 0 } else { self.bytes / 2 };
        while self.bytes > goal && !self.line.is_empty() {
            match self.line.front() {
                Some(Some(_)) => self.drop_first(),
                _ => self.pop_first(),
            }
        }
        settle(&self.total, before, self.bytes);
    }

    /// Everything kept, oldest first, and how far each audience was trimmed; for the next start.
    pub fn export(&self) -> Exported<Arc<Entry>> {
        Exported {
            forgotten_to: self.forgotten_to,
            entries: self.line.iter().flatten().cloned().collect(),
            trimmed: self
                .rings
                .iter()
                .map(|(audience, ring)| (audience.clone(), ring.trimmed_to))
                .collect(),
        }
    }

    /// The window that `export` gave, in an order that stands at `position`.
    pub fn import(&mut self, position: u64, exported: Exported<Entry>, now: Instant) {
        *self = Self::new(self.bounds, 0, self.total.clone());
        (self.first, self.forgotten_to) = (
            exported.entries.first().map_or(position + 1, |entry| entry.position),
            exported.forgotten_to,
        );
        for (audience, trimmed_to) in exported.trimmed {
            self.rings.insert(audience, Ring { trimmed_to, ..Ring::default() });
            self.empty += 1;
        }
        for entry in exported.entries {
            while self.first + (self.line.len() as u64) < entry.position {
                self.line_push(None);
            }
            self.push(entry.position, Some(entry), now);
        }
        while self.first + (self.line.len() as u64) <= position {
            self.line_push(None);
        }
        self.pop_holes();
    }

    fn take_in(&mut self, position: u64, entry: Option<Entry>) -> Option<Arc<Entry>> {
        let entry = match entry {
            Some(entry) if self.bounds.messages > 0 => Arc::new(entry),
            entry => {
                // With no history at all, every message is one that resuming would lack.
                self.forgotten_to = entry.map_or(self.forgotten_to, |entry| entry.position);
                self.line_push(None);
                return None;
            }
        };
        let mut last_gone = None;
        self.bytes += entry.bytes();
        entry.held_by.store(entry.reach.audiences.len() as u32, Relaxed);
        self.line_push(Some(entry.clone()));
        for audience in &entry.reach.audiences {
            let ring = self.rings.entry(audience.clone()).or_insert_with(|| {
                self.empty += 1;
                Ring { trimmed_to: self.forgotten_to, ..Ring::default() }
            });
            // Of a window that is taken up again, this audience had already let go of the message.
            if ring.trimmed_to >= position {
                release(&mut self.line, self.first, &entry, &mut self.bytes);
                continue;
            }
            if ring.entries.is_empty() {
                self.empty -= 1;
            }
            ring.bytes += entry.frame.wire_bytes();
            ring.entries.push_back(entry.clone());
            while ring.entries.len() > self.bounds.messages || ring.bytes > self.bounds.bytes {
                let Some(gone) = ring.pop() else { break };
                release(&mut self.line, self.first, &gone, &mut self.bytes);
                last_gone = Some(gone);
            }
            if ring.entries.is_empty() {
                self.empty += 1;
            }
        }
        self.pop_holes();
        last_gone
    }

    fn let_go(&mut self, now: Instant) {
        while let Some(place) = self.line.front() {
            match place {
                Some(entry) if entry.kept_until > now => break,
                Some(_) => self.drop_first(),
                None => self.pop_first(),
            }
        }
        if self.empty > MAX_EMPTY_RINGS {
            self.forget_empty_rings();
        }
    }

    fn line_push(&mut self, place: Option<Arc<Entry>>) {
        self.line.push_back(place);
        self.pop_holes();
    }

    fn pop_holes(&mut self) {
        while matches!(self.line.front(), Some(None)) {
            self.pop_first();
        }
    }

    fn pop_first(&mut self) {
        if self.line.pop_front().is_some() {
            self.first += 1;
        }
        if self.line.capacity() > 1_024 && self.line.len() * 4 < self.line.capacity() {
            self.line.shrink_to(self.line.len() * 2);
        }
    }

    /// The line's first message is the first of every ring that holds it.
    fn drop_first(&mut self) {
        let Some(Some(entry)) = self.line.front().cloned() else { return };
        for audience in &entry.reach.audiences {
            let Some(ring) = self.rings.get_mut(audience) else { continue };
            if ring.entries.front().is_some_and(|first| first.position == entry.position) {
                ring.pop();
                self.empty += usize::from(ring.entries.is_empty());
            }
        }
        self.bytes -= entry.bytes();
        self.pop_first();
    }

    fn forget_empty_rings(&mut self) {
        let empty = self.rings.values().filter(|ring| ring.entries.is_empty());
        let mut positions: Vec<u64> = empty.map(|ring| ring.trimmed_to).collect();
        let half = positions.len() / 2;
        let (_, median, _) = positions.select_nth_unstable(half);
        let border = *median;
        self.rings.retain(|_, ring| !ring.entries.is_empty() || ring.trimmed_to > border);
        self.rings.shrink_to_fit();
        self.forgotten_to = self.forgotten_to.max(border);
        self.empty = self.rings.values().filter(|ring| ring.entries.is_empty()).count();
    }
}

#[cfg(test)]
impl HistoryBounds {
    /// Wide enough for any test that is not about them.
    pub const WIDE: Self = Self {
        window: Duration::from_secs(120),
        messages: 1_000,
        bytes: 1 << 20,
        total_bytes: 1 << 28,
        replay_messages: 10_000,
        replay_bytes: 1 << 22,
    };
}

impl Drop for History {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Relaxed);
    }
}

/// What is sent of what `History::since` found. Errors: `Loss::TooMuch`.
pub fn replay(
    missed: &[Arc<Entry>],
    bounds: HistoryBounds,
    passes: impl Fn(&Expression) -> bool,
) -> Result<Vec<Frame>, Loss> {
    let (mut frames, mut bytes) = (Vec::new(), 0);
    for entry in let_through(missed, passes) {
        bytes += entry.frame.wire_bytes();
        frames.push(entry.frame.clone());
        if frames.len() > bounds.replay_messages || bytes > bounds.replay_bytes {
            return Err(Loss::TooMuch);
        }
    }
    Ok(frames)
}

/// Those entries whose filter `passes`; each filter is asked about once.
pub fn let_through(
    entries: &[Arc<Entry>],
    passes: impl Fn(&Expression) -> bool,
) -> impl Iterator<Item = &Arc<Entry>> {
    let mut answers: HashMap<&str, bool> = HashMap::new();
    entries.iter().filter(move |entry| match &entry.reach.filter {
        Some(filter) => *answers.entry(filter.as_str()).or_insert_with(|| passes(filter)),
        None => true,
    })
}

/// Who resumes, or acknowledges.
#[derive(Clone, Copy)]
pub struct Listener<'a> {
    /// What it hears now.
    pub audiences: &'a [Audience],
    /// Whose connection it is.
    pub user: &'a UserId,
}

/// A window between two processes.
#[derive(Debug)]
pub struct Exported<E> {
    /// Up to here, an audience that is not listed may have had messages.
    pub forgotten_to: u64,
    /// Oldest first.
    pub entries: Vec<E>,
    /// How far each audience was trimmed.
    pub trimmed: Vec<(Audience, u64)>,
}

impl Ring {
    fn pop(&mut self) -> Option<Arc<Entry>> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.frame.wire_bytes();
        self.trimmed_to = entry.position;
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        Some(entry)
    }
}

/// One ring less holds `entry`; the last one leaves a hole in the line.
fn release(
    line: &mut VecDeque<Option<Arc<Entry>>>,
    first: u64,
    entry: &Arc<Entry>,
    bytes: &mut usize,
) {
    if entry.held_by.fetch_sub(1, Relaxed) == 1
        && let Some(place) = line.get_mut((entry.position - first) as usize)
        && place.take().is_some()
    {
        *bytes -= entry.bytes();
    }
}
