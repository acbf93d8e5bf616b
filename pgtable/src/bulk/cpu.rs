//! What the x86-64 CPU can do.

use core::arch::{
    asm,
    x86_64::{__cpuid, __cpuid_count},
};

/// Whether the CPU has AVX2 and the system saves its registers.
pub(super) fn has_avx2() -> bool {
    const OSXSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
    const AVX2: u32 = 1 << 5;
    const XMM_AND_YMM: u32 = 1 << 1 | 1 << 2;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE_AND_AVX != OSXSAVE_AND_AVX {
        return false;
    }
    let saved: u32;
    // SAFETY: OSXSAVE says that the instruction exists; it reads a register.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack));
    }
    saved & XMM_AND_YMM == XMM_AND_YMM && __cpuid_count(7, 0).ebx & AVX2 != 0
}
