//! What both page-table benches measure: the public calls, not inlined, on one
//! table whose pages are there, into a gather.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code
)]

use dmabench_pgtable::{
    DetachedTable, DetachedTables, HeapTables, Level, MapError, PageTable, Prot, S1K4, TableConfig,
    Translation, UnmapError, UnmapSink,
};
use std::time::{Duration, Instant};

use dmabench_platform::{Fences, Iova, PhysAddr, SlotGuard, Slots, sync::Arc};

pub type Table = PageTable<S1K4, HeapTables>;
pub const RW: Prot = Prot::READ_WRITE.with(Prot::CACHE);

/// A gather that merges ranges, as the flush layer's does.
#[derive(Debug, Default)]
pub struct Gather {
    pub start: u64,
    pub end: u64,
    pub level: Option<Level>,
    pub disjoint: u64,
    pub tables: DetachedTables,
}

impl UnmapSink for Gather {
    #[inline]
    fn leaves(&mut self, iova: Iova, len_bytes: u64, level: Level) {
        if self.end == iova.0 && self.level == Some(level) {
            self.end += len_bytes;
        } else {
            self.disjoint += 1;
            self.start = iova.0;
            self.end = iova.0 + len_bytes;
            self.level = Some(level);
        }
    }

    fn table(&mut self, table: DetachedTable) {
        self.tables.push(table);
    }
}

pub struct Bed {
    pub table: &'static Table,
    pub slot: SlotGuard<'static>,
    pub gather: Gather,
}

impl Bed {
    pub fn new() -> Self {
        Self::with_config(TableConfig::new(48, 48))
    }

    pub fn with_config(config: TableConfig) -> Self {
        let slots = Self::slots();
        let table: &'static Table = Box::leak(Box::new(
            PageTable::new(config, HeapTables, slots.clone()).unwrap(),
        ));
        Self::on(table, slots)
    }

    /// Leaked: a bench builds a few, and ends.
    pub fn slots() -> &'static Arc<Slots> {
        Box::leak(Box::new(Arc::new(Slots::new(4, Fences::detect()).unwrap())))
    }

    fn on(table: &'static Table, slots: &'static Arc<Slots>) -> Self {
        // SAFETY: one thread uses these slots.
        let slot = unsafe { slots.enter(Some(0)) }.unwrap();
        Bed {
            table,
            slot,
            gather: Gather::default(),
        }
    }

    /// With the last-level table of `iova` there: a neighbour stays mapped.
    pub fn with_table(iova: u64, len: u64) -> Self {
        let bed = Self::new();
        for end in [iova & !0x1f_ffff, (iova + len - 1) | 0x1f_f000] {
            let end = end & !0xfff;
            if end >= iova && end < iova + len {
                continue;
            }
            let _ = map(bed.table, &bed.slot, end, 0xabc_d000, 0x1000);
        }
        bed
    }

    /// With the tables above the last level there, for blocks.
    pub fn with_middle(iova: u64) -> Self {
        let bed = Self::new();
        map(
            bed.table,
            &bed.slot,
            iova + (512 << 20),
            0x4000_0000,
            2 << 20,
        )
        .unwrap();
        bed
    }
}

#[inline(never)]
pub fn map(
    table: &Table,
    slot: &SlotGuard<'_>,
    iova: u64,
    pa: u64,
    len: u64,
) -> Result<(), MapError> {
    table.map(slot, Iova(iova), PhysAddr(pa), len, RW)
}

#[inline(never)]
pub fn unmap(
    table: &Table,
    slot: &SlotGuard<'_>,
    iova: u64,
    len: u64,
    gather: &mut Gather,
) -> Result<(), UnmapError> {
    table.unmap(slot, Iova(iova), len, gather)
}

#[inline(never)]
pub fn map_sg(
    table: &Table,
    slot: &SlotGuard<'_>,
    iova: u64,
    pieces: &[(PhysAddr, u64)],
) -> Result<u64, MapError> {
    table.map_sg(slot, Iova(iova), pieces.iter().copied(), RW)
}

#[inline(never)]
pub fn translate(table: &Table, slot: &SlotGuard<'_>, iova: u64) -> Option<Translation> {
    table.translate(slot, Iova(iova))
}

#[inline(never)]
pub fn translate_phys(table: &Table, slot: &SlotGuard<'_>, iova: u64) -> Option<PhysAddr> {
    table.translate_phys(slot, Iova(iova))
}

/// The lower bound: the same number of entries stored and cleared, one by one,
/// by a loop the compiler cannot merge into wider stores.
#[inline(never)]
pub fn store_loop(entries: &mut [u64], value: u64) {
    for (i, entry) in entries.iter_mut().enumerate() {
        // SAFETY: a reference is valid for a volatile write.
        unsafe { core::ptr::from_mut(entry).write_volatile(value + ((i as u64) << 12)) };
    }
}

/// The other half of a pair's lower bound.
#[inline(never)]
pub fn clear_loop(entries: &mut [u64]) {
    for entry in entries {
        // SAFETY: a reference is valid for a volatile write.
        unsafe { core::ptr::from_mut(entry).write_volatile(0) };
    }
}

/// 128 pages scattered over 16 MiB, no two of them neighbours.
pub fn scattered() -> Vec<(PhysAddr, u64)> {
    (0..128_u64)
        .map(|i| (PhysAddr(0x10_0000_0000 + (i * 73 % 128) * 0x2_0000), 0x1000))
        .collect()
}

/// Where the cases map: an even entry that begins no table.
pub const IOVA: u64 = 0x12_3441_0000;
pub const PA: u64 = 0x8_7651_0000;

/// Takes every empty table out, and keeps `spare` of them.
pub fn reclaim(bed: &mut Bed, spare: u64) -> u64 {
    let table = bed.table;
    bed.slot.pause(|| {
        // SAFETY: no walker reads these tables.
        let done = unsafe { table.reclaim(spare, |_| Ok::<(), ()>(())) };
        done.unwrap().unlinked
    })
}

/// A table that several threads use, each on a slot of its own.
pub struct Shared {
    slots: Arc<Slots>,
    table: Table,
}

impl Shared {
    pub fn new() -> Self {
        let slots = Arc::new(Slots::new(4, Fences::detect()).unwrap());
        let table = PageTable::new(TableConfig::new(48, 48), HeapTables, slots.clone()).unwrap();
        Shared { slots, table }
    }

    /// `batches` of pairs of 16 pages, over a window of 64 pages of the thread's
    /// own; the windows of two threads are adjacent. Returns the median batch: the
    /// shortest might be one that ran while the other thread did not.
    pub fn run(&self, thread: usize, batches: u64, barrier: &std::sync::Barrier) -> Duration {
        // SAFETY: each thread has its own number.
        let slot = unsafe { self.slots.enter(Some(thread)) }.unwrap();
        let window = IOVA + ((thread as u64) << 18);
        let mut gather = Gather::default();
        barrier.wait();
        let mut times: Vec<_> = (0..batches)
            .map(|_| {
                let begun = Instant::now();
                for round in 0..BATCH_PAIRS {
                    let at = window + ((round & 3) << 16);
                    map(&self.table, &slot, at, PA + at, 0x1_0000).unwrap();
                    unmap(&self.table, &slot, at, 0x1_0000, &mut gather).unwrap();
                }
                begun.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    }
}

/// Pairs between two readings of the clock in [`Shared::run`].
pub const BATCH_PAIRS: u64 = 256;
