//! What was sent lately, by audience, within bounds of time, messages and bytes: resuming reads
//! it, and so does a worker that fell behind.

use super::entries::{Entries, Entry};
use super::passing::Passing;
use crate::domain::audience::Audience;
use crate::domain::expression::Expression;
use crate::domain::principal::UserId;
use crate::relay::frame::Frame;
use crate::relay::head::Head;
use crate::relay::heard::Heard;
use crate::relay::settings::HistoryBounds;
use crate::relay::totals::adjust;
use ahash::RandomState;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// Audiences that have nothing left and are remembered only for how far they were trimmed; beyond
/// so many, the older half is forgotten, and whoever resumes from before that is told `TOO_OLD`.
const MAX_EMPTY_RINGS: usize = 16_384;

/// Why what was missed cannot be sent whole (contract, "Receiving").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
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

/// Whether all workers have been sent everything so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// All have.
    KeepUp,
    /// Some are behind: what is live only waits for them.
    AreBehind,
}

/// One instance's window. Positions grow with gaps; what is kept has numbers without gaps.
#[derive(Debug)]
pub(crate) struct Window {
    bounds: HistoryBounds,
    /// Everything kept.
    entries: Entries,
    /// By audience; one with nothing left stays to tell how far it was trimmed.
    rings: HashMap<Audience, Ring, RandomState>,
    /// How many rings have nothing left.
    empty: usize,
    /// Up to here, an audience without a ring may have had messages.
    forgotten_to: u64,
    /// Entries that are kept for workers alone.
    for_workers: usize,
    /// What all windows of the process take.
    total: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Oldest first.
    numbers: VecDeque<u64>,
    bytes: usize,
    /// Position of the newest message that it once held and holds no more.
    trimmed_to: u64,
}

/// Who resumes, or acknowledges.
#[derive(Clone, Copy)]
pub(crate) struct Hearing<'a> {
    /// What it hears now of everyone and its own.
    pub own: &'a [Audience],
    /// What else it hears now.
    pub shared: &'a [Audience],
    /// Whose connection it is.
    pub user: &'a UserId,
}

impl<'a> Hearing<'a> {
    /// Of a connection of this user that hears this.
    pub fn of(heard: &'a Heard, user: &'a UserId) -> Self {
        Self { own: heard.own(), shared: heard.set().audiences(), user }
    }

    fn audiences(self) -> impl Iterator<Item = &'a Audience> {
        self.own.iter().chain(self.shared)
    }
}

/// A window between two processes.
#[derive(Debug)]
pub(crate) struct Exported {
    /// Up to here, an audience that is not listed may have had messages.
    pub forgotten_to: u64,
    /// With how long each is kept, oldest first.
    pub entries: Vec<(Frame, Instant)>,
    /// How far each audience was trimmed.
    pub trimmed: Vec<(Audience, u64)>,
}

impl Window {
    /// An empty window of an order that stands at `position`, of which nothing before is known.
    pub fn new(bounds: HistoryBounds, position: u64, total: Arc<AtomicUsize>) -> Self {
        Self {
            bounds,
            entries: Entries::new(position),
            rings: HashMap::default(),
            empty: 0,
            forgotten_to: position,
            for_workers: 0,
            total,
        }
    }

    /// The bounds it was made with.
    pub fn bounds(&self) -> HistoryBounds {
        self.bounds
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.entries.bytes()
    }

    /// Keeps a message until then; its position is beyond all before. One that is live only is kept
    /// for workers that are behind, and for nobody else. What gives way to it is left to the caller
    /// to let go of where nobody waits for it.
    pub fn push(
        &mut self,
        frame: &Frame,
        workers: Workers,
        kept_until: Instant,
        now: Instant,
    ) -> Option<Frame> {
        let head = frame.head()?;
        let before = self.bytes();
        self.let_go(now);
        let is_resumable = !head.is_live_only();
        if is_resumable && self.bounds.messages == 0 {
            // With no history at all, every message is one that resuming would lack.
            self.forgotten_to = head.cursor.position;
        }
        let last_gone = if is_resumable && self.bounds.messages > 0 {
            self.take_in(frame, head, kept_until)
        } else {
            if workers == Workers::AreBehind {
                let entry = Entry::new(frame.clone(), kept_until, 0);
                self.entries.push(head.cursor.position, entry);
                self.for_workers += 1;
            }
            None
        };
        adjust(&self.total, before, self.bytes());
        last_gone
    }

