//! Stage 2, nested translation, upper tables, flags that the walker writes,
//! global entries, and many threads at once.

mod common;

use std::sync::Arc;

use common::*;
use dmabench_flushq::TlbBackend;
use dmabench_pgtable::TableMemory;
use dmabench_platform::{Iova, PhysAddr, Timeout, VirtualClock};
use dmabench_smmu::soft::{
    Access, Command, FaultKind, SimDevice, SimMemory, SimMemoryConfig, SmmuContext, SoftConfig,
    SoftSmmu, Stage, Stage1Regs, Stage2Regs, StreamConfig, SyncSignal, ViolationKind,
};

const VMID: u16 = 9;

/// Stage 2, 4K, 40 bits: two tables at level 1. Maps by 2 MiB blocks.
struct Nested {
    memory: Arc<SimMemory>,
    smmu: Arc<SoftSmmu>,
    device: SimDevice,
    level1: PhysAddr,
    stage1_root_ipa: u64,
}

const S2_BLOCK_RW: u64 = 0x7fd;
const GUEST: u64 = 0x8000_0000;
const HOST: u64 = 0x12_0000_0000;

impl Nested {
    /// The guest's memory, 1 GiB at `GUEST`, lies at `HOST`.
    fn new() -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let smmu = SoftSmmu::new(
            memory.clone(),
            Arc::new(VirtualClock::default()),
            SoftConfig::default(),
        );
        let level1 = memory.alloc(8192).unwrap().phys;
        let level2 = memory.alloc(4096).unwrap().phys;
        let at = PhysAddr(level1.0 + (GUEST >> 30) * 8);
        memory.write_u64(at, level2.0 | 3).unwrap();
        for block in 0..512 {
            let at = PhysAddr(level2.0 + block * 8);
            let to = (HOST + (block << 21)) | S2_BLOCK_RW;
            memory.write_u64(at, to).unwrap();
        }
        let stage1_root_ipa = GUEST + 0x10_0000;
        let stage1 = Stage1Regs {
            ttb0: stage1_root_ipa,
            t0sz: 25,
            epd0: false,
            ..Stage1Regs::default()
        };
        let config = StreamConfig::nested(ASID, stage1, VMID, stage2(level1));
        let device = smmu.attach(config).unwrap();
        Nested {
            memory,
            smmu,
            device,
            level1,
            stage1_root_ipa,
        }
    }

    /// Writes the guest's memory.
    fn guest(&self, ipa: u64, value: u64) {
        let at = PhysAddr(ipa - GUEST + HOST);
        self.memory.write_u64(at, value).unwrap();
    }

    /// One page at IOVA 0x4000_0000, tables at the root and the pages after it.
    fn map_page(&self, ipa: u64) {
        let root = self.stage1_root_ipa;
        self.guest(root + 8, (root + 0x1000) | 3);
        self.guest(root + 0x1000, (root + 0x2000) | 3);
        self.guest(root + 0x2000, ipa | PAGE_RW);
    }
}

fn stage2(ttb: PhysAddr) -> Stage2Regs {
    Stage2Regs {
        ttb: ttb.0,
        t0sz: 24,
        sl0: 1,
        tg: 0,
        ps: 5,
        ds: false,
        affd: false,
        ha: false,
        hd: false,
    }
}

const IOVA: Iova = Iova(0x4000_0000);

#[test]
fn nested_tables_and_data_go_through_stage_2() {
    let nested = Nested::new();
    nested.map_page(GUEST + 0x20_5000);
    let outcome = nested.device.probe(Iova(IOVA.0 + 0x123), Access::Write);
    assert!(outcome.is_fresh());
    assert_eq!(outcome.phys(), Some(PhysAddr(HOST + 0x20_5123)));
    // An address that stage 2 does not have.
    nested.guest(nested.stage1_root_ipa + 0x2008, 0x40_0000 | PAGE_RW);
    let next = Iova(IOVA.0 + 0x1000);
    let fault = nested.device.probe(next, Access::Read).fault().unwrap();
    assert_eq!(
        (fault.kind, fault.stage),
        (FaultKind::Translation, Stage::Two)
    );
    assert_eq!(nested.smmu.violations(), []);
}

