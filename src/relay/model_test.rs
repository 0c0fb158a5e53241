//! The whole relay against a naive model: random people, channels, rules, messages, stalls, losses
//! and restarts; one relay, and several over one log.

mod client;
mod history;
mod naive;
mod node;
mod publishing;
mod shared_log;
mod world;

use crate::domain::audience::Address;
use crate::domain::channel::Slow;
use crate::domain::expression::{Expression, Scope};
use crate::domain::principal::{GroupId, UserId};
use crate::domain::rule::{Effect, Rule, Subject};
use crate::relay::SLICE;
use history::Draft;
use naive::{CHANNELS, EXPRESSIONS, INSTANCES, Person, State, WORDS};
use proptest::prelude::*;
use std::time::Duration;
pub use world::SETTINGS;
use world::{Terms, World};

/// Shortest run.
const STEPS: usize = 100;
/// Runs of one relay, and of several; each together at least 100,000 steps.
const RUNS: u32 = 1_000;

/// Most relays over one log.
const RELAYS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Nothing: what a step shrinks to.
    Rest,
    /// Someone new connects.
    Join {
        node: usize,
        person: Person,
    },
    /// A client reads some of what waits; who does not is slow.
    Read {
        client: usize,
        frames: usize,
    },
    /// A client gets a new token: other groups, another level.
    Renew {
        client: usize,
        groups: Vec<&'static str>,
        level: Option<i64>,
    },
    /// A connection breaks, and what was on its way is lost.
    Break(usize),
    /// A client connects again, with its newest cursor.
    Resume {
        node: usize,
        client: usize,
    },
    Configure {
        instance: usize,
        channel: usize,
        state: Option<State>,
    },
    Publish {
        node: usize,
        draft: Draft,
    },
    /// Messages of one instance, one behind the other.
    PublishRun {
        node: usize,
        instance: usize,
        drafts: Vec<Draft>,
    },
    /// A message is published with an id that was used: by the same request or by another one.
    PublishAgain {
        node: usize,
        instance: usize,
        which: usize,
        is_same: bool,
    },
    Stall,
    Trim {
        node: usize,
        instance: usize,
        all: bool,
    },
    /// The only relay stops, and another one takes its place.
    Restart {
        graceful: bool,
    },
    /// A relay follows the log.
    Take {
        node: usize,
        most: u64,
    },
    /// The workers do a piece of what they have to do.
    Turn,
    /// A relay follows no more, or goes on.
    Stop {
        node: usize,
        is_stopped: bool,
    },
    /// A relay is killed, and another one takes its place.
    StartAnew(usize),
}

fn rule() -> impl Strategy<Value = Rule> {
    let subject = prop_oneof![
        1 => (0..WORDS.len()).prop_map(|user| Subject::User(UserId::new(WORDS[user]).unwrap())),
        1 => (0..WORDS.len()).prop_map(|group| Subject::Group(GroupId::new(WORDS[group]).unwrap())),
        2 => (0..EXPRESSIONS.len()).prop_map(|which| {
            Subject::When(Expression::parse(EXPRESSIONS[which].0, Scope::Hear).unwrap())
        }),
        2 => Just(Subject::Everyone),
    ];
    (prop::bool::weighted(0.8), subject).prop_map(|(allow, subject)| Rule {
        effect: if allow { Effect::Allow } else { Effect::Deny },
        subject,
    })
}

fn address() -> impl Strategy<Value = String> {
    let words = WORDS.iter().chain(&CHANNELS);
    let mut all: Vec<String> = words
        .flat_map(|word| {
            [
                word.to_string(),
                format!("user:{word}"),
                format!("group:{word}"),
                format!("channel:{word}"),
            ]
        })
        .chain(["ALL".to_string()])
        .collect();
    all.retain(|text| Address::parse(text).is_ok());
    // Half of all goes to the few addresses that many hear, so that windows and outboxes fill.
    let common = ["ALL", "channel:a", "channel:b", "a"].map(String::from);
    prop_oneof![prop::sample::select(all), prop::sample::select(common.to_vec())]
}

