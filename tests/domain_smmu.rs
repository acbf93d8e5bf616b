//! The mapping layer in front of the software SMMU: what a device can reach, by
//! invariant, and the defects that must show.

use std::sync::Arc;

use dmabench_dma::{
    Device, Direction, DmaSegment, Domain, DomainConfig, Mapping, Mode, Segment, UnmapError,
};
use dmabench_flushq::{QueueConfig, RangeCommands, TlbRange, commands_for};
use dmabench_pgtable::{Format, Level, S1K4, S1K16, S1K64, S2K4, TableConfig};
use dmabench_platform::{
    Clock, Fences, Granule, Iova, PhysAddr, Slots, ThreadSlots, TimeNs, VirtualClock,
};
use dmabench_smmu::soft::{
    Access, Command, RangeSupport, SimDevice, SimMemory, SimMemoryConfig, SoftConfig, SoftSmmu,
    Spans, StreamConfig, ViolationKind, spans,
};
use proptest::prelude::*;

type SmmuDomain<F> = Domain<Arc<SoftSmmu>, ThreadSlots, F, Arc<SimMemory>>;

struct World<F: Format> {
    domain: SmmuDomain<F>,
    device: SimDevice,
    clock: Arc<VirtualClock>,
}

const ID: u16 = 3;

impl<F: Format> World<F> {
    fn new(config: DomainConfig, soft: SoftConfig) -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let clock = Arc::new(VirtualClock::default());
        let smmu = SoftSmmu::new(memory.clone(), clock.clone(), soft);
        let slots = Arc::new(Slots::new(8, Fences::detect()).unwrap());
        // Which context it is follows from the stage, which a table knows.
        let probe: dmabench_pgtable::PageTable<F, _> =
            dmabench_pgtable::PageTable::new(config.tables, memory.clone(), slots.clone()).unwrap();
        let context = StreamConfig::for_table(ID, &probe.registers()).context();
        let domain =
            Domain::with_parts(config, slots, ThreadSlots, memory, smmu.clone(), context).unwrap();
        let device = smmu
            .attach(StreamConfig::for_table(ID, &domain.registers()))
            .unwrap();
        World {
            domain,
            device,
            clock,
        }
    }

    fn mode(mode: Mode) -> Self {
        Self::new(DomainConfig::new(mode), SoftConfig::default())
    }

    fn smmu(&self) -> &SoftSmmu {
        self.domain.backend()
    }

    fn map(&self, phys: u64, len_bytes: u64) -> Mapping {
        let buffer = Segment {
            phys: PhysAddr(phys),
            len_bytes,
        };
        self.domain
            .map(&Device::new(), buffer, Direction::Bidirectional)
            .unwrap()
    }

    /// Touches every page, so that the SMMU remembers all of them.
    fn touch(&self, mapping: &Mapping) -> (Iova, u64) {
        let (iova, len_bytes) = mapping.mapped_range().unwrap();
        let touched = self.device.touch(iova, len_bytes, Access::Write);
        assert_eq!(touched.stale + touched.faulted, 0);
        (iova, len_bytes)
    }

    /// Pages of a range that the device still reaches.
    fn stale(&self, (iova, len_bytes): (Iova, u64)) -> u64 {
        self.device.touch(iova, len_bytes, Access::Read).stale
    }

    fn declare_gone(&self, (iova, len_bytes): (Iova, u64)) {
        let context = StreamConfig::for_table(ID, &self.domain.registers()).context();
        self.smmu().declare_gone(&context, iova, len_bytes);
    }

    fn assert_no_violation(&self) {
        assert_eq!(self.smmu().violations(), []);
    }
}

const PAGE: u64 = 4096;

fn strict_by_sizes<F: Format>(tables: TableConfig) {
    for seed in [None, Some(1)] {
        let mut soft = SoftConfig::default();
        soft.seed = seed;
        let world = World::<F>::new(DomainConfig::new(Mode::Strict).tables(tables), soft);
        for granules in [1, 2, 15, 16, 33, 512, 513, 1500, 8192] {
            // One address that allows large pages, and one that does not.
            for phys in [1 << 30, (1 << 30) + F::GRANULE.bytes()] {
                let mapping = world.map(phys, granules * F::GRANULE.bytes());
                assert_eq!(
                    world.device.probe(mapping.addr(), Access::Read).phys(),
                    Some(PhysAddr(phys))
                );
                let range = world.touch(&mapping);
                world.domain.unmap(mapping).unwrap();
                world.declare_gone(range);
                assert_eq!(world.stale(range), 0, "{granules} granules");
            }
        }
        world.assert_no_violation();
        world.domain.close().unwrap();
    }
}

