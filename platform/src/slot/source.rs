//! Where the number of the caller's slot comes from.

use core::marker::PhantomData;

/// Tells which slot the caller has, and keeps it there.
///
/// # Safety
///
/// While the [`Pinned`] that names a slot lives,
///
/// * no other thread or CPU is given the same slot by this source, nor by any
///   other source used with the same [`Slots`](super::Slots);
/// * the caller does not move to another slot (kernel: the pin turns
///   preemption off);
/// * no interrupt handler enters that slot (kernel: either handlers do not use
///   the core, or the pin turns interrupts off).
pub unsafe trait SlotSource: Send + Sync {
    /// What holds the caller in place: a preemption guard, or nothing.
    type Pin;

    /// The caller's slot. Called once per request: keep it cheap.
    fn pin(&self) -> Pinned<Self::Pin>;

    /// As [`pin`](Self::pin), for a pin that does not leave the call it is made
    /// in: a source may then save what it does about those that do.
    ///
    /// # Safety
    ///
    /// The result is dropped before the function that called this returns or
    /// unwinds: neither leaked, nor returned, nor kept anywhere.
    #[inline]
    unsafe fn pin_for_call(&self) -> Pinned<Self::Pin> {
        self.pin()
    }
}

/// The caller's slot, and what keeps the caller on it until dropped.
#[derive(Debug)]
pub struct Pinned<P> {
    /// [`NONE`] for the fallback: beyond every table, so that one comparison
    /// finds both that and a number the table does not have.
    own: usize,
    _pin: P,
}

/// The number of no slot.
pub(super) const NONE: usize = usize::MAX;

impl<P> Pinned<P> {
    /// The slot `own`, kept by `pin`. `None` sends the caller to the fallback
    /// slot, which is shared under a lock.
    ///
    /// # Safety
    ///
    /// What [`SlotSource`] demands holds for `own` until the result is dropped.
    #[inline]
    #[allow(clippy::manual_unwrap_or, reason = "`unwrap_or` is not const")]
    pub const unsafe fn new(own: Option<usize>, pin: P) -> Self {
        let own = match own {
            Some(own) => own,
            None => NONE,
        };
        Pinned { own, _pin: pin }
    }

    #[inline]
    pub(super) fn own(&self) -> usize {
        self.own
    }
}

impl Pinned<()> {
    /// The fallback slot, which anybody may enter.
    #[inline]
    pub const fn fallback() -> Self {
        Pinned {
            own: NONE,
            _pin: (),
        }
    }
}

/// The source of a machine on which one CPU and no interrupt handler uses the
/// core: always slot 0.
#[derive(Debug)]
pub struct OneCpu(PhantomData<()>);

impl OneCpu {
    /// The source.
    ///
    /// # Safety
    ///
    /// One CPU runs all code that uses the slots, none of it in interrupt
    /// handlers, and no thread is preempted by another inside a request.
    pub const unsafe fn new() -> Self {
        OneCpu(PhantomData)
    }
}

// SAFETY: the caller of `new` promised that there is one user only.
unsafe impl SlotSource for OneCpu {
    type Pin = ();
    #[inline]
    fn pin(&self) -> Pinned<()> {
        // SAFETY: the caller of `OneCpu::new` promised that there is one user.
        unsafe { Pinned::new(Some(0), ()) }
    }
}

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use threads::ThreadSlots;

#[cfg(all(feature = "std", not(any(loom, shuttle))))]
mod threads {
    use core::{cell::Cell, marker::PhantomData};

    use super::{Pinned, SlotSource};
    use crate::sync::Mutex;

    /// One slot per thread. The numbers are small, the same for every table,
    /// and reused: a thread that ends gives its number back, and with it what
    /// its slots had cached, to the next thread that starts.
    ///
    /// A request made inside another on the same thread (from a callback) is
    /// refused with [`Reentered`](crate::Reentered) where the thread has a slot,
    /// and would wait for ever on the fallback; do not nest requests.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct ThreadSlots;

