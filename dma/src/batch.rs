//! Many unmaps with one invalidation and one sync.

use alloc::vec::Vec;
use core::{fmt, mem};

use dmabench_flushq::{Gather, Late, TlbBackend};
use dmabench_iova::IovaRange;
use dmabench_pgtable::{self as pgtable, Format, TableMemory};
use dmabench_platform::{Iova, SlotGuard, SlotSource};

use crate::{Domain, Mapping, UnmapError, mapping::DomainTag, queues::Queues, switch::Way};

/// The mappings of one completion: filled by its owner, unmapped as one by
/// [`Domain::unmap_batch`], and used again for the next. After it was made it does
/// not allocate.
///
/// Dropping it with mappings in it leaks them, as dropping each of them would.
#[must_use = "its mappings stay mapped until `Domain::unmap_batch`"]
pub struct Batch {
    mappings: Vec<Mapping>,
    /// What was unmapped and is not known to be invalidated yet.
    gather: Gather<Vec<IovaRange>>,
    capacity: usize,
    tag: &'static DomainTag,
}

impl Batch {
    /// Adds a mapping.
    ///
    /// # Errors
    ///
    /// The mapping, if the batch is full or of another domain. A full batch is to
    /// be unmapped first.
    #[inline]
    pub fn push(&mut self, mapping: Mapping) -> Result<(), Mapping> {
        let used = self.mappings.len() + self.gather.payload().len();
        if used >= self.capacity || !core::ptr::eq(mapping.tag, self.tag) {
            return Err(mapping);
        }
        self.mappings.push(mapping);
        Ok(())
    }

    /// Mappings in it.
    pub fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Whether nothing is in it, mapped or waiting for an invalidation.
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty() && !self.has_unfinished()
    }

    /// Mappings it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether it holds what was unmapped and **may still be reached by the
    /// device**, because an invalidation was late or failed.
    pub fn has_unfinished(&self) -> bool {
        !self.gather.payload().is_empty()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.tag.let_go();
        let held = self.gather.payload().len() as u64;
        self.tag
            .leaked
            .fetch_add(held, core::sync::atomic::Ordering::Relaxed);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("mappings", &self.mappings)
            .field("unfinished", self.gather.payload())
            .finish_non_exhaustive()
    }
}

/// Why a batch was not unmapped, or not all of it. What is left is in the batch:
/// call [`Domain::unmap_batch`] again.
#[derive(Debug)]
#[must_use = "some buffers of the batch may still be reached by the device"]
#[non_exhaustive]
pub enum BatchError {
    /// The batch is of another domain. Nothing happened.
    OtherDomain,
    /// The caller is inside another request on the same slot. Nothing happened.
    Reentered,
    /// The entries of every mapping are cleared, but the invalidation is not known
    /// to have completed: **the device may still reach all of the buffers**.
    NotInvalidated(Late),
    /// The tables do not hold what this mapping says: somebody else changed them.
    /// It is left out of the batch; others may still be in it.
    Tables {
        /// The mapping.
        mapping: Mapping,
        /// Why.
        error: pgtable::UnmapError,
    },
    /// Lazy: one of the mappings was not unmapped, with that mapping. Others may
    /// still be in the batch.
    Unmap(UnmapError),
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::OtherDomain => {
                f.write_str("the batch is of another domain: unmap it there")
            }
            BatchError::Reentered => crate::MapError::Reentered.fmt(f),
            BatchError::NotInvalidated(late) => write!(
                f,
                "no buffer of the batch may be reused yet, the device may still reach it: {late}; \
                 unmap the batch again"
            ),
            BatchError::Tables { error, .. } => error.fmt(f),
            BatchError::Unmap(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BatchError {}

/// There is no memory for a batch that large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTooLarge {
    /// Mappings that were asked for.
    pub capacity: usize,
}

impl fmt::Display for BatchTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no memory for a batch of {} mappings: take a smaller one",
            self.capacity
        )
    }
}

