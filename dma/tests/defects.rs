//! Defects that a review found, each by its reproducer: backends and owners that
//! unwind, values that outlive their domain, inputs that wrap.

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use common::{
    host::{Caches, Paper},
    *,
};
use dmabench_dma::{
    bounce::{BounceConfig, BounceDomain, BouncePolicy, BounceSetupReason},
    *,
};
use dmabench_flushq::{BackendError, Late, QueueConfig, Synced, Ticket, TlbBackend, TlbRange};
use dmabench_pgtable::{
    self as pgtable, HeapTables,
    format::{S1K4, S1K64},
};
use dmabench_platform::*;

const POOL: Segment = Segment {
    phys: PhysAddr(0x7000_0000),
    len_bytes: 64 * PAGE,
};

type TestBounce = BounceDomain<Hostile, ThreadSlots, S1K4, Quarantine, Paper, Caches>;

fn bounce(policy: BouncePolicy) -> (TestBounce, Paper) {
    let memory = Paper::default();
    let config = BounceConfig::new(policy, POOL);
    let bounce = BounceDomain::new(
        domain(Mode::Strict),
        config,
        memory.clone(),
        Caches::default(),
    );
    (bounce.unwrap(), memory)
}

/// The tables are cleared, the invalidation unwinds: the addresses must not come
/// free before one has completed.
#[test]
fn a11_an_unlink_that_unwinds_is_not_done() {
    for begun in [false, true] {
        let domain = domain(Mode::Strict);
        let mut linking = domain
            .link_begin(
                &Device::new(),
                PhysAddr(0x10_0000),
                2 * PAGE,
                Direction::FromDevice,
            )
            .unwrap()
            .unwrap();
        let iova = linking.addr();
        let piece = segment(0x10_0000, 2 * PAGE);
        domain.link(&mut linking, piece).unwrap();
        assert!(domain.backend().touch(iova).is_some());
        if begun {
            // One that fails the ordinary way first.
            domain.backend().inject(Fault::Late);
            let late = domain.unlink(&mut linking);
            assert!(matches!(late, Err(LinkError::NotInvalidated(_))));
        }
        domain.backend().inject(Fault::Unwind);
        let unwound = catch_unwind(AssertUnwindSafe(|| domain.unlink(&mut linking)));
        assert!(unwound.is_err());
        assert!(domain.backend().touch(iova).is_some(), "still cached");
        assert!(
            matches!(
                domain.link(&mut linking, piece),
                Err(LinkError::NotInvalidated(_))
            ),
            "not before the device has lost it"
        );
        domain.cancel(linking).unwrap();
        assert_eq!(domain.backend().touch(iova), None, "A1");
        let stats = domain.stats();
        assert_eq!((stats.live_mappings, stats.iova_pages_held), (0, 0));
        domain.close().unwrap();
    }
}

/// A segment that begins at the end of the address space and goes on at 0 would
/// show the device memory that nobody named.
#[test]
fn a7_a_bounced_segment_does_not_wrap() {
    for policy in [BouncePolicy::Partial, BouncePolicy::Everything] {
        let (bounce, memory) = bounce(policy);
        memory.write(0, b"firmware");
        for buffer in [
            segment(u64::MAX - 0xff, 0x2100),
            segment(u64::MAX - 0xfff, 0x3000),
            segment(u64::MAX, 2),
        ] {
            for direction in [Direction::FromDevice, Direction::ToDevice] {
                let list = [segment(0x9000, 0x1000), buffer];
                let mut out = [DmaSegment::EMPTY; 2];
                let mapped = bounce.map_sg(&Device::new(), list, &mut out, direction);
                let refused =
                    bounce::BounceError::Map(MapError::Tables(pgtable::MapError::PhysRange {
                        paddr: buffer.phys,
                        len_bytes: buffer.len_bytes,
                    }));
                assert_eq!(mapped.map(|_| ()).unwrap_err(), refused);
            }
        }
        let stats = bounce.stats();
        assert_eq!((stats.domain.live_mappings, stats.pool_bytes_held), (0, 0));
        bounce.close().unwrap();
    }
}

