//! Generated workloads: one file each, listed in [`ALL`].
//!
//! A new one implements [`Generator`] in a file of its own and adds itself to
//! the list; command line, report and tests find it there.

mod dd_seq;
mod random;

pub use dd_seq::DdSeq;
pub use random::Random;

use super::Workload;

/// Makes a workload out of a seed.
pub trait Generator: Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// What it stands for, in one sentence.
    fn description(&self) -> &'static str;

    /// The same seed gives the same workload on every machine.
    fn generate(&self, seed: u64) -> Workload;
}

/// Every generator.
pub const ALL: &[&dyn Generator] = &[&DdSeq::DEFAULT];
