//! Chaos: connections cut at random while messages flow, and a server that is killed, lose and
//! double nothing unsaid.

mod listening;

use crate::command_line::Herald;
use crate::support::proxy::{Dice, Storm};
use crate::support::{PATIENCE, Token, postgres, token, tokens, trusting, within};
use herald::domain::cursor::Cursor;
use listening::{Faults, GROUPS, Heard, Listener, Truth};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;
use uuid::Uuid;

const CLIENTS: usize = 50;
/// Each sends a batch of `BATCH` every `PACE`: together 500 messages a second.
const PUBLISHERS: u64 = 5;
const BATCH: u64 = 10;
const PACE: Duration = Duration::from_millis(100);
/// Each counts its messages up from another multiple of this.
const NUMBERS: u64 = 1_000_000;
/// A message with this number or a higher one ends a client's listening.
const END: u64 = PUBLISHERS * NUMBERS;

/// A window wide enough for every client that is away, no limit on how often they all come back,
/// and so little patience that the server itself gives up some that stall.
const SETTINGS: [(&str, &str); 8] = [
    ("HERALD_LOG", "warn"),
    ("HERALD_JWT_SECRET", tokens::SECRET),
    ("HERALD_WORKERS", "2"),
    ("HERALD_HISTORY_MESSAGES", "1000000"),
    ("HERALD_HISTORY_BYTES", "134217728"),
    ("HERALD_CONNECTS_PER_ADDRESS_PER_SECOND", "100000"),
    ("HERALD_OUTBOX_SECONDS", "1"),
    ("HERALD_SEND_BUFFER_BYTES", "16384"),
];

/// A cursor, which an instance's messages are ordered by within one memory of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    epoch: u64,
    position: u64,
}

impl Place {
    fn parse(text: &str) -> Self {
        let Cursor { epoch, position } = Cursor::parse(text).expect("a cursor");
        Self { epoch, position }
    }

    fn next(self) -> Self {
        Self { position: self.position + 1, ..self }
    }
}

/// The number in a message's id.
fn number(id: &str) -> u64 {
    id.parse().expect("a number")
}

/// The server as a process of its own, which can be killed.
struct Service {
    data: TempDir,
    settings: Vec<(&'static str, String)>,
    herald: Option<Herald>,
    /// Where it listens now.
    port: watch::Sender<u16>,
}

impl Service {
    async fn start() -> Self {
        let mut settings: Vec<_> = SETTINGS.map(|(name, value)| (name, value.to_owned())).into();
        settings.push(("DATABASE_URL", postgres::database().await));
        let data = tempfile::tempdir().expect("a directory");
        let mut service = Self { data, settings, herald: None, port: watch::Sender::new(0) };
        service.come_back().await;
        let most = json!({"messagesPerSecond": 100_000, "messageBurst": 100_000, "userMessagesPerSecond": 100_000,
            "userMessageBurst": 100_000, "connectsPerSecond": 100_000});
        let body = json!({"id": "main", "name": "main", "limits": most});
        let url = format!("https://localhost:{}/v1/instances", *service.port.borrow());
        let request = service.http().post(url).bearer_auth(Token::operator().sign()).json(&body);
        assert_eq!(request.send().await.expect("it answers").status(), 201);
        service
    }

    async fn come_back(&mut self) {
        let settings: Vec<_> =
            self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let herald = self.herald.insert(Herald::start(self.data.path(), &settings).await);
        self.port.send_replace(herald.port);
    }

    async fn is_killed_and_comes_back(&mut self) {
        assert_eq!(self.herald.take().expect("it runs").end(Signal::KILL).await, None);
        self.come_back().await;
    }

    fn ca(&self) -> Vec<u8> {
        std::fs::read(self.data.path().join("tls/ca.pem")).expect("Herald made a CA")
    }

