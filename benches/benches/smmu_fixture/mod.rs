//! An SMMU that takes no time: what is published is consumed. It checks that
//! `PROD` never goes back and counts what it was given.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use dmabench_flushq::{Ticket, TlbBackend, TlbRange};
use dmabench_pgtable::{HeapTables, PageTable, S1K4, TableConfig};
use dmabench_platform::{Fences, Granule, Iova, Slots, TimeNs, Timeout};
use dmabench_smmu::{
    SmmuHost,
    driver::{Smmu, SmmuConfig, SmmuContext},
    format::registers as r,
};

pub(crate) const PAIRS: u64 = 1024;
const POINTER_MASK: u32 = 511;

#[derive(Debug, Default)]
pub(crate) struct NoTime {
    prod: AtomicU32,
    commands: AtomicU64,
    enables: AtomicU32,
    clock: AtomicU64,
}

// SAFETY: a device without caches or memory accesses: whatever is published is
// done. The register that says so is read and written with acquire and release.
unsafe impl SmmuHost for NoTime {
    #[inline(never)]
    fn read32(&self, offset: u32) -> u32 {
        match offset {
            r::CMDQ_CONS => self.prod.load(Ordering::Acquire),
            r::CR0ACK => self.enables.load(Ordering::Relaxed),
            // As QEMU's, with 48-bit output addresses.
            r::IDR0 => 0x0d44_101b,
            r::IDR1 => 0x0273_0010,
            r::IDR3 => 0x1414,
            r::IDR5 => 0x75,
            _ => 0,
        }
    }

    #[inline(never)]
    fn write32(&self, offset: u32, value: u32) {
        match offset {
            r::CMDQ_PROD => {
                let old = self.prod.load(Ordering::Relaxed);
                let count = value.wrapping_sub(old) & POINTER_MASK;
                assert!(count <= 256, "PROD went back");
                // Only the producer whose turn it is writes.
                let sum = self.commands.load(Ordering::Relaxed) + u64::from(count);
                self.commands.store(sum, Ordering::Relaxed);
                self.prod.store(value, Ordering::Release);
            }
            r::CR0 => self.enables.store(value, Ordering::Relaxed),
            _ => {}
        }
    }

    fn write64(&self, _: u32, _: u64) {}

    fn now(&self) -> TimeNs {
        TimeNs(self.clock.fetch_add(1, Ordering::Relaxed))
    }
}

pub(crate) struct Bench {
    smmu: Smmu<NoTime, HeapTables>,
    context: SmmuContext,
    range: TlbRange,
    before: u64,
}

impl Bench {
    pub(crate) fn new(pages: u64) -> Self {
        let smmu = Smmu::new(NoTime::default(), HeapTables, SmmuConfig::default())
            .expect("the device has what it takes");
        let slots = Slots::new(1, Fences::Symmetric).expect("one slot");
        let tables = PageTable::<S1K4, _>::new(TableConfig::new(48, 48), HeapTables, slots.into())
            .expect("48 bits");
        let context = smmu
            .create_context(&tables.registers())
            .expect("legal tables");
        let before = smmu.host().commands.load(Ordering::Relaxed);
        Bench {
            smmu,
            context,
            range: TlbRange {
                iova: Iova(0x1234_5000),
                len_bytes: pages << 12,
                granule: Granule::K4,
                level: dmabench_pgtable::Level::new(3),
                leaf_only: true,
            },
            before,
        }
    }

    /// Invalidate one range and sync, as an unmap in strict mode does.
    #[inline(never)]
    pub(crate) fn pair(&self, range: &TlbRange) {
        let ranges = std::slice::from_ref(range);
        let ticket = (self.smmu).invalidate_and_sync(None, &self.context, ranges);
        self.wait(ticket.expect("room"));
    }

    /// The same in two calls, as a flush does with many ranges.
    #[inline(never)]
    #[allow(dead_code, reason = "instructions only")]
    pub(crate) fn pair_apart(&self, range: &TlbRange) {
        let ranges = std::slice::from_ref(range);
        let invalidated = self.smmu.invalidate(None, &self.context, ranges);
        let ticket = invalidated.and_then(|()| self.smmu.sync_begin(None));
        self.wait(ticket.expect("room"));
    }

    #[inline(always)]
    fn wait(&self, ticket: Ticket) {
        let synced = self.smmu.sync_wait(None, ticket, Timeout::DEFAULT);
        assert_eq!(synced.expect("takes no time").up_to(), ticket);
    }

    pub(crate) fn pairs(&self) {
        let mut range = self.range;
        for _ in 0..PAIRS {
            range.iova.0 += 0x1000;
            self.pair(&range);
        }
    }

    #[allow(dead_code, reason = "instructions only")]
    pub(crate) fn pairs_apart(&self) {
        let mut range = self.range;
        for _ in 0..PAIRS {
            range.iova.0 += 0x1000;
            self.pair_apart(&range);
        }
    }

    /// Commands that arrived.
    pub(crate) fn commands(&self) -> u64 {
        self.smmu.host().commands.load(Ordering::Relaxed) - self.before
    }

    /// One invalidation per pair, and a sync that at most two threads shared.
    #[allow(dead_code, reason = "one bench has threads, the other not")]
    pub(crate) fn check(&self, pairs: u64) {
        let commands = self.commands();
        assert!(
            commands > pairs && commands <= 2 * pairs,
            "{commands} of {pairs}"
        );
    }

    /// With one thread every sync is its own.
    pub(crate) fn check_exact(&self, pairs: u64, per_pair: u64) {
        assert_eq!(self.commands(), per_pair * pairs);
    }
}

/// What cannot be avoided by a queue that several may fill: an addition to take
/// places, the two commands, the two registers.
pub(crate) struct Bound {
    word: AtomicU64,
    queue: [AtomicU64; 4],
    host: NoTime,
}

impl Bound {
    pub(crate) fn new(_: u64) -> Self {
        Bound {
            word: AtomicU64::new(0),
            queue: [const { AtomicU64::new(0) }; 4],
            host: NoTime::default(),
        }
    }

    #[inline(never)]
    fn pair(&self, value: u64) {
        black_box(self.word.fetch_add(2, Ordering::AcqRel));
        for (word, at) in self.queue.iter().zip(value..) {
            word.store(at, Ordering::Relaxed);
        }
        let prod = self.word.load(Ordering::Relaxed) as u32 & POINTER_MASK;
        self.host.write32(r::CMDQ_PROD, prod);
        assert_eq!(self.host.read32(r::CMDQ_CONS), prod);
    }

    pub(crate) fn pairs(&self) {
        for n in 0..PAIRS {
            self.pair(n);
        }
    }

    pub(crate) fn check(&self, pairs: u64) {
        assert_eq!(self.word.load(Ordering::Relaxed), 2 * pairs);
    }
}
