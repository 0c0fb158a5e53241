//! What an expression costs: steps when it is evaluated, and bytes while it is compiled.

use super::tree::{Literal, Node, What};
use std::iter::Sum;
use std::ops::Add;

/// What a part is counted with beyond its texts, with what an allocator adds to it.
const NODE_BYTES: usize = size_of::<Node>() + 32;

/// What expressions cost together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// The most steps that evaluating each of them once takes, for any token of at most 16 KiB.
    pub steps: u64,
    /// The most bytes that they take, compiled.
    pub bytes: usize,
}

/// What a cost is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Too many steps.
    Steps {
        /// The most there may be.
        limit: u64,
        /// How many there are.
        actual: u64,
    },
    /// Too many bytes.
    Bytes {
        /// The most there may be.
        limit: usize,
        /// How many there are.
        actual: usize,
    },
}

impl Cost {
    /// Whether it is within a bound. Errors: `Excess`, the steps first.
    pub fn within(self, bound: Self) -> Result<(), Excess> {
        if self.steps > bound.steps {
            return Err(Excess::Steps { limit: bound.steps, actual: self.steps });
        }
        if self.bytes > bound.bytes {
            return Err(Excess::Bytes { limit: bound.bytes, actual: self.bytes });
        }
        Ok(())
    }

    /// Whether neither figure is above the other's.
    pub fn is_at_most(self, other: Self) -> bool {
        self.within(other).is_ok()
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            steps: self.steps.saturating_add(other.steps),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Self::add)
    }
}

impl Excess {
    /// The most there may be.
    pub fn limit(self) -> u64 {
        match self {
            Self::Steps { limit, .. } => limit,
            Self::Bytes { limit, .. } => limit as u64,
        }
    }

    /// How much there is.
    pub fn actual(self) -> u64 {
        match self {
            Self::Steps { actual, .. } => actual,
            Self::Bytes { actual, .. } => actual as u64,
        }
    }

    /// What there is too much of.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Steps { .. } => "steps",
            Self::Bytes { .. } => "bytes",
        }
    }
}

impl Node {
    /// The most bytes that it takes with all its parts.
    pub fn bytes(&self) -> usize {
        let own = match &self.what {
            What::Literal(literal) => literal.bytes(),
            What::Element(name) | What::Select(_, name) => name.len(),
            What::Matches(_, pattern) => pattern.bytes(),
            What::Walk(walk) => walk.element.len() + NODE_BYTES,
            What::Map(entries) => {
                entries.iter().map(|(key, _)| key.bytes() + 2 * size_of::<Literal>()).sum()
            }
            _ => 0,
        };
        NODE_BYTES + own + self.operands().into_iter().map(Self::bytes).sum::<usize>()
    }
}

impl Literal {
    fn bytes(&self) -> usize {
        if let Self::Text(text) = self { text.len() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_held_to_each_figure_of_its_bound() {
        let bound = Cost { steps: 10, bytes: 20 };
        for (steps, bytes, held) in [
            (9, 19, Ok(())),
            (10, 20, Ok(())),
            (11, 20, Err(Excess::Steps { limit: 10, actual: 11 })),
            (10, 21, Err(Excess::Bytes { limit: 20, actual: 21 })),
        ] {
            assert_eq!(Cost { steps, bytes }.within(bound), held);
            assert_eq!(Cost { steps, bytes }.is_at_most(bound), held.is_ok());
        }
        let sum: Cost = [bound, bound].into_iter().sum();
        assert_eq!(sum, Cost { steps: 20, bytes: 40 });
    }
}
