//! Workloads that no trace has, in every mode.

mod generated;
mod random;
