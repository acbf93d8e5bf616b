//! Inputs that must be refused with a typed error and change nothing. The
//! numbers are those of the project's list; Linux accepts several of them.

mod common;

use std::sync::Arc;

use common::{Fixture, arena::Arena};
use dmabench_pgtable::{
    CreateError, DetachedTable, Level, MapError, Prot, Quirks, S1K4, S1K64, S2K4, TableConfig,
    TableStats, UnmapError, UnmapSink,
};
use dmabench_platform::{Iova, PhysAddr};

const RW: Prot = Prot::READ_WRITE;
const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;

fn s1() -> Fixture<S1K4> {
    Fixture::new(TableConfig::new(48, 48))
}

fn refused<F: dmabench_pgtable::Format>(config: TableConfig) -> CreateError {
    Fixture::<F>::try_new(config).err().expect("made")
}

#[test]
fn bad_input_01_no_page_size() {
    let config = TableConfig::new(48, 48).with_page_sizes(0);
    assert!(matches!(
        refused::<S1K4>(config),
        CreateError::PageSizes { bitmap: 0, .. }
    ));
}

#[test]
fn bad_input_02_page_sizes_without_the_granule() {
    let config = TableConfig::new(48, 48).with_page_sizes(1 << 21 | 1 << 30);
    assert!(matches!(
        refused::<S1K4>(config),
        CreateError::PageSizes { .. }
    ));
    let foreign = TableConfig::new(48, 48).with_page_sizes(1 << 12 | 1 << 14);
    assert!(matches!(
        refused::<S1K4>(foreign),
        CreateError::PageSizes { .. }
    ));
}

#[test]
fn bad_input_03_output_sizes_that_do_not_exist() {
    for oas in [47, 33, 0, 53, 64, u32::MAX] {
        assert!(matches!(
            refused::<S1K4>(TableConfig::new(32, oas)),
            CreateError::OutputSize { .. }
        ));
    }
    // 52 bits need the 64K granule or FEAT_LPA2.
    assert!(matches!(
        refused::<S1K4>(TableConfig::new(48, 52)),
        CreateError::OutputSize { .. }
    ));
    assert!(Fixture::<S1K64>::try_new(TableConfig::new(48, 52)).is_ok());
}

#[test]
fn bad_input_04_input_size_60() {
    for ias in [60, 64, u32::MAX] {
        assert!(matches!(
            refused::<S1K4>(TableConfig::new(ias, 48)),
            CreateError::InputSize { .. }
        ));
    }
}

#[test]
fn bad_input_05_input_size_of_a_page_or_less() {
    for ias in [0, 1, 11, 12, 24] {
        assert!(matches!(
            refused::<S1K4>(TableConfig::new(ias, 48)),
            CreateError::InputSize { .. }
        ));
    }
}

#[test]
fn bad_input_06_stage_2_input_beyond_output() {
    assert!(matches!(
        refused::<S2K4>(TableConfig::new(48, 40)),
        CreateError::InputBeyondOutput { ias: 48, oas: 40 }
    ));
}

#[test]
fn bad_input_07_input_size_52_without_lpa2() {
    assert!(matches!(
        refused::<S1K4>(TableConfig::new(52, 48)),
        CreateError::InputSize { ias: 52, most: 48 }
    ));
}

#[test]
fn bad_input_08_quirks_of_the_other_stage() {
    let with = |quirk| TableConfig::new(40, 48).with_quirks(quirk);
    for quirk in [Quirks::ARM_HD, Quirks::NS, Quirks::TTBR1] {
        assert_eq!(refused::<S2K4>(with(quirk)), CreateError::Quirk(quirk));
    }
    assert_eq!(
        refused::<S1K4>(with(Quirks::S2FWB)),
        CreateError::Quirk(Quirks::S2FWB)
    );
    // A coherent walker has no use for a cacheability of its own.
    let outer = with(Quirks::OUTER_WBWA);
    assert_eq!(
        refused::<S1K4>(outer),
        CreateError::Quirk(Quirks::OUTER_WBWA)
    );
    assert!(Fixture::<S1K4>::try_new(outer.with_coherent(false)).is_ok());
}

