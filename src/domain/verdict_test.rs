//! The verdict against random people, rules, wishes and messages: it says what a naive reading of
//! the rules says, and agrees with the list of what someone hears.

use super::audience::{Address, Audience, Narrowing};
use super::channel::{Channel, Channels};
use super::expression::{Expression, Facts, Outcome, Scope};
use super::message::{Exclusion, Reach};
use super::names::Names;
use super::principal::{GroupId, Principal, Scope as Validity, UserId};
use super::rule::{Effect, Rule, Rules, Subject};
use super::verdict::{Candidate, Denial, Verdict, hears, own_audiences, verdict};
use proptest::prelude::*;
use std::sync::Arc;

/// Users, groups and channels share their names, as bare words need it.
const NAMES: [&str; 3] = ["a", "b", "c"];
const CONNECTIONS: [&str; 2] = ["one", "two"];
const EXPRESSIONS: [&str; 3] = ["claims.plan == 'pro'", "user == 'a'", "'b' in groups"];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn address() -> impl Strategy<Value = String> {
    let prefix = prop::sample::select(&["", "user:", "group:", "channel:"][..]);
    prop_oneof![
        1 => Just("ALL".to_owned()),
        5 => (prefix, name()).prop_map(|(prefix, name)| format!("{prefix}{name}")),
    ]
}

fn audience() -> impl Strategy<Value = Audience> {
    address().prop_map(|address| Address::parse(&address).unwrap().audiences().remove(0))
}

fn expression(scope: Scope) -> impl Strategy<Value = Expression> {
    prop::sample::select(&EXPRESSIONS[..])
        .prop_map(move |text| Expression::parse(text, scope).unwrap())
}

fn rules() -> impl Strategy<Value = Rules> {
    let effect = prop::sample::select(&[Effect::Allow, Effect::Allow, Effect::Deny][..]);
    let subject = prop_oneof![
        name().prop_map(|name| Subject::User(UserId::new(name).unwrap())),
        name().prop_map(|name| Subject::Group(GroupId::new(name).unwrap())),
        expression(Scope::Hear).prop_map(Subject::When),
        Just(Subject::Everyone),
    ];
    let rule = (effect, subject).prop_map(|(effect, subject)| Rule { effect, subject });
    prop::collection::vec(rule, 0..6).prop_map(|rules| Rules::new(rules).unwrap())
}

fn channels() -> impl Strategy<Value = Channels> {
    let channel = (prop::bool::weighted(0.8), rules());
    prop::collection::btree_map(name(), channel, 0..=NAMES.len()).prop_map(|channels| {
        let named = channels.into_iter().map(|(name, (enabled, rules))| {
            let channel = Channel { enabled, rules, ..Channel::of_a_test(name) };
            (channel.name.clone(), Arc::new(channel))
        });
        named.collect()
    })
}

fn principal() -> impl Strategy<Value = Principal> {
    let plan = prop::option::of(prop::sample::select(&["free", "pro"][..]));
    let groups = prop::sample::subsequence(&NAMES[..], 0..=NAMES.len());
    (name(), groups, plan).prop_map(|(user, groups, plan)| {
        let groups: Vec<GroupId> =
            groups.into_iter().map(|group| GroupId::new(group).unwrap()).collect();
        Principal {
            groups: Names::new(&groups).unwrap(),
            scope: Validity::Everywhere,
            claims: plan.into_iter().map(|plan| ("plan".to_owned(), plan.into())).collect(),
            ..Principal::new(UserId::new(user).unwrap(), i64::MAX)
        }
    })
}

fn reach() -> impl Strategy<Value = Reach> {
    let users = prop::sample::subsequence(&NAMES[..], 0..=1);
    let connections = prop::sample::subsequence(&CONNECTIONS[..], 0..=1);
    let audiences = prop::collection::vec(audience(), 1..=3);
    let filter = prop::option::weighted(0.3, expression(Scope::Filter));
    (audiences, users, connections, filter).prop_map(|(audiences, users, connections, filter)| {
        let users = users.into_iter().map(|user| UserId::new(user).unwrap()).collect();
        let connections = connections.into_iter().map(str::to_owned).collect();
        let exclude = Exclusion { users, connections };
        Reach { audiences: audiences.into(), exclude, filter }
    })
}

/// What `channels=` means, an address at a time.
fn is_wanted(audience: &Audience, wishes: Option<&[String]>, channels: &Channels) -> bool {
    wishes.is_none_or(|wishes| {
        wishes.iter().any(|wish| {
            let address = Address::parse(wish).unwrap();
            match address.channel_name().filter(|name| channels.contains_key(name)) {
                Some(name) => *audience == Audience::Channel(name),
                None => address.audiences().contains(audience),
            }
        })
    })
}

