//! A tenant: its identity, who may publish in it, and its limits.

use super::role::Role;
use super::text::text_value;

text_value! {
    /// An instance's id: `[A-Za-z0-9_-]{1,64}`.
    InstanceId, InstanceIdError,
    "an instance id is 1 to 64 of the characters A-Z a-z 0-9 _ -",
    |text: &str| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A tenant as an operator configured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Never changes.
    pub id: InstanceId,
    /// For people; empty or up to 200 bytes.
    pub name: String,
    /// While false, nobody connects or publishes.
    pub enabled: bool,
    /// Roles that let a token without a `component` claim publish.
    pub publish_roles: Vec<Role>,
    /// The exact `Origin` values that browsers may come from; empty = any.
    pub origins: Vec<String>,
    /// What the instance may use.
    pub limits: Limits,
    /// Grows by one with every change; what `ETag` shows.
    pub version: i64,
}

impl Instance {
    /// A fresh one: enabled, without a name, with the limits that are usual, and open to every
    /// origin but `null`.
    pub fn new(id: InstanceId) -> Self {
        Self {
            id,
            name: String::new(),
            enabled: true,
            publish_roles: Vec::new(),
            origins: Vec::new(),
            limits: Limits::default(),
            version: 1,
        }
    }

    /// Whether a browser page of this origin may use the instance. `None` (not a browser) always
    /// may; `null` only if listed, even where any origin may.
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        match origin {
            None => true,
            Some(origin) if self.origins.is_empty() => origin != "null",
            Some(origin) => self.origins.iter().any(|allowed| allowed == origin),
        }
    }
}

/// What an instance may use. Units are in the names; all values are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest `message` of a token without a `component` claim, in bytes.
    pub payload_bytes: u32,
    /// Largest `message` of a component token, in bytes.
    pub component_payload_bytes: u32,
    /// Messages a second that the whole instance may publish.
    pub messages_per_second: u32,
    /// Messages the instance may publish at once.
    pub message_burst: u32,
    /// Messages a second that one user may publish.
    pub user_messages_per_second: u32,
    /// Messages one user may publish at once.
    pub user_message_burst: u32,
    /// Connections open at the same time.
    pub connections: u32,
    /// Connections of one user open at the same time.
    pub connections_per_user: u32,
    /// New connections a second.
    pub connects_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes: 1_024,
            component_payload_bytes: 4_096,
            messages_per_second: 100,
            message_burst: 200,
            user_messages_per_second: 50,
            user_message_burst: 100,
            connections: 10_000,
            connections_per_user: 20,
            connects_per_second: 200,
        }
    }
}

/// The name of one limit, as the API writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitName(&'static str);

/// Why a limit cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// There is no limit of that name.
    #[error("there is no limit of this name; the limits are {}", LimitName::list())]
    Unknown,
    /// The value lies outside the limit's range.
    #[error("{name} must lie between 1 and {most}")]
    OutOfRange {
        /// Which limit.
        name: &'static str,
        /// Its largest value.
        most: u32,
    },
}

impl LimitName {
    /// Every limit in the order of the API, with its largest value (payloads: contract,
    /// "Managing").
    const ALL: [(&'static str, u32); 9] = [
        ("payloadBytes", 65_536),
        ("componentPayloadBytes", 65_536),
        ("messagesPerSecond", 1_000_000),
        ("messageBurst", 1_000_000),
        ("userMessagesPerSecond", 1_000_000),
        ("userMessageBurst", 1_000_000),
        ("connections", 1_000_000),
        ("connectionsPerUser", 1_000_000),
        ("connectsPerSecond", 1_000_000),
    ];

    /// The limit that the API calls `name`. Errors: `LimitError::Unknown`.
    pub fn new(name: &str) -> Result<Self, LimitError> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(known, _)| Self(known))
            .ok_or(LimitError::Unknown)
    }

    /// Every limit, in the order of the API.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.iter().map(|(name, _)| Self(name))
    }

    /// The name as the API writes it.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// The largest value that an operator may give.
    pub fn most(self) -> u32 {
        Self::ALL.iter().find(|(name, _)| *name == self.0).map_or(0, |(_, most)| *most)
    }

    fn list() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }
}

impl Limits {
    /// The value of one limit.
    pub fn get(&self, name: LimitName) -> u32 {
        *self.clone().slot(name)
    }

    /// Sets one limit. Errors: `LimitError::OutOfRange` unless 1 <= `value` <= the limit's largest
    /// value.
    pub fn set(&mut self, name: LimitName, value: u32) -> Result<(), LimitError> {
        if !(1..=name.most()).contains(&value) {
            return Err(LimitError::OutOfRange { name: name.as_str(), most: name.most() });
        }
        *self.slot(name) = value;
        Ok(())
    }

    fn slot(&mut self, name: LimitName) -> &mut u32 {
        match name.0 {
            "payloadBytes" => &mut self.payload_bytes,
            "componentPayloadBytes" => &mut self.component_payload_bytes,
            "messagesPerSecond" => &mut self.messages_per_second,
            "messageBurst" => &mut self.message_burst,
            "userMessagesPerSecond" => &mut self.user_messages_per_second,
            "userMessageBurst" => &mut self.user_message_burst,
            "connections" => &mut self.connections,
            "connectionsPerUser" => &mut self.connections_per_user,
            _ => &mut self.connects_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_can_be_read_and_set_within_its_range_only() {
        for name in LimitName::all() {
            let mut limits = Limits::default();
            assert!(limits.set(name, 0).is_err());
            assert!(limits.set(name, name.most() + 1).is_err());
            limits.set(name, name.most()).unwrap();
            assert_eq!(limits.get(name), name.most());
            limits.set(name, 1).unwrap();
            let changed = LimitName::all()
                .filter(|other| limits.get(*other) != Limits::default().get(*other));
            assert_eq!(changed.map(LimitName::as_str).collect::<Vec<_>>(), [name.as_str()]);
        }
        assert_eq!(LimitName::new("PayloadBytes"), Err(LimitError::Unknown));
    }

    #[test]
    fn ids_are_ascii_words_of_at_most_64() {
        for good in ["a", "demo", "A-1_b", &"x".repeat(64)] {
            assert!(InstanceId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "a.b", "*", &"x".repeat(65)] {
            assert!(InstanceId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_list_is_exact_and_null_must_be_listed() {
        let mut instance = Instance {
            id: InstanceId::new("demo").unwrap(),
            name: String::new(),
            enabled: true,
            publish_roles: vec![],
            origins: vec![],
            limits: Limits::default(),
            version: 1,
        };
        assert!(instance.allows_origin(None) && instance.allows_origin(Some("https://a.example")));
        assert!(!instance.allows_origin(Some("null")));
        instance.origins = vec!["https://a.example".into(), "null".into()];
        assert!(instance.allows_origin(None) && instance.allows_origin(Some("null")));
        assert!(
            !instance.allows_origin(Some("https://a.example:444"))
                && !instance.allows_origin(Some("https://A.example"))
        );
    }
}
