//! Roles: what a token lets its bearer do.

use super::text::{is_id, text_value};

text_value! {
    /// A role's name: 1 to 128 bytes without control characters or spaces.
    Role, RoleError,
    "a role is 1 to 128 bytes without control characters or spaces",
    |text: &str| is_id(text) && !text.contains(' ')
}

impl Role {
    /// Connects, and is needed to publish.
    pub const CONNECT: &'static str = "REALTIME_CONNECT";
    /// Manages an instance.
    pub const ADMIN: &'static str = "REALTIME_ADMIN";
    /// Manages instances and decides quota requests; only together with instance `"*"`.
    pub const OPERATOR: &'static str = "REALTIME_OPERATOR";
}