#[test]
fn a_table_beyond_the_output_size_is_refused() {
    let arena = Arc::new(Arena::new(1 << 40, 1 << 20));
    let made = Fixture::<S1K4, _>::with_memory(TableConfig::new(32, 40), arena.clone());
    assert!(matches!(made.err(), Some(CreateError::TableAddress(_))));
    assert_eq!(arena.live_tables(), 0);
}

#[test]
fn bad_input_09_page_size_0() {
    let error = s1().map_pages(0, 0, 0, 1, RW).unwrap_err();
    assert_eq!(error, MapError::PageSize { page_bytes: 0 });
}

#[test]
fn bad_input_10_page_size_8k_or_two_at_once() {
    for page_bytes in [0x2000, PAGE | BLOCK, u64::MAX, 1 << 63] {
        let error = s1().map_pages(0, 0, page_bytes, 1, RW).unwrap_err();
        assert_eq!(error, MapError::PageSize { page_bytes });
    }
}

#[test]
fn bad_input_11_iova_misaligned() {
    let f = s1();
    let error = f.map(0x1800, 0x5000, PAGE, RW).unwrap_err();
    assert!(matches!(error, MapError::Misaligned { .. }));
    assert_eq!(f.phys(0x1000), None);
    // A block size, an IOVA that is page-aligned only.
    let error = f.map_pages(PAGE, 0, BLOCK, 1, RW).unwrap_err();
    assert!(matches!(error, MapError::Misaligned { .. }));
}

#[test]
fn bad_input_12_pa_misaligned() {
    let error = s1().map(0x1000, 0x6800, PAGE, RW).unwrap_err();
    assert!(matches!(error, MapError::Misaligned { .. }));
    let error = s1().map(0x1000, 0x6000, 0x1001, RW).unwrap_err();
    assert!(matches!(error, MapError::Misaligned { .. }));
}

#[test]
fn bad_input_13_block_at_a_pa_that_is_only_page_aligned() {
    let f = s1();
    let error = f.map_pages(BLOCK, BLOCK + PAGE, BLOCK, 1, RW).unwrap_err();
    assert!(matches!(error, MapError::Misaligned { .. }));
    // `map` takes pages instead.
    f.map(BLOCK, BLOCK + PAGE, BLOCK, RW).unwrap();
    assert_eq!(f.translation(BLOCK).unwrap().level, Level::LAST);
    assert_eq!(f.phys(2 * BLOCK - 1), Some(2 * BLOCK + PAGE - 1));
}

#[test]
fn bad_input_14_iova_beyond_the_input_space() {
    for iova in [1 << 48, 1 << 63, !0xfff] {
        let error = s1().map(iova, 0, PAGE, RW).unwrap_err();
        assert!(matches!(error, MapError::IovaRange { .. }), "{iova:#x}");
    }
}

#[test]
fn bad_input_15_iova_end_beyond_the_input_space() {
    let f = s1();
    let last = (1 << 48) - PAGE;
    let error = f.map_pages(last, 0, PAGE, 2, RW).unwrap_err();
    assert!(matches!(error, MapError::IovaRange { .. }));
    assert_eq!(f.phys(last), None);
    f.map_pages(last, 0, PAGE, 1, RW).unwrap();
}

#[test]
fn bad_input_16_pa_beyond_the_output_space() {
    let error = s1().map(0, 1 << 48, PAGE, RW).unwrap_err();
    assert!(matches!(error, MapError::PhysRange { .. }));
}

#[test]
fn bad_input_17_pa_end_past_oas() {
    let f = s1();
    let last = (1 << 48) - PAGE;
    let error = f.map(0, last, 2 * PAGE, RW).unwrap_err();
    assert!(matches!(error, MapError::PhysRange { .. }));
    assert_eq!(f.phys(0), None);
    f.map(0, last, PAGE, RW).unwrap();
    assert_eq!(f.phys(0xfff), Some((1 << 48) - 1));
}

