//! Contiguous addresses for requests that are mapped together.
//!
//! Requests that will complete together are best mapped next to each other: one
//! command then invalidates all of them, and their entries share cache lines. A
//! window is a range of addresses that is cut up as requests come, by halves, so
//! that each is aligned to its size as any other. (Fast & Safe, SOSP'24, gives
//! each descriptor a window of 64 pages.)

use core::fmt;

use dmabench_flushq::TlbBackend;
use dmabench_iova::{IovaDomain, IovaRange};
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{Iova, SlotGuard, SlotSource};

use crate::{
    Device, Direction, DmaSegment, Domain, MapError, Mapping, Segment, mapping::DomainTag,
};

/// Sizes of parts: 1 page to [`IovaDomain::SPLIT_MAX_PAGES`].
const ORDERS: usize = IovaDomain::SPLIT_MAX_PAGES.ilog2() as usize + 1;

/// Addresses in a row that no request has got yet. Give it back with
/// [`Domain::close_window`]; dropped, its addresses are lost.
#[must_use = "close it with `Domain::close_window`, else its addresses are lost"]
pub struct Window {
    /// By the base-2 logarithm of their pages.
    parts: [Option<IovaRange>; ORDERS],
    /// No address of it lies above.
    last: Iova,
    tag: &'static DomainTag,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl Window {
    /// Pages that are left.
    pub fn left_pages(&self) -> u64 {
        self.parts.iter().flatten().map(IovaRange::size_pages).sum()
    }

    /// Cuts off a part for `pages`: the lowest of the smallest that suffices.
    /// `None` also for a size that is neither `2^n` nor rounded up to that.
    fn cut(&mut self, iova: &IovaDomain, pages: u64) -> Option<IovaRange> {
        let held = iova.held_pages(pages);
        if !held.is_power_of_two() {
            return None;
        }
        let order = held.ilog2() as usize;
        let at = (order..ORDERS).find(|at| self.parts[*at].is_some())?;
        let mut part = self.parts[at].take()?;
        for at in (order..at).rev() {
            match iova.split(part) {
                Ok((low, high)) => {
                    part = low;
                    self.parts[at] = Some(high);
                }
                // Cannot be: every part is of two halves.
                Err(whole) => {
                    self.parts[at + 1] = Some(whole);
                    return None;
                }
            }
        }
        match iova.resize(part, pages) {
            Ok(part) => Some(part),
            Err(part) => {
                self.parts[order] = Some(part);
                None
            }
        }
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// The largest window, in bytes. It is the sum of what requests take, each
    /// rounded up to `2^n` pages, that must fit.
    pub fn window_max_bytes(&self) -> u64 {
        IovaDomain::SPLIT_MAX_PAGES << F::GRANULE.lg2()
    }

    /// A window of at least `len_bytes`, rounded up to `2^n` pages, within the
    /// device's reach. It takes addresses and maps nothing. Empty in passthrough.
    ///
    /// # Errors
    ///
    /// [`MapError::TooLong`] above [`window_max_bytes`](Self::window_max_bytes);
    /// [`MapError::EmptyList`] for 0; [`MapError::Iova`], [`MapError::Reentered`].
    pub fn open_window(&self, device: &Device, len_bytes: u64) -> Result<Window, MapError> {
        if len_bytes == 0 {
            return Err(MapError::EmptyList);
        }
        if len_bytes > self.window_max_bytes() {
            return Err(MapError::TooLong);
        }
        let mut window = Window {
            parts: [const { None }; ORDERS],
            last: device.last_address,
            tag: self.tag,
        };
        if self.mode.is_passthrough() {
            return Ok(window);
        }
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(MapError::Reentered),
        };
        let pages = len_bytes.div_ceil(F::GRANULE.bytes()).next_power_of_two();
        let range = self.alloc(&mut slot, pages, device)?;
        window.parts[pages.ilog2() as usize] = Some(range);
        Ok(window)
    }

    /// As [`map_sg`](Self::map_sg), at addresses of `window`; at any others if it
    /// is used up, of another domain or beyond the device's reach, or if the
    /// request takes neither `2^n` pages nor is rounded up to that (cached sizes
    /// are).
    ///
    /// # Errors
    ///
    /// As [`map_sg`](Self::map_sg).
    #[inline]
    pub fn map_sg_in(
        &self,
        window: &mut Window,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        self.map_segments::<false>(device, segments, out, direction, |slot, pages| {
            self.alloc_in(slot, window, pages, device)
        })
    }

    #[inline]
    fn alloc_in(
        &self,
        slot: &mut SlotGuard<'_>,
        window: &mut Window,
        pages: u64,
        device: &Device,
    ) -> Result<IovaRange, MapError> {
        if core::ptr::eq(window.tag, self.tag)
            && window.last <= device.last_address
            && let Some(range) = window.cut(&self.iova, pages)
        {
            return Ok(range);
        }
        self.alloc(slot, pages, device)
    }

    /// Gives back what no request has got.
    ///
    /// # Errors
    ///
    /// The window, if it is of another domain or the caller is inside another
    /// request.
    pub fn close_window(&self, mut window: Window) -> Result<(), Window> {
        if !core::ptr::eq(window.tag, self.tag) {
            return Err(window);
        }
        if window.parts.iter().all(Option::is_none) {
            return Ok(());
        }
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let Ok(mut slot) = self.slots.enter_pinned(&pin) else {
            return Err(window);
        };
        for part in &mut window.parts {
            if let Some(range) = part.take()
                && let Err(refused) = self.iova.free(&mut slot, range)
            {
                // Of a domain that is gone, whose tag this one has by now.
                *part = Some(refused.range);
                drop(slot);
                return Err(window);
            }
        }
        Ok(())
    }
}
