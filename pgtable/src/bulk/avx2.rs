//! The loops of [`sse2`](super::sse2) over four entries at a time, for 128 bytes
//! and more. A first pair may have to go by itself, so that the rest is aligned
//! to 32 bytes. The CPU has AVX2: see [`cpu`](super::cpu).

use core::arch::asm;

use super::x86_64::Pairs;

/// One bitwise operation over all pairs.
macro_rules! reduce {
    ($(#[$doc:meta])* $name:ident, $init:literal, $op:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The pairs lie in one table whose memory stays. The CPU has AVX2.
        #[inline(always)]
        pub(super) unsafe fn $name(pairs: Pairs) -> u64 {
            let result: u64;
            // SAFETY: reads from `end - bytes` to `end`, which lies in the table
            // as promised: a pair if the start is no multiple of 32, then
            // aligned fours, then the pair that is left. Writes nothing but its
            // registers.
            unsafe {
                asm!(
                    concat!($init, " ymm0, ymm0, ymm0"),
                    concat!($init, " ymm1, ymm1, ymm1"),
                    "lea {skew}, [{end} + {left}]",
                    "test {skew}, 16",
                    "jz 5f",
                    "vmovdqa xmm2, [{end} + {left}]",
                    "vinserti128 ymm0, ymm0, xmm2, 0",
                    "add {left}, 16",
                    "5:",
                    "add {left}, 128",
                    "jg 3f",
                    "2:",
                    concat!($op, " ymm0, ymm0, [{end} + {left} - 128]"),
                    concat!($op, " ymm1, ymm1, [{end} + {left} - 96]"),
                    concat!($op, " ymm0, ymm0, [{end} + {left} - 64]"),
                    concat!($op, " ymm1, ymm1, [{end} + {left} - 32]"),
                    "add {left}, 128",
                    "jle 2b",
                    "3:",
                    concat!($op, " ymm0, ymm0, ymm1"),
                    "vextracti128 xmm1, ymm0, 1",
                    concat!($op, " xmm0, xmm0, xmm1"),
                    "sub {left}, 128",
                    "jz 6f",
                    "4:",
                    concat!($op, " xmm0, xmm0, [{end} + {left}]"),
                    "add {left}, 16",
                    "jnz 4b",
                    "6:",
                    "vpunpckhqdq xmm1, xmm0, xmm0",
                    concat!($op, " xmm0, xmm0, xmm1"),
                    "vmovq {result}, xmm0",
                    "vzeroupper",
                    end = in(reg) pairs.end(),
                    left = inout(reg) pairs.bytes.wrapping_neg() => _,
                    skew = out(reg) _,
                    result = lateout(reg) result,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _,
                    options(nostack, readonly),
                );
            }
            result
        }
    };
}

reduce!(
    /// The bits that any entry has.
    or, "vpxor", "vpor"
);
reduce!(
    /// The bits that all entries have.
    and, "vpcmpeqd", "vpand"
);

/// Stores `value`, `value + step`, ...
///
/// # Safety
///
/// The pairs lie in one table whose memory stays. The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn fill(pairs: Pairs, value: u64, step: u64) {
    // SAFETY: writes from `end - bytes` to `end`, which lies in the table as
    // promised: a pair if the start is no multiple of 32, then aligned fours,
    // then the pairs that are left. Writes nothing else.
    unsafe {
        asm!(
            // xmm0: value and value + step; xmm4: two steps.
            "vmovq xmm0, {value}",
            "vmovq xmm1, {next}",
            "vpunpcklqdq xmm0, xmm0, xmm1",
            "vmovq xmm4, {two}",
            "vpunpcklqdq xmm4, xmm4, xmm4",
            "lea {skew}, [{end} + {left}]",
            "test {skew}, 16",
            "jz 5f",
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
            end = in(reg) pairs.end(),
            left = inout(reg) pairs.bytes.wrapping_neg() => _,
            skew = out(reg) _,
            value = in(reg) value,
            next = in(reg) value.wrapping_add(step),
            two = in(reg) step << 1,
            out("xmm0") _, out("xmm1") _, out("xmm4") _, out("xmm5") _,
            options(nostack),
        );
    }
}

/// Stores zeros.
///
/// # Safety
///
/// The pairs lie in one table whose memory stays. The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn clear(pairs: Pairs) {
    // SAFETY: as in `fill`.
    unsafe {
        asm!(
            "vpxor xmm0, xmm0, xmm0",
            "lea {skew}, [{end} + {left}]",
            "test {skew}, 16",
            "jz 5f",
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
            end = in(reg) pairs.end(),
            left = inout(reg) pairs.bytes.wrapping_neg() => _,
            skew = out(reg) _,
            out("xmm0") _,
            options(nostack),
        );
    }
}
