//! The crowd of a storm: clients that are cut and come back all at once, on a thread that takes
//! only what nobody else needs.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::clients::background::Background;
use crate::clients::client::{Client, describe};
use crate::clients::frames::TEXT;
use crate::clients::message::{Content, Messages, Number};
use crate::clients::wire::Route;
use crate::{Failure, Outcome};

/// How long one client may take to be back and have everything.
const LONGEST_RETURN: Duration = Duration::from_secs(30);

/// How the crowd comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// As if for the first time.
    Afresh,
    /// With cursors: everything missed is wanted.
    Resuming,
}

/// What the crowd has missed.
#[derive(Clone)]
pub struct Missed {
    /// The messages' shape.
    pub messages: Arc<Messages>,
    /// Their places.
    pub places: std::ops::Range<u64>,
}

/// All of them.
pub struct Crowd {
    background: Background,
    route: Route,
    path: String,
    members: Vec<Member>,
}

struct Member {
    token: String,
    cursor: String,
    client: Option<Client>,
}

impl Crowd {
    /// A crowd with a member for each token; nobody is connected yet.
    pub fn new(route: Route, path: String, tokens: Vec<String>) -> Outcome<Self> {
        let members = tokens
            .into_iter()
            .map(|token| Member { token, cursor: String::new(), client: None })
            .collect();
        Ok(Self { background: Background::start()?, route, path, members })
    }

    /// Closes every socket without a word.
    pub fn cut(&mut self) {
        self.members.iter_mut().for_each(|member| member.client = None);
    }

    /// Lets every member say that it is alive.
    pub async fn ping(&mut self) -> Outcome<()> {
        for client in self.members.iter_mut().filter_map(|member| member.client.as_mut()) {
            client.ping().await?;
        }
        Ok(())
    }

    /// Everyone connects at the same moment; returns how long it took until the last was
    /// `CONNECTED` and, if resuming, had what it missed.
    pub async fn come_back(&mut self, how: Return, missed: &Missed) -> Outcome<Duration> {
        let mut returning = JoinSet::new();
        let start = Instant::now();
        for (index, member) in self.members.drain(..).enumerate() {
            let (route, path, missed) = (self.route.clone(), self.path.clone(), missed.clone());
            let back = async move {
                let back =
                    timeout(LONGEST_RETURN, member.come_back(&route, &path, how, &missed)).await;
                back.map_err(Failure::from)
                    .flatten()
                    .map_err(|error| format!("member {index}: {error}"))
            };
            returning.spawn_on(back, self.background.handle());
        }
        while let Some(member) = returning.join_next().await {
            self.members.push(member??);
        }
        Ok(start.elapsed())
    }
}

impl Member {
    async fn come_back(
        mut self,
        route: &Route,
        path: &str,
        how: Return,
        missed: &Missed,
    ) -> Outcome<Self> {
        let path = match how {
            Return::Afresh => path.to_owned(),
            Return::Resuming => format!("{path}&cursor={}", self.cursor),
        };
        let (mut client, connected) = Client::open(route, &path, &self.token).await?;
        self.cursor = cursor(&connected)?;
        if how == Return::Resuming {
            if connected["recovered"] != true {
                return Err(format!("not recovered: {connected}").into());
            }
            for place in missed.places.clone() {
                self.cursor = replayed(&mut client, &missed.messages, place).await?;
            }
        }
        self.client = Some(client);
        Ok(self)
    }
}

async fn replayed(client: &mut Client, messages: &Messages, due: u64) -> Outcome<String> {
    let frame = client.frame().await?;
    if frame.opcode != TEXT {
        return Err(describe(&frame).into());
    }
    match messages.read(&frame.payload)? {
        Content::Message(Number { place, .. }) if place == due => {
            cursor(&serde_json::from_slice(&frame.payload)?)
        }
        _ => Err(format!("{} came where message {due} was due", describe(&frame)).into()),
    }
}

fn cursor(frame: &Value) -> Outcome<String> {
    Ok(frame["cursor"].as_str().ok_or("a frame without a cursor")?.to_owned())
}
