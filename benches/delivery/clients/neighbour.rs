//! The neighbour of those who are measured: many listeners, and publishers that publish to all of
//! them as fast as they are let.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::time::{sleep, timeout_at};

use crate::Outcome;
use crate::clients::background::Background;
use crate::clients::load::{Load, Target};
use crate::clients::message::Messages;
use crate::clients::order::Ledger;
use crate::clients::publisher::{Inlet, Publisher};

/// How long what is queued may take to be with everyone who is still there.
const LONGEST_DRAIN: Duration = Duration::from_secs(120);
/// How long a publisher waits that is refused and not told for how long.
const PAUSE: Duration = Duration::from_secs(1);

/// Listeners on one thread, publishers on another, both of the lowest priority.
pub struct Neighbour {
    listening: Background,
    publishing: Background,
    load: Arc<Load>,
    inlets: Vec<Inlet>,
    messages: Arc<Messages>,
    insisting: bool,
}

/// What became of the publishers' requests.
#[derive(Default)]
pub struct Tally {
    /// Answered 202.
    accepted: AtomicU64,
    /// Answered 429.
    limited: AtomicU64,
    /// Answered 503 `OVERLOADED`.
    overloaded: AtomicU64,
}

impl Tally {
    /// Accepted, limited, overloaded.
    pub fn counts(&self) -> [f64; 3] {
        [&self.accepted, &self.limited, &self.overloaded]
            .map(|counter| counter.load(Ordering::SeqCst) as f64)
    }
}

impl Neighbour {
    /// Opens all listeners. There will be a publisher for each inlet, which tries again at once if
    /// it is `insisting`.
    pub async fn open(target: Target, inlets: Vec<Inlet>, insisting: bool) -> Outcome<Self> {
        let (listening, publishing) = (Background::start()?, Background::start()?);
        let messages = target.messages.clone();
        let load = Arc::new(listening.run(Load::open(target)).await?);
        Ok(Self { listening, publishing, load, inlets, messages, insisting })
    }

    /// What the listeners have had, and who has left.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Lets those listeners come back who were closed, as if for the first time, and connects the
    /// publishers.
    pub async fn gather(&self) -> Outcome<Vec<Publisher>> {
        let (load, inlets) = (self.load.clone(), self.inlets.clone());
        self.listening.run(async move { load.come_back().await }).await?;
        self.publishing.run(async move { try_join_all(inlets.iter().map(Inlet::open)).await }).await
    }

    /// Publishes until `end`.
    pub async fn publish(&self, publishers: Vec<Publisher>, end: Instant) -> Outcome<Tally> {
        let tally = Arc::new(Tally::default());
        let publishing = publishers.into_iter().enumerate().map(|(lane, publisher)| {
            let ledger = self.load.ledger().clone();
            let publishing = Publishing {
                publisher,
                lane,
                ledger,
                messages: self.messages.clone(),
                tally: tally.clone(),
            };
            self.publishing.run(publishing.until(end, self.insisting))
        });
        try_join_all(publishing).await?;
        Arc::into_inner(tally).ok_or_else(|| "a publisher goes on after its time".into())
    }

    /// Waits until everything that was accepted is with every listener that is still there.
    pub async fn drained(&self) -> Outcome<()> {
        self.load.delivered_within(self.load.ledger().messages(), LONGEST_DRAIN).await?;
        self.load.check()
    }
}

/// One publisher, in a lane of its own.
struct Publishing {
    publisher: Publisher,
    lane: usize,
    ledger: Arc<Ledger>,
    messages: Arc<Messages>,
    tally: Arc<Tally>,
}

impl Publishing {
    async fn until(mut self, end: Instant, insisting: bool) -> Outcome<()> {
        while Instant::now() < end {
            let message = self.messages.text(self.ledger.next(self.lane));
            let answer = self.publisher.send(&message).await?;
            let counter = match answer.status {
                202 => {
                    self.tally.accepted.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                429 => &self.tally.limited,
                503 if answer.count(b"OVERLOADED") > 0 => &self.tally.overloaded,
                _ => return Err(format!("the neighbour's publisher was answered {answer}").into()),
            };
            self.ledger.take_back(self.lane);
            counter.fetch_add(1, Ordering::SeqCst);
            if !insisting {
                let pause = sleep(answer.retry_after.unwrap_or(PAUSE));
                let _is_over = timeout_at(end.into(), pause).await;
            }
        }
        Ok(())
    }
}
