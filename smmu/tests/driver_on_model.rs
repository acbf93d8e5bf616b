//! The driver programming the software SMMU's registers: what a device reaches
//! before and after each step, at both stages, with blocks and freed tables, while
//! streams are switched, and while the SMMU fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use dmabench_flushq::{BackendError, Gather, Late};
use dmabench_pgtable::{Format, PageTable, Prot, S1K4, S1K16, S1K64, S2K4, S2K64, TableConfig};
use dmabench_platform::{Fences, Granule, Iova, PhysAddr, Pinned, Slots, Timeout, VirtualClock};
use dmabench_smmu::{
    driver::{AtsUse, ContextError, Smmu, SmmuConfig, SmmuContext, StreamTarget, UpdateKind},
    format::EventKind,
    queue::WaitError,
    soft::{Access, FaultKind, ModelConfig, SimDevice, SimMemory, SimMemoryConfig, SmmuModel},
};

type Driver = Smmu<Arc<SmmuModel>, Arc<SimMemory>>;

const SHORT: Timeout = Timeout(100_000);
const SID: u32 = 0x28;

struct Rig {
    memory: Arc<SimMemory>,
    model: Arc<SmmuModel>,
    driver: Driver,
    slots: Arc<Slots>,
}

impl Rig {
    fn new(config: ModelConfig) -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let clock = Arc::new(VirtualClock::default());
        let model = SmmuModel::new(memory.clone(), clock, config);
        let setup = SmmuConfig::default().with_timeout(SHORT);
        let driver = Smmu::new(model.clone(), memory.clone(), setup).unwrap();
        Rig {
            memory,
            model,
            driver,
            slots: Arc::new(Slots::new(0, Fences::Symmetric).unwrap()),
        }
    }

    fn table<F: Format>(&self, ias: u32) -> PageTable<F, Arc<SimMemory>> {
        let config = TableConfig::new(ias, 48);
        PageTable::new(config, self.memory.clone(), self.slots.clone()).unwrap()
    }

    fn map<F: Format>(&self, table: &PageTable<F, Arc<SimMemory>>, iova: u64, phys: u64, len: u64) {
        let pin = Pinned::fallback();
        let slot = self.slots.enter_pinned(&pin).unwrap();
        table
            .map(&slot, Iova(iova), PhysAddr(phys), len, Prot::READ_WRITE)
            .unwrap();
    }

    /// Unmaps, and returns what has to be invalidated.
    fn unmap<F: Format>(
        &self,
        table: &PageTable<F, Arc<SimMemory>>,
        granule: Granule,
        iova: u64,
        len: u64,
    ) -> Gather {
        let pin = Pinned::fallback();
        let slot = self.slots.enter_pinned(&pin).unwrap();
        let mut gather = Gather::new(granule);
        table.unmap(&slot, Iova(iova), len, &mut gather).unwrap();
        gather
    }

    fn attach(&self, context: SmmuContext) -> UpdateKind {
        let target = StreamTarget::Context(context);
        let update = self.driver.attach(SID, target, AtsUse::Off).unwrap();
        self.model.declare_configured(SID, None);
        update
    }

    fn device(&self) -> SimDevice {
        self.model.device(SID, None)
    }
}

/// Invalidates and waits; the tables that were held back go to the table's limbo.
fn finish<F: Format>(
    rig: &Rig,
    table: &PageTable<F, Arc<SimMemory>>,
    context: &SmmuContext,
    gather: Gather,
) {
    let issued = gather.issue(&rig.driver, None, context).unwrap();
    let mut complete = issued.wait(None, SHORT).unwrap();
    if let Some(tables) = complete.take_tables() {
        // SAFETY: the invalidation that covers them has completed.
        unsafe { table.release(tables) };
    }
    table.collect();
}

