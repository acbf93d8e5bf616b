//! One table page as the CPU sees it.

use core::ptr::NonNull;

use dmabench_platform::sync::atomic::AtomicU64;

/// Address of a table page. Copies are plain pointers: what keeps the page
/// alive is the caller's section (see the crate's protocol).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table(NonNull<AtomicU64>);

// SAFETY: a pointer to atomics, usable from any thread; every access states
// its own proof that the page is alive.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// The table that memory gave as `ptr`.
    #[inline(always)]
    pub(crate) fn new(ptr: NonNull<u64>) -> Self {
        Table(ptr.cast())
    }

    /// The pointer that memory gave.
    #[inline(always)]
    pub(crate) fn ptr(self) -> NonNull<u64> {
        self.0.cast()
    }

    /// Entry `index`.
    ///
    /// # Safety
    ///
    /// * The table has more than `index` entries.
    /// * Its memory is not freed during `'a`.
    #[inline(always)]
    pub(crate) unsafe fn entry<'a>(self, index: usize) -> &'a AtomicU64 {
        // SAFETY: in bounds as promised. Memory is aligned to 64 bytes, was
        // initialised by `TableMemory::alloc`, and is accessed by atomics and by
        // the bulk operations' assembly only.
        unsafe { self.0.add(index).as_ref() }
    }

    /// `count` entries from `first` on.
    ///
    /// # Safety
    ///
    /// As [`entry`](Self::entry), for all of them.
    #[inline(always)]
    #[allow(dead_code, reason = "elsewhere the bulk operations need no slice")]
    pub(crate) unsafe fn entries<'a>(self, first: usize, count: usize) -> &'a [AtomicU64] {
        // SAFETY: in bounds as promised, and as for `entry`.
        unsafe { core::slice::from_raw_parts(self.0.add(first).as_ptr(), count) }
    }

    /// For memory hooks: the address of entry `index`.
    ///
    /// # Safety
    ///
    /// The table has more than `index` entries.
    #[inline(always)]
    pub(crate) unsafe fn entry_ptr(self, index: usize) -> NonNull<u64> {
        // SAFETY: in bounds as promised.
        unsafe { self.0.add(index).cast() }
    }
}
