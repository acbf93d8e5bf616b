//! Where table pages come from.

use core::ptr::NonNull;

use dmabench_platform::PhysAddr;

/// A table page: where the CPU and where the walker find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRef {
    /// For the CPU.
    pub ptr: NonNull<u64>,
    /// For the walker.
    pub phys: PhysAddr,
}

// SAFETY: two addresses; whoever uses the pointer answers for it, and the memory
// behind it is good for every thread (`TableMemory::alloc`).
unsafe impl Send for TableRef {}
// SAFETY: as above.
unsafe impl Sync for TableRef {}

/// Memory for translation tables: a heap, guest memory that an emulated IOMMU
/// reads, a kernel's frames.
///
/// # Safety
///
/// * [`alloc`](Self::alloc) returns memory that nobody else uses until it is
///   given to [`free`](Self::free): `size_bytes` bytes, all zero, `ptr` valid for
///   reads and writes from any thread and aligned to 64 bytes at least, `phys`
///   aligned to `size_bytes`. (Under `--cfg loom` the memory holds
///   `size_bytes / 8` values of `platform::sync::atomic::AtomicU64` instead.)
/// * [`phys_to_ptr`](Self::phys_to_ptr) returns the `ptr` that came with `phys`,
///   for as long as the table is not freed.
/// * If the value is moved, tables stay where they are. If it is dropped, tables
///   that were not given to `free` stay valid (they leak): a
///   [`DetachedTable`](crate::DetachedTable) may outlive the page table it came
///   from, and lists of them are linked through their memory.
/// * No method unwinds, and none calls back into a page table.
pub unsafe trait TableMemory: Send + Sync {
    /// A zeroed table of `size_bytes`, a power of two of at least 64, or
    /// `None` if there is no memory.
    fn alloc(&self, size_bytes: usize) -> Option<TableRef>;

    /// Takes a table back.
    ///
    /// # Safety
    ///
    /// `table` came from `alloc(size_bytes)` of this value and has not been
    /// freed; nobody, the hardware walker included, uses it any more.
    unsafe fn free(&self, table: TableRef, size_bytes: usize);

    /// The CPU's address of a table. On the hot path: once per level of each
    /// walk.
    ///
    /// # Safety
    ///
    /// `phys` came from `alloc` of this value and has not been freed.
    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64>;

    /// Writes `entries` descriptors from `first` on back to memory, for a
    /// walker that does not snoop the CPU's caches (`DC CVAC` over the lines,
    /// then a barrier). Called once per run of entries, and only where
    /// [`TableConfig::coherent`](crate::TableConfig::coherent) is off.
    fn clean(&self, first: NonNull<u64>, entries: usize) {
        let _ = (first, entries);
    }

    /// Makes every earlier store to tables visible to the walker before
    /// anything that follows. Called at the end of each map and unmap. The
    /// default is right for a walker in the CPUs' inner shareable domain: `DSB
    /// ISHST` on AArch64, elsewhere a release fence (the walker is then software).
    #[inline(always)]
    fn publish(&self) {
        #[cfg(all(target_arch = "aarch64", not(any(loom, shuttle, miri))))]
        // SAFETY: a barrier has no effect but to order memory accesses.
        unsafe {
            core::arch::asm!("dsb ishst", options(nostack, preserves_flags));
        }
        #[cfg(not(all(target_arch = "aarch64", not(any(loom, shuttle, miri)))))]
        dmabench_platform::sync::atomic::fence(dmabench_platform::sync::atomic::Ordering::Release);
    }
}

mod heap {
    use core::{alloc::Layout, ptr::NonNull};

    use dmabench_platform::{PhysAddr, sync::atomic::AtomicU64};

    use super::{TableMemory, TableRef};

    /// Tables on the global heap, with physical addresses equal to the
    /// CPU's: for software walkers in the same address space, tests and
    /// benches.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct HeapTables;

