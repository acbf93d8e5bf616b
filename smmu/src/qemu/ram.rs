//! The emulated machine's RAM: where tables, queues, descriptors and data lie.

use alloc::{sync::Arc, vec, vec::Vec};
use core::{fmt, mem::ManuallyDrop, ptr::NonNull};
use std::fs::File;

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::{CpuMemory, MemoryError, PhysAddr, sync::Mutex};

use super::{QemuError, shared::Shared};

/// Where QEMU's `virt` machine has its RAM.
pub(super) const RAM_BASE: u64 = 0x4000_0000;

/// Bytes of a frame, the unit of allocation.
const FRAME_BYTES: u64 = 4096;

/// Why RAM was not given or not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RamError {
    /// No free run of frames is long enough.
    Full {
        /// Bytes asked for.
        bytes: u64,
    },
    /// A length of 0, or an alignment that is no power of two.
    Shape,
    /// The range is not all in RAM.
    Outside {
        /// Its first byte.
        phys: PhysAddr,
    },
    /// The range was not allocated in this way, or was freed.
    NotAllocated {
        /// Its first byte.
        phys: PhysAddr,
    },
}

impl fmt::Display for RamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RamError::Full { bytes } => write!(
                f,
                "no {bytes} bytes are free in the emulated machine's RAM: free some, or give it more"
            ),
            RamError::Shape => f.write_str("allocate at least one byte, aligned to a power of two"),
            RamError::Outside { phys } => {
                write!(f, "{phys} is the begin of a range that is not all in RAM")
            }
            RamError::NotAllocated { phys } => {
                write!(f, "{phys} was not allocated with this length, or was freed")
            }
        }
    }
}

impl core::error::Error for RamError {}

/// Frames in use, and how long each allocation is.
struct Frames {
    used: Vec<bool>,
    /// By first frame: frames of the allocation, and whether it is a table.
    runs: alloc::collections::BTreeMap<u64, (u64, bool)>,
    /// Where the search begins.
    next: u64,
    tables: u64,
}

impl Frames {
    fn take(&mut self, count: u64, align: u64, table: bool) -> Option<u64> {
        let total = self.used.len() as u64;
        for begin in [self.next, 0] {
            let mut at = begin.next_multiple_of(align);
            while at.checked_add(count)? <= total {
                let run = &mut self.used[at as usize..(at + count) as usize];
                match run.iter().rposition(|used| *used) {
                    None => {
                        run.fill(true);
                        self.runs.insert(at, (count, table));
                        self.next = at + count;
                        self.tables += u64::from(table);
                        return Some(at);
                    }
                    Some(last) => at = (at + last as u64 + 1).next_multiple_of(align),
                }
            }
        }
        None
    }

    fn give_back(&mut self, at: u64, count: u64, table: bool) -> bool {
        if self.runs.get(&at) != Some(&(count, table)) {
            return false;
        }
        self.runs.remove(&at);
        // The lowest that is free comes next: memory that was touched is used
        // again.
        self.next = self.next.min(at);
        self.used[at as usize..(at + count) as usize].fill(false);
        self.tables -= u64::from(table);
        true
    }
}

