//! Tables of the Arm Architecture Reference Manual (DDI 0487, D8.2.8 to D8.2.10,
//! D8.3.1, D8.7.1) that Linux's tables do not reach: FEAT_LPA2, 52-bit addresses,
//! start levels of stage 2, the blocks above 1 GiB, and where no contiguous hint
//! is.

mod common;

use std::sync::Arc;

use common::{Fixture, arena::Arena};
use dmabench_pgtable::{
    CreateError, Format, Level, Prot, S1K4, S1K4Lpa2, S1K16, S1K16Lpa2, S1K64, S2K4, S2K4Lpa2,
    S2K16, S2K16Lpa2, S2K64, TableConfig,
};
use dmabench_platform::PhysAddr;

type Bed<F> = Fixture<F, Arc<Arena>>;

/// Tables from `base` on.
fn bed<F: Format>(base: u64, config: TableConfig) -> (Bed<F>, Arc<Arena>) {
    let arena = Arc::new(Arena::new(base, 2 << 20));
    let f = Fixture::with_memory(config, arena.clone()).unwrap();
    (f, arena)
}

/// Start level, concatenated tables, and the `T0SZ` they serve.
type Row = (i8, u32, std::ops::RangeInclusive<u8>);

/// "4KB granule, determining stage 1 initial lookup level"; without FEAT_TTST.
const S1_4K: &[Row] = &[(0, 1, 16..=24), (1, 1, 25..=33), (2, 1, 34..=39)];
const S1_4K_DS: &[Row] = &[(-1, 1, 12..=15)];
const S1_16K: &[Row] = &[
    (0, 1, 16..=16),
    (1, 1, 17..=27),
    (2, 1, 28..=38),
    (3, 1, 39..=39),
];
const S1_16K_DS: &[Row] = &[(0, 1, 12..=15)];
const S1_64K: &[Row] = &[(1, 1, 12..=21), (2, 1, 22..=34), (3, 1, 35..=39)];

/// "4KB granule, stage 2 initial lookup at level 2, 1, 0, -1".
const S2_4K: &[Row] = &[
    (2, 1, 34..=39),
    (2, 2, 33..=33),
    (2, 4, 32..=32),
    (2, 8, 31..=31),
    (2, 16, 30..=30),
    (1, 1, 25..=33),
    (1, 2, 24..=24),
    (1, 4, 23..=23),
    (1, 8, 22..=22),
    (1, 16, 21..=21),
    (0, 1, 16..=24),
];
const S2_4K_DS: &[Row] = &[
    (0, 2, 15..=15),
    (0, 4, 14..=14),
    (0, 8, 13..=13),
    (0, 16, 12..=12),
    (-1, 1, 12..=15),
];
const S2_16K: &[Row] = &[
    (3, 1, 39..=39),
    (3, 2, 38..=38),
    (3, 4, 37..=37),
    (3, 8, 36..=36),
    (3, 16, 35..=35),
    (2, 1, 28..=38),
    (2, 2, 27..=27),
    (2, 4, 26..=26),
    (2, 8, 25..=25),
    (2, 16, 24..=24),
    (1, 1, 17..=27),
    (1, 2, 16..=16),
];
const S2_16K_DS: &[Row] = &[
    (1, 4, 15..=15),
    (1, 8, 14..=14),
    (1, 16, 13..=13),
    (0, 1, 12..=16),
];
const S2_64K: &[Row] = &[
    (3, 1, 35..=39),
    (3, 2, 34..=34),
    (3, 4, 33..=33),
    (3, 8, 32..=32),
    (3, 16, 31..=31),
    (2, 1, 22..=34),
    (2, 2, 21..=21),
    (2, 4, 20..=20),
    (2, 8, 19..=19),
    (2, 16, 18..=18),
    (1, 1, 12..=21),
];

/// `SL2:SL0` and the level, "determining stage 2 initial lookup level".
const SL_4K: &[(u8, i8)] = &[(0b000, 2), (0b001, 1), (0b010, 0), (0b011, 3), (0b100, -1)];
const SL_16K: &[(u8, i8)] = &[(0b00, 3), (0b01, 2), (0b10, 1), (0b11, 0)];
const SL_64K: &[(u8, i8)] = &[(0b00, 3), (0b01, 2), (0b10, 1)];