#[test]
fn s1_stage_2_by_address_leaves_combined_entries() {
    let range = everything(GUEST, 512);
    for nested_context in [false, true] {
        let nested = Nested::new();
        nested.map_page(GUEST + 0x20_5000);
        assert!(nested.device.probe(IOVA, Access::Write).is_fresh());
        let context = SmmuContext::Stage2 {
            vmid: VMID,
            nested: nested_context,
        };
        // The host takes all of the guest's memory away.
        let at = PhysAddr(nested.level1.0 + (GUEST >> 30) * 8);
        nested.memory.write_u64(at, 0).unwrap();
        let whole = dmabench_flushq::TlbRange {
            len_bytes: 1 << 30,
            ..range
        };
        nested.smmu.invalidate(None, &context, &[whole]).unwrap();
        let ticket = nested.smmu.sync_begin(None).unwrap();
        let _synced = nested
            .smmu
            .sync_wait(None, ticket, Timeout::DEFAULT)
            .unwrap();
        let outcome = nested.device.probe(IOVA, Access::Write);
        assert_eq!(outcome.is_stale(), !nested_context, "{outcome:?}");
    }
}

#[test]
fn a2_stage_2_by_address_leaves_where_stage_1_tables_were() {
    for nested_context in [false, true] {
        let nested = Nested::new();
        nested.map_page(GUEST + 0x20_5000);
        assert!(nested.device.probe(IOVA, Access::Write).is_fresh());
        let context = SmmuContext::Stage2 {
            vmid: VMID,
            nested: nested_context,
        };
        // The host moves the block that holds the guest's tables elsewhere; the
        // new place has another page at the next address.
        let elsewhere = HOST + (1 << 36);
        for page in 0..3 {
            let from = HOST + 0x10_0000 + page * 0x1000;
            for word in 0..512 {
                let value = nested.memory.read_u64(PhysAddr(from + word * 8));
                let to = PhysAddr(from - HOST + elsewhere + word * 8);
                nested.memory.write_u64(to, value).unwrap();
            }
        }
        let next = PhysAddr(elsewhere + 0x10_2008);
        nested
            .memory
            .write_u64(next, (GUEST + 0x30_0000) | PAGE_RW)
            .unwrap();
        let level1 = PhysAddr(nested.level1.0 + (GUEST >> 30) * 8);
        let level2 = nested.memory.read_u64(level1) & !0xfff;
        let block = PhysAddr(level2);
        nested
            .memory
            .write_u64(block, elsewhere | S2_BLOCK_RW)
            .unwrap();
        let moved = dmabench_flushq::TlbRange {
            len_bytes: 2 << 20,
            ..everything(GUEST, 1)
        };
        nested.smmu.invalidate(None, &context, &[moved]).unwrap();
        let ticket = nested.smmu.sync_begin(None).unwrap();
        let _synced = nested
            .smmu
            .sync_wait(None, ticket, Timeout::DEFAULT)
            .unwrap();
        let outcome = nested.device.probe(Iova(IOVA.0 + 0x1000), Access::Write);
        assert_eq!(outcome.is_fresh(), nested_context, "{outcome:?}");
    }
}

#[test]
fn upper_tables_serve_upper_addresses() {
    let hand = Hand::new(SoftConfig::default());
    hand.map_pages(0x4000_0000, 0x9000_0000, 1);
    let mut regs = hand.regs();
    regs.ttb1 = regs.ttb0;
    regs.t1sz = regs.t0sz;
    regs.tg1 = 2;
    (regs.epd0, regs.epd1) = (true, false);
    let upper = hand.smmu.attach(StreamConfig::stage1(1, regs)).unwrap();
    let base = u64::MAX << 39;
    let outcome = upper.probe(Iova(base + 0x4000_0008), Access::Read);
    assert_eq!(outcome.phys(), Some(PhysAddr(0x9000_0008)));
    for outside in [0x4000_0000, base - 1, 1 << 63] {
        let fault = upper.probe(Iova(outside), Access::Read).fault().unwrap();
        assert_eq!(fault.kind, FaultKind::Translation, "{outside:#x}");
    }
}

#[test]
fn access_flag_and_dirty_state() {
    const AF: u64 = 1 << 10;
    const AP2: u64 = 1 << 7;
    const DBM: u64 = 1 << 51;
    let iova = 0x4000_0000;
    let hand = Hand::new(SoftConfig::default());
    let descriptor = hand.descriptor(iova, 3);
    let clean = (0x9000_0000 | PAGE_RW | AP2 | DBM) & !AF;
    hand.set(iova, 3, clean);
    let fault = hand.device.probe(Iova(iova), Access::Read).fault().unwrap();
    assert_eq!(fault.kind, FaultKind::AccessFlag);
    let mut regs = hand.regs();
    (regs.ha, regs.hd) = (true, true);
    let marks = hand.smmu.attach(StreamConfig::stage1(2, regs)).unwrap();
    assert!(marks.probe(Iova(iova), Access::Read).is_fresh());
    assert_eq!(hand.memory.read_u64(descriptor), clean | AF);
    assert!(marks.probe(Iova(iova), Access::Write).is_fresh());
    assert_eq!(hand.memory.read_u64(descriptor), (clean | AF) & !AP2);
    // Without DBM a read-only page stays clean.
    hand.set(iova + 4096, 3, 0x9000_1000 | PAGE_RO);
    let fault = marks
        .probe(Iova(iova + 4096), Access::Write)
        .fault()
        .unwrap();
    assert_eq!(fault.kind, FaultKind::Permission);
    assert_eq!(hand.smmu.violations(), []);
}

