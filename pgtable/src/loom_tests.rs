//! Interleavings, exhaustively (up to a bound on preemptions), each with a
//! variant that must fail.

extern crate std;

use alloc::sync::Arc as StdArc;
use alloc::vec::Vec;

use dmabench_platform::{
    Fences, Granule, Iova, PhysAddr, Slots,
    sync::{Arc, atomic::Ordering},
};
use loom::thread;

use crate::{
    DetachedTable, DetachedTables, DirtyMarks, Format, Geometry, HeapTables, Level, PageTable,
    Prot, Quirks, Stage, TableConfig, UnmapSink,
    fault::{Fault, with},
    format::{DBM, READ_ONLY, sealed::Sealed},
};

/// Two levels of four entries.
#[derive(Clone, Copy, Debug)]
struct Tiny;

const PAGE: u64 = 1 << 21;
const RW: Prot = Prot::READ_WRITE;

impl Sealed for Tiny {}

impl Format for Tiny {
    const STAGE: Stage = Stage::One;
    const PAGE_LG2: u32 = 21;
    const INDEX_BITS: u32 = 2;
    const MAX_ADDRESS_BITS: u32 = 48;
    const MAX_INPUT_BITS: u32 = 48;
    const OA_LINEAR_LG2: u32 = 64;
    const LAST_LEVEL_TYPE: u64 = 3;
    const GRANULE: Granule = Granule::K4;
    const TABLE_ADDRESS: u64 = 0xffff_ffff_0000;
    const ADDRESS_IN_PLACE: bool = true;
    const QUIRKS: Quirks = Quirks::ARM_HD;
    const LPA2: bool = false;

    fn encode_oa(pa: u64) -> u64 {
        pa
    }
    fn decode_oa(descriptor: u64) -> u64 {
        descriptor & Self::TABLE_ADDRESS
    }
    fn block_legal(_level: Level, _oas: u32) -> bool {
        false
    }
    fn contiguous_lg2(_level: Level) -> u32 {
        0
    }
    fn attrs(prot: Prot, quirks: Quirks) -> Option<u64> {
        crate::S1K4::attrs(prot, quirks)
    }
    fn prot(descriptor: u64) -> Prot {
        crate::S1K4::prot(descriptor)
    }
    fn geometry(ias: u32, _oas: u32) -> Geometry {
        Geometry::plain::<Self>(ias)
    }
}

type Table = PageTable<Tiny, HeapTables>;