#[test]
fn s1_strict_unmaps_leave_nothing_behind_in_any_format() {
    strict_by_sizes::<S1K4>(TableConfig::new(48, 48));
    strict_by_sizes::<S1K16>(TableConfig::new(47, 48));
    strict_by_sizes::<S1K64>(TableConfig::new(48, 48));
    strict_by_sizes::<S2K4>(TableConfig::new(40, 48));
}

#[test]
fn s1_strict_without_range_commands() {
    let soft = SoftConfig::default().with_range(RangeSupport {
        ril: false,
        ds: false,
    });
    let world = World::<S1K4>::new(DomainConfig::new(Mode::Strict), soft);
    for size in [PAGE, 128 * PAGE, 2 << 20, (6 << 20) + PAGE] {
        let mapping = world.map(0x4000_0000, size);
        let range = world.touch(&mapping);
        world.domain.unmap(mapping).unwrap();
        world.declare_gone(range);
        assert_eq!(world.stale(range), 0);
    }
    world.assert_no_violation();
}

#[test]
fn s1_one_skipped_invalidation_is_a_violation() {
    let world = World::<S1K4>::mode(Mode::Strict);
    let mapping = world.map(0x4000_1000, 32 * PAGE);
    let range = world.touch(&mapping);
    let mut skipped = 0;
    world.smmu().set_tamper(Some(Box::new(move |command| {
        if skipped == 0 && !matches!(command, Command::Sync(_)) {
            skipped += 1;
            return None;
        }
        Some(command)
    })));
    world.domain.unmap(mapping).unwrap();
    world.declare_gone(range);
    world.stale(range);
    let violations = world.smmu().violations();
    assert_eq!(violations.len(), 32, "one for each page");
    assert!(
        violations
            .iter()
            .all(|violation| violation.kind == ViolationKind::AfterInvalidation)
    );
}

#[test]
fn a11_a_stalled_smmu_holds_everything_until_it_runs_again() {
    let world = World::<S1K4>::mode(Mode::Strict);
    let mapping = world.map(0x4000_1000, 2 << 20);
    let range = world.touch(&mapping);
    world.smmu().set_stalled(true);
    let Err(UnmapError::NotInvalidated(unfinished)) = world.domain.unmap(mapping) else {
        panic!("no sync completes");
    };
    assert_eq!(world.stale(range), 512, "reachable, and known to be");
    assert_eq!(world.domain.stats().iova_pages_held, 512);
    world.smmu().set_stalled(false);
    world.domain.finish(unfinished).unwrap();
    world.declare_gone(range);
    assert_eq!(world.stale(range), 0);
    assert_eq!(world.domain.stats().iova_pages_held, 0);
    world.assert_no_violation();
}

/// L1, L2: what lazy exposes ends with the timer, and no address comes back
/// before. The aperture is so small that addresses are reused all the time.
#[test]
fn l2_lazy_reuses_no_address_that_is_still_cached() {
    let queue = QueueConfig {
        entries_per_slot: 8,
        timeout_ns: 10_000,
    };
    let config = DomainConfig::new(Mode::Lazy(queue))
        .aperture(Iova(0x1000), Iova(0x3_ffff))
        // No deadlines but the queue's.
        .reclaim(None);
    let world = World::<S1K4>::new(config, SoftConfig::default());
    let mut oldest = 0;
    let mut seen_stale = 0;
    let mut last: Option<((Iova, u64), TimeNs)> = None;
    for round in 0..2000_u64 {
        let now = world.clock.advance_ns(700);
        world.domain.poll(now).unwrap();
        let mapping = world.map(0x4000_0000 + round * 8 * PAGE, (round % 4 + 1) * PAGE);
        let range = world.touch(&mapping);
        world.domain.unmap(mapping).unwrap();
        if let Some((range, since)) = last.replace((range, now)) {
            let stale = world.stale(range);
            if stale > 0 {
                seen_stale += 1;
                oldest = oldest.max(now.since(since));
            }
        }
        if round % 50 == 49 {
            // Idle for long: the timer must have cleaned up.
            for _ in 0..3 {
                let due = world.domain.next_deadline();
                world.clock.advance_to(due.unwrap_or(TimeNs(0)));
                world.domain.poll(due.unwrap_or(now)).unwrap();
            }
            assert_eq!(world.domain.stats().queued, 0);
            assert_eq!(world.stale(range), 0, "L1");
        }
    }
    assert!(seen_stale > 1000, "lazy must expose something");
    assert!(oldest <= queue.timeout_ns + 700);
    world.assert_no_violation();
    world.domain.close().unwrap();
}

