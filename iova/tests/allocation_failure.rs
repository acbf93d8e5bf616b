//! Every allocation of memory fails once: the Nth, for N = 0, 1, 2 and so on,
//! until a whole history needs none further. A failed call changes nothing, and
//! freeing never needs memory. (As Linux's `iommufd_fail_nth`.)

mod failing;

use std::sync::Arc;

use dmabench_iova::*;
use dmabench_platform::{Fences, Granule, Iova, SlotGuard, Slots, TimeNs};
use failing::failing_at;

fn domain() -> IovaDomain {
    let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0x1000), Iova((1 << 44) - 1));
    IovaDomain::new(config, slots).unwrap()
}

#[test]
fn a_domain_that_cannot_be_made_is_an_error_and_uses_nothing_up() {
    let slots = Arc::new(Slots::new(4, Fences::Symmetric).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0x1000), Iova((1 << 44) - 1));
    let mut failures = 0;
    for nth in 0.. {
        let (made, failed) = failing_at(nth, || IovaDomain::new(config.clone(), slots.clone()));
        match made {
            Ok(_) => assert!(!failed, "allocation {nth}"),
            Err(error) => assert_eq!(error, ConfigError::NoMemory, "allocation {nth}"),
        }
        if !failed {
            break;
        }
        failures += 1;
    }
    // The index and the caches.
    assert!(failures >= 2, "only {failures} points of failure");
    assert_eq!(Arc::strong_count(&slots), 1);
}

/// Sizes that need magazines, nodes of several heights, and edges on both ends.
const SIZES: [u64; 9] = [1, 3, 64, 100, 512, 513, 5000, 300_000, 20_000_001];

/// A history; the first error, if any. Everything it got is freed again.
fn history(domain: &IovaDomain, held: &mut Vec<IovaRange>) -> Result<(), AllocError> {
    let mut slot = domain.slots().enter_fallback();
    let mut result = Ok(());
    for round in 0..3 {
        for size in SIZES {
            let align = if round == 0 {
                Align::None
            } else {
                Align::Natural
            };
            let limit = Iova((1 << (44 - round * 2)) - 1);
            match domain.alloc(&mut slot, size, &AllocRequest { limit, align }) {
                Ok(range) => held.push(range),
                Err(error) => result = Err(error),
            }
        }
    }
    result
}

fn free_all(domain: &IovaDomain, slot: &mut SlotGuard<'_>, held: &mut Vec<IovaRange>) {
    for range in held.drain(..) {
        domain.free(slot, range).expect("freeing cannot fail");
    }
}

#[test]
fn an_allocation_that_fails_anywhere_changes_nothing() {
    let mut failures = 0;
    for nth in 0.. {
        let domain = domain();
        let mut held = Vec::with_capacity(100);
        let (result, failed) = failing_at(nth, || history(&domain, &mut held));
        if let Err(error) = result {
            assert_eq!(error, AllocError::NoMemory, "allocation {nth}");
        }
        let live: u64 = held.iter().map(IovaRange::len_bytes).sum();
        assert!(domain.stats().live_bytes >= live);
        free_all(&domain, &mut domain.slots().enter_fallback(), &mut held);
        assert_eq!(domain.stats().live_bytes, 0, "allocation {nth}");
        domain.drain();
        let stats = domain.stats();
        assert_eq!(stats.free_bytes, stats.space_bytes, "allocation {nth}");
        assert_eq!(stats.largest_free_run_bytes, stats.space_bytes);
        // The domain is as good as new.
        history(&domain, &mut held).unwrap();
        free_all(&domain, &mut domain.slots().enter_fallback(), &mut held);
        if !failed {
            break;
        }
        failures += 1;
    }
    assert!(
        failures > 30,
        "only {failures} points of failure were reached"
    );
}

#[test]
fn freeing_needs_no_memory_wherever_an_allocation_fails() {
    let mut failures = 0;
    for nth in 0.. {
        let domain = domain();
        // More than two magazines hold, so that frees reach the depot.
        let mut held: Vec<IovaRange> = {
            let mut slot = domain.slots().enter_fallback();
            let request = AllocRequest::default();
            (0..600)
                .map(|i| domain.alloc(&mut slot, SIZES[i % 7], &request).unwrap())
                .collect()
        };
        let ((), failed) = failing_at(nth, || {
            free_all(&domain, &mut domain.slots().enter_fallback(), &mut held);
            domain.trim(TimeNs(0));
            domain.trim(TimeNs(1 << 40));
            domain.drain();
        });
        let stats = domain.stats();
        assert_eq!(stats.free_bytes, stats.space_bytes, "allocation {nth}");
        if !failed {
            break;
        }
        failures += 1;
    }
    assert!(failures > 0, "no magazine was allocated");
}

#[test]
fn reserve_that_fails_anywhere_changes_nothing() {
    let mut failures = 0;
    for nth in 0.. {
        let domain = domain();
        let before = domain.stats();
        let (result, failed) = failing_at(nth, || {
            domain.reserve(Iova(0x12_3456_7000), Iova(0x89_abcd_efff))
        });
        if !failed {
            result.unwrap();
            break;
        }
        failures += 1;
        assert_eq!(result, Err(ReserveError::NoMemory));
        let after = domain.stats();
        assert_eq!(before.free_bytes, after.free_bytes);
        assert_eq!(
            before.memory_bytes, after.memory_bytes,
            "a node was left behind"
        );
        domain
            .reserve(Iova(0x12_3456_7000), Iova(0x89_abcd_efff))
            .unwrap();
    }
    assert!(
        failures >= 5,
        "only {failures} points of failure were reached"
    );
}

#[test]
fn an_export_that_fails_hands_the_range_back() {
    let domain = domain();
    let mut slot = domain.slots().enter_fallback();
    let range = domain
        .alloc(&mut slot, 1, &AllocRequest::default())
        .unwrap();
    let (result, failed) = failing_at(0, || domain.into_raw(range));
    assert!(failed);
    let error = result.unwrap_err();
    assert_eq!(error.reason, IntoRawReason::NoMemory);
    let (iova, size) = domain.into_raw(error.range).unwrap();
    domain.free_raw(&mut slot, iova, size).unwrap();
}
