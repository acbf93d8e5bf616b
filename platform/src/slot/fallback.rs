//! The lock of the fallback slot.

use core::{fmt, mem::MaybeUninit};

use crate::sync::{Mutex, MutexGuard, cell::UnsafeCell};

/// A lock whose guard stays with it, so that the guards of slots, which nearly
/// all have none, need no place for it.
pub(super) struct FallbackLock {
    lock: Mutex<()>,
    /// The holder's guard, while there is one. Its lifetime is not true: it
    /// borrows `lock`.
    guard: UnsafeCell<MaybeUninit<MutexGuard<'static, ()>>>,
}

// SAFETY: `guard` is reached by the holder of the lock only, and released on the
// thread that acquired it: a guard of a slot stays on its thread.
unsafe impl Sync for FallbackLock {}
// SAFETY: as above; to move the lock takes ownership, so no slot guard is left
// that would use the old place (one that was leaked never does).
unsafe impl Send for FallbackLock {}

impl FallbackLock {
    pub(super) fn new() -> Self {
        FallbackLock {
            lock: Mutex::new(()),
            guard: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Waits for the lock. It is the caller's until [`release`](Self::release).
    pub(super) fn acquire(&self) {
        let guard = self.lock.lock();
        // SAFETY: the same type but for its lifetime. It is used by `release`
        // only, through a reference to the lock it borrows.
        let guard =
            unsafe { core::mem::transmute::<MutexGuard<'_, ()>, MutexGuard<'static, ()>>(guard) };
        self.guard.with_mut(|place| {
            // SAFETY: the lock is ours, so nobody else reaches the place. Nothing
            // is dropped: the last holder took its guard out.
            unsafe { (*place).write(guard) };
        });
    }

    /// Gives the lock back.
    ///
    /// # Safety
    ///
    /// The caller acquired it, on this thread, and has not released it since;
    /// the lock has not moved meanwhile.
    pub(super) unsafe fn release(&self) {
        let guard = self.guard.with_mut(|place| {
            // SAFETY: written by `acquire`, read once, and nobody else reaches
            // the place before the lock is free.
            unsafe { (*place).assume_init_read() }
        });
        drop(guard);
    }
}

impl fmt::Debug for FallbackLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}
