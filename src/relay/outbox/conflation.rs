//! What waits for one socket under the `latest` policy: of each channel the newest message, and
//! word of those before it.

use crate::domain::audience::Audience;
use crate::domain::channel::ChannelName;
use crate::domain::cursor::Cursor;
use crate::relay::frame::{Frame, Notice};
use crate::relay::progress::Step;
use std::collections::VecDeque;
use std::time::Instant;

/// The messages of one outbox of which a newer one of the same channel takes the place of one that
/// still waits; places are counted with its other frames.
#[derive(Debug, Default)]
pub(crate) struct Conflation {
    /// By place. Of a channel, at most one `Dropped`, and its frames behind it.
    items: VecDeque<Item>,
    /// Sum of the lengths of the frames on the wire.
    bytes: usize,
}

#[derive(Debug)]
struct Item {
    place: u64,
    channel: ChannelName,
    /// Of the message, or of the first that was replaced.
    cursor: Cursor,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Waits since then.
    Message { frame: Frame, since: Instant },
    /// Stands where the first of so many messages would have been written: what was replaced is
    /// told before anything behind it, so that no cursor that the client keeps passes over it in
    /// silence.
    Dropped { count: u64 },
}

impl Conflation {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The place of what is to be written first.
    pub fn first(&self) -> Option<u64> {
        self.items.front().map(|item| item.place)
    }

    /// Bytes that replacing a channel's older messages would free.
    pub fn replaceable(&self, channel: &ChannelName, before: Instant) -> usize {
        let waiting = self.items.iter().filter(|item| item.channel == *channel);
        waiting.map(|item| if item.is_older_than(before) { item.bytes() } else { 0 }).sum()
    }

    /// Queues a message. What waits of its channel since before `now` has had its turn and was not
    /// taken: the message takes its place. What came at the same instant stays, so that a burst
    /// reaches those who keep up. Returns the positions of those that were replaced.
    pub fn push(
        &mut self,
        place: u64,
        (channel, cursor): (&ChannelName, Cursor),
        frame: &Frame,
        now: Instant,
    ) -> Vec<u64> {
        let replaced = self.replace(channel, now);
        self.bytes += frame.wire_bytes();
        let content = Content::Message { frame: frame.clone(), since: now };
        self.items.push_back(Item { place, channel: channel.clone(), cursor, content });
        replaced
    }

    /// What is to be written first.
    pub fn pop(&mut self) -> Option<Frame> {
        let Item { channel, cursor, content, .. } = self.items.pop_front()?;
        Some(match content {
            Content::Message { frame, .. } => {
                self.bytes -= frame.wire_bytes();
                frame
            }
            Content::Dropped { count } => Frame::of(&Notice::Dropped {
                channel: Audience::Channel(channel).name(),
                count,
                cursor: cursor.to_text(),
            }),
        })
    }

    /// The messages that wait.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.items.iter().filter_map(|item| match &item.content {
            Content::Message { frame, .. } => Some(frame),
            Content::Dropped { .. } => None,
        })
    }

    fn replace(&mut self, channel: &ChannelName, before: Instant) -> Vec<u64> {
        let (mut replaced, mut freed, mut told) = (Vec::new(), 0, None);
        let mut index = 0;
        self.items.retain_mut(|item| {
            if item.channel == *channel {
                if matches!(item.content, Content::Dropped { .. }) {
                    told = Some(index);
                } else if item.is_older_than(before) {
                    replaced.push(item.cursor.position);
                    freed += item.bytes();
                    item.count(Step::Replaced);
                    if told.is_some() {
                        return false;
                    }
                    told = Some(index);
                    item.content = Content::Dropped { count: 0 };
                }
            }
            index += 1;
            true
        });
        self.bytes -= freed;
        if let Some(Content::Dropped { count }) =
            told.and_then(|at| self.items.get_mut(at)).map(|item| &mut item.content)
        {
            *count += replaced.len() as u64;
        }
        replaced
    }
}

impl Item {
    fn is_older_than(&self, instant: Instant) -> bool {
        matches!(self.content, Content::Message { since, .. } if since < instant)
    }

    fn count(&self, step: Step) {
        if let Content::Message { frame, .. } = &self.content {
            frame.count(step);
        }
    }

    fn bytes(&self) -> usize {
        match &self.content {
            Content::Message { frame, .. } => frame.wire_bytes(),
            Content::Dropped { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn name(channel: &str) -> ChannelName {
        ChannelName::new(channel).unwrap()
    }

    fn cursor(position: u64) -> Cursor {
        Cursor { epoch: 1, position }
    }

    fn text(frame: Option<Frame>) -> String {
        frame.map(|frame| String::from_utf8(frame.json().to_vec()).unwrap()).unwrap_or_default()
    }

    fn message(position: u64) -> Frame {
        Frame::of_json(position.to_string().as_bytes())
    }

    #[test]
    fn a_newer_message_takes_the_place_of_those_that_had_their_turn_and_they_are_told_where_they_stood()
     {
        let (mut conflation, start) = (Conflation::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (place, channel, seconds, replaced) in [
            (1, "a", 0, &[][..]),
            (2, "b", 0, &[]),
            (3, "a", 1, &[1]),
            (4, "a", 1, &[]),
            (5, "a", 2, &[3, 4]),
            (6, "b", 2, &[2]),
        ] {
            assert_eq!(
                conflation.push(
                    place,
                    (&name(channel), cursor(place)),
                    &message(place),
                    at(seconds)
                ),
                replaced,
                "{place}"
            );
        }
        assert_eq!(conflation.bytes(), message(5).wire_bytes() + message(6).wire_bytes());
        let dropped = |channel: &str, count: u64, position| {
            let cursor = cursor(position).to_text();
            format!(
                r#"{{"type":"DROPPED","channel":"channel:{channel}","count":{count},"cursor":"{cursor}"}}"#
            )
        };
        for (place, expected) in
            [(1, dropped("a", 3, 1)), (2, dropped("b", 1, 2)), (5, "5".into()), (6, "6".into())]
        {
            assert_eq!((conflation.first(), text(conflation.pop())), (Some(place), expected));
        }
        assert!(conflation.is_empty() && conflation.bytes() == 0 && conflation.pop().is_none());
    }

    #[test]
    fn what_is_replaced_makes_room() {
        let (mut conflation, start) = (Conflation::default(), Instant::now());
        conflation.push(1, (&name("a"), cursor(1)), &message(1), start);
        let later = start + Duration::from_secs(1);
        assert_eq!(conflation.replaceable(&name("a"), start), 0);
        assert_eq!(conflation.replaceable(&name("a"), later), message(1).wire_bytes());
        assert_eq!(conflation.replaceable(&name("b"), later), 0);
    }
}