/// Pages, blocks, mixtures and whole tables: reached while mapped, not reached
/// after the sync, and nothing else is lost.
fn maps_and_unmaps<F: Format>(ias: u32, granule: Granule, seed: Option<u64>) {
    let config = seed.map_or(ModelConfig::default(), |seed| {
        ModelConfig::default().with_seed(seed)
    });
    let rig = Rig::new(config);
    let table = rig.table::<F>(ias);
    let context = rig.driver.create_context(&table.registers()).unwrap();
    rig.attach(context);
    let device = rig.device();
    let page = granule.bytes();
    let block = page << granule.index_bits();
    let base = block * 6;
    for (start, len) in [
        (base, page),
        (base, 33 * page),
        (base + 3 * page, 64 * page),
        (base, block),
        (base - 2 * page, block + 5 * page),
        (base, 3 * block),
        (base - page, 2 * block + 2 * page),
    ] {
        // A neighbour on each side stays mapped.
        let (before, after) = (start - page, start + len);
        let phys = |iova: u64| 0x10_0000_0000 + iova;
        rig.map(&table, before, phys(before), page);
        rig.map(&table, after, phys(after), page);
        rig.map(&table, start, phys(start), len);
        let points = [start, start + page * (len / page / 2), start + len - page];
        for iova in points.into_iter().chain([before, after]) {
            let reached = device.probe(Iova(iova), Access::Write);
            assert!(reached.is_fresh(), "{reached:?}");
            assert_eq!(reached.phys(), Some(PhysAddr(phys(iova))));
        }
        let gather = rig.unmap(&table, granule, start, len);
        finish(&rig, &table, &context, gather);
        for iova in points {
            let fault = device.probe(Iova(iova), Access::Read).fault().unwrap();
            assert_eq!(
                fault.kind,
                FaultKind::Translation,
                "{iova:#x} of {start:#x}+{len:#x}"
            );
        }
        for iova in [before, after] {
            assert!(device.probe(Iova(iova), Access::Read).is_fresh());
            let gather = rig.unmap(&table, granule, iova, page);
            finish(&rig, &table, &context, gather);
        }
    }
    assert_eq!(rig.model.smmu().violations(), []);
    assert_eq!(
        rig.model.misuses(),
        0,
        "the driver keeps to the rules of registers"
    );
    assert_eq!(rig.driver.command_queue().faults(), Default::default());
}

#[test]
fn s1_what_was_unmapped_and_synced_is_not_reached_at_any_stage_and_granule() {
    for seed in [None, Some(7), Some(4711)] {
        maps_and_unmaps::<S1K4>(48, Granule::K4, seed);
        maps_and_unmaps::<S1K16>(47, Granule::K16, seed);
        maps_and_unmaps::<S1K64>(48, Granule::K64, seed);
        maps_and_unmaps::<S2K4>(40, Granule::K4, seed);
        maps_and_unmaps::<S2K64>(48, Granule::K64, seed);
    }
}

/// A device works while its stream goes from one address space to another: with
/// both mapping the page, it never meets a fault.
#[test]
fn a_hitless_switch_is_not_noticed_by_a_working_device() {
    let rig = Rig::new(ModelConfig::default().with_seed(3));
    let phys = 0x20_0000_0000;
    let tables = [rig.table::<S1K4>(48), rig.table::<S1K4>(48)];
    let contexts = tables.each_ref().map(|table| {
        rig.map(table, 0x7000, phys, 0x1000);
        rig.driver.create_context(&table.registers()).unwrap()
    });
    rig.attach(contexts[0]);
    let done = AtomicBool::new(false);
    let accesses = AtomicU64::new(0);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let device = rig.device();
            while !done.load(Ordering::Relaxed) {
                let reached = device.probe(Iova(0x7000), Access::Write);
                assert_eq!(reached.phys(), Some(PhysAddr(phys)), "{reached:?}");
                accesses.fetch_add(1, Ordering::Relaxed);
            }
        });
        // As many switches as it takes for the two to have met.
        let mut switches = 0;
        while switches < 200 || accesses.load(Ordering::Relaxed) < 200 {
            switches += 1;
            assert_eq!(rig.attach(contexts[switches % 2]), UpdateKind::Hitless);
            if worker.is_finished() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        worker.join().unwrap();
    });
    assert_eq!(rig.model.smmu().violations(), []);
}

