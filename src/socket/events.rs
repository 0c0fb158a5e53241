//! One event stream's life: the frames of its outbox as server-sent events (HTML standard, section
//! 9.2).

use super::sockets::Held;
use crate::relay::outbox::Next;
use crate::relay::{Close, Frame, Link, Notice, Registration};
use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use bytes::{BufMut, Bytes, BytesMut};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What a stream begins with: when the client connects again if it breaks, in milliseconds.
const OPENING: &[u8] = b"retry: 2000\n\n";
/// Shortest `retry:` of a `RECONNECT`: a client keeps to it while the node is away, and must not
/// hammer its address.
const SHORTEST_RETRY_MS: u64 = 1_000;
const COMMENT: &[u8] = b": keep-alive\n\n";
/// Longer than any interval of comments (`HERALD_STREAM_COMMENT_SECONDS`).
const LONG_SILENCE: Duration = Duration::from_secs(60);
/// How often a second the socket may stir without anything to write, before the client is told to
/// stop.
const STIRS_A_SECOND: u32 = 100;
/// What one turn is good for: as much as actix' dispatcher takes at once.
const TURN_BYTES: usize = 32 << 10;
/// Room for the lines around `data:`.
const LINES_BYTES: usize = 96;

/// Answers a request with a stream that lives as long as `registration`.
pub fn open_stream(registration: Registration, held: Held) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .force_close()
        .body(EventStream::new(registration, held))
}

/// The response's body.
struct EventStream {
    /// None once it leaves.
    registration: Option<Registration>,
    link: Rc<Link>,
    /// None once it leaves.
    held: Option<Held>,
    stage: Stage,
    /// Bytes that its turn is still good for.
    left: usize,
    stirs: Stirs,
}

/// How far a stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was written.
    Opening,
    /// Frames come as they come.
    Flowing,
    /// `CLOSE` was written.
    Closed,
}

impl MessageBody for EventStream {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        match self.stage {
            Stage::Opening => {
                self.stage = Stage::Flowing;
                return Poll::Ready(Some(Ok(Bytes::from_static(OPENING))));
            }
            Stage::Flowing => {}
            Stage::Closed => return Poll::Ready(None),
        }
        if !self.may_write() {
            self.link.outbox.wait_for_turn(cx);
            return Poll::Pending;
        }
        let Poll::Ready(next) = self.link.outbox.poll_next(cx, Instant::now) else {
            self.left = 0;
            return self.look_at_the_socket(cx);
        };
        self.stirs.is_waiting = false;
        let link = &self.link;
        link.last_heard.set(Instant::now());
        let event = match next {
            Next::Frame(frame) => event(&frame),
            Next::Close(close) => {
                tracing::debug!(
                    connection.id = link.id,
                    close.code = close.code,
                    "closing a stream"
                );
                self.stage = Stage::Closed;
                close_event(&close)
            }
        };
        self.left = self.left.saturating_sub(event.len());
        Poll::Ready(Some(Ok(event)))
    }
}

impl EventStream {
    fn new(registration: Registration, held: Held) -> Self {
        Self {
            link: registration.link.clone(),
            registration: Some(registration),
            held: Some(held),
            stage: Stage::Opening,
            left: 0,
            stirs: Stirs::default(),
        }
    }

    /// Whether it is its turn to write what waits, if something does. Who can be written to again
    /// waits for a turn as well: there may be thousands, and other instances' connections among
    /// them.
    fn may_write(&mut self) -> bool {
        if self.left > 0 || !self.link.outbox.has_something() {
            return true;
        }
        let has_turn = self.registration.as_ref().is_some_and(Registration::take_turn);
        self.left = if has_turn { TURN_BYTES } else { 0 };
        self.left > 0
    }

