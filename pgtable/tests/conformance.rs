//! One suite over every format: the cases of Linux's generic_pt KUnit tests
//! (`kunit_generic_pt.h`, `kunit_iommu_pt.h`), the contiguous hint included.

mod common;

use std::sync::Arc;

use common::{Fixture, arena::Arena};
use dmabench_pgtable::{
    Format, Level, MaliLpae, MapError, Prot, Quirks, S1K4, S1K4Lpa2, S1K16, S1K16Lpa2, S1K64,
    S1Lpae32, S2K4, S2K4Lpa2, S2K16, S2K16Lpa2, S2K64, S2Lpae32, TableConfig, TableSpan,
    UnmapError,
};

const RW: Prot = Prot::READ_WRITE;
/// Exercises every output address bit.
const FAKE_OA: u64 = 0x74a7_1445_dead_beef;

type Bed<F> = Fixture<F, Arc<Arena>>;

fn bed<F: Format>(config: TableConfig) -> (Bed<F>, Arc<Arena>) {
    let arena = Arc::new(Arena::new(0x1000_0000, 24 << 20));
    let f = Fixture::with_memory(config, arena.clone()).unwrap();
    (f, arena)
}

fn sizes<F: Format>(f: &Bed<F>) -> Vec<u64> {
    (0..63)
        .map(|bit| 1 << bit)
        .filter(|size| f.table.page_sizes() & size != 0)
        .collect()
}

/// Takes every empty table out, and says which spans were to be invalidated.
fn reclaim<F: Format>(f: &Bed<F>) -> Vec<TableSpan> {
    let mut spans = Vec::new();
    let done = |batch: &[TableSpan]| {
        spans.extend_from_slice(batch);
        Ok::<(), ()>(())
    };
    // SAFETY: no walker reads these tables.
    unsafe { f.table.reclaim(0, done) }.unwrap();
    spans
}

/// The index of the descriptor for `off` in the walk order, and the descriptors
/// of the leaf's run, read by a walk of the suite's own.
fn raw<F: Format>(f: &Bed<F>, arena: &Arena, iova: u64) -> (Level, u64, Vec<u64>) {
    let geometry = f.table.geometry();
    let off = iova - f.table.input_range().0.0;
    let mut table = f.table.registers().ttb.0;
    let mut level = geometry.start.get();
    loop {
        let shift = F::PAGE_LG2 + (3 - level) as u32 * F::INDEX_BITS;
        let bits = if level == geometry.start.get() {
            geometry.root_bits
        } else {
            F::INDEX_BITS
        };
        let index = off >> shift & ((1 << bits) - 1);
        let read = |i: u64| {
            arena
                .read(dmabench_platform::PhysAddr(table + i * 8))
                .unwrap()
        };
        let descriptor = read(index);
        if level < 3 && descriptor & 3 == 3 {
            table = F::decode_oa(descriptor);
            level += 1;
            continue;
        }
        let level = Level::new(level).unwrap();
        let run = if descriptor >> 52 & 1 == 1 {
            1 << F::contiguous_lg2(level)
        } else {
            1
        };
        let first = index & !(run - 1);
        return (level, 1 << shift, (first..first + run).map(read).collect());
    }
}

/// `init`, `table_radix`, `entry_possible_sizes`: the levels resolve the whole
/// input space without a gap, and no run spans a table.
fn radix<F: Format>(config: TableConfig) {
    let (f, _) = bed::<F>(config);
    let geometry = f.table.geometry();
    let levels = (3 - geometry.start.get()) as u32;
    let mut bits = F::PAGE_LG2 + levels * F::INDEX_BITS;
    // Mali's root may have a single entry.
    bits = bits.max(bits + geometry.root_bits);
    assert!(bits >= config.ias, "{bits} bits resolve {}", config.ias);
    assert!(bits - config.ias < F::INDEX_BITS || geometry.root_bits == 0);
    assert_ne!(f.table.page_sizes(), 0);
    for level in geometry.start.get()..=3 {
        let level = Level::new(level).unwrap();
        let entries = if level == geometry.start {
            geometry.root_bits
        } else {
            F::INDEX_BITS
        };
        let shift = F::PAGE_LG2 + (3 - level.get()) as u32 * F::INDEX_BITS;
        let run = F::contiguous_lg2(level);
        if run > 0 && f.table.page_sizes() >> (shift + run) & 1 != 0 {
            assert!(run < entries);
        }
    }
}

