//! Memory that CPU and device share for long: rings, descriptors, mailboxes.

use core::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use dmabench_flushq::TlbBackend;
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{Block, BlockMemory, Iova, SlotSource};

use crate::{
    Device, Direction, Domain, MapError, NotUnmapped, Segment,
    device::LONGEST_SEGMENT,
    held::{Held, When},
};

/// A block of zeroed memory that a device may read and write until
/// [`Domain::free_coherent`] takes this value. CPU and device see each other's
/// stores without any sync.
///
/// Dropping it leaks the block and the mapping: the device may still reach it.
#[must_use = "a dropped block stays allocated and mapped; give it to `Domain::free_coherent`"]
pub struct Coherent<A: BlockMemory> {
    held: Held,
    block: Block,
    addr: Iova,
    /// Whole granules.
    len_bytes: u64,
    granule_bytes: u64,
    snooped: bool,
    memory: A,
}

// SAFETY: the block is this value's alone on the CPU's side; `BlockMemory`
// promises that any thread may use it. Shared access is by atomics only.
unsafe impl<A: BlockMemory + Send> Send for Coherent<A> {}
// SAFETY: as above.
unsafe impl<A: BlockMemory + Sync> Sync for Coherent<A> {}

/// Why no block was allocated. Nothing is mapped or allocated then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoherentError {
    /// A length of 0, or one that does not fit into 62 bits.
    Length {
        /// What was asked for.
        len_bytes: u64,
    },
    /// No memory, or none that a device sees which does not snoop.
    NoMemory,
    /// The memory's block is not aligned as promised.
    Misaligned,
    /// It was not mapped.
    Map(MapError),
}

impl fmt::Display for CoherentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoherentError::Length { len_bytes } => {
                write!(f, "{len_bytes} bytes of coherent memory: ask for 1 to 2^62")
            }
            CoherentError::NoMemory => f.write_str(
                "no coherent memory of that size: free some, or give uncached memory for a device that does not snoop",
            ),
            CoherentError::Misaligned => f.write_str(
                "the block is not aligned to the granule: see the duties of `BlockMemory`",
            ),
            CoherentError::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CoherentError {}

/// An access outside a [`Coherent`] block, or one that is not aligned to its
/// size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideBlock {
    /// Where, in bytes from its start.
    pub offset_bytes: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
}

impl fmt::Display for OutsideBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at offset {}: outside the block, or not aligned to their size",
            self.len_bytes, self.offset_bytes
        )
    }
}

impl core::error::Error for OutsideBlock {}

impl<A: BlockMemory> Coherent<A> {
    /// Its address for the device.
    pub fn addr(&self) -> Iova {
        self.addr
    }