/// What is left to be copied out is not forgotten by a close, which would give
/// the pool back under it.
#[test]
fn bad_input_67_close_with_data_left_in_a_slot() {
    let (bounce, memory) = bounce(BouncePolicy::Partial);
    let buffer = segment(0x10_0200, 0x100);
    let mapping = bounce
        .map(&Device::new(), buffer, Direction::FromDevice)
        .unwrap();
    memory.fail_after(Some(0));
    let kept = bounce.unmap(mapping).unwrap_err();
    assert!(matches!(kept.reason, NotUnmappedReason::Memory(_)));
    assert_eq!(bounce.stats().domain.live_mappings, 1);
    let open = bounce.close().unwrap_err();
    assert_eq!(open.reason, CloseReason::Mapped { mappings: 1 });
    memory.fail_after(None);
    let kept = open.domain.unmap(kept.mapping);
    assert_eq!(kept.unwrap(), [buffer]);
    open.domain.close().unwrap();
}

/// As above, lost altogether: it is counted.
#[test]
fn a_bounced_mapping_that_is_dropped_with_its_slots_is_counted() {
    let (bounce, memory) = bounce(BouncePolicy::Partial);
    let mapping = bounce
        .map(
            &Device::new(),
            segment(0x10_0200, 0x100),
            Direction::FromDevice,
        )
        .unwrap();
    memory.fail_after(Some(0));
    drop(bounce.unmap(mapping).unwrap_err());
    let stats = bounce.stats().domain;
    assert_eq!((stats.live_mappings, stats.leaked_mappings), (1, 1));
}

/// What a domain that failed to become strict has left in its queue is reachable:
/// untrusted devices do not get it.
#[test]
fn u1_a_domain_that_is_strict_but_not_flushed_does_not_bounce() {
    let domain = domain(Mode::lazy());
    let mapping = domain
        .map(
            &Device::new(),
            segment(0x10_0000, PAGE),
            Direction::FromDevice,
        )
        .unwrap();
    let pages = touch_all(&domain, &mapping);
    domain.unmap(mapping).unwrap();
    domain.backend().inject(Fault::Refuse);
    assert!(domain.tighten().is_err());
    assert_eq!(domain.mode(), Mode::Strict);
    let config = BounceConfig::new(BouncePolicy::Partial, POOL);
    let refused = BounceDomain::new(domain, config, Paper::default(), NoCacheOps).unwrap_err();
    assert_eq!(refused.reason, BounceSetupReason::NotStrict);
    let domain = refused.domain;
    domain.tighten().unwrap();
    assert_eq!(stale(&domain, &pages), 0);
    assert!(BounceDomain::new(domain, config, Paper::default(), NoCacheOps).is_ok());
}

/// Lists of nothing are not merged into something, nor do they panic.
#[test]
fn bad_input_52_empty_elements_are_merged_with_nothing() {
    let mut list = [DmaSegment::EMPTY; 3];
    assert_eq!(Device::new().merge(&mut list), 3);
    for mode in [Mode::Strict, Mode::Passthrough] {
        let domain = domain(mode);
        let segments = [segment(0x1000, 0), segment(0x1000, 0)];
        let mut out = [DmaSegment::EMPTY; 2];
        let mapped = domain.map_sg_merged(&Device::new(), &segments, &mut out, Direction::ToDevice);
        assert_eq!(mapped.unwrap_err(), MapError::EmptySegment { index: 0 });
    }
}

/// Notes the granules it is told.
#[derive(Clone, Default)]
struct Granules(Arc<AtomicU64>);

// SAFETY: there is no hardware, and nothing cached.
unsafe impl TlbBackend for Granules {
    type Context = ();

