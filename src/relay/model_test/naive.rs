//! The rules as the contract says them, without an index: everything is asked anew.

use crate::catalog::Tenant;
use crate::domain::channel::{Channel, Slow};
use crate::domain::instance::{Instance, InstanceId, Limits};
use crate::domain::revocation::Revocations;
use crate::domain::rule::{Effect, Rule, Rules, Subject};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The same few words for users, groups and channels, so that they collide.
pub const WORDS: [&str; 5] = ["a", "b", "c", "group:a", "channel:b"];
pub const CHANNELS: [&str; 3] = ["a", "b", "d"];
pub const INSTANCES: [&str; 2] = ["one", "two"];

/// What someone's claims say, for the naive reading of an expression; none is an error.
type Reading = fn(&Person) -> Option<bool>;

/// Expressions, each with what it means.
pub const EXPRESSIONS: [(&str, Reading); 7] = [
    ("user == 'a'", |person| Some(person.user == "a")),
    ("'b' in groups && user != 'b'", |person| {
        Some(person.groups.contains(&"b") && person.user != "b")
    }),
    ("claims.level >= 2", |person| Some(person.level? >= 2)),
    ("has(claims.level) && claims.level < 2", |person| {
        Some(person.level.is_some_and(|level| level < 2))
    }),
    ("user == 'c' || claims.level == 1", |person| {
        if person.user == "c" { Some(true) } else { Some(person.level? == 1) }
    }),
    ("connection.address == '127.0.0.1'", |_| Some(true)),
    ("claims.level", |_| None),
];

/// What expression number `which` says.
pub fn reading(which: usize, person: &Person) -> Option<bool> {
    EXPRESSIONS[which].1(person)
}

/// A channel, as the model configures one.
#[derive(Clone, Debug)]
pub struct State {
    pub enabled: bool,
    pub rules: Vec<Rule>,
    pub slow: Slow,
}

/// An instance's channels.
pub type Channels = BTreeMap<&'static str, State>;

/// Who listens, and what it wants to hear.
#[derive(Clone, Debug)]
pub struct Person {
    pub instance: usize,
    pub user: &'static str,
    pub groups: Vec<&'static str>,
    /// The claim `level`.
    pub level: Option<i64>,
    pub narrowing: Option<Vec<String>>,
}

impl Person {
    /// The canonical names of all that it hears, in the order of `CONNECTED`.
    pub fn heard(&self, channels: &Channels) -> Vec<String> {
        let own = ["ALL".to_owned(), format!("user:{}", self.user)].into_iter();
        let groups = self.groups.iter().map(|group| format!("group:{group}"));
        let named = channels.keys().map(|name| format!("channel:{name}"));
        own.chain(groups).chain(named).filter(|name| self.hears(channels, name)).collect()
    }

    fn hears(&self, channels: &Channels, canonical: &str) -> bool {
        let belongs = match canonical.split_once(':') {
            Some(("channel", name)) => self.is_let_in(&channels[name]),
            _ => true,
        };
        // A narrowing names a disabled channel as itself, never as the user of that name.
        let wanted = |wish: &String| match channels.contains_key(wish.as_str()) {
            true => canonical == format!("channel:{wish}"),
            false => meaning(wish, channels).iter().any(|name| name == canonical),
        };
        belongs && self.narrowing.as_ref().is_none_or(|wishes| wishes.iter().any(wanted))
    }

    fn is_let_in(&self, channel: &State) -> bool {
        let any = |effect| {
            let applies =
                |rule: &Rule| self.is_meant_by(rule).unwrap_or(rule.effect == Effect::Deny);
            channel.rules.iter().any(|rule| rule.effect == effect && applies(rule))
        };
        channel.enabled && any(Effect::Allow) && !any(Effect::Deny)
    }

    fn is_meant_by(&self, rule: &Rule) -> Option<bool> {
        match &rule.subject {
            Subject::User(user) => Some(user.as_str() == self.user),
            Subject::Group(group) => Some(self.groups.contains(&group.as_str())),
            Subject::When(expression) => {
                let which = EXPRESSIONS.iter().position(|(text, _)| *text == expression.as_str());
                reading(which.expect("it is one of these"), self)
            }
            Subject::Everyone => Some(true),
        }
    }
}

/// The canonical names that an address stands for; none when a channel is unknown or disabled.
pub fn meaning(address: &str, channels: &Channels) -> Vec<String> {
    match address.split_once(':') {
        _ if address == "ALL" => vec![address.into()],
        Some(("user" | "group", _)) => vec![address.into()],
        Some(("channel", name)) => channels
            .get(name)
            .filter(|state| state.enabled)
            .map(|_| address.into())
            .into_iter()
            .collect(),
        _ => match channels.get(address) {
            Some(state) if state.enabled => vec![format!("channel:{address}")],
            Some(_) => vec![],
            None => vec![format!("group:{address}"), format!("user:{address}")],
        },
    }
}

/// The same as the catalog knows it.
pub fn tenant(instance: usize, channels: &Channels) -> Tenant {
    let channel = |(name, state): (&&str, &State)| Channel {
        enabled: state.enabled,
        rules: Rules::new(state.rules.clone()).unwrap(),
        slow: state.slow,
        ..Channel::of_a_test(name)
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
        channels: channels
            .iter()
            .map(channel)
            .map(|channel| (channel.name.clone(), Arc::new(channel)))
            .collect(),
        revocations: Revocations::default(),
        misfits: Default::default(),
    }
}