    fn http(&self) -> reqwest::Client {
        let certificate = reqwest::Certificate::from_pem(&self.ca()).expect("a certificate");
        reqwest::Client::builder()
            .tls_certs_only([certificate])
            .timeout(PATIENCE)
            .build()
            .expect("a client")
    }
}

/// Sends batches until it is told to stop.
struct Publisher {
    http: reqwest::Client,
    port: watch::Receiver<u16>,
    token: String,
    dice: Dice,
    next_number: u64,
    sent: Truth,
}

impl Publisher {
    fn new(index: u64, service: &Service, dice: Dice) -> Self {
        let token = token(&format!("p{index}")).component().sign();
        let next_number = index * NUMBERS;
        Self {
            http: service.http(),
            port: service.port.subscribe(),
            token,
            dice,
            next_number,
            sent: Truth::default(),
        }
    }

    /// Sends at its pace until `over`; what has a place in the order.
    async fn publish(mut self, over: watch::Receiver<bool>) -> Truth {
        let mut pace = interval(PACE);
        while !*over.borrow() {
            pace.tick().await;
            let messages = (0..BATCH).map(|_| self.anything()).collect();
            self.send(messages).await;
        }
        self.sent
    }

    fn anything(&mut self) -> Value {
        let channel = match self.dice.below(8) {
            0..=5 => "ALL".to_owned(),
            6 => format!("group:g{}", self.dice.below(GROUPS as u64)),
            _ => format!("user:u{}", self.dice.below(CLIENTS as u64)),
        };
        self.message(&channel)
    }

    fn message(&mut self, channel: &str) -> Value {
        let (number, length) = (self.next_number, self.dice.below(400) as usize);
        self.next_number += 1;
        json!({"id": number.to_string(), "channel": channel, "message": [number, "x".repeat(length)]})
    }

    /// Sends a batch until it is answered; every message must have been taken.
    async fn send(&mut self, messages: Vec<Value>) {
        let body = json!({"messages": messages});
        let answer = loop {
            let port = *self.port.borrow_and_update();
            match self.ask(port, &body).await {
                Ok(answer) => break answer,
                // Nothing but its death excuses the server from answering.
                Err(error) => within(&format!("the server after {error:?}"), self.port.changed())
                    .await
                    .expect("a server"),
            }
        };
        let results = answer["results"].as_array().expect("a list of results");
        assert_eq!(results.len(), messages.len(), "{answer}");
        for (result, message) in results.iter().zip(messages) {
            assert_eq!(
                (&result["status"], &result["id"]),
                (&json!(202), &message["id"]),
                "{result}"
            );
            let place = Place::parse(result["cursor"].as_str().expect("a cursor"));
            let channel = message["channel"].as_str().expect("a channel").to_owned();
            self.sent.learn(place, (number(message["id"].as_str().expect("an id")), channel));
        }
    }

    async fn ask(&self, port: u16, body: &Value) -> reqwest::Result<Value> {
        let request = self
            .http
            .post(format!("https://localhost:{port}/v1/messages/batch"))
            .header("instance", "main");
        request.bearer_auth(&self.token).json(body).send().await?.error_for_status()?.json().await
    }
}

/// Publishers and listeners with a storm between them.
struct Chaos {
    service: Service,
    dice: Dice,
    storm: Storm,
    publishers: JoinSet<Truth>,
    listeners: JoinSet<(Heard, Truth)>,
    over: watch::Sender<bool>,
}

/// What came of it.
struct Outcome {
    /// Everything that has a place in the order.
    truth: Truth,
    /// How many of it no publisher was told of.
    unacknowledged: usize,
    heard: Vec<Heard>,
    cuts: u32,
}

impl Chaos {
    async fn begin(seed: u64) -> Self {
        let (service, mut dice) = (Service::start().await, Dice::new(seed));
        let storm = Storm::start(service.port.subscribe(), dice.fork()).await;
        let tls = Arc::new(trusting(&service.ca()));
        let over = watch::Sender::new(false);
        let (mut publishers, mut listeners) = (JoinSet::new(), JoinSet::new());
        for index in 0..CLIENTS {
            listeners.spawn(Listener::new(index, storm.port, tls.clone(), dice.fork()).listen());
        }
        for index in 0..PUBLISHERS {
            publishers
                .spawn(Publisher::new(index, &service, dice.fork()).publish(over.subscribe()));
        }
        Self { service, dice, storm, publishers, listeners, over }
    }

