//! Lists of single pages: the short way, held against scatter lists, and what it
//! refuses.

mod common;

use std::cell::Cell;

use common::Fixture;
use dmabench_pgtable::{Format, MapError, Prot, Quirks, S1K4, S1K64, S2K16, TableConfig};
use dmabench_platform::{Iova, PhysAddr};
use proptest::prelude::*;

const RW: Prot = Prot::READ_WRITE;

fn map<F: Format>(f: &Fixture<F>, iova: u64, pages: &[u64], prot: Prot) -> Result<u64, MapError> {
    let slot = f.slots.enter_fallback();
    let pages = pages.iter().map(|&pa| PhysAddr(pa));
    f.table.map_single_pages(&slot, Iova(iova), pages, prot)
}

fn same_as_a_scatter_list<F: Format>(config: TableConfig, first: u64, pages: &[u64]) {
    let page = F::GRANULE.bytes();
    let (a, b) = (Fixture::<F>::new(config), Fixture::<F>::new(config));
    let iova = a.table.input_range().0.0 + first * page;
    let pages: Vec<_> = pages.iter().map(|n| n * page).collect();
    let pieces: Vec<_> = pages.iter().map(|&pa| (pa, page)).collect();
    assert_eq!(map(&a, iova, &pages, RW), b.map_sg(iova, &pieces, RW));
    for i in 0..pages.len() as u64 + 2 {
        let at = (iova + i * page).wrapping_sub(page);
        assert_eq!(a.phys(at), b.phys(at), "page {i}");
    }
    let len = pages.len() as u64 * page;
    assert_eq!(
        a.unmap(iova, len).unwrap().leaves,
        b.unmap(iova, len).unwrap().leaves
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_page_list_is_a_scatter_list_of_pages(
        first in 1_u64..3000,
        pages in prop::collection::vec(0_u64..1 << 20, 1..600),
    ) {
        same_as_a_scatter_list::<S1K4>(TableConfig::new(48, 48), first, &pages);
        let short = &pages[..pages.len().min(40)];
        same_as_a_scatter_list::<S1K4>(
            TableConfig::new(39, 48).with_quirks(Quirks::TTBR1),
            first,
            short,
        );
        same_as_a_scatter_list::<S1K64>(TableConfig::new(52, 52), first, short);
        same_as_a_scatter_list::<S2K16>(TableConfig::new(40, 48), first, short);
    }
}

#[test]
fn pages_that_touch_are_not_joined() {
    let f = Fixture::<S1K4>::new(TableConfig::new(48, 48));
    let pages: Vec<_> = (0..16).map(|i| 0x8000_0000 + i * 0x1000).collect();
    assert_eq!(map(&f, 0x1_0000, &pages, RW), Ok(0x1_0000));
    let found = f.translation(0x1_3000).unwrap();
    assert!(!found.contiguous && found.paddr == PhysAddr(0x8000_3000));
}

/// Each of them leaves every translation as it was.
#[test]
fn bad_page_lists_are_refused_whole() {
    let f = Fixture::<S1K4>::new(TableConfig::new(40, 48));
    f.map(0x5000, 0x9000, 0x1000, RW).unwrap();
    let good = [0x10_0000, 0x30_0000, 0x50_0000];
    let is = |result: Result<u64, MapError>, kind: fn(&MapError) -> bool| {
        let error = result.unwrap_err();
        assert!(kind(&error), "{error:?}");
        assert_eq!(f.phys(0x5000), Some(0x9000));
        for page in [0x3000, 0x4000, 0x6000] {
            assert_eq!(f.phys(page), None);
        }
    };
    is(map(&f, 0x3000, &[], RW), |e| {
        matches!(e, MapError::ZeroLength)
    });
    is(map(&f, 0x3000, &good, RW), |e| {
        matches!(e, MapError::Exists { iova: Iova(0x5000) })
    });
    is(map(&f, 0x3000, &[0x1000, 0x2800], RW), |e| {
        matches!(
            e,
            MapError::Misaligned {
                paddr: PhysAddr(0x2800),
                ..
            }
        )
    });
    is(map(&f, 0x3000, &[0x1000, 1 << 48], RW), |e| {
        matches!(
            e,
            MapError::PhysRange {
                paddr: PhysAddr(0x1_0000_0000_0000),
                ..
            }
        )
    });
    is(map(&f, 0x3800, &[0x1000], RW), |e| {
        matches!(e, MapError::Misaligned { .. })
    });
    is(map(&f, 0x3000, &[0x1000], Prot::NONE), |e| {
        matches!(e, MapError::NoAccess(_))
    });
    for iova in [1 << 40, (1 << 40) - 0x2000, !0xfff] {
        is(map(&f, iova, &good, RW), |e| {
            matches!(e, MapError::IovaRange { .. })
        });
    }
    let other = Fixture::<S1K4>::new(TableConfig::new(40, 48));
    let slot = other.slots.enter_fallback();
    let pages = good.iter().map(|&pa| PhysAddr(pa));
    let result = f.table.map_single_pages(&slot, Iova(0x8000), pages, RW);
    is(result, |e| matches!(e, MapError::WrongSlots));
    assert_eq!(map(&f, (1 << 40) - 0x3000, &good, RW), Ok(0x3000));
}

/// Yields more, or other pages than it said.
#[derive(Clone)]
struct Liar<'a> {
    left: usize,
    said: usize,
    all: u64,
    page: u64,
    runs: &'a Cell<u64>,
}

impl Iterator for Liar<'_> {
    type Item = PhysAddr;
    fn next(&mut self) -> Option<PhysAddr> {
        self.left = self.left.checked_sub(1)?;
        self.runs.set(self.runs.get() + 1);
        // Not even an address, the second time.
        let second = self.runs.get() > self.all;
        Some(PhysAddr(if second { u64::MAX } else { self.page }))
    }
}

impl ExactSizeIterator for Liar<'_> {
    fn len(&self) -> usize {
        self.said
    }
}

#[test]
fn a_list_that_changes_sets_no_bit_that_is_no_address() {
    for left in [3, 4, 5] {
        let f = Fixture::<S1K4>::new(TableConfig::new(48, 48));
        let runs = Cell::new(0);
        let liar = Liar {
            left,
            said: 4,
            all: left as u64,
            page: 0x1000,
            runs: &runs,
        };
        let slot = f.slots.enter_fallback();
        let result = f.table.map_single_pages(&slot, Iova(0x1000), liar, RW);
        drop(slot);
        assert_eq!(result.is_ok(), left == 4, "{result:?}");
        if left != 4 {
            assert!(matches!(result, Err(MapError::Conflict { .. })));
        }
        for page in 1..5_u64 {
            if let Some(found) = f.translation(page << 12) {
                assert!(found.paddr.0 < 1 << 48);
                assert_eq!(found.prot, RW);
            }
        }
    }
}
