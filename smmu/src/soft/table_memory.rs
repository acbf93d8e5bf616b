//! Simulated memory as the place where page tables live.

use core::ptr::NonNull;

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::PhysAddr;

use super::memory::SimMemory;

// SAFETY: `TableWindow::alloc` hands out a run of frames of one chunk that is on
// no free list and not live, zeroed, at an address aligned to the power of two
// that holds `size_bytes`; the chunk's host memory is aligned to its own size,
// so the host pointer is aligned as well. Chunks never move or go away before
// the memory itself, and lie behind a `Box`, so moving the value moves no table.
// The window's memory is `AtomicU64`, so other threads may read it meanwhile.
// Nothing unwinds for sizes and tables that came from `alloc`.
unsafe impl TableMemory for SimMemory {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        let (ptr, phys) = self.tables.alloc(size_bytes as u64)?;
        Some(TableRef {
            ptr: ptr.cast(),
            phys,
        })
    }

    unsafe fn free(&self, table: TableRef, size_bytes: usize) {
        self.tables.free(table.phys, size_bytes as u64);
    }

    #[inline]
    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
        // The caller promises that `alloc` returned `phys`, so it is inside.
        self.tables
            .host_pointer(phys)
            .expect("a table's address lies in the table window")
            .cast()
    }
}
