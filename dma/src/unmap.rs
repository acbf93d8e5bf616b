//! Unmapping: the rule is kept here, and in the types of `flushq`.

use core::mem;

use dmabench_flushq::{FlushQueue, Gather, Late, PagesKept, PagesRange, Room, TlbBackend};
use dmabench_iova::IovaRange;
use dmabench_pgtable::{DetachedTable, DetachedTables, Format, Level, TableMemory, UnmapSink};
use dmabench_platform::{Iova, SlotGuard, SlotSource};

use crate::{Domain, Mapping, UnmapError, domain::ModeState, error::Unfinished};

/// What a lazy unmap needs to know: the flush invalidates everything, so only
/// the tables matter.
struct TablesOnly(DetachedTables);

impl UnmapSink for TablesOnly {
    #[inline]
    fn leaves(&mut self, _iova: Iova, _len_bytes: u64, _level: Level) {}

    #[inline]
    fn table(&mut self, table: DetachedTable) {
        self.0.push(table);
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Takes the device's access away.
    ///
    /// *Strict*: when this returns `Ok`, the device cannot reach the buffer, and
    /// the addresses are free. *Lazy*: the device loses its access with the next
    /// flush; the addresses stay reserved until then.
    ///
    /// # Errors
    ///
    /// [`UnmapError`] holds the mapping where it is still valid. After
    /// [`UnmapError::NotInvalidated`] the buffer must not be reused yet.
    #[inline]
    pub fn unmap(&self, mapping: Mapping) -> Result<(), UnmapError> {
        if !core::ptr::eq(mapping.tag, self.tag) {
            return Err(UnmapError::OtherDomain(mapping));
        }
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(UnmapError::Reentered(mapping)),
        };
        let slot = &mut slot;
        match &self.mode {
            ModeState::Strict => self.unmap_strict(slot, mapping),
            ModeState::Lazy(queue) => self.unmap_lazy(slot, queue, mapping),
            ModeState::Passthrough => {
                mem::forget(mapping);
                self.count_unmapped(slot);
                Ok(())
            }
        }
    }

    /// Tries again to finish an unmap whose invalidation was late or failed.
    ///
    /// # Errors
    ///
    /// [`UnmapError::NotInvalidated`] as before, or with `unfinished` untouched
    /// if it is of another domain.
    pub fn finish(&self, mut unfinished: Unfinished) -> Result<(), UnmapError> {
        if !core::ptr::eq(unfinished.tag, self.tag) {
            return Err(UnmapError::NotInvalidated(unfinished));
        }
        let pin = self.source.pin();
        let Ok(mut slot) = self.slots.enter_pinned(&pin) else {
            return Err(UnmapError::NotInvalidated(unfinished));
        };
        match self.invalidate(&mut slot, &mut unfinished.gather) {
            Ok(()) => Ok(()),
            Err(late) => {
                unfinished.late = late;
                Err(UnmapError::NotInvalidated(unfinished))
            }
        }
    }

    /// `range.len_bytes()` without looking at the granule in the token.
    #[inline]
    fn len_bytes(range: &IovaRange) -> u64 {
        debug_assert_eq!(range.granule(), F::GRANULE);
        range.size_pages() << F::GRANULE.lg2()
    }

    /// A run of pages, nearly always; the rest is
    /// [`unmap_strict_any`](Self::unmap_strict_any)'s.
    #[inline(always)]
    fn unmap_strict(
        &self,
        slot: &mut SlotGuard<'_>,
        mut mapping: Mapping,
    ) -> Result<(), UnmapError> {
        if let Some(range) = &mapping.range {
            let (iova, len_bytes) = (range.iova(), Self::len_bytes(range));
            if self.tables.unmap_pages(slot, iova, len_bytes)
                && let Some(range) = mapping.range.take()
            {
                mem::forget(mapping);
                return match Gather::complete_pages(
                    PagesRange::new(F::GRANULE, iova, len_bytes),
                    range,
                    &self.backend,
                    slot,
                    &self.context,
                    self.sync_timeout,
                ) {
                    Ok(range) => {
                        self.release(slot, range);
                        self.count_unmapped(slot);
                        Ok(())
                    }
                    Err(kept) => Err(self.unfinished(kept)),
                };
            }
        }
        self.unmap_strict_any(slot, mapping)
    }

