//! Bit fields.

/// `bits` bits of `word` from bit `low` on.
#[inline(always)]
pub(super) const fn get(word: u64, low: u32, bits: u32) -> u64 {
    word >> low & mask(bits)
}

/// Whether bit `at` is 1.
#[inline(always)]
pub(super) const fn bit(word: u64, at: u32) -> bool {
    word >> at & 1 != 0
}

/// `value` at bit `low`; what does not fit in `bits` bits is cut off, and a
/// debug build stops.
#[inline(always)]
pub(super) const fn put(value: u64, low: u32, bits: u32) -> u64 {
    debug_assert!(value & !mask(bits) == 0);
    (value & mask(bits)) << low
}

/// A flag at bit `at`.
#[inline(always)]
pub(super) const fn flag(value: bool, at: u32) -> u64 {
    (value as u64) << at
}

/// The lowest `bits` bits.
#[inline(always)]
pub(super) const fn mask(bits: u32) -> u64 {
    if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}

/// The bits from `low` to `high`, both included, in place.
pub(super) const fn span(high: u32, low: u32) -> u64 {
    mask(high - low + 1) << low
}
