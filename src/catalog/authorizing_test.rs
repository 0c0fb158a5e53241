//! What is worked out in pieces beside what one look says.

use super::*;
use crate::domain::expression::{Expression, Scope as ExpressionScope};
use crate::domain::instance::{Instance, InstanceId};
use crate::domain::principal::{Principal, UserId};
use crate::domain::rule::{Rule, Rules};
use crate::domain::verdict::hears_channel;
use proptest::prelude::*;
use std::cell::Cell;

const EXPRESSIONS: [&str; 3] = ["user == 'a'", "claims.level > 1", "'x' in groups"];

/// The rules of a channel: which of the subjects below, and whether it allows.
type Drawn = Vec<(usize, bool)>;

fn rules(drawn: &Drawn) -> Rules {
    let rules = drawn.iter().map(|(which, allows)| Rule {
        effect: if *allows { Effect::Allow } else { Effect::Deny },
        subject: match EXPRESSIONS.get(*which) {
            Some(text) => Subject::When(Expression::parse(text, ExpressionScope::Hear).unwrap()),
            None if *which == 3 => Subject::User(UserId::new("a").unwrap()),
            None => Subject::Everyone,
        },
    });
    Rules::new(rules.collect()).unwrap()
}

fn channel(number: usize, drawn: &Drawn) -> Arc<Channel> {
    let name = format!("c{number}");
    Arc::new(Channel { rules: rules(drawn), ..Channel::of_a_test(&name) })
}

fn tenant(channels: impl IntoIterator<Item = Arc<Channel>>) -> Arc<Tenant> {
    let instance = Instance::new(InstanceId::new("demo").unwrap());
    let channels = channels.into_iter().map(|channel| (channel.name.clone(), channel)).collect();
    Arc::new(Tenant { channels, ..Tenant::new(instance) })
}

fn at_once(tenant: &Tenant, facts: &Facts<'_>, only: Option<&Narrowing>) -> Vec<Audience> {
    let who = Candidate { facts, connection: None, narrowing: only, channels: &tenant.channels };
    let lets_in =
        |channel: &&Arc<Channel>| who.wants_channel(&channel.name) && channel.lets_in(facts);
    let channels = tenant.channels.values().filter(lets_in);
    let channels = channels.map(|channel| Audience::Channel(channel.name.clone()));
    own_audiences(&who).into_iter().chain(channels).collect()
}

fn drawn() -> impl Strategy<Value = Drawn> {
    prop::collection::vec((0..EXPRESSIONS.len() + 2, prop::bool::weighted(0.8)), 0..5)
}

