//! Whom a message is for: what a publisher wrote (`Address`) and what it means (`Audience`).

use super::channel::{ChannelName, ChannelNameError, Channels};
use super::principal::{GroupId, UserId};
use super::text::{MAX_ID_BYTES, is_id};
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeSet;
use std::fmt;

/// A set of receivers within one instance; its `Display` is the canonical name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// `ALL`: everyone connected.
    All,
    /// `user:ID`.
    User(UserId),
    /// `group:ID`.
    Group(GroupId),
    /// `channel:NAME`: those whom the channel's rules let hear it.
    Channel(ChannelName),
}

impl Audience {
    /// The canonical name; the same text as `Display`, made in one step.
    pub fn name(&self) -> String {
        self.parts().concat()
    }

    /// Length of the canonical name, in bytes.
    pub fn name_bytes(&self) -> usize {
        self.parts().map(str::len).iter().sum()
    }

    fn parts(&self) -> [&str; 2] {
        match self {
            Self::All => ["ALL", ""],
            Self::User(user) => ["user:", user.as_str()],
            Self::Group(group) => ["group:", group.as_str()],
            Self::Channel(channel) => ["channel:", channel.as_str()],
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().iter().try_for_each(|part| f.write_str(part))
    }
}

/// Whom one message is for: hardly ever more than two, which need no memory of their own.
pub type Audiences = SmallVec<[Audience; 2]>;

/// What a `channel` field says, before the configured channels are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `ALL`.
    All,
    /// `user:ID`.
    User(UserId),
    /// `group:ID`.
    Group(GroupId),
    /// `channel:NAME`.
    Channel(ChannelName),
    /// Any other word: a configured channel, otherwise the group and the user of that id.
    Bare(UserId),
}

/// Why a text addresses nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `all`, `All` and so on.
    #[error(
        "write ALL in capitals to reach everyone; another spelling is refused so that it is never taken for a user"
    )]
    AllMisspelt,
    /// The part behind `channel:`.
    #[error(transparent)]
    ChannelName(#[from] ChannelNameError),
    /// The id, with or without a prefix.
    #[error("an id is 1 to {MAX_ID_BYTES} bytes without control characters")]
    Id,
}

impl Address {
    /// Reads a `channel` field (contract, "Sending"). Prefixes are exactly `user:`, `group:`,
    /// `channel:`. Errors: `AddressError`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text == "ALL" {
            return Ok(Self::All);
        }
        if text.eq_ignore_ascii_case("ALL") {
            return Err(AddressError::AllMisspelt);
        }
        match text.split_once(':') {
            Some(("channel", name)) => Ok(Self::Channel(ChannelName::new(name)?)),
            Some(("group", id)) => GroupId::new(id).map(Self::Group).map_err(|_| AddressError::Id),
            Some(("user", id)) => UserId::new(id).map(Self::User).map_err(|_| AddressError::Id),
            _ if is_id(text) => UserId::new(text).map(Self::Bare).map_err(|_| AddressError::Id),
            _ => Err(AddressError::Id),
        }
    }

    /// The name under which a configured channel could be meant, if any.
    pub fn channel_name(&self) -> Option<ChannelName> {
        match self {
            Self::Channel(name) => Some(name.clone()),
            Self::Bare(word) => ChannelName::new(word.as_str()).ok(),
            _ => None,
        }
    }

    /// What a bare word means where no channel has its name, and what a prefixed id means anyway.
    /// A `channel:` address means itself.
    pub fn audiences(&self) -> Audiences {
        match self {
            Self::All => smallvec![Audience::All],
            Self::User(user) => smallvec![Audience::User(user.clone())],
            Self::Group(group) => smallvec![Audience::Group(group.clone())],
            Self::Channel(name) => smallvec![Audience::Channel(name.clone())],
            Self::Bare(word) => {
                let group = GroupId::new(word.as_str()).map(Audience::Group);
                group.into_iter().chain([Audience::User(word.clone())]).collect()
            }
        }
    }
}

