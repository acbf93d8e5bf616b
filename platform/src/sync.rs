//! Atomics, locks and cells, switchable to loom (`--cfg loom`) and shuttle
//! (`--cfg shuttle`), so that the checkers run the code that ships.

/// Atomic types and fences.
#[cfg(not(any(loom, shuttle)))]
pub use core::sync::atomic;
#[cfg(loom)]
pub use loom::sync::atomic;
#[cfg(all(shuttle, not(loom)))]
pub use shuttle::sync::atomic;

#[cfg(not(any(loom, shuttle)))]
pub use alloc::sync::Arc;
#[cfg(loom)]
pub use loom::sync::Arc;
#[cfg(all(shuttle, not(loom)))]
pub use shuttle::sync::Arc;

/// Tells the CPU (or the checker) that the caller waits for another thread.
#[inline]
pub fn spin_hint() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(all(shuttle, not(loom)))]
    shuttle::thread::yield_now();
    #[cfg(not(any(loom, shuttle)))]
    core::hint::spin_loop();
}

/// Waits for what other CPUs do: spins a little, then, with `std`, yields the
/// processor, since the other thread may not be running.
#[derive(Debug, Default)]
pub struct Backoff {
    rounds: u32,
}

impl Backoff {
    /// A fresh wait.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits a little longer than the last time.
    pub fn wait(&mut self) {
        const SPINS: u32 = 64;
        if cfg!(any(loom, shuttle)) || self.rounds < SPINS {
            self.rounds += 1;
            spin_hint();
        } else {
            #[cfg(feature = "std")]
            std::thread::yield_now();
            #[cfg(not(feature = "std"))]
            core::hint::spin_loop();
        }
    }
}

/// `UnsafeCell` whose accesses loom checks for races.
pub mod cell {
    #[cfg(loom)]
    pub use loom::cell::UnsafeCell;

    /// `core::cell::UnsafeCell` with the interface of loom's.
    #[cfg(not(loom))]
    #[derive(Debug)]
    #[repr(transparent)]
    pub struct UnsafeCell<T: ?Sized>(core::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        /// Wraps `value`.
        pub const fn new(value: T) -> Self {
            UnsafeCell(core::cell::UnsafeCell::new(value))
        }

        /// Calls `f` with a pointer to read from.
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with a pointer to read and write.
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }

        /// The content back.
        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }
}

#[cfg(loom)]
type RawMutexOf<T> = loom::sync::Mutex<T>;
#[cfg(all(shuttle, not(loom)))]
type RawMutexOf<T> = shuttle::sync::Mutex<T>;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
type RawMutexOf<T> = lock_api::Mutex<parking_lot::RawMutex, T>;
#[cfg(all(not(feature = "std"), not(any(loom, shuttle))))]
type RawMutexOf<T> = lock_api::Mutex<spin::RawLock, T>;

/// What [`Mutex::lock`] returns; unlocks when dropped.
#[cfg(loom)]
pub type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;
/// What [`Mutex::lock`] returns; unlocks when dropped.
#[cfg(all(shuttle, not(loom)))]
pub type MutexGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;
/// What [`Mutex::lock`] returns; unlocks when dropped.
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, parking_lot::RawMutex, T>;
/// What [`Mutex::lock`] returns; unlocks when dropped.
#[cfg(all(not(feature = "std"), not(any(loom, shuttle))))]
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, spin::RawLock, T>;

/// A mutual-exclusion lock: parking_lot's with `std`, a spin lock without,
/// loom's or shuttle's under test. Slow paths only.
#[derive(Debug)]
pub struct Mutex<T>(RawMutexOf<T>);

impl<T> Mutex<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Self {
        Mutex(RawMutexOf::new(value))
    }

    /// Waits for the lock. A panic of an earlier holder does not poison it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(any(loom, shuttle))]
        return self.0.lock().expect("the checkers stop at the first panic");
        #[cfg(not(any(loom, shuttle)))]
        self.0.lock()
    }

    /// The lock, if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        #[cfg(any(loom, shuttle))]
        return self.0.try_lock().ok();
        #[cfg(not(any(loom, shuttle)))]
        self.0.try_lock()
    }

    /// The content; no lock is needed to reach it through `&mut`.
    #[cfg(not(any(loom, shuttle)))]
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

/// What [`ShortMutex::lock`] returns; unlocks when dropped.
#[cfg(any(loom, shuttle))]
pub type ShortMutexGuard<'a, T> = MutexGuard<'a, T>;
/// What [`ShortMutex::lock`] returns; unlocks when dropped.
#[cfg(not(any(loom, shuttle)))]
pub type ShortMutexGuard<'a, T> = lock_api::MutexGuard<'a, spin::RawLock, T>;

/// A lock for sections of a few hundred instructions that never block: one
/// locked instruction per round trip, where parking_lot's needs two (7 against
/// 15 ns), since nobody sleeps on it. A waiter spins a little and then, with
/// `std`, yields the processor, as the holder may have been preempted.
#[derive(Debug)]
#[cfg(any(loom, shuttle))]
pub struct ShortMutex<T>(Mutex<T>);

/// A lock for sections of a few hundred instructions that never block: one
/// locked instruction per round trip, where parking_lot's needs two (7 against
/// 15 ns), since nobody sleeps on it. A waiter spins a little and then, with
/// `std`, yields the processor, as the holder may have been preempted.
#[derive(Debug)]
#[cfg(not(any(loom, shuttle)))]
pub struct ShortMutex<T>(lock_api::Mutex<spin::RawLock, T>);

impl<T> ShortMutex<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Self {
        #[cfg(any(loom, shuttle))]
        return ShortMutex(Mutex::new(value));
        #[cfg(not(any(loom, shuttle)))]
        ShortMutex(lock_api::Mutex::new(value))
    }

    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> ShortMutexGuard<'_, T> {
        self.0.lock()
    }

    /// The content; no lock is needed to reach it through `&mut`.
    #[cfg(not(any(loom, shuttle)))]
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

#[cfg(not(any(loom, shuttle)))]
mod spin {
    use core::sync::atomic::{AtomicBool, Ordering};

    use super::Backoff;

    /// A test-and-test-and-set lock.
    #[derive(Debug)]
    pub struct RawLock(AtomicBool);

    impl RawLock {
        #[cold]
        #[inline(never)]
        fn wait(&self) {
            let mut backoff = Backoff::new();
            loop {
                while self.0.load(Ordering::Relaxed) {
                    backoff.wait();
                }
                if !self.0.swap(true, Ordering::Acquire) {
                    return;
                }
            }
        }
    }

    // SAFETY: only the thread whose `swap` turned the flag from false to true
    // returns from `lock` or gets `Some` from `try_lock`, and `unlock` alone
    // turns it back; acquire and release order what lies between. No call
    // unwinds, and the guard state does nothing when dropped.
    unsafe impl lock_api::RawMutex for RawLock {
        type Guard = lock_api::GuardNoSend;
        #[allow(clippy::declare_interior_mutable_const)]
        const INIT: Self = RawLock(AtomicBool::new(false));

        #[inline]
        fn lock(&self) -> Self::Guard {
            if self.0.swap(true, Ordering::Acquire) {
                self.wait();
            }
            lock_api::GuardNoSend::new()
        }

        #[inline]
        fn try_lock(&self) -> Option<Self::Guard> {
            (!self.0.swap(true, Ordering::Acquire)).then(lock_api::GuardNoSend::new)
        }

        #[inline]
        unsafe fn unlock(&self, _guard: Self::Guard) {
            self.0.store(false, Ordering::Release);
        }

        fn is_locked(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
}
