//! The listeners: many cheap wss connections that check that every message arrives once and in order.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

use crate::clients::client::{Client, describe};
use crate::clients::frames::{CLOSE, TEXT};
use crate::clients::latency::{Latencies, Schedule};
use crate::clients::message::Messages;
use crate::clients::wire::Route;
use crate::{Failure, Outcome};

/// Connections being opened at the same time.
const OPENING: usize = 16;
/// How long one connection may take from TCP to its first frame.
const LONGEST_OPENING: Duration = Duration::from_secs(20);
/// How long a message may take to reach every connection.
const LONGEST_DELIVERY: Duration = Duration::from_secs(10);
/// Every connection says that it is alive this often; runs shorter than that send nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Whom to connect to, and as whom.
pub struct Target {
    /// The server.
    pub route: Route,
    /// The path and query of the handshake.
    pub path: String,
    /// A token for each connection.
    pub tokens: Vec<String>,
    /// What will be published.
    pub messages: Arc<Messages>,
    /// How many publishers there are at a time: lane `n % lanes` has its messages in order, and those of different lanes come in any.
    pub lanes: u64,
}

/// Open connections; dropping it closes them all.
pub struct Load {
    listeners: JoinSet<()>,
    progress: Arc<Progress>,
}

impl Load {
    /// Opens a connection for each token and starts to listen on it, once each has had its `CONNECTED`.
    pub async fn open(target: &Target) -> Outcome<Self> {
        let progress = Arc::new(Progress::default());
        let opening = target.tokens.iter().enumerate().map(|(index, token)| async move {
            let opened = timeout(LONGEST_OPENING, Client::open(&target.route, &target.path, token)).await;
            let (client, _) =
                opened.map_err(Failure::from).flatten().map_err(|error| format!("connection {index}: {error}"))?;
            Ok::<_, Failure>((index, client))
        });
        let mut listeners = JoinSet::new();
        let mut opening = stream::iter(opening).buffer_unordered(OPENING);
        while let Some((index, client)) = opening.try_next().await? {
            let listener = Listener { index, client, last: Lanes::new(target.lanes) };
            listeners.spawn(listener.listen(target.messages.clone(), progress.clone()));
        }
        Ok(Self { listeners, progress })
    }

    /// Waits until as many messages as `messages` have reached every connection.
    pub async fn delivered(&self, messages: u64) -> Outcome<()> {
        let wanted = messages * self.listeners.len() as u64;
        match timeout(LONGEST_DELIVERY, self.progress.wait(wanted)).await {
            Ok(result) => result,
            Err(_) => {
                let missing = wanted.saturating_sub(self.deliveries());
                Err(format!("{missing} of {wanted} deliveries are missing after {LONGEST_DELIVERY:?}").into())
            }
        }
    }

    /// From now on it is noted how late each message comes. The schedule can be set once.
    pub fn follow(&self, schedule: Schedule) {
        let _ = self.progress.schedule.set(schedule);
    }

    /// How late messages came.
    pub fn latencies(&self) -> &Latencies {
        &self.progress.latencies
    }

    /// Messages that have come, each counted at each connection.
    pub fn deliveries(&self) -> u64 {
        self.progress.received.load(Ordering::SeqCst)
    }

    /// The bytes of text frames with messages that all connections have had together.
    pub fn bytes(&self) -> u64 {
        self.progress.bytes.load(Ordering::SeqCst)
    }

    /// Errors when anything but exactly `messages` messages a connection has arrived until now.
    pub fn check(&self, messages: u64) -> Outcome<()> {
        self.progress.failure()?;
        let wanted = messages * self.listeners.len() as u64;
        match self.deliveries() {
            received if received == wanted => Ok(()),
            received => Err(format!("{received} deliveries arrived, {wanted} were expected").into()),
        }
    }
}

/// What all connections have had so far, together.
#[derive(Default)]
struct Progress {
    received: AtomicU64,
    bytes: AtomicU64,
    wanted: AtomicU64,
    schedule: OnceLock<Schedule>,
    latencies: Latencies,
    failure: Mutex<Option<String>>,
    changed: Notify,
}

impl Progress {
    async fn wait(&self, wanted: u64) -> Outcome<()> {
        self.wanted.store(wanted, Ordering::SeqCst);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            self.failure()?;
            if self.received.load(Ordering::SeqCst) >= wanted {
                return Ok(());
            }
            changed.await;
        }
    }

    fn add(&self, numbers: &[u64], bytes: u64) {
        if let Some(schedule) = self.schedule.get() {
            self.latencies.note(schedule, numbers.iter().copied());
        }
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        let messages = numbers.len() as u64;
        let received = self.received.fetch_add(messages, Ordering::SeqCst) + messages;
        if received >= self.wanted.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    fn fail(&self, failure: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.changed.notify_waiters();
    }

    fn failure(&self) -> Outcome<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(failure.clone().into()),
            None => Ok(()),
        }
    }
}

/// The last number of each lane; numbers begin with 1.
struct Lanes(Vec<Option<u64>>);

impl Lanes {
    fn new(lanes: u64) -> Self {
        Self(vec![None; lanes as usize])
    }

    fn check(&mut self, number: u64) -> Outcome<()> {
        let lanes = self.0.len() as u64;
        let lane = number % lanes;
        let first = if lane == 0 { lanes } else { lane };
        let last = &mut self.0[lane as usize];
        let due = last.map_or(first, |last| last + lanes);
        if number != due {
            return Err(format!("message {number} came where {due} was due").into());
        }
        *last = Some(number);
        Ok(())
    }
}

/// One connection.
struct Listener {
    index: usize,
    client: Client,
    last: Lanes,
}

impl Listener {
    async fn listen(mut self, messages: Arc<Messages>, progress: Arc<Progress>) {
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        let mut numbers = Vec::new();
        loop {
            let step = tokio::select! {
                read = self.client.read() => read.and_then(|()| self.take_messages(&messages, &mut numbers, &progress)),
                _ = keep_alive.tick() => self.client.ping().await,
            };
            if let Err(failure) = step {
                return progress.fail(format!("connection {}: {failure}", self.index));
            }
        }
    }

    fn take_messages(&mut self, messages: &Messages, numbers: &mut Vec<u64>, progress: &Progress) -> Outcome<()> {
        let mut bytes = 0;
        numbers.clear();
        while let Some(frame) = self.client.take()? {
            match frame.opcode {
                TEXT => {}
                CLOSE => return Err(describe(&frame).into()),
                _ => continue,
            }
            let Some(number) = messages.number(&frame.payload)? else { continue };
            self.last.check(number)?;
            numbers.push(number);
            bytes += frame.payload.len() as u64;
        }
        progress.add(numbers, bytes);
        Ok(())
    }
}
