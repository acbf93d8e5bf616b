//! Lists and a device's limits: segments that would cross its boundary are moved
//! behind it, and neighbours that fit into one descriptor are merged (Linux:
//! `iommu_dma_map_sg` and what follows it, `drivers/iommu/dma-iommu.c`).

use core::{iter, slice};

use dmabench_flushq::TlbBackend;
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{Granule, Iova, PhysAddr, SlotGuard, SlotSource};

use crate::{
    Device, Direction, DmaSegment, Domain, MapError, Mapping, Segment,
    map::{bad_length, crosses},
};

/// Where the segments of a list go, relative to the start of its range.
#[derive(Clone)]
pub(crate) struct Places<'a> {
    device: &'a Device,
    segments: slice::Iter<'a, Segment>,
    granule: Granule,
    /// End of the last segment's last granule.
    pub(crate) end: u64,
    index: usize,
}

/// One segment's place.
#[derive(Clone)]
pub(crate) struct Place {
    /// Granules before it that belong to no segment, in bytes.
    pub(crate) gap: u64,
    /// Its first byte.
    pub(crate) at: u64,
}

impl Iterator for Places<'_> {
    type Item = Result<(Segment, Place), MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        let segment = *self.segments.next()?;
        let index = self.index;
        self.index += 1;
        let (device, mask) = (self.device, self.granule.mask());
        if segment.len_bytes.wrapping_sub(1) >= device.max_segment_bytes {
            return Some(Err(bad_length(&segment, index, device)));
        }
        let offset = segment.phys.0 & mask;
        let mut start = self.end;
        if device.crosses_boundary(start + offset, segment.len_bytes) {
            // The next multiple of the boundary, which is one of the granule
            // too unless it is smaller; then nothing can be done.
            start = (start | !device.beyond_boundary | mask).wrapping_add(1);
            if start == 0 || device.crosses_boundary(start + offset, segment.len_bytes) {
                return Some(Err(crosses(index, device)));
            }
            // Each granule of the gap is a piece for the tables, and counted.
            if usize::try_from((start - self.end) / self.granule.bytes()).is_err() {
                return Some(Err(MapError::TooLong));
            }
        }
        let place = Place {
            gap: start - self.end,
            at: start + offset,
        };
        // Below 2^62 each, or refused below.
        self.end = (start + offset + segment.len_bytes + mask) & !mask;
        if self.end >> 62 != 0 {
            return Some(Err(MapError::TooLong));
        }
        Some(Ok((segment, place)))
    }
}

pub(crate) fn places<'a>(
    device: &'a Device,
    segments: &'a [Segment],
    granule: Granule,
) -> Places<'a> {
    Places {
        device,
        segments: segments.iter(),
        granule,
        end: 0,
        index: 0,
    }
}

/// What the tables are to hold. A gap shows the granule before it once more:
/// the device can reach that anyway, and the range has no hole.
fn pieces<'a>(
    device: &'a Device,
    segments: &'a [Segment],
    granule: Granule,
) -> impl Iterator<Item = (PhysAddr, u64)> + Clone {
    let (mask, bytes) = (granule.mask(), granule.bytes());
    places(device, segments, granule)
        .flatten()
        .scan(PhysAddr(0), move |last, (segment, place)| {
            let first = segment.phys.0 & !mask;
            let offset = segment.phys.0 & mask;
            let len = (offset + segment.len_bytes + mask) & !mask;
            let gap = iter::repeat_n((*last, bytes), (place.gap / bytes) as usize);
            *last = PhysAddr(first.wrapping_add(len - bytes));
            Some(gap.chain(iter::once((PhysAddr(first), len))))
        })
        .flatten()
}

