//! What the driver needs from its surroundings beside memory: the register
//! frame, a barrier, time.

use dmabench_platform::{TimeNs, sync::spin_hint};

/// The register frame of one SMMUv3 and the surroundings it lives in: a mapped
/// device, QEMU's monitor socket, the software SMMU.
///
/// Offsets are those of Arm IHI 0070, 6.2, from the base of page 0; the pages
/// are 64 KiB each, so that `SMMU_EVENTQ_PROD` is at `0x1_00a8`. The driver uses
/// 32-bit accesses for 32-bit registers and 64-bit ones for 64-bit registers,
/// always aligned.
///
/// Tables and queues do not come from here but from a
/// [`TableMemory`](dmabench_pgtable::TableMemory), whose physical addresses the
/// SMMU must be able to read.
///
/// # Safety
///
/// The driver tells its callers that memory may be given back on the word of
/// this device. Implementers promise:
///
/// * The registers are those of an SMMUv3 that does what the commands in its
///   queue say, and that no one else programs. (A device that *lies* about
///   having executed a command cannot be caught by anyone; one that stalls,
///   reports errors or writes nonsense is handled.)
/// * **Order.** Stores made before [`publish`](Self::publish) are visible to the
///   SMMU before a register write made after it. A register read is ordered
///   before later loads of the same thread, so that what the SMMU wrote before
///   the value became visible is seen.
/// * No method unwinds or calls into the driver.
///
/// # Concurrency
///
/// Any method may be called at any time by any number of threads.
pub unsafe trait SmmuHost: Send + Sync {
    /// Reads the 32-bit register at `offset` bytes.
    fn read32(&self, offset: u32) -> u32;

    /// Writes the 32-bit register at `offset` bytes.
    fn write32(&self, offset: u32, value: u32);

    /// Writes the 64-bit register at `offset` bytes.
    fn write64(&self, offset: u32, value: u64);

    /// The barrier between queue or table memory and a register write. The
    /// default suits an SMMU in the CPUs' inner shareable domain: `DSB ISHST`
    /// on AArch64, elsewhere a release fence (the SMMU is then software).
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

    /// The time, for bounded waits. Read only once a wait has begun.
    fn now(&self) -> TimeNs;

    /// Called in each round of a wait. It must let time pass: after finitely
    /// many calls [`now`](Self::now) has grown. (On a clock that a simulation
    /// moves, this is the place to move it.)
    fn relax(&self) {
        spin_hint();
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        // SAFETY: every method is the pointee's.
        unsafe impl<H: SmmuHost + ?Sized> SmmuHost for $pointer {
            #[inline(always)]
            fn read32(&self, offset: u32) -> u32 {
                (**self).read32(offset)
            }
            #[inline(always)]
            fn write32(&self, offset: u32, value: u32) {
                (**self).write32(offset, value);
            }
            #[inline(always)]
            fn write64(&self, offset: u32, value: u64) {
                (**self).write64(offset, value);
            }
            #[inline(always)]
            fn publish(&self) {
                (**self).publish();
            }
            fn now(&self) -> TimeNs {
                (**self).now()
            }
            fn relax(&self) {
                (**self).relax();
            }
        }
    )*};
}

forward!(&H, alloc::sync::Arc<H>);
