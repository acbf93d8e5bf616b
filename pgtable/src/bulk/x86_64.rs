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

/// From so many bytes on the wider loops are worth their set-up.
#[cfg(feature = "avx2")]
const FOUR_FROM_BYTES: usize = 256;

/// A run of at least one entry, cut up: whether its first entry is no pair's
/// first, where the pairs start, the bytes in pairs, whether an entry is left.
#[inline(always)]
fn pairs(first: usize, count: usize) -> (bool, usize, usize, bool) {
    let head = first & 1;
    let rest = count - head;
    (head == 1, first + head, (rest << 3) & !15, rest & 1 == 1)
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
        return Lanes {
            four: super::cpu::has_avx2(),
        };
        #[cfg(not(feature = "avx2"))]
        Self::BASELINE
    }

    /// Whether `count` entries from `first` on are all zero.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn all_zero(self, table: Table, first: usize, count: usize) -> bool {
        // SAFETY: as promised.
        unsafe { self.or_all(table, first, count) == 0 }
    }

    /// The bits that any of `count` entries from `first` on has.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn or_all(self, table: Table, first: usize, count: usize) -> u64 {
        let (head, start, bytes, tail) = pairs(first, count);
        let mut any = 0;
        if head {
            // SAFETY: the caller promises that the run is in the table.
            any |= unsafe { table.entry(first) }.load(Ordering::Relaxed);
        }
        if bytes > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            any |= unsafe { self.or_pairs(table, start, bytes) };
        }
        if tail {
            // SAFETY: the last entry of the run.
            any |= unsafe { table.entry(first + count - 1) }.load(Ordering::Relaxed);
        }
        any
    }

    /// The bits that `count` entries from `first` on have in common.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn and_all(self, table: Table, first: usize, count: usize) -> u64 {
        let (head, start, bytes, tail) = pairs(first, count);
        let mut common = u64::MAX;
        if head {
            // SAFETY: the caller promises that the run is in the table.
            common &= unsafe { table.entry(first) }.load(Ordering::Relaxed);
        }
        if bytes > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            common &= unsafe { self.and_pairs(table, start, bytes) };
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
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn fill(
        self,
        table: Table,
        first: usize,
        count: usize,
        descriptor: u64,
        step: u64,
    ) {
        let (head, start, bytes, tail) = pairs(first, count);
        let mut value = descriptor;
        if head {
            // SAFETY: the caller promises that the run is in the table.
            unsafe { table.entry(first) }.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        }
        if bytes > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            unsafe { self.fill_pairs(table, start, bytes, value, step) };
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
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn clear(self, table: Table, first: usize, count: usize) {
        let (head, start, bytes, tail) = pairs(first, count);
        if head {
            // SAFETY: the caller promises that the run is in the table.
            unsafe { table.entry(first) }.store(0, Ordering::Relaxed);
        }
        if bytes > 0 {
            // SAFETY: the pairs are part of the run, and `start` is even.
            unsafe { self.clear_pairs(table, start, bytes) };
        }
        if tail {
            // SAFETY: the last entry of the run.
            unsafe { table.entry(first + count - 1) }.store(0, Ordering::Relaxed);
        }
    }

    /// The bitwise OR of the pairs in `bytes` bytes.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even, `bytes` is a multiple of 16
    /// and not 0.
    #[inline(always)]
    unsafe fn or_pairs(self, table: Table, start: usize, bytes: usize) -> u64 {
        // SAFETY: in bounds as promised; the end may be one past the last.
        let end = unsafe { table.entry_ptr(start).byte_add(bytes) };
        let left = bytes.wrapping_neg();
        let any: u64;
        #[cfg(feature = "avx2")]
        if self.four && bytes >= FOUR_FROM_BYTES {
            // SAFETY: as below; the CPU has AVX2 (`detect`).
            unsafe {
                asm!(
                    "vpxor xmm0, xmm0, xmm0",
                    "vpxor xmm1, xmm1, xmm1",
                    "lea {skew}, [{end} + {left}]",
                    "test {skew}, 16",
                    "jz 5f",
                    // One pair, so that what follows is aligned to 32 bytes.
                    "vmovdqa xmm2, [{end} + {left}]",
                    "vinserti128 ymm0, ymm0, xmm2, 0",
                    "add {left}, 16",
                    "5:",
                    "add {left}, 128",
                    "jg 3f",
                    "2:",
                    "vpor ymm0, ymm0, [{end} + {left} - 128]",
                    "vpor ymm1, ymm1, [{end} + {left} - 96]",
                    "vpor ymm0, ymm0, [{end} + {left} - 64]",
                    "vpor ymm1, ymm1, [{end} + {left} - 32]",
                    "add {left}, 128",
                    "jle 2b",
                    "3:",
                    "vpor ymm0, ymm0, ymm1",
                    "vextracti128 xmm1, ymm0, 1",
                    "vpor xmm0, xmm0, xmm1",
                    "sub {left}, 128",
                    "jz 6f",
                    "4:",
                    "vpor xmm0, xmm0, [{end} + {left}]",
                    "add {left}, 16",
                    "jnz 4b",
                    "6:",
                    "vpunpckhqdq xmm1, xmm0, xmm0",
                    "vpor xmm0, xmm0, xmm1",
                    "vmovq {any}, xmm0",
                    "vzeroupper",
                    end = in(reg) end.as_ptr(),
                    left = inout(reg) left => _,
                    skew = out(reg) _,
                    any = lateout(reg) any,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _,
                    options(nostack, readonly),
                );
            }
            return any;
        }
        // SAFETY: reads aligned pairs of the table (64-byte aligned memory, even
        // index) from `end - bytes` to `end`: in bounds, alive as the caller
        // promises for each entry. `left` counts up to 0; it is ahead by 128 in
        // the first loop, which runs while 128 bytes are left. Writes nothing but
        // its registers.
        unsafe {
            asm!(
                "pxor xmm0, xmm0",
                "pxor xmm1, xmm1",
                "add {left}, 128",
                "jg 3f",
                "2:",
                "por xmm0, [{end} + {left} - 128]",
                "por xmm1, [{end} + {left} - 112]",
                "por xmm0, [{end} + {left} - 96]",
                "por xmm1, [{end} + {left} - 80]",
                "por xmm0, [{end} + {left} - 64]",
                "por xmm1, [{end} + {left} - 48]",
                "por xmm0, [{end} + {left} - 32]",
                "por xmm1, [{end} + {left} - 16]",
                "add {left}, 128",
                "jle 2b",
                "3:",
                "sub {left}, 128",
                "jz 5f",
                "4:",
                "por xmm0, [{end} + {left}]",
                "add {left}, 16",
                "jnz 4b",
                "5:",
                "por xmm0, xmm1",
                "pshufd xmm1, xmm0, 0xee",
                "por xmm0, xmm1",
                "movq {any}, xmm0",
                end = in(reg) end.as_ptr(),
                left = inout(reg) left => _,
                any = lateout(reg) any,
                out("xmm0") _, out("xmm1") _,
                options(nostack, readonly),
            );
        }
        any
    }

    /// The bitwise AND of the pairs in `bytes` bytes.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even, `bytes` is a multiple of 16
    /// and not 0.
    #[inline(always)]
    unsafe fn and_pairs(self, table: Table, start: usize, bytes: usize) -> u64 {
        // SAFETY: in bounds as promised; the end may be one past the last.
        let end = unsafe { table.entry_ptr(start).byte_add(bytes) };
        let left = bytes.wrapping_neg();
        let common: u64;
        #[cfg(feature = "avx2")]
        if self.four && bytes >= FOUR_FROM_BYTES {
            // SAFETY: as below; the CPU has AVX2 (`detect`).
            unsafe {
                asm!(
                    "vpcmpeqd ymm0, ymm0, ymm0",
                    "vpcmpeqd ymm1, ymm1, ymm1",
                    "lea {skew}, [{end} + {left}]",
                    "test {skew}, 16",
                    "jz 5f",
                    // One pair, so that what follows is aligned to 32 bytes.
                    "vmovdqa xmm2, [{end} + {left}]",
                    "vinserti128 ymm0, ymm0, xmm2, 0",
                    "add {left}, 16",
                    "5:",
                    "add {left}, 128",
                    "jg 3f",
                    "2:",
                    "vpand ymm0, ymm0, [{end} + {left} - 128]",
                    "vpand ymm1, ymm1, [{end} + {left} - 96]",
                    "vpand ymm0, ymm0, [{end} + {left} - 64]",
                    "vpand ymm1, ymm1, [{end} + {left} - 32]",
                    "add {left}, 128",
                    "jle 2b",
                    "3:",
                    "vpand ymm0, ymm0, ymm1",
                    "vextracti128 xmm1, ymm0, 1",
                    "vpand xmm0, xmm0, xmm1",
                    "sub {left}, 128",
                    "jz 6f",
                    "4:",
                    "vpand xmm0, xmm0, [{end} + {left}]",
                    "add {left}, 16",
                    "jnz 4b",
                    "6:",
                    "vpunpckhqdq xmm1, xmm0, xmm0",
                    "vpand xmm0, xmm0, xmm1",
                    "vmovq {common}, xmm0",
                    "vzeroupper",
                    end = in(reg) end.as_ptr(),
                    left = inout(reg) left => _,
                    skew = out(reg) _,
                    common = lateout(reg) common,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _,
                    options(nostack, readonly),
                );
            }
            return common;
        }
        // SAFETY: reads aligned pairs of the table (64-byte aligned memory, even
        // index) from `end - bytes` to `end`: in bounds, alive as the caller
        // promises for each entry. `left` counts up to 0; it is ahead by 128 in
        // the first loop, which runs while 128 bytes are left. Writes nothing but
        // its registers.
        unsafe {
            asm!(
                "pcmpeqd xmm0, xmm0",
                "pcmpeqd xmm1, xmm1",
                "add {left}, 128",
                "jg 3f",
                "2:",
                "pand xmm0, [{end} + {left} - 128]",
                "pand xmm1, [{end} + {left} - 112]",
                "pand xmm0, [{end} + {left} - 96]",
                "pand xmm1, [{end} + {left} - 80]",
                "pand xmm0, [{end} + {left} - 64]",
                "pand xmm1, [{end} + {left} - 48]",
                "pand xmm0, [{end} + {left} - 32]",
                "pand xmm1, [{end} + {left} - 16]",
                "add {left}, 128",
                "jle 2b",
                "3:",
                "sub {left}, 128",
                "jz 5f",
                "4:",
                "pand xmm0, [{end} + {left}]",
                "add {left}, 16",
                "jnz 4b",
                "5:",
                "pand xmm0, xmm1",
                "pshufd xmm1, xmm0, 0xee",
                "pand xmm0, xmm1",
                "movq {common}, xmm0",
                end = in(reg) end.as_ptr(),
                left = inout(reg) left => _,
                common = lateout(reg) common,
                out("xmm0") _, out("xmm1") _,
                options(nostack, readonly),
            );
        }
        common
    }

    /// Stores `value`, `value + step`, ... into the pairs in `bytes` bytes.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even, `bytes` is a multiple of 16
    /// and not 0.
    #[inline(always)]
    unsafe fn fill_pairs(self, table: Table, start: usize, bytes: usize, value: u64, step: u64) {
        // SAFETY: in bounds as promised; the end may be one past the last.
        let end = unsafe { table.entry_ptr(start).byte_add(bytes) };
        let left = bytes.wrapping_neg();
        #[cfg(feature = "avx2")]
        if self.four && bytes >= FOUR_FROM_BYTES {
            // SAFETY: as below; the CPU has AVX2 (`detect`).
            unsafe {
                asm!(
                    // xmm0: value and value + step; xmm4: two steps.
                    "vmovq xmm0, {value}",
                    "vmovq xmm1, {next}",
                    "vpunpcklqdq xmm0, xmm0, xmm1",
                    "vmovq xmm4, {step}",
                    "vpunpcklqdq xmm4, xmm4, xmm4",
                    "vpaddq xmm4, xmm4, xmm4",
                    "lea {skew}, [{end} + {left}]",
                    "test {skew}, 16",
                    "jz 5f",
                    // One pair, so that what follows is aligned to 32 bytes.
                    "vmovdqa [{end} + {left}], xmm0",
                    "vpaddq xmm0, xmm0, xmm4",
                    "add {left}, 16",
                    "5:",
                    // ymm0: four entries; ymm1: the next four; ymm5: eight steps.
                    "vpaddq xmm1, xmm0, xmm4",
                    "vinserti128 ymm0, ymm0, xmm1, 1",
                    "vpaddq xmm5, xmm4, xmm4",
                    "vinserti128 ymm5, ymm5, xmm5, 1",
                    "vpaddq ymm1, ymm0, ymm5",
                    "vpaddq ymm5, ymm5, ymm5",
                    "add {left}, 128",
                    "jg 3f",
                    "2:",
                    "vmovdqa [{end} + {left} - 128], ymm0",
                    "vpaddq ymm0, ymm0, ymm5",
                    "vmovdqa [{end} + {left} - 96], ymm1",
                    "vpaddq ymm1, ymm1, ymm5",
                    "vmovdqa [{end} + {left} - 64], ymm0",
                    "vpaddq ymm0, ymm0, ymm5",
                    "vmovdqa [{end} + {left} - 32], ymm1",
                    "vpaddq ymm1, ymm1, ymm5",
                    "add {left}, 128",
                    "jle 2b",
                    "3:",
                    "sub {left}, 128",
                    "jz 6f",
                    "4:",
                    "vmovdqa [{end} + {left}], xmm0",
                    "vpaddq xmm0, xmm0, xmm4",
                    "add {left}, 16",
                    "jnz 4b",
                    "6:",
                    "vzeroupper",
                    end = in(reg) end.as_ptr(),
                    left = inout(reg) left => _,
                    skew = out(reg) _,
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
        // even index) from `end - bytes` to `end`: in bounds, alive as the caller
        // promises for each entry. `left` as in `or_pairs`.
        unsafe {
            asm!(
                // xmm0: value and value + step; xmm4: two steps each.
                "movq xmm0, {value}",
                "movq xmm1, {next}",
                "punpcklqdq xmm0, xmm1",
                "movq xmm4, {step}",
                "punpcklqdq xmm4, xmm4",
                "paddq xmm4, xmm4",
                "add {left}, 128",
                "jg 3f",
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
                "movdqa [{end} + {left} - 128], xmm0",
                "paddq xmm0, xmm5",
                "movdqa [{end} + {left} - 112], xmm1",
                "paddq xmm1, xmm5",
                "movdqa [{end} + {left} - 96], xmm2",
                "paddq xmm2, xmm5",
                "movdqa [{end} + {left} - 80], xmm3",
                "paddq xmm3, xmm5",
                "movdqa [{end} + {left} - 64], xmm0",
                "paddq xmm0, xmm5",
                "movdqa [{end} + {left} - 48], xmm1",
                "paddq xmm1, xmm5",
                "movdqa [{end} + {left} - 32], xmm2",
                "paddq xmm2, xmm5",
                "movdqa [{end} + {left} - 16], xmm3",
                "paddq xmm3, xmm5",
                "add {left}, 128",
                "jle 2b",
                "3:",
                "sub {left}, 128",
                "jz 5f",
                "4:",
                "movdqa [{end} + {left}], xmm0",
                "paddq xmm0, xmm4",
                "add {left}, 16",
                "jnz 4b",
                "5:",
                end = in(reg) end.as_ptr(),
                left = inout(reg) left => _,
                value = in(reg) value,
                next = in(reg) value.wrapping_add(step),
                step = in(reg) step,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _,
                options(nostack),
            );
        }
    }

    /// Stores zero into the pairs in `bytes` bytes.
    ///
    /// # Safety
    ///
    /// The pairs lie in the table, `start` is even, `bytes` is a multiple of 16
    /// and not 0.
    #[inline(always)]
    unsafe fn clear_pairs(self, table: Table, start: usize, bytes: usize) {
        // SAFETY: in bounds as promised; the end may be one past the last.
        let end = unsafe { table.entry_ptr(start).byte_add(bytes) };
        let left = bytes.wrapping_neg();
        #[cfg(feature = "avx2")]
        if self.four && bytes >= FOUR_FROM_BYTES {
            // SAFETY: as below; the CPU has AVX2 (`detect`).
            unsafe {
                asm!(
                    "vpxor xmm0, xmm0, xmm0",
                    "lea {skew}, [{end} + {left}]",
                    "test {skew}, 16",
                    "jz 5f",
                    // One pair, so that what follows is aligned to 32 bytes.
                    "vmovdqa [{end} + {left}], xmm0",
                    "add {left}, 16",
                    "5:",
                    "add {left}, 128",
                    "jg 3f",
                    "2:",
                    "vmovdqa [{end} + {left} - 128], ymm0",
                    "vmovdqa [{end} + {left} - 96], ymm0",
                    "vmovdqa [{end} + {left} - 64], ymm0",
                    "vmovdqa [{end} + {left} - 32], ymm0",
                    "add {left}, 128",
                    "jle 2b",
                    "3:",
                    "sub {left}, 128",
                    "jz 6f",
                    "4:",
                    "vmovdqa [{end} + {left}], xmm0",
                    "add {left}, 16",
                    "jnz 4b",
                    "6:",
                    "vzeroupper",
                    end = in(reg) end.as_ptr(),
                    left = inout(reg) left => _,
                    skew = out(reg) _,
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
                "add {left}, 128",
                "jg 3f",
                "2:",
                "movdqa [{end} + {left} - 128], xmm0",
                "movdqa [{end} + {left} - 112], xmm0",
                "movdqa [{end} + {left} - 96], xmm0",
                "movdqa [{end} + {left} - 80], xmm0",
                "movdqa [{end} + {left} - 64], xmm0",
                "movdqa [{end} + {left} - 48], xmm0",
                "movdqa [{end} + {left} - 32], xmm0",
                "movdqa [{end} + {left} - 16], xmm0",
                "add {left}, 128",
                "jle 2b",
                "3:",
                "sub {left}, 128",
                "jz 5f",
                "4:",
                "movdqa [{end} + {left}], xmm0",
                "add {left}, 16",
                "jnz 4b",
                "5:",
                end = in(reg) end.as_ptr(),
                left = inout(reg) left => _,
                out("xmm0") _,
                options(nostack),
            );
        }
    }
}
