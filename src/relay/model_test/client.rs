//! One client of the model: what it must see, what it sees, and the cursor that it keeps from one
//! connection to the next.

use super::naive::Person;
use crate::domain::cursor::Cursor;
use crate::relay::Registration;
use crate::relay::outbox::Next;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// What a connection must see next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// `CHANNELS`.
    Channels(Vec<String>),
    /// `MESSAGE`; one with a lane may be replaced by word of it.
    Message { number: usize, cursor: Cursor, lane: Option<String> },
}

/// A client, connected or not.
pub struct Client {
    pub person: Person,
    /// The newest that it has seen.
    pub cursor: Option<Cursor>,
    /// The model's own: up to here it has seen everything, or was told that something may be
    /// missing.
    pub whole_to: Option<Cursor>,
    pub open: Option<Open>,
}

/// A connection as the model sees it.
pub struct Open {
    pub registration: Registration,
    /// Where.
    pub node: usize,
    pub due: VecDeque<Due>,
    /// What it hears, by the rules that hold now.
    pub heard: Vec<String>,
    /// Whether its worker may have lost something that is due: it may be told to come back.
    pub may_lack: bool,
    /// By lane, messages that `DROPPED` has told and that are still in `due`.
    told: HashMap<String, u64>,
}

impl Open {
    /// A connection that has seen `CONNECTED`.
    pub fn new(registration: Registration, node: usize, heard: Vec<String>) -> Self {
        let (due, told) = (VecDeque::new(), HashMap::new());
        Self { registration, node, due, heard, may_lack: false, told }
    }

    /// The next frame; none when nothing waits or the connection has ended.
    pub fn next(&self) -> Option<Next> {
        let mut context = Context::from_waker(Waker::noop());
        match self.registration.link.outbox.poll_next(&mut context, Instant::now) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        }
    }

    /// Whether it is told to go, or was.
    pub fn is_ending(&self) -> bool {
        self.registration.link.outbox.is_ending()
    }

    /// Compares a frame with what is due; the newest cursor, if it carries one.
    fn see(&mut self, frame: &Value) -> Option<Cursor> {
        let cursor = frame["cursor"].as_str().map(|text| Cursor::parse(text).unwrap());
        match frame["type"].as_str().unwrap() {
            "CHANNELS" => {
                let channels = frame["channels"].as_array().unwrap().iter();
                let channels = channels.map(|name| name.as_str().unwrap().to_owned()).collect();
                assert_eq!(self.take_due(), Some(Due::Channels(channels)));
            }
            "MESSAGE" => {
                let seen = (frame["data"]["n"].as_u64().unwrap() as usize, cursor.unwrap());
                let Some(Due::Message { number, cursor, .. }) = self.take_due_at(seen.1) else {
                    panic!("{frame} is not due")
                };
                assert_eq!((number, cursor), seen);
            }
            "DROPPED" => {
                let lane = frame["channel"].as_str().unwrap().to_owned();
                self.skip_told_before(cursor.unwrap());
                let first =
                    self.due.front().unwrap_or_else(|| panic!("{frame}, but nothing was due"));
                assert!(
                    matches!(first, Due::Message { cursor: at, lane: Some(of), .. } if Some(*at) == cursor && *of == lane),
                    "{frame}, but {first:?} is due"
                );
                *self.told.entry(lane).or_default() += frame["count"].as_u64().unwrap();
            }
            other => panic!("{other} is never due"),
        }
        cursor
    }

    fn take_due(&mut self) -> Option<Due> {
        while self.skip_told() {}
        self.due.pop_front()
    }

    /// What is due up to this place must have been told as dropped.
    fn take_due_at(&mut self, cursor: Cursor) -> Option<Due> {
        self.skip_told_before(cursor);
        self.due.pop_front()
    }

    fn skip_told_before(&mut self, cursor: Cursor) {
        while matches!(self.due.front(), Some(Due::Message { cursor: at, .. }) if at.position < cursor.position)
        {
            assert!(self.skip_told(), "{:?} was skipped in silence", self.due.front());
        }
    }

    /// Takes what was told as dropped off the front of what is due.
    fn skip_told(&mut self) -> bool {
        let Some(Due::Message { lane: Some(lane), .. }) = self.due.front() else { return false };
        let Some(told) = self.told.get_mut(lane).filter(|told| **told > 0) else { return false };
        *told -= 1;
        self.due.pop_front();
        true
    }
}

impl Client {
    /// Reads at most so many frames, and hangs up once it was told to go. `is_delivered` is whether
    /// its worker has nothing left to do.
    pub fn read(&mut self, most: usize, is_delivered: bool) {
        for _ in 0..most {
            let Some(open) = &mut self.open else { return };
            match open.next() {
                Some(Next::Frame(frame)) => {
                    let frame = serde_json::from_slice(frame.json()).unwrap();
                    let cursor = open.see(&frame);
                    (self.cursor, self.whole_to) =
                        (cursor.or(self.cursor), cursor.or(self.whole_to));
                }
                Some(Next::Close(close)) => {
                    assert!(close.code == 4420 || close.code == 1012 && open.may_lack, "{close:?}");
                    self.open = None;
                }
                None if !is_delivered => return,
                None => {
                    while open.skip_told() {}
                    assert_eq!(open.due, [], "nothing waits any more");
                    assert!(
                        open.told.values().all(|told| *told == 0),
                        "more was told than was dropped"
                    );
                    return;
                }
            }
        }
    }
}
