//! Unmapping: the rule is kept here, and in the types of `flushq`.

use core::mem;

use dmabench_flushq::{Gather, Late, PagesKept, PagesRange, Room, SharedRoom, TlbBackend};
use dmabench_iova::IovaRange;
use dmabench_pgtable::{DetachedTable, DetachedTables, Format, Level, TableMemory, UnmapSink};
use dmabench_platform::{Iova, SlotGuard, SlotSource};

use crate::{Domain, Mapping, UnmapError, error::Unfinished, queues::Queues, switch::Way};

/// What a lazy unmap needs to know: the flush invalidates everything, so only
/// the tables matter.
#[derive(Default)]
pub(crate) struct TablesOnly(pub(crate) DetachedTables);

impl UnmapSink for TablesOnly {
    #[inline]
    fn leaves(&mut self, _iova: Iova, _len_bytes: u64, _level: Level) {}

    #[inline]
    fn table(&mut self, table: DetachedTable) {
        self.0.push(table);
    }
}

/// A place in a flush queue, found before anything is touched.
trait Place<'g, 's> {
    fn slot(&self) -> &SlotGuard<'s>;
    fn push(self, range: IovaRange) -> &'g mut SlotGuard<'s>;
    fn push_with(self, range: IovaRange, tables: DetachedTables) -> &'g mut SlotGuard<'s>;
}

macro_rules! place {
    ($room:ident) => {
        impl<'g, 's> Place<'g, 's> for $room<'_, 'g, 's, IovaRange, DetachedTables> {
            #[inline(always)]
            fn slot(&self) -> &SlotGuard<'s> {
                $room::slot(self)
            }
            #[inline(always)]
            fn push(self, range: IovaRange) -> &'g mut SlotGuard<'s> {
                $room::push(self, range)
            }
            fn push_with(self, range: IovaRange, tables: DetachedTables) -> &'g mut SlotGuard<'s> {
                $room::push_with(self, range, tables)
            }
        }
    };
}