struct Inner {
    memory: ManuallyDrop<Shared>,
    frames: Mutex<Frames>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Tables that were not given back stay valid: somebody may hold a token
        // of one.
        if self.frames.lock().tables == 0 {
            // SAFETY: dropped once, here, and nobody has a pointer into it: data
            // is reached through `GuestRam` only, which is gone.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// RAM of the emulated machine, shared with it; the
/// [`TableMemory`] of a driver and of page tables that QEMU's SMMU walks.
///
/// Cheap to clone; clones are the same memory. Physical addresses are those the
/// machine has. Reads and writes are not synchronised with transfers under way;
/// with this QEMU there are none outside of calls to [`SdHost`](super::SdHost).
#[derive(Clone)]
pub struct GuestRam {
    inner: Arc<Inner>,
}

impl GuestRam {
    pub(super) fn new(file: &File, len_bytes: u64) -> Result<Self, QemuError> {
        let memory = Shared::map("guest RAM", file, len_bytes)?;
        let frames = Frames {
            used: vec![false; (len_bytes / FRAME_BYTES) as usize],
            runs: Default::default(),
            next: 0,
            tables: 0,
        };
        Ok(GuestRam {
            inner: Arc::new(Inner {
                memory: ManuallyDrop::new(memory),
                frames: Mutex::new(frames),
            }),
        })
    }

    /// Its first address.
    pub fn base(&self) -> PhysAddr {
        PhysAddr(RAM_BASE)
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.inner.memory.len_bytes()
    }

    /// Contiguous memory of `bytes` bytes, rounded up to 4 KiB frames, at a
    /// multiple of `align_bytes` (at least a frame). Its content is whatever was
    /// there before.
    ///
    /// # Errors
    ///
    /// [`RamError::Full`], [`RamError::Shape`].
    pub fn alloc(&self, bytes: u64, align_bytes: u64) -> Result<PhysAddr, RamError> {
        self.alloc_frames(bytes, align_bytes, false)
    }

    fn alloc_frames(
        &self,
        bytes: u64,
        align_bytes: u64,
        table: bool,
    ) -> Result<PhysAddr, RamError> {
        if bytes == 0 || !align_bytes.is_power_of_two() {
            return Err(RamError::Shape);
        }
        let count = bytes.div_ceil(FRAME_BYTES);
        // Addresses are aligned, not offsets: the base is aligned to 1 GiB.
        if align_bytes > RAM_BASE {
            return Err(RamError::Full { bytes });
        }
        let align = (align_bytes / FRAME_BYTES).max(1);
        let taken = self.inner.frames.lock().take(count, align, table);
        let frame = taken.ok_or(RamError::Full { bytes })?;
        Ok(PhysAddr(RAM_BASE + frame * FRAME_BYTES))
    }

    /// Gives back what [`alloc`](Self::alloc) returned for `bytes`. No device
    /// should be able to reach it any more; that is the caller's concern, the
    /// memory itself stays.
    ///
    /// # Errors
    ///
    /// [`RamError::NotAllocated`].
    pub fn free(&self, phys: PhysAddr, bytes: u64) -> Result<(), RamError> {
        self.free_frames(phys, bytes, false)
    }

    fn free_frames(&self, phys: PhysAddr, bytes: u64, table: bool) -> Result<(), RamError> {
        let wrong = RamError::NotAllocated { phys };
        let offset = phys.0.checked_sub(RAM_BASE).ok_or(wrong)?;
        if !offset.is_multiple_of(FRAME_BYTES) {
            return Err(wrong);
        }
        let count = bytes.div_ceil(FRAME_BYTES);
        let mut frames = self.inner.frames.lock();
        if frames.give_back(offset / FRAME_BYTES, count, table) {
            Ok(())
        } else {
            Err(wrong)
        }
    }

    /// Reads bytes.
    ///
    /// # Errors
    ///
    /// [`RamError::Outside`]; nothing is read.
    pub fn read(&self, phys: PhysAddr, into: &mut [u8]) -> Result<(), RamError> {
        let offset = self.offset(phys, into.len())?;
        self.inner.memory.read(offset, into);
        Ok(())
    }

    /// Writes bytes.
    ///
    /// # Errors
    ///
    /// [`RamError::Outside`]; nothing is written.
    pub fn write(&self, phys: PhysAddr, from: &[u8]) -> Result<(), RamError> {
        let offset = self.offset(phys, from.len())?;
        self.inner.memory.write(offset, from);
        Ok(())
    }

    fn offset(&self, phys: PhysAddr, len: usize) -> Result<u64, RamError> {
        (phys.0.checked_sub(RAM_BASE))
            .filter(|offset| self.inner.memory.holds(*offset, len))
            .ok_or(RamError::Outside { phys })
    }
}

/// Anywhere in RAM, whoever it belongs to: the machine has no other owner than
/// whoever holds this value.
impl CpuMemory for GuestRam {
    fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let refused = |phys| MemoryError::NotMemory { phys, len_bytes };
        let len = usize::try_from(len_bytes).map_err(|_| refused(from))?;
        let source = self.offset(from, len).map_err(|_| refused(from))?;
        let target = self.offset(to, len).map_err(|_| refused(to))?;
        let mut piece = [0; FRAME_BYTES as usize];
        let mut done = 0;
        while done < len_bytes {
            let now = (len_bytes - done).min(FRAME_BYTES) as usize;
            self.inner.memory.read(source + done, &mut piece[..now]);
            self.inner.memory.write(target + done, &piece[..now]);
            done += now as u64;
        }
        Ok(())
    }

    fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let refused = MemoryError::NotMemory {
            phys: at,
            len_bytes,
        };
        let len = usize::try_from(len_bytes).map_err(|_| refused)?;
        let offset = self.offset(at, len).map_err(|_| refused)?;
        let zeros = [0; FRAME_BYTES as usize];
        let mut done = 0;
        while done < len_bytes {
            let now = (len_bytes - done).min(FRAME_BYTES);
            self.inner
                .memory
                .write(offset + done, &zeros[..now as usize]);
            done += now;
        }
        Ok(())
    }
}

/// What a table of that size takes: tables are aligned to their size, and small
/// ones have a frame of their own.
fn table_bytes(size_bytes: usize) -> u64 {
    (size_bytes as u64).max(FRAME_BYTES)
}