fn groups() -> impl Strategy<Value = Vec<&'static str>> {
    let groups = prop::collection::btree_set(prop::sample::select(WORDS.to_vec()), 0..3);
    groups.prop_map(|groups| groups.into_iter().collect())
}

fn level() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(0i64..4)
}

fn person() -> impl Strategy<Value = Person> {
    let narrowing = prop::option::weighted(0.3, prop::collection::vec(address(), 0..3));
    (0..INSTANCES.len(), prop::sample::select(WORDS.to_vec()), groups(), level(), narrowing)
        .prop_map(|(instance, user, groups, level, narrowing)| Person {
            instance,
            user,
            groups,
            level,
            narrowing,
        })
}

fn state() -> impl Strategy<Value = State> {
    let slow = prop::sample::select(vec![Slow::Disconnect, Slow::Latest]);
    (prop::bool::weighted(0.9), prop::collection::vec(rule(), 0..3), slow)
        .prop_map(|(enabled, rules, slow)| State { enabled, rules, slow })
}

fn draft() -> impl Strategy<Value = Draft> {
    let without = prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..2);
    let spared = prop::option::weighted(0.1, 0usize..100);
    let filter = prop::option::weighted(0.3, 0..EXPRESSIONS.len());
    let said = [0.1, 0.3, 0.7].map(prop::bool::weighted);
    (0..INSTANCES.len(), address(), without, spared, filter, said, 0usize..400).prop_map(
        |(instance, address, without, spared, filter, said, padding)| {
            let [live_only, has_own_id, is_hurried] = said;
            Draft {
                instance,
                address,
                without,
                spared,
                filter,
                live_only,
                has_own_id,
                is_hurried,
                padding,
            }
        },
    )
}

/// What may happen to any number of relays.
fn step() -> impl Strategy<Value = Step> {
    let (node, instance, client) = (0..RELAYS, 0..INSTANCES.len(), 0usize..100);
    // Most is published on the first relay, so that the others have to follow.
    let publishing = prop_oneof![2 => Just(0), 1 => node.clone()];
    prop_oneof![
        1 => Just(Step::Rest),
        5 => (node.clone(), person()).prop_map(|(node, person)| Step::Join { node, person }),
        14 => (client.clone(), 1usize..12)
            .prop_map(|(client, frames)| Step::Read { client, frames }),
        3 => (client.clone(), groups(), level())
            .prop_map(|(client, groups, level)| Step::Renew { client, groups, level }),
        5 => client.clone().prop_map(Step::Break),
        10 => (node.clone(), client).prop_map(|(node, client)| Step::Resume { node, client }),
        5 => (instance.clone(), 0..CHANNELS.len(), prop::option::weighted(0.9, state()))
            .prop_map(|(instance, channel, state)| Step::Configure { instance, channel, state }),
        36 => (publishing, draft()).prop_map(|(node, draft)| Step::Publish { node, draft }),
        3 => (node.clone(), instance.clone(), prop::collection::vec(draft(), 2..24))
            .prop_map(|(node, instance, drafts)| Step::PublishRun { node, instance, drafts }),
        3 => (node.clone(), instance.clone(), 0usize..100, prop::bool::weighted(0.7)).prop_map(
            |(node, instance, which, is_same)| {
                Step::PublishAgain { node, instance, which, is_same }
            }
        ),
        1 => Just(Step::Stall),
        1 => (node, instance, prop::bool::ANY)
            .prop_map(|(node, instance, all)| Step::Trim { node, instance, all }),
    ]
}

fn step_of_one() -> impl Strategy<Value = Step> {
    prop_oneof![
        87 => step(),
        1 => prop::bool::weighted(0.7).prop_map(|graceful| Step::Restart { graceful }),
    ]
}

