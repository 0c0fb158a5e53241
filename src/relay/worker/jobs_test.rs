//! What is worked out in many turns: newcomers, new tokens, changes, acknowledgements. A turn here
//! has no time at all, and is over with the first rule or filter.

mod scene;

use super::authorize::Refusal;
use super::registration::ConnectError;
use crate::catalog::Tenant;
use crate::domain::audience::Audience;
use crate::domain::instance::{Instance, InstanceId};
use crate::domain::principal::{GroupId, KeyStanding, Principal};
use crate::domain::revocation::{Revocation, TokenId};
use crate::relay::heard::HeardSet;
use crate::relay::model_test::SETTINGS;
use crate::relay::progress::Step;
use crate::relay::settings::ConnectionBounds;
use chrono::DateTime;
use futures_util::FutureExt;
use scene::*;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

#[test]
fn a_newcomer_waits_a_turn_for_each_rule_and_a_neighbour_for_one_of_them() {
    stopped(|| {
        let scene = Scene::new(1);
        let neighbour = scene.connect(LIGHT, principal("n", &[]));
        let mut arriving = scene.arrive(HEAVY, principal("a", &["eng"]), None);
        assert!(arriving.as_mut().now_or_never().is_none());
        let mut turns = 0;
        while scene.asked() < (CHANNELS * RULES) as u64 {
            assert!(!neighbour.take_turn(), "it waits");
            let (before, mut waited) = (scene.asked(), 0);
            while !neighbour.take_turn() {
                scene.turn();
                waited += 1;
            }
            assert!(waited <= 3, "of two turns one is the neighbour's");
            assert!(scene.asked() - before <= 2, "a rule a turn");
            turns += waited;
        }
        assert!(turns >= CHANNELS * RULES, "{turns}");
        let registration = arriving.now_or_never().unwrap().unwrap();
        let connected = json(&registration.link).unwrap();
        let expected = ["ALL", "user:a", "group:eng", "channel:c0", "channel:c1", "channel:c2"];
        assert_eq!(connected["channels"], serde_json::json!(expected));
        assert_eq!(scene.asked(), (CHANNELS * RULES) as u64, "each rule once");
    });
}

