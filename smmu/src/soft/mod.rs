//! A software SMMU that is as hostile as the specification allows.
//!
//! It stands where hardware would: tables lie in [simulated memory](SimMemory),
//! [devices](SimDevice) read and write through it, and the mapping layer talks
//! to it as a [`TlbBackend`](dmabench_flushq::TlbBackend). It answers one
//! question that no figure of time does: *what can a device still reach?*
//!
//! Two ways in: [`SoftSmmu`] takes decoded commands, or ranges as a `TlbBackend`;
//! [`SmmuModel`] puts registers, queues, stream table and context descriptors in
//! front of the same thing, for a driver to program.
//!
//! # How it is hostile
//!
//! * Nothing it remembers, translation or table pointer, ever goes away by
//!   itself; of several entries for an address it uses the oldest, and walks
//!   start at the deepest table it remembers.
//! * An invalidation removes what the specification promises (TTL, TG, Leaf,
//!   ASID, VMID, range) and nothing else; where the range is UNPREDICTABLE, it
//!   removes nothing.
//! * An invalidation takes effect at its sync, or (with a seed) at a random
//!   point before it, in any order.
//! * Stream table entries and context descriptors stay remembered, invalid ones
//!   included, until a `CMD_CFGI` that is certain to remove them and its sync.
//! * A walker refuses descriptors that set reserved address bits.
//!
//! # What it reports
//!
//! Each access is judged against a walk of the tables that uses no cache:
//! *fresh*, or *stale* with the time since when. Four things are
//! [violations](ViolationKind) in every mode: an entry used after its
//! invalidation had completed, an address reused while an old entry still
//! answers, a walk through a table that was given back, and a mapping that a
//! stale table pointer hides. In strict mode a stale access after the unmap has
//! returned is one as well; the caller says so with
//! [`SoftSmmu::declare_gone`].
//!
//! # Concurrency
//!
//! One lock guards what an SMMU remembers; memory has none. Devices, the mapping
//! layer and flushers may use it from any threads. A device that accesses memory
//! *while* it is being unmapped may be reported stale with age 0; a violation is
//! reported only if the state was wrong both before and after the access.

//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use dmabench_flushq::{TlbBackend, TlbRange};
//! use dmabench_pgtable::{DetachedTable, Level, PageTable, Prot, S1K4, TableConfig, UnmapSink};
//! use dmabench_platform::{
//!     Fences, Granule, Iova, PhysAddr, Pinned, Slots, Timeout, VirtualClock,
//! };
//! use dmabench_smmu::soft::*;
//!
//! // Tables in simulated memory, and a device behind the SMMU that reads them.
//! let memory = SimMemory::new(SimMemoryConfig::default())?;
//! let slots = Arc::new(Slots::new(0, Fences::Symmetric)?);
//! let table: PageTable<S1K4, _> =
//!     PageTable::new(TableConfig::new(48, 48), memory.clone(), slots.clone())?;
//! let clock = Arc::new(VirtualClock::default());
//! let smmu = SoftSmmu::new(memory, clock.clone(), SoftConfig::default());
//! let stream = StreamConfig::for_table(1, &table.registers());
//! let device = smmu.attach(stream)?;
//!
//! // A page, mapped and touched.
//! let pin = Pinned::fallback();
//! let slot = slots.enter_pinned(&pin)?;
//! let (iova, page) = (Iova(0xffff_f000), 4096);
//! table.map(&slot, iova, PhysAddr(0x8000_0000), page, Prot::READ_WRITE)?;
//! assert!(device.probe(iova, Access::Write).is_fresh());
//!
//! // Unmapped, but not yet invalidated: the device still gets through.
//! struct Forget;
//! impl UnmapSink for Forget {
//!     fn leaves(&mut self, _: Iova, _: u64, _: Level) {}
//!     fn table(&mut self, _: DetachedTable) {}
//! }
//! table.unmap(&slot, iova, page, &mut Forget)?;
//! clock.advance_ns(1_000_000);
//! assert!(device.probe(iova, Access::Write).is_stale());
//!
//! // Invalidated and synced: no more.
//! let range = TlbRange {
//!     iova,
//!     len_bytes: page,
//!     granule: Granule::K4,
//!     level: Some(Level::LAST),
//!     leaf_only: true,
//! };
//! smmu.invalidate(None, &stream.context(), &[range])?;
//! let ticket = smmu.sync_begin(None)?;
//! let _synced = smmu.sync_wait(None, ticket, Timeout::DEFAULT)?;
//! assert!(device.probe(iova, Access::Write).fault().is_some());
//! assert_eq!(smmu.stats().stale_accesses, 1);
//! assert_eq!(smmu.violations(), []);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backend;
mod bytes;
mod command;
mod cpu_memory;
mod device;
mod memory;
mod model;
mod range;
mod registers;
mod regs;
mod report;
mod state;
mod streams;
mod table_memory;
mod tables;
mod tlb;
mod translate;
mod unit;
mod walk;

pub use command::{Command, Reach, Span, SpanFlaw, SyncSignal};
pub use device::{SimDevice, Touched, Transfer, TransferError};
pub use memory::{
    FRAME_BYTES, MemoryConfigError, MemoryFull, PHYS_BITS, SimMemory, SimMemoryConfig,
};
pub use model::{ModelConfig, SmmuModel};
pub use range::{RangeSupport, SpanIter, Spans, spans};
pub use regs::{RegsError, Stage1Regs, Stage2Regs};
pub use report::{
    Access, Fault, FaultKind, Freshness, Outcome, SoftStats, Stage, Violation, ViolationKind,
};
pub use state::Tamper;
pub use unit::{Defects, SmmuContext, SoftConfig, SoftSmmu, StreamConfig};
