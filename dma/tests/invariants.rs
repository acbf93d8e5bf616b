//! The invariants of unmapping, against an IOMMU that forgets nothing it was
//! not told to; and the ways to be wrong, each of which must show.

mod common;

use common::*;
use dmabench_dma::*;
use dmabench_flushq::{QueueConfig, TlbBackend};
use dmabench_iova::{AllocRequest, IovaConfig, IovaDomain};
use dmabench_pgtable::{
    DetachedTable, Level, PageTable, Prot, TableConfig, UnmapSink, format::S1K4,
};
use dmabench_platform::*;
use std::sync::Arc;

/// Sizes that take pages, contiguous runs, blocks, whole tables, mixes.
const SIZES: [u64; 7] = [
    PAGE,
    16 * PAGE,
    100 * PAGE,
    2 << 20,
    (2 << 20) + PAGE,
    6 << 20,
    1 << 30,
];

#[test]
fn s1_after_a_strict_unmap_the_device_reaches_nothing() {
    let domain = domain(Mode::Strict);
    for (index, size) in SIZES.into_iter().enumerate() {
        // Once with blocks, once with pages only (an odd physical address).
        for phys in [0x40_0000_0000, 0x40_0000_3000] {
            let mapping = map(&domain, phys, size);
            let first = pages(&mapping).next().unwrap();
            assert_eq!(domain.backend().touch(first), Some(PhysAddr(phys)));
            let pages = touch_all(&domain, &mapping);
            domain.unmap(mapping).unwrap();
            assert_eq!(stale(&domain, &pages), 0, "size {index}");
        }
    }
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn s1_one_range_and_one_sync_per_strict_unmap() {
    let domain = domain(Mode::Strict);
    for size in [PAGE, 32 * PAGE, 128 * PAGE, 2 << 20] {
        let before = domain.backend().counts();
        domain.unmap(map(&domain, 0x1000, size)).unwrap();
        let after = domain.backend().counts();
        assert_eq!(
            (after.0 - before.0, after.1 - before.1, after.2 - before.2),
            (1, 0, 1),
            "size {size:#x}"
        );
    }
}

/// A whole table goes with the unmap of its 2 MiB. The device has it in its walk
/// cache; the same addresses get a new table at once.
#[test]
fn a2_a_detached_table_is_freed_after_the_walk_cache_forgot_it() {
    for mode in [Mode::Strict, Mode::lazy()] {
        let domain = domain(mode);
        for round in 0..100 {
            let mapping = map(&domain, 0x1000 + (round << 32), 2 << 20);
            touch_all(&domain, &mapping);
            assert_eq!(
                domain.backend().touch(mapping.addr()),
                Some(PhysAddr(0x1000 + (round << 32)))
            );
            domain.unmap(mapping).unwrap();
        }
        domain.drain().unwrap();
        let memory = domain.memory().clone();
        domain.close().unwrap();
        assert!(memory.freed() >= 100);
        assert_eq!(memory.freed_early(), 0);
    }
}

#[test]
fn a2_a_backend_that_forgets_walk_caches_is_caught() {
    let domain = domain(Mode::Strict);
    let mapping = map(&domain, 0x1000, 2 << 20);
    touch_all(&domain, &mapping);
    domain.backend().inject(Fault::LeavesOnly);
    domain.unmap(mapping).unwrap();
    domain.drain().unwrap();
    assert_eq!(domain.memory().freed_early(), 1, "the checker must see it");
}

#[test]
fn s1_a_backend_that_skips_one_invalidation_is_caught() {
    let domain = domain(Mode::Strict);
    let mapping = map(&domain, 0x1000, 8 * PAGE);
    let pages = touch_all(&domain, &mapping);
    domain.backend().inject(Fault::Skip);
    domain.unmap(mapping).unwrap();
    assert_eq!(stale(&domain, &pages), 8, "the checker must see it");
}

#[test]
fn a6_a_backend_that_covers_too_little_is_caught() {
    let domain = domain(Mode::Strict);
    let mapping = map(&domain, 0x1000, 8 * PAGE);
    let pages = touch_all(&domain, &mapping);
    domain.backend().inject(Fault::Short);
    domain.unmap(mapping).unwrap();
    assert_eq!(stale(&domain, &pages), 1, "the checker must see it");
}

/// Lazy unmapping by hand, with the address freed at once: the third of the ways
/// to be wrong. The next buffer gets the address, and the device the old buffer.
#[test]
fn a1_an_iova_reused_before_its_flush_is_caught() {
    let iommu = Hostile::default();
    let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0x1000), Iova(u32::MAX.into()));
    let iova = IovaDomain::new(config, slots.clone()).unwrap();
    let tables = PageTable::<S1K4, _>::new(
        TableConfig::new(48, 48),
        dmabench_pgtable::HeapTables,
        slots.clone(),
    )
    .unwrap();
    iommu.walk_from(tables.registers().ttb);
    struct Ignore;
    impl UnmapSink for Ignore {
        fn leaves(&mut self, _: Iova, _: u64, _: Level) {}
        fn table(&mut self, _: DetachedTable) {}
    }
    let reaches_the_old_buffer = |flush_before_free: bool| {
        let mut slot = slots.enter_fallback();
        let range = iova.alloc(&mut slot, 1, &AllocRequest::default()).unwrap();
        let at = range.iova();
        let map = |slot: &SlotGuard<'_>, phys| {
            tables
                .map(slot, at, PhysAddr(phys), PAGE, Prot::READ_WRITE)
                .unwrap();
        };
        map(&slot, 0xa000);
        assert_eq!(iommu.touch(at), Some(PhysAddr(0xa000)));
        tables.unmap(&slot, at, PAGE, &mut Ignore).unwrap();
        if flush_before_free {
            iommu.invalidate_all(None, &()).unwrap();
            let ticket = iommu.sync_begin(None).unwrap();
            let _ = iommu.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
        }
        iova.free(&mut slot, range).unwrap();
        let again = iova.alloc(&mut slot, 1, &AllocRequest::default()).unwrap();
        assert_eq!(again.iova(), at, "the same address again");
        map(&slot, 0xb000);
        let reached = iommu.touch(at);
        tables.unmap(&slot, at, PAGE, &mut Ignore).unwrap();
        iommu.invalidate_all(None, &()).unwrap();
        let ticket = iommu.sync_begin(None).unwrap();
        let _ = iommu.sync_wait(None, ticket, Timeout::DEFAULT).unwrap();
        iova.free(&mut slot, again).unwrap();
        reached == Some(PhysAddr(0xa000))
    };
    assert!(!reaches_the_old_buffer(true));
    assert!(reaches_the_old_buffer(false), "the checker must see it");
}