    /// Its length: what was asked for, rounded up to whole granules, so that
    /// nobody else's memory is in reach.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Its address for the CPU, for what the methods here cannot do. The device
    /// may write at any time: use volatile accesses or atomics, never a
    /// reference to plain data.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.block.ptr
    }

    /// The place of a `T`, if it is inside and aligned.
    fn place<T>(&self, offset_bytes: u64) -> Result<*mut T, OutsideBlock> {
        let len_bytes = size_of::<T>() as u64;
        let outside = OutsideBlock {
            offset_bytes,
            len_bytes,
        };
        let end = offset_bytes.checked_add(len_bytes).ok_or(outside)?;
        if end > self.len_bytes || !offset_bytes.is_multiple_of(len_bytes) {
            return Err(outside);
        }
        // SAFETY: the offset is inside the block, which is one allocation of
        // `len_bytes` bytes.
        Ok(unsafe { self.block.ptr.as_ptr().add(offset_bytes as usize) }.cast())
    }

    /// Reads a 32-bit word that the device may write: what the device wrote
    /// before it is seen by reads after it (acquire).
    ///
    /// # Errors
    ///
    /// [`OutsideBlock`]; the same for the others.
    pub fn load_u32(&self, offset_bytes: u64) -> Result<u32, OutsideBlock> {
        let place = self.place::<u32>(offset_bytes)?;
        // SAFETY: inside the block, aligned (the block is aligned to a granule),
        // alive as long as `self`, and accessed by atomics on this side.
        Ok(unsafe { AtomicU32::from_ptr(place) }.load(Ordering::Acquire))
    }

    /// Writes a 32-bit word: the device that sees it sees every earlier store
    /// (release).
    ///
    /// # Errors
    ///
    /// [`OutsideBlock`].
    pub fn store_u32(&self, offset_bytes: u64, value: u32) -> Result<(), OutsideBlock> {
        let place = self.place::<u32>(offset_bytes)?;
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU32::from_ptr(place) }.store(value, Ordering::Release);
        Ok(())
    }

    /// As [`load_u32`](Self::load_u32), with 64 bits.
    ///
    /// # Errors
    ///
    /// [`OutsideBlock`].
    pub fn load_u64(&self, offset_bytes: u64) -> Result<u64, OutsideBlock> {
        let place = self.place::<u64>(offset_bytes)?;
        // SAFETY: as in `load_u32`.
        Ok(unsafe { AtomicU64::from_ptr(place) }.load(Ordering::Acquire))
    }

    /// As [`store_u32`](Self::store_u32), with 64 bits.
    ///
    /// # Errors
    ///
    /// [`OutsideBlock`].
    pub fn store_u64(&self, offset_bytes: u64, value: u64) -> Result<(), OutsideBlock> {
        let place = self.place::<u64>(offset_bytes)?;
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU64::from_ptr(place) }.store(value, Ordering::Release);
        Ok(())
    }

    /// Copies bytes out, one by one, in no order that a device could rely on.
    ///
    /// # Errors
    ///
    /// [`OutsideBlock`]; nothing was copied.
    pub fn read(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), OutsideBlock> {
        self.check(offset_bytes, into.len())?;
        for (at, byte) in (offset_bytes..).zip(into) {
            let place = self.place::<u8>(at)?;
            // SAFETY: as in `load_u32`.
            *byte = unsafe { AtomicU8::from_ptr(place) }.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Copies bytes in, as [`read`](Self::read) does.
    ///
    /// # Errors
    ///
    /// [`OutsideBlock`]; nothing was copied.
    pub fn write(&self, offset_bytes: u64, from: &[u8]) -> Result<(), OutsideBlock> {
        self.check(offset_bytes, from.len())?;
        for (at, byte) in (offset_bytes..).zip(from) {
            let place = self.place::<u8>(at)?;
            // SAFETY: as in `load_u32`.
            unsafe { AtomicU8::from_ptr(place) }.store(*byte, Ordering::Relaxed);
        }
        Ok(())
    }

    fn check(&self, offset_bytes: u64, len: usize) -> Result<(), OutsideBlock> {
        let len_bytes = len as u64;
        match offset_bytes.checked_add(len_bytes) {
            Some(end) if end <= self.len_bytes => Ok(()),
            _ => Err(OutsideBlock {
                offset_bytes,
                len_bytes,
            }),
        }
    }
}

impl<A: BlockMemory> fmt::Debug for Coherent<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coherent")
            .field("addr", &self.addr)
            .field("phys", &self.block.phys)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// A zeroed block of at least `len_bytes` bytes of `memory`, mapped for
    /// reading and writing. `memory` (a reference, a handle) stays in the block,
    /// to take it back. The device's limits on segments do not apply.
    ///
    /// # Errors
    ///
    /// [`CoherentError`]; nothing is allocated then.
    pub fn alloc_coherent<A: BlockMemory>(
        &self,
        device: &Device,
        memory: A,
        len_bytes: u64,
    ) -> Result<Coherent<A>, CoherentError> {
        if len_bytes.wrapping_sub(1) >= LONGEST_SEGMENT {
            return Err(CoherentError::Length { len_bytes });
        }
        let (granule_bytes, snooped) = (F::GRANULE.bytes(), device.is_coherent());
        let len_bytes = len_bytes.next_multiple_of(granule_bytes);
        let block = memory
            .alloc(len_bytes, granule_bytes, snooped)
            .ok_or(CoherentError::NoMemory)?;
        let buffer = Segment {
            phys: block.phys,
            len_bytes,
        };
        let mapped = if block.phys.is_aligned_lg2(F::GRANULE.lg2()) {
            self.map(&device.as_one_segment(), buffer, Direction::Bidirectional)
                .map_err(CoherentError::Map)
        } else {
            Err(CoherentError::Misaligned)
        };
        match mapped {
            Ok(mapping) => Ok(Coherent {
                addr: mapping.addr(),
                held: Held::Mapped(mapping),
                block,
                len_bytes,
                granule_bytes,
                snooped,
                memory,
            }),
            Err(error) => {
                // SAFETY: allocated above with these figures, and nobody was
                // told of it.
                unsafe { memory.free(block, len_bytes, granule_bytes, snooped) };
                Err(error)
            }
        }
    }

    /// Takes the device's access away, waits until that is complete, **in lazy
    /// mode too**, and then frees the memory.
    ///
    /// # Errors
    ///
    /// [`NotUnmapped`] with the block, which is not freed; call again to go on.
    pub fn free_coherent<A: BlockMemory>(
        &self,
        mut coherent: Coherent<A>,
    ) -> Result<(), NotUnmapped<Coherent<A>>> {
        if let Err(reason) = self.unmap_held(&mut coherent.held, When::Now) {
            return Err(NotUnmapped {
                mapping: coherent,
                reason,
            });
        }
        let Coherent {
            block,
            len_bytes,
            granule_bytes,
            snooped,
            memory,
            ..
        } = coherent;
        // SAFETY: it came from this `memory` with these figures; the token is
        // gone, so the CPU has no way to it; and the device has lost it: the
        // unmap above has completed, in this domain, as its tag was checked.
        unsafe { memory.free(block, len_bytes, granule_bytes, snooped) };
        Ok(())
    }
}

/// The rest of a [`Coherent`] may be shared and sent as it is.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Held>();
};
