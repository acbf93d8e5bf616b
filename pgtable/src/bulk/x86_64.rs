//! Pairs of entries by SSE2, fours by AVX2, in inline assembly.
//!
//! Why assembly and not intrinsics: an intrinsic is an ordinary access, and an
//! ordinary access beside another thread's atomic one is a data race. Assembly
//! may do what the machine can do. What the machine guarantees: an aligned 16- or
//! 32-byte access never tears inside an aligned 8-byte word (each word is one
//! unit of the cache's data path on every x86-64; Intel's and AMD's manuals state
//! it for the whole 16 bytes on CPUs with AVX), and stores keep their order.
//! So readers of one entry, a walker included, see each entry whole.

use core::arch::asm;

use dmabench_platform::sync::atomic::Ordering;

use crate::table::Table;

/// How many entries one access takes: two, or four where the CPU and the crate
/// feature `avx2` allow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    #[cfg(feature = "avx2")]
    four: bool,
}

/// With at least so many entries the wider loops are worth their set-up.
#[cfg(feature = "avx2")]
const FOUR_FROM: usize = 32;

/// Cuts a run into a first entry that is no pair's first, pairs, and a last
/// entry.
#[inline(always)]
fn pairs(first: usize, count: usize) -> (bool, usize, usize, bool) {
    let head = first & 1;
    let rest = count - head.min(count);
    (head.min(count) == 1, first + head, rest / 2, rest & 1 == 1)
}

impl Lanes {
    /// What every x86-64 can do.
    pub(crate) const BASELINE: Lanes = Lanes {
        #[cfg(feature = "avx2")]
        four: false,
    };

    /// What this CPU can do.
    pub(crate) fn detect() -> Self {
        #[cfg(feature = "avx2")]
        return Lanes { four: has_avx2() };
        #[cfg(not(feature = "avx2"))]
        Self::BASELINE
    }

