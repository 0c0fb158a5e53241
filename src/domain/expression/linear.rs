//! Bounds that grow with the size of the element that a macro looks at.

use super::meter::{BYTES_PER_STEP, steps_to_read};

/// `fixed`, and `per` for each unit of the element's size.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Linear {
    pub fixed: u64,
    pub per: u64,
}

impl Linear {
    pub fn fixed(fixed: u64) -> Self {
        Self { fixed, per: 0 }
    }

    pub fn per(per: u64) -> Self {
        Self { fixed: 0, per }
    }

    pub fn add(self, fixed: u64) -> Self {
        self.plus(Self::fixed(fixed))
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            fixed: self.fixed.saturating_add(other.fixed),
            per: self.per.saturating_add(other.per),
        }
    }

    pub fn times(self, factor: u64) -> Self {
        Self { fixed: self.fixed.saturating_mul(factor), per: self.per.saturating_mul(factor) }
    }

    pub fn min(self, other: Self) -> Self {
        if self.fixed <= other.fixed && self.per <= other.per { self } else { other }
    }

    pub fn max(self, other: Self) -> Self {
        Self { fixed: self.fixed.max(other.fixed), per: self.per.max(other.per) }
    }

    /// Bytes of the element as steps to read them.
    pub fn read(self) -> Self {
        Self { fixed: steps_to_read(self.fixed), per: self.per }
    }

    /// Bytes of the element as steps to write them: a unit of weight is up to sixteen bytes.
    pub fn by_weight(self) -> Self {
        Self { fixed: self.fixed, per: self.per.saturating_mul(BYTES_PER_STEP) }
    }

    /// The sum over so many elements that together have such a size.
    pub fn total(self, elements: u64, size: u64) -> u64 {
        self.fixed.saturating_mul(elements).saturating_add(self.per.saturating_mul(size))
    }
}
