//! The domain: one I/O address space and who owns which part of it.

use alloc::vec::Vec;

use dmabench_platform::{Granule, Iova, SlotGuard, Slots, TimeNs, sync::Mutex};

use crate::{
    AllocError, ConfigError, FreeError, IntoRawError, IntoRawReason, IovaRange, RawError,
    ReserveError,
    config::{Align, AllocRequest, IovaConfig, Policy},
    index::{Index, Place, ceil_lg2},
    live::LiveMap,
    number,
    range::TokenKey,
};

/// One I/O address space. Shared by reference; every method may be called by
/// any number of threads at once.
#[derive(Debug)]
pub struct IovaDomain {
    key: TokenKey,
    granule: Granule,
    policy: Policy,
    first_page: u64,
    last_page: u64,
    /// `Some(page)`: try up to here first.
    low_last_page: Option<u64>,
    slots: alloc::sync::Arc<Slots>,
    space: Mutex<Space>,
    exported: Mutex<LiveMap>,
}

#[derive(Debug)]
struct Space {
    index: Index,
    /// First and last page of each reserved region, sorted.
    reserved: Vec<(u64, u64)>,
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
    /// Memory of the index, in bytes.
    pub index_bytes: u64,
}

/// So that every sum of sizes fits into 64 bits.
const MAX_SPACE_BYTES: u64 = 1 << 63;

const LOW32_LAST: u64 = u32::MAX as u64;