/// Goes through every input and output size there is; says how many.
fn start_levels<F: Format>(rows: &[&[Row]], codes: &[(u8, i8)]) -> u32 {
    let mut seen = 0;
    for ias in 25..=F::MAX_INPUT_BITS {
        for oas in [32, 36, 40, 42, 44, 48, 52] {
            let arena = Arc::new(Arena::new(0, 2 << 20));
            let Ok(f) = Bed::<F>::with_memory(TableConfig::new(ias, oas), arena) else {
                assert!(oas > F::MAX_ADDRESS_BITS || (ias > oas && !codes.is_empty()));
                continue;
            };
            let (g, r) = (f.table.geometry(), f.table.registers());
            let tables = 1 << g.root_bits.saturating_sub(F::INDEX_BITS);
            let permitted = rows.iter().copied().flatten().any(|(level, count, tsz)| {
                (*level, *count) == (g.start.get(), tables) && tsz.contains(&r.tsz)
            });
            assert!(permitted, "{ias}/{oas}: {g:?}");
            // Alignment to its size, and to 64 bytes, which 52-bit bases need.
            assert_eq!(r.ttb.0 % g.root_bytes().max(64) as u64, 0);
            if !codes.is_empty() {
                assert!(codes.contains(&(r.sl(), g.start.get())), "{r:?}");
                let vtcr = r.vtcr_el2();
                assert_eq!(vtcr >> 6 & 3, u64::from(r.sl() & 3));
                assert_eq!(vtcr >> 32 & 1 == 1, F::LPA2);
                // SL2 is RES0 but for the 4K granule with DS.
                assert_eq!(vtcr >> 33 & 1 == 1, g.start.get() == -1);
            }
            seen += 1;
        }
    }
    seen
}

#[test]
fn start_levels_are_the_permitted_ones() {
    let stage1 = [
        start_levels::<S1K4>(&[S1_4K], &[]),
        start_levels::<S1K4Lpa2>(&[S1_4K, S1_4K_DS], &[]),
        start_levels::<S1K16>(&[S1_16K], &[]),
        start_levels::<S1K16Lpa2>(&[S1_16K, S1_16K_DS], &[]),
        start_levels::<S1K64>(&[S1_64K], &[]),
    ];
    // 24 input sizes and 6 output sizes; 28 and 7 to 52 bits.
    assert_eq!(stage1, [144, 196, 144, 196, 196]);
    let stage2 = [
        start_levels::<S2K4>(&[S2_4K], SL_4K),
        start_levels::<S2K4Lpa2>(&[S2_4K, S2_4K_DS], SL_4K),
        start_levels::<S2K16>(&[S2_16K], SL_16K),
        start_levels::<S2K16Lpa2>(&[S2_16K, S2_16K_DS], SL_16K),
        start_levels::<S2K64>(&[S2_64K], SL_64K),
    ];
    // An input size is at most the output size.
    assert_eq!(stage2, [98, 126, 98, 126, 126]);
}

#[test]
#[should_panic(expected = "49/52")]
fn a_start_level_that_is_not_permitted_is_seen() {
    start_levels::<S2K4Lpa2>(&[S2_4K], SL_4K);
}

/// All page sizes of a format, by their logarithm.
fn sizes<F: Format>(bits: u32) -> Vec<u32> {
    sizes_of::<F>(TableConfig::new(bits, bits))
}

fn sizes_of<F: Format>(config: TableConfig) -> Vec<u32> {
    let (f, _) = bed::<F>(0, config);
    let sizes = f.table.page_sizes();
    (0..64).filter(|bit| sizes >> bit & 1 == 1).collect()
}

