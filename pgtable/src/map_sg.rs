//! Mapping a scatter list: one IOVA range, many physical pieces, one descent
//! per table.

use dmabench_platform::{Iova, PhysAddr, SlotGuard};

use crate::{Format, MapError, PageTable, Prot, TableMemory, map::Span};

/// Calls `f` with the physically contiguous runs of `pieces`: neighbours that
/// touch are one run.
#[inline(always)]
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
        let mut total = 0_u64;
        let mut longest = 0_u64;
        for_each_run(pieces.clone(), |pa, len_bytes| {
            let pa_last = pa.wrapping_add(len_bytes).wrapping_sub(1);
            let refused = ((pa | len_bytes) & Self::PAGE_MASK != 0)
                | (pa_last < pa)
                | (pa_last > self.pa_mask);
            if refused {
                return Err(self.refusal(slot, iova, PhysAddr(pa), len_bytes, prot));
            }
            longest = longest.max(len_bytes);
            // Below 2^64: a total beyond the input space is refused below.
            total = total.saturating_add(len_bytes);
            Ok(())
        })?;
        // An empty piece that touches its neighbour is part of a run that is not.
        if pieces.clone().any(|(_, len_bytes)| len_bytes == 0) {
            return Err(MapError::ZeroLength);
        }
        let attrs = self.leaf_attrs[prot.bits() as usize & (Prot::COUNT - 1)];
        let off = iova.0.wrapping_sub(self.base);
        let last = off.wrapping_add(total).wrapping_sub(1);
        let refused = (iova.0 & Self::PAGE_MASK != 0)
            | (last < off)
            | (last > self.ia_mask)
            | (attrs == 0)
            | !self.guard_is_ours(slot);
        if refused {
            return Err(self.refusal(slot, iova, PhysAddr(0), total, prot));
        }
        let whole = Span { off, last, pa: 0 };
        if longest < 1 << Self::LAST_TABLE_LG2 {
            self.map_small_pieces(whole, pieces, attrs)?;
        } else {
            self.map_large_pieces(whole, pieces, attrs)?;
        }
        self.pool.memory.publish();
        Ok(total)
    }

    /// No run is as long as a block: pages only, with a cursor that holds the
    /// last-level table.
    #[inline(always)]
    fn map_small_pieces(
        &self,
        whole: Span,
        pieces: impl Iterator<Item = (PhysAddr, u64)>,
        attrs: u64,
    ) -> Result<(), MapError> {
        // With the granule as the only size every table down to the last level
        // is made.
        self.prepare(self.root, self.top_shift, whole, 1 << F::PAGE_LG2)?;
        let mut off = whole.off;
        let mut cursor = self.cursor(off)?;
        for_each_run(pieces, |mut pa, len_bytes| {
            let mut left = (len_bytes >> F::PAGE_LG2) as usize;
            while left > 0 {
                let first = self.index(off, F::PAGE_LG2);
                let count = left.min(cursor.entries - first);
                if (count as u64) << F::PAGE_LG2 > whole.last - off + 1 {
                    // More than the first time.
                    return Err(MapError::Conflict {
                        iova: self.iova(off),
                    });
                }
                // SAFETY: `first + count` is at most the entries of the table.
                unsafe {
                    self.write_run(
                        cursor.table,
                        F::PAGE_LG2,
                        first,
                        count,
                        pa,
                        attrs,
                        self.sizes,
                    );
                }
                left -= count;
                pa += (count as u64) << F::PAGE_LG2;
                off += (count as u64) << F::PAGE_LG2;
                if first + count == cursor.entries && off <= whole.last {
                    cursor = self.cursor(off)?;
                }
                if off > whole.last {
                    break;
                }
            }
            Ok(())
        })
    }

    fn cursor(&self, off: u64) -> Result<Cursor, MapError> {
        let table = self
            .descend_prepared(off, F::PAGE_LG2)
            .ok_or(MapError::Conflict {
                iova: self.iova(off),
            })?;
        let entries = if self.top_shift == F::PAGE_LG2 {
            self.root_mask + 1
        } else {
            Self::ENTRIES
        };
        Ok(Cursor { table, entries })
    }

    /// Some run may hold a block: each goes its own way.
    #[cold]
    #[inline(never)]
    fn map_large_pieces(
        &self,
        whole: Span,
        pieces: impl Iterator<Item = (PhysAddr, u64)> + Clone,
        attrs: u64,
    ) -> Result<(), MapError> {
        let each = |f: &dyn Fn(Span) -> Result<(), MapError>| {
            let mut off = whole.off;
            for_each_run(pieces.clone(), |pa, len_bytes| {
                let last = off.saturating_add(len_bytes - 1);
                if last > whole.last {
                    // More than the first time.
                    return Err(MapError::Conflict {
                        iova: self.iova(off),
                    });
                }
                f(Span { off, last, pa })?;
                off += len_bytes;
                Ok(())
            })
        };
        each(&|span| self.prepare(self.root, self.top_shift, span, self.sizes))?;
        each(&|span| self.write(self.root, self.top_shift, span, attrs, self.sizes))
    }
}

/// The last-level table that `off` is in.
struct Cursor {
    table: crate::table::Table,
    entries: usize,
}