place!(Room);
place!(SharedRoom);

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Takes the device's access away.
    ///
    /// *Strict*, all three, and *lazy-parked*: when this returns `Ok`, the device
    /// cannot reach the buffer, and the addresses are free. *Lazy* and
    /// *lazy-single*: the device loses its access with the next flush; the
    /// addresses stay reserved until then.
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
        // As `unmap_entered`: even a call that is inlined copies the mapping.
        match self.unmap_at_once(slot, &mapping) {
            Some(done) => {
                mem::forget(mapping);
                done
            }
            None => self.unmap_other(slot, mapping),
        }
    }

    /// What nearly every unmap is: a run of pages, strict, or lazy with room in
    /// the slot's ring. `None`: nothing has been touched, and
    /// [`unmap_other`](Self::unmap_other) does it. Else the mapping is gone, and
    /// the caller forgets it.
    ///
    /// By reference: a copy of the mapping would read what the caller has only
    /// just written, in other pieces than it was written in, and no CPU forwards
    /// that from its store buffer; it waits until all before is done.
    #[inline(always)]
    fn unmap_at_once(
        &self,
        slot: &mut SlotGuard<'_>,
        mapping: &Mapping,
    ) -> Option<Result<(), UnmapError>> {
        let range = mapping.range.as_ref()?;
        let (iova, len_bytes) = (range.iova(), Self::len_bytes(range));
        match self.mode.way() {
            Way::Strict => {
                if !self.tables.unmap_pages(slot, iova, len_bytes) {
                    return None;
                }
                // SAFETY: the caller forgets the mapping.
                let range = unsafe { mapping.take_range() }?;
                Some(self.complete_pages(slot, range, iova, len_bytes))
            }
            Way::Lazy(Queues::PerSlot(queue)) => {
                // Room first: afterwards nothing can fail.
                let room = queue.room(slot)?;
                if !self.tables.unmap_pages(room.slot(), iova, len_bytes) {
                    return None;
                }
                // SAFETY: the caller forgets the mapping.
                let slot = room.push(unsafe { mapping.take_range() }?);
                self.count_unmapped(slot);
                Some(Ok(()))
            }
            _ => None,
        }
    }

    /// Pages that were unmapped are invalidated; then `range` is free.
    #[inline(always)]
    fn complete_pages(
        &self,
        slot: &mut SlotGuard<'_>,
        range: IovaRange,
        iova: Iova,
        len_bytes: u64,
    ) -> Result<(), UnmapError> {
        match Gather::complete_pages(
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
        }
    }

    /// [`unmap`](Self::unmap) inside a section. The mode is read once, and what
    /// it says is done to the end.
    #[inline]
    pub(crate) fn unmap_entered(
        &self,
        slot: &mut SlotGuard<'_>,
        mapping: Mapping,
    ) -> Result<(), UnmapError> {
        match self.unmap_at_once(slot, &mapping) {
            Some(done) => {
                mem::forget(mapping);
                done
            }
            None => self.unmap_other(slot, mapping),
        }
    }

    /// What [`unmap_entered`](Self::unmap_entered) leaves: full rings and rarer
    /// modes. Nothing has been touched yet, so the mode is read again, and once
    /// more after each pause for a flush: a switch to strict may have drained the
    /// queue in it.
    #[inline(never)]
    fn unmap_other(&self, slot: &mut SlotGuard<'_>, mapping: Mapping) -> Result<(), UnmapError> {
        loop {
            let made = match self.mode.way() {
                Way::Lazy(Queues::PerSlot(queue)) => {
                    if let Some(room) = queue.room(slot) {
                        return self.unmap_lazy(room, mapping);
                    }
                    self.make_room(slot, queue)
                }
                Way::Lazy(Queues::Single(queue)) => {
                    if let Some(room) = queue.take_room(slot) {
                        return self.unmap_lazy(room, mapping);
                    }
                    self.make_room(slot, queue)
                }
                // The buffer stays with the caller, so it must not be reachable.
                Way::Strict | Way::Lazy(Queues::Parked(_)) => {
                    return self.unmap_strict(slot, mapping);
                }
                Way::Passthrough => {
                    mem::forget(mapping);
                    self.count_unmapped(slot);
                    return Ok(());
                }
            };
            if let Err(late) = made {
                return Err(UnmapError::Flush { mapping, late });
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
    pub(crate) fn len_bytes(range: &IovaRange) -> u64 {
        debug_assert_eq!(range.granule(), F::GRANULE);
        range.size_pages() << F::GRANULE.lg2()
    }

    /// A run of pages, nearly always; the rest is
    /// [`unmap_strict_any`](Self::unmap_strict_any)'s.
    #[inline(always)]
    pub(crate) fn unmap_strict(
        &self,
        slot: &mut SlotGuard<'_>,
        mapping: Mapping,
    ) -> Result<(), UnmapError> {
        if let Some(range) = &mapping.range {
            let (iova, len_bytes) = (range.iova(), Self::len_bytes(range));
            if self.tables.unmap_pages(slot, iova, len_bytes) {
                // SAFETY: it is forgotten next.
                let range = unsafe { mapping.take_range() };
                mem::forget(mapping);
                return match range {
                    Some(range) => self.complete_pages(slot, range, iova, len_bytes),
                    None => Ok(()),
                };
            }
        }
        self.unmap_strict_any(slot, mapping)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn unfinished(&self, kept: PagesKept<IovaRange>) -> UnmapError {
        let (gather, late) = kept.into_gather();
        UnmapError::NotInvalidated(Unfinished {
            gather,
            late,
            tag: self.tag,
        })
    }

    #[inline(never)]
    pub(crate) fn unmap_strict_any(
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
    pub(crate) fn invalidate(
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
    fn unmap_lazy<'g, 's>(
        &self,
        room: impl Place<'g, 's>,
        mapping: Mapping,
    ) -> Result<(), UnmapError>
    where
        's: 'g,
    {
        if let Some(range) = &mapping.range {
            let (iova, len_bytes) = (range.iova(), Self::len_bytes(range));
            if self.tables.unmap_pages(room.slot(), iova, len_bytes) {
                // SAFETY: it is forgotten next.
                let range = unsafe { mapping.take_range() };
                mem::forget(mapping);
                if let Some(range) = range {
                    let slot = room.push(range);
                    self.count_unmapped(slot);
                }
                return Ok(());
            }
        }
        self.unmap_lazy_any(room, mapping)
    }

    #[inline(never)]
    fn unmap_lazy_any<'g, 's>(
        &self,
        room: impl Place<'g, 's>,
        mut mapping: Mapping,
    ) -> Result<(), UnmapError>
    where
        's: 'g,
    {
        // Every mapping of a translating domain has a range.
        let Some(range) = mapping.range.take() else {
            return Err(UnmapError::OtherDomain(mapping));
        };
        let mut sink = TablesOnly::default();
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
}
