//! Loops over pairs of entries, 16 bytes at a time: part of every x86-64.
//!
//! The first loop takes eight pairs at a time (four, where each is used twice),
//! the second what is left, one by one. Where the order does not matter they go
//! from the end down to the start: the bytes that are left are then the offset.

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
            // SAFETY: reads aligned pairs of the `bytes` from `start` on, which lie
            // in the table as promised, and writes nothing but its registers.
            unsafe {
                asm!(
                    concat!($init, " xmm0, xmm0"),
                    concat!($init, " xmm1, xmm1"),
                    "sub {left}, 128",
                    "jb 3f",
                    "2:",
                    concat!($op, " xmm0, [{start} + {left} + 112]"),
                    concat!($op, " xmm1, [{start} + {left} + 96]"),
                    concat!($op, " xmm0, [{start} + {left} + 80]"),
                    concat!($op, " xmm1, [{start} + {left} + 64]"),
                    concat!($op, " xmm0, [{start} + {left} + 48]"),
                    concat!($op, " xmm1, [{start} + {left} + 32]"),
                    concat!($op, " xmm0, [{start} + {left} + 16]"),
                    concat!($op, " xmm1, [{start} + {left}]"),
                    "sub {left}, 128",
                    "jae 2b",
                    "3:",
                    "add {left}, 128",
                    "jz 5f",
                    "4:",
                    concat!($op, " xmm0, [{start} + {left} - 16]"),
                    "sub {left}, 16",
                    "jnz 4b",
                    "5:",
                    concat!($op, " xmm0, xmm1"),
                    "pshufd xmm1, xmm0, 0xee",
                    concat!($op, " xmm0, xmm1"),
                    "movq {result}, xmm0",
                    start = in(reg) pairs.start,
                    left = inout(reg) pairs.bytes => _,
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

/// The bits that all entries have, and those that any has.
///
/// # Safety
///
/// The pairs lie in one table whose memory stays.
#[inline(always)]
pub(super) unsafe fn and_or(pairs: Pairs) -> (u64, u64) {
    let (all, any): (u64, u64);
    // SAFETY: reads aligned pairs of the `bytes` from `start` on, which lie in the
    // table as promised, and writes nothing but its registers.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0",
            "pxor xmm1, xmm1",
            "sub {left}, 64",
            "jb 3f",
            "2:",
            "pand xmm0, [{start} + {left} + 48]",
            "por xmm1, [{start} + {left} + 48]",
            "pand xmm0, [{start} + {left} + 32]",
            "por xmm1, [{start} + {left} + 32]",
            "pand xmm0, [{start} + {left} + 16]",
            "por xmm1, [{start} + {left} + 16]",
            "pand xmm0, [{start} + {left}]",
            "por xmm1, [{start} + {left}]",
            "sub {left}, 64",
            "jae 2b",
            "3:",
            "add {left}, 64",
            "jz 5f",
            "4:",
            "pand xmm0, [{start} + {left} - 16]",
            "por xmm1, [{start} + {left} - 16]",
            "sub {left}, 16",
            "jnz 4b",
            "5:",
            "pshufd xmm2, xmm0, 0xee",
            "pand xmm0, xmm2",
            "pshufd xmm2, xmm1, 0xee",
            "por xmm1, xmm2",
            "movq {all}, xmm0",
            "movq {any}, xmm1",
            start = in(reg) pairs.start,
            left = inout(reg) pairs.bytes => _,
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
    // SAFETY: writes aligned pairs of the `bytes` from `start` on, which lie in the
    // table as promised, and nothing else.
    unsafe {
        asm!(
            // xmm0: value and value + step; xmm2: two steps each.
            "movq xmm0, {value}",
            "movq xmm1, {next}",
            "punpcklqdq xmm0, xmm1",
            "movq xmm2, {two}",
            "punpcklqdq xmm2, xmm2",
            "sub {left}, 128",
            "jb 3f",
            // xmm1: the pair after xmm0; xmm3: four steps each.
            "movdqa xmm1, xmm0",
            "paddq xmm1, xmm2",
            "movdqa xmm3, xmm2",
            "paddq xmm3, xmm2",
            "2:",
            "movdqa [{at}], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{at} + 16], xmm1",
            "paddq xmm1, xmm3",
            "movdqa [{at} + 32], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{at} + 48], xmm1",
            "paddq xmm1, xmm3",
            "movdqa [{at} + 64], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{at} + 80], xmm1",
            "paddq xmm1, xmm3",
            "movdqa [{at} + 96], xmm0",
            "paddq xmm0, xmm3",
            "movdqa [{at} + 112], xmm1",
            "paddq xmm1, xmm3",
            "add {at}, 128",
            "sub {left}, 128",
            "jae 2b",
            "3:",
            "add {left}, 128",
            "jz 5f",
            "4:",
            "movdqa [{at}], xmm0",
            "paddq xmm0, xmm2",
            "add {at}, 16",
            "sub {left}, 16",
            "jnz 4b",
            "5:",
            at = inout(reg) pairs.start => _,
            left = inout(reg) pairs.bytes => _,
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
            "sub {left}, 128",
            "jb 3f",
            "2:",
            "movdqa [{start} + {left} + 112], xmm0",
            "movdqa [{start} + {left} + 96], xmm0",
            "movdqa [{start} + {left} + 80], xmm0",
            "movdqa [{start} + {left} + 64], xmm0",
            "movdqa [{start} + {left} + 48], xmm0",
            "movdqa [{start} + {left} + 32], xmm0",
            "movdqa [{start} + {left} + 16], xmm0",
            "movdqa [{start} + {left}], xmm0",
            "sub {left}, 128",
            "jae 2b",
            "3:",
            "add {left}, 128",
            "jz 5f",
            "4:",
            "movdqa [{start} + {left} - 16], xmm0",
            "sub {left}, 16",
            "jnz 4b",
            "5:",
            start = in(reg) pairs.start,
            left = inout(reg) pairs.bytes => _,
            out("xmm0") _,
            options(nostack),
        );
    }
}
