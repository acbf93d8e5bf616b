//! Defects that other IOVA allocators had, each as the history that showed it.
//! (More, where the history is a single bad call, in `bad_inputs.rs`.)

use std::sync::Arc;

use dmabench_iova::*;
use dmabench_platform::{Fences, Granule, Iova, SlotGuard, Slots, TimeNs};

const PAGE: u64 = 4096;

fn domain(first: u64, last: u64, set: impl FnOnce(IovaConfig) -> IovaConfig) -> IovaDomain {
    let slots = Arc::new(Slots::new(4, Fences::Symmetric).unwrap());
    let config = IovaConfig::new(
        Granule::K4,
        Iova(first * PAGE),
        Iova(last * PAGE + PAGE - 1),
    );
    IovaDomain::new(set(config), slots).unwrap()
}

fn enter(domain: &IovaDomain, slot: usize) -> SlotGuard<'_> {
    // SAFETY: each test runs on one thread and holds one guard at a time.
    unsafe { domain.slots().enter(Some(slot)).unwrap() }
}

fn below(page: u64) -> AllocRequest {
    AllocRequest::below(Iova(page * PAGE + PAGE - 1))
}

/// Linux CVE-2023-52910: a size that overflows beside the limit looped.
#[test]
fn cve_2023_52910_sizes_that_overflow_end_in_an_error() {
    let d = domain(1, (1 << 36) - 1, |config| config);
    let mut slot = enter(&d, 0);
    for size in [
        u64::MAX,
        u64::MAX - 1,
        u64::MAX >> 12,
        (u64::MAX >> 12) + 1,
        1 << 36,
    ] {
        for last in [1, 2, 1 << 20, (1 << 36) - 1] {
            let error = d.alloc(&mut slot, size, &below(last)).unwrap_err();
            assert_eq!(error, AllocError::NoSpace, "{size:#x} below page {last:#x}");
        }
    }
}

/// Linux 4e89dce72521: a search that started below the only fitting hole did
/// not start again from the top.
#[test]
fn linux_4e89dce72521_the_only_hole_is_found_wherever_it_is() {
    let d = domain(1, 999, |config| config.cached(CachedSizes::None));
    let mut slot = enter(&d, 0);
    let mut live: Vec<IovaRange> = Vec::new();
    while let Ok(range) = d.alloc(&mut slot, 1, &AllocRequest::default()) {
        live.push(range);
    }
    assert_eq!(live.len(), 999);
    for hole in [998, 1, 500, 700, 3, 64, 63] {
        let at = live
            .iter()
            .position(|range| range.iova() == Iova(hole * PAGE))
            .unwrap();
        d.free(&mut slot, live.swap_remove(at)).unwrap();
        // Move the remembered path somewhere else.
        let elsewhere = live.swap_remove(0);
        let there = elsewhere.iova();
        d.free(&mut slot, elsewhere).unwrap();
        let mut got = [
            d.alloc(&mut slot, 1, &AllocRequest::default()).unwrap(),
            d.alloc(&mut slot, 1, &AllocRequest::default()).unwrap(),
        ];
        got.sort_by_key(IovaRange::iova);
        let mut expected = [Iova(hole * PAGE), there];
        expected.sort();
        assert_eq!([got[0].iova(), got[1].iova()], expected);
        live.extend(got);
    }
}

/// Linux 6fa3525b455a: refused although the addresses lay in caches, the
/// slots' and the depot.
#[test]
fn linux_6fa3525b455a_cached_addresses_are_found_before_a_refusal() {
    let d = domain(0, 4095, |config| {
        config.cached(CachedSizes::UpToLg2Pages(0))
    });
    // Every page goes through slot 1 and stays in its magazines and the depot.
    let mut slot = enter(&d, 1);
    let all: Vec<IovaRange> = (0..4096)
        .map(|_| d.alloc(&mut slot, 1, &AllocRequest::default()).unwrap())
        .collect();
    for range in all {
        d.free(&mut slot, range).unwrap();
    }
    drop(slot);
    assert!(d.stats().cached_bytes > 1000 * PAGE);
    let mut slot = enter(&d, 2);
    let whole = d.alloc(&mut slot, 4096, &AllocRequest::default()).unwrap();
    assert_eq!(whole.iova(), Iova(0));
    d.free(&mut slot, whole).unwrap();
}