#[test]
fn bad_input_18_ranges_that_overflow() {
    let f = s1();
    let top = !0xfff;
    for (iova, pa, len) in [
        (PAGE, 0, top),
        (0, PAGE, top),
        (top, top, top),
        (0, top, PAGE),
    ] {
        assert!(f.map(iova, pa, len, RW).is_err());
    }
    let error = f.map_pages(0, 0, PAGE, 1 << 60, RW).unwrap_err();
    assert!(matches!(error, MapError::IovaRange { .. }));
}

#[test]
fn bad_input_19_no_pages() {
    let f = s1();
    assert_eq!(f.map_pages(0, 0, PAGE, 0, RW), Err(MapError::ZeroLength));
    assert_eq!(f.map(0, 0, 0, RW), Err(MapError::ZeroLength));
    assert_eq!(f.map(PAGE, PAGE, 0, RW), Err(MapError::ZeroLength));
    assert_eq!(f.map_sg(0, &[], RW), Err(MapError::ZeroLength));
    assert_eq!(
        f.map_sg(0, &[(0, PAGE), (PAGE, 0)], RW),
        Err(MapError::ZeroLength)
    );
    assert_eq!(
        f.map_sg(0, &[(0, 0), (0, PAGE)], RW),
        Err(MapError::ZeroLength)
    );
    assert_eq!(f.table.stats().live, 0);
}

#[test]
fn bad_input_20_as_many_pages_as_a_number_holds() {
    let error = s1().map_pages(0, 0, PAGE, u64::MAX, RW).unwrap_err();
    assert!(matches!(error, MapError::IovaRange { .. }));
}

#[test]
fn bad_input_21_neither_read_nor_write() {
    for prot in [
        Prot::NONE,
        Prot::NOEXEC,
        Prot::CACHE | Prot::MMIO | Prot::PRIV,
    ] {
        assert_eq!(s1().map(0, 0, PAGE, prot), Err(MapError::NoAccess(prot)));
        assert_eq!(
            s1().map_sg(0, &[(0, PAGE)], prot),
            Err(MapError::NoAccess(prot))
        );
    }
}

#[test]
fn bad_input_22_unknown_protection_bits() {
    assert_eq!(Prot::from_bits(0x40), None);
}

#[test]
fn bad_input_23_write_only_is_read_write_at_stage_1_and_itself_at_stage_2() {
    let f = s1();
    f.map(0, 0, PAGE, Prot::WRITE).unwrap();
    assert_eq!(f.translation(0).unwrap().prot, RW);
    let f2: Fixture<S2K4> = Fixture::new(TableConfig::new(48, 48));
    f2.map(0, 0, PAGE, Prot::WRITE).unwrap();
    assert_eq!(f2.translation(0).unwrap().prot, Prot::WRITE);
    // A8: read-only stays read-only at both.
    f.map(PAGE, 0, PAGE, Prot::READ).unwrap();
    f2.map(PAGE, 0, PAGE, Prot::READ).unwrap();
    assert_eq!(f.translation(PAGE).unwrap().prot, Prot::READ);
    assert_eq!(f2.translation(PAGE).unwrap().prot, Prot::READ);
}

#[test]
fn bad_input_24_map_over_a_live_page() {
    let f = s1();
    f.map(0x5000, 0x9000, PAGE, RW).unwrap();
    // In the middle, so that the whole range is checked first.
    let error = f.map(0x3000, 0x1_0000, 0x4000, RW).unwrap_err();
    assert_eq!(error, MapError::Exists { iova: Iova(0x5000) });
    assert_eq!(f.phys(0x5000), Some(0x9000));
    assert_eq!(f.phys(0x3000), None);
    let error = f
        .map_sg(0x4000, &[(0, PAGE), (0x8000, PAGE)], RW)
        .unwrap_err();
    assert_eq!(error, MapError::Exists { iova: Iova(0x5000) });
}

