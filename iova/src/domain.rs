//! The domain: one I/O address space and who owns which part of it.

use alloc::{sync::Arc, vec::Vec};

use dmabench_platform::{
    Granule, Iova, PerSlot, SlotGuard, Slots,
    sync::{
        Mutex, ShortMutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    AllocError, ConfigError, FreeError, IovaRange, ReserveError,
    cache::{CLASSES, SlotCache, Wish},
    config::{Align, AllocRequest, CachedSizes, IovaConfig, Policy},
    depot::Depot,
    index::{Index, ceil_lg2},
    live::LiveMap,
    magazine::{CAPACITY, Pair},
    number,
    range::TokenKey,
    trim::Deadline,
};

/// One I/O address space. Shared by reference; every method may be called by
/// any number of threads at once.
#[derive(Debug)]
pub struct IovaDomain {
    pub(crate) key: TokenKey,
    granule_lg2: u32,
    /// Sizes up to so many pages are cached: `1 << (class_count - 1)`, or 0.
    cached_up_to_pages: u64,
    pub(crate) class_count: u32,
    /// The last address that magazines may serve for now: 4 GiB - 1 while
    /// `low32_first` finds space there.
    cached_limit: AtomicU64,
    /// Limits above it let every cached address through: the last address but
    /// one, or `u64::MAX` while `cached_limit` has to be looked at.
    open_above: AtomicU64,
    pub(crate) caches: PerSlot<SlotCache>,
    // What follows is for slow paths.
    granule: Granule,
    pub(crate) policy: Policy,
    first_page: u64,
    last_page: u64,
    /// With `low32_first`: the last page of the low part.
    pub(crate) low_last_page: Option<u64>,
    pub(crate) depots: [ShortMutex<Depot>; CLASSES],
    pub(crate) deadline: Deadline,
    pub(crate) space: ShortMutex<Space>,
    pub(crate) exported: Mutex<LiveMap>,
}

/// What the index lock protects.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) index: Index,
    /// First and last page of each reserved region, sorted.
    reserved: Vec<(u64, u64)>,
}

impl Space {
    pub(crate) fn is_reserved(&self, page: u64) -> bool {
        let at = self.reserved.partition_point(|region| region.1 < page);
        self.reserved.get(at).is_some_and(|region| region.0 <= page)
    }

    fn reserved_pages(&self) -> u64 {
        self.reserved
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum()
    }
}

/// So that every sum of sizes fits into 64 bits.
const MAX_SPACE_BYTES: u64 = 1 << 63;

const LOW32_LAST: u64 = u32::MAX as u64;

/// Alignments from here on satisfy no page number but 0.
const ALIGN_LG2_END: u32 = 52;

/// How many classes are cached.
fn class_count(config: &IovaConfig, pages: u64) -> u32 {
    // 2 MiB, or 512 pages of 4 KiB.
    let most = 21 - config.granule.lg2();
    let largest = match config.cached {
        CachedSizes::None => return 0,
        CachedSizes::UpToLg2Pages(n) => u32::from(n).min(most),
        CachedSizes::Auto => {
            let pages = if config.low32_first {
                pages.min((LOW32_LAST >> config.granule.lg2()) + 1)
            } else {
                pages
            };
            // A full pair of the largest class is then less than a hundredth of
            // the space; a 32-bit space caches up to 32 pages, as Linux does.
            match pages.ilog2().checked_sub(15) {
                None => return 0,
                Some(n) => n.min(most),
            }
        }
    };
    (largest + 1).min(CLASSES as u32)
}

impl IovaDomain {
    /// A domain with every page of the aperture free.
    pub fn new(config: IovaConfig, slots: Arc<Slots>) -> Result<Self, ConfigError> {
        let granule = config.granule;
        let lg2 = granule.lg2();
        if config.last < config.first {
            return Err(ConfigError::Inverted);
        }
        let first_page = config.first.0.div_ceil(granule.bytes());
        // The page after the last whole one; 2^64 bytes are 2^52 pages or less.
        let end = ((u128::from(config.last.0) + 1) >> lg2) as u64;
        if end <= first_page {
            return Err(ConfigError::Empty);
        }
        let last_page = end - 1;
        let pages = end - first_page;
        if pages > MAX_SPACE_BYTES >> lg2 {
            return Err(ConfigError::TooLarge);
        }
        let index = Index::new(first_page, last_page).map_err(|_| ConfigError::NoMemory)?;
        let caches = PerSlot::new(slots.clone(), |_| SlotCache::default())
            .map_err(|_| ConfigError::NoMemory)?;
        let number = number::take()?;
        let class_count = class_count(&config, pages);
        let low_last_page =
            (config.low32_first && last_page > LOW32_LAST >> lg2).then_some(LOW32_LAST >> lg2);
        // As many full magazines as all slots could load at once, 16, and those
        // of a burst.
        let depot_room = 2 * slots.count() + 16 + config.burst.div_ceil(CAPACITY);
        Ok(IovaDomain {
            key: TokenKey::new(number, granule),
            granule_lg2: lg2,
            cached_up_to_pages: (1 << class_count) >> 1,
            class_count,
            cached_limit: AtomicU64::new(if low_last_page.is_some() {
                LOW32_LAST
            } else {
                u64::MAX
            }),
            open_above: AtomicU64::new(if low_last_page.is_some() {
                u64::MAX
            } else {
                last_address(last_page, lg2) - 1
            }),
            caches,
            granule,
            policy: config.policy,
            first_page,
            last_page,
            low_last_page,
            depots: core::array::from_fn(|_| ShortMutex::new(Depot::new(depot_room))),
            deadline: Deadline::new(),
            space: ShortMutex::new(Space {
                index,
                reserved: Vec::new(),
            }),
            exported: Mutex::new(LiveMap::default()),
        })
    }

