//! Batches and windows, against an IOMMU that forgets nothing it was not told to;
//! and ways to be wrong, which must show.

mod common;

use common::*;
use dmabench_dma::*;
use dmabench_flushq::{JoinCost, RangeCommands};
use dmabench_platform::*;

fn list(pages: u64, phys: u64) -> Vec<Segment> {
    (0..pages)
        .map(|page| Segment {
            phys: PhysAddr(phys + 2 * page * PAGE),
            len_bytes: PAGE,
        })
        .collect()
}

fn map(domain: &TestDomain, pages: u64, phys: u64) -> Mapping {
    let segments = list(pages, phys);
    let mut out = vec![DmaSegment::EMPTY; segments.len()];
    domain
        .map_sg(&Device::new(), &segments, &mut out, Direction::FromDevice)
        .unwrap()
}

fn map_in(domain: &TestDomain, window: &mut Window, pages: u64, phys: u64) -> Mapping {
    let segments = list(pages, phys);
    let mut out = vec![DmaSegment::EMPTY; segments.len()];
    let device = Device::new();
    let mapping = domain
        .map_sg_in(window, &device, &segments, &mut out, Direction::FromDevice)
        .unwrap();
    for (segment, out) in segments.iter().zip(&out) {
        assert_eq!(domain.translate(out.addr).unwrap().paddr, segment.phys);
    }
    mapping
}

const STRICT: [Mode; 4] = [
    Mode::Strict,
    Mode::StrictBatched,
    Mode::StrictPipelined,
    Mode::lazy_parked(),
];

#[test]
fn s1_a_batch_is_unreachable_when_its_unmap_returns() {
    for mode in STRICT {
        let domain = domain(mode);
        let mut batch = domain.batch(8).unwrap();
        for round in 0..3 {
            let mut all = Vec::new();
            // Pages, contiguous runs, blocks with their table, in no order.
            for size in [3, 512, 1, 100, 1536, 16, 700, 2_u64] {
                let mapping = if size > 600 {
                    let buffer = Segment {
                        phys: PhysAddr(0x40_0000_0000),
                        len_bytes: size * PAGE,
                    };
                    domain
                        .map(&Device::new(), buffer, Direction::FromDevice)
                        .unwrap()
                } else {
                    map(&domain, size, 0x1_0000_0000 * size)
                };
                all.extend(touch_all(&domain, &mapping));
                batch.push(mapping).unwrap();
            }
            domain.unmap_batch(&mut batch).unwrap();
            assert_eq!(stale(&domain, &all), 0);
            assert!(batch.is_empty());
            let (ranges, flush_alls, syncs) = domain.backend().counts();
            assert_eq!((flush_alls, syncs), (0, round + 1), "one sync for all");
            assert!(ranges <= 16 * (round + 1), "{ranges}");
        }
        domain.poll(TimeNs(0)).unwrap();
        let stats = domain.stats();
        assert_eq!((stats.live_mappings, stats.iova_pages_held), (0, 0));
        assert_eq!(domain.memory().freed_early(), 0, "A2");
    }
}

#[test]
fn s1_a_batch_that_was_not_invalidated_is_seen() {
    for fault in [Fault::Skip, Fault::Short] {
        let domain = domain(Mode::StrictBatched);
        let mut batch = domain.batch(4).unwrap();
        let mut all = Vec::new();
        for number in 0..4 {
            let mapping = map(&domain, 2, number << 32);
            all.extend(touch_all(&domain, &mapping));
            batch.push(mapping).unwrap();
        }
        domain.backend().inject(fault);
        domain.unmap_batch(&mut batch).unwrap();
        assert!(stale(&domain, &all) > 0, "the checker must see it");
    }
}

#[test]
fn what_is_mapped_in_a_window_is_one_range_and_comes_back_whole() {
    for low32_first in [false, true] {
        let config = DomainConfig::new(Mode::StrictBatched).low32_first(low32_first);
        let domain = domain_with(config);
        let device = Device::new();
        let mut batch = domain.batch(16).unwrap();
        for (round, pages) in [1_u64, 3, 16, 128].into_iter().cycle().take(12).enumerate() {
            let held = pages.next_power_of_two() * 16 * PAGE;
            let mut window = domain.open_window(&device, held).unwrap();
            let mut last = None;
            for number in 0..16 {
                let mapping = map_in(&domain, &mut window, pages, (number + 1) << 32);
                assert!(last < Some(mapping.addr()), "upwards");
                last = Some(mapping.addr());
                touch_all(&domain, &mapping);
                batch.push(mapping).unwrap();
            }
            assert_eq!(window.left_pages(), 0);
            domain.close_window(window).unwrap();
            let before = domain.backend().counts();
            domain.unmap_batch(&mut batch).unwrap();
            let after = domain.backend().counts();
            // Of three pages nobody has the fourth; two ranges of 31 pages are two
            // commands, and one of 63 would be, too.
            let ranges = if pages == 3 { 2 } else { 1 };
            assert_eq!(
                (after.0 - before.0, after.2 - before.2),
                (ranges, 1),
                "{round}"
            );
        }
        assert_eq!(domain.stats().iova_pages_held, 0);
    }
}