#[test]
fn bad_input_25_map_a_page_inside_a_live_block() {
    let f = s1();
    f.map(BLOCK, BLOCK, BLOCK, RW).unwrap();
    let error = f.map(BLOCK + PAGE, 0, PAGE, RW).unwrap_err();
    assert!(matches!(error, MapError::Exists { .. }));
    assert_eq!(f.phys(BLOCK + PAGE), Some(BLOCK + PAGE));
}

#[test]
fn bad_input_26_map_a_block_over_live_pages() {
    let f = s1();
    f.map(BLOCK + 0x5000, 0, PAGE, RW).unwrap();
    let error = f.map(BLOCK, BLOCK, BLOCK, RW).unwrap_err();
    assert_eq!(
        error,
        MapError::Exists {
            iova: Iova(BLOCK + 0x5000)
        }
    );
    assert_eq!(f.phys(BLOCK + 0x5000), Some(0));
    assert_eq!(f.phys(BLOCK), None);
}

#[test]
fn bad_input_27_no_memory_midway() {
    // Each of 1 to 7 tables missing, over a range that needs 8.
    let needed = 8;
    for budget in 0..needed {
        let arena = Arc::new(Arena::new(0x1000_0000, 1 << 20));
        let f: Fixture<S1K4, _> =
            Fixture::with_memory(TableConfig::new(48, 48), arena.clone()).unwrap();
        f.map(0x7f_f000_0000, 0x9000, PAGE, RW).unwrap();
        let before = arena.live_tables();
        arena.set_budget(Some(budget));
        let (iova, len) = (0x40_0000_0000 - 3 * BLOCK + PAGE, 5 * BLOCK);
        assert_eq!(f.map(iova, 0x3000, len, RW), Err(MapError::OutOfTables));
        for off in (0..len).step_by(PAGE as usize) {
            assert_eq!(f.phys(iova + off), None);
        }
        assert_eq!(f.phys(0x7f_f000_0000), Some(0x9000));
        assert_eq!(arena.live_tables(), before + budget as usize);
        assert_eq!(f.table.stats().failed, 1);
        // And it works once there is memory.
        arena.set_budget(None);
        f.map(iova, 0x3000, len, RW).unwrap();
        assert_eq!(arena.live_tables(), before + needed as usize);
        drop(f);
        assert_eq!(arena.live_tables(), 0);
    }
}

#[test]
fn bad_input_28_unmap_what_was_never_mapped() {
    let f = s1();
    let not_mapped = |iova| UnmapError::NotMapped { iova: Iova(iova) };
    assert_eq!(f.unmap(0, PAGE).unwrap_err(), not_mapped(0));
    f.map(0x5000, 0, PAGE, RW).unwrap();
    assert_eq!(f.unmap(0x6000, PAGE).unwrap_err(), not_mapped(0x6000));
    assert_eq!(f.unmap(BLOCK, BLOCK).unwrap_err(), not_mapped(BLOCK));
}

#[test]
fn bad_input_29_unmap_part_of_a_block_or_run() {
    let f = s1();
    f.map(BLOCK, BLOCK, BLOCK, RW).unwrap();
    let part = UnmapError::PartOfLeaf {
        iova: Iova(BLOCK),
        len_bytes: BLOCK,
        level: Level::new(2).unwrap(),
    };
    assert_eq!(f.unmap(BLOCK, PAGE).unwrap_err(), part);
    assert_eq!(f.unmap(2 * BLOCK - PAGE, PAGE).unwrap_err(), part);
    assert_eq!(f.phys(BLOCK), Some(BLOCK));
    // A contiguous run is one leaf to the TLB.
    f.map(0x1_0000, 0x1_0000, 0x1_0000, RW).unwrap();
    let part = UnmapError::PartOfLeaf {
        iova: Iova(0x1_0000),
        len_bytes: 0x1_0000,
        level: Level::LAST,
    };
    assert_eq!(f.unmap(0x1_0000, PAGE).unwrap_err(), part);
    assert_eq!(f.unmap(0x1_f000, PAGE).unwrap_err(), part);
    assert_eq!(f.unmap(0x1_4000, 4 * PAGE).unwrap_err(), part);
    assert_eq!(f.phys(0x1_0000), Some(0x1_0000));
    f.unmap(0x1_0000, 0x1_0000).unwrap();
}

