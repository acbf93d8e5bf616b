//! Set-up that both iova benches share.

use std::{hint::black_box, sync::Arc};

use dmabench_iova::{AllocRequest, CachedSizes, IovaConfig, IovaDomain, IovaRange};
use dmabench_platform::{Fences, Granule, Iova, SlotGuard, Slots};

/// 48 bits, as a 4-level table has.
pub(crate) const LAST: Iova = Iova((1 << 48) - 1);
/// What a device with a 48-bit mask asks for.
pub(crate) const REQUEST: AllocRequest = AllocRequest::below(LAST);

/// A domain with its slots; `cached` off measures the index alone.
pub(crate) fn domain(cached: CachedSizes) -> IovaDomain {
    let slots = Arc::new(Slots::new(64, Fences::detect()).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0x1000), LAST).cached(cached);
    IovaDomain::new(config, slots).unwrap()
}

/// The public call, kept out of line as in another crate without LTO.
#[inline(never)]
pub(crate) fn alloc(domain: &IovaDomain, slot: &mut SlotGuard<'_>, size_pages: u64) -> IovaRange {
    match domain.alloc(slot, size_pages, &REQUEST) {
        Ok(range) => range,
        Err(error) => panic!("{error}"),
    }
}

/// The public call, kept out of line.
#[inline(never)]
pub(crate) fn free(domain: &IovaDomain, slot: &mut SlotGuard<'_>, range: IovaRange) {
    if let Err(error) = domain.free(slot, range) {
        panic!("{error}");
    }
}

/// A small generator: the benches must not measure a good one.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Sizes of a live population.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sizes {
    One(u64),
    /// Uniform, 64 to 512 pages.
    Mixed,
}

impl Sizes {
    pub(crate) fn next(self, random: &mut Random) -> u64 {
        match self {
            Sizes::One(size) => size,
            Sizes::Mixed => 64 + random.below(449),
        }
    }
}

/// A domain without caches and `count` live ranges.
pub(crate) struct Population {
    pub(crate) domain: IovaDomain,
    pub(crate) live: Vec<IovaRange>,
    pub(crate) random: Random,
}

impl Population {
    pub(crate) fn new(count: usize, sizes: Sizes) -> Self {
        let domain = domain(CachedSizes::None);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut live = Vec::with_capacity(count + 1);
        {
            let mut slot = domain.slots().enter_fallback();
            for _ in 0..count {
                live.push(alloc(&domain, &mut slot, sizes.next(&mut random)));
            }
        }
        Population {
            domain,
            live,
            random,
        }
    }

    /// Frees a random range and allocates one of the same size.
    #[inline]
    pub(crate) fn churn(&mut self, slot: &mut SlotGuard<'_>) {
        let at = self.random.below(self.live.len() as u64) as usize;
        let range = self.live.swap_remove(at);
        let size = range.size_pages();
        free(&self.domain, slot, range);
        let range = alloc(&self.domain, slot, black_box(size));
        assert!(range.size_pages() == size);
        self.live.push(range);
    }
}
