//! One kept-alive https connection that posts, as cheaply as this end can.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::wire::{Route, Wire, header, read_body, read_head};

/// Where messages go in, before anything is connected.
#[derive(Clone)]
pub struct Inlet {
    /// The way.
    pub route: Route,
    /// A component's token; the floor takes any.
    pub token: String,
    /// In whose name; the floor takes any.
    pub instance: &'static str,
    /// Whom messages are for.
    pub envelope: Envelope,
}

/// An open connection with a component's token.
pub struct Publisher {
    wire: Wire,
    headers: String,
    envelope: Envelope,
    received: BytesMut,
    published: u64,
}

/// What a request was answered.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// How long to wait before it is tried again.
    pub retry_after: Option<Duration>,
    body: BytesMut,
}

impl Inlet {
    /// Connects, on the runtime of the caller.
    pub async fn open(&self) -> Outcome<Publisher> {
        let Self { route, token, instance, envelope } = self;
        let headers = format!(
            "{}Authorization: Bearer {token}\r\ninstance: {instance}\r\nContent-Type: application/json\r\n",
            route.headers()
        );
        let (wire, received) = (route.connect().await?, BytesMut::new());
        Ok(Publisher { wire, headers, envelope: *envelope, received, published: 0 })
    }
}

impl Answer {
    /// How often these bytes stand in the body: cheaper than reading it as JSON.
    pub fn count(&self, wanted: &[u8]) -> usize {
        self.body.windows(wanted.len()).filter(|window| *window == wanted).count()
    }

    /// Errors unless it is a 202 that counts so many connections as matched and as queued, or that
    /// says that a busy worker has not counted yet: the listeners see what came in any case.
    pub fn expect(&self, receivers: &RangeInclusive<usize>) -> Outcome<()> {
        let body = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        let is_expected = |name: &str| {
            body[name].as_u64().is_some_and(|count| receivers.contains(&(count as usize)))
        };
        let counted = is_expected("matched") && is_expected("queued") || body["incomplete"] == true;
        if self.status == 202 && counted {
            return Ok(());
        }
        Err(format!("publishing to {receivers:?} connections was answered {self}").into())
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Publisher {
    /// Posts `body` in one write and reads the whole answer.
    pub async fn post(&mut self, path: &str, body: &str) -> Outcome<Answer> {
        let request = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{body}",
            self.headers,
            body.len()
        );
        self.wire.write_all(request.as_bytes()).await?;
        self.wire.flush().await?;
        let head = read_head(&mut self.wire, &mut self.received).await?;
        let body = read_body(&mut self.wire, &mut self.received, &head).await?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        let status = status.parse().map_err(|_| format!("an answer that begins with {head}"))?;
        let retry_after = header(&head, "retry-after").and_then(|seconds| seconds.parse().ok());
        Ok(Answer { status, retry_after: retry_after.map(Duration::from_secs), body })
    }

    /// Posts `message` to those it is for.
    pub async fn send(&mut self, message: &str) -> Outcome<Answer> {
        self.published += 1;
        let body = self.envelope.seal(message, self.published);
        self.post("/v1/messages", &body).await
    }

    /// Publishes `message`; the answer must count so many connections.
    pub async fn publish(
        &mut self,
        message: &str,
        receivers: &RangeInclusive<usize>,
    ) -> Outcome<()> {
        self.send(message).await?.expect(receivers)
    }
}