/// `max_va`, `map_simple`, `entry_oa`: one entry of each size at each end of
/// the space, with the test address, 0 and the highest; every entry of a run
/// holds its own address and decodes to it.
fn entry_oa<F: Format>(config: TableConfig) {
    let (f, arena) = bed::<F>(config);
    let oa_mask = (1_u64 << config.oas) - 1;
    let (first, last) = f.table.input_range();
    for size in sizes(&f) {
        for oa in [FAKE_OA & oa_mask, 0, oa_mask] {
            let oa = oa & !(size - 1);
            for iova in [first.0, last.0 - (size - 1)] {
                f.map_pages(iova, oa, size, 1, RW).unwrap();
                let (_, item, run) = raw(&f, &arena, iova);
                assert_eq!(item * run.len() as u64, size);
                for (i, descriptor) in run.iter().enumerate() {
                    assert_eq!(F::decode_oa(*descriptor), oa + i as u64 * item);
                    let differs = descriptor ^ run[0];
                    let address_bits = F::encode_oa(F::decode_oa(u64::MAX));
                    assert_eq!(differs & !address_bits, 0);
                }
                for at in [0, 0x42, size / 2, size - 1] {
                    let t = f.translation(iova + at).unwrap();
                    assert_eq!(t.paddr.0, oa + at);
                    assert_eq!(t.page_bytes, size);
                }
                let slot = f.slots.enter_fallback();
                let entries: Vec<_> = f.table.entries(&slot, first, last).collect();
                drop(slot);
                assert_eq!(entries.len(), 1);
                assert_eq!((entries[0].len_bytes, entries[0].paddr.0), (size, oa));
                f.unmap(iova, size).unwrap();
                assert_eq!(f.phys(iova), None);
                assert_eq!(f.phys(iova + (size - 1)), None);
                // An empty table would force smaller pages the next time.
                reclaim(&f);
            }
        }
    }
    assert_eq!(arena.live_tables(), 1);
}

/// `attr_from_entry`: what is read back encodes the same descriptor.
fn attrs<F: Format>(config: TableConfig) {
    let (f, arena) = bed::<F>(config);
    let page = 1 << F::PAGE_LG2;
    let base = f.table.input_range().0.0;
    for bits in 0..64 {
        let prot = Prot::from_bits(bits).unwrap();
        let result = f.map(base, 0, page, prot);
        if !prot.intersects(RW) {
            assert_eq!(result, Err(MapError::NoAccess(prot)));
            continue;
        }
        result.unwrap();
        let back = f.translation(base).unwrap().prot;
        let attrs = F::attrs(back, config.quirks).unwrap();
        let (_, _, run) = raw(&f, &arena, base);
        assert_eq!(attrs | F::LAST_LEVEL_TYPE, run[0], "{prot:?} -> {back:?}");
        // A8.
        assert!(prot.contains(Prot::WRITE) || !back.contains(Prot::WRITE));
        f.unmap(base, page).unwrap();
    }
}

/// `map_table_to_oa`: a window full of small pages, unmapped in two ways, leaves
/// empty tables; after `reclaim` the next larger size fits in their place.
fn map_table_to_oa<F: Format>(config: TableConfig) {
    let (f, arena) = bed::<F>(config);
    let page = 1_u64 << F::PAGE_LG2;
    let sizes = sizes(&f);
    // As large as stays affordable in a debug build.
    let large: Vec<_> = sizes.iter().filter(|size| **size / page <= 8192).collect();
    let window = **large.last().unwrap();
    let base = f.table.input_range().0.0 + window;
    for pair in sizes.windows(2).filter(|pair| pair[1] <= window) {
        let (small, big) = (pair[0], pair[1]);
        f.map_pages(base, window, small, window / small, RW)
            .unwrap();
        let mut at = 0;
        while at < window {
            assert_eq!(f.phys(base + at), Some(window + at));
            at += small;
        }
        f.unmap(base, window / 2).unwrap();
        for at in (window / 2..window).step_by(small as usize) {
            f.unmap(base + at, small).unwrap();
        }
        reclaim(&f);
        assert_eq!(arena.live_tables(), 1);
        f.map_pages(base, window, big, 1, RW).unwrap();
        assert_eq!(f.translation(base).unwrap().page_bytes, big);
        // Not over what lives there: no silent replacement.
        let over = f.map_pages(base, 0, small, 1, RW);
        assert!(matches!(over, Err(MapError::Exists { .. })));
        f.unmap(base, big).unwrap();
    }
}

