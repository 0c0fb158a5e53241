//! The whole relay against a naive model: random people, channels, rules, messages, stalls, losses
//! and restarts.

mod client;
mod naive;
mod world;

use crate::domain::audience::Address;
use crate::domain::channel::Slow;
use crate::domain::expression::{Expression, Scope};
use crate::domain::principal::{GroupId, UserId};
use crate::domain::rule::{Effect, Rule, Subject};
use client::Client;
use naive::{CHANNELS, EXPRESSIONS, INSTANCES, Person, State, WORDS};
use proptest::prelude::*;
pub use world::SETTINGS;
use world::{Draft, World};

/// Shortest run.
const STEPS: usize = 100;
/// Runs; together at least 100,000 steps.
const RUNS: u32 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    /// Nothing: what a step shrinks to.
    Rest,
    /// Someone new connects.
    Join(Person),
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
    Resume(usize),
    Configure {
        instance: usize,
        channel: usize,
        state: Option<State>,
    },
    Publish(Draft),
    Stall,
    Trim {
        instance: usize,
        all: bool,
    },
    Restart {
        graceful: bool,
    },
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
    let filter = prop::option::weighted(0.3, 0..EXPRESSIONS.len());
    let live_only = prop::bool::weighted(0.1);
    (0..INSTANCES.len(), address(), without, filter, live_only, 0usize..400).prop_map(
        |(instance, address, without, filter, live_only, padding)| Draft {
            instance,
            address,
            without,
            filter,
            live_only,
            padding,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let (instance, client) = (0..INSTANCES.len(), 0usize..100);
    prop_oneof![
        1 => Just(Step::Rest),
        5 => person().prop_map(Step::Join),
        14 => (client.clone(), 1usize..12).prop_map(|(client, frames)| Step::Read { client, frames }),
        3 => (client.clone(), groups(), level())
            .prop_map(|(client, groups, level)| Step::Renew { client, groups, level }),
        5 => client.clone().prop_map(Step::Break),
        10 => client.prop_map(Step::Resume),
        5 => (instance.clone(), 0..CHANNELS.len(), prop::option::weighted(0.9, state()))
            .prop_map(|(instance, channel, state)| Step::Configure { instance, channel, state }),
        36 => draft().prop_map(Step::Publish),
        1 => Just(Step::Stall),
        1 => (instance, prop::bool::ANY).prop_map(|(instance, all)| Step::Trim { instance, all }),
        1 => prop::bool::weighted(0.7).prop_map(|graceful| Step::Restart { graceful }),
    ]
}

async fn take(world: &mut World, step: Step) {
    let which = |client: usize| client.checked_rem(world.clients.len());
    match step {
        Step::Rest => {}
        Step::Join(person) => {
            world.clients.push(Client { person, cursor: None, whole_to: None, open: None });
            world.connect(world.clients.len() - 1);
        }
        Step::Read { client, frames } => {
            if let Some(which) = which(client) {
                world.clients[which].read(frames);
            }
        }
        Step::Renew { client, groups, level } => {
            if let Some(which) = which(client) {
                world.renew(which, groups, level);
            }
        }
        Step::Break(client) => {
            if let Some(which) = which(client) {
                world.clients[which].open = None;
            }
        }
        Step::Resume(client) => {
            if let Some(which) = which(client) {
                world.connect(which);
            }
        }
        Step::Configure { instance, channel, state } => {
            world.configure(instance, CHANNELS[channel], state).await
        }
        Step::Publish(draft) => world.publish(draft).await,
        Step::Stall => world.stall(),
        Step::Trim { instance, all } => world.trim(instance, all),
        Step::Restart { graceful } => world.restart(graceful),
    }
}

fn run(steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let workers = tokio::task::LocalSet::new();
    workers.block_on(&runtime, async {
        let mut world = World::new();
        for step in steps {
            take(&mut world, step).await;
        }
        world.end();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: RUNS, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everyone_sees_what_is_due_in_order_and_once_or_is_told_of_the_loss(
        steps in prop::collection::vec(step(), STEPS..=STEPS + 50)
    ) {
        run(steps);
    }
}
