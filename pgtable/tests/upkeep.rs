//! What is done beside mapping: reclaiming tables, splitting leaves, marks of
//! writes, iteration, dump, and the policy for when to reclaim.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use common::{Fixture, Log, arena::Arena};
use dmabench_pgtable::{
    DirtyError, DirtyMarks, HeapTables, Level, MapError, PageTable, Prot, Quirks, ReclaimPolicy,
    ReclaimTimer, S1K4, S1K64, S2K4, SplitError, TableConfig, TableSpan, UnmapError, UnmapSink,
    Walked, Walker,
};
use dmabench_platform::{Fences, Iova, PhysAddr, Slots, TimeNs};

const RW: Prot = Prot::READ_WRITE;
const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;

type Bed = Fixture<S1K4, Arc<Arena>>;

fn bed(config: TableConfig) -> (Bed, Arc<Arena>) {
    let arena = Arc::new(Arena::new(0x1000_0000, 40 << 20));
    (Fixture::with_memory(config, arena.clone()).unwrap(), arena)
}

fn plain() -> (Bed, Arc<Arena>) {
    bed(TableConfig::new(48, 48))
}

#[test]
fn a10_a_gib_of_pages_over_16_gib_in_random_order_leaves_the_root_alone() {
    let (f, arena) = plain();
    let count = (1_u64 << 30) / PAGE;
    // An odd multiplier permutes the places, one in 16 pages of the space.
    let place = |i: u64| (i.wrapping_mul(0x9e37_79b1) % count) * 16 * PAGE;
    let slot = f.slots.enter_fallback();
    for i in 0..count {
        let iova = Iova(place(i));
        f.table
            .map(&slot, iova, PhysAddr(i * PAGE), PAGE, RW)
            .unwrap();
    }
    let full = f.table.stats();
    assert_eq!(full.live, 8192 + 16 + 1);
    let mut log = Log::default();
    for i in 0..count {
        let iova = Iova(place(i.wrapping_mul(7) % count));
        f.table.unmap(&slot, iova, PAGE, &mut log).unwrap();
        log.leaves.clear();
    }
    drop(slot);
    assert!(log.tables.is_empty());
    assert_eq!(f.table.stats().live, full.live);
    let mut spans = 0;
    // SAFETY: no walker reads these tables.
    let done = unsafe {
        f.table.reclaim(0, |batch| {
            spans += batch.len();
            Ok::<(), ()>(())
        })
    };
    assert_eq!(done.unwrap().unlinked, full.live);
    // Neighbours came as one span: 16 GiB in batches of 2 GiB, twice.
    assert!(spans <= 16, "{spans}");
    assert_eq!(f.table.stats().bytes(), 4096);
    assert_eq!(arena.live_tables(), 1);
}

#[test]
fn a11_an_invalidation_that_fails_loses_nothing() {
    let (f, arena) = plain();
    f.map(0, 0, PAGE, RW).unwrap();
    f.unmap(0, PAGE).unwrap();
    let before = arena.live_tables();
    // SAFETY: no walker reads these tables.
    let late = unsafe { f.table.reclaim(0, |_| Err("late")) };
    assert_eq!(late, Err("late"));
    assert_eq!(arena.live_tables(), before);
    f.map(0, 0x7000, PAGE, RW).unwrap();
    assert_eq!(f.phys(0), Some(0x7000));
    f.unmap(0, PAGE).unwrap();
    // A panic on the way is made good by the next call.
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: as above.
        let _ = unsafe { f.table.reclaim::<()>(0, |_| panic!("on the way")) };
    }));
    assert!(panics.is_err());
    f.map(BLOCK, 0, PAGE, RW).unwrap();
    f.unmap(BLOCK, PAGE).unwrap();
    // SAFETY: as above.
    unsafe { f.table.reclaim(0, |_| Ok::<(), ()>(())) }.unwrap();
    assert_eq!(arena.live_tables(), 1);
}

