//! Unmapping: pass one checks that the whole range is mapped and cuts no block
//! or run, pass two clears and tells the sink.

use dmabench_platform::{Iova, PhysAddr, SlotGuard, sync::atomic::Ordering};

use crate::{
    DetachedTable, Format, PageTable, TableMemory, UnmapError, UnmapSink,
    format::{CONTIGUOUS, TABLE_OR_PAGE, VALID},
    span::Span,
    table::Table,
};

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Unmaps `len_bytes` from `iova` on: all of it or nothing. The range may
    /// join several mappings; each page of it must be mapped, and blocks and
    /// contiguous runs must lie in it whole.
    ///
    /// `sink` hears of every range that was translated and of every table that
    /// the range covered.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]; no translation has then changed, and `sink` was not
    /// called.
    #[inline]
    pub fn unmap<S: UnmapSink>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
        sink: &mut S,
    ) -> Result<(), UnmapError> {
        if self.is_plain_for(slot) {
            self.unmap_as::<true, S>(slot, iova, len_bytes, sink)
        } else {
            self.unmap_other(slot, iova, len_bytes, sink)
        }
    }

    /// [`unmap`](Self::unmap) in a table that is not [plain](Self::is_plain).
    #[inline(never)]
    fn unmap_other<S: UnmapSink>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
        sink: &mut S,
    ) -> Result<(), UnmapError> {
        self.unmap_as::<false, S>(slot, iova, len_bytes, sink)
    }

    #[inline(always)]
    fn unmap_as<const PLAIN: bool, S: UnmapSink>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
        sink: &mut S,
    ) -> Result<(), UnmapError> {
        let Some((off, _)) = self.offsets::<PLAIN>(slot, iova, len_bytes) else {
            return self.refuse_unmap(slot, iova, len_bytes);
        };
        if sink.wants_dirty() {
            return self.unmap_any(off, off + (len_bytes - 1), sink);
        }
        let block = 1 << Self::LAST_TABLE_LG2;
        let cleared = len_bytes == Self::PAGE && self.clear_leaf::<PLAIN, true>(off)
            || len_bytes == block && self.clear_leaf::<PLAIN, false>(off);
        if cleared {
            let shift = if len_bytes == block {
                Self::LAST_TABLE_LG2
            } else {
                F::PAGE_LG2
            };
            let iova = Iova(self.base_as::<PLAIN>() + off);
            sink.leaves(iova, len_bytes, Self::level_of(shift));
            return Ok(());
        }
        if len_bytes >= block {
            return self.unmap_long::<PLAIN, S>(off, len_bytes, sink);
        }
        self.unmap_many::<PLAIN, S>(off, len_bytes, sink)
    }

    /// More than one page, or one that cannot simply go; less than a block.
    // Not inlined, as all that follows: a single leaf then needs no stack frame.
    #[inline(never)]
    fn unmap_many<const PLAIN: bool, S: UnmapSink>(
        &self,
        off: u64,
        len_bytes: u64,
        sink: &mut S,
    ) -> Result<(), UnmapError> {
        if self.clear_even::<PLAIN>(off, len_bytes) {
            let iova = Iova(self.base_as::<PLAIN>() + off);
            sink.leaves(iova, len_bytes, Self::level_of(F::PAGE_LG2));
            return Ok(());
        }
        self.unmap_uneven::<PLAIN, S>(off, len_bytes, sink)
    }

    /// What is no [even run](crate::even).
    #[inline(never)]
    fn unmap_uneven<const PLAIN: bool, S: UnmapSink>(
        &self,
        off: u64,
        len_bytes: u64,
        sink: &mut S,
    ) -> Result<(), UnmapError> {
        if Self::is_short(off, len_bytes) && self.clear_run::<PLAIN>(off, len_bytes) {
            let iova = Iova(self.base_as::<PLAIN>() + off);
            sink.leaves(iova, len_bytes, Self::level_of(F::PAGE_LG2));
            return Ok(());
        }
        self.unmap_long::<PLAIN, S>(off, len_bytes, sink)
    }

    /// [`unmap`](Self::unmap) for its most frequent range alone: fewer pages
    /// than a last-level table has, all in one, no block, and no contiguous run
    /// that reaches beyond. `true`: they are unmapped, and the caller does for
    /// them what a sink would have been told: one range of leaves of the last
    /// level. `false`: nothing has changed; `unmap` does it, or says what is
    /// wrong.
    #[inline(always)]
    #[must_use = "what was unmapped is to be invalidated"]
    pub fn unmap_pages(&self, slot: &SlotGuard<'_>, iova: Iova, len_bytes: u64) -> bool {
        if !self.is_plain_for(slot) {
            return self.unmap_pages_other(slot, iova, len_bytes);
        }
        let Some((off, _)) = self.offsets::<true>(slot, iova, len_bytes) else {
            return false;
        };
        len_bytes == Self::PAGE && self.clear_leaf::<true, true>(off)
            || self.clear_even::<true>(off, len_bytes)
            || Self::is_short(off, len_bytes) && self.clear_run_apart::<true>(off, len_bytes)
    }

    /// [`unmap_pages`](Self::unmap_pages) in a table that is not
    /// [plain](Self::is_plain).
    #[inline(never)]
    fn unmap_pages_other(&self, slot: &SlotGuard<'_>, iova: Iova, len_bytes: u64) -> bool {
        let Some((off, _)) = self.offsets::<false>(slot, iova, len_bytes) else {
            return false;
        };
        Self::is_short(off, len_bytes) && self.clear_run::<false>(off, len_bytes)
    }

    /// As [`clear_run`](Self::clear_run), not inlined.
    #[inline(never)]
    fn clear_run_apart<const PLAIN: bool>(&self, off: u64, len_bytes: u64) -> bool {
        self.clear_run::<PLAIN>(off, len_bytes)
    }

    /// Clears pages of a [short](Self::is_short) range. Says whether it has; if
    /// not, nothing has changed.
    #[inline(always)]
    fn clear_run<const PLAIN: bool>(&self, off: u64, len_bytes: u64) -> bool {
        let pages = (len_bytes >> F::PAGE_LG2) as usize;
        if let Some((table, first)) = self.descend_as::<PLAIN>(off, F::PAGE_LG2) {
            // SAFETY: `first` is in bounds, and so is the end, because the range
            // lies in one table.
            let whole = unsafe { self.is_whole(table, F::PAGE_LG2, first, pages) };
            if whole {
                // SAFETY: as above.
                unsafe {
                    self.lanes.clear(table, first, pages);
                    self.clean_as::<PLAIN>(table, first, pages);
                }
                self.pool.memory.publish();
                return true;
            }
        }
        false
    }

    /// Unmaps one page, or one block of the level above, outside contiguous
    /// runs, and tells nobody. Says whether it has; if not, nothing has changed,
    /// and [`unmap_many`](Self::unmap_many) looks closer.
    #[inline(always)]
    fn clear_leaf<const PLAIN: bool, const PAGE: bool>(&self, off: u64) -> bool {
        let shift = Self::leaf_shift::<PAGE>();
        if !PLAIN && shift > self.top_shift {
            return false;
        }
        if !PAGE && off & ((1 << shift) - 1) != 0 {
            return false;
        }
        let Some((table, index)) = self.descend_as::<PLAIN>(off, shift) else {
            return false;
        };
        // SAFETY: in bounds of that table; in a section of our slots.
        let entry = unsafe { self.entry(table, index) };
        let kind = if PAGE { F::LAST_LEVEL_TYPE } else { VALID };
        if entry.load(Ordering::Relaxed) & (VALID | TABLE_OR_PAGE | CONTIGUOUS) != kind {
            return false;
        }
        entry.store(0, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { self.clean_as::<PLAIN>(table, index, 1) };
        self.pool.memory.publish();
        true
    }

    /// The next most frequent: blocks only, or pages only in tables that are not
    /// covered whole. Anything else goes on to [`unmap_any`](Self::unmap_any).
    #[inline(never)]
    fn unmap_long<const PLAIN: bool, S: UnmapSink>(
        &self,
        off: u64,
        len_bytes: u64,
        sink: &mut S,
    ) -> Result<(), UnmapError> {
        let block = Self::LAST_TABLE_LG2;
        let inside = (1 << block) - 1;
        let last = off + (len_bytes - 1);
        let span = Span { off, last, pa: 0 };
        if (off | len_bytes) & inside == 0 {
            let count = (len_bytes >> block) as usize;
            let in_one_table = (off ^ last) >> (block + F::INDEX_BITS) == 0;
            if in_one_table
                && count < Self::ENTRIES
                && (PLAIN || block <= self.top_shift)
                && let Some((table, first)) = self.descend_as::<PLAIN>(off, block)
            {
                // SAFETY: `first` is in bounds, and so is the end, because the
                // range lies in one table.
                let whole = unsafe {
                    let (common, any) = self.lanes.and_or_all(table, first, count);
                    common & VALID != 0
                        && any & TABLE_OR_PAGE == 0
                        && self.cut_run(table, block, first, count).is_none()
                };
                if whole {
                    // SAFETY: as above.
                    unsafe {
                        self.lanes.clear(table, first, count);
                        self.clean(table, first, count);
                    }
                    self.pool.memory.publish();
                    sink.leaves(self.iova(off), len_bytes, Self::level_of(block));
                    return Ok(());
                }
            }
        } else if span.has_no_whole(block) {
            if self.clear_two::<PLAIN>(span) {
                sink.leaves(self.iova(off), len_bytes, Self::level_of(F::PAGE_LG2));
                return Ok(());
            }
            let mapped = span.each(block, |part| {
                let count = ((part.last - part.off) >> F::PAGE_LG2) as usize + 1;
                self.descend(part.off, F::PAGE_LG2)
                    // SAFETY: the part lies in one table.
                    .is_some_and(|(table, first)| unsafe {
                        self.is_whole(table, F::PAGE_LG2, first, count)
                    })
            });
            if mapped {
                span.each(block, |part| {
                    let count = ((part.last - part.off) >> F::PAGE_LG2) as usize + 1;
                    // Gone only if another caller unmaps the same range.
                    if let Some((table, first)) = self.descend_prepared(part.off, F::PAGE_LG2) {
                        // SAFETY: the part lies in one table.
                        unsafe {
                            self.lanes.clear(table, first, count);
                            self.clean(table, first, count);
                        }
                    }
                    true
                });
                self.pool.memory.publish();
                sink.leaves(self.iova(off), len_bytes, Self::level_of(F::PAGE_LG2));
                return Ok(());
            }
        }
        self.unmap_any(off, last, sink)
    }

    /// Clears the pages of a span that lies in two last-level tables. Says
    /// whether it has; if not, nothing has changed.
    #[inline(always)]
    fn clear_two<const PLAIN: bool>(&self, span: Span) -> bool {
        let Some(parts) = self.two_tables::<PLAIN>(span) else {
            return false;
        };
        for part in &parts {
            // SAFETY: the part lies in its table.
            if !unsafe { self.is_whole(part.table, F::PAGE_LG2, part.first, part.count) } {
                return false;
            }
        }
        for part in &parts {
            // SAFETY: as above.
            unsafe {
                self.lanes.clear(part.table, part.first, part.count);
                self.clean_as::<PLAIN>(part.table, part.first, part.count);
            }
        }
        self.pool.memory.publish();
        true
    }

    /// [`unmap_refusal`](Self::unmap_refusal) as a result: a call that ends the
    /// caller.
    #[cold]
    #[inline(never)]
    fn refuse_unmap(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
    ) -> Result<(), UnmapError> {
        Err(self.unmap_refusal(slot, iova, len_bytes))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn unmap_refusal(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
    ) -> UnmapError {
        if !self.guard_is_ours(slot) {
            return UnmapError::WrongSlots;
        }
        if len_bytes == 0 {
            return UnmapError::ZeroLength;
        }
        let off = iova.0.wrapping_sub(self.base);
        match off.checked_add(len_bytes - 1) {
            Some(last) if last <= self.ia_mask => UnmapError::Misaligned { iova, len_bytes },
            _ => UnmapError::IovaRange { iova, len_bytes },
        }
    }

    /// Whether `count` last-level entries are all pages, and no contiguous run
    /// is cut at either end.
    ///
    /// # Safety
    ///
    /// The entries are in the table.
    #[inline(always)]
    unsafe fn is_whole(&self, table: Table, shift: u32, first: usize, count: usize) -> bool {
        // SAFETY: as promised.
        let common = unsafe { self.lanes.and_all(table, first, count) };
        if common & 3 != F::LAST_LEVEL_TYPE {
            return false;
        }
        // SAFETY: as promised.
        unsafe { self.cut_run(table, shift, first, count) }.is_none()
    }

    /// The index of the first entry of a contiguous run that the entries
    /// cut.
    ///
    /// # Safety
    ///
    /// The entries are in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn cut_run(
        &self,
        table: Table,
        shift: u32,
        first: usize,
        count: usize,
    ) -> Option<usize> {
        let run_lg2 = F::contiguous_lg2(Self::level_of(shift));
        let inside = (1_usize << run_lg2) - 1;
        let end = first + count;
        // SAFETY: as promised.
        let hinted =
            |index| unsafe { table.entry(index) }.load(Ordering::Relaxed) & CONTIGUOUS != 0;
        if first & inside != 0 && hinted(first) {
            return Some(first & !inside);
        }
        if end & inside != 0 && hinted(end - 1) {
            return Some(end & !inside);
        }
        None
    }

    /// Any range.
    #[cold]
    #[inline(never)]
    fn unmap_any<S: UnmapSink>(&self, off: u64, last: u64, sink: &mut S) -> Result<(), UnmapError> {
        self.check_mapped(self.root, self.top_shift, off, last)?;
        self.clear_span(self.root, self.top_shift, off, last, sink);
        self.pool.memory.publish();
        Ok(())
    }

    /// Pass one. `table` has entries of `1 << shift`, and the span lies in it;
    /// the caller is in a section.
    pub(crate) fn check_mapped(
        &self,
        table: Table,
        shift: u32,
        off: u64,
        last: u64,
    ) -> Result<(), UnmapError> {
        let first = self.index(off, shift);
        let count = self.index(last, shift) - first + 1;
        let entry_off = off & !((1 << shift) - 1);
        if shift == F::PAGE_LG2 {
            // SAFETY: both ends are in bounds of the table.
            let common = unsafe { self.lanes.and_all(table, first, count) };
            if common & 3 != F::LAST_LEVEL_TYPE {
                return Err(self.first_unmapped(table, off, last));
            }
        } else {
            for i in 0..count {
                let start = entry_off + ((i as u64) << shift);
                let (o, l) = (off.max(start), last.min(start + ((1 << shift) - 1)));
                // SAFETY: in bounds, in a section.
                let descriptor = unsafe { self.entry(table, first + i) }.load(Ordering::Acquire);
                if Self::is_leaf(descriptor, shift) {
                    if l - o != (1 << shift) - 1 {
                        return Err(self.part_of_leaf(start, shift, descriptor));
                    }
                } else if Self::is_table(descriptor) {
                    // SAFETY: a valid table descriptor, read in the section.
                    let child = unsafe { self.child(descriptor) };
                    self.check_mapped(child, shift - F::INDEX_BITS, o, l)?;
                } else {
                    return Err(UnmapError::NotMapped { iova: self.iova(o) });
                }
            }
        }
        // SAFETY: both ends are in bounds of the table.
        if let Some(run) = unsafe { self.cut_run(table, shift, first, count) } {
            let start = entry_off - ((first as u64) << shift) + ((run as u64) << shift);
            return Err(self.part_of_leaf(start, shift, CONTIGUOUS));
        }
        Ok(())
    }

    #[cold]
    pub(crate) fn part_of_leaf(&self, start: u64, shift: u32, descriptor: u64) -> UnmapError {
        let level = Self::level_of(shift);
        let run_lg2 = if descriptor & CONTIGUOUS != 0 {
            F::contiguous_lg2(level)
        } else {
            0
        };
        let len_bytes = 1 << (shift + run_lg2);
        UnmapError::PartOfLeaf {
            iova: self.iova(start & !(len_bytes - 1)),
            len_bytes,
            level,
        }
    }

    #[cold]
    fn first_unmapped(&self, table: Table, off: u64, last: u64) -> UnmapError {
        let mut at = off;
        while at < last {
            // SAFETY: in bounds, in a section of the caller.
            let entry = unsafe { self.entry(table, self.index(at, F::PAGE_LG2)) };
            if !Self::is_leaf(entry.load(Ordering::Relaxed), F::PAGE_LG2) {
                break;
            }
            at += 1 << F::PAGE_LG2;
        }
        UnmapError::NotMapped {
            iova: self.iova(at.min(last & !Self::PAGE_MASK)),
        }
    }

    /// Pass two. Total on anything that another caller's bug has put there
    /// meanwhile.
    fn clear_span<S: UnmapSink>(
        &self,
        table: Table,
        shift: u32,
        off: u64,
        last: u64,
        sink: &mut S,
    ) {
        let first = self.index(off, shift);
        let count = self.index(last, shift) - first + 1;
        let level = Self::level_of(shift);
        let clear = |first: usize, count: usize, off: u64, sink: &mut S| {
            if sink.wants_dirty() {
                // SAFETY: these entries are in the table.
                unsafe { self.take_dirty(table, shift, first, count, off, sink) };
            }
            // SAFETY: these entries are in the table.
            unsafe {
                self.lanes.clear(table, first, count);
                self.clean(table, first, count);
            }
            sink.leaves(self.iova(off), (count as u64) << shift, level);
        };
        if shift == F::PAGE_LG2 {
            clear(first, count, off, sink);
            return;
        }
        let entry_off = off & !((1 << shift) - 1);
        // Neighbouring blocks are cleared as one run.
        let mut run: Option<(usize, usize, u64)> = None;
        for i in 0..count {
            let start = entry_off + ((i as u64) << shift);
            // SAFETY: in bounds, in a section.
            let entry = unsafe { self.entry(table, first + i) };
            let descriptor = entry.load(Ordering::Acquire);
            if Self::is_leaf(descriptor, shift) {
                let (_, length, _) = run.get_or_insert((first + i, 0, start));
                *length += 1;
                continue;
            }
            if let Some((index, length, start)) = run.take() {
                clear(index, length, start, sink);
            }
            if !Self::is_table(descriptor) {
                continue;
            }
            let (o, l) = (off.max(start), last.min(start + ((1 << shift) - 1)));
            // Covered whole: out of the tree first, so that `reclaim`, which
            // looks for empty tables, cannot take it for one of its own.
            let (below, covered) = if l - o == (1 << shift) - 1 {
                let was = entry.swap(0, Ordering::AcqRel);
                // SAFETY: in bounds.
                unsafe { self.clean(table, first + i, 1) };
                if !Self::is_table(was) {
                    // Taken out of service meanwhile, which it never is with
                    // pages in it: another caller's bug. The reclaimer keeps it.
                    continue;
                }
                (was, true)
            } else {
                (descriptor, false)
            };
            // SAFETY: a valid table descriptor, read in the section.
            let child = unsafe { self.child(below) };
            self.clear_span(child, shift - F::INDEX_BITS, o, l, sink);
            if covered {
                self.pool.counters.live.fetch_sub(1, Ordering::Relaxed);
                self.pool.counters.detached.fetch_add(1, Ordering::Relaxed);
                sink.table(DetachedTable {
                    table: child,
                    phys: PhysAddr(F::decode_oa(below)),
                    iova: self.iova(start),
                    span_lg2: shift,
                    level: Self::level_of(shift - F::INDEX_BITS),
                });
            }
        }
        if let Some((index, length, start)) = run {
            clear(index, length, start, sink);
        }
    }
}