    /// The granule sizes count in.
    #[inline]
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// The slots the domain was made with.
    #[inline]
    pub fn slots(&self) -> &Arc<Slots> {
        self.caches.slots()
    }

    /// Whether the guard is of the domain's slots.
    #[inline(always)]
    pub fn is_of(&self, slot: &SlotGuard<'_>) -> bool {
        self.caches.is_of(slot)
    }

    /// The largest size that is cached, in pages; 0 if none is. Sizes up to it
    /// are rounded up to a power of two.
    #[inline]
    pub fn cached_up_to_pages(&self) -> u64 {
        self.cached_up_to_pages
    }

    /// A range of `size_pages` pages that nobody else has, which ends at or
    /// below `req.limit` and starts as aligned as `req.align` says.
    pub fn alloc(
        &self,
        slot: &mut SlotGuard<'_>,
        size_pages: u64,
        req: &AllocRequest,
    ) -> Result<IovaRange, AllocError> {
        let aligned = match req.align {
            Align::Natural | Align::None => true,
            Align::Lg2Pages(n) => u32::from(n) <= class_of(size_pages),
        };
        if aligned && let Some(range) = self.alloc_cached(slot, size_pages, req.limit) {
            return Ok(range);
        }
        self.alloc_slow(slot, size_pages, req)
    }

    /// [`alloc`](Self::alloc) with natural alignment, from what the slot has at
    /// hand; `None` where that does not do: then `alloc` does it, or says what is
    /// wrong. For callers with a path of their own for the rest.
    #[inline(always)]
    pub fn alloc_cached(
        &self,
        slot: &mut SlotGuard<'_>,
        size_pages: u64,
        limit: Iova,
    ) -> Option<IovaRange> {
        let class = self.cached_class(size_pages)?;
        if !self.caches.is_of(slot) {
            return None;
        }
        let mut cache = self.caches.get(slot);
        let pair = cache.classes.get_mut(class)?;
        let address = pair.peek()?;
        if limit.0 <= self.open_above.load(Ordering::Relaxed) {
            let last = address + ((size_pages << self.granule_lg2) - 1);
            if last > limit.0.min(self.cached_limit.load(Ordering::Relaxed)) {
                return None;
            }
        }
        pair.pop();
        // SAFETY: magazines hold addresses of pages, shifted out of page numbers
        // or taken from tokens of this domain, the key's bits removed.
        unsafe { core::hint::assert_unchecked(address & Granule::K4.mask() == 0) };
        Some(self.key.token(address, size_pages))
    }

    /// The class of a size that is cached; `None` for 0 and for more pages.
    #[inline(always)]
    fn cached_class(&self, size_pages: u64) -> Option<usize> {
        let more = size_pages.wrapping_sub(1);
        if more >= self.cached_up_to_pages {
            return None;
        }
        // Below 512, so the shift loses nothing; and never 0 after it.
        let class = (more << 1 | 1).ilog2() as usize;
        // SAFETY: `more` is below `1 << (class_count - 1)`, so the class is below
        // `class_count`, and that is `CLASSES` at most.
        unsafe { core::hint::assert_unchecked(class < CLASSES) };
        Some(class)
    }