impl Device {
    /// Merges neighbours in `list` that one descriptor of this device can move,
    /// and returns how many elements are left, at the front: those whose
    /// addresses follow each other, up to the longest segment, and not across
    /// the boundary. For what [`Domain::map_sg`] filled in.
    pub fn merge(&self, list: &mut [DmaSegment]) -> usize {
        let mut kept = 0;
        for index in 0..list.len() {
            let next = list[index];
            if index > 0 {
                let last = &mut list[kept - 1];
                let together = last.len_bytes.saturating_add(next.len_bytes);
                let empty = last.len_bytes == 0 || next.len_bytes == 0;
                if last.addr.checked_add(last.len_bytes) == Some(next.addr)
                    && !empty
                    && together <= self.max_segment_bytes
                    && !self.crosses_boundary(last.addr.0, together)
                {
                    last.len_bytes = together;
                    continue;
                }
            }
            list[kept] = next;
            kept += 1;
        }
        kept
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// As [`map_sg`](Self::map_sg), with neighbours [merged](Device::merge):
    /// returns how many elements of `out` the device must be told. The device's
    /// number of descriptors limits these, not the segments.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing is mapped then.
    pub fn map_sg_merged(
        &self,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<(Mapping, usize), MapError> {
        let pin = self.source.pin();
        let Ok(mut slot) = self.slots.enter_pinned(&pin) else {
            return Err(MapError::Reentered);
        };
        if segments.is_empty() {
            return Err(MapError::EmptyList);
        }
        let Some(out) = out.get_mut(..segments.len()) else {
            return Err(MapError::OutTooShort {
                needed: segments.len(),
            });
        };
        if self.mode.is_passthrough() {
            for (segment, out) in segments.iter().zip(out.iter_mut()) {
                *out = DmaSegment {
                    addr: Iova(segment.phys.0),
                    len_bytes: segment.len_bytes,
                };
            }
            let count = check_count(device, out)?;
            let mapping = self.pass_sg(&slot, device, segments, out)?;
            device.merge(out);
            return Ok((mapping, count));
        }
        let (end, sum) = place::<F>(device, segments, out)?;
        let count = check_count(device, out)?;
        let mapping = self.map_places(&mut slot, device, segments, direction, end, sum, out[0])?;
        let base = mapping.addr().0 - out[0].addr.0;
        for out in &mut out[..count] {
            out.addr.0 += base;
        }
        Ok((mapping, count))
    }

    /// The way of [`map_sg`](Self::map_sg) for a list that does not fit as it
    /// is: with gaps, or the error.
    #[cold]
    #[inline(never)]
    pub(crate) fn map_sg_apart(
        &self,
        slot: &mut SlotGuard<'_>,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<Mapping, MapError> {
        let (end, sum) = place::<F>(device, segments, out)?;
        let mapping = self.map_places(slot, device, segments, direction, end, sum, out[0])?;
        let base = mapping.addr().0 - out[0].addr.0;
        for out in out {
            out.addr.0 += base;
        }
        Ok(mapping)
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "what was computed is not computed again"
    )]
    fn map_places(
        &self,
        slot: &mut SlotGuard<'_>,
        device: &Device,
        segments: &[Segment],
        direction: Direction,
        end: u64,
        sum: u64,
        first: DmaSegment,
    ) -> Result<Mapping, MapError> {
        let range = self.alloc(slot, end >> F::GRANULE.lg2(), device)?;
        let prot = device.prot(direction);
        let map = |slot: &SlotGuard<'_>, iova| {
            let pieces = pieces(device, segments, F::GRANULE);
            self.tables.map_sg(slot, iova, pieces, prot).map(|_| ())
        };
        let range = match map(slot, range.iova()) {
            Ok(()) => range,
            Err(error) => self.map_again(slot, range, error, map)?,
        };
        let addr = Iova(range.iova().0 + first.addr.0);
        Ok(self.mapping(slot, Some(range), addr, sum))
    }
}

/// Fills `out` with places relative to the range; its length and the bytes in
/// it.
fn place<F: Format>(
    device: &Device,
    segments: &[Segment],
    out: &mut [DmaSegment],
) -> Result<(u64, u64), MapError> {
    let mut all = places(device, segments, F::GRANULE);
    let mut sum = 0_u64;
    for out in out.iter_mut() {
        // As many as segments.
        let Some(placed) = all.next() else {
            break;
        };
        let (segment, place) = placed?;
        *out = DmaSegment {
            addr: Iova(place.at),
            len_bytes: segment.len_bytes,
        };
        sum += segment.len_bytes;
    }
    Ok((all.end, sum))
}

/// Merges and compares with the device's number of descriptors.
fn check_count(device: &Device, out: &mut [DmaSegment]) -> Result<usize, MapError> {
    let count = device.merge(out);
    if count > device.max_segments {
        return Err(MapError::TooManySegments {
            count,
            max: device.max_segments,
        });
    }
    Ok(count)
}