fn step_of_several() -> impl Strategy<Value = Step> {
    prop_oneof![
        87 => step(),
        20 => (0..RELAYS, prop_oneof![1u64..8, 1u64..40]).prop_map(|(node, most)| Step::Take { node, most }),
        5 => (0..RELAYS, prop::bool::weighted(0.4))
            .prop_map(|(node, is_stopped)| Step::Stop { node, is_stopped }),
        4 => Just(Step::Turn),
        3 => (0..RELAYS, 0..INSTANCES.len(), prop::bool::ANY)
            .prop_map(|(node, instance, all)| Step::Trim { node, instance, all }),
        1 => (0..RELAYS).prop_map(Step::StartAnew),
    ]
}

/// Two relays or three; queues and windows wide enough for most, and such that workers fall behind
/// or lose something.
fn several() -> impl Strategy<Value = Terms> {
    let queue = prop::sample::select(vec![SETTINGS.queue.messages, 8, 4, 4]);
    let kept = prop::sample::select(vec![SETTINGS.history.messages, 40, 2, 2]);
    (2..=RELAYS, queue, kept, prop::bool::weighted(0.7), slice()).prop_map(
        |(relays, queue, kept, are_workers_late, slice)| Terms {
            relays,
            queue,
            kept,
            are_workers_late,
            slice,
        },
    )
}

/// Turns as they are, and such that are over with one rule, filter or piece of a message.
fn slice() -> impl Strategy<Value = Duration> {
    prop::sample::select(vec![SLICE, Duration::ZERO])
}

async fn take(world: &mut World, step: Step) {
    let at = |node: usize| node % world.nodes.len();
    let which = |client: usize| client.checked_rem(world.clients.len());
    match step {
        Step::Rest => {}
        Step::Join { node, person } => world.join(at(node), person).await,
        Step::Read { client, frames } => {
            if let Some(which) = which(client) {
                world.read(which, frames);
            }
        }
        Step::Renew { client, groups, level } => {
            if let Some(which) = which(client) {
                world.renew(which, groups, level).await;
            }
        }
        Step::Break(client) => {
            if let Some(which) = which(client) {
                world.clients[which].open = None;
            }
        }
        Step::Resume { node, client } => {
            if let Some(which) = which(client) {
                world.connect(at(node), which).await;
            }
        }
        Step::Configure { instance, channel, state } => {
            world.configure(instance, CHANNELS[channel], state).await
        }
        Step::Publish { node, draft } => world.publish(at(node), draft).await,
        Step::PublishRun { node, instance, drafts } => {
            world.publish_run(at(node), instance, drafts).await
        }
        Step::PublishAgain { node, instance, which, is_same } => {
            world.publish_again(at(node), (instance, which), is_same).await
        }
        Step::Stall => world.stall().await,
        Step::Trim { node, instance, all } => world.trim(at(node), instance, all),
        Step::Restart { graceful } => world.restart(graceful),
        Step::Take { node, most } => world.take(at(node), most),
        Step::Turn => world.turn().await,
        Step::Stop { node, is_stopped } => world.stop(at(node), is_stopped),
        Step::StartAnew(node) => world.start_anew(at(node)),
    }
}

fn run(terms: Terms, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let workers = tokio::task::LocalSet::new();
    workers.block_on(&runtime, async {
        let mut world = World::new(terms);
        for step in steps {
            take(&mut world, step).await;
            if !terms.are_workers_late {
                world.settle().await;
            }
        }
        world.end().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: RUNS, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everyone_sees_what_is_due_in_order_and_once_or_is_told_of_the_loss(
        slice in slice(),
        steps in prop::collection::vec(step_of_one(), STEPS..=STEPS + 50)
    ) {
        run(Terms { slice, ..Terms::ALONE }, steps);
    }

    #[test]
    fn so_does_everyone_on_any_of_several_relays_over_one_log(
        terms in several(),
        steps in prop::collection::vec(step_of_several(), STEPS..=STEPS + 50)
    ) {
        run(terms, steps);
    }
}