#[test]
fn blocks_and_runs_are_those_of_the_manual() {
    // 4K and 64K, 2M and 32M, 1G and 16G; with DS 512G, which has no run.
    assert_eq!(sizes::<S1K4>(48), [12, 16, 21, 25, 30, 34]);
    assert_eq!(sizes::<S2K4>(48), [12, 16, 21, 25, 30, 34]);
    for bits in [48, 52] {
        assert_eq!(sizes::<S1K4Lpa2>(bits), [12, 16, 21, 25, 30, 34, 39]);
        assert_eq!(sizes::<S2K4Lpa2>(bits), [12, 16, 21, 25, 30, 34, 39]);
    }
    // 16K and 2M, 32M and 1G; with DS 64G, which has no run.
    assert_eq!(sizes::<S1K16>(48), [14, 21, 25, 30]);
    assert_eq!(sizes::<S2K16>(48), [14, 21, 25, 30]);
    for bits in [48, 52] {
        assert_eq!(sizes::<S1K16Lpa2>(bits), [14, 21, 25, 30, 36]);
        assert_eq!(sizes::<S2K16Lpa2>(bits), [14, 21, 25, 30, 36]);
    }
    // 64K and 2M, 512M and 16G; with FEAT_LPA 4T, which has no run.
    assert_eq!(sizes::<S1K64>(48), [16, 21, 29, 34]);
    assert_eq!(sizes::<S2K64>(48), [16, 21, 29, 34]);
    assert_eq!(sizes::<S1K64>(52), [16, 21, 29, 34, 42]);
    assert_eq!(sizes::<S2K64>(52), [16, 21, 29, 34, 42]);
    // The output size tells that FEAT_LPA is there.
    let mixed = sizes_of::<S1K64>(TableConfig::new(48, 52));
    assert_eq!(mixed, [16, 21, 29, 34, 42]);
}

#[test]
fn a_block_or_run_that_does_not_exist_is_refused() {
    fn refused<F: Format>(bits: u32, lg2: u32) {
        let sizes = 1 << F::PAGE_LG2 | 1 << lg2;
        let config = TableConfig::new(bits, bits).with_page_sizes(sizes);
        let made = Bed::<F>::with_memory(config, Arc::new(Arena::new(0, 2 << 20)));
        assert!(matches!(made, Err(CreateError::PageSizes { bitmap, .. }) if bitmap == sizes));
    }
    refused::<S1K4>(48, 39);
    refused::<S2K4>(48, 39);
    refused::<S1K4Lpa2>(52, 43);
    refused::<S1K16>(48, 36);
    refused::<S2K16Lpa2>(52, 41);
    refused::<S1K64>(48, 42);
    refused::<S2K64>(52, 47);
}

/// The first descriptor of the walk for `iova` that is no table, and the tables'
/// descriptors on the way.
fn descriptors<F: Format>(f: &Bed<F>, arena: &Arena, iova: u64) -> (i8, u64, Vec<u64>) {
    let g = f.table.geometry();
    let mut table = f.table.registers().ttb.0;
    let mut above = Vec::new();
    for level in g.start.get()..=3 {
        let shift = F::PAGE_LG2 + (3 - level) as u32 * F::INDEX_BITS;
        let bits = if level == g.start.get() {
            g.root_bits
        } else {
            F::INDEX_BITS
        };
        let index = iova >> shift & ((1 << bits) - 1);
        let descriptor = arena.read(PhysAddr(table + index * 8)).unwrap();
        if descriptor & 3 != 3 || level == 3 {
            return (level, descriptor, above);
        }
        above.push(descriptor);
        // As D8.3.1.1 has it, not as `decode_oa` does.
        let low = descriptor & 0xffff_ffff_f000 & !((1 << F::PAGE_LG2) - 1);
        table = if F::LPA2 {
            low | descriptor & 3 << 48 | (descriptor >> 8 & 3) << 50
        } else if F::PAGE_LG2 == 16 {
            low | (descriptor >> 12 & 0xf) << 48
        } else {
            low
        };
    }
    unreachable!()
}

/// Maps one block of `1 << lg2` bytes at the top of the input space, and gives
/// its level and descriptor. `prot` is write-back memory unless it says more.
fn block<F: Format>(oas: u32, lg2: u32, pa: u64, prot: Prot) -> (i8, u64) {
    let (f, arena) = bed::<F>(0, TableConfig::new(F::MAX_INPUT_BITS, oas));
    let iova = (1 << F::MAX_INPUT_BITS) - (1 << lg2);
    f.map_pages(iova, pa, 1 << lg2, 1, prot).unwrap();
    assert_eq!(f.phys(iova + 0x1234_5678), Some(pa + 0x1234_5678));
    let (level, descriptor, _) = descriptors(&f, &arena, iova);
    let log = f.unmap(iova, 1 << lg2).unwrap();
    assert_eq!(log.leaves, [(iova, 1 << lg2, Level::new(level).unwrap())]);
    (level, descriptor)
}

