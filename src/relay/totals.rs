//! Sums of the whole process that many parts add to.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Tells a total of the whole process what has changed in a part of it: mostly nothing, when as
/// much is let go of as is taken in, and then the total is not taken from the other processors.
pub fn adjust(total: &AtomicUsize, before: usize, after: usize) {
    match after.cmp(&before) {
        Ordering::Greater => total.fetch_add(after - before, Relaxed),
        Ordering::Less => total.fetch_sub(before - after, Relaxed),
        Ordering::Equal => 0,
    };
}
