//! Lazy domains whose addresses are all parked in the flush queue.

mod common;

use common::*;
use dmabench_dma::*;
use dmabench_iova::AllocError;
use dmabench_platform::{Iova, PhysAddr};

/// Pages of the aperture.
const PAGES: u64 = 8;

fn small() -> TestDomain {
    let config = DomainConfig::new(Mode::lazy());
    domain_with(config.aperture(Iova(PAGE), Iova(PAGE * (PAGES + 1) - 1)))
}

fn map(domain: &TestDomain, pages: u64) -> Result<Mapping, MapError> {
    let buffer = Segment {
        phys: PhysAddr(0x5000),
        len_bytes: pages * PAGE,
    };
    domain.map(&Device::new(), buffer, Direction::FromDevice)
}

/// Maps and unmaps until every address waits for a flush.
fn park_all(domain: &TestDomain) -> Vec<Iova> {
    let mut parked = Vec::new();
    for _ in 0..PAGES {
        let mapping = map(domain, 1).unwrap();
        parked.extend(touch_all(domain, &mapping));
        domain.unmap(mapping).unwrap();
    }
    assert_eq!(domain.stats().queued, PAGES);
    assert_eq!(domain.backend().counts().1, 0, "no flush yet");
    parked
}

#[test]
fn l2_parked_addresses_are_flushed_before_a_map_is_refused() {
    let domain = small();
    let parked = park_all(&domain);
    let mapping = map(&domain, 1).unwrap();
    assert_eq!(domain.backend().counts().1, 1);
    assert_eq!(domain.stats().queued, 0);
    assert_eq!(domain.stats().iova_pages_held, 1);
    assert_eq!(stale(&domain, &parked), 1, "the new one, no other");
    // Half of it in one piece: only once single pages have come together again.
    domain.unmap(mapping).unwrap();
    let half = map(&domain, PAGES / 2).unwrap();
    assert_eq!(half.mapped_range(), Some((Iova(4 * PAGE), 4 * PAGE)));
    domain.unmap(half).unwrap();
    domain.close().unwrap();
}

#[test]
fn l2_addresses_parked_in_another_slot_are_flushed_too() {
    let domain = small();
    // This thread has its slot before the other one comes.
    assert_eq!(domain.translate(Iova(PAGE)), None);
    std::thread::scope(|scope| {
        scope.spawn(|| park_all(&domain)).join().unwrap();
    });
    let mapping = map(&domain, 1).unwrap();
    assert_eq!(domain.backend().counts().1, 1);
    assert_eq!(domain.stats().iova_pages_held, 1);
    domain.unmap(mapping).unwrap();
    domain.close().unwrap();
}

#[test]
fn a11_a_flush_that_fails_releases_nothing_and_the_map_is_refused() {
    for fault in [Fault::Refuse, Fault::RefuseSync, Fault::Late] {
        let domain = small();
        let parked = park_all(&domain);
        domain.backend().inject(fault);
        let refused = map(&domain, 1).unwrap_err();
        assert_eq!(refused, MapError::Iova(AllocError::NoSpace), "{fault:?}");
        assert_eq!(domain.stats().queued, PAGES);
        assert_eq!(domain.stats().iova_pages_held, PAGES);
        assert_eq!(domain.stats().flush.failed, 1);
        assert_eq!(stale(&domain, &parked) as u64, PAGES, "still reachable");
        domain.unmap(map(&domain, 1).unwrap()).unwrap();
        domain.close().unwrap();
    }
}

/// Addresses in use are not in the queue: one flush, and the refusal stands.
#[test]
fn a_map_that_no_flush_can_help_is_refused() {
    let domain = small();
    let held: Vec<_> = (0..PAGES).map(|_| map(&domain, 1).unwrap()).collect();
    let refused = map(&domain, 1).unwrap_err();
    assert_eq!(refused, MapError::Iova(AllocError::NoSpace));
    assert_eq!(domain.backend().counts(), (0, 0, 0), "nothing was queued");
    for mapping in held {
        domain.unmap(mapping).unwrap();
    }
    domain.close().unwrap();
}