#[test]
fn bad_input_30_unmap_a_range_with_a_hole() {
    let f = s1();
    f.map(0x1000, 0, 4 * PAGE, RW).unwrap();
    f.map(0x6000, 0x8000, BLOCK, RW).unwrap();
    let error = f.unmap(0x1000, BLOCK).unwrap_err();
    assert_eq!(error, UnmapError::NotMapped { iova: Iova(0x5000) });
    assert_eq!(f.phys(0x1000), Some(0));
    assert_eq!(f.phys(0x6000), Some(0x8000));
}

#[test]
fn bad_input_31_unmap_twice() {
    let f = s1();
    f.map(BLOCK, BLOCK, BLOCK, RW).unwrap();
    f.unmap(BLOCK, BLOCK).unwrap();
    assert!(matches!(
        f.unmap(BLOCK, BLOCK),
        Err(UnmapError::NotMapped { .. })
    ));
}

#[test]
fn bad_input_32_unmap_nothing() {
    let f = s1();
    f.map(0, 0, PAGE, RW).unwrap();
    assert_eq!(f.unmap(0, 0).unwrap_err(), UnmapError::ZeroLength);
    assert!(matches!(
        f.unmap(0x800, PAGE),
        Err(UnmapError::Misaligned { .. })
    ));
    assert!(matches!(
        f.unmap(0, 0x800),
        Err(UnmapError::Misaligned { .. })
    ));
    assert_eq!(f.phys(0), Some(0));
}

#[test]
fn bad_input_33_unmap_beyond_the_input_space() {
    let f = s1();
    let top = !0xfff;
    for (iova, len) in [
        (1 << 48, PAGE),
        ((1 << 48) - PAGE, 2 * PAGE),
        (PAGE, top),
        (top, top),
    ] {
        assert!(matches!(
            f.unmap(iova, len),
            Err(UnmapError::IovaRange { .. })
        ));
    }
}

#[test]
fn bad_input_34_unmapped_is_not_physical_address_0() {
    let f = s1();
    f.map(0x9000_0000, 0, PAGE, RW).unwrap();
    assert_eq!(f.phys(0x9000_0000), Some(0));
    assert_eq!(f.phys(0x9000_1000), None);
}

#[test]
fn bad_input_35_translate_beyond_the_input_space() {
    let f = s1();
    f.map(0, 0x5000, PAGE, RW).unwrap();
    for iova in [1 << 48, 1 << 60, u64::MAX] {
        assert_eq!(f.phys(iova), None);
    }
}

#[test]
fn a_guard_of_another_slot_table_is_refused() {
    let f = s1();
    f.map(0, 0, PAGE, RW).unwrap();
    let other = common::slots();
    let slot = other.enter_fallback();
    let map = f.table.map(&slot, Iova(PAGE), PhysAddr(0), PAGE, RW);
    assert_eq!(map, Err(MapError::WrongSlots));
    let sg = f
        .table
        .map_sg(&slot, Iova(PAGE), [(PhysAddr(0), PAGE)].into_iter(), RW);
    assert_eq!(sg, Err(MapError::WrongSlots));
    let mut log = common::Log::default();
    assert_eq!(
        f.table.unmap(&slot, Iova(0), PAGE, &mut log),
        Err(UnmapError::WrongSlots)
    );
    assert_eq!(f.table.translate(&slot, Iova(0)), None);
    assert_eq!(f.table.entries(&slot, Iova(0), Iova(u64::MAX)).count(), 0);
}

