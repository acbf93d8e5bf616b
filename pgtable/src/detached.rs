//! Table pages that no descriptor points to any more, but a walk cache may.

use core::fmt;

use dmabench_platform::{Iova, PhysAddr, sync::atomic::Ordering};

use crate::{Level, table::Table};

/// In entry 0 of a dead table: the physical address of the next one and this
/// bit. Bit 0 is clear, so a stale walker takes it for an invalid descriptor.
const LINK: u64 = 1 << 2;
/// In entry 0 of the last dead table of a list.
const END: u64 = 1 << 1;

/// What entry 0 of a dead table says.
pub(crate) enum Link {
    Next(PhysAddr),
    End,
    /// Somebody wrote to the table after it was detached: two callers used the
    /// same range at the same time. What they can store is zero or a valid
    /// descriptor, so a link that is neither is intact.
    Damaged,
}

pub(crate) fn read_link(value: u64) -> Link {
    match value {
        END => Link::End,
        v if v & 7 == LINK => Link::Next(PhysAddr(v & !7)),
        _ => Link::Damaged,
    }
}

pub(crate) fn link_to(next: Option<PhysAddr>) -> u64 {
    match next {
        Some(phys) => phys.0 | LINK,
        None => END,
    }
}

/// A table page that an unmap took out of the tree. The walker may still hold
/// its address: it goes back through
/// [`PageTable::release`](crate::PageTable::release), after an invalidation
/// of its span, leaf and walk-cache entries alike.
///
/// Dropping it leaks the page.
#[must_use = "dropping a detached table leaks it; push it to a `DetachedTables` and release that after the invalidation"]
pub struct DetachedTable {
    pub(crate) table: Table,
    pub(crate) phys: PhysAddr,
    pub(crate) iova: Iova,
    pub(crate) span_lg2: u32,
    pub(crate) level: Level,
}

impl DetachedTable {
    /// First IOVA that was translated through the table.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// Bytes of IOVA space that were translated through it.
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        1 << self.span_lg2
    }

    /// The level of its entries; the descriptor that pointed to it stood one
    /// level above.
    #[inline]
    pub fn level(&self) -> Level {
        self.level
    }
}

impl fmt::Debug for DetachedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedTable")
            .field("phys", &self.phys)
            .field("iova", &self.iova)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// Detached tables waiting for one invalidation. Needs no memory: the tables
/// themselves hold the list.
///
/// All of them must come from one page table. Dropping a list that is not empty
/// leaks its pages (the page table counts them as outstanding); it never frees
/// them.
#[must_use = "dropping detached tables leaks them; release them after the invalidation"]
#[derive(Default)]
pub struct DetachedTables {
    /// First table and last.
    ends: Option<(Dead, Dead)>,
    count: u64,
}

/// A dead table by both addresses.
#[derive(Clone, Copy)]
pub(crate) struct Dead {
    pub(crate) table: Table,
    pub(crate) phys: PhysAddr,
}

impl Dead {
    /// # Safety
    ///
    /// The table's memory is not freed meanwhile.
    pub(crate) unsafe fn set_link(self, next: Option<PhysAddr>) {
        // SAFETY: every table has an entry 0, and it is alive as promised.
        unsafe { self.table.entry(0) }.store(link_to(next), Ordering::Relaxed);
    }
}

impl DetachedTables {
    /// No tables.
    pub const fn new() -> Self {
        DetachedTables {
            ends: None,
            count: 0,
        }
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_none()
    }

    /// How many there are.
    #[inline]
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Adds one.
    pub fn push(&mut self, table: DetachedTable) {
        let new = Dead {
            table: table.table,
            phys: table.phys,
        };
        // SAFETY: a token exists for this table, so it has not been released.
        unsafe { new.set_link(self.ends.map(|(first, _)| first.phys)) };
        let last = self.ends.map_or(new, |(_, last)| last);
        self.ends = Some((new, last));
        self.count += 1;
    }

    /// Moves all of `other` to this list, at no cost per table.
    pub fn append(&mut self, other: &mut DetachedTables) {
        let Some((other_first, other_last)) = other.ends.take() else {
            return;
        };
        self.count += core::mem::take(&mut other.count);
        let last = match self.ends {
            Some((first, last)) => {
                // SAFETY: the lists own their tables until they are released.
                unsafe { other_last.set_link(Some(first.phys)) };
                last
            }
            None => other_last,
        };
        self.ends = Some((other_first, last));
    }

    /// First and last table, and how many.
    pub(crate) fn into_ends(mut self) -> Option<(Dead, Dead, u64)> {
        let (first, last) = self.ends.take()?;
        Some((first, last, self.count))
    }
}

impl fmt::Debug for DetachedTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedTables")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// What an unmap leaves to be done, told as it goes.
///
/// Everything that was translated is covered by the calls of
/// [`leaves`](Self::leaves) (invariant A6); neighbouring entries of one
/// level mostly come as one range.
///
/// # Panics
///
/// A sink must not panic: it is called with the entries cleared already, and
/// what it has not been told of when it unwinds is never told. Memory stays
/// sound and nothing is freed early: tables that were on the way to the sink
/// leak. But nobody knows which part of the range is still translated, by the
/// tables or by a TLB, so its addresses and buffers must not be used again
/// before the whole address space has been invalidated; what is left in the
/// tables can be unmapped page by page. (`flushq::Gather` does not panic.)
pub trait UnmapSink {
    /// `len_bytes` from `iova` on were translated by leaves of `level`. A
    /// range of contiguous-hint entries is told as any other: invalidating it
    /// whole covers the runs.
    fn leaves(&mut self, iova: Iova, len_bytes: u64, level: Level);

    /// Whether [`dirty`](Self::dirty) is to be told. Clearing then takes one
    /// atomic exchange per entry, so that no mark that the hardware sets on the
    /// way is lost.
    #[inline]
    fn wants_dirty(&self) -> bool {
        false
    }

    /// `len_bytes` from `iova` on were written through ([`Quirks::ARM_HD`](crate::Quirks::ARM_HD)).
    #[inline]
    fn dirty(&mut self, iova: Iova, len_bytes: u64) {
        let _ = (iova, len_bytes);
    }

    /// A table became unreachable. Its span needs an invalidation that covers
    /// walk caches, then it is released.
    fn table(&mut self, table: DetachedTable);
}

impl<S: UnmapSink + ?Sized> UnmapSink for &mut S {
    #[inline]
    fn leaves(&mut self, iova: Iova, len_bytes: u64, level: Level) {
        (**self).leaves(iova, len_bytes, level);
    }

    #[inline]
    fn wants_dirty(&self) -> bool {
        (**self).wants_dirty()
    }

    #[inline]
    fn dirty(&mut self, iova: Iova, len_bytes: u64) {
        (**self).dirty(iova, len_bytes);
    }

    #[inline]
    fn table(&mut self, table: DetachedTable) {
        (**self).table(table);
    }
}
