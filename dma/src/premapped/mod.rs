//! Memory that is registered once: a map is a look-up, and there is no unmap.
//!
//! What a driver does that owns its buffers for long (packet pools, RDMA memory
//! regions, registered buffers of io_uring): it tells the domain once, and each
//! request then only asks where the device finds its bytes. There is no cost for
//! the hardware, and **no protection between requests**: whatever is registered
//! the device reaches at any time, from [`Premapped::register`] until
//! [`Premapped::unregister`] has returned. That is an agreement and no window:
//! the memory is the device's for so long, and its owner gives nobody a buffer of
//! it that the device must not see or change. Only whole granules can be
//! registered, so that at least nothing else comes along. And it is for devices
//! that see the CPU's caches: for others each request has to maintain them, before
//! and after, and there is no after here.

mod search;
mod table;

use alloc::vec::Vec;
use core::fmt;

use dmabench_flushq::TlbBackend;
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{
    Iova, PhysAddr, SlotSource,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    CloseError, Device, Direction, DmaSegment, Domain, MapError, NotUnmapped, NotUnmappedReason,
    Segment,
    held::{Held, When},
};
use table::{Entry, Overlap, Table};

/// Memory that a device can reach until [`Premapped::unregister`] takes this
/// value. Dropping it leaves it registered for ever, and is counted as a leaked
/// mapping.
#[derive(Debug)]
#[must_use = "a dropped region stays reachable for ever; give it to `Premapped::unregister`"]
pub struct Region {
    held: Held,
    memory: Segment,
    addr: Iova,
    /// Still found by look-ups.
    listed: bool,
}

impl Region {
    /// The memory.
    pub fn memory(&self) -> Segment {
        self.memory
    }

    /// Where the device finds its first byte.
    pub fn addr(&self) -> Iova {
        self.addr
    }
}

const NOT_COHERENT: &str =
    "the device does not snoop, so registered memory would be stale: map each list (`map_list`)";

/// Why memory was not registered. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// Not whole granules: what shares the first or the last one would be in
    /// reach as well, for good.
    NotGranules {
        /// The granule in bytes.
        granule_bytes: u64,
    },
    /// The device does not see the CPU's caches: there is no unmap at which they
    /// could be maintained.
    NotCoherent,
    /// Part of it is registered.
    Overlaps(Segment),
    /// It was not mapped.
    Map(MapError),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterError::NotGranules { granule_bytes } => write!(
                f,
                "only whole granules of {granule_bytes} bytes can be registered: align the memory"
            ),
            RegisterError::NotCoherent => f.write_str(NOT_COHERENT),
            RegisterError::Overlaps(other) => write!(
                f,
                "part of it is registered with the {} bytes at {}: register it once",
                other.len_bytes, other.phys
            ),
            RegisterError::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RegisterError {}

/// Why a look-up found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookUpError {
    /// A segment does not lie in one registered region.
    NotRegistered {
        /// Its place in the list.
        index: usize,
    },
    /// Its region is registered for the other direction.
    Direction {
        /// Its place in the list.
        index: usize,
        /// What it is registered for.
        registered: Direction,
    },
    /// The device does not see the CPU's caches, and what is registered is for
    /// devices that do.
    NotCoherent,
    /// The list or one of its segments is not for this device.
    Map(MapError),
}

impl fmt::Display for LookUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookUpError::NotRegistered { index } => write!(
                f,
                "segment {index} does not lie in one registered region: register it, or split it"
            ),
            LookUpError::Direction { index, registered } => write!(
                f,
                "the region of segment {index} is registered as {registered:?}: register it for both"
            ),
            LookUpError::NotCoherent => f.write_str(NOT_COHERENT),
            LookUpError::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LookUpError {}

impl From<MapError> for LookUpError {
    fn from(error: MapError) -> Self {
        LookUpError::Map(error)
    }
}

