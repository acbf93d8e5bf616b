//! Mapping: pass one checks the whole range and makes the tables, pass two
//! writes.

use dmabench_platform::{Iova, PhysAddr, SlotGuard, sync::atomic::Ordering};

use crate::{
    Format, MapError, PageTable, Prot, TableMemory,
    format::{FROZEN, VALID},
    span::{Part, Span},
    table::Table,
};

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Maps `len_bytes` from `iova` on to `paddr` on, with the largest pages
    /// that fit: all of it or nothing.
    ///
    /// Where a block would fit but an empty table stands, pages go into that
    /// table: replacing it would need an invalidation first.
    /// [`reclaim`](Self::reclaim) takes such tables away.
    ///
    /// # Errors
    ///
    /// [`MapError`]; no translation has then changed. A mapping is never
    /// overwritten.
    // Always inlined: a call with so many arguments and a result in memory costs
    // as much as the walk.
    #[inline(always)]
    pub fn map(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        if self.is_plain_for(slot) {
            self.map_as::<true>(slot, iova, paddr, len_bytes, prot)
        } else {
            self.map_other(slot, iova, paddr, len_bytes, prot)
        }
    }

    /// [`map`](Self::map) in a table that is not [plain](Self::is_plain).
    #[inline(never)]
    fn map_other(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        self.map_as::<false>(slot, iova, paddr, len_bytes, prot)
    }

    #[inline(always)]
    fn map_as<const PLAIN: bool>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        let checked = self.map_span::<PLAIN>(slot, iova, paddr, len_bytes, prot);
        let Some((Span { off, pa, .. }, attrs)) = checked else {
            return self.refuse_map(slot, iova, paddr, len_bytes, prot);
        };
        let block = 1 << Self::LAST_TABLE_LG2;
        if len_bytes == Self::PAGE && self.map_leaf::<PLAIN, true>(off, pa, attrs)
            || len_bytes == block && self.map_leaf::<PLAIN, false>(off, pa, attrs)
        {
            return Ok(());
        }
        if len_bytes >= block {
            return self.map_long::<PLAIN>(off, len_bytes, pa, attrs);
        }
        self.map_many::<PLAIN>(off, len_bytes, pa, attrs)
    }

    /// Maps one page, or one block of the level above, if that takes no more
    /// than a store into a table that is there. Says whether it has; if not,
    /// nothing has changed, and [`map_many`](Self::map_many) looks closer.
    #[inline(always)]
    fn map_leaf<const PLAIN: bool, const PAGE: bool>(&self, off: u64, pa: u64, attrs: u64) -> bool {
        let shift = Self::leaf_shift::<PAGE>();
        if !PLAIN && shift > self.top_shift {
            return false;
        }
        let is_leaf = PAGE || (off | pa) & ((1 << shift) - 1) == 0 && self.sizes >> shift & 1 != 0;
        if !is_leaf {
            return false;
        }
        let Some((table, index)) = self.descend_as::<PLAIN>(off, shift) else {
            return false;
        };
        // SAFETY: in bounds of that table; in a section of our slots.
        let entry = unsafe { self.entry(table, index) };
        if entry.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let kind = if PAGE { F::LAST_LEVEL_TYPE } else { VALID };
        entry.store(F::encode_oa(pa) | attrs | kind, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { self.clean_as::<PLAIN>(table, index, 1) };
        self.pool.memory.publish();
        true
    }

    /// More than one page, or one with something in its way; less than a block.
    // Not inlined, as all that follows: a single leaf then needs no stack frame.
    #[inline(never)]
    fn map_many<const PLAIN: bool>(
        &self,
        off: u64,
        len_bytes: u64,
        pa: u64,
        attrs: u64,
    ) -> Result<(), MapError> {
        if self.map_even::<PLAIN>(off, len_bytes, pa, attrs) {
            return Ok(());
        }
        self.map_uneven::<PLAIN>(off, len_bytes, pa, attrs)
    }

    /// [`map`](Self::map) for its most frequent ranges alone: a page, or an even
    /// number of pages from an even one on, in a table that is there and that they
    /// do not fill. `true`: they are mapped. `false`: nothing has changed; `map`
    /// does it, or says what is wrong.
    #[inline(always)]
    #[must_use = "where it is false nothing is mapped"]
    pub fn map_at_once(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> bool {
        if !self.is_plain_for(slot) {
            return self.map_at_once_other(slot, iova, paddr, len_bytes, prot);
        }
        self.map_at_once_as::<true>(slot, iova, paddr, len_bytes, prot)
    }

    /// [`map_at_once`](Self::map_at_once) in a table that is not
    /// [plain](Self::is_plain).
    #[inline(never)]
    fn map_at_once_other(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> bool {
        self.map_at_once_as::<false>(slot, iova, paddr, len_bytes, prot)
    }

    #[inline(always)]
    fn map_at_once_as<const PLAIN: bool>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> bool {
        let checked = self.map_span::<PLAIN>(slot, iova, paddr, len_bytes, prot);
        let Some((Span { off, pa, .. }, attrs)) = checked else {
            return false;
        };
        if len_bytes == Self::PAGE {
            self.map_leaf::<PLAIN, true>(off, pa, attrs)
        } else {
            self.map_even::<PLAIN>(off, len_bytes, pa, attrs)
        }
    }

    /// What is no [even run](crate::even). The most frequent: pages in one
    /// last-level table, which they do not fill, too few for a block.
    #[inline(never)]
    fn map_uneven<const PLAIN: bool>(
        &self,
        off: u64,
        len_bytes: u64,
        pa: u64,
        attrs: u64,
    ) -> Result<(), MapError> {
        if Self::is_short(off, len_bytes)
            && let Some((table, first)) = self.descend_as::<PLAIN>(off, F::PAGE_LG2)
        {
            let pages = (len_bytes >> F::PAGE_LG2) as usize;
            // SAFETY: `first` is in bounds, and so is the end, because the range
            // lies in one table.
            if unsafe { self.lanes.all_zero(table, first, pages) } {
                // SAFETY: as above.
                unsafe { self.write_run(table, F::PAGE_LG2, first, pages, pa, attrs, self.sizes) };
                self.pool.memory.publish();
                return Ok(());
            }
        }
        self.map_long::<PLAIN>(off, len_bytes, pa, attrs)
    }

    /// Whether a range lies in one last-level table and does not fill it.
    #[inline(always)]
    pub(crate) fn is_short(off: u64, len_bytes: u64) -> bool {
        let last = off + (len_bytes - 1);
        (off ^ last) >> Self::LAST_TABLE_LG2 == 0 && len_bytes != 1 << Self::LAST_TABLE_LG2
    }

    /// Base-2 logarithm of a page, or of a block of the level above.
    #[inline(always)]
    pub(crate) const fn leaf_shift<const PAGE: bool>() -> u32 {
        if PAGE {
            F::PAGE_LG2
        } else {
            Self::LAST_TABLE_LG2
        }
    }

    /// The next most frequent: pages only, or blocks only with nothing in their
    /// way. Anything else goes on to [`map_any`](Self::map_any).
    #[inline(never)]
    fn map_long<const PLAIN: bool>(
        &self,
        off: u64,
        len_bytes: u64,
        pa: u64,
        attrs: u64,
    ) -> Result<(), MapError> {
        let last = off + (len_bytes - 1);
        let span = Span { off, last, pa };
        let block = Self::LAST_TABLE_LG2;
        let inside = (1 << block) - 1;
        let blocks = self.sizes >> block & 1 != 0;
        if blocks && (span.off | span.pa | span.last.wrapping_add(1)) & inside == 0 {
            let count = ((span.last - span.off) >> block) as usize + 1;
            let in_one_table = (span.off ^ span.last) >> (block + F::INDEX_BITS) == 0;
            if in_one_table
                && count < Self::ENTRIES
                && (PLAIN || block <= self.top_shift)
                && let Some((table, first)) = self.descend_as::<PLAIN>(span.off, block)
            {
                // SAFETY: as in `map_many`, one level up.
                if unsafe { self.lanes.all_zero(table, first, count) } {
                    // SAFETY: as above.
                    unsafe {
                        self.write_run(table, block, first, count, span.pa, attrs, self.sizes);
                    }
                    self.pool.memory.publish();
                    return Ok(());
                }
            }
        } else if !blocks || (span.off ^ span.pa) & inside != 0 || span.has_no_whole(block) {
            if self.map_two::<PLAIN>(span, attrs) {
                return Ok(());
            }
            self.prepare_pages(span)?;
            let written = self.write_pages(span, attrs);
            self.pool.memory.publish();
            return written;
        }
        self.map_any(span, attrs, self.sizes)
    }

    /// The pages of a span that lies in two last-level tables which are there.
    /// Says whether it has mapped them; if not, nothing has changed.
    #[inline(always)]
    fn map_two<const PLAIN: bool>(&self, span: Span, attrs: u64) -> bool {
        let Some(parts) = self.two_tables::<PLAIN>(span) else {
            return false;
        };
        for part in &parts {
            // SAFETY: the part lies in its table.
            if !unsafe { self.lanes.all_zero(part.table, part.first, part.count) } {
                return false;
            }
        }
        let mut pa = span.pa;
        for part in &parts {
            let (table, first, count) = (part.table, part.first, part.count);
            // SAFETY: as above.
            unsafe { self.write_run(table, F::PAGE_LG2, first, count, pa, attrs, self.sizes) };
            pa += (count as u64) << F::PAGE_LG2;
        }
        self.pool.memory.publish();
        true
    }

    /// The two last-level tables that a span lies in, if it lies in two and they
    /// need no attention, and which entries of each.
    #[inline(always)]
    pub(crate) fn two_tables<const PLAIN: bool>(&self, span: Span) -> Option<[Part; 2]> {
        let second = (span.off | ((1 << Self::LAST_TABLE_LG2) - 1)) + 1;
        if (second ^ span.last) >> Self::LAST_TABLE_LG2 != 0 {
            return None;
        }
        let (table, first) = self.descend_as::<PLAIN>(span.off, F::PAGE_LG2)?;
        let head = Part {
            table,
            first,
            count: ((second - span.off) >> F::PAGE_LG2) as usize,
        };
        let (table, first) = self.descend_as::<PLAIN>(second, F::PAGE_LG2)?;
        let tail = Part {
            table,
            first,
            count: ((span.last - second) >> F::PAGE_LG2) as usize + 1,
        };
        Some([head, tail])
    }

    /// Pass one for pages only.
    #[inline(always)]
    pub(crate) fn prepare_pages(&self, span: Span) -> Result<(), MapError> {
        let mut result = Ok(());
        span.each(Self::LAST_TABLE_LG2, |part| {
            let count = ((part.last - part.off) >> F::PAGE_LG2) as usize + 1;
            let found = match self.descend(part.off, F::PAGE_LG2) {
                Some(found) => Ok(found),
                None => self.descend_making(part.off),
            };
            result = found.and_then(|(table, first)| {
                // SAFETY: the part lies in one table.
                if unsafe { self.lanes.all_zero(table, first, count) } {
                    Ok(())
                } else {
                    Err(self.first_in_the_way(table, part))
                }
            });
            result.is_ok()
        });
        result
    }

    /// The last-level table for `off` and the index in it; makes what is
    /// missing.
    #[cold]
    #[inline(never)]
    fn descend_making(&self, off: u64) -> Result<(Table, usize), MapError> {
        let mut table = self.root;
        let mut shift = self.top_shift;
        let mut index = self.index(off, shift);
        while shift > F::PAGE_LG2 {
            // SAFETY: in bounds, in a section.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Acquire);
            if Self::is_taken(descriptor, shift) {
                return Err(MapError::Exists {
                    iova: self.iova(off),
                });
            }
            table = self.child_for_map(table, index, descriptor, off)?;
            shift -= F::INDEX_BITS;
            index = self.index(off, shift);
        }
        Ok((table, index))
    }

    /// Whether an entry above the last level is a leaf, or one that is being
    /// split.
    #[inline(always)]
    pub(crate) fn is_taken(descriptor: u64, shift: u32) -> bool {
        let splitting = descriptor != 0 && descriptor & (VALID | FROZEN) == 0;
        Self::is_leaf(descriptor, shift) || splitting
    }

    /// Pass two for pages only.
    #[inline(always)]
    pub(crate) fn write_pages(&self, span: Span, attrs: u64) -> Result<(), MapError> {
        let written = span.each(Self::LAST_TABLE_LG2, |part| {
            let count = ((part.last - part.off) >> F::PAGE_LG2) as usize + 1;
            let Some((table, first)) = self.descend_prepared(part.off, F::PAGE_LG2) else {
                return false;
            };
            // SAFETY: the part lies in one table.
            unsafe {
                self.write_run(table, F::PAGE_LG2, first, count, part.pa, attrs, self.sizes);
            }
            true
        });
        if written {
            Ok(())
        } else {
            Err(MapError::Conflict {
                iova: self.iova(span.off),
            })
        }
    }

    /// As [`map`](Self::map), with pages of `page_bytes` at most: `count` of
    /// them. `page_bytes` may be a size that only the contiguous hint gives.
    ///
    /// # Errors
    ///
    /// [`MapError`]; no translation has then changed.
    pub fn map_pages(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        page_bytes: u64,
        count: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        if !page_bytes.is_power_of_two() || self.sizes & page_bytes == 0 {
            return Err(MapError::PageSize { page_bytes });
        }
        let len_bytes = count.checked_mul(page_bytes).ok_or(MapError::IovaRange {
            iova,
            len_bytes: u64::MAX,
        })?;
        let checked = self.map_span::<false>(slot, iova, paddr, len_bytes, prot);
        let Some((span, attrs)) = checked else {
            return self.refuse_map(slot, iova, paddr, len_bytes, prot);
        };
        if (iova.0 | paddr.0) & (page_bytes - 1) != 0 {
            return Err(MapError::Misaligned {
                iova,
                paddr,
                len_bytes,
            });
        }
        self.map_any(span, attrs, page_bytes)
    }

    /// Checks everything but the tables. `None`: see [`refusal`](Self::refusal).
    /// `PLAIN`: the caller has [looked at the guard](Self::is_plain_for).
    #[inline(always)]
    fn map_span<const PLAIN: bool>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> Option<(Span, u64)> {
        // The masks are all ones, so an OR exceeds one if some operand does. With
        // `more` checked no sum wraps unnoticed; a length of 0 makes it exceed
        // any mask.
        let off = iova.0.wrapping_sub(self.base_as::<PLAIN>());
        let more = len_bytes.wrapping_sub(1);
        let span = Span {
            off,
            last: off.wrapping_add(more),
            pa: paddr.0,
        };
        let pa_last = paddr.0.wrapping_add(more);
        let attrs = self.leaf_attrs[prot.bits() as usize & (Prot::COUNT - 1)];
        let refused = (iova.0 | paddr.0 | len_bytes) & Self::PAGE_MASK != 0
            || (span.off | more | span.last) > self.ia_mask
            || (paddr.0 | pa_last) > self.pa_mask
            || attrs == 0
            || !PLAIN && !self.guard_is_ours(slot);
        (!refused).then_some((span, attrs))
    }

    /// [`refusal`](Self::refusal) as a result: a call that ends the caller.
    #[cold]
    #[inline(never)]
    fn refuse_map(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        Err(self.refusal(slot, iova, paddr, len_bytes, prot))
    }

    /// Which of the checks failed.
    #[cold]
    #[inline(never)]
    pub(crate) fn refusal(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        paddr: PhysAddr,
        len_bytes: u64,
        prot: Prot,
    ) -> MapError {
        if !self.guard_is_ours(slot) {
            return MapError::WrongSlots;
        }
        if len_bytes == 0 {
            return MapError::ZeroLength;
        }
        if !prot.intersects(Prot::READ_WRITE) {
            return MapError::NoAccess(prot);
        }
        let off = iova.0.wrapping_sub(self.base);
        match off.checked_add(len_bytes - 1) {
            Some(last) if last <= self.ia_mask => {}
            _ => return MapError::IovaRange { iova, len_bytes },
        }
        match paddr.0.checked_add(len_bytes - 1) {
            Some(last) if last <= self.pa_mask => {}
            _ => return MapError::PhysRange { paddr, len_bytes },
        }
        MapError::Misaligned {
            iova,
            paddr,
            len_bytes,
        }
    }

    #[cold]
    pub(crate) fn first_in_the_way(&self, table: Table, span: Span) -> MapError {
        let mut off = span.off;
        while off < span.last {
            // SAFETY: in bounds, in a section of the caller.
            let entry = unsafe { self.entry(table, self.index(off, F::PAGE_LG2)) };
            if entry.load(Ordering::Relaxed) != 0 {
                break;
            }
            off += 1 << F::PAGE_LG2;
        }
        MapError::Exists {
            iova: self.iova(off.min(span.last & !Self::PAGE_MASK)),
        }
    }

    /// The IOVA at offset `off`.
    #[inline(always)]
    pub(crate) fn iova(&self, off: u64) -> Iova {
        Iova(self.base + off)
    }
}
