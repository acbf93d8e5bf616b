//! The further modes and the switches between them, against an IOMMU that
//! forgets nothing it was not told to; and ways to be wrong, which must show.

mod common;

use std::{
    ptr::NonNull,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use common::*;
use dmabench_dma::*;
use dmabench_flushq::{QueueConfig, QueueConfigError};
use dmabench_platform::*;

fn small_queue(entries_per_slot: usize) -> QueueConfig {
    QueueConfig {
        entries_per_slot,
        timeout_ns: 1000,
    }
}

const KEEPING: [Mode; 4] = [
    Mode::Strict,
    Mode::StrictBatched,
    Mode::StrictPipelined,
    Mode::lazy_parked(),
];

/// Pages, contiguous runs, blocks, whole tables.
const SIZES: [u64; 4] = [PAGE, 100 * PAGE, 2 << 20, 6 << 20];

#[test]
fn s1_a_plain_unmap_leaves_nothing_in_any_mode_that_says_so() {
    for mode in KEEPING {
        let domain = domain(mode);
        assert!(!mode.exposes() && domain.mode() == mode);
        for size in SIZES {
            let mapping = map(&domain, 0x40_0000_0000, size);
            let pages = touch_all(&domain, &mapping);
            domain.unmap(mapping).unwrap();
            assert_eq!(stale(&domain, &pages), 0, "{}", mode.name());
        }
        let stats = domain.stats();
        assert_eq!((stats.iova_pages_held, stats.queued), (0, 0));
    }
}

// Pipelined.

/// Begins the unmap of a mapping that the device has used.
fn begin(domain: &TestDomain, size: u64) -> (Pending, Vec<Iova>) {
    let mapping = map(domain, 0x40_0000_0000, size);
    let pages = touch_all(domain, &mapping);
    (domain.unmap_begin(mapping).unwrap(), pages)
}

#[test]
fn s1_a_begun_unmap_is_over_when_it_is_completed_and_no_sooner() {
    for mode in KEEPING {
        for size in SIZES {
            let domain = domain(mode);
            let (pending, pages) = begin(&domain, size);
            assert!(!pending.is_done());
            assert_eq!(stale(&domain, &pages), pages.len(), "not waited for yet");
            let stats = domain.stats();
            assert_eq!(stats.live_mappings, 1);
            assert!(stats.iova_pages_held >= size / PAGE, "held back");
            domain.complete(pending).unwrap();
            assert_eq!(stale(&domain, &pages), 0);
            let stats = domain.stats();
            assert_eq!((stats.live_mappings, stats.iova_pages_held), (0, 0));
            domain.poll(TimeNs(0)).unwrap();
            assert_eq!(domain.memory().freed_early(), 0, "A2");
        }
    }
}

#[test]
fn s1_a_completion_that_was_no_invalidation_is_seen() {
    let domain = domain(Mode::StrictPipelined);
    domain.backend().inject(Fault::Skip);
    let (pending, pages) = begin(&domain, 4 * PAGE);
    domain.complete(pending).unwrap();
    assert_eq!(stale(&domain, &pages), 4, "the checker must see it");
}

/// Two in flight, as `mmc` has them, in an aperture so small that addresses come
/// back at once: the device must always reach the latest buffer.
#[test]
fn a1_addresses_of_a_begun_unmap_are_not_handed_out() {
    let config = DomainConfig::new(Mode::StrictPipelined).aperture(Iova(0x1000), Iova(0x3fff));
    let domain = domain_with(config);
    let mut before: Option<Pending> = None;
    for round in 0..200_u64 {
        let phys = 0x1_0000_0000 + (round << 20);
        let mapping = map(&domain, phys, PAGE);
        assert_eq!(domain.backend().touch(mapping.addr()), Some(PhysAddr(phys)));
        let pending = domain.unmap_begin(mapping).unwrap();
        if let Some(before) = before.replace(pending) {
            domain.complete(before).unwrap();
        }
    }
    domain.complete(before.unwrap()).unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn a11_a_begun_unmap_that_fails_keeps_everything() {
    for size in [PAGE, 2 << 20] {
        for fault in [Fault::Refuse, Fault::RefuseSync, Fault::Late] {
            let domain = domain(Mode::StrictPipelined);
            let mapping = map(&domain, 0x40_0000_0000, size);
            let pages = touch_all(&domain, &mapping);
            domain.backend().inject(fault);
            let error = match domain.unmap_begin(mapping) {
                Ok(pending) => domain.complete(pending).unwrap_err(),
                Err(error) => error,
            };
            let UnmapError::NotInvalidated(unfinished) = error else {
                panic!("{fault:?}: {error}");
            };
            assert_eq!(stale(&domain, &pages), pages.len());
            assert_eq!(domain.stats().live_mappings, 1);
            domain.finish(unfinished).unwrap();
            assert_eq!(stale(&domain, &pages), 0);
            assert_eq!(domain.stats().live_mappings, 0);
        }
    }
}

#[test]
fn bad_input_a_pending_unmap_of_another_domain_is_handed_back() {
    let (one, other) = (domain(Mode::StrictPipelined), domain(Mode::StrictPipelined));
    let (pending, pages) = begin(&one, PAGE);
    let Err(UnmapError::StillPending(pending)) = other.complete(pending) else {
        panic!("it is not its own");
    };
    assert_eq!(stale(&one, &pages), 1);
    one.complete(pending).unwrap();
    assert_eq!(stale(&one, &pages), 0);
}

#[test]
fn a11_a_dropped_pending_unmap_leaks_and_is_counted() {
    let domain = domain(Mode::StrictPipelined);
    drop(begin(&domain, PAGE));
    let stats = domain.stats();
    assert_eq!((stats.leaked_mappings, stats.iova_pages_held), (1, 1));
}

#[test]
fn lazy_and_passthrough_have_nothing_to_wait_for() {
    for mode in [Mode::lazy(), Mode::lazy_single(), Mode::Passthrough] {
        let domain = domain(mode);
        let pending = domain.unmap_begin(map(&domain, 0x1000, PAGE)).unwrap();
        assert!(pending.is_done() && mode.exposes());
        domain.complete(pending).unwrap();
        assert_eq!(domain.stats().live_mappings, 0);
    }
}

// Parked.

/// A buffer that says when it comes back, and whether the device could still
/// reach it then.
struct Buffer {
    pages: Vec<Iova>,
    iommu: Hostile,
    back: Arc<Mutex<Vec<usize>>>,
}

fn park(domain: &TestDomain, back: &Arc<Mutex<Vec<usize>>>, size: u64) -> Vec<Iova> {
    let mapping = map(domain, 0x40_0000_0000, size);
    let pages = touch_all(domain, &mapping);
    let buffer = Buffer {
        pages: pages.clone(),
        iommu: domain.backend().clone(),
        back: back.clone(),
    };
    let parcel = Parcel::new(buffer, |buffer: Buffer| {
        let stale = (buffer.pages.iter())
            .filter(|page| buffer.iommu.touch(**page).is_some())
            .count();
        buffer.back.lock().unwrap().push(stale);
    });
    domain.unmap_parked(mapping, parcel).unwrap();
    pages
}

#[test]
fn l3_parked_buffers_come_back_after_their_flush_and_unreachable() {
    for size in SIZES {
        let domain = domain(Mode::LazyParked(small_queue(4)));
        let back = Arc::default();
        for _ in 0..4 {
            let pages = park(&domain, &back, size);
            assert_eq!(stale(&domain, &pages), pages.len(), "as fast as lazy");
        }
        assert_eq!(back.lock().unwrap().len(), 0, "all of them wait");
        park(&domain, &back, size);
        assert_eq!(*back.lock().unwrap(), [0; 4], "the ring was full");
        domain.drain().unwrap();
        assert_eq!(*back.lock().unwrap(), [0; 5]);
        domain.poll(TimeNs(0)).unwrap();
        let stats = domain.stats();
        assert_eq!((stats.iova_pages_held, stats.queued), (0, 0));
        assert_eq!(domain.memory().freed_early(), 0, "A2");
    }
}

#[test]
fn l1_parked_buffers_come_back_by_the_timer() {
    let config = DomainConfig::new(Mode::LazyParked(small_queue(256))).reclaim(None);
    let domain = domain_with(config);
    let back = Arc::default();
    for _ in 0..200 {
        park(&domain, &back, PAGE);
    }
    domain.poll(TimeNs(0)).unwrap();
    assert_eq!(domain.next_deadline(), Some(TimeNs(1000)));
    domain.poll(TimeNs(999)).unwrap();
    assert_eq!(back.lock().unwrap().len(), 0);
    let flushed = domain.poll(TimeNs(1000)).unwrap();
    assert_eq!(flushed.released, 200, "more than are handed out at once");
    assert_eq!(*back.lock().unwrap(), [0; 200]);
    assert_eq!(domain.backend().counts().1, 1);
}

#[test]
fn l3_a_flush_that_was_none_shows_in_parked_buffers() {
    let domain = domain(Mode::lazy_parked());
    let back = Arc::default();
    park(&domain, &back, 3 * PAGE);
    domain.backend().inject(Fault::Skip);
    domain.drain().unwrap();
    assert_eq!(*back.lock().unwrap(), [3], "the checker must see it");
}

#[test]
fn a_full_ring_costs_one_flush_however_few_are_handed_out_at_once() {
    let domain = domain(Mode::LazyParked(small_queue(256)));
    let back = Arc::default();
    for _ in 0..256 * 8 + 1 {
        park(&domain, &back, PAGE);
    }
    assert_eq!(domain.backend().counts(), (0, 8, 8));
    assert!(back.lock().unwrap().iter().all(|stale| *stale == 0));
    domain.drain().unwrap();
    assert_eq!(back.lock().unwrap().len(), 256 * 8 + 1);
}

#[test]
fn a11_a_parked_unmap_that_cannot_flush_hands_both_back() {
    let domain = domain(Mode::LazyParked(small_queue(2)));
    for _ in 0..2 {
        let mapping = map(&domain, 0x1000, PAGE);
        domain.unmap_parked(mapping, Box::new(0_u8)).unwrap();
    }
    let mapping = map(&domain, 0x7000, PAGE);
    domain.backend().inject(Fault::Late);
    let error = domain.unmap_parked(mapping, Box::new(7_u8)).unwrap_err();
    assert_eq!(*error.buffer, 7);
    let UnmapError::Flush { mapping, .. } = error.error else {
        panic!("{}", error.error);
    };
    assert!(domain.translate(mapping.addr()).is_some(), "still mapped");
    domain.unmap_parked(mapping, error.buffer).unwrap();
    domain.drain().unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn parking_in_other_modes_gives_back_on_their_terms() {
    for (mode, stale_then) in [
        (Mode::Strict, 0),
        (Mode::StrictBatched, 0),
        (Mode::lazy(), 2),
        (Mode::lazy_single(), 2),
    ] {
        let domain = domain(mode);
        let back = Arc::default();
        park(&domain, &back, 2 * PAGE);
        assert_eq!(*back.lock().unwrap(), [stale_then], "{}", mode.name());
    }
    let one = domain(Mode::lazy_parked());
    let other = domain(Mode::lazy_parked());
    let error = other.unmap_parked(map(&one, 0x1000, PAGE), Box::new(1_u8));
    let error = error.unwrap_err();
    let UnmapError::OtherDomain(mapping) = error.error else {
        panic!("{}", error.error);
    };
    one.unmap_parked(mapping, error.buffer).unwrap();
}

/// A number that stands for a buffer; the owner's table knows the rest.
struct Numbered(usize);
static NUMBERS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

impl Parkable for Numbered {
    fn into_pointer(self) -> NonNull<()> {
        NonNull::without_provenance((self.0 + 1).try_into().unwrap())
    }
    unsafe fn from_pointer(pointer: NonNull<()>) -> Self {
        Numbered(pointer.addr().get() - 1)
    }
    fn give_back(self) {
        NUMBERS.lock().unwrap().push(self.0);
    }
}

#[test]
fn a_parked_buffer_may_be_a_number_and_its_owner_may_use_the_domain() {
    let domain = Arc::new(domain(Mode::LazyParked(small_queue(2))));
    for number in 0..5 {
        let mapping = map(&domain, 0x1000, PAGE);
        domain.unmap_parked(mapping, Numbered(number)).unwrap();
    }
    assert_eq!(*NUMBERS.lock().unwrap(), [0, 1, 2, 3]);
    // The sink maps again, as a driver does for its next request.
    let (sink_domain, calls) = (domain.clone(), Arc::new(AtomicUsize::new(0)));
    let seen = calls.clone();
    let parcel = Parcel::new((), move |()| {
        seen.fetch_add(1, Ordering::Relaxed);
        let mapping = map(&sink_domain, 0x9000, PAGE);
        sink_domain.unmap(mapping).unwrap();
        sink_domain.poll(TimeNs(5)).unwrap();
    });
    domain
        .unmap_parked(map(&domain, 0x2000, PAGE), parcel)
        .unwrap();
    domain.drain().unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(*NUMBERS.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn a11_buffers_of_a_domain_whose_last_flush_fails_are_leaked() {
    let freed = Arc::new(AtomicBool::new(false));
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let domain = domain(Mode::lazy_parked());
    let mapping = map(&domain, 0x1000, PAGE);
    let buffer = Box::new(Flag(freed.clone()));
    domain.unmap_parked(mapping, buffer).unwrap();
    for _ in 0..4 {
        domain.backend().inject(Fault::Late);
    }
    drop(domain);
    assert!(!freed.load(Ordering::Relaxed), "the device may still write");
}

// One ring.

#[test]
fn l2_lazy_single_flushes_once_per_full_ring_of_all_threads() {
    let domain = domain(Mode::LazySingle(small_queue(64)));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let domain = &domain;
            scope.spawn(move || {
                for round in 0..160 {
                    let phys = (thread << 32) + (round << 20);
                    let mapping = map(domain, phys, PAGE);
                    assert_eq!(domain.backend().touch(mapping.addr()), Some(PhysAddr(phys)));
                    domain.unmap(mapping).unwrap();
                }
            });
        }
    });
    let stats = domain.stats();
    assert_eq!(stats.live_mappings, 0);
    // Two threads may find the ring full at once; each flush takes what is there.
    assert!((9..=40).contains(&stats.flush.flushes), "{:?}", stats.flush);
    domain.drain().unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn l1_lazy_single_waits_a_second() {
    let domain = domain_with(DomainConfig::new(Mode::lazy_single()).reclaim(None));
    let mapping = map(&domain, 0x1000, 2 << 20);
    let pages = touch_all(&domain, &mapping);
    domain.unmap(mapping).unwrap();
    domain.poll(TimeNs(0)).unwrap();
    assert_eq!(domain.next_deadline(), Some(TimeNs(1_000_000_000)));
    assert_eq!(stale(&domain, &pages), 512);
    domain.poll(TimeNs(1_000_000_000)).unwrap();
    assert_eq!(stale(&domain, &pages), 0);
    assert_eq!(domain.stats().iova_pages_held, 0);
    assert_eq!(domain.memory().freed_early(), 0);
}

// Switches.

#[test]
fn l4_strict_to_lazy_and_back() {
    let domain = domain_with(DomainConfig::new(Mode::StrictPipelined).reclaim(None));
    let lazy = Mode::Lazy(small_queue(8));
    domain.relax(lazy).unwrap();
    domain.relax(lazy).unwrap();
    assert_eq!(domain.mode(), lazy);
    let mapping = map(&domain, 0x1000, PAGE);
    let pages = touch_all(&domain, &mapping);
    domain.unmap(mapping).unwrap();
    assert_eq!(stale(&domain, &pages), 1);
    let flushed = domain.tighten().unwrap();
    assert_eq!((flushed.flushed, flushed.released), (true, 1));
    assert_eq!(stale(&domain, &pages), 0);
    assert_eq!(domain.mode(), Mode::StrictPipelined);
    let (ranges, _, _) = domain.backend().counts();
    domain.unmap(map(&domain, 0x1000, PAGE)).unwrap();
    assert_eq!(domain.backend().counts().0, ranges + 1);
    // And once more: the same queue serves again.
    domain.relax(lazy).unwrap();
    domain.unmap(map(&domain, 0x1000, PAGE)).unwrap();
    assert_eq!(domain.stats().queued, 1);
    domain.poll(TimeNs(0)).unwrap();
    domain.poll(TimeNs(1000)).unwrap();
    assert_eq!(domain.stats().queued, 0);
}

#[test]
fn a11_a_way_back_that_cannot_flush_is_strict_all_the_same() {
    let domain = domain(Mode::lazy());
    let mapping = map(&domain, 0x1000, PAGE);
    let pages = touch_all(&domain, &mapping);
    domain.unmap(mapping).unwrap();
    domain.backend().inject(Fault::Late);
    assert!(matches!(domain.tighten(), Err(FlushError::Late(_))));
    assert_eq!(domain.mode(), Mode::Strict);
    assert_eq!(stale(&domain, &pages), 1);
    let later = map(&domain, 0x2000, PAGE);
    let later_pages = touch_all(&domain, &later);
    domain.unmap(later).unwrap();
    assert_eq!(stale(&domain, &later_pages), 0, "strict from now on");
    domain.tighten().unwrap();
    assert_eq!(stale(&domain, &pages), 0);
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn bad_input_switches_that_are_refused_change_nothing() {
    let passthrough = domain(Mode::Passthrough);
    assert_eq!(
        passthrough.relax(Mode::lazy()),
        Err(SwitchError::Passthrough)
    );
    assert!(passthrough.tighten().is_ok());
    assert_eq!(passthrough.mode(), Mode::Passthrough);
    let strict = domain(Mode::Strict);
    for asked in [Mode::Strict, Mode::Passthrough, Mode::StrictBatched] {
        assert_eq!(strict.relax(asked), Err(SwitchError::NotLazy { asked }));
    }
    let bad = QueueConfigError::BadSize {
        entries_per_slot: 3,
    };
    let asked = Mode::Lazy(small_queue(3));
    assert_eq!(strict.relax(asked), Err(SwitchError::Queue(bad)));
    assert_eq!(strict.mode(), Mode::Strict);
    let lazy = domain(Mode::lazy());
    let has = Mode::lazy();
    for asked in [Mode::Lazy(small_queue(4)), Mode::lazy_single()] {
        assert_eq!(lazy.relax(asked), Err(SwitchError::OtherQueue { has }));
    }
    assert_eq!(lazy.mode(), has);
}

/// Threads map, use and unmap in an aperture so small that addresses come back
/// soon, while the mode changes under them: no device may ever reach another
/// buffer than the one that is mapped, and after each way back nothing that was
/// unmapped before is reachable.
#[test]
fn l4_switches_under_running_io() {
    for lazy in [
        Mode::Lazy(small_queue(4)),
        Mode::LazySingle(small_queue(8)),
        Mode::LazyParked(small_queue(4)),
    ] {
        let config = DomainConfig::new(Mode::Strict)
            .aperture(Iova(0x1000), Iova(0x3_ffff))
            .reclaim(None);
        let domain = domain_with(config);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 1..=2_u64 {
                let (domain, stop) = (&domain, &stop);
                scope.spawn(move || {
                    let mut round = 0_u64;
                    while !stop.load(Ordering::Relaxed) || round < 50 {
                        let phys = (thread << 40) + (round << 20);
                        let mapping = map(domain, phys, (round % 3 + 1) * PAGE);
                        for (index, page) in pages(&mapping).enumerate() {
                            let expected = PhysAddr(phys + index as u64 * PAGE);
                            assert_eq!(domain.backend().touch(page), Some(expected));
                        }
                        match round % 3 {
                            0 => domain.unmap(mapping).unwrap(),
                            1 => {
                                let pending = domain.unmap_begin(mapping).unwrap();
                                domain.complete(pending).unwrap();
                            }
                            _ => domain.unmap_parked(mapping, Box::new(round)).unwrap(),
                        }
                        round += 1;
                    }
                });
            }
            for _ in 0..40 {
                domain.relax(lazy).unwrap();
                let mapping = map(&domain, 0x7000_0000, PAGE);
                let mine = touch_all(&domain, &mapping);
                let reached = domain.backend().touch(mine[0]);
                domain.unmap(mapping).unwrap();
                std::thread::yield_now();
                domain.tighten().unwrap();
                // The address may be somebody else's by now.
                assert!(domain.backend().touch(mine[0]) != reached);
            }
            stop.store(true, Ordering::Relaxed);
        });
        domain.tighten().unwrap();
        let stats = domain.stats();
        assert_eq!((stats.live_mappings, stats.queued), (0, 0));
        assert_eq!(stats.iova_pages_held, 0);
        assert_eq!(domain.memory().freed_early(), 0);
        domain.close().unwrap();
    }
}
