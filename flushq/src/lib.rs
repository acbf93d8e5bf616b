//! TLB invalidation: what an unmap leaves to be done, who does it, and what may
//! be released only afterwards.
//!
//! # Protocol
//!
//! **The rule:** I/O virtual addresses and table pages are released only after
//! the invalidation that covers them has completed, in every mode. Two types
//! hold them back until then:
//!
//! * [`Gather`], for one unmap or one batch (strict): filled by the page tables
//!   as an [`UnmapSink`](dmabench_pgtable::UnmapSink), then
//!   [issued](Gather::issue), then [waited for](Issued::wait); only
//!   [`Complete`] gives out what it holds. An error on the way hands the gather
//!   back (A11).
//! * [`FlushQueue`], for many unmaps (lazy): a ring per slot, emptied after a
//!   flush that began after an entry was queued.
//!
//! Both talk to the hardware through [`TlbBackend`]; its documentation has a
//! complete backend. [`CountingBackend`] and [`CostModel`] are backends without
//! hardware: what was asked, and what it would have cost.
//!
//! All of it is called from within a section of the caller's slot
//! ([`SlotGuard`](dmabench_platform::SlotGuard)); flushes run in a pause of it.
//! The only lock is the one between flushers.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
// The errors are large because they hand back what must not be lost; boxing it
// would allocate on a failing path.
#![allow(clippy::result_large_err)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod backend;
mod commands;
mod cost;
mod counting;
mod gather;
mod join;
mod pieces;
pub mod queue;
mod range;

pub use backend::{BackendError, Late, Synced, Ticket, TlbBackend};
pub use commands::{CommandCount, RangeCommands, commands_for, whole_context_from};
pub use cost::{CostModel, HardwareCosts};
pub use counting::{BackendCounts, CountingBackend};
pub use gather::{
    Complete, Detached, Gather, GatherHolder, Issued, NotComplete, NotIssued, PagesIssued,
    PagesKept, PagesRange,
};
pub use join::JoinCost;
pub use pieces::{RangePiece, RangePieces, range_pieces};
pub use queue::{
    FlushQueue, FlushStats, Flushed, Merge, OneRing, PerSlotRings, QueueConfig, QueueConfigError,
    Rings, Room, SharedRoom, SingleQueue,
};
pub use range::TlbRange;