    /// What someone who heard everything up to `position` has missed of these audiences, in order,
    /// once; filters are still to be asked, by `replay`. Errors: `Loss`, when that cannot be said
    /// whole.
    pub fn since(
        &mut self,
        position: u64,
        who: Hearing<'_>,
        now: Instant,
    ) -> Result<Vec<Frame>, Loss> {
        // What has left the window is a loss; only a message's own ttl may end it unseen.
        self.trim(now);
        let trimmed_to =
            |audience| self.rings.get(audience).map_or(self.forgotten_to, |ring| ring.trimmed_to);
        if who.audiences().any(|audience| trimmed_to(audience) > position) {
            return Err(Loss::TooOld);
        }
        let mut missed = self.between(position, u64::MAX, who);
        let is_over = |head: &Arc<Head>| head.expires.is_none_or(|expires| expires <= now);
        missed.retain(|frame| frame.head().is_some_and(|head| !is_over(head)));
        Ok(missed)
    }

    /// Those messages with a filter that someone has missed who heard everything up to `position`.
    pub fn filtered(&self, position: u64, who: Hearing<'_>) -> Vec<Frame> {
        if self.entries.filtered() == 0 {
            return Vec::new();
        }
        let mut missed = self.between(position, u64::MAX, who);
        missed.retain(|frame| frame.head().is_some_and(|head| head.reach.filter.is_some()));
        missed
    }

    /// What is kept of what someone was sent behind `after` and up to `to`, in order, once; filters
    /// are still to be asked.
    pub fn between(&self, after: u64, to: u64, who: Hearing<'_>) -> Vec<Frame> {
        let entries = &self.entries;
        let mut found: Vec<u64> = Vec::new();
        for ring in who.audiences().filter_map(|audience| self.rings.get(audience)) {
            let numbers = &ring.numbers;
            let from = numbers.partition_point(|number| entries.position_of(*number) <= after);
            let behind = numbers.range(from..).copied();
            found.extend(behind.take_while(|number| entries.position_of(*number) <= to));
        }
        found.sort_unstable();
        found.dedup();
        let excludes = |head: &Arc<Head>| head.reach.exclude.users.contains(who.user);
        let frames = found.into_iter().filter_map(|number| entries.frame_of(number));
        let meant = frames.filter(|frame| frame.head().is_some_and(|head| !excludes(head)));
        meant.cloned().collect()
    }

    /// Everything kept behind a position, in order, for a worker that fell behind there. Errors:
    /// the newest position that is no more, where something behind it is not.
    pub fn behind(&self, position: u64) -> Result<impl Iterator<Item = (u64, &Frame)>, u64> {
        self.entries.behind(position)
    }

    /// What is still kept of what lies behind a position, in order.
    pub fn kept_behind(&self, position: u64) -> impl Iterator<Item = (u64, &Frame)> {
        self.entries.kept_behind(position)
    }

    /// No worker is behind any more: what was kept for them alone is let go of.
    pub fn forget_for_workers(&mut self) {
        if std::mem::take(&mut self.for_workers) > 0 {
            let before = self.bytes();
            self.entries.forget_for_workers();
            adjust(&self.total, before, self.bytes());
        }
    }

    /// How many messages are kept behind `after` and up to `to`, those that left meanwhile among
    /// them: at least so many where `after` lies before the window's beginning.
    pub fn numbers_between(&self, after: u64, to: u64) -> u64 {
        let [after, to] = [after, to].map(|position| self.entries.index_behind(position));
        to.saturating_sub(after) as u64
    }

    /// Lets go of what is older than the window.
    pub fn trim(&mut self, now: Instant) {
        let before = self.bytes();
        self.let_go(now);
        adjust(&self.total, before, self.bytes());
    }

    /// Lets go of the older half, or of everything where little is left. For the process's bound.
    pub fn evict(&mut self) {
        let before = self.bytes();
        let goal = if self.entries.len() < 16 { 0 } else { before / 2 };
        while self.bytes() > goal && self.entries.len() > 0 {
            self.drop_first();
        }
        adjust(&self.total, before, self.bytes());
    }

    /// Everything kept for those who resume, and how far each audience was trimmed; for the next
    /// start.
    pub fn export(&self) -> Exported {
        let kept = self.entries.iter().filter(|entry| entry.held_by > 0);
        let trimmed = self.rings.iter().map(|(audience, ring)| (audience.clone(), ring.trimmed_to));
        Exported {
            forgotten_to: self.forgotten_to,
            entries: kept.map(|entry| (entry.frame.clone(), entry.kept_until)).collect(),
            trimmed: trimmed.collect(),
        }
    }

