//! What can be measured, a file for each.

pub mod churn;
pub mod connects;
pub mod delays;
pub mod delivery;
pub mod fairness;
pub mod idle;
pub mod matrix;
pub mod publishes;
pub mod restart;
pub mod saturated;
pub mod stalls;
pub mod storm;
