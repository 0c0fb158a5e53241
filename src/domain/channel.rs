//! A named audience that an administrator configured, with rules.

use super::expression::Facts;
use super::rule::Rules;
use super::text::text_value;
use std::collections::BTreeMap;
use std::sync::Arc;

text_value! {
    /// A channel's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, and not `ALL` in any case.
    ChannelName, ChannelNameError,
    "a channel name is 1 to 64 of the characters A-Z a-z 0-9 . _ -, begins with a letter or digit, and is not ALL",
    |text: &str| {
        (1..=64).contains(&text.len())
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !text.eq_ignore_ascii_case("ALL")
    }
}

/// Most channels of an instance (contract, "Channels and rules").
pub const MAX_CHANNELS: usize = 1_000;

/// A channel as an administrator configured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Never changes.
    pub name: ChannelName,
    /// For people; empty or up to 1,000 bytes.
    pub description: String,
    /// While false, nobody hears it and publishing to it is a conflict.
    pub enabled: bool,
    /// Who hears it.
    pub rules: Rules,
    /// Who, of those who may publish at all, may publish to it.
    pub publish_rules: Rules,
    /// Largest `message` in bytes; only lowers the instance's limit.
    pub payload_limit: Option<u32>,
    /// What a receiver gets that does not read fast enough.
    pub slow: Slow,
    /// Grows by one with every change; what `ETag` shows.
    pub version: i64,
}

/// An instance's channels by name.
pub type Channels = BTreeMap<ChannelName, Arc<Channel>>;

impl Channel {
    /// Whether someone may hear it.
    pub fn lets_in(&self, facts: &Facts<'_>) -> bool {
        self.enabled && self.rules.decide(facts).allowed
    }

    /// One that everyone hears and may publish to.
    #[cfg(test)]
    pub fn of_a_test(name: &str) -> Self {
        Self {
            name: ChannelName::new(name).unwrap(),
            description: String::new(),
            enabled: true,
            rules: Rules::everyone(),
            publish_rules: Rules::everyone(),
            payload_limit: None,
            slow: Slow::Disconnect,
            version: 1,
        }
    }
}

/// What happens to a channel's messages where a receiver does not read them fast enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slow {
    /// All of them wait; where there is no room, the connection ends with 4420 and resumes by its
    /// cursor.
    #[default]
    Disconnect,
    /// Only the newest waits; the receiver is told how many it replaced.
    Latest,
}

#[cfg(test)]
mod tests {
    use super::ChannelName;

    #[test]
    fn names_are_ascii_words_of_at_most_64_and_never_all() {
        for good in ["a", "9", "ALLES", "a.b_c-d", &"x".repeat(64)] {
            assert!(ChannelName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".a",
            "-a",
            "_a",
            "a b",
            "a/b",
            "../b",
            "*",
            "ALL",
            "all",
            "All",
            "é",
            "news\u{200b}",
            "group:x",
            &"x".repeat(65),
        ] {
            assert!(ChannelName::new(bad).is_err(), "{bad}");
        }
    }
}
