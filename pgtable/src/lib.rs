//! ARM LPAE (VMSAv8-64) translation tables for IOMMUs: whole-range,
//! all-or-nothing, without a lock on disjoint ranges.
//!
//! # Protocol
//!
//! * Every call takes `&self` and the caller's
//!   [`SlotGuard`](dmabench_platform::SlotGuard), which is the section that keeps
//!   tables alive while they are read. Callers on disjoint ranges run in
//!   parallel. Calls on *overlapping* ranges at the same time are a bug of the
//!   callers: some entries then come from one call and some from the other, but
//!   memory stays sound (a table is freed only after every section that could
//!   have seen it has ended). [`PageTable::translate`] runs beside everything.
//! * A map or unmap has two passes: the first checks the whole range (and makes
//!   the tables a map needs), the second writes. An error leaves every translation
//!   as it was (invariant A5).
//! * A new table is zeroed before the descriptor that points to it is
//!   published by one compare-exchange (A4); leaves are single 64-bit stores. When
//!   `map` returns, the walker sees the mapping.
//! * An unmap tells its [`UnmapSink`] every range that was translated (A6) and
//!   every table that became unreachable, as a [`DetachedTable`] token. After the
//!   invalidation the caller gives the tokens back with
//!   [`PageTable::release`]; [`PageTable::collect`] then waits for the sections
//!   that could still read them, and frees (A2).
//! * The IOVAs of an unmap must not be mapped again before its invalidation has
//!   completed; that is the IOVA allocator's part (A1).
//! * Tables emptied piece by piece are found by [`PageTable::reclaim`], beside
//!   running maps and unmaps; [`ReclaimTimer`] says when. It costs a map or unmap
//!   nothing: the bit it sets in a descriptor is tested together with the valid
//!   bits.
//!
//! # Formats
//!
//! [`Format`] is what the one algorithm needs to know; [`S1K4`] and its siblings
//! are the formats there are: stage 1 and 2, 4K, 16K and 64K granules, to 52 bits
//! (64K, or FEAT_LPA2), concatenated stage 2 roots (only where the architecture
//! demands them, as in Linux: a guest of 40 bits on a machine of 48 starts at level
//! 0), 32-bit LPAE, Mali. Blocks and the contiguous hint are used at every level that
//! has them; [`TableConfig::page_sizes`] limits them. [`PageTable::registers`] says
//! what the hardware must be told, as fields and as `TTBR`, `TCR`, `VTCR`, `MAIR`.
//!
//! # Example
//!
//! With `std`; without it [`Fences::custom`](dmabench_platform::Fences::custom) or
//! `Symmetric` stands for `detect`, CPUs have slots of their own
//! ([`SlotSource`](dmabench_platform::SlotSource)), and a [`TableMemory`] over page
//! frames stands for [`HeapTables`], whose physical addresses are the program's
//! virtual ones.
//!
//! ```
//! use dmabench_pgtable::{
//!     DetachedTable, DetachedTables, HeapTables, Level, PageTable, Prot, S1K4, TableConfig,
//!     UnmapSink,
//! };
//! use dmabench_platform::{Fences, Iova, PhysAddr, Slots, sync::Arc};
//!
//! /// What is to be invalidated, and the tables to free after that.
//! #[derive(Default)]
//! struct Gather(Vec<(Iova, u64)>, DetachedTables);
//!
//! impl UnmapSink for Gather {
//!     fn leaves(&mut self, iova: Iova, len_bytes: u64, _level: Level) {
//!         self.0.push((iova, len_bytes));
//!     }
//!     fn table(&mut self, table: DetachedTable) {
//!         self.0.push((table.iova(), table.len_bytes()));
//!         self.1.push(table);
//!     }
//! }
//!
//! let slots = Arc::new(Slots::new(0, Fences::detect())?);
//! let table = PageTable::<S1K4, _>::new(TableConfig::new(48, 48), HeapTables, slots.clone())?;
//! let mut gather = Gather::default();
//! {
//!     let slot = slots.enter_fallback();
//!     table.map(&slot, Iova(0x20_0000), PhysAddr(0x8000_0000), 0x20_1000, Prot::READ_WRITE)?;
//!     let found = table.translate(&slot, Iova(0x20_0042)).unwrap();
//!     assert_eq!((found.paddr, found.page_bytes), (PhysAddr(0x8000_0042), 2 << 20));
//!     table.unmap(&slot, Iova(0x20_0000), 0x20_1000, &mut gather)?;
//! }
//! // ... invalidate `gather.0` and wait for it; then:
//! // SAFETY: the invalidation has completed (here: nothing walks this table).
//! unsafe { table.release(gather.1) };
//! table.collect();
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # What it does not do
//!
//! * No lock keeps callers off each other's ranges: the IOVA allocator does.
//! * `map` never replaces an empty table by a block: the walker may cache the
//!   table, so an invalidation would have to come first. It fills the table with
//!   pages; after a `reclaim` the block fits.
//! * Unmapping a part of a block or contiguous run is refused, as Linux refuses
//!   it; [`PageTable::break_leaf`] splits one explicitly.
//! * On AArch64 runs of entries are written one by one: pairs (`stp`) were left
//!   out for want of a machine to test them on.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod bulk;
mod config;
mod descend;
mod detached;
mod dirty;
mod error;
mod even;
mod fault;
mod fill;
pub mod format;
mod install;
mod level;
#[cfg(all(test, loom))]
mod loom_tests;
mod map;
mod map_any;
mod map_sg;
mod memory;
mod pagetable;
mod pool;
mod prot;
mod reclaim;
mod registers;
mod span;
mod split;
mod table;
mod translate;
mod unmap;
mod visit;
mod walker;

pub use config::{CreateError, TableConfig};
pub use detached::{DetachedTable, DetachedTables, UnmapSink};
pub use dirty::{DirtyError, DirtyMarks};
pub use error::{MapError, UnmapError};
pub use format::{
    Format, Geometry, MaliLpae, S1K4, S1K4Lpa2, S1K16, S1K16Lpa2, S1K64, S1Lpae32, S2K4, S2K4Lpa2,
    S2K16, S2K16Lpa2, S2K64, S2Lpae32, Stage,
};
pub use level::Level;
pub use memory::{HeapTables, TableMemory, TableRef};
pub use pagetable::{PageTable, TableStats};
pub use prot::{Prot, Quirks};
pub use reclaim::{ReclaimPolicy, ReclaimTimer, Reclaimed, TableSpan};
pub use registers::{Cacheability, MAIR, Registers, Shareability};
pub use split::{BrokenLeaf, InvalidLeaf, SplitError};
pub use translate::Translation;
pub use visit::{Dump, Entries, Entry};
pub use walker::{Walked, Walker};
