//! The loads of the sweep of sizes, and how often each needs the shared index.

use std::sync::Arc;

use dmabench_iova::{AllocRequest, IovaConfig, IovaDomain, IovaRange};
use dmabench_platform::{Fences, Granule, Iova, PhysAddr, SlotSource, Slots, ThreadSlots};

use crate::{
    report::Source,
    workload::{Builder, Direction, Segment, Step, Workload, generate::Random},
};

const PAGE: u64 = 4096;
/// Requests of one pass.
const REQUESTS: u32 = 1024;
/// Passes before and while searches are counted.
const PASSES: u32 = 3;
/// Pages above which Linux's caches end (`IOVA_RANGE_CACHE_MAX_SIZE` 6 in
/// `iova.c`: 1 to 32 pages).
const LINUX_CACHED_PAGES: u64 = 32;

/// Single buffers of one size, `depth` in flight, completed in any order.
pub(super) fn workload(bytes: u64, depth: u32, seed: u64) -> Workload {
    let mut random = Random::new(seed);
    let mut builder = Builder::new();
    let mut flying: Vec<u32> = Vec::new();
    for _ in 0..REQUESTS {
        if flying.len() as u32 >= depth {
            let done = random.below(flying.len() as u64) as usize;
            builder.unmap(flying.swap_remove(done));
        }
        let phys = PhysAddr(0x8000_0000 + random.below(1 << 18) * PAGE);
        let buffer = Segment {
            phys,
            len_bytes: bytes,
        };
        flying.push(builder.map(0, Direction::FromDevice, [buffer]));
    }
    let name = format!("{}K", bytes.div_ceil(1024));
    let source = Source::Generated {
        generator: format!("sizes bytes={bytes} depth={depth} seed={seed}"),
    };
    let description = "buffers of one size, completed in any order".to_owned();
    builder.finish(name, description, source, None, vec!["sizes".to_owned()])
}

/// Searches of the index per request that the allocator of a domain needs for
/// `load` when its caches are warm. Freed addresses come back at once, or with
/// the flush of a queue of `queue_entries`. `low32`: addresses below 4 GiB
/// first, as the runs have them and Linux for PCI devices; the caches are then
/// sized for that space.
pub(super) fn index_searches(
    load: &Workload,
    queue_entries: Option<usize>,
    low32: bool,
) -> Option<f64> {
    let slots = Arc::new(Slots::new(64, Fences::detect()).ok()?);
    let config = IovaConfig::new(Granule::K4, Iova(PAGE), Iova((1 << 48) - 1)).low32_first(low32);
    let iova = IovaDomain::new(config, slots.clone()).ok()?;
    let mut live: Vec<Option<IovaRange>> = (0..load.live_max).map(|_| None).collect();
    let mut queue = Vec::new();
    let mut before = 0;
    for pass in 0..2 * PASSES {
        if pass == PASSES {
            before = iova.stats().searches;
        }
        let pin = ThreadSlots.pin();
        let mut slot = slots.enter_pinned(&pin).ok()?;
        for step in load.steps() {
            match *step {
                Step::Map(number) => {
                    let request = &load.requests()[number as usize];
                    let pages = request.bytes.div_ceil(PAGE);
                    let anywhere = AllocRequest::below(Iova(u64::MAX));
                    let range = iova.alloc(&mut slot, pages, &anywhere).ok()?;
                    live[request.place as usize] = Some(range);
                }
                Step::Unmap(number) => {
                    let place = load.requests()[number as usize].place as usize;
                    queue.extend(live[place].take());
                    if queue_entries.is_none_or(|entries| queue.len() >= entries) {
                        for range in queue.drain(..) {
                            iova.free(&mut slot, range).ok()?;
                        }
                    }
                }
            }
        }
    }
    let searches = iova.stats().searches - before;
    Some(searches as f64 / (load.requests().len() as u64 * u64::from(PASSES)) as f64)
}

/// Of Linux, by its source: beyond its caches each allocation takes the tree.
pub(super) fn linux_index_searches(bytes: u64) -> f64 {
    if bytes.div_ceil(PAGE) > LINUX_CACHED_PAGES {
        1.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_serve_small_requests_and_the_index_large_ones() {
        let of =
            |bytes, queue, low32| index_searches(&workload(bytes, 32, 1), queue, low32).unwrap();
        for low32 in [true, false] {
            assert_eq!(of(4 << 10, None, low32), 0.0);
            assert_eq!(of(128 << 10, None, low32), 0.0);
            assert_eq!(of(4 << 20, None, low32), 1.0);
            assert!(of(4 << 10, Some(256), low32) < 0.1);
        }
        // A space of 4 GiB caches up to 128 KiB, one of 48 bits up to 2 MiB.
        assert_eq!(of(132 << 10, None, true), 1.0);
        assert!(of(132 << 10, None, false) < 0.1);
        assert!(of(512 << 10, None, false) < 0.1);
    }

    #[test]
    fn linux_ends_at_128_kib() {
        assert_eq!(linux_index_searches(128 << 10), 0.0);
        assert_eq!(linux_index_searches((128 << 10) + 1), 1.0);
    }

    #[test]
    fn the_load_is_what_it_says() {
        let load = workload(132 << 10, 32, 1);
        assert_eq!((load.live_max, load.requests().len()), (32, 1024));
        assert!(load.requests().iter().all(|r| r.bytes == 132 << 10));
    }
}