#[test]
fn a_map_that_comes_while_a_table_is_out_of_service_puts_it_back() {
    let (f, _) = plain();
    f.map(0, 0, PAGE, RW).unwrap();
    f.unmap(0, PAGE).unwrap();
    // SAFETY: no walker reads these tables.
    let done = unsafe {
        f.table.reclaim(0, |spans: &[TableSpan]| {
            if spans[0].level == Level::LAST {
                f.map(5 * PAGE, 0x9000, PAGE, RW).unwrap();
            }
            Ok::<(), ()>(())
        })
    };
    assert_eq!(done.unwrap().unlinked, 0);
    assert_eq!(f.phys(5 * PAGE), Some(0x9000));
    assert_eq!(f.table.stats().live, 3);
}

/// Mappers on ranges of their own, a reclaimer and a reader, for real.
#[test]
fn reclaim_runs_beside_maps_and_unmaps() {
    for fences in [Fences::Symmetric, Fences::detect()] {
        let slots = Arc::new(Slots::new(4, fences).unwrap());
        let table: PageTable<S1K4, HeapTables> =
            PageTable::new(TableConfig::new(48, 48), HeapTables, slots.clone()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2_u64 {
                let (slots, table, stop) = (&slots, &table, &stop);
                scope.spawn(move || {
                    for round in 0..4000_u64 {
                        // Two threads share each last-level table.
                        let iova = Iova((round % 5) * BLOCK + thread * 64 * PAGE);
                        let pa = PhysAddr((round + thread) << 24);
                        // SAFETY: each thread has its own number.
                        let slot = unsafe { slots.enter(Some(thread as usize)) }.unwrap();
                        table.map(&slot, iova, pa, 3 * PAGE, RW).unwrap();
                        let seen = table.translate(&slot, Iova(iova.0 + 2 * PAGE)).unwrap();
                        assert_eq!(seen.paddr.0, pa.0 + 2 * PAGE);
                        let mut log = Log::default();
                        table.unmap(&slot, iova, 3 * PAGE, &mut log).unwrap();
                    }
                    stop.store(true, Ordering::Relaxed);
                });
            }
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: no walker reads these tables.
                    unsafe { table.reclaim(2, |_| Ok::<(), ()>(())) }.unwrap();
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: each thread has its own number.
                    let slot = unsafe { slots.enter(Some(2)) }.unwrap();
                    for entry in table.entries(&slot, Iova(0), Iova(8 * BLOCK)) {
                        assert_eq!(entry.paddr.0 & 0xfff, 0);
                    }
                }
            });
        });
        // SAFETY: as above.
        unsafe { table.reclaim(0, |_| Ok::<(), ()>(())) }.unwrap();
        let stats = table.stats();
        assert_eq!((stats.live, stats.lost, stats.spare), (0, 0, 0));
    }
}

/// Two callers that unmap one range at the same time are a bug; memory stays
/// sound, and what is lost is counted.
#[test]
fn overlapping_calls_keep_memory_sound() {
    let slots = Arc::new(Slots::new(4, Fences::detect()).unwrap());
    let arena = Arc::new(Arena::new(0x1000_0000, 16 << 20));
    let config = TableConfig::new(48, 48).with_spare_tables(1);
    let table: PageTable<S1K4, _> = PageTable::new(config, arena.clone(), slots.clone()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2_usize {
            let (slots, table) = (&slots, &table);
            scope.spawn(move || {
                for round in 0..3000_u64 {
                    let mut log = Log::default();
                    {
                        // SAFETY: each thread has its own number.
                        let slot = unsafe { slots.enter(Some(thread)) }.unwrap();
                        let skew = PhysAddr((round % 3) * PAGE);
                        let _ = table.map(&slot, Iova(0), skew, BLOCK, RW);
                        let _ = table.unmap(&slot, Iova(0), BLOCK, &mut log);
                    }
                    // SAFETY: no walker reads these tables.
                    unsafe { table.release(log.detached) };
                    if round % 64 == 0 {
                        table.collect();
                    }
                }
            });
        }
    });
    // Dropping frees whatever is still in the tree, and does not free twice: the
    // arena asserts it.
    let lost = table.stats().lost;
    drop(table);
    assert!(arena.live_tables() as u64 <= lost, "{lost}");
}

