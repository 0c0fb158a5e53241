//! The window against a naive one that forgets nothing and computes from all messages what must
//! still be there.

use super::entry::{Entry, Times};
use super::frame::{Frame, Notice};
use super::history::{Exported, History, HistoryBounds, Listener, Loss, replay};
use crate::domain::audience::Audience;
use crate::domain::message::{Exclusion, Reach};
use crate::domain::principal::{GroupId, UserId};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const BOUNDS: HistoryBounds = HistoryBounds {
    window: Duration::from_secs(20),
    messages: 5,
    bytes: 600,
    total_bytes: 1 << 20,
    replay_messages: 9,
    replay_bytes: 1_000,
};
const GROUPS: [&str; 4] = ["a", "b", "c", "d"];
const USERS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone, Debug)]
enum Step {
    Publish { audiences: Vec<usize>, without: Vec<usize>, ttl: u64, padding: usize },
    Wait(u64),
    Resume { back: u64, audiences: Vec<usize>, user: usize },
    Evict,
    Restart,
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
            .prop_map(|(audiences, without, ttl, padding)| Step::Publish { audiences, without, ttl, padding }),
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
    history: History,
    sent: Vec<Sent>,
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

impl World {
    fn new() -> Self {
        let total = Arc::new(AtomicUsize::new(0));
        let history = History::new(BOUNDS, 0, total.clone());
        Self { history, sent: vec![], start: Instant::now(), now: 0, evicted_to: 0, total }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Publish { audiences, without, ttl, padding } => {
                self.publish(audiences, without, ttl, padding)
            }
            Step::Wait(seconds) => self.now += seconds,
            Step::Resume { back, audiences, user } => self.resume(back, &audiences, user),
            Step::Evict => {
                self.history.evict();
                self.evicted_to = self.sent.len() as u64;
            }
            Step::Restart => self.restart(),
        }
        assert_eq!(self.total.load(Relaxed), self.history.bytes());
    }

    fn publish(&mut self, audiences: Vec<usize>, without: Vec<usize>, ttl: u64, padding: usize) {
        let position = self.sent.len() as u64 + 1;
        let frame = Frame::of(&Notice::Channels {
            channels: vec![position.to_string(), "x".repeat(padding)],
        });
        let times = Times { kept_until: self.at(self.now + 20), expires: self.at(self.now + ttl) };
        let groups: Vec<Audience> = audiences.iter().copied().map(group).collect();
        let users: Vec<UserId> = without.iter().copied().map(user).collect();
        let entry =
            (ttl > 0).then(|| Entry::new(position, frame.clone(), reach(groups, users), times));
        self.history.push(position, entry, self.at(self.now));
        self.sent.push(Sent { position, frame, audiences, without, at: self.now, ttl });
    }

    /// The window in another process: the same memory, taken up where it was left.
    fn restart(&mut self) {
        let Exported { forgotten_to, entries, trimmed } = self.history.export();
        let entries = entries.iter().map(|entry| {
            let times = Times { kept_until: entry.kept_until, expires: entry.expires };
            Entry::new(entry.position, entry.frame.clone(), entry.reach.clone(), times)
        });
        let exported = Exported { forgotten_to, entries: entries.collect(), trimmed };
        self.history = History::new(BOUNDS, 0, self.total.clone());
        self.history.import(self.sent.len() as u64, exported, self.at(self.now));
    }

    fn resume(&mut self, back: u64, audiences: &[usize], who: usize) {
        let position = (self.sent.len() as u64).saturating_sub(back);
        let groups: Vec<Audience> = audiences.iter().copied().map(group).collect();
        let listener = Listener { audiences: &groups, user: &user(who) };
        let now = self.at(self.now);
        let found = self.history.since(position, listener, now);
        let found = found
            .and_then(|missed| replay(&missed, BOUNDS, |_| unreachable!("nothing has a filter")));
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
        world.history.trim(end);
        prop_assert_eq!(world.history.bytes(), 0);
        drop(world.history);
        prop_assert_eq!(world.total.load(Relaxed), 0);
    }
}

#[test]
fn audiences_that_fell_silent_are_forgotten_by_halves_and_said_to_be() {
    let mut history = History::new(HistoryBounds::WIDE, 0, Arc::default());
    let start = Instant::now();
    let users: Vec<UserId> =
        (0..20_000).map(|number| UserId::new(number.to_string()).unwrap()).collect();
    for (index, user) in users.iter().enumerate() {
        let times = Times {
            kept_until: start + Duration::from_secs(1),
            expires: start + Duration::from_secs(1),
        };
        let frame = Frame::of(&Notice::Pong {});
        let reach = reach(vec![Audience::User(user.clone())], vec![]);
        let entry = Entry::new(index as u64 + 1, frame, reach, times);
        history.push(index as u64 + 1, Some(entry), start);
    }
    let later = start + Duration::from_secs(2);
    let mut since = |position, user: &UserId| {
        history
            .since(position, Listener { audiences: &[Audience::User(user.clone())], user }, later)
            .map(|missed| missed.len())
    };
    let stranger = UserId::new("stranger").unwrap();
    assert_eq!(since(9_000, &stranger), Err(Loss::TooOld));
    assert_eq!(since(19_999, &stranger), Ok(0));
    assert_eq!(since(19_998, &users[19_999]), Err(Loss::TooOld));
    assert_eq!(since(20_000, &users[19_999]), Ok(0));
}