/// Rings of one thread flushed by another, tables detached, walk caches warm.
#[test]
fn l2_a2_lazy_with_tables_on_two_threads() {
    let queue = QueueConfig {
        entries_per_slot: 16,
        timeout_ns: 1_000_000,
    };
    let world = World::<S1K4>::mode(Mode::Lazy(queue));
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..150_u64 {
                    let phys = (thread + 1) << 40 | round << 24 | PAGE;
                    let size = [PAGE, 2 << 20, 5 * PAGE][round as usize % 3];
                    let mapping = world.map(phys, size);
                    let reached = world.device.probe(mapping.addr(), Access::Write).phys();
                    assert_eq!(reached, Some(PhysAddr(phys)));
                    world.domain.unmap(mapping).unwrap();
                }
            });
        }
    });
    world.domain.drain().unwrap();
    world.assert_no_violation();
    assert_eq!(world.domain.stats().iova_pages_held, 0);
    world.domain.close().unwrap();
}

/// 64 MiB in mappings of 512 KiB: tables that no unmap covers whole. What was
/// mapped.
fn empty_piece_by_piece(world: &World<S1K4>, phys: u64) -> Vec<(Iova, u64)> {
    let mappings: Vec<_> = (0..128_u64)
        .map(|i| world.map(phys + PAGE + (i << 20), 128 * PAGE))
        .collect();
    mappings
        .into_iter()
        .map(|mapping| {
            let range = world.touch(&mapping);
            world.domain.unmap(mapping).unwrap();
            range
        })
        .collect()
}

/// Serves deadlines until there are none.
fn serve(world: &World<S1K4>) {
    for _ in 0..100 {
        let Some(due) = world.domain.next_deadline() else {
            return;
        };
        world.clock.advance_to(due);
        world.domain.poll(world.clock.now()).unwrap();
    }
    panic!("there is always something to do");
}

#[test]
fn a2_tables_emptied_piece_by_piece_come_back() {
    for mode in [Mode::Strict, Mode::lazy()] {
        let tables = TableConfig::new(48, 48).with_spare_tables(0);
        let config = DomainConfig::new(mode).tables(tables);
        let world = World::<S1K4>::new(config, SoftConfig::default());
        assert_eq!(world.domain.next_deadline(), None);
        let root_bytes = world.domain.stats().page_table_bytes;
        for round in 1..4 {
            let stay = world.map(0x7000, PAGE);
            let ranges = empty_piece_by_piece(&world, round << 40);
            world.domain.drain().unwrap();
            let full = world.domain.stats().page_table_bytes;
            assert!(full >= root_bytes + 32 * PAGE, "{full}");
            serve(&world);
            // One table of each level is in use.
            assert_eq!(world.domain.stats().page_table_bytes, root_bytes + 3 * PAGE);
            let reached = world.device.probe(stay.addr(), Access::Read).phys();
            assert_eq!(reached, Some(PhysAddr(0x7000)));
            for range in ranges {
                assert_eq!(world.stale(range), 0);
            }
            world.domain.unmap(stay).unwrap();
            serve(&world);
            let empty = world.domain.stats();
            // As little as an eighth of growth is not worth a run.
            assert!(empty.page_table_bytes <= root_bytes + 3 * PAGE);
        }
        world.assert_no_violation();
        world.domain.close().unwrap();
    }
}

