//! The driver: brings an SMMUv3 up, attaches streams to translation tables,
//! invalidates, and reports faults.
//!
//! # Protocol
//!
//! * [`Smmu::create_context`] takes an ASID (stage 1, with a context descriptor)
//!   or a VMID (stage 2) for one set of tables. Its [`SmmuContext`] is what
//!   [`TlbBackend`](dmabench_flushq::TlbBackend) methods are given.
//! * [`Smmu::attach`] points a stream at a context, at nothing (abort) or past the
//!   SMMU (bypass). Entries change word by word, in a way that the SMMU at every
//!   moment sees the old or the new entry, or, where two words matter at once, an
//!   invalid one in between (3.21.3).
//! * A context can be destroyed once no stream holds it. Its number is used again
//!   only after everything tagged with it was invalidated and synced (A1); if that
//!   fails, the number and the memory stay taken (A11).
//! * Attaching, detaching, creating and destroying are serialised by one lock per
//!   SMMU, held across bounded waits. Invalidations never take it (with ATS they
//!   take a short one). Several SMMUs are several independent values.
//! * [`Smmu::poll_events`] and [`Smmu::poll_errors`] are called from interrupt
//!   threads or timers; nothing waits for them.

mod attach;
mod backend;
mod config;
mod context;
mod errata;
mod faults;
mod ids;
mod ranges;
mod setup;
mod stream_table;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod writer;

pub use attach::{AtsUse, StreamTarget};
pub use config::{AttachError, ContextError, SetupError, SmmuConfig, StreamTableKind};
pub use context::{SmmuContext, TranslationStage};
pub use errata::Errata;
pub use faults::{ErrorReport, StreamFaults};
pub use ranges::{Addresses, BadRange, RangeEncoder, RangePlan};
pub use setup::Smmu;
pub use writer::{EntryKind, EntryMemory, UpdateKind, update_entry};
