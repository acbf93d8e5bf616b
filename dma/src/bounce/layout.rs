//! Which bytes of a list go through slots, and where they lie in them.

use dmabench_pgtable as pgtable;
use dmabench_platform::{Granule, PhysAddr};

use super::BouncePolicy;
use crate::{
    Device, MapError, Segment,
    merge::{Place, places},
};

/// A run of the caller's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where the caller has it.
    pub(super) buffer: Segment,
    /// Offset of its copy in the slots; `None` where the device works on the
    /// caller's memory.
    pub(super) slot: Option<u64>,
    /// Bytes of the range before its granule that belong to nobody.
    pub(super) gap: u64,
}

impl Part {
    /// What the tables hold for it, in whole granules, with its copy in the
    /// slots at `slots`.
    pub(super) fn granules(&self, slots: PhysAddr, granule: Granule) -> (PhysAddr, u64) {
        let mask = granule.mask();
        let first = match self.slot {
            Some(at) => PhysAddr(slots.0 + at),
            None => self.buffer.phys,
        };
        let offset = first.0 & mask;
        let len = (offset + self.buffer.len_bytes + mask) & !mask;
        (PhysAddr(first.0 - offset), len)
    }
}

/// What a policy makes of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All of it is in slots, which the device reaches at the pool's addresses.
    Copied,
    /// Heads and tails are in slots, which are mapped beside the whole granules
    /// between them, for this list.
    InPlace,
}

/// How a list lies in its range of I/O addresses and in the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) way: Way,
    /// Length of the range, in whole granules.
    pub(super) range_bytes: u64,
    /// Length of the slots, in whole granules; may be 0.
    pub(super) slot_bytes: u64,
    /// Sum of the segments.
    pub(super) len_bytes: u64,
    /// What of it the device is given in place: whole granules.
    pub(super) in_place_bytes: u64,
}

/// The layout of `segments`, with everything checked.
pub(super) fn layout(
    policy: BouncePolicy,
    device: &Device,
    segments: &[Segment],
    granule: Granule,
) -> Result<Layout, MapError> {
    let mut all = places(device, segments, granule);
    let mut len_bytes = 0;
    let mut bounced = 0;
    let mut whole_bytes = 0;
    for placed in all.by_ref() {
        let (segment, _) = placed?;
        // Elsewhere the tables see to it. Here a segment is split, and what of
        // it lies behind the end of 64 bits would be memory that nobody named.
        if segment.phys.last_byte(segment.len_bytes).is_none() {
            return Err(MapError::Tables(pgtable::MapError::PhysRange {
                paddr: segment.phys,
                len_bytes: segment.len_bytes,
            }));
        }
        // Below 2^62 in all, as the range is.
        len_bytes += segment.len_bytes;
        if (segment.phys.0 | segment.len_bytes) & granule.mask() == 0 {
            whole_bytes += segment.len_bytes;
            continue;
        }
        for (run, to_slot) in split(segment, granule).into_iter().flatten() {
            if to_slot {
                bounced += 1;
            } else {
                whole_bytes += run.len_bytes;
            }
        }
    }
    let range_bytes = all.end;
    let way = match policy {
        BouncePolicy::Everything => Way::Copied,
        BouncePolicy::Partial => Way::InPlace,
        BouncePolicy::Small { below_bytes } if whole_bytes < below_bytes => Way::Copied,
        BouncePolicy::Small { .. } => Way::InPlace,
    };
    let (slot_bytes, in_place_bytes) = match way {
        Way::Copied => (range_bytes, 0),
        Way::InPlace => (bounced << granule.lg2(), whole_bytes),
    };
    Ok(Layout {
        way,
        range_bytes,
        slot_bytes,
        len_bytes,
        in_place_bytes,
    })
}

/// The runs of a list for which [`layout`] found nothing wrong, in their order,
/// which is that of their copies in the slots.
pub(super) fn parts<'a>(
    way: Way,
    device: &'a Device,
    segments: &'a [Segment],
    granule: Granule,
) -> impl Iterator<Item = Part> + Clone + 'a {
    places(device, segments, granule)
        .flatten()
        .scan(0_u64, move |slot_granules, (segment, place)| {
            Some(match way {
                Way::Copied => [Some(copied(segment, &place)), None, None],
                Way::InPlace => in_place(segment, &place, granule, slot_granules),
            })
        })
        .flatten()
        .flatten()
}

fn copied(segment: Segment, place: &Place) -> Part {
    Part {
        buffer: segment,
        slot: Some(place.at),
        gap: place.gap,
    }
}

fn in_place(
    segment: Segment,
    place: &Place,
    granule: Granule,
    slot_granules: &mut u64,
) -> [Option<Part>; 3] {
    let mut gap = place.gap;
    split(segment, granule).map(|run| {
        let (buffer, bounced) = run?;
        let slot = bounced.then(|| {
            let at = (*slot_granules << granule.lg2()) + (buffer.phys.0 & granule.mask());
            *slot_granules += 1;
            at
        });
        let gap = core::mem::take(&mut gap);
        Some(Part { buffer, slot, gap })
    })
}