fn is_excluded(reach: &Reach, who: &Candidate<'_>) -> bool {
    let users = &reach.exclude.users;
    let connections = &reach.exclude.connections;
    users.contains(&who.facts.principal().user)
        || connections.iter().any(|excluded| who.connection == Some(excluded))
}

fn all_heard(who: &Candidate<'_>) -> Vec<Audience> {
    let channels = who
        .channels
        .values()
        .filter(|channel| who.wants_channel(&channel.name) && channel.lets_in(who.facts));
    let channels = channels.map(|channel| Audience::Channel(channel.name.clone()));
    own_audiences(who).into_iter().chain(channels).collect()
}

fn outcome(reach: &Reach, who: &Candidate<'_>) -> Outcome {
    reach.filter.as_ref().map_or(Outcome::True, |filter| filter.evaluate(who.facts))
}

/// Whether what a verdict gives as its reason is so.
fn is_so(verdict: &Verdict, reach: &Reach, who: &Candidate<'_>) -> bool {
    let heard = all_heard(who);
    let with_all = all_heard(&Candidate { narrowing: None, ..*who });
    let is_in = |list: &[Audience]| reach.audiences.iter().any(|one| list.contains(one));
    match verdict {
        Verdict::Hears { audience, filter } => {
            reach.audiences.contains(audience)
                && heard.contains(audience)
                && filter.is_some() == reach.filter.is_some()
        }
        Verdict::UserExcluded => reach.exclude.users.contains(&who.facts.principal().user),
        Verdict::ConnectionExcluded => is_excluded(reach, who),
        Verdict::Narrowed(audience) => {
            reach.audiences.contains(audience) && with_all.contains(audience) && !is_in(&heard)
        }
        Verdict::NotAddressed(reasons) => {
            reasons.len() == reach.audiences.len() && !is_in(&with_all)
        }
        Verdict::Denied(name, denial) => {
            reach.audiences.contains(&Audience::Channel(name.clone()))
                && !is_in(&with_all)
                && is_denied(who.channels.get(name), denial, who)
        }
        Verdict::Filtered(filter) => is_in(&heard) && filter.outcome == outcome(reach, who),
    }
}

fn is_denied(channel: Option<&Arc<Channel>>, denial: &Denial, who: &Candidate<'_>) -> bool {
    let decided = channel.map(|channel| channel.rules.decide(who.facts).rule);
    let is_enabled = channel.map(|channel| channel.enabled);
    match denial {
        Denial::Gone => channel.is_none(),
        Denial::Disabled => is_enabled == Some(false),
        Denial::Rule(rule) => is_enabled == Some(true) && decided == Some(Some(rule.index)),
        Denial::NoRule(allows) => {
            is_enabled == Some(true) && decided == Some(None) && allows.len() <= 3
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verdict_agrees_with_the_list_of_what_is_heard_the_exclusions_and_the_filter(
        principal in principal(),
        channels in channels(),
        wishes in prop::option::of(prop::collection::vec(address(), 0..4)),
        connection in prop::option::of(prop::sample::select(&CONNECTIONS[..])),
        reach in reach(),
    ) {
        let facts = Facts::new(&principal, None);
        let narrowing = wishes.as_ref().map(|wishes| Narrowing::parse(&wishes.join(",")).unwrap());
        let narrowing = narrowing.as_ref();
        let who = Candidate { facts: &facts, connection, narrowing, channels: &channels };
        let heard = all_heard(&who);
        let wanted: Vec<Audience> = all_heard(&Candidate { narrowing: None, ..who })
            .into_iter()
            .filter(|audience| is_wanted(audience, wishes.as_deref(), &channels))
            .collect();
        prop_assert_eq!(&heard, &wanted);
        for audience in &reach.audiences {
            prop_assert_eq!(hears(audience, &who), heard.contains(audience), "{}", audience);
        }
        let is_heard = reach.audiences.iter().any(|audience| heard.contains(audience))
            && !is_excluded(&reach, &who)
            && outcome(&reach, &who) == Outcome::True;
        let verdict = verdict(&reach, &who);
        prop_assert_eq!(is_heard, matches!(verdict, Verdict::Hears { .. }), "{:?}", verdict);
        prop_assert!(is_so(&verdict, &reach, &who), "{:?}", verdict);
    }
}