#[test]
fn a_dropped_list_of_tables_is_counted_and_never_freed() {
    let (f, arena) = plain();
    f.map(0, PAGE, BLOCK, RW).unwrap();
    let mut log = Log::default();
    {
        let slot = f.slots.enter_fallback();
        f.table.unmap(&slot, Iova(0), BLOCK, &mut log).unwrap();
    }
    assert_eq!(log.detached.len(), 1);
    drop(log);
    assert_eq!(f.table.stats().detached, 1);
    assert_eq!(f.table.collect(), 0);
    drop(f);
    assert_eq!(arena.live_tables(), 1);
}

#[test]
fn a_gib_unmapped_at_once_detaches_every_table_below() {
    let (f, arena) = plain();
    let gib = 1 << 30;
    f.map(gib, PAGE, gib, RW).unwrap();
    let log = f.unmap(gib, gib).unwrap();
    let level = |n| Level::new(n).unwrap();
    assert_eq!(log.tables.iter().filter(|t| t.2 == level(3)).count(), 512);
    assert_eq!(log.tables.iter().filter(|t| t.2 == level(2)).count(), 1);
    assert_eq!(f.table.collect(), 513);
    f.table.trim_spare(0);
    assert_eq!(arena.live_tables(), 2);
}

/// The token's table has another size and its offset lies beyond the other
/// table's root: nothing of it may be used there.
#[test]
fn a_broken_leaf_of_another_table_is_refused() {
    let (f, _arena) = plain();
    let other: PageTable<S1K64, HeapTables> =
        PageTable::new(TableConfig::new(33, 48), HeapTables, f.slots.clone()).unwrap();
    let slot = f.slots.enter_fallback();
    let block = Iova(1 << 40);
    f.table
        .map(&slot, block, PhysAddr(BLOCK), BLOCK, RW)
        .unwrap();
    let broken = f.table.break_leaf(&slot, block).unwrap();
    let (error, broken) = other.unbreak(&slot, broken).unwrap_err();
    assert_eq!(error, SplitError::OtherTable);
    // SAFETY: no TLB has ever cached this table.
    let invalid = unsafe { broken.synced() };
    let (error, invalid) = other.make(&slot, invalid).unwrap_err();
    assert_eq!(error, SplitError::OtherTable);
    f.table.make(&slot, invalid).unwrap();
    assert_eq!(
        f.table.translate_phys(&slot, Iova(block.0 + 0x5432)),
        Some(PhysAddr(BLOCK + 0x5432))
    );
}

#[test]
fn a_block_is_split_by_break_synced_make() {
    let (f, _) = bed(TableConfig::new(48, 48).with_quirks(Quirks::ARM_HD));
    f.map(BLOCK, BLOCK, BLOCK, RW | Prot::CACHE).unwrap();
    let slot = f.slots.enter_fallback();
    let broken = f.table.break_leaf(&slot, Iova(BLOCK + 0x5000)).unwrap();
    assert_eq!((broken.iova(), broken.len_bytes()), (Iova(BLOCK), BLOCK));
    assert_eq!(broken.level().get(), 2);
    assert_eq!(f.table.translate(&slot, Iova(BLOCK)), None);
    // Nobody else may have the range meanwhile.
    let map = f.table.map(&slot, Iova(BLOCK), PhysAddr(0), BLOCK, RW);
    assert_eq!(map, Err(MapError::Exists { iova: Iova(BLOCK) }));
    // SAFETY: there is no TLB.
    let invalid = unsafe { broken.synced() };
    f.table.make(&slot, invalid).unwrap();
    drop(slot);
    f.unmap(BLOCK + 0x5000, PAGE).unwrap();
    assert_eq!(f.phys(BLOCK + 0x5000), None);
    let left = f.translation(BLOCK + 0x6042).unwrap();
    assert_eq!(left.paddr.0, BLOCK + 0x6042);
    assert_eq!((left.page_bytes, left.prot), (PAGE, RW | Prot::CACHE));
}

