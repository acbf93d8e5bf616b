//! Mapping a scatter list: one IOVA range, many physical pieces, one descent
//! per table.

use dmabench_platform::{Iova, PhysAddr, SlotGuard, sync::atomic::Ordering};

use crate::{Format, Level, MapError, PageTable, Prot, TableMemory, span::Span, table::Table};

/// Calls `f` with the physically contiguous runs of `pieces`: neighbours that
/// touch are one run.
fn for_each_run<E>(
    pieces: impl Iterator<Item = (PhysAddr, u64)>,
    mut f: impl FnMut(u64, u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut run: Option<(u64, u64)> = None;
    for (PhysAddr(pa), len_bytes) in pieces {
        run = match run {
            Some((start, length)) if start.wrapping_add(length) == pa => {
                Some((start, length.saturating_add(len_bytes)))
            }
            Some((start, length)) => {
                f(start, length)?;
                Some((pa, len_bytes))
            }
            None => Some((pa, len_bytes)),
        };
    }
    match run {
        Some((start, length)) => f(start, length),
        None => Ok(()),
    }
}

/// What one look at a list tells.
struct Shape {
    total: u64,
    /// The longest piece.
    longest: u64,
    /// Whether some piece begins where the one before it ended.
    touching: bool,
}

/// The longest physically contiguous run of a list.
fn longest_run(shape: &Shape, pieces: impl Iterator<Item = (PhysAddr, u64)>) -> u64 {
    if !shape.touching {
        return shape.longest;
    }
    let mut longest = 0;
    let all: Result<(), ()> = for_each_run(pieces, |_, len_bytes| {
        longest = longest.max(len_bytes);
        Ok(())
    });
    debug_assert!(all.is_ok());
    longest
}

/// The part of a range that lies in one last-level table.
struct Cursor {
    table: Table,
    /// The first entry.
    index: usize,
    /// Entries of the range in this table.
    room: usize,
    /// Entries of the range after it.
    left: u64,
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Maps the pieces of a scatter list one after the other from `iova` on:
    /// all of it or nothing. Returns the length in bytes. Pieces that touch are
    /// mapped as one. The iterator is run more than once and must yield the
    /// same each time.
    ///
    /// # Errors
    ///
    /// [`MapError`]; no translation has then changed. (A list that changes
    /// between two runs of the iterator gives [`MapError::Conflict`] and may
    /// leave a part mapped, of what it yielded.)
    pub fn map_sg<I>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        pieces: I,
        prot: Prot,
    ) -> Result<u64, MapError>
    where
        I: Iterator<Item = (PhysAddr, u64)> + Clone,
    {
        let singles = self.single_pages(pieces.clone());
        let shape = if singles > 0 {
            Some(Shape {
                total: singles << F::PAGE_LG2,
                longest: Self::PAGE,
                touching: false,
            })
        } else {
            self.shape(pieces.clone())
        };
        let Some(shape) = shape else {
            return Err(self.sg_refusal(slot, iova, pieces, prot));
        };
        let attrs = self.leaf_attrs[prot.bits() as usize & (Prot::COUNT - 1)];
        let off = iova.0.wrapping_sub(self.base);
        let last = off.wrapping_add(shape.total).wrapping_sub(1);
        let refused = (iova.0 & Self::PAGE_MASK != 0)
            | (last < off)
            | (last > self.ia_mask)
            | (attrs == 0)
            | !self.guard_is_ours(slot);
        if refused {
            return Err(self.refusal(slot, iova, PhysAddr(0), shape.total, prot));
        }
        let whole = Span { off, last, pa: 0 };
        // Shorter runs get neither a block nor the hint.
        let hint_from = 1 << (F::PAGE_LG2 + F::contiguous_lg2(Level::LAST));
        if singles > 0 {
            self.prepare_pages(whole)?;
            self.write_single_pages(whole, pieces, attrs)?;
        } else if !shape.touching && shape.longest < hint_from {
            self.prepare_pages(whole)?;
            self.write_pieces(whole, pieces, attrs)?;
        } else if longest_run(&shape, pieces.clone()) < 1 << Self::LAST_TABLE_LG2 {
            self.prepare_pages(whole)?;
            self.write_runs(whole, pieces, attrs)?;
        } else {
            self.map_large_runs(whole, pieces, attrs)?;
        }
        self.pool.memory.publish();
        Ok(shape.total)
    }

    /// Maps a list of single pages, scattered over memory, one after the other
    /// from `iova` on: all of it or nothing. Returns the length in bytes. What
    /// [`map_sg`](Self::map_sg) does for such a list, but pages that touch are
    /// not looked for, and so get neither a block nor the contiguous hint.
    ///
    /// # Errors
    ///
    /// [`MapError`]; no translation has then changed. (An iterator that does not
    /// yield the same twice gives [`MapError::Conflict`] and may leave a part
    /// mapped, of what it yielded.)
    #[inline]
    pub fn map_single_pages<I>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        pages: I,
        prot: Prot,
    ) -> Result<u64, MapError>
    where
        I: ExactSizeIterator<Item = PhysAddr> + Clone,
    {
        let bits = pages.clone().fold(0, |bits, PhysAddr(pa)| bits | pa);
        let count = pages.len() as u64;
        // `pa_mask` covers whole pages: where one begins it also ends.
        let known = self.pa_mask & !Self::PAGE_MASK;
        let off = iova.0.wrapping_sub(self.base);
        let attrs = self.leaf_attrs[prot.bits() as usize & (Prot::COUNT - 1)];
        let fits = count
            .checked_sub(1)
            .filter(|&more| more <= self.ia_mask >> F::PAGE_LG2)
            .and_then(|more| off.checked_add((more << F::PAGE_LG2) | Self::PAGE_MASK))
            .filter(|&last| last <= self.ia_mask);
        let (Some(last), true) = (
            fits,
            bits & !known == 0
                && iova.0 & Self::PAGE_MASK == 0
                && attrs != 0
                && self.guard_is_ours(slot),
        ) else {
            let odd = pages.clone().find(|pa| pa.0 & !known != 0);
            let (paddr, len_bytes) = match odd {
                Some(paddr) => (paddr, Self::PAGE),
                None => (PhysAddr(0), count.saturating_mul(Self::PAGE)),
            };
            return Err(self.refusal(slot, iova, paddr, len_bytes, prot));
        };
        let whole = Span { off, last, pa: 0 };
        self.prepare_pages(whole)?;
        self.write_page_list(whole, pages, attrs)?;
        self.pool.memory.publish();
        Ok(count << F::PAGE_LG2)
    }

    /// Pass two of [`map_single_pages`](Self::map_single_pages).
    // Not inlined: the loop then has the registers for itself.
    #[inline(never)]
    fn write_page_list(
        &self,
        whole: Span,
        mut pages: impl Iterator<Item = PhysAddr>,
        attrs: u64,
    ) -> Result<(), MapError> {
        // Bits that no list, however it changes, may set in a descriptor.
        let pa_bits = self.pa_mask & !Self::PAGE_MASK;
        let attrs = attrs | F::LAST_LEVEL_TYPE;
        let mut off = whole.off;
        loop {
            let cursor = self.cursor(whole, off)?;
            for index in cursor.index..cursor.index + cursor.room {
                let Some(PhysAddr(pa)) = pages.next() else {
                    return Err(self.changed(whole));
                };
                // SAFETY: `room` entries from `index` on are in the table; in a
                // section.
                let entry = unsafe { self.entry(cursor.table, index) };
                entry.store(F::encode_oa(pa & pa_bits) | attrs, Ordering::Relaxed);
            }
            // SAFETY: these entries were written.
            unsafe { self.clean(cursor.table, cursor.index, cursor.room) };
            if cursor.left == 0 {
                break;
            }
            off = whole.last + 1 - (cursor.left << F::PAGE_LG2);
        }
        match pages.next() {
            None => Ok(()),
            Some(_) => Err(self.changed(whole)),
        }
    }

    /// Counts the pieces of the most frequent list: scattered pages, one to a
    /// piece. 0 for any other, and for one that [`shape`](Self::shape) refuses.
    // Not inlined: the loop then has the registers for itself.
    #[inline(never)]
    fn single_pages(&self, pieces: impl Iterator<Item = (PhysAddr, u64)>) -> u64 {
        let mut bits = 0;
        let mut end = u64::MAX;
        let mut count = 0_u64;
        for (PhysAddr(pa), len_bytes) in pieces {
            if len_bytes != Self::PAGE || pa == end {
                return 0;
            }
            bits |= pa;
            end = pa.wrapping_add(Self::PAGE);
            count += 1;
        }
        // `pa_mask` covers whole pages: where one begins it also ends. More pages
        // than there are addresses are for `shape` to refuse.
        let known = self.pa_mask & !Self::PAGE_MASK;
        let fits = bits & !known == 0 && count <= self.ia_mask >> F::PAGE_LG2;
        if fits { count } else { 0 }
    }

    /// Checks every piece; `None` if one is refused or the sum leaves 64 bits.
    #[inline(always)]
    fn shape(&self, pieces: impl Iterator<Item = (PhysAddr, u64)>) -> Option<Shape> {
        // Low bits that must be clear, and high bits that must be: those of the
        // last byte of each piece, and of a length less one, which an empty
        // piece has all set.
        let (mut low, mut high) = (0, 0);
        let (mut total, mut longest) = (0_u64, 0);
        let mut end = 0;
        let mut touching = false;
        for (PhysAddr(pa), len_bytes) in pieces {
            let more = len_bytes.wrapping_sub(1);
            low |= pa | len_bytes;
            high |= pa | more | pa.wrapping_add(more);
            touching |= pa == end;
            end = pa.wrapping_add(len_bytes);
            longest = longest.max(len_bytes);
            total = total.saturating_add(len_bytes);
        }
        (low & Self::PAGE_MASK == 0 && high & !self.pa_mask == 0).then_some(Shape {
            total,
            longest,
            touching,
        })
    }

    /// Which piece is refused, and why.
    #[cold]
    fn sg_refusal(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        pieces: impl Iterator<Item = (PhysAddr, u64)>,
        prot: Prot,
    ) -> MapError {
        for (paddr, len_bytes) in pieces {
            let last = paddr.0.wrapping_add(len_bytes).wrapping_sub(1);
            let aligned = (paddr.0 | len_bytes) & Self::PAGE_MASK == 0;
            if !aligned || last < paddr.0 || last > self.pa_mask {
                return self.refusal(slot, iova, paddr, len_bytes, prot);
            }
        }
        // The list has changed.
        MapError::Conflict { iova }
    }

    /// Pass two for pages one by one.
    // Not inlined: the loop then has the registers for itself.
    #[inline(never)]
    fn write_single_pages(
        &self,
        whole: Span,
        mut pieces: impl Iterator<Item = (PhysAddr, u64)>,
        attrs: u64,
    ) -> Result<(), MapError> {
        // Bits that no list, however it changes, may set in a descriptor.
        let pa_bits = self.pa_mask & !Self::PAGE_MASK;
        let attrs = attrs | F::LAST_LEVEL_TYPE;
        let mut off = whole.off;
        loop {
            let cursor = self.cursor(whole, off)?;
            for index in cursor.index..cursor.index + cursor.room {
                let pa = match pieces.next() {
                    Some((PhysAddr(pa), len_bytes)) if len_bytes == Self::PAGE => pa,
                    _ => return Err(self.changed(whole)),
                };
                // SAFETY: `room` entries from `index` on are in the table; in a
                // section.
                let entry = unsafe { self.entry(cursor.table, index) };
                entry.store(F::encode_oa(pa & pa_bits) | attrs, Ordering::Relaxed);
            }
            // SAFETY: these entries were written.
            unsafe { self.clean(cursor.table, cursor.index, cursor.room) };
            if cursor.left == 0 {
                break;
            }
            off = whole.last + 1 - (cursor.left << F::PAGE_LG2);
        }
        match pieces.next() {
            None => Ok(()),
            Some(_) => Err(self.changed(whole)),
        }
    }

    /// Pass two where no run takes the hint: one store per page.
    // Not inlined: the loop then has the registers for itself.
    #[inline(never)]
    fn write_pieces(
        &self,
        whole: Span,
        pieces: impl Iterator<Item = (PhysAddr, u64)>,
        attrs: u64,
    ) -> Result<(), MapError> {
        // Bits that no list, however it changes, may set in a descriptor.
        let pa_bits = self.pa_mask & !Self::PAGE_MASK;
        let attrs = attrs | F::LAST_LEVEL_TYPE;
        let mut cursor = self.cursor(whole, whole.off)?;
        let (mut table, mut index, mut room) = (cursor.table, cursor.index, cursor.room);
        for (PhysAddr(pa), len_bytes) in pieces {
            let mut pa = pa;
            let mut pages = len_bytes >> F::PAGE_LG2;
            while pages > 0 {
                if room == 0 {
                    cursor = self.next_table(whole, &cursor)?;
                    (table, index, room) = (cursor.table, cursor.index, cursor.room);
                }
                // SAFETY: `room` entries from `index` on are in the table; in a
                // section.
                let entry = unsafe { self.entry(table, index) };
                entry.store(F::encode_oa(pa & pa_bits) | attrs, Ordering::Relaxed);
                index += 1;
                room -= 1;
                pa = pa.wrapping_add(1 << F::PAGE_LG2);
                pages -= 1;
            }
        }
        // SAFETY: these entries were written.
        unsafe { self.clean(table, cursor.index, index - cursor.index) };
        if room > 0 || cursor.left > 0 {
            // Fewer than the first time.
            return Err(self.changed(whole));
        }
        Ok(())
    }

    /// The table after the one that `cursor` has filled.
    #[cold]
    #[inline(never)]
    fn next_table(&self, whole: Span, cursor: &Cursor) -> Result<Cursor, MapError> {
        // SAFETY: these entries were written.
        unsafe { self.clean(cursor.table, cursor.index, cursor.room) };
        if cursor.left == 0 {
            // More than the first time.
            return Err(self.changed(whole));
        }
        self.cursor(whole, whole.last + 1 - (cursor.left << F::PAGE_LG2))
    }

    /// Pass two where some run may take the hint, but none is a block.
    fn write_runs(
        &self,
        whole: Span,
        pieces: impl Iterator<Item = (PhysAddr, u64)>,
        attrs: u64,
    ) -> Result<(), MapError> {
        let mut off = whole.off;
        for_each_run(pieces, |pa, len_bytes| {
            let span = self.next_run(whole, off, pa, len_bytes)?;
            off = span.last.wrapping_add(1);
            self.write_pages(span, attrs)
        })?;
        self.all_written(whole, off)
    }

    /// Some run may hold a block: each goes its own way.
    #[cold]
    #[inline(never)]
    fn map_large_runs(
        &self,
        whole: Span,
        pieces: impl Iterator<Item = (PhysAddr, u64)> + Clone,
        attrs: u64,
    ) -> Result<(), MapError> {
        let each = |f: &dyn Fn(Span) -> Result<(), MapError>| {
            let mut off = whole.off;
            for_each_run(pieces.clone(), |pa, len_bytes| {
                let span = self.next_run(whole, off, pa, len_bytes)?;
                off = span.last.wrapping_add(1);
                f(span)
            })?;
            self.all_written(whole, off)
        };
        each(&|span| self.prepare(self.root, self.top_shift, span, self.sizes))?;
        each(&|span| self.write(self.root, self.top_shift, span, attrs, self.sizes))
    }

    /// The run at `off`, checked again: the list may have changed.
    fn next_run(&self, whole: Span, off: u64, pa: u64, len_bytes: u64) -> Result<Span, MapError> {
        let last = off.wrapping_add(len_bytes).wrapping_sub(1);
        let pa_last = pa.wrapping_add(len_bytes).wrapping_sub(1);
        let same = (pa | len_bytes) & Self::PAGE_MASK == 0
            && off <= last
            && last <= whole.last
            && pa <= pa_last
            && pa_last <= self.pa_mask;
        if same {
            Ok(Span { off, last, pa })
        } else {
            Err(self.changed(whole))
        }
    }

    fn all_written(&self, whole: Span, off: u64) -> Result<(), MapError> {
        if off == whole.last.wrapping_add(1) {
            Ok(())
        } else {
            Err(self.changed(whole))
        }
    }

    #[cold]
    fn changed(&self, whole: Span) -> MapError {
        MapError::Conflict {
            iova: self.iova(whole.off),
        }
    }

    fn cursor(&self, whole: Span, off: u64) -> Result<Cursor, MapError> {
        let (table, index) = self
            .descend_prepared(off, F::PAGE_LG2)
            .ok_or_else(|| self.changed(whole))?;
        let entries = if self.top_shift == F::PAGE_LG2 {
            self.root_mask + 1
        } else {
            Self::ENTRIES
        };
        let pages = ((whole.last - off) >> F::PAGE_LG2) + 1;
        let room = pages.min((entries - index) as u64) as usize;
        Ok(Cursor {
            table,
            index,
            room,
            left: pages - room as u64,
        })
    }
}