#[test]
fn so_many_of_an_instance_wait_and_those_who_have_gone_are_not_among_them() {
    stopped(|| {
        let scene = Scene::new(2);
        let mut arriving: Vec<_> =
            (0..2).map(|_| scene.arrive(HEAVY, principal("a", &[]), None)).collect();
        for newcomer in &mut arriving {
            assert!(newcomer.as_mut().now_or_never().is_none());
        }
        let heavy = InstanceId::new(HEAVY).unwrap();
        assert_eq!(scene.relay.connections(&heavy), 2, "they have their seats");
        let one_more = || scene.arrive(HEAVY, principal("a", &[]), None).now_or_never();
        assert_eq!(error(one_more()), Some(ConnectError::Crowded { limit: 2 }));
        assert_eq!(scene.relay.connections(&heavy), 2, "and that one has none");
        drop(arriving.pop());
        assert_eq!(scene.relay.connections(&heavy), 1);
        assert!(one_more().is_none(), "it waits");
        scene.connect(LIGHT, principal("n", &[]));
        // Nobody waits for the two that have gone.
        let turns = scene.turns();
        assert!(turns <= CHANNELS * RULES, "{turns}");
        assert!(arriving.pop().unwrap().now_or_never().unwrap().is_ok());
    });
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_for_ten_seconds_and_no_longer() {
    let workers = LocalSet::new();
    let _stopped = workers.enter();
    let scene = Scene::new(1);
    let mut arriving = scene.arrive(HEAVY, principal("a", &[]), None);
    assert!(arriving.as_mut().now_or_never().is_none());
    tokio::time::advance(Duration::from_millis(9_999)).await;
    assert!(arriving.as_mut().now_or_never().is_none());
    tokio::time::advance(Duration::from_millis(2)).await;
    assert_eq!(error(arriving.as_mut().now_or_never()), Some(ConnectError::TooHeavy));
    drop(arriving);
    assert!(scene.turns() <= 1, "nobody waits for it");
    assert_eq!(scene.asked(), 1);
}

/// A newcomer that waits while this happens is refused, though its rules are asked to the end.
fn is_refused(what_happens: impl FnOnce(&Scene), refusal: ConnectError) {
    stopped(|| {
        let scene = Scene::new(1);
        let someone = Principal { token_id: Some("t".into()), ..principal("a", &["eng"]) };
        let mut arriving = scene.arrive(HEAVY, someone, None);
        assert!(arriving.as_mut().now_or_never().is_none());
        scene.turn();
        what_happens(&scene);
        scene.turns();
        assert_eq!(error(arriving.now_or_never()), Some(refusal));
        assert_eq!(scene.relay.connections(&InstanceId::new(HEAVY).unwrap()), 0);
        assert_eq!(scene.relay.open(), 0);
    });
}

#[test]
fn who_registers_is_looked_at_by_the_newest_of_everything() {
    let revoked = |scene: &Scene| {
        let revocations = [Revocation::Token {
            id: TokenId::new("t").unwrap(),
            expires_at: DateTime::UNIX_EPOCH,
        }];
        let revocations = revocations.into_iter().collect();
        scene.configure(Tenant { revocations, ..heavy() });
    };
    is_refused(revoked, ConnectError::Refused(Refusal::TokenRevoked));
    let disabled = |scene: &Scene| {
        let heavy = heavy();
        let instance = Instance { enabled: false, ..heavy.instance.clone() };
        scene.configure(Tenant { instance, ..heavy });
    };
    is_refused(disabled, ConnectError::Refused(Refusal::InstanceDisabled));
    let gone = |scene: &Scene| scene.configure(tenant("another", []));
    is_refused(gone, ConnectError::Refused(Refusal::InstanceGone));
    let draining = |scene: &Scene| scene.begin_draining();
    is_refused(draining, ConnectError::Draining);
}

#[test]
fn a_token_that_ends_while_its_bearer_waits_lets_nobody_in() {
    stopped(|| {
        let scene = Scene::new(1);
        let key = KeyStanding::default();
        let someone = Principal { key: key.clone(), ..principal("a", &[]) };
        let mut arriving = scene.arrive(HEAVY, someone, None);
        assert!(arriving.as_mut().now_or_never().is_none());
        key.withdraw();
        scene.turns();
        let refused = ConnectError::Refused(Refusal::KeyWithdrawn);
        assert_eq!(error(arriving.now_or_never()), Some(refused));
        // Its leeway is over.
        let ended = chrono::Utc::now().timestamp() - SETTINGS.connection.leeway_seconds;
        let ended = Principal { expires_at: ended, ..principal("a", &[]) };
        let refused = ConnectError::Refused(Refusal::TokenExpired);
        assert_eq!(error(scene.arrive(HEAVY, ended, None).now_or_never()), Some(refused));
    });
}

#[test]
fn a_newcomer_hears_by_the_newest_rules_and_the_old_answers_hold_where_nothing_changed() {
    stopped(|| {
        let scene = Scene::new(1);
        let mut arriving = scene.arrive(HEAVY, principal("a", &["eng"]), None);
        assert!(arriving.as_mut().now_or_never().is_none());
        for _ in 0..10 {
            scene.turn();
        }
        assert_eq!(scene.asked(), 11);
        let before = scene.catalog.tenant(&InstanceId::new(HEAVY).unwrap()).unwrap();
        let kept = before.channels.values().skip(1).cloned();
        scene.configure(tenant(HEAVY, [heavy_channel(0, "ops")].into_iter().chain(kept)));
        scene.turns();
        let registration = arriving.now_or_never().unwrap().unwrap();
        assert_eq!(
            registration.hears(),
            ["ALL", "user:a", "group:eng", "channel:c1", "channel:c2"]
        );
        assert_eq!(scene.asked(), 11 + 4 + 1, "the first channel a second time");
    });
}

#[test]
fn until_it_is_known_what_a_new_token_gives_the_old_one_holds() {
    stopped(|| {
        let scene = Scene::new(1);
        let connection = scene.connect(HEAVY, principal("a", &["eng"]));
        let before = scene.asked();
        let mut renewed = connection.renew(Arc::new(principal("a", &["ops"])));
        for _ in 1..CHANNELS * RULES {
            assert!((&mut renewed).now_or_never().is_none());
            assert!(connection.hears().contains(&"channel:c2".to_owned()));
            let groups: Vec<_> = connection.principal().unwrap().groups.values().collect();
            assert_eq!(groups, [GroupId::new("eng").unwrap()]);
            assert_eq!(json(&connection.link), None);
            scene.turn();
        }
        assert!((&mut renewed).now_or_never().is_some());
        let groups: Vec<_> = connection.principal().unwrap().groups.values().collect();
        assert_eq!(groups, [GroupId::new("ops").unwrap()]);
        assert_eq!(connection.hears(), ["ALL", "user:a", "group:ops"]);
        assert_eq!(json(&connection.link).unwrap()["type"], "CHANNELS");
        assert_eq!(scene.asked(), before + (CHANNELS * RULES) as u64);
    });
}

#[test]
fn the_token_in_force_is_answered_without_a_rule() {
    stopped(|| {
        let scene = Scene::new(1);
        let connection = scene.connect(HEAVY, principal("a", &["eng"]));
        // Not even by those that have changed: the change itself will tell.
        scene.configure(heavy_at(2));
        let before = scene.asked();
        let renewed = connection.renew(Arc::new(principal("a", &["eng"])));
        assert!(renewed.now_or_never().is_some());
        assert_eq!(json(&connection.link).unwrap()["channels"].as_array().unwrap().len(), 6);
        assert_eq!(scene.asked(), before);
    });
}

#[test]
fn no_keep_alive_is_missed_while_a_new_token_is_worked_out() {
    stopped(|| {
        let scene = Scene::new(1);
        let connection = scene.connect(HEAVY, principal("a", &["eng"]));
        let tick = |later: Duration| {
            scene.worker.shard().borrow_mut().tick(Instant::now() + later, 0);
        };
        let renewed = connection.renew(Arc::new(principal("a", &["ops"])));
        tick(Duration::from_secs(100));
        assert_eq!(json(&connection.link), None);
        scene.turns();
        assert!(renewed.now_or_never().is_some());
        assert_eq!(json(&connection.link).unwrap()["type"], "CHANNELS");
        tick(Duration::from_secs(100));
        let reason = json(&connection.link).unwrap();
        assert!(reason.as_str().unwrap().starts_with("KEEP_ALIVE_MISSED"), "{reason}");
    });
}

#[test]
fn who_may_stay_no_more_goes_before_a_rule_is_asked() {
    stopped(|| {
        let scene = Scene::new(1);
        let token = |id: &str| Principal { token_id: Some(id.into()), ..principal(id, &[]) };
        let connections = ["a", "b", "c"].map(|id| scene.connect(HEAVY, token(id)));
        let before = scene.asked();
        let revoke = |ids: &[&str], version: i64| {
            let entries = ids.iter().map(|id| Revocation::Token {
                id: TokenId::new(id).unwrap(),
                expires_at: DateTime::UNIX_EPOCH,
            });
            scene.configure(Tenant { revocations: entries.collect(), ..heavy_at(version) });
            scene.follow();
        };
        // Every channel is another one now: all rules are to be asked again.
        revoke(&["c"], 2);
        (0..3).for_each(|_| scene.turn());
        assert!(json(&connections[2].link).is_some());
        assert!(scene.asked() <= before + 1);
        (0..5).for_each(|_| scene.turn());
        assert!(scene.asked() > before);
        // Another change in between takes nobody's place.
        revoke(&["b", "c"], 3);
        (0..3).for_each(|_| scene.turn());
        assert!(json(&connections[1].link).is_some());
        scene.turns();
        assert!(json(&connections[0].link).is_none(), "it hears the same");
    });
}

#[test]
fn the_filters_of_what_a_newcomer_missed_are_asked_once_each_at_its_turns() {
    stopped(|| {
        let scene = Scene::new(1);
        let since = scene.relay.cursor(&InstanceId::new(HEAVY).unwrap());
        for number in 0..6 {
            // Three filters, of which two let it through.
            let filter = format!("user == 'a' && {} < 2", number % 3);
            publish(&scene, &number.to_string(), Some(&filter));
        }
        let mut arriving = scene.arrive(HEAVY, principal("a", &["eng"]), Some(since));
        let (rules, mut turns) = ((CHANNELS * RULES) as u64, 0);
        while arriving.as_mut().now_or_never().is_none() {
            scene.turn();
            turns += 1;
            if turns == rules {
                // Another one is published meanwhile.
                publish(&scene, "late", Some("user != 'a'"));
            }
        }
        assert_eq!(scene.asked(), rules + 3 + 1);
    });
}

#[test]
fn a_replay_that_waited_is_whole_and_goes_on_live() {
    stopped(|| {
        let scene = Scene::new(1);
        let since = scene.relay.cursor(&InstanceId::new(HEAVY).unwrap());
        (0..3).for_each(|number| drop(publish(&scene, &number.to_string(), Some("user == 'a'"))));
        let mut arriving = scene.arrive(HEAVY, principal("a", &["eng"]), Some(since));
        assert!(arriving.as_mut().now_or_never().is_none());
        publish(&scene, "meanwhile", Some("user == 'b'"));
        publish(&scene, "last", None);
        scene.turns();
        let registration = arriving.now_or_never().unwrap().unwrap();
        let frames: Vec<Value> = std::iter::from_fn(|| json(&registration.link)).collect();
        assert_eq!(frames[0]["recovered"], true);
        let ids: Vec<_> = frames[1..].iter().map(|frame| frame["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["0", "1", "2", "last"]);
    });
}

#[test]
fn what_is_acknowledged_is_counted_at_its_turns_and_once() {
    stopped(|| {
        let scene = Scene::new(1);
        let connection = scene.connect(HEAVY, principal("a", &["eng"]));
        let heads: Vec<_> = (0..6)
            .map(|number| {
                let filter = format!("user == 'a' && {} < 2", number % 3);
                publish(&scene, &number.to_string(), Some(&filter))
            })
            .collect();
        // As its worker would, without the way to it.
        let key = scene.worker.shard().borrow().keys()[0];
        let newest = heads[5].cursor;
        scene.worker.shard().borrow_mut().member(key).position = newest.position;
        connection.acknowledge(heads[3].cursor);
        let counted = || heads.iter().map(|head| head.progress.sums().of(Step::Acknowledged));
        assert_eq!(counted().sum::<u64>(), 1, "one filter was asked");
        // It says more while that is being counted.
        connection.acknowledge(newest);
        assert_eq!(counted().sum::<u64>(), 1);
        scene.turns();
        assert_eq!(counted().collect::<Vec<_>>(), [1, 1, 0, 1, 1, 0]);
        connection.acknowledge(newest);
        scene.turns();
        assert_eq!(counted().sum::<u64>(), 4);
    });
}

#[tokio::test]
async fn messages_go_on_while_newcomers_and_new_tokens_are_worked_out() {
    let scene = async {
        let scene = Scene::new(2);
        let connection = scene.connect(HEAVY, principal("a", &["eng"]));
        let mut arriving: Vec<_> =
            (0..2).map(|_| scene.arrive(HEAVY, principal("b", &["eng"]), None)).collect();
        arriving.iter_mut().for_each(|it| assert!(it.as_mut().now_or_never().is_none()));
        let before = scene.asked();
        let head = publish(&scene, "one", None);
        let mut steps = 0;
        while !head.progress.is_complete() {
            tokio::task::yield_now().await;
            steps += 1;
        }
        assert_eq!(json(&connection.link).unwrap()["id"], "one");
        let asked = scene.asked() - before;
        assert!((1..8).contains(&asked) && steps < 8, "{asked} rules meanwhile, {steps} steps");
        for newcomer in arriving {
            assert!(newcomer.await.is_ok());
        }
    };
    LocalSet::new().run_until(scene).await;
}

#[test]
fn those_who_hear_the_same_share_it_and_a_change_asks_them_about_that_channel_alone() {
    stopped(|| {
        let scene = Scene::new(1);
        let someone = |number: usize| principal(&number.to_string(), &["eng"]);
        let all: Vec<_> = (0..20).map(|number| scene.connect(HEAVY, someone(number))).collect();
        let bytes = || scene.worker.shard().borrow().heard_bytes();
        let (of_one_set, before) = (bytes(), scene.asked());
        let is_there = scene.catalog.tenant(&InstanceId::new(HEAVY).unwrap()).unwrap();
        let kept = is_there.channels.values().skip(1).cloned();
        scene.configure(tenant(HEAVY, [heavy_channel(0, "ops")].into_iter().chain(kept)));
        scene.follow();
        scene.turns();
        assert_eq!(scene.asked() - before, 20 * RULES as u64);
        for connection in &all {
            assert_eq!(json(&connection.link).unwrap()["channels"].as_array().unwrap().len(), 5);
            assert_eq!(json(&connection.link), None);
        }
        assert!(bytes() < of_one_set, "all share the smaller set, and the other one is gone");
        drop(all);
        assert_eq!(bytes(), 0);
    });
}

/// So many bytes that there is room for so many sets of one group of one letter.
fn room_for(sets: usize) -> ConnectionBounds {
    let one = HeardSet::bytes_of(&[Audience::Group(GroupId::new("0").unwrap())]);
    ConnectionBounds { heard_bytes: one * sets, ..SETTINGS.connection }
}

#[test]
fn sets_of_an_instance_have_a_bound_and_who_would_need_one_more_comes_later() {
    stopped(|| {
        let scene = Scene::with(room_for(3));
        let connect = |group: &str| scene.arrive(LIGHT, principal("a", &[group]), None);
        let held: Vec<_> =
            ["0", "1", "2"].map(|it| connect(it).now_or_never().unwrap().unwrap()).into();
        let limit = room_for(3).heard_bytes;
        let refused = Some(ConnectError::TooManySets { limit });
        assert_eq!(error(connect("3").now_or_never()), refused);
        assert!(connect("2").now_or_never().unwrap().is_ok(), "that set is there");
        assert_eq!(scene.relay.connections(&InstanceId::new(LIGHT).unwrap()), 3);
        drop(held);
        assert!(connect("3").now_or_never().unwrap().is_ok());
    });
}

#[test]
fn a_change_beyond_the_bound_is_taken_and_the_newest_connections_come_again_later() {
    stopped(|| {
        let scene = Scene::with(room_for(3));
        let groups = ["0", "1", "2"];
        let held = groups.map(|it| scene.connect(LIGHT, principal("a", &[it])));
        // The newest two share a set.
        let newest = scene.connect(LIGHT, principal("a", &["2"]));
        let renewed = held[0].renew(Arc::new(principal("a", &["0", "1"])));
        assert!(renewed.now_or_never().is_some());
        assert_eq!(held[0].hears(), ["ALL", "user:a", "group:0", "group:1"]);
        assert_eq!(json(&held[0].link).unwrap()["type"], "CHANNELS");
        for shed in [&held[2], &newest] {
            let reason = json(&shed.link).unwrap();
            assert!(reason.as_str().unwrap().starts_with("OVERLOADED"), "{reason}");
        }
        assert_eq!((json(&held[0].link), json(&held[1].link)), (None, None));
        assert_eq!(scene.relay.shed(), 2);
    });
}