#[test]
fn a11_tables_stay_while_their_invalidation_does_not_succeed() {
    let tables = TableConfig::new(48, 48).with_spare_tables(0);
    let config = DomainConfig::new(Mode::Strict).tables(tables);
    let world = World::<S1K4>::new(config, SoftConfig::default());
    let root_bytes = world.domain.stats().page_table_bytes;
    empty_piece_by_piece(&world, 1 << 40);
    let full = world.domain.stats().page_table_bytes;
    world.domain.poll(TimeNs(0)).unwrap();
    world.smmu().set_stalled(true);
    let mut due = TimeNs(0);
    for _ in 0..3 {
        let next = world.domain.next_deadline().unwrap();
        assert!(next > due, "not without a pause");
        due = next;
        world.clock.advance_to(due);
        assert!(world.domain.poll(due).is_err());
        assert_eq!(world.domain.stats().page_table_bytes, full);
    }
    world.smmu().set_stalled(false);
    serve(&world);
    assert_eq!(world.domain.stats().page_table_bytes, root_bytes);
    empty_piece_by_piece(&world, 2 << 40);
    world.assert_no_violation();
}

/// Tables that go without an invalidation of the walk caches are noticed.
#[test]
fn a2_reclaimed_tables_that_a_walk_cache_keeps_show() {
    let tables = TableConfig::new(48, 48).with_spare_tables(0);
    let config = DomainConfig::new(Mode::Strict).tables(tables);
    let world = World::<S1K4>::new(config, SoftConfig::default());
    empty_piece_by_piece(&world, 1 << 40);
    world
        .smmu()
        .set_tamper(Some(Box::new(|command| match command {
            Command::Sync(_) => Some(command),
            _ => None,
        })));
    serve(&world);
    world.smmu().set_tamper(None);
    let wrong: u64 = (0..128_u64)
        .map(|i| {
            let mapping = world.map((2 << 40) + PAGE + (i << 20), 128 * PAGE);
            let (iova, len_bytes) = mapping.mapped_range().unwrap();
            let touched = world.device.touch(iova, len_bytes, Access::Write);
            let _kept = std::mem::ManuallyDrop::new(mapping);
            touched.stale + touched.faulted
        })
        .sum();
    assert!(wrong > 0 || !world.smmu().violations().is_empty());
}

#[test]
fn a_list_is_one_transfer_for_the_device() {
    let world = World::<S1K4>::mode(Mode::Strict);
    let memory = world.domain.memory().clone();
    let segments: Vec<_> = (0..20_u64)
        .map(|i| Segment {
            phys: PhysAddr(0x9000_0000 + i * 0x3000 + 0x80 * i),
            len_bytes: 0x200 + i,
        })
        .collect();
    let mut out = vec![DmaSegment::EMPTY; segments.len()];
    let mapping = world
        .domain
        .map_sg(&Device::new(), &segments, &mut out, Direction::FromDevice)
        .unwrap();
    for (i, part) in out.iter().enumerate() {
        let data = vec![i as u8 + 1; part.len_bytes as usize];
        let transfer = world.device.write(part.addr, &data).unwrap();
        assert_eq!(transfer.done_bytes, part.len_bytes);
    }
    for (i, segment) in segments.iter().enumerate() {
        let mut data = vec![0; segment.len_bytes as usize + 1];
        memory.read(segment.phys, &mut data);
        assert!(data[..data.len() - 1].iter().all(|b| *b == i as u8 + 1));
        assert_eq!(data[data.len() - 1], 0, "not a byte more");
    }
    world.domain.unmap(mapping).unwrap();
    world.assert_no_violation();
}

proptest! {
    /// What is counted for a range is what an SMMU is sent for it.
    #[test]
    fn counted_commands_are_those_of_the_range_encoder(
        granule in prop::sample::select(Granule::ALL.as_slice()),
        level in 1_i8..=3,
        leaf_only: bool,
        hinted: bool,
        start in 0_u64..1 << 20,
        leaves in prop_oneof![1_u64..2000, 1_u64..1 << 20],
        ril: bool,
    ) {
        let leaf_lg2 = granule.lg2() + (3 - level) as u32 * granule.index_bits();
        let range = TlbRange {
            iova: Iova(start << leaf_lg2),
            len_bytes: leaves << leaf_lg2,
            granule,
            level: if leaf_only && hinted { Level::new(level) } else { None },
            leaf_only,
        };
        let support = RangeSupport { ril, ds: false };
        let commands = if ril { RangeCommands::Supported } else { RangeCommands::Absent };
        let counted = commands_for(&range, commands);
        match spans(&range, support) {
            Spans::WholeContext => {
                prop_assert_eq!((counted.by_address, counted.by_context), (0, 1));
            }
            Spans::ByAddress(spans) => {
                let emitted = spans.take(10_000).count() as u64;
                prop_assert_eq!((counted.by_address, counted.by_context), (emitted, 0));
            }
        }
    }
}