    #[cold]
    #[inline(never)]
    fn alloc_slow(
        &self,
        slot: &mut SlotGuard<'_>,
        size_pages: u64,
        req: &AllocRequest,
    ) -> Result<IovaRange, AllocError> {
        if !core::ptr::eq(slot.slots(), &**self.slots()) {
            return Err(AllocError::OtherSlots);
        }
        if size_pages == 0 {
            return Err(AllocError::ZeroSize);
        }
        // The page after the last whole one, without a carry beyond 64 bits.
        let mask = self.granule.mask();
        let cut = u64::from(req.limit.0 & mask != mask);
        let limit_end = (req.limit.0 >> self.granule_lg2) + 1 - cut;
        if limit_end <= self.first_page {
            return Err(AllocError::LimitBelowStart);
        }
        let last = (limit_end - 1).min(self.last_page);
        if size_pages > last - self.first_page + 1 {
            return Err(AllocError::NoSpace);
        }
        let align_lg2 = match req.align {
            Align::Natural => ceil_lg2(size_pages),
            Align::None => 0,
            Align::Lg2Pages(n) => u32::from(n),
        };
        if align_lg2 >= ALIGN_LG2_END {
            return Err(AllocError::NoSpace);
        }
        let class = class_of(size_pages);
        let wish = if class < self.class_count {
            Wish {
                size: 1 << class,
                align_lg2: align_lg2.max(class),
                class: (align_lg2 <= class).then_some(class),
                last,
            }
        } else {
            Wish {
                size: size_pages,
                align_lg2,
                class: None,
                last,
            }
        };
        let page = self.alloc_page(slot, wish)?;
        Ok(self.key.token(page << self.granule_lg2, size_pages))
    }

