//! Tables written by hand, 4K, 39 bits, stage 1: what the tests need to say
//! exactly which descriptor stands where.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part.

pub mod rig;

use std::sync::Arc;

use dmabench_flushq::{TlbBackend, TlbRange};
use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::{Granule, Iova, PhysAddr, Timeout, VirtualClock};
use dmabench_smmu::soft::{
    SimDevice, SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, Stage1Regs,
    StreamConfig,
};

pub(crate) const ASID: u16 = 7;
pub(crate) const CONTEXT: SmmuContext = SmmuContext::Stage1 {
    vmid: 0,
    asid: ASID,
};
/// Read-write page of Linux: AP unprivileged, inner shareable, AF, nG.
pub(crate) const PAGE_RW: u64 = 0xf47;
pub(crate) const PAGE_RO: u64 = 0xfc7;
pub(crate) const BLOCK_RW: u64 = 0xf45;
pub(crate) const CONTIGUOUS: u64 = 1 << 52;

pub(crate) struct Hand {
    pub memory: Arc<SimMemory>,
    pub clock: Arc<VirtualClock>,
    pub smmu: Arc<SoftSmmu>,
    pub device: SimDevice,
    root: PhysAddr,
}

impl Hand {
    pub(crate) fn new(config: SoftConfig) -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let clock = Arc::new(VirtualClock::default());
        let smmu = SoftSmmu::new(memory.clone(), clock.clone(), config);
        let root = memory.alloc(4096).unwrap().phys;
        let device = smmu.attach(StreamConfig::stage1(ASID, regs(root))).unwrap();
        Hand {
            memory,
            clock,
            smmu,
            device,
            root,
        }
    }

    /// A second set of tables behind the same SMMU, with the same ASID.
    pub fn beside(other: &Hand) -> Self {
        let root = other.memory.alloc(4096).unwrap().phys;
        let device = other
            .smmu
            .attach(StreamConfig::stage1(ASID, regs(root)))
            .unwrap();
        Hand {
            memory: other.memory.clone(),
            clock: other.clock.clone(),
            smmu: other.smmu.clone(),
            device,
            root,
        }
    }

    pub fn regs(&self) -> Stage1Regs {
        regs(self.root)
    }

    fn slot(&self, table: PhysAddr, iova: u64, level: u32) -> PhysAddr {
        let index = iova >> (12 + 9 * (3 - level)) & 511;
        PhysAddr(table.0 + index * 8)
    }

    /// Address of the descriptor for `iova` at `level` (1 to 3), with tables
    /// made on the way.
    pub(crate) fn descriptor(&self, iova: u64, level: u32) -> PhysAddr {
        let mut table = self.root;
        for above in 1..level {
            let at = self.slot(table, iova, above);
            let found = self.memory.read_u64(at);
            table = if found & 1 != 0 {
                PhysAddr(found & 0x0000_ffff_ffff_f000)
            } else {
                let new = self.memory.alloc(4096).unwrap().phys;
                self.memory.write_u64(at, new.0 | 3).unwrap();
                new
            };
        }
        self.slot(table, iova, level)
    }

    pub(crate) fn set(&self, iova: u64, level: u32, descriptor: u64) {
        let at = self.descriptor(iova, level);
        self.memory.write_u64(at, descriptor).unwrap();
    }

    pub(crate) fn map_pages(&self, iova: u64, phys: u64, pages: u64) {
        for page in 0..pages {
            self.set(iova + page * 4096, 3, (phys + page * 4096) | PAGE_RW);
        }
    }

    pub(crate) fn unmap_pages(&self, iova: u64, pages: u64) {
        for page in 0..pages {
            self.set(iova + page * 4096, 3, 0);
        }
    }

    /// Unlinks the level-3 table of `iova` and returns its address.
    pub(crate) fn unlink_table(&self, iova: u64) -> PhysAddr {
        let at = self.descriptor(iova, 2);
        let table = self.memory.read_u64(at) & 0x0000_ffff_ffff_f000;
        self.memory.write_u64(at, 0).unwrap();
        PhysAddr(table)
    }

    pub(crate) fn free_table(&self, phys: PhysAddr) {
        // SAFETY: the tests free what `descriptor` allocated, once; that the
        // walker may still read it is what they are about, and simulated memory
        // stays readable.
        unsafe {
            let ptr = self.memory.phys_to_ptr(phys);
            self.memory.free(TableRef { ptr, phys }, 4096);
        }
    }

    pub(crate) fn invalidate(&self, range: TlbRange) {
        self.smmu.invalidate(None, &CONTEXT, &[range]).unwrap();
    }

    pub(crate) fn sync(&self) {
        let ticket = self.smmu.sync_begin(None).unwrap();
        let synced = self.smmu.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
        assert!(synced.up_to() >= ticket);
    }
}

pub(crate) fn regs(root: PhysAddr) -> Stage1Regs {
    Stage1Regs {
        ttb0: root.0,
        t0sz: 25,
        tg0: 0,
        epd0: false,
        ips: 5,
        ..Stage1Regs::default()
    }
}

pub(crate) fn leaves(iova: u64, pages: u64, level: i8) -> TlbRange {
    TlbRange {
        iova: Iova(iova),
        len_bytes: pages * 4096,
        granule: Granule::K4,
        level: dmabench_pgtable::Level::new(level),
        leaf_only: true,
    }
}

pub(crate) fn everything(iova: u64, pages: u64) -> TlbRange {
    TlbRange {
        level: None,
        leaf_only: false,
        ..leaves(iova, pages, 3)
    }
}
