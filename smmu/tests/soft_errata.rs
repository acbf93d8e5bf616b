//! The driver's errata options against an SMMU that has the faults: with the
//! option nothing is left behind, without it the device still gets through.

use std::sync::Arc;

use dmabench_flushq::{TlbBackend, TlbRange};
use dmabench_pgtable::{
    DetachedTable, DetachedTables, Level, PageTable, Prot, S1K4, TableConfig, UnmapSink,
};
use dmabench_platform::{Fences, Granule, Iova, PhysAddr, Pinned, Slots, Timeout, VirtualClock};
use dmabench_smmu::{
    driver::{AtsUse, Errata, Smmu, SmmuConfig, StreamTarget},
    soft::{Access, Defects, ModelConfig, SimMemory, SimMemoryConfig, SmmuModel},
};

const SID: u32 = 9;
/// 64 KiB below a boundary of 64 KiB, so that no contiguous run covers it all.
const IOVA: Iova = Iova(0x4000_1000);

#[derive(Default)]
struct Left {
    ranges: Vec<TlbRange>,
    tables: DetachedTables,
}

impl Left {
    fn push(&mut self, iova: Iova, len_bytes: u64, level: Option<Level>) {
        self.ranges.push(TlbRange {
            iova,
            len_bytes,
            granule: Granule::K4,
            level,
            leaf_only: level.is_some(),
        });
    }
}

impl UnmapSink for Left {
    fn leaves(&mut self, iova: Iova, len_bytes: u64, level: Level) {
        self.push(iova, len_bytes, Some(level));
    }

    fn table(&mut self, table: DetachedTable) {
        self.push(table.iova(), table.len_bytes(), None);
        self.tables.push(table);
    }
}

/// Pages that a device can still reach after `pages` pages were mapped, used,
/// unmapped, invalidated and synced.
fn left_behind(defects: Defects, errata: Errata, iova: Iova, pages: u64) -> u64 {
    let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
    let clock = Arc::new(VirtualClock::default());
    let config = ModelConfig::default().with_defects(defects);
    let model = SmmuModel::new(memory.clone(), clock, config);
    let slots = Arc::new(Slots::new(0, Fences::Symmetric).unwrap());
    let tables: PageTable<S1K4, _> =
        PageTable::new(TableConfig::new(48, 48), memory.clone(), slots.clone()).unwrap();
    let config = SmmuConfig::default().with_errata(errata);
    let driver = Smmu::new(model.clone(), memory, config).unwrap();
    let context = driver.create_context(&tables.registers()).unwrap();
    driver
        .attach(SID, StreamTarget::Context(context), AtsUse::Off)
        .unwrap();
    let device = model.device(SID, None);
    let pin = Pinned::fallback();
    let slot = slots.enter_pinned(&pin).unwrap();
    let len = pages * 4096;
    let phys = PhysAddr(0x8000_3000);
    tables
        .map(&slot, iova, phys, len, Prot::READ_WRITE)
        .unwrap();
    assert_eq!(device.touch(iova, len, Access::Read).fresh, pages);
    let mut left = Left::default();
    tables.unmap(&slot, iova, len, &mut left).unwrap();
    driver.invalidate(None, &context, &left.ranges).unwrap();
    let ticket = driver.sync_begin(None).unwrap();
    let _synced = driver.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
    // SAFETY: the tables came from this page table, and their ranges were just
    // invalidated and synced (by an SMMU that may be broken: its walks only read
    // simulated memory).
    unsafe { tables.release(left.tables) };
    device.touch(iova, len, Access::Read).stale
}

fn with(change: impl FnOnce(&mut Defects), option: impl FnOnce(&mut Errata)) -> (Defects, Errata) {
    let mut defects = Defects::default();
    let mut errata = Errata::NONE;
    change(&mut defects);
    option(&mut errata);
    (defects, errata)
}

#[test]
fn an_smmu_without_faults_needs_no_option() {
    for pages in [1, 7, 33, 130, 511, 600] {
        assert_eq!(
            left_behind(Defects::default(), Errata::NONE, IOVA, pages),
            0
        );
    }
}

#[test]
fn ranges_that_reach_one_page_are_not_used() {
    let (defects, errata) = with(
        |d| d.range_is_one_page = true,
        |e| e.single_address_only = true,
    );
    for pages in [7, 33, 511] {
        let left = left_behind(defects, Errata::NONE, IOVA, pages);
        assert!(left > 0, "the fault shows without the option");
        assert_eq!(left_behind(defects, errata, IOVA, pages), 0);
    }
}

#[test]
fn hints_that_lose_an_invalidation_are_not_given() {
    let (defects, errata) = with(|d| d.hinted_is_lost = true, |e| e.no_level_hint = true);
    for pages in [1, 7, 33] {
        assert_eq!(left_behind(defects, Errata::NONE, IOVA, pages), pages);
        assert_eq!(left_behind(defects, errata, IOVA, pages), 0);
    }
}

/// A single granule without a hint is what the form without a range is for.
#[test]
fn the_single_form_is_avoided() {
    let (defects, errata) = with(
        |d| d.single_is_lost = true,
        |e| {
            e.always_range = true;
            e.no_level_hint = true;
        },
    );
    let mut no_hint = errata;
    no_hint.always_range = false;
    for pages in [1, 33] {
        assert_eq!(left_behind(defects, no_hint, IOVA, pages), 1);
        assert_eq!(left_behind(defects, errata, IOVA, pages), 0);
    }
}
