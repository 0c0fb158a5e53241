//! Clients that connect again whenever they are cut, and the judgement on what they heard.

use super::{END, Place, number};
use crate::support::proxy::Dice;
use crate::support::socket::Handshake;
use crate::support::{Socket, Token, token};
use rustls::ClientConfig;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::Message;

/// Groups among which the clients are dealt out.
pub const GROUPS: usize = 5;
/// Once in so many times a client goes away by itself as soon as it is let in, before it has what
/// it missed.
const HANG_UP: u64 = 20;

/// One client, which does as the README says: the newest cursor of any frame is where it goes on.
pub struct Listener {
    index: usize,
    port: u16,
    tls: Arc<ClientConfig>,
    token: String,
    dice: Dice,
    cursor: Option<String>,
    heard: Heard,
}

/// What one client heard.
pub struct Heard {
    index: usize,
    /// How often it came back with a cursor, was told `recovered: true` and stayed.
    pub recovered: u32,
    /// Each begins where the client had no cursor, or was told that something may be missing.
    stretches: Vec<Stretch>,
}

/// What must be whole: every message behind `from`, in order, once.
struct Stretch {
    from: Place,
    seen: Vec<Place>,
}

/// What must not be: counted over all clients.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    lost: usize,
    doubled: usize,
    out_of_order: usize,
    /// Messages that were not for the client.
    astray: usize,
}

/// Every message that got a place in the order: its number and the channel it was sent to.
#[derive(Default)]
pub struct Truth(pub BTreeMap<Place, (u64, String)>);

#[derive(Deserialize)]
struct Frame {
    r#type: String,
    cursor: Option<String>,
    recovered: Option<bool>,
    reason: Option<String>,
    id: Option<String>,
    channel: Option<String>,
    data: Option<(u64, String)>,
}

impl Listener {
    /// The client `index`, which connects to whoever listens on `port`.
    pub fn new(index: usize, port: u16, tls: Arc<ClientConfig>, dice: Dice) -> Self {
        let token = identity(index).sign();
        let heard = Heard { index, recovered: 0, stretches: Vec::new() };
        Self { index, port, tls, token, dice, cursor: None, heard }
    }

    /// Listens until it hears that this is the end; what it heard, and what it says about the
    /// order.
    pub async fn listen(mut self) -> (Heard, Truth) {
        let mut truth = Truth::default();
        loop {
            let Some(mut socket) = self.connect().await else { continue };
            while let Some(frame) = next_frame(&mut socket).await {
                let cursor =
                    frame.cursor.clone().unwrap_or_else(|| panic!("no cursor: {}", frame.r#type));
                let place = Place::parse(&cursor);
                let was_at = self.cursor.replace(cursor);
                match frame.r#type.as_str() {
                    "CONNECTED" => {
                        self.welcomed(was_at.as_deref().map(Place::parse), place, &frame);
                        if self.dice.one_in(HANG_UP) {
                            break;
                        }
                        self.heard.recovered += u32::from(frame.recovered == Some(true));
                    }
                    "MESSAGE" => {
                        let sent = self.take(place, frame);
                        let is_last = sent.0 >= END;
                        truth.learn(place, sent);
                        if is_last {
                            return (self.heard, truth);
                        }
                    }
                    other => panic!("client {} was sent {other}", self.index),
                }
            }
        }
    }

    /// A connection, unless it was cut while it was made.
    async fn connect(&self) -> Option<Socket> {
        let cursor = self.cursor.as_deref().unwrap_or_default();
        let path = format!("/?authorization={}&instance=main&cursor={cursor}", self.token);
        match Handshake::at(self.port, &path).attempt(self.port, &self.tls).await {
            Ok(socket) => Some(socket),
            Err(Error::Http(answer)) => {
                panic!("client {} was refused: {}", self.index, answer.status())
            }
            Err(_) => None,
        }
    }

    /// Who comes back with a cursor of this memory is always within the window; every other is told
    /// `EPOCH`.
    fn welcomed(&mut self, was_at: Option<Place>, place: Place, frame: &Frame) {
        let same = was_at.map(|was_at| was_at.epoch == place.epoch);
        let reason = (same == Some(false)).then_some("EPOCH");
        assert_eq!(
            (frame.recovered, frame.reason.as_deref()),
            (same, reason),
            "client {} at {was_at:?}",
            self.index
        );
        if same != Some(true) {
            self.heard.stretches.push(Stretch { from: place, seen: Vec::new() });
        }
    }

    fn take(&mut self, place: Place, frame: Frame) -> (u64, String) {
        let stretch = self.heard.stretches.last_mut().expect("CONNECTED comes first");
        stretch.seen.push(place);
        let (number_in_data, _) = frame.data.expect("it has data");
        assert_eq!(number(&frame.id.expect("it has an id")), number_in_data);
        (number_in_data, frame.channel.expect("it has a channel"))
    }
}

/// The next frame; none when the connection was cut, or the server gave it up after a stall.
async fn next_frame(socket: &mut Socket) -> Option<Frame> {
    match socket.next().await?.ok()? {
        Message::Text(text) => {
            Some(serde_json::from_str(text.as_str()).expect("every frame is JSON"))
        }
        Message::Close(Some(close)) if u16::from(close.code) == 4420 => None,
        other => panic!("expected a frame, got {other:?}"),
    }
}

fn identity(index: usize) -> Token {
    token(&format!("u{index}")).groups(&[&format!("g{}", index % GROUPS)])
}

impl Heard {
    /// How often it was told of a loss.
    pub fn announced(&self) -> usize {
        self.stretches.len() - 1
    }

    /// How many messages it heard.
    pub fn messages(&self) -> usize {
        self.stretches.iter().map(|stretch| stretch.seen.len()).sum()
    }

    fn hears(&self, channel: &str) -> bool {
        match channel.split_once(':') {
            None => channel == "ALL",
            Some(("group", id)) => id == format!("g{}", self.index % GROUPS),
            Some((_, id)) => id == format!("u{}", self.index),
        }
    }

    /// Compares each stretch with the truth, up to its last message: behind that a loss was
    /// announced, or the end.
    pub fn add_faults(&self, truth: &Truth, faults: &mut Faults) {
        for stretch in &self.stretches {
            let Some(last) = stretch.seen.iter().max() else { continue };
            let sent = truth.0.range(stretch.from.next()..=*last);
            let due: BTreeSet<_> = sent
                .filter(|(_, (_, channel))| self.hears(channel))
                .map(|(place, _)| place)
                .collect();
            let seen: BTreeSet<_> = stretch.seen.iter().collect();
            faults.lost += due.difference(&seen).count();
            faults.astray += seen.difference(&due).count();
            faults.doubled += stretch.seen.len() - seen.len();
            faults.out_of_order += stretch.seen.windows(2).filter(|pair| pair[0] > pair[1]).count();
        }
    }
}

impl Truth {
    /// Adds what someone says stood at `place`. Fails the test if another said otherwise.
    pub fn learn(&mut self, place: Place, sent: (u64, String)) {
        let known = self.0.entry(place).or_insert_with(|| sent.clone());
        assert_eq!(*known, sent, "two messages at {place:?}");
    }

    /// Adds what someone else learnt.
    pub fn add(&mut self, other: Self) {
        other.0.into_iter().for_each(|(place, sent)| self.learn(place, sent));
    }

    /// Messages that have two places in one memory: ids did not hold.
    pub fn repeats(&self) -> usize {
        let numbers: BTreeSet<_> =
            self.0.iter().map(|(place, (number, _))| (place.epoch, number)).collect();
        self.0.len() - numbers.len()
    }
}
