//! Lists that the mapping remembers: for devices that do not see the CPU's
//! caches, and for buffers that CPU and device use in turns.

use core::fmt;

use dmabench_flushq::TlbBackend;
use dmabench_pgtable::{self as pgtable, Format, TableMemory};
use dmabench_platform::{Iova, PhysAddr, SlotSource};

use crate::{
    CacheOps, Device, Direction, DmaSegment, Domain, MapError, Mapping, NotUnmapped,
    NotUnmappedReason, Segment,
    caches::Hooks,
    held::{Held, When},
    map::bad_length,
};

/// A list of buffers that a device may reach, together with the list.
///
/// `L` is what the caller gave: an array, a `Vec`, a slice that outlives the
/// mapping. Dropping it leaks the mapping, as with [`Mapping`].
#[derive(Debug)]
#[must_use = "a dropped mapping stays mapped for ever; give it to `Domain::unmap_list`"]
pub struct ListMapping<L> {
    held: Held,
    list: L,
    direction: Direction,
    coherent: bool,
    addr: Iova,
    len_bytes: u64,
}

impl<L> ListMapping<L> {
    /// The address for the device of the list's first byte.
    pub fn addr(&self) -> Iova {
        self.addr
    }

    /// Sum of the segments, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The plain mapping; `None` once an unmap has begun and not finished.
    pub fn mapping(&self) -> Option<&Mapping> {
        self.held.mapping()
    }

    /// The list.
    pub fn list(&self) -> &L {
        &self.list
    }
}

/// A range for `sync_for_cpu` or `sync_for_device` that does not lie in the
/// mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncError {
    /// The range ends beyond the list's end.
    Beyond {
        /// Length of the list in bytes.
        len_bytes: u64,
    },
    /// The mapping is of another domain.
    OtherDomain,
    /// An unmap has begun: there is nothing left to work with.
    NotMapped,
    /// Bounced data was not copied.
    Memory(dmabench_platform::MemoryError),
    /// The list is not the one that was mapped. Nothing was copied.
    ListChanged,
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncError::Beyond { len_bytes } => write!(
                f,
                "the range ends beyond the {len_bytes} bytes that are mapped"
            ),
            SyncError::OtherDomain => {
                f.write_str("the mapping is of another domain: sync it there")
            }
            SyncError::NotMapped => f.write_str("its unmap has begun: finish that instead"),
            SyncError::Memory(error) => error.fmt(f),
            SyncError::ListChanged => NotUnmappedReason::ListChanged.fmt(f),
        }
    }
}

impl core::error::Error for SyncError {}

