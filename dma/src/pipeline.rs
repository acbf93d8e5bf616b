//! Unmapping in two steps, so that the sync of one request overlaps with the
//! transfer of the next.
//!
//! The owner begins the unmap of request N when its transfer is done, starts the
//! next transfer, and completes N when that suits it, at the latest when N + 1 is
//! done. Request N is given back to whoever made it only then, so nothing is
//! exposed; the device is not kept waiting meanwhile. (Asked for on the lists in
//! 2021, for mmc's `pre_req` and `post_req`.)

use core::{fmt, mem};

use dmabench_flushq::{Detached, Gather, NotIssued, PagesIssued, PagesRange, TlbBackend};
use dmabench_iova::IovaRange;
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{SlotGuard, SlotSource};

use crate::{
    Domain, Mapping, UnmapError, error::Unfinished, mapping::DomainTag, queues::Queues, switch::Way,
};

/// An unmap that has begun. **The device may still reach the buffer**: it must
/// not be given back before [`Domain::complete`] has returned `Ok`.
///
/// Dropping it leaks the addresses and tables, which is safe, and is counted as
/// a leaked mapping.
#[must_use = "the buffer may be reused only after `Domain::complete`"]
pub struct Pending {
    state: State,
    tag: &'static DomainTag,
}

enum State {
    /// There is nothing to wait for: passthrough, or a lazy mode's terms.
    Done,
    Pages(PagesIssued<IovaRange>),
    Gathered(Detached<Gather<Option<IovaRange>>>),
}

impl Pending {
    /// Whether [`Domain::complete`] has nothing to wait for.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_done() {
            self.tag
                .leaked
                .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = match &self.state {
            State::Done => None,
            State::Pages(issued) => Some(issued.payload()),
            State::Gathered(issued) => issued.payload().as_ref(),
        };
        f.debug_struct("Pending").field("range", &range).finish()
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Clears the entries and begins the invalidation, and does not wait for it.
    ///
    /// *Strict*, all three, and *lazy-parked*: the buffer is the caller's again
    /// when [`complete`](Self::complete) returns `Ok`. *Lazy* and *lazy-single*:
    /// as [`unmap`](Self::unmap); there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    #[inline]
    pub fn unmap_begin(&self, mapping: Mapping) -> Result<Pending, UnmapError> {
        if !core::ptr::eq(mapping.tag, self.tag) {
            return Err(UnmapError::OtherDomain(mapping));
        }
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(UnmapError::Reentered(mapping)),
        };
        match self.mode.way() {
            Way::Strict | Way::Lazy(Queues::Parked(_)) => self.begin_strict(&mut slot, mapping),
            Way::Lazy(_) | Way::Passthrough => {
                // It reads the mode for itself; nothing has been done yet.
                self.unmap_entered(&mut slot, mapping)?;
                Ok(self.pending(State::Done))
            }
        }
    }

    fn pending(&self, state: State) -> Pending {
        Pending {
            state,
            tag: self.tag,
        }
    }

    #[inline]
    fn begin_strict(
        &self,
        slot: &mut SlotGuard<'_>,
        mut mapping: Mapping,
    ) -> Result<Pending, UnmapError> {
        let Some(range) = mapping.range.take() else {
            // Every mapping of a translating domain has a range.
            return Err(UnmapError::OtherDomain(mapping));
        };
        let (iova, len_bytes) = (range.iova(), Self::len_bytes(&range));
        if self.tables.unmap_pages(slot, iova, len_bytes) {
            mem::forget(mapping);
            let pages = PagesRange::new(F::GRANULE, iova, len_bytes);
            return match Gather::issue_pages(pages, range, &self.backend, slot, &self.context) {
                Ok(issued) => Ok(self.pending(State::Pages(issued))),
                Err(kept) => Err(self.unfinished(kept)),
            };
        }
        let mut gather = Gather::holding(F::GRANULE, Some(range));
        if let Err(error) = self.tables.unmap(slot, iova, len_bytes, &mut gather) {
            // Nothing was gathered: all or nothing.
            mapping.range = gather.into_unused().unwrap_or_default();
            return Err(UnmapError::Tables { mapping, error });
        }
        mem::forget(mapping);
        match gather.issue(&self.backend, Some(slot), &self.context) {
            Ok(issued) => Ok(self.pending(State::Gathered(issued.detach()))),
            Err(NotIssued { gather, error }) => Err(UnmapError::NotInvalidated(Unfinished {
                gather,
                late: error.into(),
                tag: self.tag,
            })),
        }
    }

    /// Waits for the invalidation that [`unmap_begin`](Self::unmap_begin) began.
    /// When this returns `Ok`, the device cannot reach the buffer, and the
    /// addresses are free. Unmaps that began earlier on the same thread are then
    /// done too, but each is completed for itself.
    ///
    /// # Errors
    ///
    /// [`UnmapError::NotInvalidated`] as of [`unmap`](Self::unmap);
    /// [`UnmapError::StillPending`] if it is of another domain or the caller is
    /// inside another request.
    #[inline]
    pub fn complete(&self, mut pending: Pending) -> Result<(), UnmapError> {
        if pending.is_done() {
            return Ok(());
        }
        if !core::ptr::eq(pending.tag, self.tag) {
            return Err(UnmapError::StillPending(pending));
        }
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(UnmapError::StillPending(pending)),
        };
        let slot = &mut slot;
        match mem::replace(&mut pending.state, State::Done) {
            State::Done => Ok(()),
            State::Pages(issued) => {
                // SAFETY: the tag is this domain's, so it was issued by
                // `begin_strict` of this domain, to its only backend.
                match unsafe { issued.wait(&self.backend, slot, self.sync_timeout) } {
                    Ok(range) => {
                        self.release(slot, range);
                        self.count_unmapped(slot);
                        Ok(())
                    }
                    Err(kept) => Err(self.unfinished(kept)),
                }
            }
            State::Gathered(detached) => {
                // SAFETY: as above.
                let issued = unsafe { detached.attach(&self.backend) };
                match issued.wait(Some(slot), self.sync_timeout) {
                    Ok(complete) => {
                        let (range, tables) = complete.into_payload_and_tables();
                        if !tables.is_empty() {
                            self.release_tables(slot, tables);
                        }
                        if let Some(range) = range {
                            self.release(slot, range);
                            self.count_unmapped(slot);
                        }
                        Ok(())
                    }
                    Err(waited) => Err(UnmapError::NotInvalidated(Unfinished {
                        gather: waited.issued.abandon(),
                        late: waited.late,
                        tag: self.tag,
                    })),
                }
            }
        }
    }
}