/// Linux f598a497bc7d: a CPU that goes away leaves its magazines behind.
#[test]
fn linux_f598a497bc7d_a_slot_that_goes_away_keeps_nothing() {
    let d = domain(1, (1 << 30) - 1, |config| config);
    for gone in 0..4 {
        let mut slot = enter(&d, gone);
        let range = d.alloc(&mut slot, 1, &AllocRequest::default()).unwrap();
        d.free(&mut slot, range).unwrap();
    }
    assert!(d.stats().cached_bytes > 0);
    d.drain();
    let stats = d.stats();
    assert_eq!(
        (stats.cached_bytes, stats.free_bytes),
        (0, stats.space_bytes)
    );
    // The others go on.
    let mut slot = enter(&d, 0);
    let range = d.alloc(&mut slot, 1, &AllocRequest::default()).unwrap();
    d.free(&mut slot, range).unwrap();
}

/// John Garry's series of 2020: the depot grew without bound. Allocated on one
/// CPU, freed on another, for as long as it takes.
#[test]
fn linux_2020_the_depot_is_bounded_and_empties_with_time() {
    let d = domain(1, (1 << 36) - 1, |config| config);
    let mut most_cached = 0;
    let mut most_memory = 0;
    for round in 0..200 {
        let ranges: Vec<IovaRange> = {
            let mut slot = enter(&d, 0);
            let request = AllocRequest::default();
            (0..2000)
                .map(|_| d.alloc(&mut slot, 1, &request).unwrap())
                .collect()
        };
        let mut slot = enter(&d, 1 + round % 3);
        for range in ranges {
            d.free(&mut slot, range).unwrap();
        }
        drop(slot);
        let stats = d.stats();
        most_cached = most_cached.max(stats.cached_bytes);
        most_memory = most_memory.max(stats.memory_bytes);
    }
    // Ten pairs of slots and a depot of 26 magazines, 127 pages each.
    assert!(most_cached <= (10 + 26) * 127 * PAGE, "{most_cached}");
    assert!(most_memory < 128 << 10, "{most_memory}");
    // Nobody needs the depot for two periods: it is gone.
    d.trim(TimeNs(0));
    while let Some(due) = d.next_deadline() {
        d.trim(due);
    }
    assert_eq!(d.stats().depot_magazines, 0);
}

/// A flush of a long queue (Linux: 32768 entries) gives back more than the depots
/// had room for: each range went to the index, and the next came from there.
#[test]
fn what_a_burst_gives_back_is_had_again_without_a_search() {
    const BURST: usize = 5000;
    let searches = |burst| {
        let d = domain(1, (1 << 36) - 1, |config| config.burst(burst));
        let mut before = 0;
        for round in 0..4 {
            if round == 1 {
                before = d.stats().searches;
            }
            let mut slot = enter(&d, 0);
            let request = AllocRequest::default();
            let ranges: Vec<IovaRange> = (0..BURST)
                .map(|_| d.alloc(&mut slot, 32, &request).unwrap())
                .collect();
            for range in ranges {
                d.free(&mut slot, range).unwrap();
            }
        }
        let stats = d.stats();
        // The pair of the slot, the depot's usual room, and the burst.
        let most = (2 + 24 + burst.div_ceil(127)) as u64;
        assert!(stats.depot_magazines <= most, "{}", stats.depot_magazines);
        stats.searches - before
    };
    assert_eq!(searches(BURST), 0);
    assert!(searches(0) > 2000, "the checker sees it: {}", searches(0));
}

/// `pci_32bit_workaround`: low addresses first, high ones when there are no
/// low ones, and low ones again when they are back.
#[test]
fn low32_first_uses_high_addresses_only_when_low_ones_are_gone() {
    let low = u64::from(u32::MAX) / PAGE;
    let d = domain(low - 99, low + 1000, |config| config.low32_first(true));
    let mut slot = enter(&d, 0);
    let request = AllocRequest::default();
    let mut ranges: Vec<IovaRange> = (0..150)
        .map(|_| d.alloc(&mut slot, 1, &request).unwrap())
        .collect();
    let is_low = |range: &IovaRange| range.iova().0 <= u64::from(u32::MAX);
    assert!(ranges[..100].iter().all(is_low));
    assert!(!ranges[100..].iter().any(is_low));
    let freed = ranges.swap_remove(7);
    d.free(&mut slot, freed).unwrap();
    assert!(is_low(&d.alloc(&mut slot, 1, &request).unwrap()));
}
