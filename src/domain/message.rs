//! A message on its way: the publisher's own bytes, their size and depth checked once.

use super::audience::{Address, Audiences};
use super::channel::Slow;
use super::expression::Expression;
use super::principal::UserId;
use super::text::{MAX_ID_BYTES, text_value};
use chrono::{DateTime, Utc};
use memchr::memchr2;
use std::sync::Arc;
use std::time::Duration;

/// Deepest nesting of arrays and objects in a message (contract, "Sending").
pub const MAX_DEPTH: usize = 64;
/// Most users, and most connections, that one message may exclude.
pub const MAX_EXCLUDED: usize = 100;

/// A JSON text within its quota: the publisher's bytes less white space outside strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(Box<str>);

/// Why a JSON text cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// More bytes than the quota allows.
    #[error("the message has {actual} bytes without white space; at most {limit} are allowed")]
    TooLarge {
        /// The quota in bytes.
        limit: usize,
        /// The message's size in bytes.
        actual: usize,
    },
    /// Arrays and objects nested more than 64 deep.
    #[error("the message is nested {actual} deep; at most {MAX_DEPTH} are allowed")]
    TooDeep {
        /// How deep it is.
        actual: usize,
    },
}

impl Payload {
    /// Takes a text that a JSON parser has accepted; numbers, key order and escapes stay as they
    /// are. `limit` is in bytes. Errors: `PayloadError`; depth is looked at first.
    pub fn new(json: &str, limit: usize) -> Result<Self, PayloadError> {
        Self::from_box(json.into(), limit)
    }

    /// The same of a text that nobody else needs: without white space to leave out, it is kept as
    /// it is.
    pub fn from_box(json: Box<str>, limit: usize) -> Result<Self, PayloadError> {
        let (compact, depth) = compact(json);
        if depth > MAX_DEPTH {
            return Err(PayloadError::TooDeep { actual: depth });
        }
        if compact.len() > limit {
            return Err(PayloadError::TooLarge { limit, actual: compact.len() });
        }
        Ok(Self(compact))
    }

    /// The bytes that are delivered.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Drops white space outside strings (RFC 8259 section 2) and measures the nesting.
fn compact(json: Box<str>) -> (Box<str>, usize) {
    let (mut depth, mut deepest): (usize, usize) = (0, 0);
    // Written only once there is something to leave out.
    let mut kept = String::new();
    let (mut start, mut at) = (0, 0);
    while let Some(byte) = json.as_bytes().get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(json.as_bytes(), at),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => {
                kept.push_str(&json[start..at - 1]);
                start = at;
            }
            _ => {}
        }
    }
    if start == 0 {
        return (json, deepest);
    }
    kept.push_str(&json[start..]);
    (kept.into(), deepest)
}

/// Behind the quote that ends the string which `at` lies in. Most of a message is inside strings,
/// where only two bytes matter: looking for them is many times faster than looking at each.
fn string_end(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        match json[at] {
            b'"' => return at + 1,
            _ => at += 2,
        }
    }
    json.len()
}

text_value! {
    /// A message's id, chosen by its publisher: `[A-Za-z0-9._:-]{1,128}` (contract, "Sending").
    MessageId, MessageIdError,
    "an id is 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
    |text: &str| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// Who does not get a message although it is for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusion {
    /// At most 100.
    pub users: Vec<UserId>,
    /// Connection ids, at most 100; unknown ones exclude nobody.
    pub connections: Vec<String>,
}

/// Who publishes a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The token's user.
    pub user: UserId,
    /// The token's component; none for one who publishes by a role.
    pub component: Option<Arc<str>>,
}

impl Author {
    /// Of a component's name its first 128 bytes: it is kept with every message, to be shown.
    pub fn new(user: UserId, component: Option<&str>) -> Self {
        let cut = |name: &str| name[..name.floor_char_boundary(MAX_ID_BYTES)].into();
        Self { user, component: component.map(cut) }
    }
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Each receiver gets the message once, however many of these it belongs to; never empty.
    pub audiences: Audiences,
    /// Who is left out.
    pub exclude: Exclusion,
    /// Who else is left out: everyone of whom it is not true.
    pub filter: Option<Expression>,
}

