//! One connection that checks that every message arrives once and in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, interval_at};

use crate::clients::client::{Client, describe};
use crate::clients::frames::{CLOSE, Frame, TEXT, close_code};
use crate::clients::message::{Content, Messages, Number};
use crate::clients::order::Order;
use crate::clients::progress::{Departure, Progress};
use crate::{Failure, Outcome};

/// Every connection says that it is alive this often; runs shorter than that send nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const TOO_SLOW: u16 = 4420;
const RESTARTING: u16 = 1012;

/// How connections may end while others are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They may not.
    Never,
    /// Because they are too slow: closed with 4420, or cut when they cannot even be told that.
    TooSlow,
    /// Because the server goes away: told `RECONNECT` and closed with 1012.
    Restart,
}

/// Whose connection it is, and what it has had.
pub struct Seat {
    /// Which of the tokens is its own.
    pub index: usize,
    /// The messages it has had.
    pub order: Order,
    /// The newest cursor it was told, of one that may have to resume.
    pub cursor: String,
}

/// One connection.
pub struct Listener {
    /// Whose it is.
    pub seat: Seat,
    /// The socket.
    pub client: Client,
    /// How it may end.
    pub ending: Ending,
    /// Whether it was told that the server goes away.
    pub sent_away: bool,
}

/// Why a connection hears no more.
enum End {
    /// It was closed.
    Closed(Frame),
    /// The socket ended by itself.
    Cut(Failure),
    /// It was sent what it must not be sent.
    Wrong(Failure),
}

impl Listener {
    /// Listens until the connection ends, or is dropped.
    pub async fn listen(mut self, messages: Arc<Messages>, progress: Arc<Progress>) {
        let end = self.hear(&messages, &progress).await;
        let index = self.seat.index;
        match self.judge(end) {
            Ok(departure) => progress.leave(departure),
            Err(failure) => progress.fail(format!("connection {index}: {failure}")),
        }
    }

    async fn hear(&mut self, messages: &Messages, progress: &Progress) -> End {
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        let mut numbers = Vec::new();
        loop {
            tokio::select! {
                read = self.client.read() => if let Err(failure) = read {
                    return End::Cut(failure);
                },
                // Where nothing can be written, what is still to be read says why.
                _ = keep_alive.tick() => drop(self.client.ping().await),
            }
            numbers.clear();
            match self.take_messages(messages, &mut numbers, progress) {
                Ok(None) => {}
                Ok(Some(close)) => return End::Closed(close),
                Err(failure) => return End::Wrong(failure),
            }
        }
    }

    /// Takes what has been read; returns the close frame if there was one.
    fn take_messages(
        &mut self,
        messages: &Messages,
        numbers: &mut Vec<Number>,
        progress: &Progress,
    ) -> Outcome<Option<Frame>> {
        let (mut bytes, mut newest, mut close) = (0, None, None);
        while let Some(frame) = self.client.take()? {
            match frame.opcode {
                TEXT => {}
                CLOSE => {
                    close = Some(frame);
                    break;
                }
                _ => continue,
            }
            match messages.read(&frame.payload)? {
                Content::Message(number) => {
                    self.seat.order.take(number)?;
                    numbers.push(number);
                    bytes += frame.payload.len() as u64;
                    newest = Some(frame.payload);
                }
                Content::Reconnect if self.ending == Ending::Restart => self.sent_away = true,
                Content::Reconnect => return Err("a RECONNECT that nobody expected".into()),
                Content::Pong => {}
            }
        }
        if self.ending == Ending::Restart {
            self.keep_cursor(newest)?;
        }
        progress.add(numbers, bytes);
        Ok(close)
    }

    fn keep_cursor(&mut self, newest: Option<BytesMut>) -> Outcome<()> {
        let Some(frame) = newest else { return Ok(()) };
        let cursor = cursor_of(&frame).ok_or("a message without a cursor")?;
        self.seat.cursor.clear();
        self.seat.cursor.push_str(cursor);
        Ok(())
    }

    /// Whether it may end like this.
    fn judge(self, end: End) -> Outcome<Departure> {
        let code = match (self.ending, end) {
            (Ending::TooSlow, End::Closed(close)) if close_code(&close) == Some(TOO_SLOW) => {
                Some(TOO_SLOW)
            }
            (Ending::TooSlow, End::Cut(_)) => None,
            (Ending::Restart, End::Closed(close))
                if self.sent_away && close_code(&close) == Some(RESTARTING) =>
            {
                Some(RESTARTING)
            }
            (Ending::Restart, End::Closed(close)) if !self.sent_away => {
                return Err(format!("{} without a RECONNECT before it", describe(&close)).into());
            }
            (_, End::Closed(close)) => return Err(describe(&close).into()),
            (_, End::Cut(failure) | End::Wrong(failure)) => return Err(failure),
        };
        Ok(Departure { seat: self.seat, code })
    }
}

/// The cursor of a text frame; it stands before the data.
pub fn cursor_of(frame: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = br#""cursor":""#;
    let start = frame.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let length = frame[start..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&frame[start..start + length]).ok()
}
