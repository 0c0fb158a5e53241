//! Which connections there are, whose they are, how far each has come, and which of them gives way
//! to a newcomer: bookkeeping without a clock, a lock or a socket.

use super::signal::Signal;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who gives way: the connection that is longest at the first of these stages, if it is so long
/// there. Who has just come has its time to speak, unless nobody else gives way.
const ORDER: [(Stage, Duration); 5] = [
    (Stage::Silent, Duration::from_millis(250)),
    (Stage::Handshake, Duration::from_secs(1)),
    (Stage::Idle, Duration::ZERO),
    (Stage::Silent, Duration::ZERO),
    (Stage::Request, Duration::from_secs(10)),
];
/// Owners that are looked at for a connection that gives way.
const OWNERS_LOOKED_AT: usize = 16;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// No byte has come.
    Silent,
    /// The TLS handshake is under way.
    Handshake,
    /// HTTP without a request under way.
    Idle,
    /// A request is under way.
    Request,
    /// A WebSocket or an event stream. It never gives way.
    Socket,
    /// It was told to go, and is not closed yet.
    Leaving,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Silent, Self::Handshake, Self::Idle, Self::Request, Self::Socket, Self::Leaving];

    /// Its name, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Request => "request",
            Self::Socket => "socket",
            Self::Leaving => "leaving",
        }
    }

    /// Whether a connection at it may give way.
    fn yields(self) -> bool {
        self < Self::Socket
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct PlaceSettings {
    /// Of the process.
    pub connections: usize,
    /// Beyond those, only for being told that there is no place.
    pub spare: usize,
    /// Of one address, before the end of the TLS handshake.
    pub handshakes_per_address: usize,
    /// Of one address, behind it: idle or with a request under way.
    pub http_per_address: usize,
}

/// Whom a connection counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// An address as [`counted_as`] says.
    Address(IpAddr),
    /// Nobody but itself: a proxy's that has named no client yet. The number tells it from others.
    Unnamed(u64),
}

/// An IPv6 address counts as its /64, which one household has; one that stands for an IPv4 address
/// counts as that.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The process has as many connections as it may, and none gives way.
    #[error("the process has its connections")]
    Process,
    /// The address has.
    #[error("an address may have {limit} connections at this stage")]
    Address {
        /// How many it may have.
        limit: usize,
    },
}

/// Whom a change made give way: its connection is to be told.
pub(super) type GivesWay = Option<Arc<Signal>>;

struct Occupant {
    owner: Owner,
    stage: Stage,
    /// Its place in the order of changes.
    number: u64,
    signal: Arc<Signal>,
}

/// What one owner has.
#[derive(Default)]
struct Share {
    by_stage: [u32; Stage::ALL.len()],
    /// Those that may give way, by stage and by the order in which they came to it: which one, and
    /// since when.
    yielding: BTreeMap<(Stage, u64), (u64, Instant)>,
}

/// How many connections an owner has that may give way: those that wait for a request, and with
/// them those at one, which go last.
type Yielding = (usize, usize);

/// An owner's place in the order of owners that give way: the last is the one that has most, and of
/// several the one whose connection waits longest.
type Rank = (Yielding, Reverse<u64>, Owner);

/// All connections.
pub(super) struct Register {
    settings: PlaceSettings,
    occupants: HashMap<u64, Occupant, ahash::RandomState>,
    /// By owner; one without a connection is not in the map.
    shares: HashMap<Owner, Share, ahash::RandomState>,
    /// The owners of connections that may give way.
    ranks: BTreeSet<Rank>,
    by_stage: [usize; Stage::ALL.len()],
    /// Of changes so far.
    numbers: u64,
}

impl Share {
    fn rank(&self, owner: Owner) -> Option<Rank> {
        let ((_, number), _) = self.yielding.first_key_value()?;
        Some((self.yielding(), Reverse(*number), owner))
    }

    fn yielding(&self) -> Yielding {
        let busy = self.by_stage[Stage::Request as usize] as usize;
        (self.yielding.len() - busy, self.yielding.len())
    }

    fn at(&self, stages: [Stage; 2]) -> usize {
        stages.iter().map(|stage| self.by_stage[*stage as usize] as usize).sum()
    }

    fn oldest(&self, stage: Stage) -> Option<(u64, Instant)> {
        self.yielding.range((stage, 0)..=(stage, u64::MAX)).next().map(|(_, oldest)| *oldest)
    }