impl IovaDomain {
    /// A domain with every page of the aperture free.
    pub fn new(config: IovaConfig, slots: alloc::sync::Arc<Slots>) -> Result<Self, ConfigError> {
        let granule = config.granule;
        if config.last < config.first {
            return Err(ConfigError::Inverted);
        }
        let first_page = config.first.0.div_ceil(granule.bytes());
        // The page after the last whole one; 2^64 bytes are 2^52 pages or less.
        let end = ((u128::from(config.last.0) + 1) >> granule.lg2()) as u64;
        if end <= first_page {
            return Err(ConfigError::Empty);
        }
        let last_page = end - 1;
        if last_page - first_page >= MAX_SPACE_BYTES >> granule.lg2() {
            return Err(ConfigError::TooLarge);
        }
        let number = number::take().ok_or(ConfigError::TooManyDomains)?;
        let low_last_page = (config.low32_first && last_page > LOW32_LAST >> granule.lg2())
            .then_some(LOW32_LAST >> granule.lg2());
        Ok(IovaDomain {
            key: TokenKey::new(number, granule),
            granule,
            policy: config.policy,
            first_page,
            last_page,
            low_last_page,
            slots,
            space: Mutex::new(Space {
                index: Index::new(first_page, last_page).map_err(|_| ConfigError::NoMemory)?,
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
    pub fn slots(&self) -> &alloc::sync::Arc<Slots> {
        &self.slots
    }

    /// A range of `size_pages` pages that nobody else has, which ends at or
    /// below `req.limit` and starts as aligned as `req.align` says.
    pub fn alloc(
        &self,
        slot: &mut SlotGuard<'_>,
        size_pages: u64,
        req: &AllocRequest,
    ) -> Result<IovaRange, AllocError> {
        if !core::ptr::eq(slot.slots(), &*self.slots) {
            return Err(AllocError::OtherSlots);
        }
        if size_pages == 0 {
            return Err(AllocError::ZeroSize);
        }
        let limit_end = ((u128::from(req.limit.0) + 1) >> self.granule.lg2()) as u64;
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
        if align_lg2 >= 52 {
            return Err(AllocError::NoSpace);
        }
        let mut space = self.space.lock();
        let mut try_below = |last| {
            space.index.alloc(Place {
                size: size_pages,
                align_lg2,
                last,
                policy: self.policy,
            })
        };
        self.low_last_page
            .filter(|&low| low < last)
            .and_then(|low| try_below(low).ok().flatten())
            .map_or_else(|| try_below(last), |page| Ok(Some(page)))
            .map_err(|_| AllocError::NoMemory)?
            .map(|page| self.key.token(page << self.granule.lg2(), size_pages))
            .ok_or(AllocError::NoSpace)
    }

    /// Takes a range back. Never fails for want of memory.
    pub fn free(&self, slot: &mut SlotGuard<'_>, range: IovaRange) -> Result<(), FreeError> {
        let Some((address, size)) = self.key.open(&range) else {
            return Err(FreeError { range });
        };
        if !core::ptr::eq(slot.slots(), &*self.slots) {
            return Err(FreeError { range });
        }
        self.space
            .lock()
            .index
            .free(address >> self.granule.lg2(), size);
        Ok(())
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
        let lg2 = self.granule.lg2();
        let first_page = (first.0 >> lg2).max(self.first_page);
        let last_page = (last.0 >> lg2).min(self.last_page);
        if last_page < first_page {
            return Ok(());
        }
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
        space
            .reserved
            .try_reserve(1)
            .map_err(|_| ReserveError::NoMemory)?;
        if !space.index.is_free(first_page, last_page) {
            return Err(ReserveError::Busy);
        }
        space
            .index
            .take(first_page, last_page - first_page + 1)
            .map_err(|_| ReserveError::NoMemory)?;
        space.reserved.insert(at, (first_page, last_page));
        Ok(())
    }

    /// Turns a range into plain numbers, address and size in pages, for callers
    /// that cannot hold a token. It stays allocated until
    /// [`free_raw`](Self::free_raw) or [`from_raw`](Self::from_raw).
    pub fn into_raw(&self, range: IovaRange) -> Result<(Iova, u64), IntoRawError> {
        let Some((address, size)) = self.key.open(&range) else {
            return Err(IntoRawError {
                range,
                reason: IntoRawReason::OtherDomain,
            });
        };
        match self
            .exported
            .lock()
            .insert(address >> self.granule.lg2(), size)
        {
            Ok(()) => Ok((Iova(address), size)),
            Err(_) => Err(IntoRawError {
                range,
                reason: IntoRawReason::NoMemory,
            }),
        }
    }

    /// Turns an exported range back into a token. `iova` and `size_pages` must
    /// be what [`into_raw`](Self::into_raw) returned.
    pub fn from_raw(&self, iova: Iova, size_pages: u64) -> Result<IovaRange, RawError> {
        let page = iova.0 >> self.granule.lg2();
        if !iova.is_aligned_lg2(self.granule.lg2()) {
            return Err(RawError::NotExported);
        }
        let mut exported = self.exported.lock();
        match exported.get(page) {
            Some(size) if size == size_pages => {
                exported.remove(page);
                Ok(self.key.token(iova.0, size))
            }
            Some(exported_pages) => Err(RawError::WrongSize { exported_pages }),
            None => {
                drop(exported);
                let space = self.space.lock();
                let at = space.reserved.partition_point(|region| region.1 < page);
                match space.reserved.get(at) {
                    Some(region) if region.0 <= page => Err(RawError::Reserved),
                    _ => Err(RawError::NotExported),
                }
            }
        }
    }

    /// Frees an exported range.
    pub fn free_raw(
        &self,
        slot: &mut SlotGuard<'_>,
        iova: Iova,
        size_pages: u64,
    ) -> Result<(), RawError> {
        if !core::ptr::eq(slot.slots(), &*self.slots) {
            return Err(RawError::OtherSlots);
        }
        let range = self.from_raw(iova, size_pages)?;
        // The token is of this domain and the guard of its table.
        self.free(slot, range).map_err(|_| RawError::OtherSlots)
    }

    /// Figures of the domain. Looks into every slot's cache, and so must not be
    /// called with a guard of the domain's slots alive on the same thread.
    pub fn stats(&self) -> IovaStats {
        let lg2 = self.granule.lg2();
        let space = self.space.lock();
        let bytes = |pages: u64| pages << lg2;
        let reserved: u64 = space
            .reserved
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum();
        let total = self.last_page - self.first_page + 1;
        let free = space.index.free_pages();
        let effort = space.index.effort();
        IovaStats {
            space_bytes: bytes(total),
            live_bytes: bytes(total - free - reserved),
            cached_bytes: 0,
            free_bytes: bytes(free),
            reserved_bytes: bytes(reserved),
            largest_free_run_bytes: bytes(space.index.largest_free_run()),
            exported_ranges: self.exported.lock().len() as u64,
            searches: effort.searches,
            nodes_visited: effort.nodes_visited,
            nodes_visited_max: effort.nodes_visited_max,
            index_bytes: space.index.bytes() as u64,
        }
    }

    /// Gives cached ranges back that were not needed for a while, and returns.
    /// To be called at or after [`next_deadline`](Self::next_deadline), with no
    /// guard of the domain's slots alive on the same thread.
    pub fn trim(&self, _now: TimeNs) {}

    /// When to call [`trim`](Self::trim) next; `None` while there is nothing to
    /// trim.
    pub fn next_deadline(&self) -> Option<TimeNs> {
        None
    }
}

impl Drop for IovaDomain {
    fn drop(&mut self) {
        let stats = self.stats();
        // A token still out could come back to the next domain of this number.
        if stats.live_bytes == 0 {
            number::give_back(self.key.number());
        }
    }
}
