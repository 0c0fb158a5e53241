//! The registry against a naive model: random users, groups, channels, rules, changes and messages.

use super::outbox::{Next, OutboxBounds};
use super::realm::Realm;
use super::roster::Origin;
use super::shard::{Bounds, Delivery, Key, Link, Member, Shard, Transport};
use crate::catalog::{Snapshot, Tenant};
use crate::domain::audience::{Address, Audience, Narrowing};
use crate::domain::channel::{Channel, ChannelName, Slow};
use crate::domain::instance::{Instance, InstanceId, Limits};
use crate::domain::message::Exclusion;
use crate::domain::principal::{GroupId, Principal, Scope, UserId};
use crate::domain::revocation::Revocations;
use crate::domain::rule::{Effect, Rule, Rules, Subject};
use crate::relay::frame::{Frame, Notice};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The same few words for users, groups and channels, so that they collide.
const WORDS: [&str; 5] = ["a", "b", "c", "group:a", "channel:b"];
const CHANNELS: [&str; 3] = ["a", "b", "d"];
const INSTANCES: [&str; 2] = ["one", "two"];

#[derive(Clone, Debug)]
enum Step {
    Connect { instance: usize, user: usize, groups: Vec<usize>, narrowing: Option<Vec<String>> },
    Leave(usize),
    Configure { instance: usize, channel: usize, state: Option<(bool, Vec<Rule>)> },
    Publish { instance: usize, address: String, exclude: Vec<usize> },
}

fn rule() -> impl Strategy<Value = Rule> {
    let subject = prop_oneof![
        (0..WORDS.len()).prop_map(|user| Subject::User(UserId::new(WORDS[user]).unwrap())),
        (0..WORDS.len()).prop_map(|group| Subject::Group(GroupId::new(WORDS[group]).unwrap())),
        Just(Subject::Everyone),
    ];
    (prop::bool::weighted(0.7), subject)
        .prop_map(|(allow, subject)| Rule { effect: if allow { Effect::Allow } else { Effect::Deny }, subject })
}

fn address() -> impl Strategy<Value = String> {
    let words = WORDS.iter().chain(&CHANNELS);
    let mut all: Vec<String> = words
        .flat_map(|word| [word.to_string(), format!("user:{word}"), format!("group:{word}"), format!("channel:{word}")])
        .chain(["ALL".to_string()])
        .collect();
    all.retain(|text| Address::parse(text).is_ok());
    prop::sample::select(all)
}

fn step() -> impl Strategy<Value = Step> {
    let (instance, word) = (0..INSTANCES.len(), 0..WORDS.len());
    let groups = prop::collection::btree_set(word.clone(), 0..3).prop_map(|groups| groups.into_iter().collect());
    let narrowing = prop::option::weighted(0.3, prop::collection::vec(address(), 0..3));
    let state = prop::option::weighted(0.8, (prop::bool::weighted(0.8), prop::collection::vec(rule(), 0..3)));
    prop_oneof![
        3 => (instance.clone(), word.clone(), groups, narrowing)
            .prop_map(|(instance, user, groups, narrowing)| Step::Connect { instance, user, groups, narrowing }),
        1 => (0usize..20).prop_map(Step::Leave),
        2 => (instance.clone(), 0..CHANNELS.len(), state)
            .prop_map(|(instance, channel, state)| Step::Configure { instance, channel, state }),
        4 => (instance, address(), prop::collection::vec(word, 0..2))
            .prop_map(|(instance, address, exclude)| Step::Publish { instance, address, exclude }),
    ]
}

/// What the model knows of a connection: no index, everything asked anew.
struct Known {
    key: Key,
    link: Rc<Link>,
    instance: usize,
    user: &'static str,
    groups: Vec<&'static str>,
    narrowing: Option<Vec<String>>,
}

type Channels = BTreeMap<&'static str, (bool, Vec<Rule>)>;

fn applies(rule: &Rule, known: &Known) -> bool {
    match &rule.subject {
        Subject::User(user) => user.as_str() == known.user,
        Subject::Group(group) => known.groups.contains(&group.as_str()),
        Subject::Everyone => true,
    }
}