    /// Whether `count` entries from `first` on are all zero.
    ///
    /// # Safety
    ///
    /// The entries lie in the table.
    #[inline(always)]
    pub(crate) unsafe fn all_zero(self, table: Table, first: usize, count: usize) -> bool {
        let (head, start, pairs, tail) = pairs(first, count);
        let mut any = 0;
        if head {
            // SAFETY: the caller promises that the run is in the table.
            any |= unsafe { table.entry(first) }.load(Ordering::Relaxed);
        }
        if pairs > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            any |= unsafe { self.or_pairs(table, start, pairs) };
        }
        if tail {
            // SAFETY: the last entry of the run.
            any |= unsafe { table.entry(first + count - 1) }.load(Ordering::Relaxed);
        }
        any == 0
    }

    /// The bits that `count` entries from `first` on have in common.
    ///
    /// # Safety
    ///
    /// The entries lie in the table.
    #[inline(always)]
    pub(crate) unsafe fn and_all(self, table: Table, first: usize, count: usize) -> u64 {
        let (head, start, pairs, tail) = pairs(first, count);
        let mut common = u64::MAX;
        if head {
            // SAFETY: the caller promises that the run is in the table.
            common &= unsafe { table.entry(first) }.load(Ordering::Relaxed);
        }
        if pairs > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            common &= unsafe { self.and_pairs(table, start, pairs) };
        }
        if tail {
            // SAFETY: the last entry of the run.
            common &= unsafe { table.entry(first + count - 1) }.load(Ordering::Relaxed);
        }
        common
    }

    /// Stores `descriptor`, `descriptor + step`, ... into `count` entries.
    ///
    /// # Safety
    ///
    /// The entries lie in the table.
    #[inline(always)]
    pub(crate) unsafe fn fill(
        self,
        table: Table,
        first: usize,
        count: usize,
        descriptor: u64,
        step: u64,
    ) {
        let (head, start, pairs, tail) = pairs(first, count);
        let mut value = descriptor;
        if head {
            // SAFETY: the caller promises that the run is in the table.
            unsafe { table.entry(first) }.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        }
        if pairs > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            unsafe { self.fill_pairs(table, start, pairs, value, step) };
        }
        if tail {
            let value = descriptor.wrapping_add(step.wrapping_mul(count as u64 - 1));
            // SAFETY: the last entry of the run.
            unsafe { table.entry(first + count - 1) }.store(value, Ordering::Relaxed);
        }
    }

    /// Stores zero into `count` entries.
    ///
    /// # Safety
    ///
    /// The entries lie in the table.
    #[inline(always)]
    pub(crate) unsafe fn clear(self, table: Table, first: usize, count: usize) {
        let (head, start, pairs, tail) = pairs(first, count);
        if head {
            // SAFETY: the caller promises that the run is in the table.
            unsafe { table.entry(first) }.store(0, Ordering::Relaxed);
        }
        if pairs > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            unsafe { self.clear_pairs(table, start, pairs) };
        }
        if tail {
            // SAFETY: the last entry of the run.
            unsafe { table.entry(first + count - 1) }.store(0, Ordering::Relaxed);
        }
    }

    /// The bitwise OR of `pairs` pairs.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even and `pairs` not 0.
    #[inline(always)]
    unsafe fn or_pairs(self, table: Table, start: usize, pairs: usize) -> u64 {
        // SAFETY: in bounds as promised; so is the end, one past.
        let (at, end) = unsafe { (table.entry_ptr(start), table.entry_ptr(start + 2 * pairs)) };
        let any: u64;
        #[cfg(feature = "avx2")]
        if self.four && pairs * 2 >= FOUR_FROM {
            // SAFETY: as below; the CPU has AVX2 (`detect`).
            unsafe {
                asm!(
                    "vpxor xmm0, xmm0, xmm0",
                    "test {at}, 16",
                    "jz 4f",
                    "vmovdqa xmm0, [{at}]",
                    "add {at}, 16",
                    "4:",
                    "vpxor xmm1, xmm1, xmm1",
                    "lea {stop}, [{at} + 64]",
                    "cmp {stop}, {end}",
                    "ja 3f",
                    "2:",
                    "vpor ymm0, ymm0, [{at}]",
                    "vpor ymm1, ymm1, [{at} + 32]",
                    "mov {at}, {stop}",
                    "add {stop}, 64",
                    "cmp {stop}, {end}",
                    "jbe 2b",
                    "3:",
                    "vpor ymm0, ymm0, ymm1",
                    "vextracti128 xmm1, ymm0, 1",
                    "vpor xmm0, xmm0, xmm1",
                    "jmp 6f",
                    "5:",
                    "vpor xmm0, xmm0, [{at}]",
                    "add {at}, 16",
                    "6:",
                    "cmp {at}, {end}",
                    "jne 5b",
                    "vpunpckhqdq xmm1, xmm0, xmm0",
                    "vpor xmm0, xmm0, xmm1",
                    "vmovq {any}, xmm0",
                    "vzeroupper",
                    at = inout(reg) at.as_ptr() => _,
                    end = in(reg) end.as_ptr(),
                    stop = out(reg) _,
                    any = lateout(reg) any,
                    out("xmm0") _, out("xmm1") _,
                    options(nostack, readonly),
                );
            }
            return any;
        }
        // SAFETY: reads aligned pairs of the table (64-byte aligned memory, even
        // index) from `at` to `end`: in bounds, alive as the caller promises
        // for each entry. Writes nothing but its registers.
        unsafe {
            asm!(
                "pxor xmm0, xmm0",
                "pxor xmm1, xmm1",
                "lea {stop}, [{at} + 64]",
                "cmp {stop}, {end}",
                "ja 4f",
                "2:",
                "por xmm0, [{at}]",
                "por xmm1, [{at} + 16]",
                "por xmm0, [{at} + 32]",
                "por xmm1, [{at} + 48]",
                "mov {at}, {stop}",
                "add {stop}, 64",
                "cmp {stop}, {end}",
                "jbe 2b",
                "jmp 4f",
                "3:",
                "por xmm0, [{at}]",
                "add {at}, 16",
                "4:",
                "cmp {at}, {end}",
                "jne 3b",
                "por xmm0, xmm1",
                "movdqa xmm1, xmm0",
                "punpckhqdq xmm1, xmm1",
                "por xmm0, xmm1",
                "movq {any}, xmm0",
                at = inout(reg) at.as_ptr() => _,
                end = in(reg) end.as_ptr(),
                stop = out(reg) _,
                any = lateout(reg) any,
                out("xmm0") _, out("xmm1") _,
                options(nostack, readonly),
            );
        }
        any
    }

    /// The bitwise AND of `pairs` pairs.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even and `pairs` not 0.
    #[inline(always)]
    unsafe fn and_pairs(self, table: Table, start: usize, pairs: usize) -> u64 {
        // SAFETY: in bounds as promised; so is the end, one past.
        let (at, end) = unsafe { (table.entry_ptr(start), table.entry_ptr(start + 2 * pairs)) };
        let common: u64;
        #[cfg(feature = "avx2")]
        if self.four && pairs * 2 >= FOUR_FROM {
            // SAFETY: as below; the CPU has AVX2 (`detect`). `FOUR_FROM` leaves
            // at least one whole step of the loop.
            unsafe {
                asm!(
                    "vpcmpeqd ymm0, ymm0, ymm0",
                    "vmovdqa ymm1, ymm0",
                    "test {at}, 16",
                    "jz 4f",
                    "vmovdqa xmm2, [{at}]",
                    "vinserti128 ymm0, ymm0, xmm2, 0",
                    "add {at}, 16",
                    "4:",
                    "lea {stop}, [{at} + 64]",
                    "2:",
                    "vpand ymm0, ymm0, [{at}]",
                    "vpand ymm1, ymm1, [{at} + 32]",
                    "mov {at}, {stop}",
                    "add {stop}, 64",
                    "cmp {stop}, {end}",
                    "jbe 2b",
                    "vpand ymm0, ymm0, ymm1",
                    "vextracti128 xmm1, ymm0, 1",
                    "vpand xmm0, xmm0, xmm1",
                    "jmp 6f",
                    "5:",
                    "vpand xmm0, xmm0, [{at}]",
                    "add {at}, 16",
                    "6:",
                    "cmp {at}, {end}",
                    "jne 5b",
                    "vpunpckhqdq xmm1, xmm0, xmm0",
                    "vpand xmm0, xmm0, xmm1",
                    "vmovq {common}, xmm0",
                    "vzeroupper",
                    at = inout(reg) at.as_ptr() => _,
                    end = in(reg) end.as_ptr(),
                    stop = out(reg) _,
                    common = lateout(reg) common,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _,
                    options(nostack, readonly),
                );
            }
            return common;
        }
        // SAFETY: as in `or_pairs`.
        unsafe {
            asm!(
                "pcmpeqd xmm0, xmm0",
                "movdqa xmm1, xmm0",
                "lea {stop}, [{at} + 64]",
                "cmp {stop}, {end}",
                "ja 4f",
                "2:",
                "pand xmm0, [{at}]",
                "pand xmm1, [{at} + 16]",
                "pand xmm0, [{at} + 32]",
                "pand xmm1, [{at} + 48]",
                "mov {at}, {stop}",
                "add {stop}, 64",
                "cmp {stop}, {end}",
                "jbe 2b",
                "jmp 4f",
                "3:",
                "pand xmm0, [{at}]",
                "add {at}, 16",
                "4:",
                "cmp {at}, {end}",
                "jne 3b",
                "pand xmm0, xmm1",
                "movdqa xmm1, xmm0",
                "punpckhqdq xmm1, xmm1",
                "pand xmm0, xmm1",
                "movq {common}, xmm0",
                at = inout(reg) at.as_ptr() => _,
                end = in(reg) end.as_ptr(),
                stop = out(reg) _,
                common = lateout(reg) common,
                out("xmm0") _, out("xmm1") _,
                options(nostack, readonly),
            );
        }
        common
    }

    /// Stores `value`, `value + step`, ... into `pairs` pairs.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even and `pairs` not 0.
    #[inline(always)]
    unsafe fn fill_pairs(self, table: Table, start: usize, pairs: usize, value: u64, step: u64) {
        // SAFETY: in bounds as promised; so is the end, one past.
        let (at, end) = unsafe { (table.entry_ptr(start), table.entry_ptr(start + 2 * pairs)) };
        #[cfg(feature = "avx2")]
        if self.four && pairs * 2 >= FOUR_FROM {
            // SAFETY: as below; the CPU has AVX2 (`detect`). `FOUR_FROM` leaves
            // at least one whole step of the loop.
            unsafe {
                asm!(
                    // xmm0: value and value + step; xmm4: two steps.
                    "vmovq xmm0, {value}",
                    "vpinsrq xmm0, xmm0, {next}, 1",
                    "vmovq xmm4, {step}",
                    "vpunpcklqdq xmm4, xmm4, xmm4",
                    "vpaddq xmm4, xmm4, xmm4",
                    "test {at}, 16",
                    "jz 4f",
                    "vmovdqa [{at}], xmm0",
                    "vpaddq xmm0, xmm0, xmm4",
                    "add {at}, 16",
                    "4:",
                    // ymm0: four entries; ymm1: the next four; ymm4: eight steps.
                    "vpaddq xmm1, xmm0, xmm4",
                    "vinserti128 ymm0, ymm0, xmm1, 1",
                    "vpaddq xmm5, xmm4, xmm4",
                    "vinserti128 ymm5, ymm5, xmm5, 1",
                    "vpaddq ymm1, ymm0, ymm5",
                    "vpaddq ymm5, ymm5, ymm5",
                    "lea {stop}, [{at} + 64]",
                    "2:",
                    "vmovdqa [{at}], ymm0",
                    "vpaddq ymm0, ymm0, ymm5",
                    "vmovdqa [{at} + 32], ymm1",
                    "vpaddq ymm1, ymm1, ymm5",
                    "mov {at}, {stop}",
                    "add {stop}, 64",
                    "cmp {stop}, {end}",
                    "jbe 2b",
                    "jmp 6f",
                    "5:",
                    "vmovdqa [{at}], xmm0",
                    "vpaddq xmm0, xmm0, xmm4",
                    "add {at}, 16",
                    "6:",
                    "cmp {at}, {end}",
                    "jne 5b",
                    "vzeroupper",
                    at = inout(reg) at.as_ptr() => _,
                    end = in(reg) end.as_ptr(),
                    stop = out(reg) _,
                    value = in(reg) value,
                    next = in(reg) value.wrapping_add(step),
                    step = in(reg) step,
                    out("xmm0") _, out("xmm1") _, out("xmm4") _, out("xmm5") _,
                    options(nostack),
                );
            }
            return;
        }
        // SAFETY: writes aligned pairs of the table (64-byte aligned memory,
        // even index) from `at` to `end`: in bounds, alive as the caller promises
        // for each entry.
        unsafe {
            asm!(
                // xmm0: value and value + step; xmm4: two steps each.
                "movq xmm0, {value}",
                "movq xmm1, {next}",
                "punpcklqdq xmm0, xmm1",
                "movq xmm4, {step}",
                "punpcklqdq xmm4, xmm4",
                "paddq xmm4, xmm4",
                "lea {stop}, [{at} + 64]",
                "cmp {stop}, {end}",
                "ja 4f",
                // xmm1 to xmm3: the pairs after it; xmm5: eight steps each.
                "movdqa xmm1, xmm0",
                "paddq xmm1, xmm4",
                "movdqa xmm2, xmm1",
                "paddq xmm2, xmm4",
                "movdqa xmm3, xmm2",
                "paddq xmm3, xmm4",
                "movdqa xmm5, xmm4",
                "psllq xmm5, 2",
                "2:",
                "movdqa [{at}], xmm0",
                "paddq xmm0, xmm5",
                "movdqa [{at} + 16], xmm1",
                "paddq xmm1, xmm5",
                "movdqa [{at} + 32], xmm2",
                "paddq xmm2, xmm5",
                "movdqa [{at} + 48], xmm3",
                "paddq xmm3, xmm5",
                "mov {at}, {stop}",
                "add {stop}, 64",
                "cmp {stop}, {end}",
                "jbe 2b",
                "jmp 4f",
                "3:",
                "movdqa [{at}], xmm0",
                "paddq xmm0, xmm4",
                "add {at}, 16",
                "4:",
                "cmp {at}, {end}",
                "jne 3b",
                at = inout(reg) at.as_ptr() => _,
                end = in(reg) end.as_ptr(),
                stop = out(reg) _,
                value = in(reg) value,
                next = in(reg) value.wrapping_add(step),
                step = in(reg) step,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _,
                options(nostack),
            );
        }
    }

    /// Stores zero into `pairs` pairs.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even and `pairs` not 0.
    #[inline(always)]
    unsafe fn clear_pairs(self, table: Table, start: usize, pairs: usize) {
        // SAFETY: in bounds as promised; so is the end, one past.
        let (at, end) = unsafe { (table.entry_ptr(start), table.entry_ptr(start + 2 * pairs)) };
        #[cfg(feature = "avx2")]
        if self.four && pairs * 2 >= FOUR_FROM {
            // SAFETY: as below; the CPU has AVX2 (`detect`). `FOUR_FROM` leaves
            // at least one whole step of the loop.
            unsafe {
                asm!(
                    "vpxor xmm0, xmm0, xmm0",
                    "test {at}, 16",
                    "jz 4f",
                    "vmovdqa [{at}], xmm0",
                    "add {at}, 16",
                    "4:",
                    "lea {stop}, [{at} + 64]",
                    "2:",
                    "vmovdqa [{at}], ymm0",
                    "vmovdqa [{at} + 32], ymm0",
                    "mov {at}, {stop}",
                    "add {stop}, 64",
                    "cmp {stop}, {end}",
                    "jbe 2b",
                    "jmp 6f",
                    "5:",
                    "vmovdqa [{at}], xmm0",
                    "add {at}, 16",
                    "6:",
                    "cmp {at}, {end}",
                    "jne 5b",
                    "vzeroupper",
                    at = inout(reg) at.as_ptr() => _,
                    end = in(reg) end.as_ptr(),
                    stop = out(reg) _,
                    out("xmm0") _,
                    options(nostack),
                );
            }
            return;
        }
        // SAFETY: as in `fill_pairs`.
        unsafe {
            asm!(
                "pxor xmm0, xmm0",
                "lea {stop}, [{at} + 64]",
                "cmp {stop}, {end}",
                "ja 4f",
                "2:",
                "movdqa [{at}], xmm0",
                "movdqa [{at} + 16], xmm0",
                "movdqa [{at} + 32], xmm0",
                "movdqa [{at} + 48], xmm0",
                "mov {at}, {stop}",
                "add {stop}, 64",
                "cmp {stop}, {end}",
                "jbe 2b",
                "jmp 4f",
                "3:",
                "movdqa [{at}], xmm0",
                "add {at}, 16",
                "4:",
                "cmp {at}, {end}",
                "jne 3b",
                at = inout(reg) at.as_ptr() => _,
                end = in(reg) end.as_ptr(),
                stop = out(reg) _,
                out("xmm0") _,
                options(nostack),
            );
        }
    }
}

/// Whether the CPU has AVX2 and the system saves its registers.
#[cfg(feature = "avx2")]
fn has_avx2() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
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
