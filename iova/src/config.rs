//! How a domain is set up, and what is asked of it.

use dmabench_platform::{Granule, Iova};

/// Which of several fitting places a range is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Policy {
    /// The highest address that fits (Linux).
    #[default]
    HighestFirst,
    /// The lowest address that fits.
    LowestFirst,
    /// A hole that fits tightly: for small spaces with mixed sizes.
    BestFit,
}

/// How the start of a range is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Align {
    /// To the size, rounded up to a power of two (Linux, `size_aligned`).
    #[default]
    Natural,
    /// To a page.
    None,
    /// To `1 << n` pages.
    Lg2Pages(u8),
}

/// What an allocation must satisfy besides its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocRequest {
    /// The last address that may be used: a device's DMA mask. A limit beyond
    /// the aperture is the aperture's end.
    pub limit: Iova,
    /// Alignment of the start.
    pub align: Align,
}

impl AllocRequest {
    /// Natural alignment, at or below `limit`.
    #[inline]
    pub const fn below(limit: Iova) -> Self {
        AllocRequest {
            limit,
            align: Align::Natural,
        }
    }
}

impl Default for AllocRequest {
    /// Natural alignment, anywhere.
    fn default() -> Self {
        AllocRequest::below(Iova(u64::MAX))
    }
}

/// Up to which size ranges are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CachedSizes {
    /// Up to 2 MiB, and less where the aperture is small: the rounding to
    /// powers of two that caching needs would cost too much of it.
    #[default]
    Auto,
    /// Nothing is cached, and every size is exact.
    None,
    /// Sizes up to `1 << n` pages, at most 2 MiB.
    UpToLg2Pages(u8),
}

/// Set-up of an [`IovaDomain`](crate::IovaDomain).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IovaConfig {
    /// The smallest page of the translation tables; sizes count in it.
    pub granule: Granule,
    /// First address of the aperture. Rounded up to a granule.
    pub first: Iova,
    /// Last address of the aperture, inclusive. The granule it cuts is left out.
    pub last: Iova,
    /// Use addresses above 4 GiB only when none below is free, as Linux does
    /// for PCI devices that claim 64 bits and do not mean it.
    pub low32_first: bool,
    /// Which of several fitting places is taken.
    pub policy: Policy,
    /// Up to which size ranges are cached per slot.
    pub cached: CachedSizes,
    /// Ranges of one size that may come back all at once, as those of a long
    /// flush queue do. The depots have room for so many more; without it they go
    /// to the index one by one and come from there one by one. 0 by default.
    pub burst: usize,
}

impl IovaConfig {
    /// The aperture `first..=last` in units of `granule`; the rest by default.
    pub const fn new(granule: Granule, first: Iova, last: Iova) -> Self {
        IovaConfig {
            granule,
            first,
            last,
            low32_first: false,
            policy: Policy::HighestFirst,
            cached: CachedSizes::Auto,
            burst: 0,
        }
    }

    /// Sets [`low32_first`](Self::low32_first).
    pub const fn low32_first(mut self, on: bool) -> Self {
        self.low32_first = on;
        self
    }

    /// Sets [`policy`](Self::policy).
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets [`cached`](Self::cached).
    pub const fn cached(mut self, cached: CachedSizes) -> Self {
        self.cached = cached;
        self
    }

    /// Sets [`burst`](Self::burst).
    pub const fn burst(mut self, ranges: usize) -> Self {
        self.burst = ranges;
        self
    }
}