#[test]
fn a_contiguous_run_is_split_and_a_split_is_undone() {
    let (f, _) = plain();
    f.map(0x1_0000, 0x1_0000, 0x1_0000, RW).unwrap();
    let slot = f.slots.enter_fallback();
    let broken = f.table.break_leaf(&slot, Iova(0x1_7000)).unwrap();
    assert_eq!(broken.len_bytes(), 0x1_0000);
    f.table.unbreak(&slot, broken).unwrap();
    assert!(f.table.translate(&slot, Iova(0x1_7000)).unwrap().contiguous);
    let broken = f.table.break_leaf(&slot, Iova(0x1_7000)).unwrap();
    // SAFETY: there is no TLB.
    f.table.make(&slot, unsafe { broken.synced() }).unwrap();
    let entry = f.table.translate(&slot, Iova(0x1_7abc)).unwrap();
    assert!(!entry.contiguous);
    assert_eq!(entry.paddr.0, 0x1_7abc);
    let single = f.table.break_leaf(&slot, Iova(0x1_7000)).unwrap_err();
    assert_eq!(
        single,
        SplitError::Smallest {
            iova: Iova(0x1_7000)
        }
    );
    let none = f.table.break_leaf(&slot, Iova(0)).unwrap_err();
    assert_eq!(none, SplitError::NotMapped { iova: Iova(0) });
}

#[test]
fn a_split_without_memory_changes_nothing() {
    let (f, arena) = plain();
    f.map(BLOCK, BLOCK, BLOCK, RW).unwrap();
    arena.set_budget(Some(0));
    let slot = f.slots.enter_fallback();
    let error = f.table.break_leaf(&slot, Iova(BLOCK)).unwrap_err();
    assert_eq!(error, SplitError::OutOfTables);
    assert_eq!(
        f.table.translate(&slot, Iova(BLOCK)).unwrap().page_bytes,
        BLOCK
    );
}

/// What hardware does on the first write through a clean entry.
fn hardware_write(arena: &Arena, pa: u64) {
    const READ_ONLY: u64 = 1 << 7;
    const DBM: u64 = 1 << 51;
    let words: Vec<_> = (0..arena.table_words()).collect();
    for index in words {
        let word = arena.word_at(index);
        let value = word.load(Ordering::Relaxed);
        if value & 1 == 1 && value & DBM != 0 && value & 0xffff_ffff_f000 == pa {
            word.store(value & !READ_ONLY, Ordering::Relaxed);
        }
    }
}