#[test]
fn a_scatter_list_that_changes_between_two_looks_maps_only_what_it_yields() {
    use std::cell::Cell;
    let f = s1();
    // Each clone yields one page more than the one before, misaligned.
    #[derive(Clone)]
    struct Liar<'a>(&'a Cell<u64>, Option<u64>);
    impl Iterator for Liar<'_> {
        type Item = (PhysAddr, u64);
        fn next(&mut self) -> Option<Self::Item> {
            let left = self.1.get_or_insert_with(|| {
                self.0.set(self.0.get() + 1);
                self.0.get()
            });
            *left = left.checked_sub(1)?;
            let skew = if self.0.get() > 1 { 0x801 } else { 0 };
            Some((PhysAddr((*left << 20) + skew), PAGE))
        }
    }
    let (runs, slot) = (Cell::new(0), f.slots.enter_fallback());
    let result = f
        .table
        .map_sg(&slot, Iova(0x1f_f000), Liar(&runs, None), RW);
    assert!(matches!(result, Err(MapError::Conflict { .. })));
    for entry in f.table.entries(&slot, Iova(0), Iova(u64::MAX)) {
        assert_eq!(entry.paddr.0 & 0xfff, 0);
        assert_eq!(entry.iova, Iova(0x1f_f000));
    }
}

/// Panics when it is told of the `left`th thing.
struct Panicking {
    left: u32,
    told: u64,
}

impl Panicking {
    fn tick(&mut self) {
        self.left = self.left.checked_sub(1).expect("a sink that panics");
    }
}

impl UnmapSink for Panicking {
    fn leaves(&mut self, _: Iova, len_bytes: u64, _: Level) {
        self.tick();
        self.told += len_bytes;
    }
    fn table(&mut self, _: DetachedTable) {
        self.tick();
    }
}

/// What the sink was told of is out, the rest may be in or out, nothing is
/// freed, and the table goes on working.
#[test]
fn a_sink_that_panics_leaks_and_breaks_nothing() {
    // A page, a table that is covered whole, a block, a page.
    let first = BLOCK - PAGE;
    let len = PAGE + 2 * BLOCK + PAGE;
    for left in 0.. {
        let f = s1();
        f.map(first, 0x1000, PAGE, RW).unwrap();
        for page in 0..BLOCK / PAGE {
            let off = page * PAGE;
            f.map(BLOCK + off, 0x4000_0000 + off, PAGE, RW).unwrap();
        }
        f.map(2 * BLOCK, 2 * BLOCK, BLOCK + PAGE, RW).unwrap();
        let neighbour = 3 * BLOCK + PAGE;
        f.map(neighbour, 0x8000, PAGE, RW).unwrap();
        let before = f.table.stats();
        let mut sink = Panicking { left, told: 0 };
        let unmapped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let slot = f.slots.enter_fallback();
            f.table.unmap(&slot, Iova(first), len, &mut sink)
        }));
        let told = sink.told;
        assert!(told <= len);
        assert_eq!(f.phys(neighbour), Some(0x8000));
        let after = f.table.stats();
        let exist = |stats: &TableStats| stats.live + stats.detached + stats.limbo;
        assert_eq!(exist(&after), exist(&before), "nothing is freed");
        if unmapped.is_ok() {
            assert_eq!(told, len);
            assert!(left >= 4, "{left}");
            break;
        }
        let mut mapped = 0;
        for page in (0..len).step_by(PAGE as usize) {
            let at = Iova(first + page);
            let slot = f.slots.enter_fallback();
            if let Some(found) = f.table.translate(&slot, at) {
                mapped += found.page_bytes.min(PAGE);
            }
        }
        assert!(mapped <= len - told, "what was told is out");
        // The range can be used again, once it is known what it holds.
        for page in (0..len).step_by(PAGE as usize) {
            let at = Iova(first + page);
            let found = f.table.translate(&f.slots.enter_fallback(), at);
            if let Some(found) = found {
                f.unmap(at.0, found.page_bytes).unwrap();
            }
        }
        f.map(first, 0x1000, len, RW).unwrap();
        assert_eq!(f.phys(BLOCK), Some(0x2000));
    }
}
