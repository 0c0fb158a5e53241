//! Pieces of text that are checked once: ids, names and the like.

/// Longest user or group id, in bytes (contract, "Signing in").
pub const MAX_ID_BYTES: usize = 128;

/// Whether `text` may be a user id, a group id or a bare word: 1 to 128 bytes without control
/// characters.
pub(super) fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Makes a cheap-to-clone, validated piece of text: one allocation, compared byte for byte.
macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident, $error:ident, $message:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(std::sync::Arc<str>);

        #[doc = concat!("Why a text is not a `", stringify!($name), "`.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        #[error($message)]
        pub struct $error;

        impl $name {
            #[doc = concat!("Checks `text`. Errors: `", stringify!($error), "` when it breaks the rule above.")]
            pub fn new(text: impl AsRef<str>) -> Result<Self, $error> {
                let text = text.as_ref();
                if $valid(text) { Ok(Self(text.into())) } else { Err($error) }
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same text, shared.
            pub fn into_text(self) -> std::sync::Arc<str> {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                Self::new(text)
            }
        }
    };
}
pub(super) use text_value;
