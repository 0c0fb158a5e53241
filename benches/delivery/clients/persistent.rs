//! A publisher that goes on whatever becomes of the server, and sends what was not answered again
//! under the same id.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use uuid::Uuid;

use crate::Outcome;
use crate::clients::load::Load;
use crate::clients::message::{Messages, Number};
use crate::clients::order::Ledger;
use crate::clients::publisher::{Inlet, Publisher};
use crate::clients::punctual::{joined, on_own_thread};

/// How long one message may take to be answered 202.
const LONGEST_TRYING: Duration = Duration::from_secs(120);
/// How long it waits where nobody answers.
const PAUSE: Duration = Duration::from_millis(20);
/// Its lane.
const LANE: usize = 0;

/// A thread that publishes; it ends with this.
pub struct Persistent {
    stop: SyncSender<()>,
    publishing: JoinHandle<Outcome<()>>,
}

impl Persistent {
    /// Begins to publish `rate` messages a second to everyone. While nobody answers it falls
    /// behind, and does not catch up.
    pub fn begin(load: &Load, inlet: Inlet, messages: Arc<Messages>, rate: u32) -> Self {
        let (stop, stopped) = sync_channel(0);
        let (ledger, progress) = (load.ledger().clone(), load.progress().clone());
        let interval = Duration::from_secs(1) / rate;
        let publishing = on_own_thread(async move || {
            let mut post = Post { inlet, publisher: None, messages, ledger, run: Uuid::new_v4() };
            let result = post.publish(interval, &stopped).await;
            result.inspect_err(|failure| progress.fail(format!("the publisher: {failure}")))
        });
        Self { stop, publishing }
    }

    /// Stops publishing; says what went wrong with it, if anything.
    pub async fn end(self) -> Outcome<()> {
        drop(self.stop);
        joined(vec![self.publishing]).await.map(drop)
    }
}

struct Post {
    inlet: Inlet,
    /// The connection, while there is one.
    publisher: Option<Publisher>,
    messages: Arc<Messages>,
    ledger: Arc<Ledger>,
    /// Makes the ids of this run its own.
    run: Uuid,
}

impl Post {
    async fn publish(&mut self, interval: Duration, stop: &Receiver<()>) -> Outcome<()> {
        let mut due = Instant::now();
        while stop.recv_timeout(due.saturating_duration_since(Instant::now()))
            == Err(RecvTimeoutError::Timeout)
        {
            let number = self.ledger.next(LANE);
            let (run, message) = (self.run, self.messages.text(number));
            let body = format!(r#"{{"channel":"ALL","id":"{run}-{number}","message":{message}}}"#);
            self.insist(number, &body).await?;
            due = Instant::now().max(due + interval);
        }
        Ok(())
    }

    /// Posts until it is answered 202. The same id makes sure that it is published once, even if an
    /// answer was lost.
    async fn insist(&mut self, number: Number, body: &str) -> Outcome<()> {
        let deadline = Instant::now() + LONGEST_TRYING;
        loop {
            match self.post(body).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(failure) if failure.is::<io::Error>() => self.publisher = None,
                Err(failure) => return Err(failure),
            }
            if Instant::now() > deadline {
                return Err(
                    format!("message {number} was not taken within {LONGEST_TRYING:?}").into()
                );
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether it was taken; false when the server has more to do than it can. Errors: any other
    /// answer.
    async fn post(&mut self, body: &str) -> Outcome<bool> {
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            none => none.insert(self.inlet.open().await?),
        };
        let answer = publisher.post("/v1/messages", body).await?;
        match answer.status {
            202 => Ok(true),
            503 => Ok(false),
            _ => Err(format!("the publisher was answered {answer}").into()),
        }
    }
}