/// Faults arrive, are counted by device, and the queue is emptied.
#[test]
fn bad_input_63_faults_are_reported_by_device() {
    let rig = Rig::new(ModelConfig::default());
    let table = rig.table::<S1K4>(48);
    let context = rig.driver.create_context(&table.registers()).unwrap();
    rig.attach(context);
    for n in 0..5 {
        let fault = rig.device().probe(Iova(n << 12), Access::Read).fault();
        assert!(fault.is_some());
    }
    // A stream that was never attached.
    let stranger = rig.model.device(0x99, None);
    assert!(stranger.probe(Iova(0), Access::Read).fault().is_some());
    let mut kinds = Vec::new();
    let batch = rig
        .driver
        .poll_events(100, |e| kinds.push((e.sid, e.kind)))
        .unwrap();
    assert_eq!((batch.events, batch.lost), (6, false));
    assert!(
        kinds[..5]
            .iter()
            .all(|k| *k == (SID, EventKind::Translation))
    );
    assert!(matches!(
        kinds[5],
        (0x99, EventKind::BadSte | EventKind::BadStreamId)
    ));
    assert_eq!(rig.driver.faults_of(SID).map(|f| f.count), Some(5));
    assert_eq!(rig.driver.unknown_stream_events(), 1);
    // More than the queue holds: the loss shows, once.
    for n in 0..500 {
        let _fault = rig.device().probe(Iova(n << 12), Access::Read);
    }
    assert!(rig.driver.poll_events(1000, |_| ()).unwrap().lost);
    assert!(!rig.driver.poll_events(1000, |_| ()).unwrap().lost);
}

/// A hanging SMMU: the sync times out and the gather keeps what it holds; once
/// the SMMU goes on, a second wait succeeds.
#[test]
fn a11_bad_input_62_an_smmu_that_hangs_keeps_the_gather() {
    let rig = Rig::new(ModelConfig::default());
    let table = rig.table::<S1K4>(48);
    let context = rig.driver.create_context(&table.registers()).unwrap();
    rig.attach(context);
    rig.map(&table, 0x5000, 0x9000_0000, 0x1000);
    assert!(rig.device().probe(Iova(0x5000), Access::Read).is_fresh());
    rig.model.set_stalled(true);
    let gather = rig.unmap(&table, Granule::K4, 0x5000, 0x1000);
    let issued = gather.issue(&rig.driver, None, &context).unwrap();
    let late = issued.wait(None, SHORT).unwrap_err();
    assert_eq!(late.late, Late::TimedOut { after: SHORT });
    // Nor is a context given up meanwhile.
    let other = rig.driver.create_context(&table.registers()).unwrap();
    assert_eq!(
        rig.driver.destroy_context(other),
        Err(ContextError::NotInvalidated(WaitError::TimedOut {
            after: SHORT
        }))
    );
    assert!(
        rig.device()
            .probe(Iova(0x5000), Access::Read)
            .phys()
            .is_some(),
        "still reachable"
    );
    rig.model.set_stalled(false);
    let _complete = late.issued.wait(None, SHORT).unwrap();
    assert!(
        rig.device()
            .probe(Iova(0x5000), Access::Read)
            .fault()
            .is_some()
    );
    rig.driver.destroy_context(other).unwrap();
    assert_eq!(rig.model.smmu().violations(), []);
}

/// Errors of every code on the way of an invalidation: never a success around a
/// loss, and the next try gets through, or the queue says that it has stopped.
#[test]
fn a11_bad_input_61_errors_on_the_way_of_an_invalidation() {
    let codes = [(1, false), (2, false), (3, false), (0x7f, true)];
    for ((code, stops), after) in codes.into_iter().flat_map(|c| [(c, 0), (c, 1)]) {
        let rig = Rig::new(ModelConfig::default());
        let table = rig.table::<S1K4>(48);
        let context = rig.driver.create_context(&table.registers()).unwrap();
        rig.attach(context);
        rig.map(&table, 0x5000, 0x9000_0000, 0x1000);
        assert!(rig.device().probe(Iova(0x5000), Access::Read).is_fresh());
        rig.model.inject_command_error(code, after);
        let mut gather = rig.unmap(&table, Granule::K4, 0x5000, 0x1000);
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 4, "code {code}");
            let issued = match gather.issue(&rig.driver, None, &context) {
                Ok(issued) => issued,
                Err(not) => {
                    assert!(stops);
                    assert_eq!(not.error, BackendError::Stopped);
                    break;
                }
            };
            match issued.wait(None, SHORT) {
                Ok(_complete) => {
                    assert!(!stops);
                    let fault = rig.device().probe(Iova(0x5000), Access::Read).fault();
                    assert!(fault.is_some(), "code {code}: called done, still reached");
                    break;
                }
                Err(late) => gather = late.issued.abandon(),
            }
        }
        assert_eq!(rig.model.smmu().violations(), []);
    }
}