    /// Called where nothing is to be written. If that was so before, the socket has woken the
    /// dispatcher: bytes came that nobody reads, or the client's end. Only writing tells whether it
    /// still listens, and only the second time: the first is answered with a reset. So a comment
    /// goes out now and another at the next tick.
    fn look_at_the_socket(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        if !std::mem::replace(&mut self.stirs.is_waiting, true) {
            return Poll::Pending;
        }
        let (now, link) = (Instant::now(), &self.link);
        match self.stirs.count(now) {
            1 => {
                self.stirs.is_waiting = false;
                link.last_heard.set(now.checked_sub(LONG_SILENCE).unwrap_or(now));
                Poll::Ready(Some(Ok(Bytes::from_static(COMMENT))))
            }
            // The dispatcher asks without end while more pipelined requests wait than it takes.
            STIRS_A_SECOND => {
                link.outbox.close(Close::new(
                    4400,
                    "ONE_DIRECTIONAL",
                    "nothing is read from a stream's client",
                ));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Pending,
        }
    }
}

impl Drop for EventStream {
    /// Leaves every index, at its turn: thousands may go at once.
    fn drop(&mut self) {
        let Some(registration) = self.registration.take() else { return };
        let (admittance, held) = (registration.worker().admittance().clone(), self.held.take());
        tokio::task::spawn_local(async move {
            admittance.in_turn(|| drop((registration, held))).await;
        });
    }
}

/// How often the socket woke the dispatcher while there was nothing to write.
#[derive(Default)]
struct Stirs {
    /// Whether the last look found nothing to write.
    is_waiting: bool,
    /// In the second since then.
    since: Option<Instant>,
    count: u32,
}

impl Stirs {
    /// One more; how many within a second.
    fn count(&mut self, now: Instant) -> u32 {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        self.count
    }
}

/// A frame as an event: `data` is its JSON byte for byte, which holds no line break. A ping is a
/// comment.
fn event(frame: &Frame) -> Bytes {
    if !frame.is_text() {
        return Bytes::from_static(COMMENT);
    }
    let json = frame.json();
    let name = if frame.head().is_some() { b"MESSAGE" } else { name(json) };
    let mut event = BytesMut::with_capacity(json.len() + LINES_BYTES);
    let mut line = |field: &[u8], value: &[u8]| {
        [field, value, b"\n"].into_iter().for_each(|part| event.put_slice(part));
    };
    match frame.head() {
        Some(head) => line(b"id: ", head.cursor.to_text().as_bytes()),
        None if name == b"CONNECTED" => line(b"id: ", cursor(json)),
        None => {}
    }
    if name != b"MESSAGE" {
        line(b"event: ", name);
    }
    if let Some(retry) = retry_ms(name, json) {
        line(b"retry: ", retry.to_string().as_bytes());
    }
    line(b"data: ", json);
    event.put_u8(b'\n');
    event.freeze()
}

fn close_event(close: &Close) -> Bytes {
    event(&Frame::of(&Notice::Close { code: close.code, reason: &close.reason }))
}

/// The frame's type, with which its JSON begins.
fn name(json: &[u8]) -> &[u8] {
    let name = json.strip_prefix(b"{\"type\":\"").unwrap_or_default();
    name.split(|byte| *byte == b'"').next().unwrap_or_default()
}

/// The cursor of `CONNECTED`. A quote within a JSON string follows a backslash, so the first such
/// field is the frame's own.
fn cursor(json: &[u8]) -> &[u8] {
    const FIELD: &[u8] = b",\"cursor\":\"";
    let at = json.windows(FIELD.len()).position(|window| window == FIELD);
    let value = at.and_then(|at| json.get(at + FIELD.len()..)).unwrap_or_default();
    value.split(|byte| *byte == b'"').next().unwrap_or_default()
}

fn retry_ms(name: &[u8], json: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Reconnect {
        after_ms: u64,
    }
    if name != b"RECONNECT" {
        return None;
    }
    serde_json::from_slice::<Reconnect>(json)
        .ok()
        .map(|reconnect| reconnect.after_ms.max(SHORTEST_RETRY_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cursor::Cursor;
    use crate::domain::message::{Message, Payload};
    use crate::relay::Sealed;
    use crate::relay::model_test::SETTINGS;
    use crate::relay::turns_test::{Bell, STORM, Scene, begin};
    use crate::relay::{ConnectionBounds, OutboxBounds, RelaySettings};
    use std::sync::Arc;
    use std::task::Waker;
    use tokio::task::{LocalSet, yield_now};

    /// What a dispatcher with room without end would take of a stream now, as the lengths of the
    /// events.
    fn taker(registration: Registration) -> impl FnMut(&Waker) -> Vec<usize> {
        let mut stream = EventStream::new(registration, Box::new(()));
        move |waker| {
            let mut events = Vec::new();
            while let Poll::Ready(Some(Ok(event))) =
                Pin::new(&mut stream).poll_next(&mut Context::from_waker(waker))
            {
                events.push(event.len());
            }
            events
        }
    }

    /// With so many bytes of room in an outbox.
    fn scene(bytes: usize) -> Scene {
        let outbox = OutboxBounds { bytes, ..SETTINGS.connection.outbox };
        let connection = ConnectionBounds { outbox, ..SETTINGS.connection };
        Scene::new(RelaySettings { connection, ..SETTINGS })
    }

    /// Takes what a stream begins with, `CONNECTED` included, until it waits for its next turn.
    async fn begin_stream(scene: &Scene) -> (impl FnMut(&Waker) -> Vec<usize>, Waker) {
        let mut take = taker(scene.connect(STORM));
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        while take(&waker).is_empty() || bell.rings() == 0 {
            yield_now().await;
        }
        take(&waker);
        (take, waker)
    }

    fn text(frame: &Frame) -> String {
        String::from_utf8(event(frame).to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_its_frame_byte_for_byte_on_one_line_under_its_own_cursor() {
        let cursor = Cursor { epoch: 7, position: 9 };
        let tricky = ",\"cursor\":\"x\r\n\u{2028}\",\"cursor\":\"";
        let json = format!(
            "{{\n\t\"cursor\" : {0} ,\r\n\"data\": [ 1.50 , {0} ] }}",
            serde_json::json!(tricky)
        );
        let message = Message {
            address: tricky.into(),
            payload: Payload::new(&json, 1_000).unwrap(),
            ..Message::of_a_test("m")
        };
        let frame = Sealed::frame_of(&message, cursor);
        let json = std::str::from_utf8(frame.json()).unwrap();
        assert_eq!(text(&frame), format!("id: {}\ndata: {json}\n\n", cursor.to_text()));
        assert_eq!(text(&frame).matches(['\n', '\r']).count(), 3);
    }

    #[test]
    fn other_frames_are_named_and_only_the_first_has_an_id() {
        let connected = Notice::Connected {
            connection_id: "c",
            instance: "main",
            user_id: ",\"cursor\":\"x",
            channels: [],
            cursor: "AAA".into(),
            keep_alive_seconds: 60,
            recovered: None,
            reason: None,
        };
        assert!(
            text(&Frame::with_channels(&connected, r#"["ALL","cursor"]"#))
                .starts_with("id: AAA\nevent: CONNECTED\ndata: {\"type\":\"CONNECTED\",")
        );
        let channels = Frame::channels(r#"["ALL"]"#);
        assert_eq!(
            text(&channels),
            "event: CHANNELS\ndata: {\"type\":\"CHANNELS\",\"channels\":[\"ALL\"]}\n\n"
        );
        assert_eq!(text(&Frame::ping()), ": keep-alive\n\n");
    }

    #[test]
    fn a_reconnect_says_when_in_the_streams_own_words_too() {
        for (after_ms, retry) in [(0, 1_000), (999, 1_000), (12_345, 12_345)] {
            let text = text(&Frame::of(&Notice::Reconnect { after_ms }));
            assert!(
                text.starts_with(&format!("event: RECONNECT\nretry: {retry}\ndata: ")),
                "{text}"
            );
        }
    }

    #[test]
    fn the_last_event_is_the_close() {
        let event = close_event(&Close::token_expired());
        let json = r#"{"type":"CLOSE","code":4401,"reason":"TOKEN_EXPIRED: fetch a new token and reconnect"}"#;
        assert_eq!(event, format!("event: CLOSE\ndata: {json}\n\n"));
    }

    #[tokio::test]
    async fn a_burst_waits_for_the_sockets_and_closes_nobody_who_reads() {
        let scene = async {
            let scene = scene(128 << 10);
            let (mut take, waker) = begin_stream(&scene).await;
            let payload = Payload::new(&format!("\"{}\"", "x".repeat(10_000)), 1 << 20).unwrap();
            let message = Message { payload, ..Message::of_a_test("m") };
            // All at once more than twice of what the outbox takes.
            let mut publishing: Vec<_> = (0..32).map(|_| scene.publish(STORM, &message)).collect();
            publishing.iter_mut().for_each(|publishing| assert!(begin(publishing).is_pending()));
            let mut taken = 0;
            while taken < publishing.len() {
                yield_now().await;
                taken += take(&waker).len();
            }
            for publishing in publishing {
                let counts = publishing.await.unwrap().counts;
                assert_eq!((counts.queued, counts.dropped), (1, 0));
            }
        };
        LocalSet::new().run_until(scene).await;
    }

    #[tokio::test]
    async fn an_event_stream_writes_a_piece_at_each_of_its_turns() {
        let scene = async {
            let scene = scene(1 << 20);
            let (mut take, waker) = begin_stream(&scene).await;
            let payload = Payload::new(&format!("\"{}\"", "x".repeat(1_000)), 1 << 20).unwrap();
            let message = Message { payload, ..Message::of_a_test("m") };
            let (mut sent, mut taken, mut turns) = (0, 0, 0);
            while sent < 100 {
                let mut publishing: Vec<_> =
                    (0..4).map(|_| scene.publish(STORM, &message)).collect();
                publishing
                    .iter_mut()
                    .for_each(|publishing| assert!(begin(publishing).is_pending()));
                for publishing in publishing {
                    assert_eq!(publishing.await.unwrap().counts.queued, 1);
                    sent += 1;
                }
            }
            while taken < sent {
                let events = take(&waker);
                assert!(take(&waker).is_empty(), "without another turn");
                let (last, others) = events.split_last().unwrap_or((&0, &[]));
                assert!(others.iter().sum::<usize>() < 32 << 10 && *last < 2_000);
                taken += events.len();
                turns += usize::from(!events.is_empty());
                yield_now().await;
            }
            assert_eq!((taken, turns), (100, 4));
        };
        LocalSet::new().run_until(scene).await;
    }
}
