//! Runs of an even number of entries from an even one on: what nearly every
//! request longer than a page is. They are whole pairs, so nothing stands before
//! or behind what the wide loops do, and all of it fits into few enough registers
//! that no stack frame is needed.
//!
//! Every function here says whether it has done its work; if not, nothing has
//! changed, and the caller goes the general way.

use crate::{Format, PageTable, TableMemory, format::CONTIGUOUS, table::Table};

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Index and number of the entries for a range, if they are an even run in
    /// one table and do not fill it.
    #[inline(always)]
    fn even_run(off: u64, len_bytes: u64) -> Option<(usize, usize)> {
        let shift = F::PAGE_LG2;
        if (off | len_bytes) & ((2 << shift) - 1) != 0 {
            return None;
        }
        let first = (off >> shift) as usize & (Self::ENTRIES - 1);
        let count = len_bytes >> shift;
        // A count that does not fit is too long in any case.
        let inside = (first as u64 + (count - 1)) | count;
        (inside < Self::ENTRIES as u64).then_some((first, count as usize))
    }

    /// Maps an even run of pages into a table that is there and has nothing in the
    /// way.
    #[inline(always)]
    pub(crate) fn map_even<const PLAIN: bool>(
        &self,
        off: u64,
        len_bytes: u64,
        pa: u64,
        attrs: u64,
    ) -> bool {
        let Some((first, count)) = Self::even_run(off, len_bytes) else {
            return false;
        };
        // Addresses that cannot be counted up are for `fill`.
        if F::OA_LINEAR_LG2 < 64 {
            return false;
        }
        let Some((table, _)) = self.descend_as::<PLAIN>(off, F::PAGE_LG2) else {
            return false;
        };
        // SAFETY: an even run inside one table, reached in a section of our slots.
        if !unsafe { self.lanes.all_zero_even(table, first, count) } {
            return false;
        }
        let Some(hint) = self.hint_for_all(first, count, pa) else {
            return false;
        };
        let descriptor = F::encode_oa(pa) | attrs | hint | F::LAST_LEVEL_TYPE;
        // SAFETY: as above.
        unsafe {
            (self.lanes).fill_even(table, first, count, descriptor, Self::PAGE);
            self.clean_as::<PLAIN>(table, first, count);
        }
        self.pool.memory.publish();
        true
    }

    /// The contiguous hint for a run of leaves: all of them, or none. `None` where
    /// some would have it.
    // The condition stands in `write_run` too: one function for both costs two
    // instructions of every request here.
    #[inline(always)]
    fn hint_for_all(&self, first: usize, count: usize, pa: u64) -> Option<u64> {
        let shift = F::PAGE_LG2;
        let run_lg2 = F::contiguous_lg2(Self::level_of(shift));
        let run = 1_usize << run_lg2;
        let hinted = run_lg2 > 0
            && count >= run
            && self.sizes >> (shift + run_lg2) & 1 != 0
            // The run is aligned in both spaces or in neither.
            && ((first as u64) << shift ^ pa) & ((1 << (shift + run_lg2)) - 1) == 0;
        if !hinted {
            return Some(0);
        }
        ((first | count) & (run - 1) == 0).then_some(CONTIGUOUS)
    }

    /// Clears an even run of pages that cuts no contiguous run.
    #[inline(always)]
    pub(crate) fn clear_even<const PLAIN: bool>(&self, off: u64, len_bytes: u64) -> bool {
        let Some((first, count)) = Self::even_run(off, len_bytes) else {
            return false;
        };
        let Some((table, _)) = self.descend_as::<PLAIN>(off, F::PAGE_LG2) else {
            return false;
        };
        // SAFETY: an even run inside one table, reached in a section of our slots.
        if !unsafe { self.is_even_run_whole(table, first, count) } {
            return false;
        }
        // SAFETY: as above.
        unsafe {
            self.lanes.clear_even(table, first, count);
            self.clean_as::<PLAIN>(table, first, count);
        }
        self.pool.memory.publish();
        true
    }

    /// Whether an even run is all pages and cuts no contiguous run.
    ///
    /// # Safety
    ///
    /// The run is in the table, even, and not empty.
    #[inline(always)]
    unsafe fn is_even_run_whole(&self, table: Table, first: usize, count: usize) -> bool {
        // SAFETY: as promised.
        let common = unsafe { self.lanes.and_all_even(table, first, count) };
        // SAFETY: as promised.
        common & 3 == F::LAST_LEVEL_TYPE
            && unsafe { self.cut_run(table, F::PAGE_LG2, first, count) }.is_none()
    }
}
