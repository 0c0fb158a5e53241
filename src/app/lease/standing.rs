//! What the lease's keeper tells: the service, those who give messages places, and the metrics.

use crate::api::counters::LeaseFigures;
use crate::relay::Tenure;

/// How this node stands to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app) enum Standing {
    /// Not known yet.
    Unknown,
    /// Another holds it, or may; this one waits for its end.
    StandsBy,
    /// This one holds it.
    Holds(Held),
    /// It held it, and messages may have gone to another since. Everything is to be forgotten.
    Lost(Loss),
    /// It does not get it, and why; the keeper does nothing more.
    Refused(String),
}

/// A lease that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app) struct Held {
    /// Names the memory of messages that belongs to it.
    pub name: String,
    /// Grows with every such memory.
    pub term: i64,
    /// Names the memory that it goes on with: the one that the last stop kept here.
    pub continues: Option<String>,
}

/// Who may have got messages meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::app) enum Loss {
    /// One that is alive.
    ToAnother,
    /// One whose lease is over.
    Ended,
}

/// What the keeper tells others.
#[derive(Clone, Debug)]
pub(in crate::app) struct Told {
    /// Those who give messages places.
    pub tenure: Tenure,
    /// The metrics.
    pub figures: LeaseFigures,
}
