//! An allocator whose Nth allocation on this thread fails, for tests that have a
//! program of their own.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

struct Failing;

thread_local! {
    /// Allocations on this thread until one fails; none fails while negative.
    pub(crate) static UNTIL_FAILURE: Cell<i64> = const { Cell::new(-1) };
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: hands every call on to the system's allocator, or refuses it.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = UNTIL_FAILURE.get();
        UNTIL_FAILURE.set(left.saturating_sub(1).max(-1));
        if left == 0 {
            FAILED.set(true);
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `f` with the `nth` allocation failing; whether one did.
pub(crate) fn failing_at<R>(nth: i64, f: impl FnOnce() -> R) -> (R, bool) {
    FAILED.set(false);
    UNTIL_FAILURE.set(nth);
    let result = f();
    UNTIL_FAILURE.set(-1);
    (result, FAILED.get())
}