#[test]
fn a_global_entry_serves_every_asid_and_outlives_one() {
    const NG: u64 = 1 << 11;
    let iova = 0x4000_0000;
    let hand = Hand::new(SoftConfig::default());
    hand.set(iova, 3, (0x9000_0000 | PAGE_RW) & !NG);
    assert!(hand.device.probe(Iova(iova), Access::Read).is_fresh());
    // Another ASID, whose own tables have nothing there.
    let empty = hand.memory.alloc(4096).unwrap().phys;
    let other = hand
        .smmu
        .attach(StreamConfig::stage1(ASID + 1, regs(empty)));
    let other = other.unwrap();
    assert!(other.probe(Iova(iova), Access::Read).is_stale());
    let sync = Command::Sync(SyncSignal::None);
    let by_asid = Command::TlbiNhAsid {
        vmid: 0,
        asid: ASID,
    };
    hand.smmu.command(by_asid).unwrap();
    hand.smmu.command(sync).unwrap();
    assert!(other.probe(Iova(iova), Access::Read).is_stale());
    hand.invalidate(leaves(iova, 1, 3));
    hand.sync();
    assert!(other.probe(Iova(iova), Access::Read).fault().is_some());
}

#[test]
fn a1_an_asid_reused_before_its_invalidation_is_seen() {
    let iova = 0x4000_0000;
    let hand = Hand::new(SoftConfig::default());
    hand.map_pages(iova, 0x9000_0000, 1);
    assert!(hand.device.probe(Iova(iova), Access::Read).is_fresh());
    // The next owner of the ASID maps the same address elsewhere.
    let next = Hand::beside(&hand);
    next.map_pages(iova, 0xa000_0000, 1);
    let outcome = next.device.probe(Iova(iova), Access::Read);
    assert_eq!(
        outcome.phys(),
        Some(PhysAddr(0x9000_0000)),
        "the former owner's"
    );
    let violations = hand.smmu.violations();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].kind, ViolationKind::Reused);
}

#[test]
fn bypass_reaches_what_it_names() {
    let hand = Hand::new(SoftConfig::default());
    let device = hand.smmu.attach(StreamConfig::BYPASS).unwrap();
    let outcome = device.probe(Iova(0x1234_5678), Access::Write);
    assert_eq!(outcome.phys(), Some(PhysAddr(0x1234_5678)));
    assert!(outcome.is_fresh());
}

#[test]
fn threads_that_map_unmap_and_read_meet_no_violation() {
    for seed in [None, Some(11)] {
        let config = match seed {
            Some(seed) => SoftConfig::default().with_seed(seed),
            None => SoftConfig::default(),
        };
        let hand = Hand::new(config);
        std::thread::scope(|scope| {
            for id in 0..3_u64 {
                let hand = &hand;
                scope.spawn(move || {
                    let iova = 0x4000_0000 + (id << 30);
                    for round in 0..2000 {
                        let pages = 1 + (round * 7 + id) % 40;
                        let phys = 0x8000_0000 + ((round & 0xff) << 20);
                        hand.map_pages(iova, phys, pages);
                        let data = [id as u8 + 1; 24];
                        let end = Iova(iova + pages * 4096 - 24);
                        assert_eq!(hand.device.write(end, &data).unwrap().done_bytes, 24);
                        let touched = hand.device.touch(Iova(iova), pages * 4096, Access::Read);
                        assert_eq!(touched.fresh, pages);
                        hand.unmap_pages(iova, pages);
                        hand.invalidate(leaves(iova, pages, 3));
                        hand.sync();
                        hand.smmu.declare_gone(&CONTEXT, Iova(iova), pages * 4096);
                        let after = hand.device.touch(Iova(iova), pages * 4096, Access::Read);
                        assert_eq!(after.faulted, pages);
                    }
                });
            }
        });
        assert_eq!(hand.smmu.violations(), []);
        assert_eq!(hand.smmu.stats().stale_accesses, 0);
    }
}
