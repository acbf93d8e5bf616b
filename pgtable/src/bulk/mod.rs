//! Runs of neighbouring entries in one table: look at them, fill them, clear
//! them.

mod scalar;

pub(crate) use scalar::{all_zero, and_all, clear, fill};
