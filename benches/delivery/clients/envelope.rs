//! Whom Herald is asked to send a message to: everyone, or the same people behind a rule or a
//! filter.

use crate::scenario::Variant;

/// True of every listener, and of nobody else.
pub const EXPRESSION: &str = "groups.exists(g, g == 'listeners') && user.startsWith('listeners-')";
/// A channel that everyone hears.
pub const PLAIN: &str = "plain";
/// A channel that those hear of whom the expression is true.
pub const RULED: &str = "ruled";

/// How a message is addressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// To these, by their canonical name.
    To(&'static str),
    /// To the plain channel.
    Plain,
    /// To the channel behind a rule.
    Ruled,
    /// To the plain channel, with the same filter each time.
    Filtered,
    /// To the plain channel, with a filter that was never sent before.
    FilteredAnew,
}

impl Envelope {
    /// To everyone.
    pub const EVERYONE: Self = Self::To("ALL");

    /// How a variant's messages are addressed.
    pub fn of(variant: Variant) -> Self {
        match variant {
            Variant::Channel => Self::Plain,
            Variant::Rule => Self::Ruled,
            Variant::Filter => Self::Filtered,
            Variant::NewFilter => Self::FilteredAnew,
            Variant::Floor | Variant::Herald | Variant::WithoutHistory => Self::EVERYONE,
        }
    }

    /// Whether it needs the channels.
    pub fn needs_channels(self) -> bool {
        !matches!(self, Self::To(_))
    }

    /// The message in a request to those by their canonical name.
    pub fn open(self, request: &[u8]) -> Option<&[u8]> {
        let Self::To(name) = self else { return None };
        request
            .strip_prefix(format!(r#"{{"channel":"{name}","message":"#).as_bytes())?
            .strip_suffix(b"}")
    }

    /// The request that publishes `message`, the `number`th of its publisher.
    pub fn seal(self, message: &str, number: u64) -> String {
        let filter = match self {
            Self::Filtered => format!(r#","filter":"{EXPRESSION}""#),
            Self::FilteredAnew => format!(r#","filter":"{EXPRESSION} && user != '{number}'""#),
            _ => String::new(),
        };
        let channel = match self {
            Self::To(name) => name,
            Self::Ruled => RULED,
            Self::Plain | Self::Filtered | Self::FilteredAnew => PLAIN,
        };
        format!(r#"{{"channel":"{channel}","message":{message}{filter}}}"#)
    }
}