/// A domain whose devices reach registered memory, all of it and at any time.
///
/// Look-ups take `&self` and no lock, on any number of threads. Registering and
/// unregistering wait for look-ups under way: call them with no request open on
/// this thread.
pub struct Premapped<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> {
    domain: Domain<B, S, F, M>,
    table: Table,
    registered_bytes: AtomicU64,
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Premapped<B, S, F, M> {
    /// Takes `domain` for registered memory only. Its mode does not matter:
    /// unregistering always waits for the hardware.
    pub fn new(domain: Domain<B, S, F, M>) -> Self {
        let table = Table::new(domain.slots().clone());
        Premapped {
            domain,
            table,
            registered_bytes: AtomicU64::new(0),
        }
    }

    /// The domain, for its figures and its [`poll`](Domain::poll).
    pub fn domain(&self) -> &Domain<B, S, F, M> {
        &self.domain
    }

    /// What devices can reach now, in bytes.
    pub fn registered_bytes(&self) -> u64 {
        self.registered_bytes.load(Ordering::Relaxed)
    }

    /// Lets devices with the limits of `device` reach `memory` from now on.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; nothing changed.
    pub fn register(
        &self,
        device: &Device,
        memory: Segment,
        direction: Direction,
    ) -> Result<Region, RegisterError> {
        let region = self.map_region(device, memory, direction)?;
        match self.table.insert(&[entry(&region, direction)]) {
            Ok(()) => Ok(self.listed(region)),
            Err(overlap) => Err(self.undo([region], overlap)),
        }
    }

    /// [`register`](Self::register) for many pieces of memory at once, all or
    /// none: one wait for the look-ups under way instead of one for each.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; nothing changed.
    pub fn register_all(
        &self,
        device: &Device,
        memory: &[Segment],
        direction: Direction,
    ) -> Result<Vec<Region>, RegisterError> {
        let mut regions = Vec::with_capacity(memory.len());
        let mut failed = None;
        for piece in memory {
            match self.map_region(device, *piece, direction) {
                Ok(region) => regions.push(region),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            for region in regions {
                self.unmap_region(region);
            }
            return Err(error);
        }
        let entries: Vec<Entry> = regions.iter().map(|r| entry(r, direction)).collect();
        match self.table.insert(&entries) {
            Ok(()) => Ok(regions.into_iter().map(|r| self.listed(r)).collect()),
            Err(overlap) => Err(self.undo(regions, overlap)),
        }
    }

    fn map_region(
        &self,
        device: &Device,
        memory: Segment,
        direction: Direction,
    ) -> Result<Region, RegisterError> {
        if (memory.phys.0 | memory.len_bytes) & F::GRANULE.mask() != 0 {
            return Err(RegisterError::NotGranules {
                granule_bytes: F::GRANULE.bytes(),
            });
        }
        if !device.is_coherent() {
            return Err(RegisterError::NotCoherent);
        }
        let mapping = self
            .domain
            .map(&device.as_one_segment(), memory, direction)
            .map_err(RegisterError::Map)?;
        Ok(Region {
            addr: mapping.addr(),
            held: Held::Mapped(mapping),
            memory,
            listed: false,
        })
    }

    fn listed(&self, mut region: Region) -> Region {
        region.listed = true;
        self.registered_bytes
            .fetch_add(region.memory.len_bytes, Ordering::Relaxed);
        region
    }

    fn undo(
        &self,
        regions: impl IntoIterator<Item = Region>,
        Overlap(other): Overlap,
    ) -> RegisterError {
        for region in regions {
            self.unmap_region(region);
        }
        RegisterError::Overlaps(other)
    }

    /// A region that no look-up has found. If the hardware does not answer, its
    /// addresses leak, and the domain counts that.
    fn unmap_region(&self, mut region: Region) {
        let _ = self.domain.unmap_held(&mut region.held, When::Now);
    }

    /// Where devices find `buffer`. There is nothing to undo.
    ///
    /// # Errors
    ///
    /// [`LookUpError`].
    #[inline]
    pub fn map(
        &self,
        device: &Device,
        buffer: Segment,
        direction: Direction,
    ) -> Result<Iova, LookUpError> {
        let mut out = [DmaSegment::EMPTY];
        self.map_sg(device, &[buffer], &mut out, direction)?;
        Ok(out[0].addr)
    }

    /// Where devices find the segments of a list: `out[i]` is what the device
    /// must be told for `segments[i]`. There is nothing to undo. The addresses
    /// need not follow each other, as those of [`Domain::map_sg`] do.
    ///
    /// # Errors
    ///
    /// [`LookUpError`]; the content of `out` is unspecified then.
    #[inline]
    pub fn map_sg(
        &self,
        device: &Device,
        segments: &[Segment],
        out: &mut [DmaSegment],
        direction: Direction,
    ) -> Result<(), LookUpError> {
        let pin = self.domain.source.pin();
        let Ok(slot) = self.domain.slots.enter_pinned(&pin) else {
            return Err(MapError::Reentered.into());
        };
        if !device.is_coherent() {
            return Err(LookUpError::NotCoherent);
        }
        if segments.is_empty() {
            return Err(MapError::EmptyList.into());
        }
        if segments.len() > device.max_segments {
            return Err(MapError::TooManySegments {
                count: segments.len(),
                max: device.max_segments,
            }
            .into());
        }
        let Some(out) = out.get_mut(..segments.len()) else {
            return Err(MapError::OutTooShort {
                needed: segments.len(),
            }
            .into());
        };
        let mut found: Option<Entry> = None;
        for (index, (segment, out)) in segments.iter().zip(out).enumerate() {
            if segment.len_bytes.wrapping_sub(1) >= device.max_segment_bytes {
                return Err(crate::map::bad_length(segment, index, device).into());
            }
            // Lists are often in one region: no search then.
            let entry = match found.filter(|entry| entry.holds(segment)) {
                Some(entry) => entry,
                None => self
                    .table
                    .find(&slot, segment)
                    .ok_or(LookUpError::NotRegistered { index })?,
            };
            found = Some(entry);
            let reads = direction.device_reads() && !entry.direction.device_reads();
            let writes = direction.device_writes() && !entry.direction.device_writes();
            if reads || writes {
                return Err(LookUpError::Direction {
                    index,
                    registered: entry.direction,
                });
            }
            let addr = Iova(entry.iova.0 + (segment.phys.0 - entry.first.0));
            let last = addr.0 + (segment.len_bytes - 1);
            if last > device.last_address.0 {
                return Err(MapError::BeyondMask { phys: segment.phys }.into());
            }
            if (addr.0 ^ last) & device.beyond_boundary != 0 {
                return Err(crate::map::crosses(index, device).into());
            }
            *out = DmaSegment {
                addr,
                len_bytes: segment.len_bytes,
            };
        }
        Ok(())
    }

    /// Takes a region away from the devices: first from the look-ups, then from
    /// the tables, and waits until the hardware has forgotten it, whatever the
    /// mode. Requests that still use it fault.
    ///
    /// # Errors
    ///
    /// [`NotUnmapped`] with the region, which devices may still reach; call
    /// again to go on.
    pub fn unregister(&self, mut region: Region) -> Result<Segment, NotUnmapped<Region>> {
        let of_other = match &region.held {
            Held::Mapped(mapping) => !core::ptr::eq(mapping.tag, self.domain.tag),
            Held::Unfinished(unfinished) => !core::ptr::eq(unfinished.tag, self.domain.tag),
            Held::Gone => false,
        };
        if of_other {
            return Err(NotUnmapped {
                mapping: region,
                reason: NotUnmappedReason::OtherDomain,
            });
        }
        if region.listed {
            // Waiting for readers inside a section would be waiting for oneself.
            let pin = self.domain.source.pin();
            if self.domain.slots.enter_pinned(&pin).is_err() {
                return Err(NotUnmapped {
                    mapping: region,
                    reason: NotUnmappedReason::Reentered,
                });
            }
            self.table.remove(region.memory.phys);
            region.listed = false;
        }
        if let Err(reason) = self.domain.unmap_held(&mut region.held, When::Now) {
            return Err(NotUnmapped {
                mapping: region,
                reason,
            });
        }
        self.registered_bytes
            .fetch_sub(region.memory.len_bytes, Ordering::Relaxed);
        Ok(region.memory)
    }

    /// Takes the domain down once everything is unregistered.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with the domain.
    pub fn close(self) -> Result<(), CloseError<Self>> {
        let Premapped {
            domain,
            table,
            registered_bytes,
        } = self;
        domain.close().map_err(|error| CloseError {
            domain: Premapped {
                domain: error.domain,
                table,
                registered_bytes,
            },
            reason: error.reason,
        })
    }
}

fn entry(region: &Region, direction: Direction) -> Entry {
    let memory = region.memory;
    Entry {
        first: memory.phys,
        // Mapped, so neither empty nor past the end.
        last: PhysAddr(memory.phys.0 + (memory.len_bytes - 1)),
        iova: region.addr,
        direction,
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> fmt::Debug for Premapped<B, S, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Premapped")
            .field("domain", &self.domain)
            .field("registered_bytes", &self.registered_bytes())
            .finish_non_exhaustive()
    }
}
