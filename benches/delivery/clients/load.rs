//! The listeners: many cheap wss connections, what was published to them, and what became of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use crate::clients::client::Client;
use crate::clients::listener::{Ending, Listener, Seat};
use crate::clients::message::Messages;
use crate::clients::order::{Ledger, Order};
use crate::clients::progress::Progress;
use crate::clients::wire::Route;
use crate::{Failure, Outcome};

/// Connections being opened at the same time.
const OPENING: usize = 16;
/// How long one connection may take from TCP to its first frame.
const LONGEST_OPENING: Duration = Duration::from_secs(20);
/// How long one may try to resume, and how long it waits where nobody answers.
const LONGEST_RETURN: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);
/// How long a message may take to reach every connection.
const LONGEST_DELIVERY: Duration = Duration::from_secs(10);

/// Whom to connect to, and as whom.
#[derive(Clone)]
pub struct Target {
    /// The server.
    pub route: Route,
    /// The path and query of the handshake.
    pub path: String,
    /// A token for each connection.
    pub tokens: Vec<String>,
    /// What will be published.
    pub messages: Arc<Messages>,
    /// How connections may end.
    pub ending: Ending,
}

/// What became of those who resumed.
#[derive(Default)]
pub struct Resumed {
    /// Who were told that they get everything they missed: all of them.
    pub recovered: u64,
    /// How often all of them tried, together.
    pub tries: u64,
}

/// One who has resumed.
struct Returned {
    seat: Seat,
    client: Client,
    tries: u64,
}

/// Open connections; dropping it closes them all.
pub struct Load {
    target: Arc<Target>,
    listeners: Mutex<JoinSet<()>>,
    progress: Arc<Progress>,
    ledger: Arc<Ledger>,
}

impl Load {
    /// Opens a connection for each token and starts to listen on it, once each has had its
    /// `CONNECTED`.
    pub async fn open(target: Target) -> Outcome<Self> {
        let seats = 0..target.tokens.len();
        let (progress, ledger) = (Arc::default(), Arc::default());
        let load = Self { target: Arc::new(target), listeners: Mutex::default(), progress, ledger };
        load.let_in(seats.map(|index| Seat {
            index,
            order: Order::default(),
            cursor: String::new(),
        }))
        .await?;
        Ok(load)
    }

    /// What is published; each publisher takes its numbers from it.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What has come.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits until as many messages as `messages` have reached every connection.
    pub async fn delivered(&self, messages: u64) -> Outcome<()> {
        self.delivered_within(messages, LONGEST_DELIVERY).await
    }

    /// The same, for as long as `patience`.
    pub async fn delivered_within(&self, messages: u64, patience: Duration) -> Outcome<()> {
        match timeout(patience, self.progress.wait(messages)).await {
            Ok(result) => result,
            Err(_) => {
                let missing = self.progress.missing(messages);
                let wanted = messages * self.progress.open();
                Err(format!("{missing} of {wanted} deliveries are missing after {patience:?}")
                    .into())
            }
        }
    }

    /// Errors when anything but exactly what was published has arrived at every connection until
    /// now.
    pub fn check(&self) -> Outcome<()> {
        self.progress.failure()?;
        let wanted = self.ledger.messages() * self.progress.open();
        match self.progress.received() {
            received if received == wanted => Ok(()),
            received => {
                Err(format!("{received} deliveries arrived, {wanted} were expected").into())
            }
        }
    }

    /// Opens the connections again that have ended as they may, as if for the first time. Nobody
    /// may publish meanwhile.
    pub async fn come_back(&self) -> Outcome<()> {
        let order = self.ledger.order();
        let departed = self.progress.take_departed().into_iter();
        self.let_in(departed.map(|departure| Seat { order: order.clone(), ..departure.seat })).await
    }

    /// Opens the connections again that have ended as they may, all at the same moment and with
    /// their cursors. They try for as long as nobody answers; what they have missed must come
    /// before what is new. Errors: one that is told that it does not get all it missed, with the
    /// reason.
    pub async fn resume(&self) -> Outcome<Resumed> {
        let mut returning = JoinSet::new();
        for departure in self.progress.take_departed() {
            returning.spawn(resume(departure.seat, self.target.clone()));
        }
        let mut resumed = Resumed::default();
        while let Some(returned) = returning.join_next().await {
            let Returned { seat, client, tries } = returned??;
            resumed.recovered += 1;
            resumed.tries += tries;
            self.listen(seat, client);
        }
        Ok(resumed)
    }

    async fn let_in(&self, seats: impl Iterator<Item = Seat>) -> Outcome<()> {
        let target = self.target.clone();
        let mut opening =
            stream::iter(seats.map(|seat| open(seat, &target))).buffer_unordered(OPENING);
        while let Some((seat, client)) = opening.try_next().await? {
            self.listen(seat, client);
        }
        Ok(())
    }

    fn listen(&self, seat: Seat, client: Client) {
        self.progress.join(&seat.order);
        let listener = Listener { seat, client, ending: self.target.ending, sent_away: false };
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        while listeners.try_join_next().is_some() {}
        listeners.spawn(listener.listen(self.target.messages.clone(), self.progress.clone()));
    }
}

async fn open(mut seat: Seat, target: &Target) -> Outcome<(Seat, Client)> {
    let index = seat.index;
    let opened =
        timeout(LONGEST_OPENING, Client::open(&target.route, &target.path, &target.tokens[index]))
            .await;
    let (client, connected) = opened
        .map_err(Failure::from)
        .flatten()
        .map_err(|error| format!("connection {index}: {error}"))?;
    seat.cursor = connected["cursor"].as_str().unwrap_or_default().to_owned();
    Ok((seat, client))
}

async fn resume(mut seat: Seat, target: Arc<Target>) -> Outcome<Returned> {
    let path = format!("{}&cursor={}", target.path, seat.cursor);
    let deadline = Instant::now() + LONGEST_RETURN;
    let mut tries = 0;
    loop {
        tries += 1;
        let opened = timeout(
            LONGEST_OPENING,
            Client::open(&target.route, &path, &target.tokens[seat.index]),
        )
        .await;
        let failure = match opened.map_err(Failure::from).flatten() {
            Ok((_, connected)) if connected["recovered"] != true => {
                return Err(format!(
                    "connection {} is not recovered: {}",
                    seat.index, connected["reason"]
                )
                .into());
            }
            Ok((client, connected)) => {
                seat.cursor = connected["cursor"].as_str().unwrap_or_default().to_owned();
                return Ok(Returned { seat, client, tries });
            }
            Err(failure) => failure,
        };
        // Nobody listens yet, or the socket ended before it was answered. An answer that is no
        // welcome is an error.
        let is_nobody_there = failure.is::<io::Error>() || failure.is::<Elapsed>();
        if !is_nobody_there || Instant::now() > deadline {
            return Err(format!("connection {} does not resume: {failure}", seat.index).into());
        }
        sleep(PAUSE).await;
    }
}