#[test]
fn the_largest_blocks_hold_their_address_where_the_manual_says() {
    let (rw, wb) = (Prot::READ_WRITE, Prot::READ_WRITE | Prot::CACHE);
    // 512G: bits 49:39 in place, 51:50 in 9:8, where no shareability is left:
    // write-back and non-cacheable memory differ in the attribute index alone.
    let top = 0xf_ff80_0000_0000;
    for (pa, bits) in [
        (top, 0x300),
        (top & !(1 << 51), 0x100),
        (top & !(3 << 50), 0),
    ] {
        let at = 0x3_ff80_0000_0000 | bits;
        assert_eq!(block::<S1K4Lpa2>(52, 39, pa, wb), (0, at | 0xc45));
        assert_eq!(block::<S1K4Lpa2>(52, 39, pa, rw), (0, at | 0xc41));
        assert_eq!(block::<S2K4Lpa2>(52, 39, pa, wb), (0, at | 0x4fd));
    }
    // 64G: bits 49:36 in place.
    let top = 0xf_fff0_0000_0000;
    for (pa, bits) in [
        (top, 0x300),
        (top & !(1 << 50), 0x200),
        (top & !(3 << 50), 0),
    ] {
        let at = 0x3_fff0_0000_0000 | bits;
        assert_eq!(block::<S1K16Lpa2>(52, 36, pa, wb), (1, at | 0xc45));
        assert_eq!(block::<S2K16Lpa2>(52, 36, pa, wb), (1, at | 0x4fd));
    }
    // 4T: bits 47:42 in place, 51:48 in 15:12; 9:8 is shareability.
    let top = 0xf_fc00_0000_0000;
    for (pa, bits) in [(top, 0xf000), (top & !(3 << 50), 0x3000)] {
        let at = 0xfc00_0000_0000 | bits;
        assert_eq!(block::<S1K64>(52, 42, pa, wb), (1, at | 0xf45));
        assert_eq!(block::<S1K64>(52, 42, pa, rw), (1, at | 0xe41));
        assert_eq!(block::<S2K64>(52, 42, pa, wb), (1, at | 0x7fd));
    }
}

#[test]
fn the_shareability_of_lpa2_memory_is_that_of_the_walk() {
    // R_HTSGQ and its sibling of stage 1: `SHx` serves walks and memory.
    for (coherent, sh) in [(true, 3), (false, 2)] {
        let config = TableConfig::new(52, 52).with_coherent(coherent);
        let (f, _) = bed::<S1K4Lpa2>(0, config);
        let tcr = f.table.registers().tcr_el1();
        assert_eq!((tcr >> 12 & 3, tcr >> 59 & 1), (sh, 1));
        let (f, _) = bed::<S2K4Lpa2>(0, config);
        let vtcr = f.table.registers().vtcr_el2();
        assert_eq!((vtcr >> 12 & 3, vtcr >> 32 & 1), (sh, 1));
    }
}

#[test]
fn next_tables_and_roots_beyond_48_bits_are_packed_as_the_manual_says() {
    // Bits 51:48 of all tables are 1101.
    const BASE: u64 = 0xd_0000_0000_0000;
    fn packed<F: Format>(next: u64) {
        let (f, arena) = bed::<F>(BASE, TableConfig::new(52, 52));
        let page = 1 << F::PAGE_LG2;
        f.map(0, 0, page, Prot::READ_WRITE).unwrap();
        let (level, _, above) = descriptors(&f, &arena, 0);
        assert_eq!(level, 3);
        assert_eq!(above.len() as i8, 3 - f.table.geometry().start.get());
        for descriptor in above {
            // Address bits 19 to the granule differ between tables; what is left
            // is software's or ignored.
            let address = 0xf_ffff & !(page - 1);
            let ignored = 3 << 55;
            assert_eq!(descriptor & !address & !ignored, next, "{descriptor:#x}");
        }
        // "{I}PA bits held in TTBR_ELx": 51:48 in 5:2.
        let root = f.table.registers().ttb.0;
        assert_eq!(root >> 48, 0xd);
        let ttbr = f.table.registers().ttbr();
        assert_eq!(ttbr, root & 0xffff_ffff_ffff | 0xd << 2);
    }
    packed::<S1K4Lpa2>(1 << 48 | 0x303);
    packed::<S2K4Lpa2>(1 << 48 | 0x303);
    packed::<S1K16Lpa2>(1 << 48 | 0x303);
    packed::<S2K16Lpa2>(1 << 48 | 0x303);
    packed::<S1K64>(0xd003);
    packed::<S2K64>(0xd003);
}