/// A segment as a head that does not begin on a granule or does not fill one,
/// whole granules, and a tail; and which of them would show a device memory
/// that is not the segment's.
fn split(segment: Segment, granule: Granule) -> [Option<(Segment, bool)>; 3] {
    let (mask, bytes) = (granule.mask(), granule.bytes());
    let offset = segment.phys.0 & mask;
    let mut at = segment.phys.0;
    let mut left = segment.len_bytes;
    let mut take = |len: u64, bounced: bool| {
        if len == 0 {
            return None;
        }
        let run = Segment {
            phys: PhysAddr(at),
            len_bytes: len,
        };
        // May pass the end of 64 bits only behind the last run.
        at = at.wrapping_add(len);
        left -= len;
        Some((run, bounced))
    };
    let head = if offset != 0 {
        (bytes - offset).min(segment.len_bytes)
    } else {
        0
    };
    let middle = (segment.len_bytes - head) & !mask;
    let tail = segment.len_bytes - head - middle;
    [take(head, true), take(middle, false), take(tail, true)]
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    const G: Granule = Granule::K4;

    fn segment(phys: u64, len_bytes: u64) -> Segment {
        Segment {
            phys: PhysAddr(phys),
            len_bytes,
        }
    }

    #[test]
    fn a_segment_is_split_at_its_granules() {
        let split = |phys, len| -> Vec<(u64, u64, bool)> {
            super::split(segment(phys, len), G)
                .into_iter()
                .flatten()
                .map(|(run, bounced)| (run.phys.0, run.len_bytes, bounced))
                .collect()
        };
        assert_eq!(split(0x1000, 0x2000), [(0x1000, 0x2000, false)]);
        assert_eq!(
            split(0x1000, 0x1fff),
            [(0x1000, 0x1000, false), (0x2000, 0xfff, true)]
        );
        assert_eq!(split(0x1200, 0x100), [(0x1200, 0x100, true)]);
        assert_eq!(split(0x1200, 0xe00), [(0x1200, 0xe00, true)]);
        assert_eq!(
            split(0x1fff, 0x1002),
            [
                (0x1fff, 1, true),
                (0x2000, 0x1000, false),
                (0x3000, 1, true)
            ]
        );
        assert_eq!(split(u64::MAX, 1), [(u64::MAX, 1, true)]);
    }

    fn lists() -> impl Strategy<Value = (Vec<Segment>, Option<u32>)> {
        let segment = (0_u64..1 << 20, 1_u64..20_000).prop_map(|(at, len)| segment(at, len));
        (
            prop::collection::vec(segment, 1..12),
            prop::option::of(15_u32..20),
        )
    }

    proptest! {
        /// Every byte of the list is in one part, in order; what is not bounced
        /// is whole granules; copies do not overlap, keep the offset in the
        /// granule, and (partial) share no granule.
        #[test]
        fn u1_parts_are_the_list_and_slots_are_shared_by_nobody((list, boundary) in lists()) {
            let mut device = Device::new();
            if let Some(lg2) = boundary {
                device = device.boundary_bytes(1 << lg2).unwrap();
            }
            let small = BouncePolicy::Small { below_bytes: 5 << 12 };
            for policy in [BouncePolicy::Partial, small, BouncePolicy::Everything] {
                let layout = layout(policy, &device, &list, G).unwrap();
                let parts: Vec<Part> = parts(layout.way, &device, &list, G).collect();
                let in_place: u64 = parts.iter().filter(|part| part.slot.is_none())
                    .map(|part| part.buffer.len_bytes).sum();
                prop_assert_eq!(layout.in_place_bytes, in_place);
                if policy == small {
                    let whole: u64 = list.iter().flat_map(|s| split(*s, G)).flatten()
                        .filter(|(_, to_slot)| !to_slot).map(|(run, _)| run.len_bytes).sum();
                    prop_assert_eq!(layout.way == Way::Copied, whole < 5 << 12);
                }
                let mut at = list.iter().map(|s| (s.phys.0, s.len_bytes)).collect::<Vec<_>>();
                at.reverse();
                let mut end = 0;
                let mut range = 0;
                let mut used = vec![];
                for part in &parts {
                    let (phys, left) = at.last_mut().unwrap();
                    prop_assert_eq!(part.buffer.phys.0, *phys);
                    *phys += part.buffer.len_bytes;
                    *left -= part.buffer.len_bytes;
                    if *left == 0 { at.pop(); }
                    range += part.gap + part.granules(PhysAddr(0), G).1;
                    match part.slot {
                        None => {
                            prop_assert_eq!(layout.way, Way::InPlace);
                            prop_assert_eq!((part.buffer.phys.0 | part.buffer.len_bytes) & G.mask(), 0);
                        }
                        Some(slot) => {
                            prop_assert_eq!((slot ^ part.buffer.phys.0) & G.mask(), 0);
                            prop_assert!(slot >= end);
                            end = slot + part.buffer.len_bytes;
                            if layout.way == Way::InPlace {
                                used.push(slot >> G.lg2());
                                prop_assert_eq!((end - 1) >> G.lg2(), slot >> G.lg2());
                            }
                        }
                    }
                }
                prop_assert!(at.is_empty());
                prop_assert_eq!(range, layout.range_bytes);
                prop_assert!(end <= layout.slot_bytes);
                let count = used.len();
                used.dedup();
                prop_assert_eq!(used.len(), count);
                prop_assert_eq!(layout.len_bytes, list.iter().map(|s| s.len_bytes).sum::<u64>());
            }
        }
    }
}