#[test]
fn dirty_marks_over_pages_blocks_and_runs() {
    let (f, arena) = bed(TableConfig::new(48, 48).with_quirks(Quirks::ARM_HD));
    f.map(0x1000, 0x1000, PAGE, RW).unwrap();
    f.map(0x1_0000, 0x1_0000, 0x1_0000, RW).unwrap();
    f.map(BLOCK, BLOCK, BLOCK, RW).unwrap();
    f.map(2 * BLOCK, 2 * BLOCK, PAGE, Prot::READ).unwrap();
    let read = |marks, iova, len| {
        let slot = f.slots.enter_fallback();
        let mut told = Vec::new();
        let result = f
            .table
            .read_dirty(&slot, Iova(iova), len, marks, |iova, len| {
                told.push((iova.0, len));
            });
        result.map(|_| told)
    };
    let all = [(0x1000, PAGE), (0x1_0000, 0x1_0000), (BLOCK, BLOCK)];
    // New mappings count as written; read-only ones never do.
    assert_eq!(read(DirtyMarks::Keep, 0, 4 * BLOCK).unwrap(), all);
    assert_eq!(read(DirtyMarks::Clear, 0, 4 * BLOCK).unwrap(), all);
    assert_eq!(read(DirtyMarks::Clear, 0, 4 * BLOCK).unwrap(), []);
    // Still writable, to the hardware.
    assert_eq!(f.translation(0x1000).unwrap().prot, RW);
    // A mark on any entry of a run stands for the run.
    for entry in [0x1_0000, 0x1_3000, 0x1_f000] {
        hardware_write(&arena, entry);
        assert_eq!(
            read(DirtyMarks::Clear, 0, BLOCK).unwrap(),
            [(0x1_0000, 0x1_0000)]
        );
        assert_eq!(read(DirtyMarks::Keep, 0, BLOCK).unwrap(), []);
    }
    // A range that cuts a leaf has no mark of its own.
    let cut = read(DirtyMarks::Clear, 0x1_0000, PAGE).unwrap_err();
    assert!(matches!(
        cut,
        DirtyError::Range(UnmapError::PartOfLeaf { .. })
    ));
    // The dump says it.
    hardware_write(&arena, BLOCK);
    let slot = f.slots.enter_fallback();
    let dump = f.table.dump(&slot).to_string();
    assert!(
        dump.contains("level 2      1 x 2M READ|WRITE dirty"),
        "{dump}"
    );
    assert_eq!(dump.matches("dirty").count(), 1);
    drop(slot);
    // An unmap that asks is told the last marks.
    #[derive(Default)]
    struct Wants(Log, Vec<(u64, u64)>);
    impl UnmapSink for Wants {
        fn leaves(&mut self, iova: Iova, len: u64, level: Level) {
            self.0.leaves(iova, len, level);
        }
        fn wants_dirty(&self) -> bool {
            true
        }
        fn dirty(&mut self, iova: Iova, len: u64) {
            self.1.push((iova.0, len));
        }
        fn table(&mut self, table: dmabench_pgtable::DetachedTable) {
            self.0.table(table);
        }
    }
    hardware_write(&arena, 0x1_5000);
    let mut wants = Wants::default();
    let slot = f.slots.enter_fallback();
    f.table
        .unmap(&slot, Iova(BLOCK), BLOCK, &mut wants)
        .unwrap();
    f.table
        .unmap(&slot, Iova(0x1_0000), 0x1_0000, &mut wants)
        .unwrap();
    f.table
        .unmap(&slot, Iova(0x1000), PAGE, &mut wants)
        .unwrap();
    assert_eq!(wants.1, [(BLOCK, BLOCK), (0x1_0000, 0x1_0000)]);
    assert_eq!(wants.0.leaves.len(), 3);
}

#[test]
fn a_dirty_block_is_split_into_dirty_pages() {
    let (f, arena) = bed(TableConfig::new(48, 48).with_quirks(Quirks::ARM_HD));
    f.map(BLOCK, BLOCK, BLOCK, RW).unwrap();
    f.map(2 * BLOCK, 2 * BLOCK, BLOCK, RW).unwrap();
    let slot = f.slots.enter_fallback();
    let read = || {
        let mut count = 0;
        let range = (Iova(BLOCK), 2 * BLOCK);
        let told = |_, _| count += 1;
        f.table
            .read_dirty(&slot, range.0, range.1, DirtyMarks::Clear, told)
            .unwrap();
        count
    };
    assert_eq!(read(), 2);
    hardware_write(&arena, BLOCK);
    for iova in [BLOCK, 2 * BLOCK] {
        let broken = f.table.break_leaf(&slot, Iova(iova)).unwrap();
        // SAFETY: there is no TLB.
        f.table.make(&slot, unsafe { broken.synced() }).unwrap();
    }
    assert_eq!(read(), 512);
}

#[test]
fn tables_without_tracking_say_so() {
    let f: Fixture<S2K4> = Fixture::new(TableConfig::new(48, 48));
    let slot = f.slots.enter_fallback();
    let read = f
        .table
        .read_dirty(&slot, Iova(0), PAGE, DirtyMarks::Keep, |_, _| ());
    assert_eq!(read, Err(DirtyError::NotTracked));
}