    /// Takes a range back. Never fails for want of memory. On an error, which
    /// is a range of another domain or a guard of another table of slots, the
    /// range comes back.
    #[inline(always)]
    pub fn free(&self, slot: &mut SlotGuard<'_>, range: IovaRange) -> Result<(), FreeError> {
        let Some((address, size)) = self.key.open(&range) else {
            return Err(FreeError { range });
        };
        if !self.caches.is_of(slot) {
            return Err(FreeError { range });
        }
        if let Some(class) = self.cached_class(size) {
            let mut cache = self.caches.get(slot);
            if let Some(pair) = cache.classes.get_mut(class)
                && pair.push(address)
            {
                return Ok(());
            }
        }
        self.free_slow(slot, address, size);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn free_slow(&self, slot: &mut SlotGuard<'_>, address: u64, size: u64) {
        let class = class_of(size);
        if class < self.class_count {
            self.free_page(slot, address, class);
        } else {
            self.space
                .lock()
                .index
                .free(address >> self.granule_lg2, size);
            self.close_high();
        }
    }

    /// Takes `first..=last` out of use for ever: every granule the region
    /// touches. What lies outside the aperture is never handed out and needs no
    /// reservation, so that part is accepted and ignored.
    ///
    /// Empties every cache first, and so must not be called with a guard of the
    /// domain's slots alive on the same thread.
    pub fn reserve(&self, first: Iova, last: Iova) -> Result<(), ReserveError> {
        if last < first {
            return Err(ReserveError::Inverted);
        }
        let lg2 = self.granule_lg2;
        let first_page = (first.0 >> lg2).max(self.first_page);
        let last_page = (last.0 >> lg2).min(self.last_page);
        if last_page < first_page {
            return Ok(());
        }
        self.slots().exclusive(None, |exclusive| {
            self.drain_all(exclusive);
            let mut space = self.space.lock();
            let at = space
                .reserved
                .partition_point(|region| region.1 < first_page);
            if let Some(&(start, end)) = space.reserved.get(at)
                && start <= last_page
            {
                return Err(ReserveError::Overlap {
                    first: Iova(start << lg2),
                    last: Iova((end << lg2) | self.granule.mask()),
                });
            }
            if !space.index.is_free(first_page, last_page) {
                return Err(ReserveError::Busy);
            }
            space
                .reserved
                .try_reserve(1)
                .map_err(|_| ReserveError::NoMemory)?;
            space
                .index
                .take(first_page, last_page - first_page + 1)
                .map_err(|_| ReserveError::NoMemory)?;
            space.reserved.insert(at, (first_page, last_page));
            Ok(())
        })
    }

    /// Gives everything cached to the index, for all slots: before a CPU goes
    /// away for good, or to take stock. Must not be called with a guard of the
    /// domain's slots alive on the same thread.
    pub fn drain(&self) {
        self.slots()
            .exclusive(None, |exclusive| self.drain_all(exclusive));
    }

    /// Figures of the domain. Looks into every slot's cache, and so must not be
    /// called with a guard of the domain's slots alive on the same thread.
    pub fn stats(&self) -> IovaStats {
        self.slots().exclusive(None, |exclusive| {
            let mut cached_pages = 0;
            let mut magazines = 0;
            let mut depot_magazines = 0;
            for slot in self.slots().indices() {
                let cache = self.caches.get_exclusive(exclusive, slot);
                cached_pages += cache.pages();
                magazines += cache.classes.iter().map(Pair::magazines).sum::<usize>();
            }
            // All at once, and until the index was asked: a trim, which needs no
            // section, would else be seen on both sides or on neither. Nobody
            // else holds two of them.
            let depots: [_; CLASSES] = core::array::from_fn(|class| self.depots[class].lock());
            for (class, depot) in depots.iter().enumerate() {
                cached_pages += depot.pages(class);
                depot_magazines += depot.len();
                magazines += depot.magazines();
            }
            self.figures(cached_pages, depot_magazines as u64, magazines as u64)
        })
    }

    fn depot_pages(&self) -> u64 {
        let pages = |(class, depot): (usize, &ShortMutex<Depot>)| depot.lock().pages(class);
        self.depots.iter().enumerate().map(pages).sum()
    }

    fn figures(&self, cached_pages: u64, depot_magazines: u64, magazines: u64) -> IovaStats {
        let mut space = self.space.lock();
        let bytes = |pages: u64| pages << self.granule_lg2;
        let all = self.last_page - self.first_page + 1;
        let free = space.index.free_pages();
        let reserved = space.reserved_pages();
        let effort = space.index.effort();
        IovaStats {
            space_bytes: bytes(all),
            live_bytes: bytes(all - free - reserved - cached_pages),
            cached_bytes: bytes(cached_pages),
            free_bytes: bytes(free),
            reserved_bytes: bytes(reserved),
            largest_free_run_bytes: bytes(space.index.largest_free_run()),
            exported_ranges: self.exported.lock().len() as u64,
            searches: effort.searches,
            nodes_visited: effort.nodes_visited,
            nodes_visited_max: effort.nodes_visited_max,
            depot_magazines,
            memory_bytes: space.index.bytes() as u64 + magazines * 1024,
        }
    }

    /// With `low32_first` and space in the low part, as far as is known: the
    /// last page of the low part.
    pub(crate) fn low_first(&self) -> Option<u64> {
        self.low_last_page
            .filter(|_| self.cached_limit.load(Ordering::Relaxed) == LOW32_LAST)
    }

    /// The low part is full: addresses above may leave the caches.
    pub(crate) fn open_high(&self) {
        if self.low_last_page.is_some() {
            self.cached_limit.store(u64::MAX, Ordering::Relaxed);
            let last = last_address(self.last_page, self.granule_lg2);
            self.open_above.store(last - 1, Ordering::Relaxed);
        }
    }

    /// The low part may have space again.
    pub(crate) fn close_high(&self) {
        if self.low_last_page.is_some() {
            self.open_above.store(u64::MAX, Ordering::Relaxed);
            self.cached_limit.store(LOW32_LAST, Ordering::Relaxed);
        }
    }
}

/// The class of a size: the base-2 logarithm, rounded up; at least `CLASSES`
/// for 0 and for sizes that no space has.
#[inline(always)]
pub(crate) fn class_of(size_pages: u64) -> u32 {
    u64::BITS - size_pages.wrapping_sub(1).leading_zeros()
}

/// The last address of a page.
fn last_address(page: u64, granule_lg2: u32) -> u64 {
    (page << granule_lg2) | ((1 << granule_lg2) - 1)
}

/// Figures of a domain; exact when no call is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IovaStats {
    /// The whole aperture, in bytes: the sum of the next four.
    pub space_bytes: u64,
    /// Allocated, rounding to cached sizes included.
    pub live_bytes: u64,
    /// In magazines and depots.
    pub cached_bytes: u64,
    /// In the index.
    pub free_bytes: u64,
    /// In reserved regions.
    pub reserved_bytes: u64,
    /// The largest run of free pages in the index, in bytes.
    pub largest_free_run_bytes: u64,
    /// Exported by [`IovaDomain::into_raw`] and not freed yet.
    pub exported_ranges: u64,
    /// Searches of the index so far.
    pub searches: u64,
    /// Nodes of the index all searches together looked at.
    pub nodes_visited: u64,
    /// The most nodes one search looked at.
    pub nodes_visited_max: u64,
    /// Full magazines in the depots.
    pub depot_magazines: u64,
    /// Memory of the index and of all magazines, in bytes.
    pub memory_bytes: u64,
}

impl Drop for IovaDomain {
    fn drop(&mut self) {
        // Not `stats`: the dropping thread may be inside a section.
        let mut cached: u64 = self.depot_pages();
        for cache in self.caches.drain_mut() {
            cached += cache.pages();
        }
        let space = self.space.lock();
        let all = self.last_page - self.first_page + 1;
        // A token still out could come back to the next domain of this number.
        if all == space.index.free_pages() + space.reserved_pages() + cached {
            number::give_back(self.key.number());
        }
    }
}
