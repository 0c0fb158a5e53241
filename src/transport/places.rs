//! The places for connections of the process: each accepted socket takes one until it is closed.

use super::register::{GivesWay, NoPlace, Owner, PlaceSettings, Register, Stage, counted_as};
use super::signal::Signal;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often at most it is logged that places are short.
const LOGGED_EVERY: Duration = Duration::from_secs(60);

/// The places for connections of the process. When they are short, a newcomer takes the place of a
/// connection that does nothing, of whoever has most of those. Clones are the same.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    register: Mutex<Register>,
    given_way: AtomicU64,
    refused: AtomicU64,
    /// When it was last logged that places are short.
    logged: Mutex<Option<Instant>>,
}

/// What is counted of all connections.
#[derive(Clone, Copy, Debug)]
pub struct PlaceFigures {
    /// Open ones, in the order of [`Stage::ALL`].
    pub by_stage: [usize; Stage::ALL.len()],
    /// So many were closed for newcomers.
    pub given_way: u64,
    /// So many newcomers, and requests of clients that a proxy names, found no place.
    pub refused: u64,
}

/// The place of one connection. Dropping it, behind the socket, lets the next one in.
pub struct Place {
    occupancy: Occupancy,
}

/// What a connection's requests say to its place. One that outlives the place does nothing.
#[derive(Clone)]
pub struct Occupancy {
    places: Places,
    id: u64,
    signal: Arc<Signal>,
}

/// A request under way; dropped when it is answered.
pub struct UnderWay(Occupancy);

impl Places {
    /// As many as `settings` say.
    pub fn new(settings: PlaceSettings) -> Self {
        Self(Arc::new(Shared {
            register: Mutex::new(Register::new(settings)),
            given_way: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            logged: Mutex::default(),
        }))
    }

    /// A place for a newcomer at this address; none for a proxy that will name its client, see
    /// [`Occupancy::begin`]. Errors: `NoPlace`.
    pub fn take(&self, client: Option<IpAddr>) -> Result<Place, NoPlace> {
        let signal = Arc::new(Signal::default());
        let client = client.map(counted_as);
        let id = self.change(|register, now| register.arrive(client, signal.clone(), now))?;
        Ok(Place { occupancy: Occupancy { places: self.clone(), id, signal } })
    }

    /// Whether three quarters of the places for those who wait are taken.
    pub fn is_short(&self) -> bool {
        self.0.register.lock().is_short()
    }

    /// Whether all are taken by requests under way, sockets and streams.
    pub fn is_full(&self) -> bool {
        self.0.register.lock().is_full()
    }

    /// What is counted.
    pub fn figures(&self) -> PlaceFigures {
        PlaceFigures {
            by_stage: self.0.register.lock().by_stage(),
            given_way: self.0.given_way.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
        }
    }

    /// Makes a change, and tells whom it made give way. Under the same lock: who may stay after all
    /// is never told so before it is told to go.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Register, Instant) -> Result<(T, GivesWay), NoPlace>,
    ) -> Result<T, NoPlace> {
        let mut register = self.0.register.lock();
        let changed = change(&mut register, Instant::now());
        if let Ok((_, Some(signal))) = &changed {
            signal.tell_to_go();
        }
        let is_short = register.is_short();
        drop(register);
        match &changed {
            Ok((_, None)) => return changed.map(|(outcome, _)| outcome),
            Ok((_, Some(_))) => self.0.given_way.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.0.refused.fetch_add(1, Ordering::Relaxed),
        };
        // An address that has its share leaves places for the others.
        if is_short {
            self.log_shortage();
        }
        changed.map(|(outcome, _)| outcome)
    }

    /// Says so at most once a minute: the metrics count.
    fn log_shortage(&self) {
        let (now, mut logged) = (Instant::now(), self.0.logged.lock());
        if logged.is_none_or(|last| now.duration_since(last) >= LOGGED_EVERY) {
            *logged = Some(now);
            let PlaceFigures { given_way, refused, .. } = self.figures();
            tracing::warn!(given_way, refused, "places for connections are short");
        }
    }
}

impl Place {
    /// For the requests of its connection.
    pub fn occupancy(&self) -> &Occupancy {
        &self.occupancy
    }

    /// Its connection has come to this stage. Errors: `NoPlace`, after which it is to be closed.
    pub(super) fn enter(&self, stage: Stage) -> Result<(), NoPlace> {
        self.occupancy.enter(stage)
    }

    /// Whether its connection was told to go.
    pub(super) fn must_go(&self) -> bool {
        self.occupancy.signal.must_go()
    }

    /// Resolves once its connection is told to go; one task may ask at a time.
    pub(super) fn poll_must_go(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.occupancy.signal.poll_must_go(cx)
    }

    /// Waits until its connection is told to go.
    pub(super) async fn told_to_go(&self) {
        poll_fn(|cx| self.poll_must_go(cx)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Occupancy { places, id, .. } = &self.occupancy;
        places.0.register.lock().leave(*id);
    }
}

impl Occupancy {
    /// A request is under way. From now on its connection counts for this client, or for whom it
    /// did if none is named. Errors: `NoPlace::Address`, where the client has as many connections
    /// as it may.
    pub fn begin(&self, client: Option<IpAddr>) -> Result<UnderWay, NoPlace> {
        let owner = client.map(|client| Owner::Address(counted_as(client)));
        self.places.change(|register, now| {
            register.begin(self.id, owner, now).map(|gives_way| ((), gives_way))
        })?;
        Ok(UnderWay(self.clone()))
    }

    /// Its connection has become a WebSocket or an event stream, and never gives way.
    pub fn stay(&self) {
        // Only those who become idle can lack a place.
        self.enter(Stage::Socket).ok();
    }

    fn enter(&self, stage: Stage) -> Result<(), NoPlace> {
        self.places.change(|register, now| {
            register.enter(self.id, stage, now).map(|gives_way| ((), gives_way))
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Occupancy { places, id, .. } = &self.0;
        places.0.register.lock().end(*id, Instant::now());
    }
}
