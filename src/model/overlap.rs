//! Which waits for the IOMMU overlap with the device's transfer, by mode.
//!
//! | mode | who waits for the IOMMU | the device meanwhile |
//! |---|---|---|
//! | passthrough | nobody | - |
//! | bounce | nobody: the pool stays mapped, the copies are processor time | - |
//! | premapped | nobody: the memory stays mapped | - |
//! | strict | each request, before the next transfer begins | idles (at depth 1) |
//! | strict-batched | a batch, once, before the next transfer begins | idles (at depth 1) |
//! | strict-pipelined | each request, while the next one is transferred | works |
//! | lazy, lazy-single, lazy-parked | the request that finds its ring full, for all of them | idles (at depth 1) |
//!
//! "Before the next transfer" is what the driver of the 2021 thread did: its rate
//! fell by the whole cost of the strict unmaps. A deeper device has other
//! requests to work on; [`modelled_mb_per_s`](super::modelled_mb_per_s) sees to
//! that.

use crate::cli::ModeArg;

/// Where a mode's invalidations and waits stand in the sequence of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// There are none.
    Never,
    /// Between a transfer and the next one.
    BeforeNext,
    /// Beside the next transfer, which is started first: invalidation and sync of
    /// request N while the device works on N+1. Request N completes after its
    /// own sync.
    BesideNext,
}

/// Where the waits of `mode` stand.
pub fn waits(mode: ModeArg) -> Waits {
    match mode {
        ModeArg::Passthrough | ModeArg::Bounce | ModeArg::Premapped => Waits::Never,
        ModeArg::Strict
        | ModeArg::StrictBatched
        | ModeArg::Lazy
        | ModeArg::LazySingle
        | ModeArg::LazyParked => Waits::BeforeNext,
        ModeArg::StrictPipelined => Waits::BesideNext,
    }
}

/// Whether each request of `mode` changes translation tables.
pub fn maps(mode: ModeArg) -> bool {
    !matches!(
        mode,
        ModeArg::Passthrough | ModeArg::Bounce | ModeArg::Premapped
    )
}
