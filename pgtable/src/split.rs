//! Splitting a block or a contiguous run into smaller leaves, by
//! break-before-make (Arm DDI 0487 D8.16): the old entry goes, the TLB forgets
//! it, the new ones come. Each step is a type, so that none can be left out:
//!
//! [`BrokenLeaf`] -> `synced` -> [`InvalidLeaf`] -> `make`.
//!
//! Meanwhile a mark stands in the entries. The walker sees them as invalid, maps
//! see them as taken, and `reclaim` leaves their table alone.

use core::fmt;

use dmabench_platform::{Iova, SlotGuard, sync::atomic::Ordering};

use crate::{
    Format, Level, PageTable, TableMemory, UnmapError,
    detached::Dead,
    dirty::is_dirty,
    fault::{Fault, broken},
    format::{CONTIGUOUS, DBM, READ_ONLY, VALID},
    pool::NoTable,
    table::Table,
};

/// In every entry of a leaf that is being split. Bit 0 is clear.
const SPLITTING: u64 = 1 << 57;

/// Why a leaf cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitError {
    /// Nothing is mapped there, or the address is outside the input space.
    NotMapped {
        /// What was asked for.
        iova: Iova,
    },
    /// It is a single page.
    Smallest {
        /// What was asked for.
        iova: Iova,
    },
    /// No memory for the table of smaller leaves.
    OutOfTables,
    /// Another call changed the same leaf at the same time: a bug of the
    /// callers.
    Conflict {
        /// Where it was noticed.
        iova: Iova,
    },
    /// The guard is of another slot table than this page table.
    WrongSlots,
    /// The leaf was broken out of another page table.
    OtherTable,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SplitError::NotMapped { iova } => write!(f, "{iova} is not mapped: nothing to split"),
            SplitError::Smallest { iova } => {
                write!(f, "{iova} is a single page: it cannot be split")
            }
            SplitError::OutOfTables => {
                f.write_str("no memory for a table: free some and try again")
            }
            SplitError::Conflict { iova } => write!(
                f,
                "another call changes {iova} at the same time: callers must own their ranges"
            ),
            SplitError::WrongSlots => UnmapError::WrongSlots.fmt(f),
            SplitError::OtherTable => {
                f.write_str("the leaf is of another page table: finish the split there")
            }
        }
    }
}

impl core::error::Error for SplitError {}

/// What both steps carry.
struct Leaf {
    /// The page table it is of, since offset, shift and table mean nothing to
    /// any other.
    owner: u64,
    off: u64,
    iova: Iova,
    shift: u32,
    /// Entries it had: more than 1 for a contiguous run.
    entries: usize,
    /// The first entry as it was, with the marks of all.
    descriptor: u64,
    /// The table that takes a block's place.
    table: Option<Dead>,
}

impl Leaf {
    fn len_bytes(&self) -> u64 {
        (self.entries as u64) << self.shift
    }
}

/// A leaf that was taken out to be split. The device faults on it until the
/// split is finished, or undone by [`PageTable::unbreak`].
///
/// Dropping it leaves the range unmapped for good and leaks a table.
#[must_use = "invalidate the range, then call `synced` and `PageTable::make`"]
pub struct BrokenLeaf {
    leaf: Leaf,
    level: Level,
}

/// A leaf that is out of the table and out of every TLB.
///
/// Dropping it leaves the range unmapped for good and leaks a table.
#[must_use = "call `PageTable::make` to finish the split"]
pub struct InvalidLeaf {
    leaf: Leaf,
}

impl BrokenLeaf {
    /// First IOVA to invalidate.
    pub fn iova(&self) -> Iova {
        self.leaf.iova
    }

    /// Bytes to invalidate.
    pub fn len_bytes(&self) -> u64 {
        self.leaf.len_bytes()
    }

    /// The level of the leaf.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The invalidation has completed.
    ///
    /// # Safety
    ///
    /// An invalidation of leaf entries over the whole range began after the
    /// leaf was broken and has completed: no TLB holds it any more.
    pub unsafe fn synced(self) -> InvalidLeaf {
        InvalidLeaf { leaf: self.leaf }
    }
}

impl fmt::Debug for BrokenLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokenLeaf")
            .field("iova", &self.iova())
            .field("len_bytes", &self.len_bytes())
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for InvalidLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvalidLeaf")
            .field("iova", &self.leaf.iova)
            .field("len_bytes", &self.leaf.len_bytes())
            .finish_non_exhaustive()
    }
}

