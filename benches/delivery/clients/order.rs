//! What was published, and how far one connection has got in it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Outcome;
use crate::clients::message::{Messages, Number};

/// How many messages each lane has. Lanes are independent: each has one publisher at a time, which
/// numbers its own.
pub struct Ledger([AtomicU64; Messages::LANES]);

impl Default for Ledger {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Messages::LANES])
    }
}

impl Ledger {
    /// The lane's next message. It counts as published from now on.
    pub fn next(&self, lane: usize) -> Number {
        Number { lane, place: self.0[lane].fetch_add(1, Ordering::SeqCst) + 1 }
    }

    /// The lane's newest message was not taken: its number is free again.
    pub fn take_back(&self, lane: usize) {
        self.0[lane].fetch_sub(1, Ordering::SeqCst);
    }

    /// Messages that a lane has.
    pub fn messages_of(&self, lane: usize) -> u64 {
        self.0[lane].load(Ordering::SeqCst)
    }

    /// Messages of all lanes.
    pub fn messages(&self) -> u64 {
        (0..Messages::LANES).map(|lane| self.messages_of(lane)).sum()
    }

    /// Where someone stands who connects now, while nobody publishes.
    pub fn order(&self) -> Order {
        let used = (0..Messages::LANES)
            .rev()
            .find(|lane| self.messages_of(*lane) > 0)
            .map_or(0, |last| last + 1);
        Order((0..used).map(|lane| self.messages_of(lane)).collect())
    }
}

/// The place of the newest message of each lane that one connection has had.
#[derive(Clone, Default)]
pub struct Order(Vec<u64>);

impl Order {
    /// Notes a message. Errors: one that is not its lane's next.
    pub fn take(&mut self, number: Number) -> Outcome<()> {
        let Number { lane, place } = number;
        if self.0.len() <= lane {
            self.0.resize(lane + 1, 0);
        }
        let due = self.0[lane] + 1;
        if place != due {
            return Err(format!("message {place} of lane {lane} came where {due} was due").into());
        }
        self.0[lane] = place;
        Ok(())
    }

    /// How many messages that is.
    pub fn messages(&self) -> u64 {
        self.0.iter().sum()
    }
}