/// `unmap_split`: a small unmap at the start of a larger entry is refused here
/// (Linux's generic_pt unmaps the larger one), and does not reach a neighbour.
fn unmap_split<F: Format>(config: TableConfig) {
    let (f, _) = bed::<F>(config);
    let sizes = sizes(&f);
    let base = f.table.input_range().0.0;
    for (i, large) in sizes.iter().enumerate() {
        if base + (large - 1) > f.table.input_range().1.0 - large {
            continue;
        }
        f.map_pages(base, 0, *large, 1, RW).unwrap();
        f.map_pages(base + large, 0, sizes[0], 1, RW).unwrap();
        for small in &sizes[..i] {
            let error = f.unmap(base, *small).unwrap_err();
            assert!(
                matches!(error, UnmapError::PartOfLeaf { iova, len_bytes, .. }
                    if iova.0 == base && len_bytes == *large)
            );
            let error = f.unmap(base + large - small, small + sizes[0]).unwrap_err();
            assert!(matches!(error, UnmapError::PartOfLeaf { .. }));
        }
        let log = f.unmap(base, *large).unwrap();
        // A6, to the byte.
        assert_eq!(log.leaves.iter().map(|leaf| leaf.1).sum::<u64>(), *large);
        assert_eq!(f.phys(base + large), Some(0));
        f.unmap(base + large, sizes[0]).unwrap();
        reclaim(&f);
    }
}

/// `pgsize_boundary` and `best_pgsize`: `map` takes the largest page that fits
/// at each place, as a brute-force choice does.
fn best_page_size<F: Format>(config: TableConfig) {
    let (f, _) = bed::<F>(config);
    let sizes = sizes(&f);
    let page = sizes[0];
    let base = f.table.input_range().0.0;
    for (before, after) in [(1, 1), (3, 7), (0, 1), (1, 0), (0, 0)] {
        for middle in sizes.iter().filter(|size| **size / page <= 8192) {
            if config.ias < 40 && *middle > 1 << 28 {
                continue;
            }
            let start = 4 * middle - before * page;
            let len = middle + (before + after) * page;
            f.map(base + start, start, len, RW).unwrap();
            let mut at = start;
            while at < start + len {
                let best = sizes
                    .iter()
                    .rev()
                    .find(|size| at % **size == 0 && at + **size <= start + len)
                    .unwrap();
                assert_eq!(f.translation(base + at).unwrap().page_bytes, *best);
                at += best;
            }
            f.unmap(base + start, len).unwrap();
            // An empty table would force smaller pages the next time.
            reclaim(&f);
        }
    }
}

/// Every case over every configuration; the quirks, and what fills windows page
/// by page, over the last.
fn suite<F: Format>(configs: &[(u32, u32)]) {
    for (ias, oas) in configs {
        let config = TableConfig::new(*ias, *oas);
        radix::<F>(config);
        entry_oa::<F>(config);
        attrs::<F>(config);
        unmap_split::<F>(config);
    }
    let (ias, oas) = configs[configs.len() - 1];
    let config = TableConfig::new(ias, oas);
    map_table_to_oa::<F>(config);
    best_page_size::<F>(config);
    entry_oa::<F>(config.with_coherent(false));
    for quirk in [Quirks::ARM_HD, Quirks::NS, Quirks::TTBR1, Quirks::S2FWB] {
        if F::QUIRKS.contains(quirk) {
            entry_oa::<F>(config.with_quirks(quirk));
            attrs::<F>(config.with_quirks(quirk));
            unmap_split::<F>(config.with_quirks(quirk));
        }
    }
}

macro_rules! conformance {
    ($($name:ident: $format:ty, $configs:expr;)*) => {
        $(#[test]
        fn $name() {
            suite::<$format>(&$configs);
        })*
    };
}

conformance! {
    s1_4k: S1K4, [(32, 32), (39, 44), (48, 48)];
    s1_16k: S1K16, [(32, 36), (47, 48), (48, 48)];
    s1_64k: S1K64, [(32, 48), (48, 48), (52, 52)];
    s1_4k_lpa2: S1K4Lpa2, [(40, 48), (48, 52), (52, 52)];
    s1_16k_lpa2: S1K16Lpa2, [(40, 48), (52, 52)];
    s2_4k: S2K4, [(32, 40), (40, 40), (42, 42), (48, 48)];
    s2_16k: S2K16, [(32, 36), (40, 40), (48, 48)];
    s2_64k: S2K64, [(32, 44), (48, 48), (52, 52)];
    s2_4k_lpa2: S2K4Lpa2, [(48, 48), (52, 52)];
    s2_16k_lpa2: S2K16Lpa2, [(40, 48), (52, 52)];
    s1_lpae32: S1Lpae32, [(32, 40), (30, 32)];
    s2_lpae32: S2Lpae32, [(40, 40), (32, 36)];
    mali: MaliLpae, [(48, 40), (39, 40)];
}