// SAFETY: `alloc` hands out a run of frames that nobody else has until it is
// freed, zeroed, aligned to its size (the RAM's base is aligned to 1 GiB, its
// mapping to a page, so the pointer is aligned to 64 bytes at least), as memory
// that any thread may use; what is in it is accessed as atomic words. The mapping
// never moves, and is leaked if a table is alive when the last clone goes.
// Nothing unwinds: sizes are powers of two of at least 64, and a `free` that does
// not fit is ignored. The RAM is not used under loom.
unsafe impl TableMemory for GuestRam {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        let bytes = table_bytes(size_bytes);
        let phys = self.alloc_frames(bytes, bytes, true).ok()?;
        let offset = phys.0 - RAM_BASE;
        self.inner.memory.zero(offset, bytes);
        let ptr = self.inner.memory.pointer(offset).cast();
        Some(TableRef { ptr, phys })
    }

    unsafe fn free(&self, table: TableRef, size_bytes: usize) {
        let freed = self.free_frames(table.phys, table_bytes(size_bytes), true);
        debug_assert!(freed.is_ok());
    }

    #[inline]
    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
        self.inner.memory.pointer(phys.0 - RAM_BASE).cast()
    }
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestRam")
            .field("len_bytes", &self.len_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::shared::anonymous_file, *};

    fn ram(bytes: u64) -> GuestRam {
        GuestRam::new(&anonymous_file("test RAM", bytes).unwrap(), bytes).unwrap()
    }

    #[test]
    fn memory_is_handed_out_once_aligned_and_comes_back() {
        let ram = ram(1 << 20);
        let mut all = Vec::new();
        while let Ok(phys) = ram.alloc(8192, 8192) {
            assert!(phys.0.is_multiple_of(8192));
            all.push(phys);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 128);
        assert_eq!(ram.alloc(1, 1), Err(RamError::Full { bytes: 1 }));
        ram.free(all[7], 8192).unwrap();
        let again = RamError::NotAllocated { phys: all[7] };
        assert_eq!(ram.free(all[7], 8192), Err(again));
        assert_eq!(ram.alloc(5000, 4096), Ok(all[7]));
        assert_eq!(ram.free(all[7], 4096), Err(again), "another length");
    }

    #[test]
    fn bad_ranges_are_refused() {
        let ram = ram(1 << 20);
        let end = PhysAddr(RAM_BASE + (1 << 20));
        assert_eq!(ram.alloc(0, 4096), Err(RamError::Shape));
        assert_eq!(ram.alloc(4096, 3), Err(RamError::Shape));
        assert_eq!(
            ram.alloc(4096, 1 << 40),
            Err(RamError::Full { bytes: 4096 })
        );
        for phys in [PhysAddr(0), PhysAddr(end.0 - 1), PhysAddr(u64::MAX)] {
            let outside = Err(RamError::Outside { phys });
            assert_eq!(ram.read(phys, &mut [0; 2]), outside);
            assert_eq!(ram.write(phys, &[0; 2]), outside);
        }
        assert!(ram.write(PhysAddr(end.0 - 2), &[1, 2]).is_ok());
        let odd = PhysAddr(RAM_BASE + 8);
        assert_eq!(
            ram.free(odd, 4096),
            Err(RamError::NotAllocated { phys: odd })
        );
    }

    #[test]
    fn copies_stay_inside() {
        let ram = ram(1 << 20);
        let (from, to) = (PhysAddr(RAM_BASE + 5), PhysAddr(RAM_BASE + 0x8003));
        let data: Vec<u8> = (0..9000).map(|n| n as u8).collect();
        ram.write(from, &data).unwrap();
        ram.copy(from, to, 9000).unwrap();
        ram.zero(from, 8999).unwrap();
        let mut back = vec![0; 9001];
        ram.read(to, &mut back).unwrap();
        assert_eq!((&back[..9000], back[9000]), (&data[..], 0));
        ram.read(from, &mut back).unwrap();
        assert!(back[..8999].iter().all(|b| *b == 0) && back[8999] == data[8999]);
        let end = PhysAddr(RAM_BASE + (1 << 20) - 1);
        let refused = |phys| Err(MemoryError::NotMemory { phys, len_bytes: 2 });
        assert_eq!(ram.copy(from, end, 2), refused(end));
        assert_eq!(ram.copy(end, to, 2), refused(end));
        assert_eq!(ram.zero(PhysAddr(0), 2), refused(PhysAddr(0)));
        let len_bytes = u64::MAX;
        let endless = MemoryError::NotMemory {
            phys: from,
            len_bytes,
        };
        assert_eq!(ram.copy(from, to, len_bytes), Err(endless));
    }

    #[test]
    fn a_table_is_zeroed_aligned_and_outlives_the_ram() {
        let ram = ram(1 << 20);
        let first = TableMemory::alloc(&ram, 16384).unwrap();
        // SAFETY: 16 KiB of it are ours.
        unsafe { first.ptr.write(7) };
        // SAFETY: as it was allocated, and not used again.
        unsafe { TableMemory::free(&ram, first, 16384) };
        for _ in 0..3 {
            let table = TableMemory::alloc(&ram, 16384).unwrap();
            assert!(table.phys.0.is_multiple_of(16384));
            // SAFETY: as above.
            assert_eq!(unsafe { table.ptr.read() }, 0);
        }
        let small = TableMemory::alloc(&ram, 64).unwrap();
        drop(ram);
        // SAFETY: a table that was not freed stays valid.
        unsafe { small.ptr.write(1) };
    }
}