/// The parts of `list` that lie in `len_bytes` bytes from `offset_bytes` on, the
/// list taken as one string of bytes.
pub(crate) fn parts(
    list: &[Segment],
    offset_bytes: u64,
    len_bytes: u64,
) -> impl Iterator<Item = Segment> {
    let end = offset_bytes.saturating_add(len_bytes);
    let mut at = 0_u64;
    list.iter().filter_map(move |segment| {
        let (first, after) = (at, at.saturating_add(segment.len_bytes));
        at = after;
        let (from, to) = (first.max(offset_bytes), after.min(end));
        (from < to).then(|| Segment {
            phys: PhysAddr(segment.phys.0.wrapping_add(from - first)),
            len_bytes: to - from,
        })
    })
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// As [`map_sg`](Self::map_sg), for a device that may not be coherent: if it
    /// is not, `caches` is called for every segment before the device can reach
    /// it. The list stays in the mapping; give `&list` to keep it.
    ///
    /// # Errors
    ///
    /// [`MapError`]; nothing is mapped then. The hooks may have been called, for
    /// segments that can be memory.
    pub fn map_list<L: AsRef<[Segment]>, C: CacheOps>(
        &self,
        device: &Device,
        caches: &C,
        list: L,
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<ListMapping<L>, MapError> {
        let segments = list.as_ref();
        if !device.is_coherent() {
            self.check_for_hooks(device, segments, out.len())?;
        }
        let hooks = Hooks::of(caches, device, direction);
        for segment in segments {
            hooks.for_device(*segment);
        }
        let mapping = self.map_sg(device, segments, out, direction)?;
        Ok(ListMapping {
            addr: mapping.addr(),
            len_bytes: mapping.len_bytes(),
            held: Held::Mapped(mapping),
            list,
            direction,
            coherent: device.is_coherent(),
        })
    }

    /// What [`map_sg`](Self::map_sg) will refuse for itself is refused before the
    /// hooks see it: their cache operations go by addresses.
    fn check_for_hooks(
        &self,
        device: &Device,
        segments: &[Segment],
        out: usize,
    ) -> Result<(), MapError> {
        if segments.len() > device.max_segments {
            return Err(MapError::TooManySegments {
                count: segments.len(),
                max: device.max_segments,
            });
        }
        if out < segments.len() {
            return Err(MapError::OutTooShort {
                needed: segments.len(),
            });
        }
        let last_output = if self.mode.is_passthrough() {
            u64::MAX
        } else {
            u64::MAX >> (64 - self.config.tables.oas)
        };
        for (index, segment) in segments.iter().enumerate() {
            if segment.len_bytes.wrapping_sub(1) >= device.max_segment_bytes {
                return Err(bad_length(segment, index, device));
            }
            let last = segment.phys.last_byte(segment.len_bytes);
            if last.is_none_or(|last| last.0 > last_output) {
                return Err(MapError::Tables(pgtable::MapError::PhysRange {
                    paddr: segment.phys,
                    len_bytes: segment.len_bytes,
                }));
            }
        }
        Ok(())
    }

    /// As [`unmap`](Self::unmap), and then, for a device that is not coherent
    /// and may have written, `caches` for every segment. (Lazy: the device may
    /// still write after that, until the flush.)
    ///
    /// # Errors
    ///
    /// [`NotUnmapped`] with the mapping; call again to go on.
    pub fn unmap_list<L: AsRef<[Segment]>, C: CacheOps>(
        &self,
        caches: &C,
        mut mapping: ListMapping<L>,
    ) -> Result<L, NotUnmapped<ListMapping<L>>> {
        if let Err(reason) = self.unmap_held(&mut mapping.held, When::AsTheMode) {
            return Err(NotUnmapped { mapping, reason });
        }
        let hooks = Hooks::new(caches, mapping.coherent, mapping.direction);
        for segment in mapping.list.as_ref() {
            hooks.for_cpu(*segment);
        }
        Ok(mapping.list)
    }

    /// The CPU reads or writes `len_bytes` bytes from `offset_bytes` of the list
    /// on while it stays mapped; the device leaves them alone meanwhile.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; no hook was called.
    pub fn sync_for_cpu<L: AsRef<[Segment]>, C: CacheOps>(
        &self,
        caches: &C,
        mapping: &ListMapping<L>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), SyncError> {
        let hooks = self.hooks_for(caches, mapping, offset_bytes, len_bytes)?;
        for part in parts(mapping.list.as_ref(), offset_bytes, len_bytes) {
            hooks.for_cpu(part);
        }
        Ok(())
    }

    /// The device goes on with those bytes; the CPU leaves them alone.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; no hook was called.
    pub fn sync_for_device<L: AsRef<[Segment]>, C: CacheOps>(
        &self,
        caches: &C,
        mapping: &ListMapping<L>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), SyncError> {
        let hooks = self.hooks_for(caches, mapping, offset_bytes, len_bytes)?;
        for part in parts(mapping.list.as_ref(), offset_bytes, len_bytes) {
            hooks.for_device(part);
        }
        Ok(())
    }

    fn hooks_for<'c, L, C: CacheOps>(
        &self,
        caches: &'c C,
        mapping: &ListMapping<L>,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<Hooks<'c, C>, SyncError> {
        match &mapping.held {
            Held::Mapped(plain) if core::ptr::eq(plain.tag, self.tag) => {}
            Held::Mapped(_) => return Err(SyncError::OtherDomain),
            Held::Unfinished(_) | Held::Gone => return Err(SyncError::NotMapped),
        }
        in_range(offset_bytes, len_bytes, mapping.len_bytes)?;
        Ok(Hooks::new(caches, mapping.coherent, mapping.direction))
    }
}

pub(crate) fn in_range(offset_bytes: u64, len_bytes: u64, all: u64) -> Result<(), SyncError> {
    match offset_bytes.checked_add(len_bytes) {
        Some(end) if end <= all => Ok(()),
        _ => Err(SyncError::Beyond { len_bytes: all }),
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// The parts are the bytes asked for, each once, in order.
        #[test]
        fn parts_are_exactly_the_bytes(
            lens in prop::collection::vec(1_u64..40, 1..8),
            offset in 0_u64..300,
            len in 0_u64..300,
        ) {
            let mut base = 0x1000;
            let list: Vec<Segment> = lens.iter().map(|len| {
                base += 0x100;
                Segment { phys: PhysAddr(base), len_bytes: *len }
            }).collect();
            let bytes = |s: Segment| (0..s.len_bytes).map(move |i| s.phys.0 + i);
            let all: Vec<u64> = list.iter().copied().flat_map(bytes).collect();
            let end = (offset + len).min(all.len() as u64) as usize;
            let expected = all.get((offset as usize).min(end)..end).unwrap_or(&[]);
            let found: Vec<u64> = parts(&list, offset, len).flat_map(bytes).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
