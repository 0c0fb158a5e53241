//! Tokens that an instance's administrators no longer accept: by id, or all that a user got before
//! a time.

use super::principal::{Principal, UserId};
use super::text::text_value;
use chrono::{DateTime, Duration, Timelike, Utc};
use std::collections::{HashMap, HashSet};

/// Most revocations of an instance.
pub const MAX_REVOCATIONS: usize = 10_000;

text_value! {
    /// A token's id, its `jti` (RFC 7519, section 4.1.7): 1 to 512 bytes without control
    /// characters.
    TokenId, TokenIdError,
    "a token's id is 1 to 512 bytes without control characters",
    |text: &str| (1..=512).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What is no longer accepted. Times are whole seconds, as tokens give them; see [`whole_seconds`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// One token.
    Token {
        /// Its `jti`.
        id: TokenId,
        /// Its `exp`, or later: until then it stays revoked.
        expires_at: DateTime<Utc>,
    },
    /// A user's tokens.
    User {
        /// Their `sub`.
        id: UserId,
        /// Those whose `iat` is earlier, and those without one.
        issued_before: DateTime<Utc>,
    },
}

impl Revocation {
    /// Whether both speak of the same token, or of the same user; an instance has one of each.
    pub fn is_about_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Token { id, .. }, Self::Token { id: others, .. }) => id == others,
            (Self::User { id, .. }, Self::User { id: others, .. }) => id == others,
            _ => false,
        }
    }

    /// The later of the two, so that repeating one never accepts a token again.
    pub fn or_later(self, other: &Self) -> Self {
        let is_later = self.is_about_the_same_as(other) && other.time() > self.time();
        if is_later { other.clone() } else { self }
    }

    fn time(&self) -> DateTime<Utc> {
        match self {
            Self::Token { expires_at: time, .. } | Self::User { issued_before: time, .. } => *time,
        }
    }
}

/// `time` in whole seconds, rounded up: a token that was issued earlier in the same second counts
/// as before.
pub fn whole_seconds(time: DateTime<Utc>) -> DateTime<Utc> {
    let whole = time.with_nanosecond(0).unwrap_or(time);
    if whole == time { whole } else { whole + Duration::seconds(1) }
}

/// All revocations of an instance, as the hot path asks them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    tokens: HashSet<TokenId>,
    /// To `issued_before`, in seconds since the Unix epoch.
    users: HashMap<UserId, i64>,
}

impl Revocations {
    /// Whether the principal's token is one of them. Ends are not looked at: a token whose entry
    /// has ended has expired.
    pub fn revokes(&self, principal: &Principal) -> bool {
        let by_id = principal.token_id.as_ref().is_some_and(|id| self.tokens.contains(&**id));
        let issued_before = self.users.get(&principal.user);
        by_id
            || issued_before.is_some_and(|before| {
                principal.issued_at.is_none_or(|issued_at| issued_at < *before)
            })
    }
}

impl FromIterator<Revocation> for Revocations {
    fn from_iter<I: IntoIterator<Item = Revocation>>(revocations: I) -> Self {
        let mut all = Self::default();
        for revocation in revocations {
            match revocation {
                Revocation::Token { id, .. } => drop(all.tokens.insert(id)),
                Revocation::User { id, issued_before } => {
                    let before = all.users.entry(id).or_insert(i64::MIN);
                    *before = issued_before.timestamp().max(*before);
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::principal::Scope;
    use super::*;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn token(id: &str, expires_at: i64) -> Revocation {
        Revocation::Token { id: TokenId::new(id).unwrap(), expires_at: time(expires_at) }
    }

    fn user(id: &str, issued_before: i64) -> Revocation {
        Revocation::User { id: UserId::new(id).unwrap(), issued_before: time(issued_before) }
    }

    fn principal(user: &str, token_id: Option<&str>, issued_at: Option<i64>) -> Principal {
        Principal {
            scope: Scope::Everywhere,
            token_id: token_id.map(Into::into),
            issued_at,
            ..Principal::new(UserId::new(user).unwrap(), 1_000)
        }
    }

    #[test]
    fn a_token_is_revoked_by_its_id_or_by_its_user_and_time() {
        let all: Revocations =
            [token("t", 900), user("a", 100), user("a", 50)].into_iter().collect();
        for (user, token_id, issued_at, revoked) in [
            ("b", Some("t"), Some(500), true),
            ("b", Some("T"), Some(0), false),
            ("b", None, None, false),
            ("a", None, Some(99), true),
            ("a", None, Some(100), false),
            ("a", Some("u"), None, true),
            ("A", None, Some(99), false),
        ] {
            assert_eq!(
                all.revokes(&principal(user, token_id, issued_at)),
                revoked,
                "{user} {token_id:?} {issued_at:?}"
            );
        }
        assert!(!Revocations::default().revokes(&principal("a", Some("t"), None)));
    }

    #[test]
    fn the_later_one_holds() {
        assert_eq!(user("a", 5).or_later(&user("a", 7)), user("a", 7));
        assert_eq!(user("a", 7).or_later(&user("a", 5)), user("a", 7));
        assert_eq!(token("t", 5).or_later(&token("t", 7)), token("t", 7));
        assert_eq!(user("t", 5).or_later(&token("t", 7)), user("t", 5));
    }

    #[test]
    fn a_part_of_a_second_counts_as_the_whole() {
        for (millis, seconds) in [(5_000, 5), (5_001, 6), (5_999, 6), (-1, 0), (-1_000, -1)] {
            assert_eq!(
                whole_seconds(DateTime::from_timestamp_millis(millis).unwrap()),
                time(seconds),
                "{millis}"
            );
        }
    }
}
