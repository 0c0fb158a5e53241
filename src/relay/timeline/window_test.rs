//! The window against a naive one that forgets nothing and computes from all messages what must
//! still be there.

use super::passing::Passing;
use super::window::{Hearing, Loss, Window, Workers, replay};
use crate::domain::audience::Audience;
use crate::domain::cursor::Cursor;
use crate::domain::message::{Exclusion, Message, Payload, Reach};
use crate::domain::principal::{GroupId, UserId};
use crate::relay::frame::Frame;
use crate::relay::sealed::Sealed;
use crate::relay::settings::HistoryBounds;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const BOUNDS: HistoryBounds = HistoryBounds {
    window: Duration::from_secs(20),
    messages: 5,
    bytes: 1_400,
    total_bytes: 1 << 20,
    replay_messages: 9,
    replay_bytes: 2_300,
};
const GROUPS: [&str; 4] = ["a", "b", "c", "d"];
const USERS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone, Debug)]
enum Step {
    Publish(Draft),
    /// Positions of other instances pass.
    Skip(u64),
    Wait(u64),
    Resume {
        back: u64,
        audiences: Vec<usize>,
        user: usize,
    },
    Evict,
    Restart,
}

#[derive(Clone, Debug)]
struct Draft {
    audiences: Vec<usize>,
    without: Vec<usize>,
    ttl: u64,
    padding: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || {
        prop::collection::btree_set(0..GROUPS.len(), 1..3)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>())
    };
    let without = prop::collection::vec(0..USERS.len(), 0..2);
    let ttl = prop_oneof![2 => Just(20u64), 1 => 0u64..20];
    prop_oneof![
        8 => (some(), without, ttl, 0usize..200)
            .prop_map(|(audiences, without, ttl, padding)| {
                Step::Publish(Draft { audiences, without, ttl, padding })
            }),
        2 => (1u64..5).prop_map(Step::Skip),
        3 => (0u64..12).prop_map(Step::Wait),
        8 => (0u64..12, prop::collection::btree_set(0..GROUPS.len(), 0..4), 0..USERS.len())
            .prop_map(|(back, audiences, user)| Step::Resume { back, audiences: audiences.into_iter().collect(), user }),
        1 => Just(Step::Evict),
        1 => Just(Step::Restart),
    ]
}

/// What the model remembers of a message, for ever.
struct Sent {
    position: u64,
    frame: Frame,
    audiences: Vec<usize>,
    without: Vec<usize>,
    at: u64,
    ttl: u64,
}

struct World {
    window: Window,
    sent: Vec<Sent>,
    /// The newest position.
    position: u64,
    start: Instant,
    now: u64,
    /// Messages up to here were given up for the process's bound: whether they are there is not the
    /// model's to say.
    evicted_to: u64,
    total: Arc<AtomicUsize>,
}

fn group(index: usize) -> Audience {
    Audience::Group(GroupId::new(GROUPS[index]).unwrap())
}

fn reach(audiences: Vec<Audience>, users: Vec<UserId>) -> Arc<Reach> {
    let exclude = Exclusion { users, ..Exclusion::default() };
    Arc::new(Reach { audiences: audiences.into(), exclude, filter: None })
}

fn user(index: usize) -> UserId {
    UserId::new(USERS[index]).unwrap()
}

/// A message that a window can keep.
fn message(
    position: u64,
    reach: Arc<Reach>,
    padding: usize,
    (ttl, expires): (Option<Duration>, Option<Instant>),
) -> Frame {
    let payload = Payload::new(&format!("\"{}\"", "x".repeat(padding)), 1_000).unwrap();
    let message = Message { reach, payload, ttl, ..Message::of_a_test(&position.to_string()) };
    Sealed::new(message, None).place(Cursor { epoch: 1, position }, expires, 0).1
}