fn may_hear(known: &Known, channels: &Channels, name: &str) -> bool {
    channels.get(name).is_some_and(|(enabled, rules)| {
        let any = |effect| rules.iter().any(|rule| rule.effect == effect && applies(rule, known));
        *enabled && any(Effect::Allow) && !any(Effect::Deny)
    })
}

/// The canonical names that an address stands for; none when a channel is unknown or disabled.
fn meaning(address: &str, channels: &Channels) -> Vec<String> {
    match address.split_once(':') {
        _ if address == "ALL" => vec![address.into()],
        Some(("user" | "group", _)) => vec![address.into()],
        Some(("channel", name)) => {
            channels.get(name).filter(|(on, _)| *on).map(|_| address.into()).into_iter().collect()
        }
        _ => match channels.get(address) {
            Some((true, _)) => vec![format!("channel:{address}")],
            Some((false, _)) => vec![],
            None => vec![format!("group:{address}"), format!("user:{address}")],
        },
    }
}

fn hears(known: &Known, channels: &Channels, canonical: &str) -> bool {
    let belongs = match canonical.split_once(':') {
        None => true,
        Some(("user", user)) => user == known.user,
        Some(("group", group)) => known.groups.contains(&group),
        Some((_, channel)) => may_hear(known, channels, channel),
    };
    // A narrowing names a disabled channel as itself, never as the user of that name.
    let wanted = |wish: &String| match channels.contains_key(wish.as_str()) {
        true => canonical == format!("channel:{wish}"),
        false => meaning(wish, channels).iter().any(|name| name == canonical),
    };
    belongs && known.narrowing.as_ref().is_none_or(|wishes| wishes.iter().any(wanted))
}

fn tenant(instance: usize, channels: &Channels) -> Tenant {
    let channel = |(name, (enabled, rules)): (&&str, &(bool, Vec<Rule>))| Channel {
        name: ChannelName::new(name).unwrap(),
        description: String::new(),
        enabled: *enabled,
        rules: Rules::new(rules.clone()).unwrap(),
        publish_rules: Rules::everyone(),
        payload_limit: None,
        slow: Slow::Disconnect,
        version: 1,
    };
    Tenant {
        instance: Instance {
            id: InstanceId::new(INSTANCES[instance]).unwrap(),
            name: String::new(),
            enabled: true,
            publish_roles: vec![],
            origins: vec![],
            limits: Limits::default(),
            version: 1,
        },
        channels: channels.iter().map(channel).map(|channel| (channel.name.clone(), channel)).collect(),
        revocations: Revocations::default(),
    }
}

fn received(link: &Link) -> usize {
    let mut context = Context::from_waker(Waker::noop());
    let mut frames = 0;
    while let Poll::Ready(Next::Frame(_)) = link.outbox.poll_next(&mut context, Instant::now) {
        frames += 1;
    }
    frames
}

/// The system under test beside its model.
struct World {
    shard: Shard,
    realms: Vec<Arc<Realm>>,
    channels: Vec<Channels>,
    known: Vec<Known>,
    position: u64,
}

