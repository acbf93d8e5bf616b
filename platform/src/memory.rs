//! Memory that the core itself touches: copies between buffers and bounce slots,
//! and blocks that a device and the CPU share for long.

use alloc::sync::Arc;
use core::{fmt, ptr::NonNull};

use crate::PhysAddr;

/// The CPU's way to memory that is named by physical addresses.
///
/// The core calls it with addresses of bounce slots, which it owns, and of
/// buffers, which its callers named: **any** address may come in. Implementers
/// refuse what is not memory they may touch at that moment (the safe interface
/// obliges them to); a kernel that trusts its drivers refuses what is not RAM, a
/// user-space driver what is not in its registered arenas.
///
/// A device may read or write the same bytes meanwhile. Implementers that use
/// raw pointers access them as one does memory that others change (volatile, or
/// atomics), and promise nothing about the content then.
///
/// # Concurrency
///
/// Any method may run at any time on any number of threads; the core never has
/// two calls under way on one bounce slot.
pub trait CpuMemory: Send + Sync {
    /// Copies `len_bytes` bytes from `from` to `to`. The two may overlap where a
    /// caller named a bounce slot as its buffer; what the overlap then holds is
    /// unspecified.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]; a part may have been copied.
    fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError>;

    /// Makes `len_bytes` bytes from `at` on zero.
    ///
    /// # Errors
    ///
    /// [`MemoryError`]; a part may be zero already.
    fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError>;
}

/// Why memory was not copied or zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// The CPU has no memory there, or not for this caller.
    NotMemory {
        /// First byte of what was to be touched.
        phys: PhysAddr,
        /// Its length in bytes.
        len_bytes: u64,
    },
    /// Memory that is made when it is first written found no room.
    NoRoom {
        /// First byte of what was to be touched.
        phys: PhysAddr,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryError::NotMemory { phys, len_bytes } => write!(
                f,
                "{len_bytes} bytes at {phys} are no memory that may be copied: check the buffer's address"
            ),
            MemoryError::NoRoom { phys } => {
                write!(f, "no room for the memory at {phys}: raise its limit")
            }
        }
    }
}

impl core::error::Error for MemoryError {}

/// A block of memory, by both its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where the CPU finds it.
    pub ptr: NonNull<u8>,
    /// Where it is.
    pub phys: PhysAddr,
}

/// Where blocks come from that a device and the CPU share for long (Linux:
/// `dma_alloc_coherent`).
///
/// # Safety
///
/// A block that [`alloc`](Self::alloc) returned is, until it is given to
/// [`free`](Self::free): nobody else's, all zero, `len_bytes` long and contiguous
/// on both sides, aligned to `align_bytes` on both sides, and valid for reads
/// and writes at `ptr` from any thread, whether or not the implementer's value
/// moves or is dropped. If `snooped` is false, the CPU's accesses at `ptr` go to
/// memory and not to a cache that the device does not see; an implementer that
/// cannot do that returns `None`. No method unwinds.
pub unsafe trait BlockMemory {
    /// A zeroed block, or `None` where there is none. `len_bytes` and
    /// `align_bytes` are not 0, and `align_bytes` is a power of two that divides
    /// `len_bytes`. `snooped`: the device sees the CPU's caches.
    fn alloc(&self, len_bytes: u64, align_bytes: u64, snooped: bool) -> Option<Block>;

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// `block` came from [`alloc`](Self::alloc) of this value (or of a clone)
    /// with this `len_bytes`, `align_bytes` and `snooped`, was not freed yet,
    /// and neither a device nor the CPU touches it any more.
    unsafe fn free(&self, block: Block, len_bytes: u64, align_bytes: u64, snooped: bool);
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<T: CpuMemory + ?Sized> CpuMemory for $pointer {
            #[inline]
            fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
                (**self).copy(from, to, len_bytes)
            }

            #[inline]
            fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
                (**self).zero(at, len_bytes)
            }
        }

        // SAFETY: every method is the pointee's.
        unsafe impl<T: BlockMemory + ?Sized> BlockMemory for $pointer {
            fn alloc(&self, len_bytes: u64, align_bytes: u64, snooped: bool) -> Option<Block> {
                (**self).alloc(len_bytes, align_bytes, snooped)
            }

            unsafe fn free(&self, block: Block, len_bytes: u64, align_bytes: u64, snooped: bool) {
                // SAFETY: as the caller promises.
                unsafe { (**self).free(block, len_bytes, align_bytes, snooped) }
            }
        }
    )*};
}

forward!(&T, Arc<T>);

/// Blocks of the global heap, with physical addresses equal to the CPU's: for
/// devices that are software in the same address space, tests and examples. All
/// of it is snooped.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapBlocks;

impl HeapBlocks {
    fn layout(len_bytes: u64, align_bytes: u64) -> Option<core::alloc::Layout> {
        let (len, align) = (len_bytes.try_into().ok()?, align_bytes.try_into().ok()?);
        core::alloc::Layout::from_size_align(len, align)
            .ok()
            .filter(|layout| layout.size() > 0)
    }
}

// SAFETY: the global allocator gives exclusive zeroed memory of the layout's
// size and alignment; the address on both sides is one. Nothing is stored in the
// value. There is one kind of memory, and no device but software, which sees
// what the CPU sees; `snooped` false is refused all the same, as the promise is
// about hardware. Neither allocating nor freeing unwinds.
unsafe impl BlockMemory for HeapBlocks {
    fn alloc(&self, len_bytes: u64, align_bytes: u64, snooped: bool) -> Option<Block> {
        if !snooped {
            return None;
        }
        let layout = Self::layout(len_bytes, align_bytes)?;
        // SAFETY: the layout's size is not 0.
        let ptr = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) })?;
        Some(Block {
            ptr,
            phys: PhysAddr(ptr.as_ptr().expose_provenance() as u64),
        })
    }

    unsafe fn free(&self, block: Block, len_bytes: u64, align_bytes: u64, _snooped: bool) {
        if let Some(layout) = Self::layout(len_bytes, align_bytes) {
            // SAFETY: it was allocated with this layout, as the caller promises.
            unsafe { alloc::alloc::dealloc(block.ptr.as_ptr(), layout) }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_the_heap_is_zeroed_aligned_and_snooped() {
        let block = HeapBlocks.alloc(3 << 16, 1 << 16, true).unwrap();
        assert!(block.phys.is_aligned_lg2(16));
        // SAFETY: the block is ours and so long.
        let bytes = unsafe { core::slice::from_raw_parts(block.ptr.as_ptr(), 3 << 16) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        // SAFETY: allocated above with these figures.
        unsafe { HeapBlocks.free(block, 3 << 16, 1 << 16, true) };
        assert_eq!(HeapBlocks.alloc(4096, 4096, false), None);
        assert_eq!(HeapBlocks.alloc(!4095, 4096, true), None);
    }
}
