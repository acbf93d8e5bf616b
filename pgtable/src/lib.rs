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
//! * The free range of IOVAs must not be mapped again before the invalidation
//!   of the unmap has completed; that is the IOVA allocator's part (A1).
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod bulk;
mod config;
mod detached;
mod dirty;
mod error;
mod fault;
pub mod format;
mod level;
#[cfg(all(test, loom))]
mod loom_tests;
mod map;
mod map_sg;
mod memory;
mod pagetable;
mod pool;
mod prot;
mod reclaim;
mod registers;
mod split;
mod table;
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
pub use pagetable::{PageTable, TableStats, Translation};
pub use prot::{Prot, Quirks};
pub use reclaim::{ReclaimPolicy, ReclaimTimer, Reclaimed, TableSpan};
pub use registers::{Cacheability, MAIR, Registers, Shareability};
pub use split::{BrokenLeaf, InvalidLeaf, SplitError};
pub use visit::{Dump, Entries, Entry};
pub use walker::{Walked, Walker};