/// A small aperture, so that addresses come back soon: each new mapping must be
/// reached at its own buffer, never at an older one's.
#[test]
fn a1_no_address_is_reused_while_a_translation_of_it_is_cached() {
    for mode in [
        Mode::Strict,
        Mode::Lazy(QueueConfig {
            entries_per_slot: 4,
            timeout_ns: 1000,
        }),
    ] {
        let config = DomainConfig::new(mode).aperture(Iova(0x1000), Iova(0x1_ffff));
        let domain = domain_with(config);
        for round in 0..500_u64 {
            let phys = 0x1_0000_0000 + (round << 20);
            let mapping = map(&domain, phys, (round % 3 + 1) * PAGE);
            for (index, page) in pages(&mapping).enumerate() {
                let expected = PhysAddr(phys + index as u64 * PAGE);
                assert_eq!(domain.backend().touch(page), Some(expected));
            }
            domain.unmap(mapping).unwrap();
        }
        assert_eq!(domain.stats().live_mappings, 0);
    }
}

#[test]
fn l2_lazy_flushes_once_per_full_ring_and_never_else() {
    let domain = domain(Mode::lazy());
    for _ in 0..256 * 10 {
        domain.unmap(map(&domain, 0x1000, PAGE)).unwrap();
    }
    assert_eq!(domain.backend().counts(), (0, 9, 9));
    assert_eq!(domain.stats().queued, 256);
    assert_eq!(domain.stats().iova_pages_held, 256);
}