/// Every second page of a row is unmapped. What is between stays cached, unless
/// commands are dear and lookups cheap; then it is counted. (Until the cost
/// decided, all ranges but four were joined.)
#[test]
fn what_a_batch_invalidates_beside_its_own_is_by_cost_and_counted() {
    let cost = |command_ns, refill_ns| JoinCost {
        range_commands: RangeCommands::Supported,
        command_ns,
        refill_ns,
        in_use_granules: 1000,
    };
    // Command against lookup, ranges, pages between.
    let cases = [
        (cost(125, 262), 16, 0),
        (cost(262, 262), 1, 15),
        (JoinCost::EXACT, 16, 0),
    ];
    for (cost, ranges, over) in cases {
        let domain = domain(Mode::StrictBatched);
        domain.backend().join_by(cost);
        let device = Device::new();
        let mut window = domain.open_window(&device, 32 * PAGE).unwrap();
        let mut batch = domain.batch(16).unwrap();
        let (mut gone, mut stay) = (Vec::new(), Vec::new());
        for number in 0..32_u64 {
            let mapping = map_in(&domain, &mut window, 1, number << 32);
            if number % 2 == 0 {
                gone.extend(touch_all(&domain, &mapping));
                batch.push(mapping).unwrap();
            } else {
                stay.push((mapping, number << 32));
            }
        }
        domain.close_window(window).unwrap();
        domain.unmap_batch(&mut batch).unwrap();
        assert_eq!(stale(&domain, &gone), 0);
        assert_eq!(domain.backend().counts().0, ranges);
        assert_eq!(domain.stats().over_invalidated_bytes, over * PAGE);
        for (mapping, phys) in stay {
            assert_eq!(domain.backend().touch(mapping.addr()), Some(PhysAddr(phys)));
            domain.unmap(mapping).unwrap();
        }
    }
}

#[test]
fn a1_windows_under_completions_in_any_order() {
    // An aperture for the window, the requests in flight and little more.
    let config = DomainConfig::new(Mode::StrictBatched).aperture(Iova(0x1000), Iova(0x7_ffff));
    let domain = domain_with(config);
    let device = Device::new();
    let mut batch = domain.batch(8).unwrap();
    let mut flying: Vec<(Mapping, u64)> = Vec::new();
    let mut seed = 1_u64;
    for round in 0..300_u64 {
        let window = domain.open_window(&device, 8 * 4 * PAGE);
        let mut window = match window {
            Ok(window) => Some(window),
            // No run of 32 pages is free.
            Err(MapError::Iova(_)) => None,
            Err(error) => panic!("{error}"),
        };
        for number in 0..8 {
            let phys = (1 << 40) + (round << 24) + (number << 20);
            let pages = number % 4 + 1;
            let mapping = match &mut window {
                Some(window) => map_in(&domain, window, pages, phys),
                None => map(&domain, pages, phys),
            };
            assert_eq!(domain.backend().touch(mapping.addr()), Some(PhysAddr(phys)));
            flying.push((mapping, phys));
        }
        if let Some(window) = window {
            domain.close_window(window).unwrap();
        }
        while flying.len() > 8 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (mapping, phys) = flying.swap_remove((seed >> 33) as usize % flying.len());
            // Nobody else got its address meanwhile.
            assert_eq!(domain.backend().touch(mapping.addr()), Some(PhysAddr(phys)));
            batch.push(mapping).unwrap();
        }
        domain.unmap_batch(&mut batch).unwrap();
    }
    for (mapping, _) in flying {
        batch.push(mapping).unwrap();
    }
    domain.unmap_batch(&mut batch).unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn a11_a_batch_that_cannot_be_invalidated_keeps_all_and_is_retried() {
    for fault in [Fault::Refuse, Fault::RefuseSync, Fault::Late] {
        let domain = domain(Mode::StrictBatched);
        let mut batch = domain.batch(3).unwrap();
        let mut all = Vec::new();
        for number in 0..2 {
            let mapping = map(&domain, 2, number << 32);
            all.extend(touch_all(&domain, &mapping));
            batch.push(mapping).unwrap();
        }
        domain.backend().inject(fault);
        domain.backend().inject(fault);
        for _ in 0..2 {
            let error = domain.unmap_batch(&mut batch).unwrap_err();
            assert!(matches!(error, BatchError::NotInvalidated(_)), "{error}");
            assert!(batch.has_unfinished() && !batch.is_empty());
            assert_eq!(stale(&domain, &all), 4);
            let stats = domain.stats();
            assert_eq!((stats.live_mappings, stats.iova_pages_held), (2, 4));
        }
        // One more fits beside what waits, and goes with it.
        let mapping = map(&domain, 1, 7 << 32);
        all.extend(touch_all(&domain, &mapping));
        batch.push(mapping).unwrap();
        let mapping = map(&domain, 1, 8 << 32);
        let mapping = batch.push(mapping).unwrap_err();
        domain.unmap(mapping).unwrap();
        domain.unmap_batch(&mut batch).unwrap();
        assert_eq!(stale(&domain, &all), 0);
        let stats = domain.stats();
        assert_eq!((stats.live_mappings, stats.iova_pages_held), (0, 0));
    }
}