    /// Stops the publishers, then the storm, and lets everyone hear that this is the end.
    async fn end(mut self) -> Outcome {
        self.over.send_replace(true);
        let cuts = self.storm.cuts();
        let mut acknowledged = Truth::default();
        while let Some(sent) = within("a publisher's end", self.publishers.join_next()).await {
            acknowledged.add(sent.expect("the publisher found nothing wrong"));
        }
        self.storm.calm();
        let mut last = Publisher::new(PUBLISHERS, &self.service, self.dice);
        let (heard, mut truth) = within("everyone's end", dismiss(self.listeners, &mut last)).await;
        acknowledged.add(last.sent);
        let unacknowledged =
            truth.0.keys().filter(|place| !acknowledged.0.contains_key(place)).count();
        truth.add(acknowledged);
        assert_eq!(self.service.herald.expect("it runs").end(Signal::TERM).await, Some(0));
        Outcome { truth, unacknowledged, heard, cuts }
    }
}

/// Says that this is the end until everyone has heard it: again and again, since who is told of a
/// loss after it was said has missed it.
async fn dismiss(
    mut listeners: JoinSet<(Heard, Truth)>,
    last: &mut Publisher,
) -> (Vec<Heard>, Truth) {
    let (mut all, mut truth, mut pace) = (Vec::new(), Truth::default(), interval(PACE));
    loop {
        tokio::select! {
            ended = listeners.join_next() => {
                let Some(ended) = ended else { return (all, truth) };
                let (heard, seen) = ended.expect("the client found nothing wrong");
                truth.add(seen);
                all.push(heard);
            }
            _ = pace.tick() => {
                let message = last.message("ALL");
                last.send(vec![message]).await;
            }
        }
    }
}

impl Outcome {
    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        self.heard.iter().for_each(|heard| heard.add_faults(&self.truth, &mut faults));
        faults
    }

    fn recovered(&self) -> u32 {
        self.heard.iter().map(|heard| heard.recovered).sum()
    }

    fn announced(&self) -> usize {
        self.heard.iter().map(Heard::announced).sum()
    }

    fn describe(&self) -> String {
        let heard: usize = self.heard.iter().map(Heard::messages).sum();
        let (cuts, recovered, announced) = (self.cuts, self.recovered(), self.announced());
        let sent = self.truth.0.len();
        format!(
            "{sent} messages, heard {heard} times, {cuts} cuts, {recovered} recovered, {announced} losses announced"
        )
    }
}

/// A new one each time, unless `CHAOS_SEED` repeats an earlier one.
fn seed() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the server is not told of it: its settings do not matter here"
    )]
    let given = std::env::var("CHAOS_SEED");
    let seed = given
        .map_or_else(|_| Uuid::new_v4().as_u64_pair().0, |text| text.parse().expect("CHAOS_SEED"));
    eprintln!("to repeat the random choices: CHAOS_SEED={seed}");
    seed
}

#[actix_web::test]
async fn of_a_thousand_cuts_none_loses_doubles_or_disorders_a_message() {
    let seed = seed();
    let mut chaos = Chaos::begin(seed).await;
    chaos.storm.has_cut(1_000).await;
    let outcome = chaos.end().await;
    let said = format!("{}; CHAOS_SEED={seed}", outcome.describe());
    eprintln!("{said}");
    assert_eq!(outcome.faults(), Faults::default(), "{said}");
    assert_eq!((outcome.truth.repeats(), outcome.unacknowledged), (0, 0), "{said}");
    assert_eq!(outcome.announced(), 0, "{said}");
    assert!(outcome.recovered() >= 900, "{said}");
}

#[actix_web::test]
async fn a_server_killed_between_the_cuts_announces_every_loss() {
    let seed = seed();
    let mut chaos = Chaos::begin(seed).await;
    for cuts in [50, 100, 150] {
        chaos.storm.has_cut(cuts).await;
        chaos.service.is_killed_and_comes_back().await;
    }
    chaos.storm.has_cut(200).await;
    let outcome = chaos.end().await;
    let said = format!("{}; CHAOS_SEED={seed}", outcome.describe());
    eprintln!("{said}");
    assert_eq!(outcome.faults(), Faults::default(), "{said}");
    assert_eq!(outcome.truth.repeats(), 0, "{said}");
    assert!(outcome.announced() > 0 && outcome.recovered() > 0, "{said}");
}