#[test]
fn l1_stale_until_the_timer_and_no_longer() {
    // Nothing else has a deadline.
    let domain = domain_with(DomainConfig::new(Mode::lazy()).reclaim(None));
    domain.poll(TimeNs(0)).unwrap();
    let mapping = map(&domain, 0x1000, 4 * PAGE);
    let pages = touch_all(&domain, &mapping);
    domain.unmap(mapping).unwrap();
    assert_eq!(domain.translate(pages[0]), None);
    domain.poll(domain.next_deadline().unwrap()).unwrap();
    let due = domain.next_deadline().unwrap();
    assert_eq!(due, TimeNs(10_000_000));
    domain.poll(TimeNs(due.0 - 1)).unwrap();
    assert_eq!(stale(&domain, &pages), 4, "lazy exposes what it says");
    domain.poll(due).unwrap();
    assert_eq!(stale(&domain, &pages), 0);
    assert_eq!(domain.next_deadline(), None);
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn a11_a_late_strict_unmap_keeps_everything_and_finishes_later() {
    for fault in [Fault::Refuse, Fault::RefuseSync, Fault::Late] {
        let domain = domain(Mode::Strict);
        let mapping = map(&domain, 0x1000, 2 << 20);
        let pages = touch_all(&domain, &mapping);
        let tables = domain.stats().page_table_bytes;
        for _ in 0..3 {
            domain.backend().inject(fault);
        }
        let Err(UnmapError::NotInvalidated(unfinished)) = domain.unmap(mapping) else {
            panic!("{fault:?} must show");
        };
        assert_eq!(stale(&domain, &pages), 512);
        let error = domain.finish(unfinished).unwrap_err();
        let stats = domain.stats();
        assert_eq!((stats.live_mappings, stats.iova_pages_held), (1, 512));
        assert_eq!(stats.page_table_bytes, tables);
        domain.backend().clear_faults();
        let UnmapError::NotInvalidated(unfinished) = error else {
            panic!("{error}");
        };
        domain.finish(unfinished).unwrap();
        assert_eq!(stale(&domain, &pages), 0);
        let stats = domain.stats();
        assert_eq!((stats.live_mappings, stats.iova_pages_held), (0, 0));
    }
}

#[test]
fn a11_a_lazy_unmap_that_cannot_flush_leaves_the_mapping_as_it_was() {
    let queue = QueueConfig {
        entries_per_slot: 2,
        timeout_ns: 1000,
    };
    let domain = domain(Mode::Lazy(queue));
    for _ in 0..2 {
        domain.unmap(map(&domain, 0x1000, PAGE)).unwrap();
    }
    let mapping = map(&domain, 0x7000, PAGE);
    domain.backend().inject(Fault::Late);
    let Err(UnmapError::Flush { mapping, .. }) = domain.unmap(mapping) else {
        panic!("the ring is full and cannot be flushed");
    };
    assert_eq!(domain.stats().iova_pages_held, 3);
    assert_eq!(
        domain.translate(mapping.addr()).unwrap().paddr,
        PhysAddr(0x7000)
    );
    domain.unmap(mapping).unwrap();
    domain.drain().unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn a11_an_abandoned_unmap_leaks_and_is_counted() {
    let domain = domain(Mode::Strict);
    let mapping = map(&domain, 0x1000, PAGE);
    domain.backend().inject(Fault::Late);
    drop(domain.unmap(mapping));
    let stats = domain.stats();
    assert_eq!((stats.leaked_mappings, stats.iova_pages_held), (1, 1));
}

#[test]
fn a_dropped_mapping_stays_mapped_and_is_counted() {
    let domain = domain(Mode::Strict);
    let mapping = map(&domain, 0x1000, PAGE);
    let addr = mapping.addr();
    drop(mapping);
    assert_eq!(domain.backend().touch(addr), Some(PhysAddr(0x1000)));
    assert_eq!(domain.stats().leaked_mappings, 1);
    let error = domain.close().unwrap_err();
    assert_eq!(error.reason, CloseReason::Mapped { mappings: 1 });
    // Not an error to drop it all the same; the flush comes first.
    let iommu = error.domain.backend().clone();
    drop(error.domain);
    assert_eq!(iommu.counts().1, 1);
}

#[test]
fn a11_a_domain_that_cannot_flush_leaks_its_tables() {
    let domain = domain(Mode::Strict);
    let mapping = map(&domain, 0x1000, PAGE);
    touch_all(&domain, &mapping);
    let freed = domain.memory().clone();
    domain.unmap(mapping).unwrap();
    domain.backend().inject(Fault::Late);
    drop(domain);
    assert_eq!(freed.freed(), 0);
}

#[test]
fn l3_sub_page_neighbours_are_reachable_and_said_to_be() {
    let domain = domain(Mode::Strict);
    let mapping = map(&domain, 0x1200, 0x100);
    assert_eq!(mapping.len_bytes(), 0x100);
    assert_eq!(mapping.mapped_range().unwrap().1, PAGE);
    assert_eq!(mapping.addr().0 & 0xfff, 0x200);
    domain.unmap(mapping).unwrap();
}

#[test]
fn a_list_gets_one_range_and_an_address_for_each_segment() {
    for mode in [Mode::Strict, Mode::lazy(), Mode::Passthrough] {
        let domain = domain(mode);
        let segments: Vec<_> = (0..32_u64)
            .map(|i| {
                segment(
                    0x10_0000 * (i + 1) + (i % 3) * 0x200,
                    0xe00 + (i % 2) * 0x1000,
                )
            })
            .collect();
        let mut out = [DmaSegment::EMPTY; 40];
        let mapping = domain
            .map_sg(&Device::new(), &segments, &mut out, Direction::ToDevice)
            .unwrap();
        assert_eq!(mapping.addr(), out[0].addr);
        assert_eq!(
            mapping.len_bytes(),
            segments.iter().map(|s| s.len_bytes).sum::<u64>()
        );
        for (segment, out) in segments.iter().zip(&out) {
            assert_eq!(segment.len_bytes, out.len_bytes);
            for byte in [0, segment.len_bytes - 1] {
                let at = Iova(out.addr.0 + byte);
                let reached = match mode {
                    Mode::Passthrough => PhysAddr(at.0),
                    _ => domain.translate(at).unwrap().paddr,
                };
                assert_eq!(reached.0, segment.phys.0 + byte);
            }
        }
        assert_eq!(out[32], DmaSegment::EMPTY);
        domain.unmap(mapping).unwrap();
        domain.close().unwrap();
    }
}

#[test]
fn maps_and_unmaps_on_two_threads_meet_in_one_domain() {
    const ROUNDS: u64 = 2000;
    for mode in [Mode::Strict, Mode::lazy()] {
        let domain = domain(mode);
        let (send, receive) = std::sync::mpsc::sync_channel::<(u64, Mapping)>(64);
        std::thread::scope(|scope| {
            let domain = &domain;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let phys = (round + 1) << 24;
                    let mapping = map(domain, phys, (round % 5 + 1) * PAGE);
                    send.send((phys, mapping)).unwrap();
                }
            });
            scope.spawn(move || {
                for (phys, mapping) in receive {
                    assert_eq!(domain.backend().touch(mapping.addr()), Some(PhysAddr(phys)));
                    let pages: Vec<_> = pages(&mapping).collect();
                    domain.unmap(mapping).unwrap();
                    if domain.config().mode == Mode::Strict {
                        assert_eq!(domain.translate(pages[0]), None);
                    }
                }
            });
        });
        domain.drain().unwrap();
        assert_eq!(domain.stats().iova_pages_held, 0);
        domain.close().unwrap();
    }
}
