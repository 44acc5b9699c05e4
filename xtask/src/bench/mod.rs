//! Figures: what Atoll costs.
//!
//! How it works: one file per benchmark; [`statistics`] and [`machine`] say how figures are reported: medians with an
//! interval, and beside them the load and the steal of the machine, since a busy machine's figures mean little.
//!
//! Deliberately absent: thresholds. A figure is for a person to judge.

pub(crate) mod footprint;
pub(crate) mod machine;
pub(crate) mod pairs;
pub(crate) mod statistics;
