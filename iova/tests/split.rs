//! Cutting ranges and putting them together: nobody gets a page twice, and none
//! is lost.

use std::sync::Arc;

use dmabench_iova::{Align, AllocRequest, CachedSizes, IovaConfig, IovaDomain, IovaRange};
use dmabench_platform::{Fences, Granule, Iova, SlotGuard, Slots};
use proptest::prelude::*;

const PAGES: u64 = 1 << 14;

fn domain(cached: CachedSizes) -> (Arc<Slots>, IovaDomain) {
    let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0), Iova((PAGES << 12) - 1)).cached(cached);
    let domain = IovaDomain::new(config, slots.clone()).unwrap();
    (slots, domain)
}

fn alloc(domain: &IovaDomain, slot: &mut SlotGuard<'_>, size_pages: u64) -> IovaRange {
    domain
        .alloc(slot, size_pages, &AllocRequest::default())
        .unwrap()
}

#[test]
fn halves_are_neighbours_and_join_again() {
    let (slots, domain) = domain(CachedSizes::UpToLg2Pages(5));
    let mut slot = slots.enter_fallback();
    let mut range = alloc(&domain, &mut slot, IovaDomain::SPLIT_MAX_PAGES);
    let first = range.iova();
    for size in (0..11).rev().map(|lg2| 1 << lg2) {
        let (low, high) = domain.split(range).unwrap();
        assert_eq!((low.size_pages(), high.size_pages()), (size, size));
        assert_eq!(
            (low.iova(), high.iova()),
            (first, Iova(first.0 + (size << 12)))
        );
        domain.free(&mut slot, high).unwrap();
        range = low;
    }
    assert!(domain.split(range).is_err(), "one page has no halves");
    drop(slot);
    assert_eq!(domain.stats().live_bytes, 1 << 12);
}

#[test]
fn bad_input_what_is_not_two_halves_is_handed_back() {
    let (slots, domain) = domain(CachedSizes::None);
    let (_, other) = self::domain(CachedSizes::None);
    let mut slot = slots.enter_fallback();
    for size in [1, 3, 63, 65, 4096] {
        let range = alloc(&domain, &mut slot, size);
        let range = domain
            .split(range)
            .expect_err("not a power of two from 2 to 2048");
        assert_eq!(range.size_pages(), size);
        domain.free(&mut slot, range).unwrap();
    }
    let unaligned = AllocRequest {
        limit: Iova(u64::MAX),
        align: Align::None,
    };
    let config = IovaConfig::new(Granule::K4, Iova(0x1000), Iova(0x4fff));
    let four = IovaDomain::new(config.cached(CachedSizes::None), slots.clone()).unwrap();
    let crooked = four.alloc(&mut slot, 4, &unaligned).unwrap();
    assert_eq!(crooked.iova(), Iova(0x1000));
    let crooked = four.split(crooked).expect_err("not aligned to its size");
    four.free(&mut slot, crooked).unwrap();

    let range = alloc(&domain, &mut slot, 4);
    let range = other.split(range).expect_err("of another domain");
    let (a, b) = domain.split(range).unwrap();
    let (b, a) = domain.join(b, a).expect_err("in the wrong order");
    let (a, b) = other.join(a, b).expect_err("of another domain");
    let (b1, b2) = domain.split(b).unwrap();
    let (a, b1) = domain.join(a, b1).expect_err("of different sizes");
    let (a1, a2) = domain.split(a).unwrap();
    let (a2, b1) = domain.join(a2, b1).expect_err("neighbours, not two halves");
    let a = domain.join(a1, a2).unwrap();
    let b = domain.join(b1, b2).unwrap();
    let range = domain.join(a, b).unwrap();
    assert_eq!(range.size_pages(), 4);
    domain.free(&mut slot, range).unwrap();
    let halves = [0; 2].map(|_| alloc(&domain, &mut slot, 2048));
    let [x, y] = halves;
    let (low, high) = if x.iova() < y.iova() { (x, y) } else { (y, x) };
    let (low, high) = domain.join(low, high).expect_err("4096 pages are too many");
    domain.free(&mut slot, low).unwrap();
    domain.free(&mut slot, high).unwrap();
}

#[test]
fn rounded_sizes_join_as_what_they_hold() {
    let (slots, domain) = domain(CachedSizes::UpToLg2Pages(6));
    let mut slot = slots.enter_fallback();
    let range = alloc(&domain, &mut slot, 8);
    let (low, high) = domain.split(range).unwrap();
    domain.free(&mut slot, low).unwrap();
    // The cached quadruple comes back for three pages.
    let three = alloc(&domain, &mut slot, 3);
    assert_eq!(three.size_pages(), 3);
    let four = domain.resize(three, 4).unwrap();
    let four = domain.resize(four, 2).expect_err("two pages hold two");
    let four = domain.resize(four, 0).expect_err("no pages");
    let three = domain.resize(four, 3).unwrap();
    let eight = domain.join(three, high).unwrap();
    assert_eq!(eight.size_pages(), 8);
    domain.free(&mut slot, eight).unwrap();
    drop(slot);
    assert_eq!(domain.stats().live_bytes, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random cuts, joins, frees and allocations against a map of pages.
    #[test]
    fn a3_no_page_has_two_owners(
        cached in prop::sample::select(vec![
            CachedSizes::None, CachedSizes::UpToLg2Pages(2), CachedSizes::UpToLg2Pages(9),
        ]),
        steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>(), 0..12_u32), 1..200),
    ) {
        let (slots, domain) = domain(cached);
        let mut slot = slots.enter_fallback();
        let mut live: Vec<IovaRange> = Vec::new();
        for (step, which, lg2) in steps {
            let take = |live: &mut Vec<IovaRange>| {
                (!live.is_empty()).then(|| live.swap_remove(which.index(live.len())))
            };
            match step {
                0 => {
                    if let Ok(range) = domain.alloc(&mut slot, 1 << lg2, &AllocRequest::default()) {
                        live.push(range);
                    }
                }
                1 => match take(&mut live).map(|range| domain.split(range)) {
                    Some(Ok((low, high))) => live.extend([low, high]),
                    Some(Err(range)) => live.push(range),
                    None => {}
                },
                2 => {
                    live.sort_by_key(IovaRange::iova);
                    if live.len() >= 2 {
                        let at = which.index(live.len() - 1);
                        let (low, high) = (live.remove(at), live.remove(at));
                        match domain.join(low, high) {
                            Ok(range) => live.push(range),
                            Err((low, high)) => live.extend([low, high]),
                        }
                    }
                }
                _ => {
                    if let Some(range) = take(&mut live) {
                        domain.free(&mut slot, range).unwrap();
                    }
                }
            }
            let mut ends: Vec<_> = live.iter().map(|r| (r.iova(), r.last())).collect();
            ends.sort();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
        for range in live {
            domain.free(&mut slot, range).unwrap();
        }
        drop(slot);
        domain.drain();
        let stats = domain.stats();
        prop_assert_eq!(stats.free_bytes, PAGES << 12);
        prop_assert_eq!(stats.largest_free_run_bytes, PAGES << 12);
    }
}