#[test]
fn the_dump_shows_each_run_of_like_entries_once() {
    let (f, _) = plain();
    f.map(0x1000, 0x9000, 3 * PAGE, Prot::READ).unwrap();
    f.map(0x4000, 0xc000, PAGE, RW).unwrap();
    f.map(1 << 30, 1 << 30, (1 << 30) + BLOCK, RW | Prot::CACHE)
        .unwrap();
    let slot = f.slots.enter_fallback();
    let dump = f.table.dump(&slot).to_string();
    let lines: Vec<_> = dump.lines().collect();
    assert_eq!(
        lines[0],
        "root 0x10000000 level 0 entries 512, 48 bits in, 48 out, granule 4 KiB"
    );
    assert_eq!(
        lines[1],
        "0x0000000000001000-0x0000000000003fff -> 0x0000000009000 level 3      3 x 4K READ"
    );
    assert!(lines[2].ends_with("level 3      1 x 4K READ|WRITE"));
    assert!(lines[3].ends_with("level 1      1 x 1G READ|WRITE|CACHE"));
    assert!(lines[4].ends_with("level 2      1 x 2M READ|WRITE|CACHE"));
    assert_eq!(lines.len(), 5);
}

#[test]
fn entries_overlap_the_range_asked_for() {
    let (f, _) = plain();
    f.map(BLOCK, BLOCK, BLOCK, RW).unwrap();
    f.map(4 * BLOCK, 0, PAGE, RW).unwrap();
    let slot = f.slots.enter_fallback();
    let found = |first, last| -> Vec<u64> {
        let entries = f.table.entries(&slot, Iova(first), Iova(last));
        entries.map(|entry| entry.iova.0).collect()
    };
    assert_eq!(found(BLOCK + PAGE, BLOCK + PAGE), [BLOCK]);
    assert_eq!(found(0, u64::MAX), [BLOCK, 4 * BLOCK]);
    assert_eq!(found(2 * BLOCK, 4 * BLOCK - 1), []);
    assert_eq!(found(5, 4), []);
}

#[test]
fn the_walker_for_foreign_memory_agrees_with_translate() {
    let arena = Arc::new(Arena::new(0x1000_0000, 8 << 20));
    let config = TableConfig::new(52, 52);
    let f: Fixture<S1K64, _> = Fixture::with_memory(config, arena.clone()).unwrap();
    f.map(0x5_0000, 0xf_0000_0005_0000, 0x40_0000, RW).unwrap();
    let root = f.table.registers().ttb;
    let mut walker = Walker::<S1K64, _>::new(&config, root, |at| arena.read(at)).unwrap();
    for iova in (0..0x80_0000).step_by(0x8000) {
        let ours = f.translation(iova);
        let theirs = match walker.walk(Iova(iova)) {
            Walked::Mapped(translation) => Some(translation),
            Walked::Unmapped => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(ours, theirs);
    }
    // A root that is not there.
    let mut lost = Walker::<S1K64, _>::new(&config, PhysAddr(0), |at| arena.read(at)).unwrap();
    assert_eq!(lost.walk(Iova(0)), Walked::Unreadable(PhysAddr(0)));
}

#[test]
fn reclaim_is_due_when_quiet_or_too_large_and_not_again_for_nothing() {
    let (f, _) = plain();
    let policy = ReclaimPolicy {
        idle_ns: 100,
        max_table_bytes: 10 * 4096,
        min_gap_ns: 50,
    };
    let mut timer = ReclaimTimer::new(policy, TimeNs(0));
    let stats = || f.table.stats();
    // Nothing there, nothing due, ever.
    assert!(!timer.due(TimeNs(1000), &stats()));
    assert_eq!(timer.next_deadline(&stats()), None);
    f.map(0, 0, PAGE, RW).unwrap();
    assert!(!timer.due(TimeNs(1000), &stats()));
    assert_eq!(timer.next_deadline(&stats()), Some(TimeNs(1100)));
    assert!(timer.due(TimeNs(1100), &stats()));
    // It ran and could free nothing: not again until more has come.
    timer.ran(TimeNs(1100), &stats());
    assert!(!timer.due(TimeNs(9000), &stats()));
    // Beyond the bound: at once, but for the gap.
    for block in 1..9 {
        f.map(block * BLOCK, 0, PAGE, RW).unwrap();
    }
    timer.ran(TimeNs(9000), &f.table.stats());
    for block in 9..12 {
        f.map(block * BLOCK, 0, PAGE, RW).unwrap();
    }
    assert!(!timer.due(TimeNs(9049), &stats()));
    assert!(timer.due(TimeNs(9050), &stats()));
}