fn table(quirks: Quirks) -> (StdArc<Slots>, Arc<Table>) {
    let slots = StdArc::new(Slots::new(3, Fences::Symmetric).unwrap());
    let config = TableConfig::new(25, 48)
        .with_quirks(quirks)
        .with_spare_tables(0);
    let table = Table::new(config, HeapTables, slots.clone()).unwrap();
    (slots, Arc::new(table))
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

/// `explore` with a fault: it must find it.
fn must_fail(fault: Fault, model: impl Fn() + Sync + Send + 'static) {
    let mut found = false;
    with(fault, || {
        let run = std::panic::AssertUnwindSafe(|| explore(model));
        found = std::panic::catch_unwind(run).is_err();
    });
    assert!(found, "the checker did not see {fault:?}");
}

#[derive(Default)]
struct Log {
    dirty: u64,
    detached: DetachedTables,
    leaves: Vec<u64>,
}

impl UnmapSink for Log {
    fn leaves(&mut self, iova: Iova, _len_bytes: u64, _level: Level) {
        self.leaves.push(iova.0);
    }
    fn wants_dirty(&self) -> bool {
        true
    }
    fn dirty(&mut self, _iova: Iova, len_bytes: u64) {
        self.dirty += len_bytes;
    }
    fn table(&mut self, table: DetachedTable) {
        self.detached.push(table);
    }
}

fn map(slots: &Slots, table: &Table, slot: usize, page: u64) {
    // SAFETY: each loom thread has its own number.
    let slot = unsafe { slots.enter(Some(slot)) }.unwrap();
    table
        .map(
            &slot,
            Iova(page * PAGE),
            PhysAddr((page + 8) * PAGE),
            PAGE,
            RW,
        )
        .unwrap();
}

fn phys(slots: &Slots, table: &Table, slot: usize, page: u64) -> Option<u64> {
    // SAFETY: each loom thread has its own number.
    let slot = unsafe { slots.enter(Some(slot)) }.unwrap();
    let found = table.translate(&slot, Iova(page * PAGE));
    found.map(|t| t.paddr.0 / PAGE)
}

/// Two mappers install one table, a walker looks: it sees the mapping or none
/// (A4), no mapping is lost, and the loser frees its table.
fn two_mappers_and_a_walker() {
    let (slots, table) = table(Quirks::NONE);
    let mappers: Vec<_> = (0..2)
        .map(|i| {
            let (slots, table) = (slots.clone(), table.clone());
            thread::spawn(move || map(&slots, &table, i, i as u64))
        })
        .collect();
    let seen = phys(&slots, &table, 2, 1);
    assert!(matches!(seen, None | Some(9)));
    for mapper in mappers {
        mapper.join().unwrap();
    }
    assert_eq!(phys(&slots, &table, 2, 0), Some(8));
    assert_eq!(phys(&slots, &table, 2, 1), Some(9));
    assert_eq!(table.stats().live, 1);
}

#[test]
fn loom_a4_two_mappers_and_a_walker() {
    explore(two_mappers_and_a_walker);
}

#[test]
fn loom_sees_a_table_installed_by_a_store() {
    must_fail(Fault::InstallByStore, two_mappers_and_a_walker);
}

/// A mapper enters a table that was emptied, while `reclaim` takes it out. The
/// walker's cache may hold the table until the invalidation: what is mapped
/// before that must be in the table the cache knows, or the cache must be empty.
fn map_against_reclaim() {
    let (slots, table) = table(Quirks::NONE);
    map(&slots, &table, 0, 0);
    let cached = {
        // SAFETY: one thread so far.
        let slot = unsafe { slots.enter(Some(0)) }.unwrap();
        let mut log = Log::default();
        table.unmap(&slot, Iova(0), PAGE, &mut log).unwrap();
        table.descend(0, Tiny::PAGE_LG2).unwrap().0
    };
    let mapper = {
        let (slots, table) = (slots.clone(), table.clone());
        thread::spawn(move || {
            map(&slots, &table, 0, 1);
            let slot = unsafe { slots.enter(Some(0)) }.unwrap();
            let now = table
                .descend(PAGE, Tiny::PAGE_LG2)
                .map(|found| found.0.ptr());
            drop(slot);
            now
        })
    };
    let mut invalidated = false;
    // SAFETY: the walker is this test.
    let done = unsafe {
        table.reclaim(0, |spans| {
            assert_eq!(spans.len(), 1);
            // The walker goes through its cache: the table is still memory, and
            // if the mapper has been there, this one holds the mapping.
            if let Some((now, _)) = table.descend(PAGE, Tiny::PAGE_LG2) {
                assert_eq!(now.ptr(), cached.ptr());
            }
            invalidated = true;
            Ok::<(), ()>(())
        })
    }
    .unwrap();
    let now = mapper.join().unwrap();
    assert_eq!(phys(&slots, &table, 1, 1), Some(9));
    assert_eq!(phys(&slots, &table, 1, 0), None);
    let stats = table.stats();
    assert_eq!((stats.live, stats.limbo, stats.detached), (1, 0, 0));
    if done.unlinked == 0 {
        assert!(now.is_none() || now == Some(cached.ptr()));
    } else {
        assert!(invalidated);
    }
}

#[test]
fn loom_a2_map_against_reclaim() {
    explore(map_against_reclaim);
}

#[test]
fn loom_sees_a_missing_grace_period() {
    must_fail(Fault::NoGracePeriod, map_against_reclaim);
}

#[test]
fn loom_sees_a_parked_table_ignored() {
    must_fail(Fault::IgnoreParked, map_against_reclaim);
}

/// The walker marks a page as written (its update is atomic and only touches a
/// clean DBM leaf), while the page is unmapped: the mark reaches the sink, or
/// was never set; nothing is left in the entry.
fn dirty_mark_against_unmap() {
    let (slots, table) = table(Quirks::ARM_HD);
    map(&slots, &table, 0, 0);
    let leaf = {
        // SAFETY: one thread so far.
        let slot = unsafe { slots.enter(Some(0)) }.unwrap();
        let clean = |_, _| ();
        let range = (Iova(0), PAGE);
        let told = table.read_dirty(&slot, range.0, range.1, DirtyMarks::Clear, clean);
        assert_eq!(told, Ok(1));
        table.descend(0, Tiny::PAGE_LG2).unwrap().0
    };
    let walker = {
        let table = table.clone();
        thread::spawn(move || {
            // SAFETY: entry 0 of a table that lives as long as `table`, which is
            // not collected here.
            let entry = unsafe { table.entry(leaf, 0) };
            let seen = entry.load(Ordering::Relaxed);
            seen & 1 == 1
                && seen & (DBM | READ_ONLY) == DBM | READ_ONLY
                && entry
                    .compare_exchange(
                        seen,
                        seen & !READ_ONLY,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_ok()
        })
    };
    let mut log = Log::default();
    {
        // SAFETY: only this thread enters slot 0 now.
        let slot = unsafe { slots.enter(Some(0)) }.unwrap();
        table.unmap(&slot, Iova(0), PAGE, &mut log).unwrap();
    }
    let marked = walker.join().unwrap();
    assert_eq!(log.dirty, if marked { PAGE } else { 0 });
    // SAFETY: as above.
    let left = unsafe { table.entry(leaf, 0) }.load(Ordering::Relaxed);
    assert_eq!(left, 0);
}

#[test]
fn loom_dirty_mark_against_unmap() {
    explore(dirty_mark_against_unmap);
}

#[test]
fn loom_sees_a_leaf_taken_by_a_store() {
    must_fail(Fault::TakeByStore, dirty_mark_against_unmap);
}

/// Marks are read and cleared while the page is unmapped: nothing comes back.
fn clear_marks_against_unmap() {
    let (slots, table) = table(Quirks::ARM_HD);
    map(&slots, &table, 0, 0);
    let reader = {
        let (slots, table) = (slots.clone(), table.clone());
        thread::spawn(move || {
            // SAFETY: each loom thread has its own number.
            let slot = unsafe { slots.enter(Some(1)) }.unwrap();
            let told = table.read_dirty(&slot, Iova(0), PAGE, DirtyMarks::Clear, |_, _| ());
            told.unwrap()
        })
    };
    let mut log = Log::default();
    {
        // SAFETY: only this thread enters slot 0 now.
        let slot = unsafe { slots.enter(Some(0)) }.unwrap();
        table.unmap(&slot, Iova(0), PAGE, &mut log).unwrap();
    }
    let told = reader.join().unwrap();
    // Told once: by the reader, or by the unmap.
    assert_eq!(told * PAGE + log.dirty, PAGE);
    map(&slots, &table, 0, 0);
    assert_eq!(phys(&slots, &table, 0, 0), Some(8));
}

#[test]
fn loom_clear_marks_against_unmap() {
    explore(clear_marks_against_unmap);
}

#[test]
fn loom_sees_a_mark_cleared_by_an_or() {
    must_fail(Fault::ClearByOr, clear_marks_against_unmap);
}

/// [`Tiny`] with blocks.
#[derive(Clone, Copy, Debug)]
struct Blocky;

impl Sealed for Blocky {}

impl Format for Blocky {
    const STAGE: Stage = Stage::One;
    const PAGE_LG2: u32 = 21;
    const INDEX_BITS: u32 = 2;
    const MAX_ADDRESS_BITS: u32 = 48;
    const MAX_INPUT_BITS: u32 = 48;
    const OA_LINEAR_LG2: u32 = 64;
    const LAST_LEVEL_TYPE: u64 = 3;
    const GRANULE: Granule = Granule::K4;
    const TABLE_ADDRESS: u64 = Tiny::TABLE_ADDRESS;
    const ADDRESS_IN_PLACE: bool = Tiny::ADDRESS_IN_PLACE;
    const QUIRKS: Quirks = Quirks::NONE;
    const LPA2: bool = false;

    fn encode_oa(pa: u64) -> u64 {
        pa
    }
    fn decode_oa(descriptor: u64) -> u64 {
        Tiny::decode_oa(descriptor)
    }
    fn block_legal(_level: Level, _oas: u32) -> bool {
        true
    }
    fn contiguous_lg2(_level: Level) -> u32 {
        0
    }
    fn attrs(prot: Prot, quirks: Quirks) -> Option<u64> {
        Tiny::attrs(prot, quirks)
    }
    fn prot(descriptor: u64) -> Prot {
        Tiny::prot(descriptor)
    }
    fn geometry(ias: u32, _oas: u32) -> Geometry {
        Geometry::plain::<Self>(ias)
    }
}

/// A block is split while its owner unmaps it and maps a page in its place, a
/// bug of the callers: the page must not be lost.
fn split_against_remap() {
    const BLOCK: u64 = 4 * PAGE;
    let slots = StdArc::new(Slots::new(3, Fences::Symmetric).unwrap());
    let config = TableConfig::new(25, 48).with_spare_tables(0);
    let table = PageTable::<Blocky, _>::new(config, HeapTables, slots.clone()).unwrap();
    let table = Arc::new(table);
    {
        // SAFETY: one thread so far.
        let slot = unsafe { slots.enter(Some(0)) }.unwrap();
        table
            .map(&slot, Iova(0), PhysAddr(BLOCK), BLOCK, RW)
            .unwrap();
    }
    let splitter = {
        let (slots, table) = (slots.clone(), table.clone());
        thread::spawn(move || {
            // SAFETY: each loom thread has its own number.
            let slot = unsafe { slots.enter(Some(1)) }.unwrap();
            if let Ok(broken) = table.break_leaf(&slot, Iova(PAGE)) {
                let _ = table.unbreak(&slot, broken);
            }
        })
    };
    let remapped = {
        // SAFETY: only this thread enters slot 0 now.
        let slot = unsafe { slots.enter(Some(0)) }.unwrap();
        // It takes leaves by exchanges: loom does not order a plain store and an
        // exchange of one word as memory does.
        let mut log = Log::default();
        table.unmap(&slot, Iova(0), BLOCK, &mut log).is_ok()
            && table
                .map(&slot, Iova(PAGE), PhysAddr(9 * PAGE), PAGE, RW)
                .is_ok()
    };
    splitter.join().unwrap();
    if remapped {
        // SAFETY: one thread is left.
        let slot = unsafe { slots.enter(Some(2)) }.unwrap();
        let found = table.translate(&slot, Iova(PAGE)).map(|t| t.paddr.0);
        assert_eq!(found, Some(9 * PAGE), "the page was lost");
    }
}

#[test]
fn loom_a_split_takes_only_the_leaf_it_found() {
    explore(split_against_remap);
}

#[test]
fn loom_sees_a_leaf_broken_by_a_swap() {
    must_fail(Fault::BreakBySwap, split_against_remap);
}
