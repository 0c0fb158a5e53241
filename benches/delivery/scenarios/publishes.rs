//! What publishing costs by itself: to someone who is not connected, while everyone else is.

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::clients::message::Number;
use crate::clients::publisher::Inlet;
use crate::measure::Bench;
use crate::report::figures::{Figure, Sample};
use crate::servers::Server;
use crate::servers::process::own_cpu_seconds;

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

/// What is posted, again and again.
#[derive(Clone)]
struct Request {
    path: &'static str,
    body: String,
    status: u16,
    messages: usize,
}

impl Bench {
    /// Single messages, then batches. Herald has all connections open and idle; the floor has none.
    pub async fn publishes(&self, server: &Server) -> Outcome<Sample> {
        let idle = match server {
            Server::Herald(_) => Some(self.open(server, self.options.connections).await?),
            Server::Floor(_) => None,
        };
        let entry = format!(
            r#"{{"channel":"user:nobody","message":{}}}"#,
            self.messages.text(Number { lane: 0, place: 1 })
        );
        let batch = format!(r#"{{"messages":[{}]}}"#, vec![entry.as_str(); BATCH].join(","));
        let single = Request { path: "/v1/messages", body: entry, status: 202, messages: 1 };
        let batch =
            Request { path: "/v1/messages/batch", body: batch, status: 200, messages: BATCH };
        let mut sample = self.publish_flat_out(server, &single).await?;
        sample.extend(self.publish_flat_out(server, &batch).await?);
        idle.map_or(Ok(()), |load| load.check())?;
        Ok(sample)
    }

    async fn publish_flat_out(&self, server: &Server, request: &Request) -> Outcome<Sample> {
        let inlet = server.inlet(&self.certificate)?;
        let from = Instant::now() + self.options.warm_up;
        let until = from + self.options.length;
        let mut publishers = JoinSet::new();
        for _ in 0..PUBLISHERS {
            publishers.spawn(post_until(inlet.clone(), request.clone(), from..until));
        }
        sleep(self.options.warm_up).await;
        let (cpu, own) = (server.process().cpu_seconds()?, own_cpu_seconds()?);
        sleep(until - from).await;
        let (cpu, own) = (server.process().cpu_seconds()? - cpu, own_cpu_seconds()? - own);
        let mut messages = 0.0;
        while let Some(posted) = publishers.join_next().await {
            messages += (posted?? * request.messages) as f64;
        }
        Ok(vec![
            cpu / messages * 1e6,
            own / messages * 1e6,
            messages / self.options.length.as_secs_f64(),
        ])
    }
}

/// Posts until the end of `time`; returns how many answers came in it.
async fn post_until(
    inlet: Inlet,
    request: Request,
    time: std::ops::Range<Instant>,
) -> Outcome<usize> {
    let mut publisher = inlet.open().await?;
    let mut posted = 0;
    while Instant::now() < time.end {
        let answer = publisher.post(request.path, &request.body).await?;
        let taken = answer.count(br#""matched":0"#);
        if answer.status != request.status || taken != request.messages {
            return Err(format!("{taken} of {} were taken: {answer}", request.messages).into());
        }
        posted += usize::from(time.contains(&Instant::now()));
    }
    Ok(posted)
}
