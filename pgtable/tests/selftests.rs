//! The matrix of Linux's `io-pgtable-arm-selftests.c`: three sets of page
//! sizes, 21 pairs of input and output sizes, two stages: 126 runs.

mod common;

use std::sync::Arc;

use common::{Fixture, arena::Arena};
use dmabench_pgtable::{Format, Prot, S1K4, S1K16, S1K64, S2K4, S2K16, S2K64, TableConfig};

const SIZES: [u32; 6] = [32, 36, 40, 42, 44, 48];
const GIB: u64 = 1 << 30;

fn run<F: Format>(ias: u32, oas: u32, pages: &[u64]) {
    let arena = Arc::new(Arena::new(0x1000_0000, 8 << 20));
    let config = TableConfig::new(ias, oas).with_page_sizes(pages.iter().sum());
    let f: Fixture<F, _> = Fixture::with_memory(config, arena.clone()).unwrap();
    let all = Prot::READ_WRITE | Prot::NOEXEC | Prot::CACHE;
    // 1: an empty table translates nothing.
    for iova in [42, GIB + 42, 2 * GIB + 42] {
        assert_eq!(f.phys(iova), None);
    }
    // 2: one identity entry of each size, and no second one in its place.
    for (j, size) in pages.iter().enumerate() {
        let iova = j as u64 * GIB;
        f.map_pages(iova, iova, *size, 1, all).unwrap();
        let again = Prot::READ | Prot::NOEXEC;
        f.map_pages(iova, iova + size, *size, 1, again).unwrap_err();
        assert_eq!(f.phys(iova + 42), Some(iova + 42));
    }
    // 3: unmapped whole, and mapped again.
    for (j, size) in pages.iter().enumerate() {
        let iova = j as u64 * GIB;
        let log = f.unmap(iova, *size).unwrap();
        assert_eq!(log.leaves.iter().map(|leaf| leaf.1).sum::<u64>(), *size);
        assert_eq!(f.phys(iova + 42), None);
        f.map_pages(iova, iova, *size, 1, Prot::WRITE).unwrap();
        assert_eq!(f.phys(iova + 42), Some(iova + 42));
    }
    // 4: the last largest page of the input space (it caught the concatenation
    // bug d71fa842d33c in Linux).
    let size = *pages.last().unwrap();
    let iova = (1_u64 << ias) - size;
    f.map_pages(iova, iova, size, 1, all).unwrap();
    assert_eq!(f.phys(iova + size - 1), Some(iova + size - 1));
    let log = f.unmap(iova, size).unwrap();
    assert_eq!(log.leaves.iter().map(|leaf| leaf.1).sum::<u64>(), size);
    // 5: freed.
    drop(f);
    assert_eq!(arena.live_tables(), 0);
}

#[test]
fn all_126_runs() {
    let mut runs = 0;
    for (i, ias) in SIZES.iter().enumerate() {
        for oas in &SIZES[i..] {
            let sets: [&[u64]; 3] = [
                &[1 << 12, 1 << 21, 1 << 30],
                &[1 << 14, 1 << 25],
                &[1 << 16, 1 << 29],
            ];
            run::<S1K4>(*ias, *oas, sets[0]);
            run::<S2K4>(*ias, *oas, sets[0]);
            run::<S1K16>(*ias, *oas, sets[1]);
            run::<S2K16>(*ias, *oas, sets[1]);
            run::<S1K64>(*ias, *oas, sets[2]);
            run::<S2K64>(*ias, *oas, sets[2]);
            runs += 6;
        }
    }
    assert_eq!(runs, 126);
}