#[test]
fn batches_in_other_modes_unmap_on_their_terms() {
    for mode in [Mode::lazy(), Mode::lazy_single(), Mode::Passthrough] {
        let domain = domain(mode);
        let mut batch = domain.batch(20).unwrap();
        for number in 0..20 {
            batch.push(map(&domain, 1, number << 32)).unwrap();
        }
        domain.unmap_batch(&mut batch).unwrap();
        let stats = domain.stats();
        let waiting = if mode == Mode::Passthrough { 0 } else { 20 };
        assert_eq!((stats.live_mappings, stats.queued), (0, waiting));
        assert_eq!(domain.backend().counts(), (0, 0, 0));
    }
}

#[test]
fn bad_input_batches_and_windows_of_another_domain() {
    let (one, other) = (domain(Mode::StrictBatched), domain(Mode::StrictBatched));
    let mut batch = one.batch(4).unwrap();
    let foreign = batch.push(map(&other, 1, 0)).unwrap_err();
    batch.push(map(&one, 1, 0)).unwrap();
    let error = other.unmap_batch(&mut batch).unwrap_err();
    assert!(matches!(error, BatchError::OtherDomain));
    assert_eq!(batch.len(), 1);
    one.unmap_batch(&mut batch).unwrap();
    other.unmap(foreign).unwrap();

    let device = Device::new();
    let mut window = one.open_window(&device, PAGE).unwrap();
    // Mapped all the same, somewhere else.
    let mapping = map_in(&other, &mut window, 1, 0);
    assert_eq!(window.left_pages(), 1);
    other.unmap(mapping).unwrap();
    let window = other.close_window(window).unwrap_err();
    one.close_window(window).unwrap();
    assert_eq!(one.stats().iova_pages_held, 0);
    let too_long = one.window_max_bytes() + 1;
    assert_eq!(
        one.open_window(&device, too_long).err(),
        Some(MapError::TooLong)
    );
    assert_eq!(one.open_window(&device, 0).err(), Some(MapError::EmptyList));
}

#[test]
fn a_window_beyond_a_devices_reach_is_not_used_for_it() {
    let domain = domain(Mode::StrictBatched);
    let mut window = domain.open_window(&Device::new(), 4 * PAGE).unwrap();
    let narrow = Device::new().mask_bits(32).unwrap();
    let segments = list(1, 0);
    let mut out = [DmaSegment::EMPTY];
    let direction = Direction::FromDevice;
    let mapping = domain
        .map_sg_in(&mut window, &narrow, &segments, &mut out, direction)
        .unwrap();
    assert!(mapping.addr().0 <= u64::from(u32::MAX));
    assert_eq!(window.left_pages(), 4);
    domain.unmap(mapping).unwrap();
    domain.close_window(window).unwrap();
}

#[test]
fn a11_a_dropped_batch_leaks_and_is_counted() {
    let domain = domain(Mode::StrictBatched);
    let mut batch = domain.batch(2).unwrap();
    batch.push(map(&domain, 1, 0)).unwrap();
    domain.backend().inject(Fault::Late);
    assert!(domain.unmap_batch(&mut batch).is_err());
    batch.push(map(&domain, 1, 0)).unwrap();
    drop(batch);
    let stats = domain.stats();
    assert_eq!((stats.leaked_mappings, stats.iova_pages_held), (2, 2));
}
