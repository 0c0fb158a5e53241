//! What bounds an expression, and what it says of someone.

/// Longest expression, in bytes (contract, "Channels and rules").
pub const MAX_BYTES: usize = 512;
/// Most steps of one evaluation (`Work` says what a step is) beside the work of large regular
/// expressions, and so the most bytes that it writes.
pub const MAX_STEPS: u64 = 10_000_000;
/// Most steps that the size of its regular expressions adds to that.
pub const MAX_PATTERN_STEPS: u64 = 8_000_000;
/// Most steps of one evaluation.
pub const MAX_WORK: u64 = MAX_STEPS + MAX_PATTERN_STEPS;
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
/// Most text in the claims of a token of 16 KiB (contract, "Signing in"), which is Base64 of the
/// claims beside a signature, in bytes.
pub(super) const MAX_CLAIM_BYTES: usize = 12_288;
/// Most values in the same claims: each takes two bytes of JSON, and a key with its value six.
pub(super) const MAX_CLAIM_VALUES: usize = MAX_CLAIM_BYTES / 2;
/// Longest text of an address, in bytes.
pub(super) const MAX_ADDRESS: usize = 45;
/// Longest user agent that is kept, in bytes; what is longer is cut.
pub(super) const MAX_USER_AGENT: usize = 800;