    /// The pin of [`ThreadSlots`]: a thread is what it is, nothing needs
    /// holding. Not `Send`, so that the section stays on its thread. Counted,
    /// since one that is leaked or kept in a thread-local can outlast the moment
    /// at which an ending thread gives its number back.
    #[derive(Debug)]
    pub struct OnThisThread {
        counted: bool,
        _not_send: PhantomData<*mut ()>,
    }

    impl OnThisThread {
        #[inline]
        fn counted() -> Self {
            PINS.set(PINS.get().wrapping_add(1));
            OnThisThread {
                counted: true,
                _not_send: PhantomData,
            }
        }
    }

    impl Drop for OnThisThread {
        #[inline]
        fn drop(&mut self) {
            if self.counted {
                PINS.set(PINS.get().wrapping_sub(1));
            }
        }
    }

    #[inline]
    fn number() -> Option<usize> {
        let number = NUMBER.get();
        if number < ENDED {
            Some(number as usize)
        } else {
            first_use()
        }
    }

    // Both with the top bit, and no number has it: a test of the sign tells.
    const UNKNOWN: u32 = u32::MAX;
    /// The thread is ending: its number was given back.
    const ENDED: u32 = 1 << 31;

    std::thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(UNKNOWN) };
        /// Pins of this thread that are alive or leaked.
        static PINS: Cell<usize> = const { Cell::new(0) };
        static GIVE_BACK: GiveBack = const { GiveBack };
    }

    struct Numbers {
        next: u32,
        free: alloc::vec::Vec<u32>,
    }

    static NUMBERS: std::sync::OnceLock<Mutex<Numbers>> = std::sync::OnceLock::new();

    fn numbers() -> &'static Mutex<Numbers> {
        NUMBERS.get_or_init(|| {
            Mutex::new(Numbers {
                next: 0,
                free: alloc::vec::Vec::new(),
            })
        })
    }

    struct GiveBack;

    impl Drop for GiveBack {
        fn drop(&mut self) {
            let number = NUMBER.replace(ENDED);
            // A pin that is left could still be entered with: then nobody gets
            // the number again.
            if PINS.get() == 0 {
                numbers().lock().free.push(number);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn first_use() -> Option<usize> {
        if NUMBER.get() == ENDED {
            return None;
        }
        let number = {
            let mut numbers = numbers().lock();
            match numbers.free.pop() {
                Some(number) => number,
                None => {
                    let number = numbers.next;
                    if number >= ENDED {
                        return None;
                    }
                    numbers.next += 1;
                    number
                }
            }
        };
        NUMBER.set(number);
        if GIVE_BACK.try_with(|_| ()).is_err() {
            // The thread is past its destructors: nobody would give it back.
            NUMBER.set(ENDED);
            numbers().lock().free.push(number);
            return None;
        }
        Some(number as usize)
    }

    // SAFETY: a number is taken from `next` or the free list under a lock, and
    // returns to the list only when its thread has set `ENDED`, after which new
    // pins name the fallback, and no older pin is left (`PINS`; leaked ones
    // count for ever; those of `pin_for_call` were dropped by the call that made
    // them, which ended before the thread did); so one living thread has it. User
    // threads have
    // no interrupt handlers (a signal handler must not call the core: it may
    // allocate).
    unsafe impl SlotSource for ThreadSlots {
        type Pin = OnThisThread;

        #[inline]
        fn pin(&self) -> Pinned<OnThisThread> {
            let own = number();
            // SAFETY: see the trait's proof above; the pin is not `Send`, so the
            // section stays on this thread.
            unsafe { Pinned::new(own, OnThisThread::counted()) }
        }

        #[inline]
        unsafe fn pin_for_call(&self) -> Pinned<OnThisThread> {
            let own = number();
            let pin = OnThisThread {
                counted: false,
                _not_send: PhantomData,
            };
            // SAFETY: as in `pin`; that the pin is not counted makes no
            // difference, since it ends with the caller's call.
            unsafe { Pinned::new(own, pin) }
        }
    }
}
