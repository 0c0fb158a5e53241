//! The rules as the contract says them, without an index: everything is asked anew.

use crate::catalog::Tenant;
use crate::domain::channel::{Channel, ChannelName, Slow};
use crate::domain::instance::{Instance, InstanceId, Limits};
use crate::domain::revocation::Revocations;
use crate::domain::rule::{Effect, Rule, Rules, Subject};
use std::collections::BTreeMap;

/// The same few words for users, groups and channels, so that they collide.
pub const WORDS: [&str; 5] = ["a", "b", "c", "group:a", "channel:b"];
pub const CHANNELS: [&str; 3] = ["a", "b", "d"];
pub const INSTANCES: [&str; 2] = ["one", "two"];

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
        let any = |effect| channel.rules.iter().any(|rule| rule.effect == effect && self.is_meant_by(rule));
        channel.enabled && any(Effect::Allow) && !any(Effect::Deny)
    }

    fn is_meant_by(&self, rule: &Rule) -> bool {
        match &rule.subject {
            Subject::User(user) => user.as_str() == self.user,
            Subject::Group(group) => self.groups.contains(&group.as_str()),
            Subject::Everyone => true,
        }
    }
}

/// The canonical names that an address stands for; none when a channel is unknown or disabled.
pub fn meaning(address: &str, channels: &Channels) -> Vec<String> {
    match address.split_once(':') {
        _ if address == "ALL" => vec![address.into()],
        Some(("user" | "group", _)) => vec![address.into()],
        Some(("channel", name)) => {
            channels.get(name).filter(|state| state.enabled).map(|_| address.into()).into_iter().collect()
        }
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
        name: ChannelName::new(name).unwrap(),
        description: String::new(),
        enabled: state.enabled,
        rules: Rules::new(state.rules.clone()).unwrap(),
        publish_rules: Rules::everyone(),
        payload_limit: None,
        slow: state.slow,
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
