//! Which pages the device has written: hardware marks in the descriptors
//! (FEAT_HAFDBS, IHI 0070 3.13).
//!
//! A writable leaf has DBM set. `AP[2]` (read-only) set means clean, clear
//! means written: the walker clears it, atomically, on the first write. As in
//! Linux, new mappings count as written. One mark stands for a whole contiguous
//! run: the hardware may set that of any entry of the run.

use core::fmt;

use dmabench_platform::{Iova, SlotGuard, sync::atomic::Ordering};

use crate::{
    Format, PageTable, Quirks, TableMemory, UnmapError, UnmapSink,
    fault::{Fault, broken},
    format::{CONTIGUOUS, DBM, READ_ONLY},
    table::Table,
};

/// What [`PageTable::read_dirty`] does with the marks it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyMarks {
    /// Leaves them.
    Keep,
    /// Clears them. Invalidate what was told afterwards: a TLB that knows a
    /// page as written does not mark it again.
    Clear,
}

/// Why written pages cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DirtyError {
    /// The table was made without [`Quirks::ARM_HD`] (stage 2 never has it).
    NotTracked,
    /// The range is empty, misaligned or out of range, or it cuts a block or a
    /// contiguous run, whose only mark covers more than the range.
    Range(UnmapError),
}

impl fmt::Display for DirtyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DirtyError::NotTracked => f.write_str(
                "writes are not tracked: make the table (stage 1) with the quirk ARM_HD",
            ),
            DirtyError::Range(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DirtyError {}

/// Whether a leaf says that it was written through.
#[inline]
pub(crate) fn is_dirty(descriptor: u64) -> bool {
    descriptor & (DBM | READ_ONLY) == DBM
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Tells `told` of every mapped range in the `len_bytes` from `iova` on that
    /// was written through, one call per page, block or contiguous run. Holes
    /// are skipped. Returns how many calls it made.
    ///
    /// Safe beside an unmap of the same range, which then may or may not be
    /// told.
    ///
    /// # Errors
    ///
    /// [`DirtyError`]; no mark has then changed.
    pub fn read_dirty(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
        marks: DirtyMarks,
        mut told: impl FnMut(Iova, u64),
    ) -> Result<u64, DirtyError> {
        if !self.config.quirks.contains(Quirks::ARM_HD) {
            return Err(DirtyError::NotTracked);
        }
        let (off, last) = self
            .check_range(slot, iova, len_bytes)
            .map_err(DirtyError::Range)?;
        for end in [off, last] {
            self.check_not_cut(end, off, last)
                .map_err(DirtyError::Range)?;
        }
        let mut count = 0;
        self.for_each_leaf(off, last, &mut |table, shift, index, at| {
            // SAFETY: `for_each_leaf` passes an entry of a live table.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Relaxed);
            let run_lg2 = if descriptor & CONTIGUOUS != 0 {
                F::contiguous_lg2(Self::level_of(shift))
            } else {
                0
            };
            let run = 1_usize << run_lg2;
            if index & (run - 1) != 0 {
                // Done with the first entry of its run.
                return;
            }
            let mut dirty = false;
            for i in index..index + run {
                // SAFETY: runs are aligned and never longer than their table.
                dirty |= unsafe { self.take_mark(table, i, marks) };
            }
            if dirty {
                // SAFETY: as above.
                unsafe { self.clean(table, index, run) };
                count += 1;
                told(self.iova(at), 1 << (shift + run_lg2));
            }
        });
        self.pool.memory.publish();
        Ok(count)
    }

    /// Whether an entry is marked; clears the mark if asked.
    ///
    /// # Safety
    ///
    /// The entry is in the table.
    unsafe fn take_mark(&self, table: Table, index: usize, marks: DirtyMarks) -> bool {
        // SAFETY: as promised.
        let entry = unsafe { self.entry(table, index) };
        let mut seen = entry.load(Ordering::Relaxed);
        loop {
            if !is_dirty(seen) {
                return false;
            }
            if marks == DirtyMarks::Keep {
                return true;
            }
            if broken(Fault::ClearByOr) {
                entry.fetch_or(READ_ONLY, Ordering::AcqRel);
                return true;
            }
            // Not a plain OR: on an entry that an unmap has just cleared it
            // would leave a bit behind.
            match entry.compare_exchange(
                seen,
                seen | READ_ONLY,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes `count` leaves out with an exchange each, and tells `sink` which
    /// were written through.
    ///
    /// # Safety
    ///
    /// The entries are in the table.
    #[cold]
    pub(crate) unsafe fn take_dirty<S: UnmapSink>(
        &self,
        table: Table,
        shift: u32,
        first: usize,
        count: usize,
        off: u64,
        sink: &mut S,
    ) {
        let run_of = |descriptor: u64| {
            if descriptor & CONTIGUOUS != 0 {
                1_usize << F::contiguous_lg2(Self::level_of(shift))
            } else {
                1
            }
        };
        let mut index = first;
        while index < first + count {
            // SAFETY: as promised.
            let entry = unsafe { self.entry(table, index) };
            let was = if broken(Fault::TakeByStore) {
                let was = entry.load(Ordering::Relaxed);
                entry.store(0, Ordering::Relaxed);
                was
            } else {
                entry.swap(0, Ordering::AcqRel)
            };
            let run = run_of(was).min(first + count - index);
            let mut dirty = is_dirty(was);
            for i in index + 1..index + run {
                // SAFETY: as promised.
                dirty |= is_dirty(unsafe { self.entry(table, i) }.swap(0, Ordering::AcqRel));
            }
            if dirty {
                let at = off + (((index - first) as u64) << shift);
                sink.dirty(self.iova(at), (run as u64) << shift);
            }
            index += run;
        }
    }
}
