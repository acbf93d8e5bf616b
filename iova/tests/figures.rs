//! Figures while others are at work: each is one the domain had.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use dmabench_iova::*;
use dmabench_platform::{Fences, Granule, Iova, Slots, TimeNs};

/// A trim moves ranges from the depots to the index outside of every section. It
/// must not be seen half-way: the sum is the space at every moment.
#[test]
fn figures_add_up_beside_a_trim() {
    let slots = Arc::new(Slots::new(1, Fences::detect()).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0x1000), Iova((1 << 40) - 1));
    let domain = IovaDomain::new(config, slots.clone()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut now = 0;
            for _ in 0..60 {
                let mut slot = slots.enter_fallback();
                let ranges: Vec<_> = (0..4000)
                    .map(|_| {
                        domain
                            .alloc(&mut slot, 1, &AllocRequest::default())
                            .unwrap()
                    })
                    .collect();
                for range in ranges {
                    domain.free(&mut slot, range).unwrap();
                }
                drop(slot);
                // The first stamps the time, the next give back.
                for _ in 0..3 {
                    domain.trim(TimeNs(now));
                    now += 200_000_000;
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let stats = domain.stats();
            let sum =
                stats.live_bytes + stats.cached_bytes + stats.free_bytes + stats.reserved_bytes;
            assert_eq!(sum, stats.space_bytes, "{stats:?}");
            assert!(stats.live_bytes <= 4000 * 4096, "{stats:?}");
        }
    });
    assert_eq!(domain.stats().live_bytes, 0);
}