#[test]
fn lpa2_address_bits_stand_where_the_specification_puts_them() {
    // DDI 0487 D8.3, FEAT_LPA2: bits 9:8 are OA[51:50], 49:12 in place.
    assert_eq!(S1K4Lpa2::encode_oa(1 << 51), 1 << 9);
    assert_eq!(S1K4Lpa2::encode_oa(1 << 50), 1 << 8);
    assert_eq!(S1K4Lpa2::encode_oa(1 << 49), 1 << 49);
    assert_eq!(S1K4Lpa2::encode_oa(1 << 48), 1 << 48);
    // The largest address comes back (a shift one too far loses the top bits).
    for oa in [0x000f_ffff_ffff_f000, 0x0008_0000_0000_0000] {
        assert_eq!(S1K4Lpa2::decode_oa(S1K4Lpa2::encode_oa(oa)), oa);
    }
    assert_eq!(
        S1K64::decode_oa(S1K64::encode_oa(0xf_ffff_ffff_0000)),
        0xf_ffff_ffff_0000
    );
    // A run across the place where the bits part.
    let (f, arena) = bed::<S1K4Lpa2>(TableConfig::new(52, 52));
    let pa = (1 << 50) - 0x2000;
    f.map(0x5000, pa, 0x4000, RW).unwrap();
    for page in 0..4 {
        assert_eq!(f.phys(0x5000 + page * 0x1000), Some(pa + page * 0x1000));
    }
    let (_, _, run) = raw(&f, &arena, 0x7000);
    // No shareability bits: they are address bits here.
    assert_eq!(run[0] & 0x300, 0x100);
}

#[test]
fn mixed_sizes_make_exactly_20_entries() {
    let config = TableConfig::new(48, 48).with_page_sizes(1 << 12 | 1 << 21 | 1 << 30);
    let (f, _) = bed::<S1K4>(config);
    let (start, end) = (0x3f_e400_u64 << 12, 0x4c_0600_u64 << 12);
    f.map(start, start, end - start, RW).unwrap();
    let slot = f.slots.enter_fallback();
    let (first, last) = f.table.input_range();
    let sizes: Vec<_> = f
        .table
        .entries(&slot, first, last)
        .map(|e| e.len_bytes)
        .collect();
    assert_eq!(sizes.len(), 20);
    assert!(sizes[..14].iter().all(|size| *size == 1 << 21));
    assert!(sizes[14..17].iter().all(|size| *size == 1 << 30));
    assert!(sizes[17..].iter().all(|size| *size == 1 << 21));
}

#[test]
fn pgsize_boundary_regression() {
    let (f, _) = bed::<S1K4>(TableConfig::new(48, 48));
    f.map(0xfef8_0000, 0x20_8b95_d000, 0x2_0000, RW).unwrap();
    assert_eq!(f.phys(0xfef9_f000), Some(0x20_8b97_c000));
}

#[test]
fn ttbr1_serves_the_upper_half_only() {
    let config = TableConfig::new(48, 48).with_quirks(Quirks::TTBR1);
    let (f, _) = bed::<S1K4>(config);
    let base = 0xffff_0000_0000_0000;
    f.map(base, 0x5000, 0x1000, RW).unwrap();
    f.map(!0xfff, 0x6000, 0x1000, RW).unwrap();
    assert_eq!(f.phys(u64::MAX), Some(0x6fff));
    assert!(matches!(
        f.map(0, 0, 0x1000, RW),
        Err(MapError::IovaRange { .. })
    ));
    assert!(matches!(
        f.map(!0xfff, 0, 0x2000, RW),
        Err(MapError::IovaRange { .. })
    ));
    let log = f.unmap(base, 0x1000).unwrap();
    assert_eq!(log.leaves, [(base, 0x1000, Level::LAST)]);
    let r = f.table.registers();
    assert!(r.upper);
    assert_eq!(r.tg(), 2);
    assert_eq!(r.tcr_el1() >> 16 & 0x3f, 16);
}

#[test]
fn a_walker_that_does_not_snoop_gets_one_clean_per_run() {
    let (f, arena) = bed::<S1K4>(TableConfig::new(48, 48).with_coherent(false));
    use std::sync::atomic::Ordering::Relaxed;
    let take = || {
        (
            arena.clean_calls.swap(0, Relaxed),
            arena.cleaned.swap(0, Relaxed),
        )
    };
    take();
    f.map(0x5000, 0x5000, 0x1000, RW).unwrap();
    // Three tables of 512 entries and the three descriptors that point to them,
    // and the page.
    assert_eq!(take(), (7, 3 * 512 + 3 + 1));
    f.map(0x10_0000, 0x10_0000, 0x4_0000, RW).unwrap();
    assert_eq!(take(), (1, 64));
    f.unmap(0x10_0000, 0x4_0000).unwrap();
    assert_eq!(take(), (1, 64));
    let pieces = [(0x1000, 0x1000), (0x9000, 0x1000), (0x5000, 0x1000)];
    f.map_sg(0x10_0000, &pieces, RW).unwrap();
    assert_eq!(take(), (1, 3));
    let r = f.table.registers();
    assert_eq!((r.sh as u8, r.irgn as u8, r.orgn as u8), (2, 0, 0));
}