    /// Takes up the window that `export` gave, of an order that stands at `position`.
    pub fn import(&mut self, position: u64, exported: Exported, now: Instant) {
        *self = Self::new(self.bounds, position, self.total.clone());
        self.forgotten_to = exported.forgotten_to;
        self.empty = exported.trimmed.len();
        for (audience, trimmed_to) in exported.trimmed {
            self.rings.insert(audience, Ring { trimmed_to, ..Ring::default() });
        }
        for (frame, kept_until) in exported.entries {
            self.push(&frame, Workers::KeepUp, kept_until, now);
        }
    }

    fn take_in(&mut self, frame: &Frame, head: &Head, kept_until: Instant) -> Option<Frame> {
        let (position, audiences) = (head.cursor.position, &head.reach.audiences);
        let entry = Entry::new(frame.clone(), kept_until, audiences.len());
        let number = self.entries.push(position, entry);
        let mut last_gone = None;
        for audience in audiences {
            let ring = match self.rings.get_mut(audience) {
                Some(ring) => ring,
                None => {
                    self.empty += 1;
                    let fresh = Ring { trimmed_to: self.forgotten_to, ..Ring::default() };
                    self.rings.entry(audience.clone()).or_insert(fresh)
                }
            };
            // Of a window that is taken up again, this audience had already let go of the message.
            if ring.trimmed_to >= position {
                last_gone = self.entries.release(number).or(last_gone);
                continue;
            }
            if ring.numbers.is_empty() {
                self.empty -= 1;
            }
            ring.bytes += frame.wire_bytes();
            ring.numbers.push_back(number);
            while ring.numbers.len() > self.bounds.messages || ring.bytes > self.bounds.bytes {
                let Some(oldest) = ring.pop(&self.entries) else { break };
                last_gone = self.entries.release(oldest).or(last_gone);
            }
            if ring.numbers.is_empty() {
                self.empty += 1;
            }
        }
        self.entries.pop_empty();
        last_gone
    }

    fn let_go(&mut self, now: Instant) {
        while self.entries.first().is_some_and(|(_, entry)| entry.kept_until <= now) {
            self.drop_first();
        }
        if self.empty > MAX_EMPTY_RINGS {
            self.forget_empty_rings();
        }
    }

    /// The first entry is the first of every ring that holds it.
    fn drop_first(&mut self) {
        if let Some((number, entry)) = self.entries.first() {
            if entry.held_by == 0 {
                self.for_workers -= 1;
            }
            let held = entry.frame.head().filter(|_| entry.held_by > 0);
            for audience in held.iter().flat_map(|head| &head.reach.audiences) {
                let Some(ring) = self.rings.get_mut(audience) else { continue };
                if ring.numbers.front() == Some(&number) {
                    ring.pop(&self.entries);
                    self.empty += usize::from(ring.numbers.is_empty());
                }
            }
        }
        self.entries.pop_first();
        self.entries.pop_empty();
    }

    fn forget_empty_rings(&mut self) {
        let empty = self.rings.values().filter(|ring| ring.numbers.is_empty());
        let mut positions: Vec<u64> = empty.map(|ring| ring.trimmed_to).collect();
        let half = positions.len() / 2;
        let (_, median, _) = positions.select_nth_unstable(half);
        let border = *median;
        self.rings.retain(|_, ring| !ring.numbers.is_empty() || ring.trimmed_to > border);
        self.rings.shrink_to_fit();
        self.forgotten_to = self.forgotten_to.max(border);
        self.empty = self.rings.values().filter(|ring| ring.numbers.is_empty()).count();
    }
}

impl Ring {
    /// Takes the oldest number out; what it stands for is still among `entries`.
    fn pop(&mut self, entries: &Entries) -> Option<u64> {
        let number = self.numbers.pop_front()?;
        self.bytes -= entries.frame_of(number).map_or(0, Frame::wire_bytes);
        self.trimmed_to = entries.position_of(number);
        if self.numbers.is_empty() {
            self.numbers = VecDeque::new();
        }
        Some(number)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes(), Relaxed);
    }
}

/// What is sent of what `Window::since` found; `passes` is asked about filters whose answer is not
/// known. Errors: `Loss::TooMuch`.
pub fn replay(
    missed: Vec<Frame>,
    bounds: HistoryBounds,
    passing: &mut Passing,
    passes: impl Fn(&Expression) -> bool,
) -> Result<Vec<Frame>, Loss> {
    let (mut frames, mut bytes) = (Vec::new(), 0);
    for frame in missed {
        if !passing.lets_through(&frame, &passes) {
            continue;
        }
        bytes += frame.wire_bytes();
        frames.push(frame);
        if frames.len() > bounds.replay_messages || bytes > bounds.replay_bytes {
            return Err(Loss::TooMuch);
        }
    }
    Ok(frames)
}
