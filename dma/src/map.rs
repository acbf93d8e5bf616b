//! Mapping: one buffer, or a list of segments as one range of I/O addresses.

use dmabench_flushq::TlbBackend;
use dmabench_iova::{AllocError, AllocRequest, IovaRange};
use dmabench_pgtable::{self as pgtable, Format, TableMemory};
use dmabench_platform::{Iova, PhysAddr, SlotGuard, SlotSource};

use crate::{Device, Direction, DmaSegment, Domain, MapError, Mapping, Segment};

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Lets `device` reach `buffer`, at the address [`Mapping::addr`].
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing is mapped then.
    #[inline]
    pub fn map(
        &self,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(MapError::Reentered),
        };
        let slot = &mut slot;
        if self.mode.is_passthrough() {
            return self.pass(slot, device, buffer);
        }
        self.map_one(slot, device, buffer, direction)
    }

    /// A list of one: [`map_one`](Self::map_one), out of line.
    #[inline(never)]
    fn map_single(
        &self,
        slot: &mut SlotGuard<'_>,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        self.map_one(slot, device, buffer, direction)
    }

    /// One buffer, translated.
    #[inline(always)]
    fn map_one(
        &self,
        slot: &mut SlotGuard<'_>,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        if buffer.len_bytes.wrapping_sub(1) >= device.max_segment_bytes {
            return Err(bad_length(&buffer, 0, device));
        }
        let offset = buffer.phys.0 & F::GRANULE.mask();
        // Far below 2^64: a segment has at most 2^62 bytes.
        let bytes = (offset + buffer.len_bytes + F::GRANULE.mask()) & !F::GRANULE.mask();
        if device.crosses_boundary(offset, buffer.len_bytes) {
            return Err(crosses(0, device));
        }
        let pages = bytes >> F::GRANULE.lg2();
        self.assume_own(slot);
        // What is seldom ends in calls with the same result, so that nothing has
        // to be in memory for it.
        match self.iova.alloc_cached(slot, pages, device.last_address) {
            Some(range) => self.map_at(slot, range, device, buffer, direction),
            None => self.map_found(slot, pages, device, buffer, direction),
        }
    }

    /// As [`map_one`](Self::map_one), whose checks `buffer` has passed, where the
    /// slot has no addresses at hand.
    #[inline(never)]
    fn map_found(
        &self,
        slot: &mut SlotGuard<'_>,
        pages: u64,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        let range = self.alloc(slot, pages, device)?;
        self.map_at(slot, range, device, buffer, direction)
    }

    /// Maps a buffer at `range`, which is as long as it needs.
    #[inline(always)]
    fn map_at(
        &self,
        slot: &mut SlotGuard<'_>,
        range: IovaRange,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        let offset = buffer.phys.0 & F::GRANULE.mask();
        let first = PhysAddr(buffer.phys.0 - offset);
        let bytes = Self::len_bytes(&range);
        let prot = device.prot(direction);
        if self
            .tables
            .map_at_once(slot, range.iova(), first, bytes, prot)
        {
            let addr = Iova(range.iova().0 + offset);
            return Ok(self.mapping(slot, Some(range), addr, buffer.len_bytes));
        }
        self.map_at_length(slot, range, device, buffer, direction)
    }

    /// As [`map_at`](Self::map_at), for what the tables cannot do at once.
    #[inline(never)]
    fn map_at_length(
        &self,
        slot: &mut SlotGuard<'_>,
        range: IovaRange,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        let offset = buffer.phys.0 & F::GRANULE.mask();
        let first = PhysAddr(buffer.phys.0 - offset);
        let bytes = Self::len_bytes(&range);
        let prot = device.prot(direction);
        let map = |slot: &SlotGuard<'_>, iova| self.tables.map(slot, iova, first, bytes, prot);
        let range = match map(slot, range.iova()) {
            Ok(()) => range,
            Err(error) => self.map_again(slot, range, error, map)?,
        };
        let addr = Iova(range.iova().0 + offset);
        Ok(self.mapping(slot, Some(range), addr, buffer.len_bytes))
    }

    /// Lets `device` reach a list of buffers. They get one range of I/O
    /// addresses, each segment on granules of its own, and are unmapped as one.
    /// `out[i]` becomes what the device must be told for `segments[i]`; its
    /// content is unspecified after an error. A segment that would cross the
    /// device's boundary is moved behind it, if that helps.
    /// [`map_sg_merged`](Self::map_sg_merged) needs fewer descriptors.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing is mapped then.
    #[inline]
    pub fn map_sg(
        &self,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        self.map_segments::<true>(device, segments, out, direction, |slot, pages| {
            self.alloc(slot, pages, device)
        })
    }

    /// [`map_sg`](Self::map_sg) at addresses that `alloc` gives. `SHORT`: a list
    /// of one is mapped as a buffer, at addresses of its own.
    #[inline(always)]
    pub(crate) fn map_segments<const SHORT: bool>(
        &self,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
        alloc: impl FnOnce(&mut SlotGuard<'_>, u64) -> Result<IovaRange, MapError>,
    ) -> Result<Mapping, MapError> {
        // SAFETY: dropped at the end of this function.
        let pin = unsafe { self.source.pin_for_call() };
        let mut slot = match self.slots.enter_pinned(&pin) {
            Ok(slot) => slot,
            Err(_) => return Err(MapError::Reentered),
        };
        let slot = &mut slot;
        if segments.is_empty() {
            return Err(MapError::EmptyList);
        }
        if segments.len() > device.max_segments {
            return Err(MapError::TooManySegments {
                count: segments.len(),
                max: device.max_segments,
            });
        }
        let Some(out) = out.get_mut(..segments.len()) else {
            return Err(MapError::OutTooShort {
                needed: segments.len(),
            });
        };
        if self.mode.is_passthrough() {
            return self.pass_sg(slot, device, segments, out);
        }
        if SHORT && let ([segment], [out]) = (segments, &mut *out) {
            let mapping = self.map_single(slot, device, *segment, direction)?;
            *out = DmaSegment {
                addr: mapping.addr(),
                len_bytes: segment.len_bytes,
            };
            return Ok(mapping);
        }
        if Self::is_page_list(device, segments) {
            let range = alloc(slot, segments.len() as u64)?;
            return self.map_page_list(slot, range, device, segments, out, direction);
        }
        let mask = F::GRANULE.mask();
        // First the places relative to the range, which has no address yet, and
        // all checks at once: whatever is wrong leaves a bit in `wrong`.
        let mut end = 0_u64;
        let mut sum = 0_u64;
        let mut wrong = 0_u64;
        for (segment, out) in segments.iter().zip(out.iter_mut()) {
            let place = end.wrapping_add(segment.phys.0 & mask);
            let before_last = segment.len_bytes.wrapping_sub(1);
            let last = place.wrapping_add(before_last);
            *out = DmaSegment {
                addr: Iova(place),
                len_bytes: segment.len_bytes,
            };
            end = (last | mask).wrapping_add(1);
            sum = sum.wrapping_add(segment.len_bytes);
            wrong |= u64::from(before_last >= device.max_segment_bytes)
                | ((place ^ last) & device.beyond_boundary)
                // Lengths up to 2^62 cannot leave 64 bits without one of the
                // ends showing it.
                | (end >> 62);
        }
        if wrong != 0 {
            return self.map_sg_apart(slot, device, segments, out, direction);
        }
        let range = alloc(slot, end >> F::GRANULE.lg2())?;
        let prot = device.prot(direction);
        let map = |slot: &SlotGuard<'_>, iova| {
            let pieces = segments.iter().map(|segment| {
                let offset = segment.phys.0 & mask;
                (
                    PhysAddr(segment.phys.0 - offset),
                    (offset + segment.len_bytes + mask) & !mask,
                )
            });
            self.tables.map_sg(slot, iova, pieces, prot).map(|_| ())
        };
        let range = match map(slot, range.iova()) {
            Ok(()) => range,
            Err(error) => self.map_again(slot, range, error, map)?,
        };
        let base = range.iova().0;
        for out in out.iter_mut() {
            out.addr.0 += base;
        }
        Ok(self.mapping(slot, Some(range), out[0].addr, sum))
    }

    /// Whether a list is the most frequent one: pages of the cache, a whole one to
    /// each segment, no two that touch. No limit of the device can then be
    /// exceeded but those on pages.
    #[inline]
    fn is_page_list(device: &Device, segments: &[Segment]) -> bool {
        let mask = F::GRANULE.mask();
        if device.max_segment_bytes <= mask || device.beyond_boundary & mask != 0 {
            return false;
        }
        let mut odd = 0;
        let mut end = u64::MAX;
        for segment in segments {
            odd |= segment.phys.0 & mask | segment.len_bytes ^ (mask + 1);
            if segment.phys.0 == end {
                return false;
            }
            end = segment.phys.0.wrapping_add(mask + 1);
        }
        odd == 0
    }

    /// Maps a [list of pages](Self::is_page_list) at `range`.
    #[inline(never)]
    fn map_page_list(
        &self,
        slot: &mut SlotGuard<'_>,
        range: IovaRange,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        let prot = device.prot(direction);
        let map = |slot: &SlotGuard<'_>, iova| {
            let pages = segments.iter().map(|segment| segment.phys);
            (self.tables.map_single_pages(slot, iova, pages, prot)).map(|_| ())
        };
        let range = match map(slot, range.iova()) {
            Ok(()) => range,
            Err(error) => self.map_again(slot, range, error, map)?,
        };
        let first = range.iova();
        let mut addr = first.0;
        for out in out {
            *out = DmaSegment {
                addr: Iova(addr),
                len_bytes: F::GRANULE.bytes(),
            };
            addr = addr.wrapping_add(F::GRANULE.bytes());
        }
        let len_bytes = (segments.len() as u64) << F::GRANULE.lg2();
        Ok(self.mapping(slot, Some(range), first, len_bytes))
    }

    #[inline]
    pub(crate) fn alloc(
        &self,
        slot: &mut SlotGuard<'_>,
        pages: u64,
        device: &Device,
    ) -> Result<IovaRange, MapError> {
        let request = AllocRequest::below(device.last_address);
        match self.iova.alloc(slot, pages, &request) {
            Ok(range) => Ok(range),
            Err(error) => self.alloc_again(slot, pages, &request, error),
        }
    }

    /// There was no range. Lazy: the flush queue may hold what is missing.
    #[cold]
    #[inline(never)]
    fn alloc_again(
        &self,
        slot: &mut SlotGuard<'_>,
        pages: u64,
        request: &AllocRequest,
        error: AllocError,
    ) -> Result<IovaRange, MapError> {
        // If the flush fails nothing was released, and the first answer stands.
        if error == AllocError::NoSpace && self.flush_for_space(slot) {
            return self
                .iova
                .alloc(slot, pages, request)
                .map_err(MapError::Iova);
        }
        Err(MapError::Iova(error))
    }

    #[inline]
    pub(crate) fn mapping(
        &self,
        slot: &SlotGuard<'_>,
        range: Option<IovaRange>,
        addr: Iova,
        len_bytes: u64,
    ) -> Mapping {
        self.count_mapped(slot);
        Mapping {
            range,
            addr,
            len_bytes,
            tag: self.tag,
        }
    }

    /// The tables refused. If they had no memory, those that wait to be freed
    /// may help; else the addresses go back, unused.
    #[cold]
    #[inline(never)]
    pub(crate) fn map_again(
        &self,
        slot: &mut SlotGuard<'_>,
        range: IovaRange,
        error: pgtable::MapError,
        map: impl Fn(&SlotGuard<'_>, Iova) -> Result<(), pgtable::MapError>,
    ) -> Result<IovaRange, MapError> {
        let mut error = error;
        if error == pgtable::MapError::OutOfTables {
            self.collect_paused(slot);
            match map(slot, range.iova()) {
                Ok(()) => return Ok(range),
                Err(again) => error = again,
            }
        }
        // A conflict may have left part of the range mapped: then the addresses
        // must not be used again, and the range leaks.
        if !matches!(error, pgtable::MapError::Conflict { .. }) {
            self.release(slot, range);
        }
        Err(MapError::Tables(error))
    }

    /// Passthrough: the buffer where it is.
    #[cold]
    #[inline(never)]
    fn pass(
        &self,
        slot: &SlotGuard<'_>,
        device: &Device,
        buffer: Segment,
    ) -> Result<Mapping, MapError> {
        check_reach(device, 0, &buffer)?;
        Ok(self.mapping(slot, None, Iova(buffer.phys.0), buffer.len_bytes))
    }

    /// Passthrough: every segment where it is.
    #[cold]
    #[inline(never)]
    pub(crate) fn pass_sg(
        &self,
        slot: &SlotGuard<'_>,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
    ) -> Result<Mapping, MapError> {
        let mut sum = 0_u64;
        for (index, (segment, out)) in segments.iter().zip(out.iter_mut()).enumerate() {
            check_reach(device, index, segment)?;
            *out = DmaSegment {
                addr: Iova(segment.phys.0),
                len_bytes: segment.len_bytes,
            };
            sum = sum
                .checked_add(segment.len_bytes)
                .ok_or(MapError::TooLong)?;
        }
        Ok(self.mapping(slot, None, Iova(segments[0].phys.0), sum))
    }
}

/// Whether the device can use a segment at its physical address.
fn check_reach(device: &Device, index: usize, segment: &Segment) -> Result<(), MapError> {
    if segment.len_bytes.wrapping_sub(1) >= device.max_segment_bytes {
        return Err(bad_length(segment, index, device));
    }
    let Some(last) = segment.phys.last_byte(segment.len_bytes) else {
        return Err(MapError::TooLong);
    };
    if last.0 > device.last_address.0 {
        return Err(MapError::BeyondMask { phys: segment.phys });
    }
    if (segment.phys.0 ^ last.0) & device.beyond_boundary != 0 {
        return Err(crosses(index, device));
    }
    Ok(())
}

#[cold]
pub(crate) fn bad_length(segment: &Segment, index: usize, device: &Device) -> MapError {
    if segment.len_bytes == 0 {
        MapError::EmptySegment { index }
    } else {
        MapError::SegmentTooLong {
            index,
            max_bytes: device.max_segment_bytes,
        }
    }
}

#[cold]
pub(crate) fn crosses(index: usize, device: &Device) -> MapError {
    MapError::CrossesBoundary {
        index,
        boundary_bytes: device.beyond_boundary.wrapping_neg(),
    }
}
