//! `pgtable` writes, the software SMMU reads: two views of the same tables that
//! must agree, with every cache of the SMMU in between.

use std::sync::Arc;

use dmabench_flushq::{TlbBackend, TlbRange};
use dmabench_pgtable::{
    DetachedTable, DetachedTables, Format, Level, PageTable, Prot, S1K4, S1K4Lpa2, S1K16,
    S1K16Lpa2, S1K64, S2K4, S2K16, S2K64, TableConfig, UnmapSink,
};
use dmabench_platform::{Fences, Granule, Iova, PhysAddr, Pinned, Slots, Timeout, VirtualClock};
use dmabench_smmu::soft::{Access, SimMemory, SimMemoryConfig, SoftConfig, SoftSmmu, StreamConfig};
use proptest::prelude::*;

/// What an unmap leaves: the ranges to invalidate and the tables to free.
struct Left {
    granule: Granule,
    ranges: Vec<TlbRange>,
    tables: DetachedTables,
}

impl UnmapSink for Left {
    fn leaves(&mut self, iova: Iova, len_bytes: u64, level: Level) {
        self.ranges.push(TlbRange {
            iova,
            len_bytes,
            granule: self.granule,
            level: Some(level),
            leaf_only: true,
        });
    }

    fn table(&mut self, table: DetachedTable) {
        self.ranges.push(TlbRange {
            iova: table.iova(),
            len_bytes: table.len_bytes(),
            granule: self.granule,
            level: None,
            leaf_only: false,
        });
        self.tables.push(table);
    }
}

#[derive(Clone, Debug)]
struct Step {
    /// Where, in pages of a window of 4096 pages.
    page: u64,
    pages: u64,
    /// Aligned to large pages, so that blocks and runs appear.
    aligned: bool,
    write: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        0..4096_u64,
        prop_oneof![1..4_u64, 1..64_u64, 512..2048_u64],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(page, pages, aligned, write)| Step {
            page,
            pages,
            aligned,
            write,
        });
    prop::collection::vec(step, 1..40)
}

/// Plays the steps: each maps its range, or unmaps what is there first. After
/// each the device probes pages in and around the range, and finds exactly what
/// `translate` says.
fn agree<F: Format>(ias: u32, oas: u32, steps: &[Step]) {
    let granule = F::GRANULE;
    let memory = SimMemory::new(
        // A table must lie below every output size that is tried.
        SimMemoryConfig::default().with_tables_at(PhysAddr(1 << 30), 1 << 29),
    )
    .unwrap();
    let slots = Arc::new(Slots::new(0, Fences::Symmetric).unwrap());
    let table: PageTable<F, Arc<SimMemory>> = PageTable::new(
        TableConfig::new(ias, oas).with_spare_tables(2),
        memory.clone(),
        slots.clone(),
    )
    .unwrap();
    let smmu = SoftSmmu::new(
        memory.clone(),
        Arc::new(VirtualClock::default()),
        SoftConfig::default(),
    );
    let config = StreamConfig::for_table(3, &table.registers());
    let context = config.context();
    let device = smmu.attach(config).unwrap();

    // The window ends at the last page of the input space.
    let page_bytes = granule.bytes();
    let window = (1 << ias) - 4096 * page_bytes;
    let mut mapped: Vec<(u64, u64)> = Vec::new();
    for step in steps {
        let mut first = step.page;
        if step.aligned {
            first &= !511;
        }
        let pages = step.pages.min(4096 - first);
        let iova = window + first * page_bytes;
        let len = pages * page_bytes;
        let pin = Pinned::fallback();
        let slot = slots.enter_pinned(&pin).unwrap();
        let (clash, keep): (Vec<_>, Vec<_>) = mapped
            .iter()
            .partition(|(at, size)| *at < iova + len && iova < at + size);
        if clash.is_empty() {
            // Congruent, so that large pages are possible.
            let paddr = PhysAddr((1 << 31) + first * page_bytes);
            let prot = if step.write {
                Prot::READ_WRITE
            } else {
                Prot::READ
            };
            table.map(&slot, Iova(iova), paddr, len, prot).unwrap();
            mapped.push((iova, len));
        } else {
            for (at, size) in clash {
                let mut left = Left {
                    granule,
                    ranges: Vec::new(),
                    tables: DetachedTables::new(),
                };
                table.unmap(&slot, Iova(at), size, &mut left).unwrap();
                smmu.invalidate(None, &context, &left.ranges).unwrap();
                let ticket = smmu.sync_begin(None).unwrap();
                let _synced = smmu.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
                smmu.declare_gone(&context, Iova(at), size);
                // SAFETY: the tables came from `table`, and their ranges have
                // just been invalidated with a sync.
                unsafe { table.release(left.tables) };
            }
            mapped = keep;
        }
        let around = [
            iova.wrapping_sub(page_bytes),
            iova,
            iova + len / 2,
            iova + len - 1,
            iova + len,
            window,
            (1 << ias) - 1,
        ];
        for at in around {
            let at = Iova(at);
            let said = table.translate(&slot, at);
            for access in [Access::Read, Access::Write] {
                let got = device.probe(at, access);
                let may = said.is_some_and(|t| match access {
                    Access::Read => t.prot.contains(Prot::READ),
                    Access::Write => t.prot.contains(Prot::WRITE),
                });
                if may {
                    assert!(got.is_fresh(), "{access:?} of {at}: {got:?}, {said:?}");
                    assert_eq!(got.phys(), said.map(|t| t.paddr), "{at}");
                } else {
                    assert!(
                        got.fault().is_some(),
                        "{access:?} of {at}: {got:?}, {said:?}"
                    );
                }
            }
        }
        drop(slot);
        table.collect();
    }
    assert_eq!(smmu.violations(), []);
    assert_eq!(smmu.stats().stale_accesses, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn s1_both_agree_after_every_map_and_unmap(steps in steps()) {
        agree::<S1K4>(48, 48, &steps);
        agree::<S1K4>(39, 40, &steps);
        agree::<S1K16>(47, 44, &steps);
        agree::<S1K64>(48, 48, &steps);
        agree::<S1K64>(52, 52, &steps);
        agree::<S1K4Lpa2>(52, 52, &steps);
        agree::<S1K16Lpa2>(52, 52, &steps);
        agree::<S2K4>(40, 40, &steps);
        agree::<S2K4>(48, 48, &steps);
        agree::<S2K16>(40, 40, &steps);
        agree::<S2K64>(42, 44, &steps);
    }
}
