//! What all connections of a load have had so far, together, and who has left.

use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use crate::Outcome;
use crate::clients::latency::{Latencies, Schedule};
use crate::clients::listener::Seat;
use crate::clients::message::Number;
use crate::clients::order::Order;

/// More messages than any run has: nobody waits.
const NOTHING: u64 = u32::MAX as u64;

/// What all connections have had so far, together.
#[derive(Default)]
pub struct Progress {
    /// Connections that are open.
    open: AtomicU64,
    /// Messages that those have had; what came before they were opened counts as had.
    received: AtomicU64,
    /// Messages that have come, whoever is open still.
    deliveries: AtomicU64,
    /// Bytes of these.
    bytes: AtomicU64,
    /// The least number of messages a connection that somebody waits for; whoever is woken says
    /// anew what he waits for.
    wanted: AtomicU64,
    schedule: OnceLock<Schedule>,
    latencies: Latencies,
    /// Connections that were closed, and that were cut.
    ended: [AtomicU64; 2],
    departed: Mutex<Vec<Departure>>,
    failure: Mutex<Option<String>>,
    changed: Notify,
}

/// Someone who left in a way that was to be expected.
pub struct Departure {
    /// Whose connection it was, and what it has had.
    pub seat: Seat,
    /// The close code, or none where the connection was cut.
    pub code: Option<u16>,
}

impl Progress {
    /// Waits until every open connection has had this many messages.
    pub async fn wait(&self, messages: u64) -> Outcome<()> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            self.wanted.fetch_min(messages, Ordering::SeqCst);
            self.failure()?;
            if self.missing(messages) == 0 {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Deliveries that lack until every open connection has had this many messages.
    pub fn missing(&self, messages: u64) -> u64 {
        let received = self.received.load(Ordering::SeqCst);
        (messages * self.open()).saturating_sub(received)
    }

    /// Open connections.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// Messages that the open connections have had.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    /// Messages that have come, each counted at each connection.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::SeqCst)
    }

    /// The bytes of the text frames that these came in.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// From now on it is noted how late each message of the timed lanes comes. The schedule can be
    /// set once.
    pub fn follow(&self, schedule: Schedule) {
        let _ = self.schedule.set(schedule);
    }

    /// How late messages came.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// A connection is open that stands there in the order.
    pub fn join(&self, order: &Order) {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.received.fetch_add(order.messages(), Ordering::SeqCst);
    }

    /// A connection has had these messages.
    pub fn add(&self, numbers: &[Number], bytes: u64) {
        if let Some(schedule) = self.schedule.get() {
            self.latencies.note(schedule, numbers);
        }
        let messages = numbers.len() as u64;
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.deliveries.fetch_add(messages, Ordering::SeqCst);
        self.received.fetch_add(messages, Ordering::SeqCst);
        if self.missing(self.wanted.load(Ordering::SeqCst)) == 0 {
            self.wanted.store(NOTHING, Ordering::SeqCst);
            self.changed.notify_waiters();
        }
    }

    /// A connection is no longer there. Nobody waits for what it still lacked.
    pub fn leave(&self, departure: Departure) {
        // In this order, so that what others still lack is never counted as had.
        self.received.fetch_sub(departure.seat.order.messages(), Ordering::SeqCst);
        self.open.fetch_sub(1, Ordering::SeqCst);
        let [closed, cut] = &self.ended;
        let counter = if departure.code.is_some() { closed } else { cut };
        counter.fetch_add(1, Ordering::SeqCst);
        self.departed.lock().unwrap_or_else(PoisonError::into_inner).push(departure);
        self.changed.notify_waiters();
    }

    /// Connections that have been closed, and that have been cut, until now.
    pub fn departures(&self) -> [u64; 2] {
        [&self.ended[0], &self.ended[1]].map(|counter| counter.load(Ordering::SeqCst))
    }

    /// Those who have left since the last time.
    pub fn take_departed(&self) -> Vec<Departure> {
        mem::take(&mut *self.departed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first failure is the one that is told.
    pub fn fail(&self, failure: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.changed.notify_waiters();
    }

    /// Errors when something has failed.
    pub fn failure(&self) -> Outcome<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }
}