proptest! {
    #[test]
    fn pieces_and_changes_between_them_say_what_one_look_at_the_last_picture_says(
        first in prop::collection::vec(drawn(), 0..8),
        changes in prop::collection::vec((0usize..8, prop::option::of(drawn()), 0u32..6), 0..6),
        narrowing in prop::option::of(prop::sample::select(vec![r#"["c1","c3"]"#, r#"["ALL"]"#])),
        pieces in prop::collection::vec(0u32..4, 1..4),
    ) {
        let principal = Principal::new(UserId::new("a").unwrap(), i64::MAX);
        let facts = Facts::new(&principal, None);
        let only = narrowing.map(|text| Narrowing::parse(text).unwrap());
        let mut picture = tenant(first.iter().enumerate().map(|(at, drawn)| channel(at, drawn)));
        let mut authorizing = Authorizing::new(picture.clone());
        let mut pieces = pieces.into_iter().cycle();
        let mut go_on = |authorizing: &mut Authorizing| {
            let left = Cell::new(pieces.next().unwrap());
            let has_time = || left.replace(left.get().saturating_sub(1)) > 0;
            authorizing.go_on(&facts, only.as_ref(), None, has_time)
        };
        for (number, change, looks) in changes {
            for _ in 0..looks {
                go_on(&mut authorizing);
            }
            let name = format!("c{number}");
            let others = picture.channels.values().filter(|it| it.name.as_str() != name);
            let changed = change.map(|drawn| channel(number, &drawn));
            picture = tenant(others.cloned().chain(changed).collect::<Vec<_>>());
            authorizing.follow(&picture);
        }
        while !go_on(&mut authorizing) {}
        prop_assert!(go_on(&mut authorizing), "it is whole");
        prop_assert_eq!(authorizing.into_heard(), at_once(&picture, &facts, only.as_ref()));
    }
}

proptest! {
    #[test]
    fn changes_say_of_what_came_went_or_changed_what_one_look_says(
        first in prop::collection::vec(drawn(), 0..8),
        changes in prop::collection::vec((0usize..8, prop::option::of(drawn()), 0u32..4), 1..6),
        narrowing in prop::option::of(prop::sample::select(vec![r#"["c1","c3"]"#, r#"["ALL"]"#])),
    ) {
        let principal = Principal::new(UserId::new("a").unwrap(), i64::MAX);
        let facts = Facts::new(&principal, None);
        let only = narrowing.map(|text| Narrowing::parse(text).unwrap());
        let before = tenant(first.iter().enumerate().map(|(at, drawn)| channel(at, drawn)));
        let (mut picture, mut authorizing) = (before.clone(), None::<Authorizing>);
        for (number, change, looks) in changes {
            let name = format!("c{number}");
            let others = picture.channels.values().filter(|it| it.name.as_str() != name);
            let changed = change.map(|drawn| channel(number, &drawn));
            picture = tenant(others.cloned().chain(changed).collect::<Vec<_>>());
            let changes = Rc::new(Changes::between(&before, &picture));
            let fresh = Authorizing::of_changes(picture.clone(), changes);
            match &mut authorizing {
                None => authorizing = Some(fresh),
                Some(authorizing) => authorizing.turn_to(fresh),
            }
            for _ in 0..looks {
                let authorizing = authorizing.as_mut().unwrap();
                authorizing.go_on(&facts, only.as_ref(), None, || false);
            }
        }
        let mut authorizing = authorizing.unwrap();
        while !authorizing.go_on(&facts, only.as_ref(), None, || false) {}
        let changes = Changes::between(&before, &picture);
        let mut now = at_once(&picture, &facts, only.as_ref());
        now.retain(|audience| match audience {
            Audience::Channel(name) => changes.names().contains(name),
            _ => false,
        });
        prop_assert_eq!(authorizing.into_heard(), now);
        let names = |tenant: &Tenant| tenant.channels.keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(changes.are_names_others(), names(&before) != names(&picture));
        for (name, channel) in &picture.channels {
            let is_same = before.channels.get(name).is_some_and(|it| Arc::ptr_eq(it, channel));
            prop_assert_eq!(is_same, !changes.names().contains(name));
        }
    }
}

/// So many channels with three expressions each that are not true of anyone.
fn heavy(channels: usize) -> Vec<Arc<Channel>> {
    (0..channels).map(|number| channel(number, &vec![(1, true); 3])).collect()
}

#[test]
fn a_piece_without_time_asks_one_expression() {
    let principal = Principal::new(UserId::new("a").unwrap(), i64::MAX);
    let facts = Facts::new(&principal, None);
    let mut authorizing = Authorizing::new(tenant(heavy(4)));
    for asked in 1..=11 {
        assert!(!authorizing.go_on(&facts, None, None, || false));
        assert_eq!(facts.asked(), asked);
    }
    assert!(authorizing.go_on(&facts, None, None, || false));
    assert_eq!(facts.asked(), 12);
}

#[test]
fn a_change_asks_again_what_has_changed_and_nothing_else() {
    let principal = Principal::new(UserId::new("a").unwrap(), i64::MAX);
    let facts = Facts::new(&principal, None);
    let channels = heavy(9);
    let mut authorizing = Authorizing::new(tenant(channels.clone()));
    // Two channels and two rules of the third are asked.
    for _ in 0..8 {
        assert!(!authorizing.go_on(&facts, None, None, || false));
    }
    for round in 0..20 {
        // A channel far behind changes with each round, and the first one with one of them.
        let last = Arc::new(Channel { version: round, ..(*channels[8]).clone() });
        let first = match round {
            7 => Arc::new((*channels[0]).clone()),
            _ => authorizing.tenant().channels.values().next().unwrap().clone(),
        };
        let rest = channels[1..8].iter().cloned();
        authorizing.follow(&tenant([first, last].into_iter().chain(rest)));
        assert!(!authorizing.go_on(&facts, None, None, || false) || round == 19, "{round}");
    }
    assert_eq!(facts.asked(), 8 + 20);
    while !authorizing.go_on(&facts, None, None, || false) {}
    assert_eq!(facts.asked(), 9 * 3 + 3, "and the first one a second time");
}

#[test]
fn plain_rules_are_asked_sixty_four_at_a_time() {
    let principal = Principal::new(UserId::new("b").unwrap(), i64::MAX);
    let facts = Facts::new(&principal, None);
    let plain = (0..4).map(|number| channel(number, &vec![(3, true); 32]));
    let mut authorizing = Authorizing::new(tenant(plain));
    assert!(!authorizing.go_on(&facts, None, None, || false));
    assert_eq!(authorizing.last, Some(ChannelName::new("c1").unwrap()));
    assert!(authorizing.go_on(&facts, None, None, || false));
}

#[test]
fn what_was_heard_before_is_not_asked_again() {
    let principal = Principal::new(UserId::new("a").unwrap(), i64::MAX);
    let facts = Facts::new(&principal, None);
    let channels = heavy(3);
    let (before, changed) = (tenant(channels.clone()), heavy(1));
    let after = tenant(changed.into_iter().chain(channels[1..].iter().cloned()));
    let known = Known { tenant: &before, heard: &[Audience::Channel(channels[2].name.clone())] };
    let mut authorizing = Authorizing::new(after);
    assert!(authorizing.go_on(&facts, None, Some(known), || true));
    assert_eq!(facts.asked(), 3);
    assert!(hears_channel(&authorizing.into_heard(), &channels[2].name));
}
