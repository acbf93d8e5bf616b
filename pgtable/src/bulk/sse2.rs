//! Loops over pairs of entries, 16 bytes at a time: part of every x86-64.
//!
//! All count a negative offset from the end up to 0. The first loop takes eight
//! pairs at a time; its counter is 128 ahead, so that the sign tells whether as
//! many are left. The second takes what is left, one by one.

use core::arch::asm;

use super::x86_64::Pairs;

/// One bitwise operation over all pairs.
macro_rules! reduce {
    ($(#[$doc:meta])* $name:ident, $init:literal, $op:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The pairs lie in one table whose memory stays.
        #[inline(always)]
        pub(super) unsafe fn $name(pairs: Pairs) -> u64 {
            let result: u64;
            // SAFETY: reads aligned pairs from `end - bytes` to `end`, which lie
            // in the table as promised, and writes nothing but its registers.
            unsafe {
                asm!(
                    concat!($init, " xmm0, xmm0"),
                    concat!($init, " xmm1, xmm1"),
                    "add {left}, 128",
                    "jg 3f",
                    "2:",
                    concat!($op, " xmm0, [{end} + {left} - 128]"),
                    concat!($op, " xmm1, [{end} + {left} - 112]"),
                    concat!($op, " xmm0, [{end} + {left} - 96]"),
                    concat!($op, " xmm1, [{end} + {left} - 80]"),
                    concat!($op, " xmm0, [{end} + {left} - 64]"),
                    concat!($op, " xmm1, [{end} + {left} - 48]"),
                    concat!($op, " xmm0, [{end} + {left} - 32]"),
                    concat!($op, " xmm1, [{end} + {left} - 16]"),
                    "add {left}, 128",
                    "jle 2b",
                    "3:",
                    "sub {left}, 128",
                    "jz 5f",
                    "4:",
                    concat!($op, " xmm0, [{end} + {left}]"),
                    "add {left}, 16",
                    "jnz 4b",
                    "5:",
                    concat!($op, " xmm0, xmm1"),
                    "pshufd xmm1, xmm0, 0xee",
                    concat!($op, " xmm0, xmm1"),
                    "movq {result}, xmm0",
                    end = in(reg) pairs.end,
                    left = inout(reg) pairs.bytes.wrapping_neg() => _,
                    result = lateout(reg) result,
                    out("xmm0") _, out("xmm1") _,
                    options(nostack, readonly),
                );
            }
            result
        }
    };
}

reduce!(
    /// The bits that any entry has.
    or, "pxor", "por"
);
reduce!(
    /// The bits that all entries have.
    and, "pcmpeqd", "pand"
);

/// The bits that all entries have, and those that any has. For short runs.
///
/// # Safety
///
/// The pairs lie in one table whose memory stays.
#[inline(always)]
pub(super) unsafe fn and_or(pairs: Pairs) -> (u64, u64) {
    let (all, any): (u64, u64);
    // SAFETY: reads aligned pairs from `end - bytes` to `end`, which lie in the
    // table as promised, and writes nothing but its registers.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0",
            "pxor xmm1, xmm1",
            "2:",
            "movdqa xmm2, [{end} + {left}]",
            "pand xmm0, xmm2",
            "por xmm1, xmm2",
            "add {left}, 16",
            "jnz 2b",
            "pshufd xmm2, xmm0, 0xee",
            "pand xmm0, xmm2",
            "pshufd xmm2, xmm1, 0xee",
            "por xmm1, xmm2",
            "movq {all}, xmm0",
            "movq {any}, xmm1",
            end = in(reg) pairs.end,
            left = inout(reg) pairs.bytes.wrapping_neg() => _,
            all = lateout(reg) all,
            any = lateout(reg) any,
            out("xmm0") _, out("xmm1") _, out("xmm2") _,
            options(nostack, readonly),
        );
    }
    (all, any)
}

/// Stores `value`, `value + step`, ...
///
/// # Safety
///
/// The pairs lie in one table whose memory stays.
#[inline(always)]
pub(super) unsafe fn fill(pairs: Pairs, value: u64, step: u64) {
    // SAFETY: writes aligned pairs from `end - bytes` to `end`, which lie in the
    // table as promised, and nothing else.
    unsafe {
        asm!(
            // xmm0: value and value + step; xmm2: two steps each.
            "movq xmm0, {value}",
            "movq xmm1, {next}",
            "punpcklqdq xmm0, xmm1",
            "movq xmm2, {two}",
            "punpcklqdq xmm2, xmm2",
            "add {left}, 128",
            "jg 3f",
            // xmm1: the pair after xmm0; xmm3: four steps each.
            "movdqa xmm1, xmm0",
            "paddq xmm1, xmm2",
            "movdqa xmm3, xmm2",
            "paddq xmm3, xmm2",
            "2:",
            "movdqa [{end} + {left} - 128], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{end} + {left} - 112], xmm1",
            "paddq xmm1, xmm3",
            "movdqa [{end} + {left} - 96], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{end} + {left} - 80], xmm1",
            "paddq xmm1, xmm3",
            "movdqa [{end} + {left} - 64], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{end} + {left} - 48], xmm1",
            "paddq xmm1, xmm3",
            "movdqa [{end} + {left} - 32], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{end} + {left} - 16], xmm1",
            "paddq xmm1, xmm3",
            "add {left}, 128",
            "jle 2b",
            "3:",
            "sub {left}, 128",
            "jz 5f",
            "4:",
            "movdqa [{end} + {left}], xmm0",
            "paddq xmm0, xmm2",
            "add {left}, 16",
            "jnz 4b",
            "5:",
            end = in(reg) pairs.end,
            left = inout(reg) pairs.bytes.wrapping_neg() => _,
            value = in(reg) value,
            next = in(reg) value.wrapping_add(step),
            two = in(reg) step << 1,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nostack),
        );
    }
}

/// Stores zeros.
///
/// # Safety
///
/// The pairs lie in one table whose memory stays.
#[inline(always)]
pub(super) unsafe fn clear(pairs: Pairs) {
    // SAFETY: as in `fill`.
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
            end = in(reg) pairs.end,
            left = inout(reg) pairs.bytes.wrapping_neg() => _,
            out("xmm0") _,
            options(nostack),
        );
    }
}