    fn oldest_handshake(&self) -> Option<u64> {
        self.oldest(Stage::Handshake).map(|(id, _)| id)
    }

    /// The connection that gives way first of those at `stages`.
    fn first_to_go(&self, stages: &[Stage], now: Instant) -> Option<u64> {
        let order = ORDER.iter().filter(|(stage, _)| stages.contains(stage));
        order.copied().find_map(|(stage, spared)| {
            let (id, since) = self.oldest(stage)?;
            (now.duration_since(since) >= spared).then_some(id)
        })
    }
}

impl Register {
    pub fn new(settings: PlaceSettings) -> Self {
        Self {
            settings,
            occupants: HashMap::default(),
            shares: HashMap::default(),
            ranks: BTreeSet::new(),
            by_stage: [0; Stage::ALL.len()],
            numbers: 0,
        }
    }

    /// Connections by stage.
    pub fn by_stage(&self) -> [usize; Stage::ALL.len()] {
        self.by_stage
    }

    /// Connections that wait for a request.
    fn waiting(&self) -> usize {
        self.by_stage[..Stage::Request as usize].iter().sum()
    }

    /// Connections that do something for their client.
    fn busy(&self) -> usize {
        self.by_stage[Stage::Request as usize] + self.by_stage[Stage::Socket as usize]
    }

    /// How many may wait for a request.
    fn room_to_wait(&self) -> usize {
        self.settings.connections.saturating_sub(self.busy()).max(self.settings.spare)
    }

    /// Whether three quarters of the places for those who wait are taken.
    pub fn is_short(&self) -> bool {
        self.waiting() * 4 >= self.room_to_wait() * 3
    }

    /// Whether all places are taken by connections that do something: a newcomer is only told so.
    pub fn is_full(&self) -> bool {
        self.busy() >= self.settings.connections
    }

    fn has_place(&self) -> bool {
        let all = self.settings.connections + self.settings.spare;
        self.waiting() < self.room_to_wait() && self.waiting() + self.busy() < all
    }

    /// Gives a newcomer a place: its id. Errors: `NoPlace`.
    pub fn arrive(
        &mut self,
        client: Option<IpAddr>,
        signal: Arc<Signal>,
        now: Instant,
    ) -> Result<(u64, GivesWay), NoPlace> {
        let number = self.next_number();
        let owner = client.map_or(Owner::Unnamed(number), Owner::Address);
        let stages = [Stage::Silent, Stage::Handshake];
        let limit = self.settings.handshakes_per_address;
        let gives_way = match self.make_room(owner, stages, limit, now)? {
            None if !self.has_place() => Some(self.send_away(owner, now).ok_or(NoPlace::Process)?),
            gives_way => gives_way,
        };
        let occupant = Occupant { owner, stage: Stage::Silent, number, signal };
        self.count(number, &occupant, now);
        self.occupants.insert(number, occupant);
        Ok((number, gives_way))
    }

    /// A connection has come to another stage. Errors: `NoPlace::Address`.
    pub fn enter(&mut self, id: u64, stage: Stage, now: Instant) -> Result<GivesWay, NoPlace> {
        let Some((owner, before)) = self.find(id) else { return Ok(None) };
        let gives_way = match (before, stage) {
            (Stage::Leaving, Stage::Socket) => {
                self.take_back(id);
                None
            }
            (Stage::Leaving, _) => return Ok(None),
            (before, Stage::Idle) if before < Stage::Idle => self.make_room_for_http(owner, now)?,
            _ => None,
        };
        self.change(id, owner, stage, now);
        Ok(gives_way)
    }

    /// A request is under way on it, of `owner` if one is named. Who was told to go just before
    /// stays for it. Errors: `NoPlace::Address`.
    pub fn begin(
        &mut self,
        id: u64,
        owner: Option<Owner>,
        now: Instant,
    ) -> Result<GivesWay, NoPlace> {
        let Some((before, stage)) = self.find(id) else { return Ok(None) };
        let owner = owner.unwrap_or(before);
        let gives_way = match owner == before {
            true => None,
            false => self.make_room_for_http(owner, now)?,
        };
        if stage == Stage::Leaving {
            self.take_back(id);
        }
        self.change(id, owner, Stage::Request, now);
        Ok(gives_way)
    }

    /// Its request is answered; it waits for the next one unless it became a socket.
    pub fn end(&mut self, id: u64, now: Instant) {
        if let Some((owner, Stage::Request)) = self.find(id) {
            self.change(id, owner, Stage::Idle, now);
        }
    }