    #[cold]
    #[inline(never)]
    fn unfinished(&self, kept: PagesKept<IovaRange>) -> UnmapError {
        let (gather, late) = kept.into_gather();
        UnmapError::NotInvalidated(Unfinished {
            gather,
            late,
            tag: self.tag,
        })
    }

    #[inline(never)]
    fn unmap_strict_any(
        &self,
        slot: &mut SlotGuard<'_>,
        mut mapping: Mapping,
    ) -> Result<(), UnmapError> {
        // Every mapping of a translating domain has a range.
        let Some(range) = mapping.range.take() else {
            return Err(UnmapError::OtherDomain(mapping));
        };
        let (iova, len_bytes) = (range.iova(), Self::len_bytes(&range));
        let mut gather = Gather::holding(F::GRANULE, Some(range));
        if let Err(error) = self.tables.unmap(slot, iova, len_bytes, &mut gather) {
            // Nothing was gathered: all or nothing.
            mapping.range = gather.into_unused().unwrap_or_default();
            return Err(UnmapError::Tables { mapping, error });
        }
        mem::forget(mapping);
        self.invalidate(slot, &mut gather).map_err(|late| {
            UnmapError::NotInvalidated(Unfinished {
                gather,
                late,
                tag: self.tag,
            })
        })
    }

    /// Invalidates, waits, and only then gives back what the gather holds.
    #[inline]
    fn invalidate(
        &self,
        slot: &mut SlotGuard<'_>,
        gather: &mut Gather<Option<IovaRange>>,
    ) -> Result<(), Late> {
        let issued = gather
            .issue_in_place(&self.backend, Some(slot), &self.context)
            .map_err(|refused| Late::Failed(refused.error))?;
        let mut complete = issued
            .wait(Some(slot), self.sync_timeout)
            .map_err(|waited| waited.late)?;
        if let Some(tables) = complete.take_tables() {
            self.release_tables(slot, tables);
        }
        if let Some(range) = complete.take_payload() {
            self.release(slot, range);
            self.count_unmapped(slot);
        }
        Ok(())
    }

    #[inline(always)]
    fn unmap_lazy(
        &self,
        slot: &mut SlotGuard<'_>,
        queue: &FlushQueue<IovaRange, DetachedTables>,
        mut mapping: Mapping,
    ) -> Result<(), UnmapError> {
        // Room first: afterwards nothing can fail, and the mapping is still
        // whole if this does.
        let room = loop {
            if let Some(room) = queue.room(slot) {
                break room;
            }
            if let Err(late) = self.make_room(slot, queue) {
                return Err(UnmapError::Flush { mapping, late });
            }
        };
        if let Some(range) = &mapping.range {
            let (iova, len_bytes) = (range.iova(), Self::len_bytes(range));
            if self.tables.unmap_pages(room.slot(), iova, len_bytes)
                && let Some(range) = mapping.range.take()
            {
                mem::forget(mapping);
                let slot = room.push(range);
                self.count_unmapped(slot);
                return Ok(());
            }
        }
        self.unmap_lazy_any(room, mapping)
    }

    #[inline(never)]
    fn unmap_lazy_any(
        &self,
        room: Room<'_, '_, '_, IovaRange, DetachedTables>,
        mut mapping: Mapping,
    ) -> Result<(), UnmapError> {
        // Every mapping of a translating domain has a range.
        let Some(range) = mapping.range.take() else {
            return Err(UnmapError::OtherDomain(mapping));
        };
        let mut sink = TablesOnly(DetachedTables::new());
        let (iova, len_bytes) = (range.iova(), Self::len_bytes(&range));
        if let Err(error) = self.tables.unmap(room.slot(), iova, len_bytes, &mut sink) {
            mapping.range = Some(range);
            return Err(UnmapError::Tables { mapping, error });
        }
        mem::forget(mapping);
        let slot = if sink.0.is_empty() {
            room.push(range)
        } else {
            room.push_with(range, sink.0)
        };
        self.count_unmapped(slot);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn make_room(
        &self,
        slot: &mut SlotGuard<'_>,
        queue: &FlushQueue<IovaRange, DetachedTables>,
    ) -> Result<(), Late> {
        let flushed = queue.flush_own(
            slot,
            &self.backend,
            &self.context,
            self.sync_timeout,
            |slot, range| self.release(slot, range),
        )?;
        let _ = self.release_extra(slot, flushed);
        Ok(())
    }
}