/// The `channels=` parameter: what a client wants to hear of what it may hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowing {
    /// Named with a prefix, and `ALL`.
    exact: BTreeSet<Audience>,
    /// Other words: a configured channel, otherwise the group and the user of that id.
    bare: BTreeSet<UserId>,
}

/// Most names in `channels=`.
pub const MAX_NARROWING: usize = 300;

/// Why a `channels=` parameter cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NarrowingError {
    /// It begins with `[` and is not a JSON array of strings.
    #[error("channels begins with [ but is not a JSON array of strings")]
    NotAnArray,
    /// Too many names.
    #[error("channels names more than {MAX_NARROWING}")]
    TooMany,
}

impl Narrowing {
    /// Reads `channels=`: comma-separated names, or a JSON array of strings if it begins with `[`.
    /// Names that cannot be anyone's are left out, like unknown ones. Errors: `NarrowingError`.
    pub fn parse(text: &str) -> Result<Self, NarrowingError> {
        let names: Vec<String> = if text.starts_with('[') {
            serde_json::from_str(text).map_err(|_| NarrowingError::NotAnArray)?
        } else {
            text.split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect()
        };
        if names.len() > MAX_NARROWING {
            return Err(NarrowingError::TooMany);
        }
        let mut narrowing = Self { exact: BTreeSet::new(), bare: BTreeSet::new() };
        for address in names.iter().filter_map(|name| Address::parse(name).ok()) {
            match address {
                Address::Bare(word) => drop(narrowing.bare.insert(word)),
                exact => narrowing.exact.extend(exact.audiences()),
            }
        }
        Ok(narrowing)
    }

    /// Whether the client wants to hear an audience. A bare word that names one of the instance's
    /// `channels`, disabled ones too, is never the group or the user of that id.
    pub fn includes(&self, audience: &Audience, channels: &Channels) -> bool {
        if self.exact.contains(audience) {
            return true;
        }
        let (id, is_channel) = match audience {
            Audience::All => return false,
            Audience::User(user) => (user.as_str(), false),
            Audience::Group(group) => (group.as_str(), false),
            Audience::Channel(name) => (name.as_str(), true),
        };
        self.bare.contains(id) && channels.contains_key(id) == is_channel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_exact_and_everything_else_is_bare() {
        let name = |audience: &Audience| {
            assert_eq!(
                (audience.name(), audience.name_bytes()),
                (audience.to_string(), audience.name().len())
            );
            audience.name()
        };
        let canonical = |text: &str| {
            Address::parse(text).unwrap().audiences().iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(canonical("ALL"), ["ALL"]);
        assert_eq!(canonical("user:group:x"), ["user:group:x"]);
        assert_eq!(canonical("group:*"), ["group:*"]);
        assert_eq!(canonical("channel:news"), ["channel:news"]);
        for bare in ["acct:42", "User:x", "CHANNEL:x", "*", "../b", "ÅLL", "АLL", " ALL"] {
            assert_eq!(canonical(bare), [format!("group:{bare}"), format!("user:{bare}")]);
        }
    }

    #[test]
    fn what_addresses_nobody_is_refused() {
        for bad in ["all", "All", "aLL"] {
            assert_eq!(Address::parse(bad), Err(AddressError::AllMisspelt));
        }
        for bad in [
            "",
            "user:",
            "group:",
            "a\nb",
            "user:a\u{0}",
            "\u{85}",
            &"x".repeat(129),
            &format!("user:{}", "x".repeat(129)),
        ] {
            assert_eq!(Address::parse(bad), Err(AddressError::Id), "{bad:?}");
        }
        for bad in ["channel:", "channel:../b", "channel:all"] {
            assert!(matches!(Address::parse(bad), Err(AddressError::ChannelName(_))), "{bad}");
        }
        assert!(
            Address::parse(&"x".repeat(128)).is_ok()
                && Address::parse(&format!("user:{}", "ü".repeat(64))).is_ok()
        );
    }
}
