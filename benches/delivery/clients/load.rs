//! The listeners: many cheap wss connections, what was published to them, and what became of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::timeout;

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
/// How long a message may take to reach every connection.
const LONGEST_DELIVERY: Duration = Duration::from_secs(10);

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
    /// How connections may end.
    pub ending: Ending,
}

/// Open connections; dropping it closes them all.
pub struct Load {
    target: Arc<Target>,
    listeners: JoinSet<()>,
    progress: Arc<Progress>,
    ledger: Arc<Ledger>,
}

impl Load {
    /// Opens a connection for each token and starts to listen on it, once each has had its `CONNECTED`.
    pub async fn open(target: Target) -> Outcome<Self> {
        let seats = 0..target.tokens.len();
        let (progress, ledger) = (Arc::default(), Arc::default());
        let mut load = Self { target: Arc::new(target), listeners: JoinSet::new(), progress, ledger };
        load.let_in(seats.map(|index| Seat { index, order: Order::default(), cursor: String::new() })).await?;
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
                Err(format!("{missing} of {wanted} deliveries are missing after {patience:?}").into())
            }
        }
    }

    /// Errors when anything but exactly what was published has arrived at every connection until now.
    pub fn check(&self) -> Outcome<()> {
        self.progress.failure()?;
        let wanted = self.ledger.messages() * self.progress.open();
        match self.progress.received() {
            received if received == wanted => Ok(()),
            received => Err(format!("{received} deliveries arrived, {wanted} were expected").into()),
        }
    }

    async fn let_in(&mut self, seats: impl Iterator<Item = Seat>) -> Outcome<()> {
        let target = self.target.clone();
        let mut opening = stream::iter(seats.map(|seat| open(seat, &target))).buffer_unordered(OPENING);
        while let Some((seat, client)) = opening.try_next().await? {
            self.listen(seat, client);
        }
        Ok(())
    }

    fn listen(&mut self, seat: Seat, client: Client) {
        self.progress.join(&seat.order);
        let listener = Listener { seat, client, ending: self.target.ending, sent_away: false };
        self.listeners.spawn(listener.listen(self.target.messages.clone(), self.progress.clone()));
    }
}

async fn open(mut seat: Seat, target: &Target) -> Outcome<(Seat, Client)> {
    let index = seat.index;
    let opened = timeout(LONGEST_OPENING, Client::open(&target.route, &target.path, &target.tokens[index])).await;
    let (client, connected) =
        opened.map_err(Failure::from).flatten().map_err(|error| format!("connection {index}: {error}"))?;
    seat.cursor = connected["cursor"].as_str().unwrap_or_default().to_owned();
    Ok((seat, client))
}
