//! What publishing costs by itself: to someone who is not connected, while everyone else is.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::figures::{Figure, Sample};
use crate::herald::INSTANCE;
use crate::measure::Bench;
use crate::process::own_cpu_seconds;
use crate::publisher::Publisher;
use crate::server::Server;
use crate::wire::Route;

/// What is measured.
pub const FIGURES: &[Figure] = &[
    Figure::compared("µs a publish"),
    Figure::alone("client µs a publish"),
    Figure::compared("publishes/s"),
    Figure::compared("µs a message of a batch"),
    Figure::alone("client µs a message of a batch"),
    Figure::compared("messages/s in batches"),
];

/// Kept-alive connections that publish at the same time.
const PUBLISHERS: usize = 16;
/// Entries of a batch: the most that Herald takes.
const BATCH: usize = 100;
/// Length of a token of Herald's publisher.
const TOKEN_BYTES: usize = 213;
/// How long every publisher publishes before anything is counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is posted, again and again.
#[derive(Clone)]
struct Request {
    path: &'static str,
    body: String,
    /// What a good answer begins with.
    status: &'static str,
    messages: usize,
}

impl Bench {
    /// Single messages, then batches. Herald has all connections open and idle; the floor has none.
    pub async fn publishes(&self, server: &mut Server) -> Outcome<Sample> {
        let idle = match server {
            Server::Herald(_) => Some(self.open(server, self.options.connections, 1).await?),
            Server::Floor(_) => None,
        };
        let entry = format!(r#"{{"channel":"user:nobody","message":{}}}"#, self.messages.text(1));
        let batch = format!(r#"{{"messages":[{}]}}"#, vec![entry.as_str(); BATCH].join(","));
        let single = Request { path: "/v1/messages", body: entry, status: "HTTP/1.1 202 ", messages: 1 };
        let batch = Request { path: "/v1/messages/batch", body: batch, status: "HTTP/1.1 200 ", messages: BATCH };
        let mut sample = self.publish_flat_out(server, &single).await?;
        sample.extend(self.publish_flat_out(server, &batch).await?);
        idle.map_or(Ok(()), |load| load.check(0))?;
        Ok(sample)
    }

    async fn publish_flat_out(&self, server: &Server, request: &Request) -> Outcome<Sample> {
        let route = server.route(&self.certificate)?;
        // The floor looks at no token, but it is to read a request as long as Herald's.
        let token = format!("{:x<TOKEN_BYTES$}", server.token());
        let from = Instant::now() + WARM_UP;
        let until = from + Duration::from_secs(self.options.seconds.into());
        let mut publishers = JoinSet::new();
        for _ in 0..PUBLISHERS {
            publishers.spawn(post_until(route.clone(), token.clone(), request.clone(), from..until));
        }
        sleep(WARM_UP).await;
        let (cpu, own) = (server.process().cpu_seconds()?, own_cpu_seconds()?);
        sleep(until - from).await;
        let (cpu, own) = (server.process().cpu_seconds()? - cpu, own_cpu_seconds()? - own);
        let mut messages = 0.0;
        while let Some(posted) = publishers.join_next().await {
            messages += (posted?? * request.messages) as f64;
        }
        Ok(vec![cpu / messages * 1e6, own / messages * 1e6, messages / f64::from(self.options.seconds)])
    }
}

/// Posts until the end of `time`; returns how many answers came in it.
async fn post_until(route: Route, token: String, request: Request, time: std::ops::Range<Instant>) -> Outcome<usize> {
    let mut publisher = Publisher::open(&route, &token, INSTANCE).await?;
    let mut posted = 0;
    while Instant::now() < time.end {
        let answer = publisher.post(request.path, &request.body).await?;
        let taken = answer.count(br#""matched":0"#);
        if !answer.status.starts_with(request.status) || taken != request.messages {
            return Err(
                format!("{taken} of {} were taken: {} {}", request.messages, answer.status, answer.text()).into()
            );
        }
        posted += usize::from(time.contains(&Instant::now()));
    }
    Ok(posted)
}