/// A leaf that can be marked as written, with or without the mark.
fn marked(leaf: u64, dirty: bool) -> u64 {
    match (leaf & DBM != 0, dirty) {
        (false, _) => leaf,
        (true, true) => leaf & !READ_ONLY,
        (true, false) => leaf | READ_ONLY,
    }
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Step one: takes the block or contiguous run around `iova` out. A block
    /// will become a table of leaves of the next level, a run single entries
    /// without the hint.
    ///
    /// # Errors
    ///
    /// [`SplitError`]; nothing has then changed.
    pub fn break_leaf(&self, slot: &SlotGuard<'_>, iova: Iova) -> Result<BrokenLeaf, SplitError> {
        if !self.guard_is_ours(slot) {
            return Err(SplitError::WrongSlots);
        }
        let off = iova.0.wrapping_sub(self.base);
        if off > self.ia_mask {
            return Err(SplitError::NotMapped { iova });
        }
        let (Some((descriptor, table, index)), shift) = self.find(off) else {
            return Err(SplitError::NotMapped { iova });
        };
        let level = Self::level_of(shift);
        let hinted = descriptor & CONTIGUOUS != 0;
        let entries = if hinted {
            1 << F::contiguous_lg2(level)
        } else {
            1
        };
        if shift == F::PAGE_LG2 && !hinted {
            return Err(SplitError::Smallest { iova });
        }
        let size = (entries as u64) << shift;
        let first = index & !(entries - 1);
        // The new table is there before the old leaf goes, so that step three
        // cannot fail for want of memory.
        let new = if hinted {
            None
        } else {
            match self.pool.take() {
                Ok(new) => Some(new),
                Err(NoTable::OutOfMemory | NoTable::Unreachable(_)) => {
                    return Err(SplitError::OutOfTables);
                }
            }
        };
        let oa = F::decode_oa(descriptor).wrapping_sub(((index - first) as u64) << shift);
        let attrs = descriptor & !F::encode_oa(F::decode_oa(u64::MAX));
        let leaf = |i: usize| F::encode_oa(oa + ((i as u64) << shift)) | attrs;
        let mut dirty = false;
        for i in 0..entries {
            // SAFETY: runs are aligned and never longer than their table; in a
            // section.
            if let Some(was) = unsafe { self.take_leaf(table, first + i, leaf(i)) } {
                dirty |= is_dirty(was);
                continue;
            }
            // It is not what it was: somebody else's range. What was taken of
            // it goes back.
            for done in 0..i {
                let value = marked(leaf(done), dirty);
                // SAFETY: as above.
                let entry = unsafe { self.entry(table, first + done) };
                let _ =
                    entry.compare_exchange(SPLITTING, value, Ordering::AcqRel, Ordering::Relaxed);
            }
            // SAFETY: as above.
            unsafe { self.clean(table, first, i) };
            self.pool.memory.publish();
            if let Some(new) = new {
                // SAFETY: taken above, never filled nor linked.
                unsafe { self.pool.put(new) };
            }
            return Err(SplitError::Conflict { iova });
        }
        // One mark stands for all.
        let whole = marked(leaf(0), dirty);
        // SAFETY: as above.
        unsafe { self.clean(table, first, entries) };
        self.pool.memory.publish();
        let start = off & !(size - 1);
        Ok(BrokenLeaf {
            leaf: Leaf {
                owner: self.id,
                off: start,
                iova: self.iova(start),
                shift,
                entries,
                descriptor: whole,
                table: new,
            },
            level,
        })
    }

    /// Puts the mark in the place of `leaf`, dirty or clean, and only of that.
    /// What was there.
    ///
    /// # Safety
    ///
    /// The entry is in the table.
    unsafe fn take_leaf(&self, table: Table, index: usize, leaf: u64) -> Option<u64> {
        // SAFETY: as promised.
        let entry = unsafe { self.entry(table, index) };
        if broken(Fault::BreakBySwap) {
            return Some(entry.swap(SPLITTING, Ordering::AcqRel));
        }
        let mut seen = entry.load(Ordering::Relaxed);
        loop {
            if marked(seen, true) != marked(leaf, true) {
                return None;
            }
            // The walker may mark it as written meanwhile.
            match entry.compare_exchange(seen, SPLITTING, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(seen),
                Err(now) => seen = now,
            }
        }
    }

    /// Undoes step one: the leaf comes back as it was. Needs no invalidation.
    ///
    /// # Errors
    ///
    /// [`SplitError::WrongSlots`], [`SplitError::OtherTable`] and
    /// [`SplitError::Conflict`], with the leaf.
    pub fn unbreak(
        &self,
        slot: &SlotGuard<'_>,
        broken: BrokenLeaf,
    ) -> Result<(), (SplitError, BrokenLeaf)> {
        let leaf = &broken.leaf;
        match self.restore(slot, leaf, leaf.descriptor, 1 << leaf.shift) {
            Ok(()) => {
                if let Some(table) = broken.leaf.table {
                    // SAFETY: taken for this split, never filled nor linked.
                    unsafe { self.pool.put(table) };
                }
                Ok(())
            }
            Err(error) => Err((error, broken)),
        }
    }

    /// Step three: the same translations by smaller leaves.
    ///
    /// # Errors
    ///
    /// [`SplitError::WrongSlots`], [`SplitError::OtherTable`] and
    /// [`SplitError::Conflict`], with the leaf.
    pub fn make(
        &self,
        slot: &SlotGuard<'_>,
        invalid: InvalidLeaf,
    ) -> Result<(), (SplitError, InvalidLeaf)> {
        let leaf = &invalid.leaf;
        if let Err(error) = self.check_owner(slot, leaf) {
            return Err((error, invalid));
        }
        let Some(new) = leaf.table else {
            let plain = leaf.descriptor & !CONTIGUOUS;
            return self
                .restore(slot, leaf, plain, 1 << leaf.shift)
                .map_err(|error| (error, invalid));
        };
        let below = leaf.shift - F::INDEX_BITS;
        let kind = if below == F::PAGE_LG2 {
            F::LAST_LEVEL_TYPE
        } else {
            VALID
        };
        let oa = F::decode_oa(leaf.descriptor) & !((1 << leaf.shift) - 1);
        // Everything but address and type; bits that hold the address of one
        // leaf are those of a zero attribute word.
        let attrs = leaf.descriptor & !F::encode_oa(F::decode_oa(u64::MAX)) & !3;
        // SAFETY: the new table has so many entries, and nobody knows it yet.
        unsafe { self.fill(new.table, below, 0, Self::ENTRIES, oa, attrs | kind) };
        // SAFETY: as above.
        unsafe { self.clean(new.table, 0, Self::ENTRIES) };
        let descriptor = F::encode_oa(new.phys.0) | self.table_attrs();
        match self.restore(slot, leaf, descriptor, 0) {
            Ok(()) => {
                let counters = &self.pool.counters;
                counters.live.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                // SAFETY: as above.
                unsafe { self.lanes.clear(new.table, 0, Self::ENTRIES) };
                Err((error, invalid))
            }
        }
    }

    /// That `leaf` is of this table, and with it in bounds of it, and the caller
    /// in a section.
    fn check_owner(&self, slot: &SlotGuard<'_>, leaf: &Leaf) -> Result<(), SplitError> {
        if !self.guard_is_ours(slot) {
            return Err(SplitError::WrongSlots);
        }
        if leaf.owner != self.id {
            return Err(SplitError::OtherTable);
        }
        Ok(())
    }

    /// Puts `descriptor` (plus `step` for each further entry) where the marks
    /// stand.
    fn restore(
        &self,
        slot: &SlotGuard<'_>,
        leaf: &Leaf,
        descriptor: u64,
        step: u64,
    ) -> Result<(), SplitError> {
        self.check_owner(slot, leaf)?;
        let conflict = SplitError::Conflict { iova: leaf.iova };
        let (table, first) = self
            .descend_prepared(leaf.off, leaf.shift)
            .ok_or(conflict)?;
        let is_marked = |table: Table, index: usize| {
            // SAFETY: the leaf stood in these entries; in a section.
            unsafe { self.entry(table, index) }.load(Ordering::Relaxed) == SPLITTING
        };
        if !(first..first + leaf.entries).all(|index| is_marked(table, index)) {
            return Err(conflict);
        }
        let oa = F::decode_oa(leaf.descriptor);
        for i in 0..leaf.entries {
            let value = if step == 0 {
                descriptor
            } else {
                let attrs = descriptor & !F::encode_oa(F::decode_oa(u64::MAX));
                F::encode_oa(oa + step * i as u64) | attrs
            };
            // SAFETY: as above.
            let entry = unsafe { self.entry(table, first + i) };
            // Release: what the entry points to is visible first.
            if entry
                .compare_exchange(SPLITTING, value, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                return Err(conflict);
            }
        }
        // SAFETY: as above.
        unsafe { self.clean(table, first, leaf.entries) };
        self.pool.memory.publish();
        Ok(())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use alloc::sync::Arc;

    use dmabench_platform::{Fences, PhysAddr, Slots};

    use super::*;
    use crate::{HeapTables, Prot, S1K4, TableConfig};

    const PAGE: u64 = 4096;

    /// As if another call had unmapped one page of the run in between.
    #[test]
    fn a_run_that_changes_under_the_split_is_left_as_it_was() {
        let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
        let table: PageTable<S1K4, _> =
            PageTable::new(TableConfig::new(48, 48), HeapTables, slots.clone()).unwrap();
        let slot = slots.enter_fallback();
        let run = Iova(0x1_0000);
        table
            .map(&slot, run, PhysAddr(0x7_0000), 16 * PAGE, Prot::READ_WRITE)
            .unwrap();
        let (leaves, first) = table.descend(run.0, S1K4::PAGE_LG2).unwrap();
        for hole in [1, 9, 15] {
            // SAFETY: the entry is of a table that lives as long as `table`.
            let entry = unsafe { table.entry(leaves, first + hole) };
            let was = entry.swap(0, Ordering::Relaxed);
            let at = Iova(run.0 + 3 * PAGE);
            let error = table.break_leaf(&slot, at).unwrap_err();
            assert_eq!(error, SplitError::Conflict { iova: at });
            assert_eq!(entry.load(Ordering::Relaxed), 0);
            for page in (0..16).filter(|page| *page != hole as u64) {
                let found = table.translate(&slot, Iova(run.0 + page * PAGE)).unwrap();
                assert_eq!(found.paddr.0, 0x7_0000 + page * PAGE);
                assert!(found.contiguous);
            }
            entry.store(was, Ordering::Relaxed);
        }
        let broken = table.break_leaf(&slot, run).unwrap();
        table.unbreak(&slot, broken).unwrap();
    }
}