impl World {
    fn new() -> Self {
        let total = Arc::new(AtomicUsize::new(0));
        let window = Window::new(BOUNDS, 0, total.clone());
        let (start, sent) = (Instant::now(), vec![]);
        Self { window, sent, position: 0, start, now: 0, evicted_to: 0, total }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Publish(draft) => self.publish(draft),
            Step::Skip(positions) => self.position += positions,
            Step::Wait(seconds) => self.now += seconds,
            Step::Resume { back, audiences, user } => self.resume(back, &audiences, user),
            Step::Evict => {
                self.window.evict();
                self.evicted_to = self.position;
            }
            Step::Restart => self.restart(),
        }
        assert_eq!(self.total.load(Relaxed), self.window.bytes());
    }

    fn publish(&mut self, draft: Draft) {
        let Draft { audiences, without, ttl, padding } = draft;
        self.position += 1;
        let groups: Vec<Audience> = audiences.iter().copied().map(group).collect();
        let users: Vec<UserId> = without.iter().copied().map(user).collect();
        let expires = (ttl > 0).then(|| self.at(self.now + ttl));
        let ttl_of = (ttl == 0).then_some(Duration::ZERO);
        let frame = message(self.position, reach(groups, users), padding, (ttl_of, expires));
        self.window.push(&frame, Workers::KeepUp, self.at(self.now + 20), self.at(self.now));
        let (position, at) = (self.position, self.now);
        self.sent.push(Sent { position, frame, audiences, without, at, ttl });
    }

    /// The window in another process: the same memory, taken up where it was left.
    fn restart(&mut self) {
        let exported = self.window.export();
        self.window = Window::new(BOUNDS, 0, self.total.clone());
        self.window.import(self.position, exported, self.at(self.now));
    }

    fn resume(&mut self, back: u64, audiences: &[usize], who: usize) {
        let position = self.position.saturating_sub(back);
        let groups: Vec<Audience> = audiences.iter().copied().map(group).collect();
        let who_hears = Hearing { own: &groups, shared: &[], user: &user(who) };
        let now = self.at(self.now);
        let found = self.window.since(position, who_hears, now);
        let found = found.and_then(|missed| {
            replay(missed, BOUNDS, &mut Passing::default(), |_| {
                unreachable!("nothing has a filter")
            })
        });
        let lost = audiences.iter().any(|audience| self.trimmed_to(*audience) > position);
        let missed: Vec<&Sent> = self
            .sent
            .iter()
            .filter(|sent| {
                sent.position > position && sent.at + sent.ttl > self.now && sent.ttl > 0
            })
            .filter(|sent| sent.audiences.iter().any(|audience| audiences.contains(audience)))
            .filter(|sent| !sent.without.contains(&who))
            .collect();
        let bytes: usize = missed.iter().map(|sent| sent.frame.wire_bytes()).sum();
        let too_much = missed.len() > BOUNDS.replay_messages || bytes > BOUNDS.replay_bytes;
        match found {
            Ok(frames) => {
                assert!(!lost, "a partial replay is called whole");
                assert_eq!(
                    frames,
                    missed.iter().map(|sent| sent.frame.clone()).collect::<Vec<_>>()
                );
            }
            Err(Loss::TooOld) => assert!(lost || position < self.evicted_to, "nothing was lost"),
            Err(Loss::TooMuch) => assert!(too_much),
            Err(Loss::Epoch) => panic!("the window knows no epochs"),
        }
    }

    /// The newest message of an audience that its bounds no longer hold.
    fn trimmed_to(&self, audience: usize) -> u64 {
        let (mut messages, mut bytes) = (0, 0);
        for sent in
            self.sent.iter().rev().filter(|sent| sent.ttl > 0 && sent.audiences.contains(&audience))
        {
            (messages, bytes) = (messages + 1, bytes + sent.frame.wire_bytes());
            if messages > BOUNDS.messages || bytes > BOUNDS.bytes || sent.at + 20 <= self.now {
                return sent.position;
            }
        }
        0
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_is_exactly_what_was_missed_or_a_loss_is_told(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.apply(step));
        world.now += 21;
        let end = world.at(world.now);
        world.window.trim(end);
        prop_assert_eq!(world.window.bytes(), 0);
        drop(world.window);
        prop_assert_eq!(world.total.load(Relaxed), 0);
    }
}

#[test]
fn audiences_that_fell_silent_are_forgotten_by_halves_and_said_to_be() {
    let mut window = Window::new(HistoryBounds::WIDE, 0, Arc::default());
    let start = Instant::now();
    let users: Vec<UserId> =
        (0..20_000).map(|number| UserId::new(number.to_string()).unwrap()).collect();
    for (index, user) in users.iter().enumerate() {
        let until = start + Duration::from_secs(1);
        let reach = reach(vec![Audience::User(user.clone())], vec![]);
        let frame = message(index as u64 + 1, reach, 0, (None, Some(until)));
        window.push(&frame, Workers::KeepUp, until, start);
    }
    let later = start + Duration::from_secs(2);
    let mut since = |position, user: &UserId| {
        let who = Hearing { own: &[Audience::User(user.clone())], shared: &[], user };
        window.since(position, who, later).map(|missed| missed.len())
    };
    let stranger = UserId::new("stranger").unwrap();
    assert_eq!(since(9_000, &stranger), Err(Loss::TooOld));
    assert_eq!(since(19_999, &stranger), Ok(0));
    assert_eq!(since(19_998, &users[19_999]), Err(Loss::TooOld));
    assert_eq!(since(20_000, &users[19_999]), Ok(0));
}

#[test]
fn lag_counts_messages_and_not_positions_and_is_at_least_what_is_kept() {
    let mut window = Window::new(HistoryBounds::WIDE, 0, Arc::default());
    let start = Instant::now();
    let until = start + Duration::from_secs(1);
    for position in [10, 20, 30, 40] {
        let frame = message(position, reach(vec![Audience::All], vec![]), 0, (None, Some(until)));
        window.push(&frame, Workers::KeepUp, until, start);
    }
    for (after, to, lag) in [(10, 40, 3), (15, 40, 3), (40, 40, 0), (0, 25, 2), (30, 20, 0)] {
        assert_eq!(window.numbers_between(after, to), lag, "{after} to {to}");
    }
    window.trim(until);
    assert_eq!(window.numbers_between(10, 40), 0, "at least");
}

#[test]
fn without_history_everyone_who_resumes_is_told_of_the_loss_also_while_a_worker_is_behind() {
    for workers in [Workers::KeepUp, Workers::AreBehind] {
        let bounds = HistoryBounds { messages: 0, ..HistoryBounds::WIDE };
        let mut window = Window::new(bounds, 0, Arc::default());
        let (start, who) = (Instant::now(), user(0));
        let frame = message(7, reach(vec![Audience::All], vec![]), 0, (None, None));
        window.push(&frame, workers, start + Duration::from_secs(1), start);
        let hearing = Hearing { own: &[Audience::All], shared: &[], user: &who };
        assert_eq!(window.since(6, hearing, start), Err(Loss::TooOld));
        assert_eq!(window.since(7, hearing, start), Ok(vec![]));
        let lacking: Vec<u64> = window.behind(6).unwrap().map(|(position, _)| position).collect();
        assert_eq!(lacking, if workers == Workers::KeepUp { vec![] } else { vec![7] });
    }
}
