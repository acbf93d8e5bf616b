//! Mapping any range with any page sizes, level by level.

use dmabench_platform::sync::atomic::Ordering;

use crate::{Format, MapError, PageTable, TableMemory, span::Span, table::Table};

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Any range, any page sizes.
    #[cold]
    #[inline(never)]
    pub(crate) fn map_any(&self, span: Span, attrs: u64, sizes: u64) -> Result<(), MapError> {
        self.prepare(self.root, self.top_shift, span, sizes)?;
        let result = self.write(self.root, self.top_shift, span, attrs, sizes);
        self.pool.memory.publish();
        result
    }

    /// Whether `sizes` allows leaves of `1 << shift`, alone or in runs.
    #[inline]
    fn leaf_allowed(shift: u32, sizes: u64) -> bool {
        let run = F::contiguous_lg2(Self::level_of(shift));
        sizes & (1 << shift | 1 << (shift + run)) != 0
    }

    /// Pass one: nothing is mapped in the span, and every table that pass two
    /// needs is there.
    ///
    /// `table` has entries of `1 << shift`, and the span lies in it; the caller
    /// is in a section.
    pub(crate) fn prepare(
        &self,
        table: Table,
        shift: u32,
        span: Span,
        sizes: u64,
    ) -> Result<(), MapError> {
        let first = self.index(span.off, shift);
        let count = self.index(span.last, shift) - first + 1;
        if shift == F::PAGE_LG2 {
            // SAFETY: both ends are in bounds of the table.
            if unsafe { self.lanes.all_zero(table, first, count) } {
                return Ok(());
            }
            return Err(self.first_in_the_way(table, span));
        }
        let entry_off = span.off & !((1 << shift) - 1);
        let leaves = Self::leaf_allowed(shift, sizes);
        for i in 0..count {
            let part = span.within(entry_off + ((i as u64) << shift), shift);
            // SAFETY: in bounds, in a section.
            let descriptor = unsafe { self.entry(table, first + i) }.load(Ordering::Acquire);
            if descriptor == 0 && leaves && part.is_one_leaf(shift) {
                continue;
            }
            if Self::is_taken(descriptor, shift) {
                return Err(MapError::Exists {
                    iova: self.iova(part.off),
                });
            }
            let child = self.child_for_map(table, first + i, descriptor, part.off)?;
            self.prepare(child, shift - F::INDEX_BITS, part, sizes)?;
        }
        Ok(())
    }

    /// Pass two: the leaves. Decides as pass one did, because the entries are as
    /// pass one left them.
    pub(crate) fn write(
        &self,
        table: Table,
        shift: u32,
        span: Span,
        attrs: u64,
        sizes: u64,
    ) -> Result<(), MapError> {
        let first = self.index(span.off, shift);
        let count = self.index(span.last, shift) - first + 1;
        if shift == F::PAGE_LG2 {
            // SAFETY: both ends are in bounds of the table.
            unsafe { self.write_run(table, shift, first, count, span.pa, attrs, sizes) };
            return Ok(());
        }
        let entry_off = span.off & !((1 << shift) - 1);
        let leaves = Self::leaf_allowed(shift, sizes);
        // Neighbouring blocks are written as one run.
        let mut run: Option<(usize, usize, u64)> = None;
        for i in 0..count {
            let part = span.within(entry_off + ((i as u64) << shift), shift);
            // SAFETY: in bounds, in a section.
            let descriptor = unsafe { self.entry(table, first + i) }.load(Ordering::Acquire);
            if descriptor == 0 && leaves && part.is_one_leaf(shift) {
                let (_, length, _) = run.get_or_insert((first + i, 0, part.pa));
                *length += 1;
                continue;
            }
            if let Some((start, length, pa)) = run.take() {
                // SAFETY: these entries are in the table.
                unsafe { self.write_run(table, shift, start, length, pa, attrs, sizes) };
            }
            if !Self::is_table(descriptor) {
                return Err(MapError::Conflict {
                    iova: self.iova(part.off),
                });
            }
            // SAFETY: a valid table descriptor, read in the section.
            let child = unsafe { self.child(descriptor) };
            self.write(child, shift - F::INDEX_BITS, part, attrs, sizes)?;
        }
        if let Some((start, length, pa)) = run {
            // SAFETY: these entries are in the table.
            unsafe { self.write_run(table, shift, start, length, pa, attrs, sizes) };
        }
        Ok(())
    }
}