    fn invalidate(
        &self,
        _: Option<&mut SlotGuard<'_>>,
        (): &(),
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        for range in ranges {
            self.0.fetch_or(range.granule.bytes(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn invalidate_all(&self, _: Option<&mut SlotGuard<'_>>, (): &()) -> Result<(), BackendError> {
        Ok(())
    }

    fn sync_begin(&self, _: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        Ok(Ticket(0))
    }

    fn sync_wait(
        &self,
        _: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        _: Timeout,
    ) -> Result<Synced, Late> {
        // SAFETY: nothing is ever outstanding.
        Ok(unsafe { Synced::new(ticket) })
    }
}

fn large_granules(slots: &Arc<Slots>) -> Domain<Granules, ThreadSlots, S1K64, HeapTables> {
    let config = DomainConfig::new(Mode::StrictBatched);
    let backend = Granules::default();
    Domain::with_parts(config, slots.clone(), ThreadSlots, HeapTables, backend, ()).unwrap()
}

/// A batch or a window that outlives its domain is nobody's, even if another
/// domain has taken the first one's place: its invalidations would name the
/// granule of the first, and a TLB need not act upon them.
#[test]
fn bad_input_49_what_outlives_its_domain_serves_no_other() {
    let slots = Arc::new(Slots::new(8, Fences::detect()).unwrap());
    let small = domain(Mode::StrictBatched);
    let mut batch = small.batch(4).unwrap();
    let mut window = small.open_window(&Device::new(), 16 * PAGE).unwrap();
    drop(small);
    let mut all = Vec::new();
    for _ in 0..16 {
        let large = large_granules(&slots);
        let device = Device::new();
        let mapping = large
            .map(&device, segment(0x10_0000, 0x1_0000), Direction::ToDevice)
            .unwrap();
        match batch.push(mapping) {
            Ok(()) => {
                let _ = large.unmap_batch(&mut batch);
                assert_eq!(large.backend().0.load(Ordering::Relaxed), 0x1_0000);
            }
            Err(mapping) => large.unmap(mapping).unwrap(),
        }
        window = large.close_window(window).unwrap_err();
        all.push(large);
    }
}

/// However many mappings are asked for, the answer is a batch or an error.
#[test]
fn a_batch_of_more_than_memory_is_refused() {
    let domain = domain(Mode::StrictBatched);
    for capacity in [usize::MAX, usize::MAX / 2, isize::MAX as usize / 64] {
        assert_eq!(
            domain.batch(capacity).unwrap_err(),
            BatchTooLarge { capacity }
        );
    }
    assert_eq!(domain.batch(3).unwrap().capacity(), 3);
}

/// One owner that unwinds does not cost the others their buffers.
#[test]
fn an_owner_that_unwinds_leaves_the_others_theirs() {
    let domain = domain(Mode::LazyParked(QueueConfig {
        entries_per_slot: 16,
        timeout_ns: 1,
    }));
    let given = Arc::new(AtomicU64::new(0));
    for number in 0..10_u64 {
        let mapping = domain
            .map(
                &Device::new(),
                segment(0x10_0000 + number * PAGE, PAGE),
                Direction::FromDevice,
            )
            .unwrap();
        let given = given.clone();
        let parcel = Parcel::new(number, move |number| {
            assert_ne!(number, 3, "an owner unwinds");
            given.fetch_add(1, Ordering::Relaxed);
        });
        domain.unmap_parked(mapping, parcel).unwrap();
    }
    let unwound = catch_unwind(AssertUnwindSafe(|| domain.drain()));
    assert!(unwound.is_err());
    assert_eq!(given.load(Ordering::Relaxed), 9);
    assert_eq!(domain.stats().iova_pages_held, 0);
    domain.close().unwrap();
}

/// The hooks of a cache are for memory: what cannot be mapped does not reach
/// them.
#[test]
fn hooks_are_called_for_what_can_be_memory_only() {
    let domain = domain(Mode::Strict);
    let device = Device::new().coherent(false);
    let caches = Caches::default();
    for bad in [
        segment(0x1000, 0),
        segment(0x1000, u64::MAX),
        segment(u64::MAX - 0xfff, 0x2000),
        segment(1 << 48, 0x1000),
        segment((1 << 48) - 0x1000, 0x1001),
    ] {
        let list = [segment(0x9000, 0x1000), bad];
        let mut out = [DmaSegment::EMPTY; 2];
        let mapped = domain.map_list(&device, &caches, list, &mut out, Direction::ToDevice);
        assert!(mapped.is_err(), "{bad:?}");
        assert_eq!(caches.take(), [], "{bad:?}");
    }
    let mut short = [];
    let mapped = domain.map_list(
        &device,
        &caches,
        [segment(0x9000, 0x1000)],
        &mut short,
        Direction::ToDevice,
    );
    assert!(matches!(mapped, Err(MapError::OutTooShort { needed: 1 })));
    assert_eq!(caches.take(), []);
}

/// Addresses that wait for a flush can be had for a window, as for a mapping.
#[test]
fn a_window_waits_for_a_flush_as_a_mapping_does() {
    let config =
        DomainConfig::new(Mode::lazy()).aperture(Iova(0x10_0000), Iova(0x10_0000 + 16 * PAGE - 1));
    let domain = domain_with(config);
    let device = Device::new();
    let mapping = domain
        .map(&device, segment(0x10_0000, 16 * PAGE), Direction::ToDevice)
        .unwrap();
    let pages = touch_all(&domain, &mapping);
    domain.unmap(mapping).unwrap();
    let window = domain.open_window(&device, 16 * PAGE).unwrap();
    assert_eq!(stale(&domain, &pages), 0, "A1");
    domain.close_window(window).unwrap();
}