impl core::error::Error for BatchTooLarge {}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// An empty batch for up to `capacity` mappings of this domain.
    ///
    /// # Errors
    ///
    /// [`BatchTooLarge`] if there is no memory for it; nothing was allocated.
    pub fn batch(&self, capacity: usize) -> Result<Batch, BatchTooLarge> {
        let too_large = |_| BatchTooLarge { capacity };
        let (mut mappings, mut ranges) = (Vec::new(), Vec::new());
        mappings.try_reserve_exact(capacity).map_err(too_large)?;
        ranges.try_reserve_exact(capacity).map_err(too_large)?;
        // Most mappings are one range, some two, of different levels.
        let room = capacity.saturating_mul(2);
        let gather = Gather::with_room(F::GRANULE, ranges, room).map_err(too_large)?;
        self.tag.hold();
        Ok(Batch {
            mappings,
            gather,
            capacity,
            tag: self.tag,
        })
    }

    /// Unmaps all that is in the batch, and empties it.
    ///
    /// *Strict*, all three, and *lazy-parked*: one invalidation for neighbouring
    /// addresses, and one sync. What lies between ranges that do not meet stays
    /// cached, but where invalidating it too is cheaper by the backend's figures
    /// ([`TlbBackend::join_cost`]):
    /// [`over_invalidated_bytes`](crate::DomainStats::over_invalidated_bytes)
    /// counts that. Walk caches are kept unless whole tables were freed. When this
    /// returns `Ok`, the device can reach none of the buffers. *Lazy* and *lazy-single*: as
    /// [`unmap`](Self::unmap) of each.
    ///
    /// # Errors
    ///
    /// [`BatchError`]; what was not finished is still in the batch.
    pub fn unmap_batch(&self, batch: &mut Batch) -> Result<(), BatchError> {
        if !core::ptr::eq(batch.tag, self.tag) {
            return Err(BatchError::OtherDomain);
        }
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(BatchError::Reentered),
        };
        let slot = &mut slot;
        match self.mode.way() {
            Way::Strict | Way::Lazy(Queues::Parked(_)) => self.unmap_batch_strict(slot, batch),
            Way::Lazy(_) | Way::Passthrough => {
                // Each reads the mode for itself: flushes may come in between.
                while let Some(mapping) = batch.mappings.pop() {
                    self.unmap_entered(slot, mapping)
                        .map_err(BatchError::Unmap)?;
                }
                self.invalidate_batch(slot, batch)
            }
        }
    }

    fn unmap_batch_strict(
        &self,
        slot: &mut SlotGuard<'_>,
        batch: &mut Batch,
    ) -> Result<(), BatchError> {
        // Downwards: they are taken from the end, so that walks go upwards.
        (batch.mappings).sort_unstable_by_key(|mapping| core::cmp::Reverse(mapping.addr));
        let mut refused = None;
        while let Some(mut mapping) = batch.mappings.pop() {
            let Some(range) = mapping.range.take() else {
                // Every mapping of a translating domain has a range.
                refused = Some(BatchError::Unmap(UnmapError::OtherDomain(mapping)));
                break;
            };
            let (iova, len_bytes) = (range.iova(), Self::len_bytes(&range));
            if let Err(error) = self.tables.unmap(slot, iova, len_bytes, &mut batch.gather) {
                mapping.range = Some(range);
                refused = Some(BatchError::Tables { mapping, error });
                break;
            }
            mem::forget(mapping);
            let pages = range.size_pages();
            if pages <= self.iova.cached_up_to_pages() && !pages.is_power_of_two() {
                // What the allocator has rounded up to.
                let rest = (pages.next_power_of_two() - pages) << F::GRANULE.lg2();
                batch.gather.unused(Iova(iova.0 + len_bytes), rest);
            }
            batch.gather.hold(range);
        }
        self.invalidate_batch(slot, batch)?;
        refused.map_or(Ok(()), Err)
    }

    /// Invalidates, waits, and only then gives back what the gather holds.
    fn invalidate_batch(
        &self,
        slot: &mut SlotGuard<'_>,
        batch: &mut Batch,
    ) -> Result<(), BatchError> {
        if !batch.has_unfinished() {
            return Ok(());
        }
        let issued = batch
            .gather
            .issue_in_place(&self.backend, Some(slot), &self.context)
            .map_err(|refused| BatchError::NotInvalidated(refused.error.into()))?;
        let mut complete = issued
            .wait(Some(slot), self.sync_timeout)
            .map_err(|waited| BatchError::NotInvalidated(waited.late))?;
        self.count_over_invalidated(slot, complete.over_bytes());
        let tables = complete.take_tables();
        let mut ranges = complete.take_payload();
        if let Some(tables) = tables {
            self.release_tables(slot, tables);
        }
        self.count_unmapped_many(slot, ranges.len() as u64);
        self.release_joined(slot, &mut ranges);
        batch.gather.hold_in(ranges);
        Ok(())
    }

    /// Gives addresses back, neighbours as one: the window they were cut from can
    /// then be had again.
    fn release_joined(&self, slot: &mut SlotGuard<'_>, ranges: &mut Vec<IovaRange>) {
        /// Parts of one row, each at most half of the one before.
        const ROW: usize = 16;
        let mut row = [const { None }; ROW];
        let mut len = 0_usize;
        for range in ranges.drain(..) {
            let mut range = range;
            while let Some(at) = len.checked_sub(1)
                && let Some(below) = row[at].take()
            {
                match self.iova.join(below, range) {
                    Ok(joined) => {
                        len = at;
                        range = joined;
                    }
                    Err((below, above)) => {
                        range = above;
                        // When `range` has grown with what follows, they may fit.
                        row[at] = Some(below);
                        break;
                    }
                }
            }
            if len == ROW {
                for place in &mut row {
                    if let Some(range) = place.take() {
                        self.release(slot, range);
                    }
                }
                len = 0;
            }
            row[len] = Some(range);
            len += 1;
        }
        for range in row.into_iter().flatten() {
            self.release(slot, range);
        }
    }
}
