//! What a domain counts, by slot, and the figures it shows.

use dmabench_flushq::{FlushStats, TlbBackend};
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{
    SlotGuard, SlotSource,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{Domain, queues::Queues};

/// Figures of a domain. Exact while no call is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainStats {
    /// Mappings alive, leaked ones included.
    pub live_mappings: u64,
    /// Mappings (and unfinished unmaps) that were dropped.
    pub leaked_mappings: u64,
    /// I/O pages in use: mapped, waiting for a flush, or leaked. Rounding to
    /// cached sizes included.
    pub iova_pages_held: u64,
    /// Bytes of table pages that exist: the root, the tree, those waiting for an
    /// invalidation or for a section to end.
    pub page_table_bytes: u64,
    /// Bytes of empty table pages kept for the next use.
    pub spare_table_bytes: u64,
    /// Unmaps that wait for a flush.
    pub queued: u64,
    /// What flushers did.
    pub flush: FlushStats,
    /// Bytes of addresses that batches invalidated beside their own, because one
    /// range over a gap was cheaper than two. What of them is in use the hardware
    /// has to look up again.
    pub over_invalidated_bytes: u64,
}

/// What one slot's owner did.
#[derive(Default)]
pub(crate) struct Counters {
    mapped: AtomicU64,
    unmapped: AtomicU64,
    over_invalidated: AtomicU64,
    /// Lists of tables released since this slot last collected.
    uncollected: AtomicU64,
}

/// Lists of tables that one slot lets pile up before it collects them: a
/// collection costs a heavy fence and a wait.
const COLLECT_EVERY: u64 = 32;

#[inline]
fn bump(counter: &AtomicU64) -> u64 {
    add(counter, 1)
}

#[inline]
fn add(counter: &AtomicU64, more: u64) -> u64 {
    // The owner alone writes: load and store lose nothing.
    let value = counter.load(Ordering::Relaxed).wrapping_add(more);
    counter.store(value, Ordering::Relaxed);
    value
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Figures of the domain. Looks into every slot: call it with no request
    /// under way on this thread.
    pub fn stats(&self) -> DomainStats {
        let iova = self.iova.stats();
        let tables = self.tables.stats();
        let queue = self.mode.queue().map(Queues::figures);
        let (queued, flush) = queue.unwrap_or_default();
        DomainStats {
            live_mappings: self.live_mappings(),
            leaked_mappings: self.tag.leaked.load(core::sync::atomic::Ordering::Relaxed),
            iova_pages_held: iova.live_bytes >> F::GRANULE.lg2(),
            page_table_bytes: tables.root_bytes
                + tables.table_bytes * (tables.live + tables.detached + tables.limbo),
            spare_table_bytes: tables.table_bytes * tables.spare,
            queued,
            flush,
            over_invalidated_bytes: self.sum(|counters| &counters.over_invalidated),
        }
    }

    pub(crate) fn live_mappings(&self) -> u64 {
        // Unmaps first: each has its map before it.
        let unmapped = self.sum(|counters| &counters.unmapped);
        self.sum(|counters| &counters.mapped)
            .saturating_sub(unmapped)
    }

    /// Over all slots.
    fn sum(&self, which: fn(&Counters) -> &AtomicU64) -> u64 {
        (self.counters.iter())
            .map(|counters| which(counters).load(Ordering::Relaxed))
            .sum()
    }

    #[inline]
    fn counters(&self, slot: &SlotGuard<'_>) -> &Counters {
        debug_assert!(core::ptr::eq(slot.slots(), &*self.slots));
        // SAFETY: every guard that the domain enters is of its own table, an
        // index of which is below the table's count: the number of counters.
        unsafe { self.counters.get_unchecked(slot.index().as_usize()) }
    }

    #[inline]
    pub(crate) fn count_mapped(&self, slot: &SlotGuard<'_>) {
        bump(&self.counters(slot).mapped);
    }

    #[inline]
    pub(crate) fn count_unmapped(&self, slot: &SlotGuard<'_>) {
        bump(&self.counters(slot).unmapped);
    }

    pub(crate) fn count_unmapped_many(&self, slot: &SlotGuard<'_>, count: u64) {
        add(&self.counters(slot).unmapped, count);
    }

    pub(crate) fn count_over_invalidated(&self, slot: &SlotGuard<'_>, bytes: u64) {
        if bytes != 0 {
            add(&self.counters(slot).over_invalidated, bytes);
        }
    }

    /// Counts one list of released tables. True: enough piled up, and the caller
    /// collects them.
    pub(crate) fn count_released(&self, slot: &SlotGuard<'_>) -> bool {
        let uncollected = &self.counters(slot).uncollected;
        let due = bump(uncollected) >= COLLECT_EVERY;
        if due {
            uncollected.store(0, Ordering::Relaxed);
        }
        due
    }
}