/// A message that may be sent: whole, within its limits, and for audiences that exist. What is
/// remembered of it shares its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique in the instance.
    pub id: Arc<str>,
    /// Who publishes it.
    pub author: Arc<Author>,
    /// As published; what the receivers see in `channel`.
    pub address: Arc<str>,
    /// Whom it is for.
    pub reach: Arc<Reach>,
    /// What a receiver gets that does not read fast enough; `Latest` only of a message for one
    /// channel.
    pub slow: Slow,
    /// When it was accepted; receivers see milliseconds.
    pub time: DateTime<Utc>,
    /// How long it is worth sending to those who resume; none for as long as the window, zero for
    /// live only.
    pub ttl: Option<Duration>,
    /// What is delivered.
    pub payload: Payload,
}

/// What a publisher asked for: read and checked, but not yet resolved against the configured
/// channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// `channel` as written.
    pub written: Arc<str>,
    /// What `channel` says.
    pub address: Address,
    /// `message` as written; its quota depends on the channel.
    pub json: Box<str>,
    /// `exclude`.
    pub exclude: Exclusion,
    /// `filter`.
    pub filter: Option<Expression>,
    /// `ttl`.
    pub ttl: Option<Duration>,
    /// `id`, where the publisher chose one.
    pub id: Option<MessageId>,
}

#[cfg(test)]
impl Reach {
    /// Everyone of this audience.
    pub fn all_of(audience: super::audience::Audience) -> Self {
        Self {
            audiences: smallvec::smallvec![audience],
            exclude: Exclusion::default(),
            filter: None,
        }
    }
}

#[cfg(test)]
impl Message {
    /// A message for everyone.
    pub fn of_a_test(id: &str) -> Self {
        Self {
            id: id.into(),
            author: Arc::new(Author { user: UserId::new("shop").unwrap(), component: None }),
            address: "ALL".into(),
            reach: Arc::new(Reach::all_of(crate::domain::audience::Audience::All)),
            slow: Slow::Disconnect,
            time: DateTime::UNIX_EPOCH,
            ttl: None,
            payload: Payload::new("1", 1).unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_components_name_128_bytes_are_kept() {
        let kept = |name: &str| {
            let author = Author::new(UserId::new("shop").unwrap(), Some(name));
            author.component.map(|component| component.len())
        };
        let cases = ["x".repeat(127), "x".repeat(128), "x".repeat(129), "é".repeat(9_000)];
        assert_eq!(cases.map(|name| kept(&name)), [127, 128, 128, 128].map(Some));
        assert_eq!(kept(&format!("x{}", "é".repeat(64))), Some(127));
    }

    #[test]
    fn white_space_goes_outside_strings_only_and_bytes_stay() {
        let json = "{ \"b\" : [ 1.50 , 1e400 ,\t\"a \\\" b \\\\\" ] ,\r\n \"a\":\"\\u00e9 é\" }";
        let payload = Payload::new(json, 1_000).unwrap();
        assert_eq!(payload.as_str(), "{\"b\":[1.50,1e400,\"a \\\" b \\\\\"],\"a\":\"\\u00e9 é\"}");
        assert_eq!(Payload::new(" null ", 4).unwrap().as_str(), "null");
    }

    #[test]
    fn the_quota_counts_bytes_without_white_space() {
        assert!(Payload::new(" \"éé\" ", 6).is_ok());
        assert_eq!(
            Payload::new(" \"éé\" ", 5),
            Err(PayloadError::TooLarge { limit: 5, actual: 6 })
        );
    }

    #[test]
    fn depth_is_at_most_64() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Payload::new(&nested(63), 1_000).is_ok());
        assert!(Payload::new(&nested(64), 1_000).is_ok());
        assert_eq!(Payload::new(&nested(65), 1_000), Err(PayloadError::TooDeep { actual: 65 }));
        assert!(Payload::new(&format!("\"{}\"", "[".repeat(100)), 1_000).is_ok());
    }
}
