//! Every allocation of memory fails once: the Nth, for N = 0, 1, 2 and so on,
//! until a domain needs none further. What was asked for is then an error, and
//! nothing has changed. (As Linux's `iommufd_fail_nth`.)

#[path = "../../iova/tests/failing/mod.rs"]
mod failing;

use std::sync::Arc;

use dmabench_dma::*;
use dmabench_flushq::{CountingBackend, QueueConfig, QueueConfigError};
use dmabench_pgtable::HeapTables;
use dmabench_platform::{Fences, PhysAddr, Slots, SlotsError, ThreadSlots};
use failing::{UNTIL_FAILURE, failing_at};

/// Calls `f` until no allocation fails: how many it makes. `f` says whether it
/// succeeded.
fn sweep(mut f: impl FnMut() -> bool) -> i64 {
    for nth in 0..10_000 {
        let (done, failed) = failing_at(nth, &mut f);
        assert_eq!(done, !failed, "allocation {nth}");
        if done {
            return nth;
        }
    }
    unreachable!("a domain does not need so many");
}

fn slots() -> Arc<Slots> {
    Arc::new(Slots::new(3, Fences::Symmetric).unwrap())
}

const QUEUE: QueueConfig = QueueConfig {
    entries_per_slot: 8,
    timeout_ns: 1,
};

const LAZY: [Mode; 3] = [
    Mode::Lazy(QUEUE),
    Mode::LazySingle(QUEUE),
    Mode::LazyParked(QUEUE),
];

#[test]
fn a_table_of_slots_that_cannot_be_made_is_an_error() {
    let needed = sweep(|| match Slots::new(3, Fences::Symmetric) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, SlotsError::NoMemory);
            false
        }
    });
    assert!(needed > 0);
}

#[test]
fn a_domain_that_cannot_be_made_is_an_error() {
    let slots = slots();
    for mode in LAZY.into_iter().chain([Mode::Strict, Mode::Passthrough]) {
        let mut kept = None;
        let needed = sweep(|| {
            // What the test itself needs does not fail.
            let left = UNTIL_FAILURE.replace(-1);
            let backend = CountingBackend::new(&slots);
            UNTIL_FAILURE.set(left);
            let config = DomainConfig::new(mode);
            let made =
                Domain::with_parts(config, slots.clone(), ThreadSlots, HeapTables, backend, ());
            kept = made.ok();
            kept.is_some()
        });
        assert!(needed > 3, "{mode:?}: {needed}");
        let domain: Domain = kept.unwrap();
        let buffer = Segment {
            phys: PhysAddr(0x1000),
            len_bytes: 1,
        };
        let mapping = domain.map(&Device::new(), buffer, Direction::ToDevice);
        domain.unmap(mapping.unwrap()).unwrap();
        domain.close().unwrap();
    }
}

#[test]
fn a_switch_without_memory_changes_nothing() {
    for mode in LAZY {
        let slots = slots();
        let backend = CountingBackend::new(&slots);
        let domain = Domain::new(DomainConfig::new(Mode::Strict), slots, backend, ()).unwrap();
        let needed = sweep(|| match domain.relax(mode) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error, SwitchError::Queue(QueueConfigError::NoMemory));
                assert_eq!(domain.mode(), Mode::Strict);
                false
            }
        });
        assert!(needed > 1, "{mode:?}: {needed}");
        assert_eq!(domain.mode(), mode);
    }
}
