//! What came out: figures, their medians and ratios, and the drawing of them.

pub mod chart;
pub mod figures;
