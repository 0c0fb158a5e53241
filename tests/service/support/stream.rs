//! A client of server-sent events that waits for each with a deadline.

use super::{App, Token, token, within};
use serde_json::Value;
use std::time::Duration;

/// An open stream.
pub struct Stream {
    response: reqwest::Response,
    /// What came and was not yet looked at.
    text: Vec<u8>,
    /// The first frame, `CONNECTED`.
    pub connected: Event,
    /// The answer's headers.
    pub headers: reqwest::header::HeaderMap,
}

/// One block of lines; a field that is not there is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `id:`
    pub id: String,
    /// `event:`
    pub name: String,
    /// `data:`
    pub data: String,
    /// `retry:`
    pub retry: String,
    /// What stands behind a colon at a line's beginning.
    pub comment: String,
}

impl Event {
    fn parse(block: &str) -> Self {
        let mut event = Self::default();
        for line in block.lines() {
            let (field, value) =
                line.split_once(": ").unwrap_or_else(|| panic!("what line is this? {line:?}"));
            let place = match field {
                "" => &mut event.comment,
                "id" => &mut event.id,
                "event" => &mut event.name,
                "data" => &mut event.data,
                "retry" => &mut event.retry,
                other => panic!("a field {other:?} in {block:?}"),
            };
            assert!(place.is_empty(), "{field} stands twice in {block:?}");
            *place = value.to_owned();
        }
        event
    }

    /// The frame.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl App {
    /// A request for a stream of instance `main`.
    pub fn stream_request(&self, token: &Token, query: &str) -> reqwest::RequestBuilder {
        let path = format!("/v1/stream?authorization={}&instance=main{query}", token.sign());
        self.request("GET", &path).timeout(Duration::from_secs(300))
    }

    /// Opens a stream and waits for `CONNECTED`.
    pub async fn stream(&self, user: &str) -> Stream {
        Stream::open(self.stream_request(&token(user), "")).await
    }
}

impl Stream {
    /// Sends the request, expects 200, and waits for `CONNECTED`.
    pub async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = within("the stream", request.send()).await.expect("the server answers");
        let (status, headers) = (response.status(), response.headers().clone());
        if status != 200 {
            panic!("refused: {status} {}", response.text().await.unwrap_or_default());
        }
        let mut stream = Self { response, text: Vec::new(), connected: Event::default(), headers };
        let opening = stream.block().await.expect("the stream begins");
        assert_eq!(opening, Event { retry: "2000".into(), ..Event::default() });
        stream.connected = stream.event().await;
        assert_eq!(stream.connected.name, "CONNECTED");
        stream
    }

    /// The next block, comments too; none at the stream's end.
    pub async fn block(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let rest = self.text.split_off(end + 2);
                let block = std::mem::replace(&mut self.text, rest);
                return Some(Event::parse(
                    std::str::from_utf8(&block[..end]).expect("events are UTF-8"),
                ));
            }
            match within("an event", self.response.chunk()).await {
                Ok(Some(chunk)) => self.text.extend_from_slice(&chunk),
                Ok(None) => {
                    assert!(self.text.is_empty(), "the stream ends within an event");
                    return None;
                }
                Err(error) => panic!("the stream broke: {error}"),
            }
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        loop {
            let event = self.block().await.expect("the stream goes on");
            if event.comment.is_empty() {
                return event;
            }
        }
    }

    /// The next event, which must be a message; its `data`.
    pub async fn data(&mut self) -> Value {
        let event = self.event().await;
        let mut frame = event.json();
        assert_eq!(
            (event.name.as_str(), &frame["type"]),
            ("", &Value::from("MESSAGE")),
            "{event:?}"
        );
        assert_eq!(frame["cursor"], event.id);
        frame["data"].take()
    }

    /// Waits for the last event, past whatever comes before it, and for the end: its code and its
    /// reason.
    pub async fn closed(&mut self) -> (u64, String) {
        loop {
            let event = self.event().await;
            if event.name == "CLOSE" {
                assert_eq!(self.block().await, None, "nothing comes after CLOSE");
                let frame = event.json();
                assert_eq!(frame["type"], "CLOSE");
                return (
                    frame["code"].as_u64().expect("a code"),
                    frame["reason"].as_str().unwrap_or("").to_owned(),
                );
            }
        }
    }
}
