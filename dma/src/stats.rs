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
}

/// What one slot's owner did.
#[derive(Default)]
pub(crate) struct Counters {
    mapped: AtomicU64,
    unmapped: AtomicU64,
    /// Lists of tables released since this slot last collected.
    uncollected: AtomicU64,
}

/// Lists of tables that one slot lets pile up before it collects them: a
/// collection costs a heavy fence and a wait.
const COLLECT_EVERY: u64 = 32;

#[inline]
fn bump(counter: &AtomicU64) -> u64 {
    // The owner alone writes: load and store lose nothing.
    let value = counter.load(Ordering::Relaxed) + 1;
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
        }
    }

    pub(crate) fn live_mappings(&self) -> u64 {
        let sum = |which: fn(&Counters) -> &AtomicU64| -> u64 {
            self.counters
                .iter()
                .map(|counters| which(counters).load(Ordering::Relaxed))
                .sum()
        };
        // Unmaps first: each has its map before it.
        let unmapped = sum(|counters| &counters.unmapped);
        sum(|counters| &counters.mapped).saturating_sub(unmapped)
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
        let unmapped = &self.counters(slot).unmapped;
        // As in `bump`.
        unmapped.store(unmapped.load(Ordering::Relaxed) + count, Ordering::Relaxed);
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