    /// It is closed.
    pub fn leave(&mut self, id: u64) {
        if let Some(occupant) = self.occupants.remove(&id) {
            self.discount(&occupant);
        }
    }

    fn take_back(&self, id: u64) {
        if let Some(occupant) = self.occupants.get(&id) {
            occupant.signal.take_back();
        }
    }

    fn find(&self, id: u64) -> Option<(Owner, Stage)> {
        self.occupants.get(&id).map(|occupant| (occupant.owner, occupant.stage))
    }

    fn make_room_for_http(&mut self, owner: Owner, now: Instant) -> Result<GivesWay, NoPlace> {
        let stages = [Stage::Idle, Stage::Request];
        self.make_room(owner, stages, self.settings.http_per_address, now)
    }

    /// Lets a connection of `owner` go where it has as many at `stages` as it may.
    fn make_room(
        &mut self,
        owner: Owner,
        stages: [Stage; 2],
        limit: usize,
        now: Instant,
    ) -> Result<GivesWay, NoPlace> {
        let Some(share) = self.shares.get(&owner) else { return Ok(None) };
        if share.at(stages) < limit {
            return Ok(None);
        }
        let id = share.first_to_go(&stages, now).ok_or(NoPlace::Address { limit })?;
        Ok(self.tell(id, now))
    }

    /// Lets a connection go of whoever has most that may give way: of one who has more than the
    /// newcomer's owner, or else of that; of one who has still more, in its handshake too.
    fn send_away(&mut self, newcomer: Owner, now: Instant) -> GivesWay {
        let own = self.shares.get(&newcomer);
        let (waiting, all) = own.map_or((0, 0), Share::yielding);
        let richer = |than: Yielding| {
            let ranks = self.ranks.iter().rev().take(OWNERS_LOOKED_AT);
            ranks
                .take_while(move |(has, ..)| *has > than)
                .filter_map(|(.., owner)| self.shares.get(owner))
        };
        let first = richer((waiting, all))
            .chain(own)
            .find_map(|share| share.first_to_go(&Stage::ALL, now))
            .or_else(|| richer((waiting + 1, all + 1)).find_map(Share::oldest_handshake));
        self.tell(first?, now)
    }

    fn tell(&mut self, id: u64, now: Instant) -> GivesWay {
        let (owner, _) = self.find(id)?;
        self.change(id, owner, Stage::Leaving, now);
        self.occupants.get(&id).map(|occupant| occupant.signal.clone())
    }

    fn change(&mut self, id: u64, owner: Owner, stage: Stage, now: Instant) {
        let number = self.next_number();
        let Some(occupant) = self.occupants.get_mut(&id) else { return };
        let signal = occupant.signal.clone();
        let now_is = Occupant { owner, stage, number, signal: signal.clone() };
        let before = std::mem::replace(occupant, Occupant { signal, ..now_is });
        // Counted before it is discounted: a lone owner keeps its share in between.
        self.count(id, &now_is, now);
        self.discount(&before);
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn count(&mut self, id: u64, occupant: &Occupant, now: Instant) {
        let Occupant { owner, stage, number, .. } = *occupant;
        self.by_stage[stage as usize] += 1;
        let share = self.shares.entry(owner).or_default();
        let before = share.rank(owner);
        share.by_stage[stage as usize] += 1;
        if stage.yields() {
            share.yielding.insert((stage, number), (id, now));
            self.rank_anew(before, owner);
        }
    }

    fn discount(&mut self, occupant: &Occupant) {
        let Occupant { owner, stage, number, .. } = *occupant;
        self.by_stage[stage as usize] -= 1;
        let Some(share) = self.shares.get_mut(&owner) else { return };
        let before = share.rank(owner);
        share.by_stage[stage as usize] -= 1;
        if share.yielding.remove(&(stage, number)).is_some() {
            self.rank_anew(before, owner);
        }
        if self.shares.get(&owner).is_some_and(|share| share.by_stage.iter().all(|n| *n == 0)) {
            self.shares.remove(&owner);
        }
    }

    fn rank_anew(&mut self, before: Option<Rank>, owner: Owner) {
        let after = self.shares.get(&owner).and_then(|share| share.rank(owner));
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.ranks.remove(&before);
        }
        self.ranks.extend(after);
    }
}

#[cfg(test)]
#[path = "register_test.rs"]
mod tests;
