//! What bounds an expression, and what it says of someone.

/// Longest expression, in bytes (contract, "Channels and rules").
pub const MAX_BYTES: usize = 512;
/// Most steps of one evaluation (`Work` says what a step is), and so the most bytes that it writes.
pub const MAX_STEPS: u64 = 1_000_000;
/// Most elements that a macro or `in` walks over, and that `+` makes; a longer list is an error
/// when evaluated.
pub const MAX_ELEMENTS: usize = 256;
/// Longest text that `+` makes and that a regular expression reads, in bytes.
pub const MAX_TEXT: usize = 1_024;
/// Longest reason of an explanation, in bytes.
pub const MAX_REASON: usize = 512;

/// How deep brackets and `?:` may nest.
pub(super) const MAX_NESTING: u16 = 12;
/// How deep the parts of an expression may lie within each other; `a.b.c` is two deep.
pub(super) const MAX_DEPTH: usize = 32;
/// Largest compiled regular expression, in bytes.
pub(super) const MAX_REGEX: usize = 64 << 10;
/// Most text in the claims of a token of 8 KiB, which is Base64 of the claims beside a signature,
/// in bytes.
pub(super) const MAX_CLAIM_BYTES: usize = 6_144;
/// Most values in the same claims: each takes two bytes of JSON.
pub(super) const MAX_CLAIM_VALUES: usize = MAX_CLAIM_BYTES / 2;
/// Longest text of an address, in bytes.
pub(super) const MAX_ADDRESS: usize = 45;
/// Longest user agent that is kept, in bytes; what is longer is cut.
pub(super) const MAX_USER_AGENT: usize = 800;