impl World {
    fn new() -> Self {
        let bounds = Bounds {
            outbox: OutboxBounds { bytes: 1 << 20, stall: Duration::from_secs(10) },
            keep_alive: Duration::from_secs(75),
            comment: Duration::from_secs(15),
            leeway_seconds: 30,
            expiring_seconds: 60,
        };
        let realms = INSTANCES.map(|id| Arc::new(Realm::fresh(id))).to_vec();
        let channels = vec![Channels::new(); INSTANCES.len()];
        Self { shard: Shard::new(bounds), realms, channels, known: vec![], position: 0 }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Connect { instance, user, groups, narrowing } => self.connect(instance, user, groups, narrowing),
            Step::Leave(which) if which < self.known.len() => {
                let gone = self.known.swap_remove(which);
                assert!(self.shard.remove(gone.key).is_some());
            }
            Step::Leave(_) => {}
            Step::Configure { instance, channel, state } => self.configure(instance, channel, state),
            Step::Publish { instance, address, exclude } => self.publish(instance, &address, &exclude),
        }
        assert_eq!(self.shard.len(), self.known.len());
    }

    fn connect(&mut self, instance: usize, user: usize, groups: Vec<usize>, narrowing: Option<Vec<String>>) {
        let groups: Vec<&'static str> = groups.into_iter().map(|group| WORDS[group]).collect();
        let principal = Principal {
            user: UserId::new(WORDS[user]).unwrap(),
            groups: groups.iter().map(|group| GroupId::new(group).unwrap()).collect(),
            roles: vec![],
            scope: Scope::Everywhere,
            component: None,
            claims: serde_json::Map::new(),
            token_id: None,
            issued_at: None,
            expires_at: i64::MAX,
        };
        let wishes = narrowing.as_ref().map(|wishes| Narrowing::parse(&serde_json::json!(wishes).to_string()).unwrap());
        let link = Rc::new(Link::new(self.position.to_string()));
        let audiences = tenant(instance, &self.channels[instance]).audiences_of(&principal, wishes.as_ref());
        let key = self.shard.insert(Member {
            link: link.clone(),
            transport: Transport::Wss,
            realm: self.realms[instance].clone(),
            principal: Arc::new(principal),
            origin: Origin {
                address: [127, 0, 0, 1].into(),
                user_agent: "".into(),
                connected_at: chrono::DateTime::UNIX_EPOCH,
            },
            warned: false,
            narrowing: wishes,
            audiences,
            position: self.position,
        });
        self.known.push(Known { key, link, instance, user: WORDS[user], groups, narrowing });
    }

    fn configure(&mut self, instance: usize, channel: usize, state: Option<(bool, Vec<Rule>)>) {
        match state {
            Some(state) => drop(self.channels[instance].insert(CHANNELS[channel], state)),
            None => drop(self.channels[instance].remove(CHANNELS[channel])),
        }
        let tenants = (0..INSTANCES.len()).map(|instance| Arc::new(tenant(instance, &self.channels[instance])));
        let tenants = tenants.map(|tenant| (tenant.instance.id.clone(), tenant)).collect();
        let snapshot = Snapshot { tenants };
        for key in self.shard.all_keys() {
            self.shard.reassess(key, &snapshot, Instant::now());
        }
        for known in &self.known {
            received(&known.link);
        }
    }

    fn publish(&mut self, instance: usize, address: &str, exclude: &[usize]) {
        let channels = &self.channels[instance];
        let tenant = tenant(instance, channels);
        let resolved = tenant.resolve(&Address::parse(address).unwrap());
        let names = meaning(address, channels);
        let Ok((audiences, _)) = resolved else { return assert!(names.is_empty(), "{address} should resolve") };
        assert_eq!(audiences.iter().map(Audience::to_string).collect::<Vec<_>>(), names);
        self.position += 1;
        let exclude: Vec<&str> = exclude.iter().map(|user| WORDS[*user]).collect();
        let mut delivery = Delivery {
            instance: self.realms[instance].instance.clone(),
            audiences,
            exclude: Exclusion {
                users: exclude.iter().map(|id| UserId::new(id).unwrap()).collect(),
                connections: vec![],
            },
            position: self.position,
            lane: None,
            frame: Err(17),
        };
        let rehearsed = self.shard.deliver(&delivery, Instant::now());
        delivery.frame = Ok(Frame::of(&Notice::Pong {}));
        let counts = self.shard.deliver(&delivery, Instant::now());
        assert_eq!(rehearsed, counts, "a dry run counts what is then sent");
        let mut matched = 0;
        for known in &self.known {
            let meant = names.iter().any(|name| hears(known, channels, name));
            let due = known.instance == instance && meant && !exclude.contains(&known.user);
            assert_eq!(received(&known.link), usize::from(due), "{address} for {} {:?}", known.user, known.groups);
            matched += u64::from(due);
        }
        assert_eq!((counts.matched, counts.queued, counts.dropped), (matched, matched, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everyone_gets_exactly_what_the_naive_model_says(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.apply(step));
        let keys = world.shard.all_keys();
        keys.into_iter().for_each(|key| drop(world.shard.remove(key)));
        prop_assert!(world.shard.is_empty() && world.shard.keys(&world.realms[0].instance).is_empty());
    }
}
