//! Arbitrary histories of the IOVA allocator, each page checked against a
//! model: no page has two owners, no refusal while a place is free, and at the
//! end everything comes back.

#![no_main]

use std::sync::Arc;

use dmabench_iova::{
    Align, AllocError, AllocRequest, CachedSizes, IovaConfig, IovaDomain, IovaRange, Policy,
};
use dmabench_platform::{Fences, Granule, Iova, Slots, TimeNs};
use libfuzzer_sys::fuzz_target;

const PAGE: u64 = 4096;

fuzz_target!(|data: &[u8]| {
    let [first, pages, policy, cached, history @ ..] = data else {
        return;
    };
    let first = u64::from(*first) * 17;
    let pages = u64::from(*pages) * 33 + 1;
    let policy =
        [Policy::HighestFirst, Policy::LowestFirst, Policy::BestFit][usize::from(*policy % 3)];
    let cached = match cached % 11 {
        10 => CachedSizes::None,
        n => CachedSizes::UpToLg2Pages(n),
    };
    let last = first + pages - 1;
    let slots = Arc::new(Slots::new(2, Fences::Symmetric).unwrap());
    let config = IovaConfig::new(
        Granule::K4,
        Iova(first * PAGE),
        Iova(last * PAGE + PAGE - 1),
    )
    .policy(policy)
    .cached(cached);
    let domain = IovaDomain::new(config, slots).unwrap();
    let footprint = |size: u64| {
        if size <= domain.cached_up_to_pages() {
            size.next_power_of_two()
        } else {
            size
        }
    };
    let mut taken = vec![false; pages as usize];
    let mut mark = |range: &IovaRange, to: bool| {
        let at = (range.iova().0 / PAGE - first) as usize;
        for page in &mut taken[at..at + footprint(range.size_pages()) as usize] {
            assert_ne!(*page, to, "a page has two owners");
            *page = to;
        }
    };
    let mut live: Vec<IovaRange> = Vec::new();
    for step in history.chunks_exact(3) {
        let [what, a, b] = [step[0], step[1], step[2]];
        // SAFETY: one thread runs the target.
        let mut slot = unsafe { domain.slots().enter(Some(usize::from(what >> 6))).unwrap() };
        match what % 8 {
            0..4 => {
                let size = match what % 4 {
                    0 => 1 << (a % 10),
                    1 => u64::from(a),
                    2 => u64::from(a) * u64::from(b),
                    _ => u64::from(a % 8),
                };
                let align = match b % 3 {
                    0 => Align::Natural,
                    1 => Align::None,
                    _ => Align::Lg2Pages(b / 16),
                };
                let limit = first + u64::from(b) * 33 % pages;
                let limit = Iova(limit * PAGE + PAGE - 1);
                match domain.alloc(&mut slot, size, &AllocRequest { limit, align }) {
                    Ok(range) => {
                        assert!(range.last() <= limit);
                        mark(&range, true);
                        live.push(range);
                    }
                    Err(AllocError::ZeroSize) => assert_eq!(size, 0),
                    Err(error) => assert_eq!(error, AllocError::NoSpace),
                }
            }
            4..7 => {
                if !live.is_empty() {
                    let range = live.swap_remove(usize::from(a) % live.len());
                    mark(&range, false);
                    domain.free(&mut slot, range).unwrap();
                }
            }
            _ => {
                drop(slot);
                if a % 2 == 0 {
                    domain.drain();
                } else {
                    domain.trim(TimeNs(u64::from(b) << 30));
                }
            }
        }
    }
    let mut slot = domain.slots().enter_fallback();
    for range in live.drain(..) {
        mark(&range, false);
        domain.free(&mut slot, range).unwrap();
    }
    drop(slot);
    domain.drain();
    let stats = domain.stats();
    assert_eq!(stats.free_bytes, pages * PAGE);
    assert_eq!(stats.largest_free_run_bytes, pages * PAGE);
});