    impl HeapTables {
        /// A checker's atomic is larger than 8 bytes; what counts as a physical
        /// address must still have its low bits clear.
        const CHECKED: bool = cfg!(any(loom, shuttle));

        fn layout(size_bytes: usize) -> Option<Layout> {
            let entries = size_bytes / 8;
            let align = if Self::CHECKED {
                size_bytes.max(1 << 16)
            } else {
                size_bytes.max(64)
            };
            let layout =
                Layout::from_size_align(entries.checked_mul(size_of::<AtomicU64>())?, align);
            layout.ok().filter(|layout| layout.size() > 0)
        }
    }

    // SAFETY: the global allocator gives exclusive zeroed memory of the
    // layout's size and alignment; the address is exposed on allocation, so
    // the pointer made from it again is valid for the same memory; nothing is
    // stored in the value; neither allocating nor freeing unwinds.
    unsafe impl TableMemory for HeapTables {
        fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
            let layout = Self::layout(size_bytes)?;
            // SAFETY: `layout` never has size zero.
            let ptr = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) })?.cast::<u64>();
            if Self::CHECKED {
                for i in 0..size_bytes / 8 {
                    // SAFETY: the layout has room for so many atomics.
                    unsafe { ptr.cast::<AtomicU64>().add(i).write(AtomicU64::new(0)) };
                }
            }
            let phys = PhysAddr(ptr.as_ptr().expose_provenance() as u64);
            Some(TableRef { ptr, phys })
        }

        unsafe fn free(&self, table: TableRef, size_bytes: usize) {
            if Self::CHECKED {
                for i in 0..size_bytes / 8 {
                    // SAFETY: `alloc` wrote these, and nobody uses them now.
                    unsafe { table.ptr.cast::<AtomicU64>().add(i).drop_in_place() };
                }
            }
            if let Some(layout) = Self::layout(size_bytes) {
                // SAFETY: the caller promises that the table came from `alloc`
                // with this size, hence this layout.
                unsafe { alloc::alloc::dealloc(table.ptr.as_ptr().cast(), layout) };
            }
        }

        #[inline(always)]
        unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
            let ptr = core::ptr::with_exposed_provenance_mut(phys.0 as usize);
            // SAFETY: the caller promises that `alloc` returned this address,
            // which is not null.
            unsafe { NonNull::new_unchecked(ptr) }
        }
    }
}

pub use heap::HeapTables;

// SAFETY: every call is passed on to a value that keeps the promises; it does not
// move, because it is borrowed.
unsafe impl<M: TableMemory> TableMemory for &M {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        (**self).alloc(size_bytes)
    }

    unsafe fn free(&self, table: TableRef, size_bytes: usize) {
        // SAFETY: as promised by the caller.
        unsafe { (**self).free(table, size_bytes) }
    }

    #[inline(always)]
    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
        // SAFETY: as promised by the caller.
        unsafe { (**self).phys_to_ptr(phys) }
    }

    fn clean(&self, first: NonNull<u64>, entries: usize) {
        (**self).clean(first, entries);
    }

    #[inline(always)]
    fn publish(&self) {
        (**self).publish();
    }
}

// SAFETY: as for a reference; the content of an `Arc` does not move.
unsafe impl<M: TableMemory> TableMemory for alloc::sync::Arc<M> {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        (**self).alloc(size_bytes)
    }

    unsafe fn free(&self, table: TableRef, size_bytes: usize) {
        // SAFETY: as promised by the caller.
        unsafe { (**self).free(table, size_bytes) }
    }

    #[inline(always)]
    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
        // SAFETY: as promised by the caller.
        unsafe { (**self).phys_to_ptr(phys) }
    }

    fn clean(&self, first: NonNull<u64>, entries: usize) {
        (**self).clean(first, entries);
    }

    #[inline(always)]
    fn publish(&self) {
        (**self).publish();
    }
}
