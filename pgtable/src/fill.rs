//! Writing leaves: where the contiguous hint goes, and addresses whose bits do
//! not follow each other.

use crate::{
    Format, PageTable, TableMemory,
    format::{CONTIGUOUS, VALID},
    table::Table,
};

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Writes `count` leaves of `1 << shift` that map `pa` on, with the
    /// contiguous hint where a whole run of it fits.
    ///
    /// # Safety
    ///
    /// The entries are in the table.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    pub(crate) unsafe fn write_run(
        &self,
        table: Table,
        shift: u32,
        first: usize,
        count: usize,
        pa: u64,
        attrs: u64,
        sizes: u64,
    ) {
        let kind = if shift == F::PAGE_LG2 {
            F::LAST_LEVEL_TYPE
        } else {
            VALID
        };
        let attrs = attrs | kind;
        let run_lg2 = F::contiguous_lg2(Self::level_of(shift));
        let run = 1_usize << run_lg2;
        let hinted = run_lg2 > 0
            && count >= run
            && sizes >> (shift + run_lg2) & 1 != 0
            // The run is aligned in both spaces or in neither.
            && ((first as u64) << shift ^ pa) & ((1 << (shift + run_lg2)) - 1) == 0;
        let attrs = if hinted {
            if (first | count) & (run - 1) == 0 {
                attrs | CONTIGUOUS
            } else if (first.wrapping_neg() & (run - 1)) + run <= count {
                // SAFETY: as promised.
                unsafe { self.fill_with_hint(table, shift, first, count, pa, attrs) };
                return;
            } else {
                attrs
            }
        } else {
            attrs
        };
        // SAFETY: as promised.
        unsafe { self.fill(table, shift, first, count, pa, attrs) };
        // SAFETY: as promised.
        unsafe { self.clean(table, first, count) };
    }

    /// Whole runs with the contiguous hint, what stands before and after them
    /// without.
    ///
    /// # Safety
    ///
    /// The entries are in the table, `pa` is aligned to runs as `first` is, the
    /// format has runs at this level, and a whole one lies among the entries.
    #[inline(never)]
    unsafe fn fill_with_hint(
        &self,
        table: Table,
        shift: u32,
        first: usize,
        count: usize,
        pa: u64,
        attrs: u64,
    ) {
        let run = 1_usize << F::contiguous_lg2(Self::level_of(shift));
        let head = first.wrapping_neg() & (run - 1);
        let middle = (count - head) & !(run - 1);
        let parts = [(head, 0), (middle, CONTIGUOUS), (count - head - middle, 0)];
        let mut done = 0;
        for (length, hint) in parts {
            if length > 0 {
                let pa = pa + ((done as u64) << shift);
                // SAFETY: part of a run that is in the table.
                unsafe { self.fill(table, shift, first + done, length, pa, attrs | hint) };
            }
            done += length;
        }
        // SAFETY: as promised.
        unsafe { self.clean(table, first, count) };
    }

    /// # Safety
    ///
    /// The entries are in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn fill(
        &self,
        table: Table,
        shift: u32,
        mut first: usize,
        mut count: usize,
        mut pa: u64,
        attrs: u64,
    ) {
        if F::OA_LINEAR_LG2 < 64 {
            // Address bits that do not follow the others: stop where they change.
            let window = 1_u64 << F::OA_LINEAR_LG2;
            while count > 0 {
                let left = (window - (pa & (window - 1))) >> shift;
                // In 64 bits: `left` may be 2^32, which a smaller `usize` has not.
                let part = left.min(count as u64) as usize;
                // SAFETY: part of the run.
                unsafe {
                    self.lanes
                        .fill(table, first, part, F::encode_oa(pa) | attrs, 1 << shift);
                }
                first += part;
                count -= part;
                pa += (part as u64) << shift;
            }
        } else {
            // SAFETY: as promised.
            unsafe {
                self.lanes
                    .fill(table, first, count, F::encode_oa(pa) | attrs, 1 << shift)
            };
        }
    }
}
