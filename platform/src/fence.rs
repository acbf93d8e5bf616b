//! Asymmetric fences: the side that runs millions of times a second pays a
//! compiler barrier, the side that runs once in a while pays for both.

use crate::sync::atomic::{Ordering, fence};

/// How a heavy fence is issued.
///
/// The pair of a *light* fence on one CPU and a *heavy* fence on another orders
/// memory as two `SeqCst` fences would: of "store A, light, load B" and
/// "store B, heavy, load A" at least one load sees the other's store.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Fences {
    /// Both sides issue a real fence. Correct everywhere; each request then
    /// pays about 7 ns on a current x86-64, and the speed targets do not hold.
    Symmetric,
    /// The embedder's own heavy fence, such as an interprocessor interrupt to
    /// every CPU whose handler issues a full barrier. The light side is a
    /// compiler barrier. Made by [`Fences::custom`].
    Custom(CustomFence),
    /// One CPU runs everything (or nothing runs in parallel): a compiler
    /// barrier on both sides. Made by [`Fences::single_cpu`].
    SingleCpu(SingleCpu),
    /// No light fence at all: the variant that the models must see fail.
    #[cfg(loom)]
    LightMissing,
    /// Linux `membarrier(2)`, `PRIVATE_EXPEDITED`. Made by
    /// [`Fences::detect`], which registers the process first.
    #[cfg(feature = "std")]
    Membarrier(Membarrier),
}

/// Content of [`Fences::Custom`].
#[derive(Clone, Copy, Debug)]
pub struct CustomFence(fn());

/// Content of [`Fences::SingleCpu`].
#[derive(Clone, Copy, Debug)]
pub struct SingleCpu(());

/// Content of [`Fences::Membarrier`]: proof that the process is registered.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub struct Membarrier(());

impl Fences {
    /// The embedder's own heavy fence.
    ///
    /// # Safety
    ///
    /// * When `heavy` returns, every CPU that may run code using the same
    ///   [`Slots`](crate::Slots) has executed a full memory barrier after
    ///   `heavy` was called, or was at that time not inside such code.
    /// * `heavy` itself is a full memory barrier for its caller, does not
    ///   unwind, and does not call back into the core.
    pub const unsafe fn custom(heavy: fn()) -> Self {
        Fences::Custom(CustomFence(heavy))
    }

    /// No fences at all, for a machine with one CPU.
    ///
    /// # Safety
    ///
    /// All code that uses the same [`Slots`](crate::Slots) runs on one CPU.
    pub const unsafe fn single_cpu() -> Self {
        Fences::SingleCpu(SingleCpu(()))
    }

    /// The cheapest fences this process can have: `membarrier` where the Linux
    /// kernel offers it, else [`Fences::Symmetric`].
    #[cfg(feature = "std")]
    pub fn detect() -> Self {
        if Membarrier::register() {
            Fences::Membarrier(Membarrier(()))
        } else {
            Fences::Symmetric
        }
    }

    /// Whether the light side is a compiler barrier only.
    #[inline]
    pub const fn is_asymmetric(&self) -> bool {
        #[cfg(loom)]
        if matches!(self, Fences::LightMissing) {
            return true;
        }
        !cfg!(any(loom, shuttle)) && !matches!(self, Fences::Symmetric)
    }

    pub(crate) fn heavy(&self) {
        if cfg!(any(loom, shuttle)) {
            fence(Ordering::SeqCst);
            return;
        }
        match self {
            Fences::Symmetric => fence(Ordering::SeqCst),
            Fences::Custom(CustomFence(heavy)) => heavy(),
            Fences::SingleCpu(_) => core::sync::atomic::compiler_fence(Ordering::SeqCst),
            #[cfg(loom)]
            Fences::LightMissing => fence(Ordering::SeqCst),
            #[cfg(feature = "std")]
            Fences::Membarrier(registered) => registered.issue(),
        }
    }
}

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, shuttle, miri))))]
impl Membarrier {
    fn call(command: libc::c_int) -> bool {
        // SAFETY: membarrier(2) takes integers only and touches no memory of
        // ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    fn register() -> bool {
        Self::call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
    }

    fn issue(&self) {
        // The system call is no documented full barrier for its caller on
        // every path (a single-threaded process returns early).
        fence(Ordering::SeqCst);
        let done = Self::call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // The kernel refuses only unregistered processes, and a `Membarrier`
        // exists only after registration.
        assert!(done, "membarrier(2) failed after it was registered");
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(
    feature = "std",
    not(all(target_os = "linux", not(any(loom, shuttle, miri))))
))]
impl Membarrier {
    fn register() -> bool {
        false
    }

    fn issue(&self) {
        unreachable!("never made on this system");
    }
}
