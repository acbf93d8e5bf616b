//! What the index needs per live range.

use std::sync::Arc;

use dmabench_iova::*;
use dmabench_platform::{Fences, Granule, Iova, Slots};

const LIVE: u64 = 100_000;

/// Bytes per live range of `size` pages, after all but one in `keep_one_in`
/// were freed at random. Caches are off, so it is the index alone.
fn bytes_per_range(size: u64, keep_one_in: u64) -> f64 {
    let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let config =
        IovaConfig::new(Granule::K4, Iova(0x1000), Iova((1 << 48) - 1)).cached(CachedSizes::None);
    let domain = IovaDomain::new(config, slots).unwrap();
    let mut slot = domain.slots().enter_fallback();
    let request = AllocRequest::default();
    let mut live: Vec<IovaRange> = (0..LIVE)
        .map(|_| domain.alloc(&mut slot, size, &request).unwrap())
        .collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while live.len() as u64 > LIVE / keep_one_in {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = (random % live.len() as u64) as usize;
        domain.free(&mut slot, live.swap_remove(at)).unwrap();
    }
    drop(slot);
    domain.stats().memory_bytes as f64 / live.len() as f64
}

#[test]
fn single_pages_that_lie_densely_need_a_fraction_of_a_byte() {
    let bytes = bytes_per_range(1, 1);
    assert!(bytes <= 0.3, "{bytes}");
}

#[test]
fn single_pages_of_which_a_tenth_is_left_need_few_bytes() {
    let bytes = bytes_per_range(1, 10);
    assert!(bytes <= 3.0, "{bytes}");
}

#[test]
fn ranges_of_64_pages_need_a_word_and_a_byte() {
    let bytes = bytes_per_range(64, 1);
    assert!(bytes <= 11.0, "{bytes}");
}
