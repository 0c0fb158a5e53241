//! One kept-alive https connection that posts, as cheaply as this end can.

use bytes::BytesMut;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::Outcome;
use crate::clients::envelope::Envelope;
use crate::clients::wire::{Route, Wire, read_body, read_head};

/// An open connection with a component's token.
pub struct Publisher {
    wire: Wire,
    headers: String,
    received: BytesMut,
    published: u64,
}

/// What a request was answered.
pub struct Answer {
    /// The status line.
    pub status: String,
    body: BytesMut,
}

impl Answer {
    /// How often these bytes stand in the body: cheaper than reading it as JSON.
    pub fn count(&self, wanted: &[u8]) -> usize {
        self.body.windows(wanted.len()).filter(|window| *window == wanted).count()
    }

    /// The body in the words of an error.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

impl Publisher {
    /// Connects; every request will carry `token` and `instance`.
    pub async fn open(route: &Route, token: &str, instance: &str) -> Outcome<Self> {
        let headers = format!(
            "{}Authorization: Bearer {token}\r\ninstance: {instance}\r\nContent-Type: application/json\r\n",
            route.headers()
        );
        Ok(Self { wire: route.connect().await?, headers, received: BytesMut::new(), published: 0 })
    }

    /// Posts `body` in one write and reads the whole answer.
    pub async fn post(&mut self, path: &str, body: &str) -> Outcome<Answer> {
        let request = format!("POST {path} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{body}", self.headers, body.len());
        self.wire.write_all(request.as_bytes()).await?;
        self.wire.flush().await?;
        let head = read_head(&mut self.wire, &mut self.received).await?;
        let body = read_body(&mut self.wire, &mut self.received, &head).await?;
        let status = head.lines().next().unwrap_or_default().to_owned();
        Ok(Answer { status, body })
    }

    /// Publishes `message`; the answer must count `receivers` connections as queued,
    /// unless it says that a busy worker has not counted yet: the listeners see what came in any case.
    pub async fn publish(&mut self, envelope: Envelope, message: &str, receivers: usize) -> Outcome<()> {
        self.published += 1;
        let body = envelope.seal(message, self.published);
        let answer = self.post("/v1/messages", &body).await?;
        let (status, body) = (&answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap_or_default());
        let counted = body["matched"] == receivers && body["queued"] == receivers || body["incomplete"] == true;
        if status.starts_with("HTTP/1.1 202 ") && counted {
            return Ok(());
        }
        Err(format!("publishing to {receivers} connections was answered {status}: {body}").into())
    }
}
