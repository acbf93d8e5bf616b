//! Bit and byte sets of 64: free pages of a word, orders of a node's children.

/// What a byte says of a word or child: 0 for nothing free, else one more than
/// the order (base-2 logarithm of the length) of its largest free run that is
/// aligned to its own length.
pub(super) type OrderByte = u8;

/// Bits that are multiples of `1 << j`.
const MULTIPLES: [u64; 7] = [
    !0,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// The multiples of `1 << lg2`; bit 0 alone where that is beyond 64.
#[inline]
pub(super) fn multiples(lg2: u32) -> u64 {
    MULTIPLES[lg2.min(6) as usize]
}

/// The bits at which a run of `1 << order` set bits starts; not aligned yet.
#[inline]
fn runs(mut set: u64, order: u32) -> u64 {
    debug_assert!(order <= 6);
    for step in 0..order {
        set &= set >> (1 << step);
    }
    set
}

/// The bits at which an aligned run of `1 << order` set bits starts.
#[inline]
pub(super) fn aligned_runs(set: u64, order: u32) -> u64 {
    runs(set, order) & multiples(order)
}

/// The order byte of a word.
#[inline]
pub(super) fn order_byte(mut set: u64) -> OrderByte {
    if set == !0 {
        return 7;
    }
    if set == 0 {
        return 0;
    }
    let mut byte = 1;
    for order in 0..5 {
        set &= set >> (1 << order);
        set &= MULTIPLES[order + 1];
        if set == 0 {
            break;
        }
        byte += 1;
    }
    byte
}

/// A mask of bits `low..high`; `low <= high <= 64`.
#[inline]
pub(super) fn span(low: u32, high: u32) -> u64 {
    debug_assert!(low <= high && high <= 64);
    below(high) & !below(low)
}

/// A mask of the lowest `count` bits; all for 64 and above.
#[inline]
pub(super) fn below(count: u32) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

/// The children whose byte is at least `least`.
#[inline]
pub(super) fn at_least(bytes: &[OrderByte; 64], least: OrderByte) -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_loadu_si128, _mm_max_epu8, _mm_movemask_epi8, _mm_set1_epi8,
        };
        let mut mask = 0;
        for quarter in 0..4 {
            // SAFETY: 16 bytes from `quarter * 16` on lie inside the 64 of the
            // array, the load needs no alignment, and x86-64 has SSE2.
            let bits = unsafe {
                let four = _mm_loadu_si128(bytes.as_ptr().add(quarter * 16).cast());
                let least = _mm_set1_epi8(least as i8);
                _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(four, least), four))
            };
            mask |= u64::from(bits as u32) << (quarter * 16);
        }
        mask
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    at_least_plain(bytes, least)
}

/// The largest byte.
#[inline]
pub(super) fn largest(bytes: &[OrderByte; 64]) -> OrderByte {
    // LLVM vectorises this one by itself.
    bytes.iter().fold(0, |most, &byte| most.max(byte))
}

#[cfg(any(test, not(all(target_arch = "x86_64", not(miri)))))]
fn at_least_plain(bytes: &[OrderByte; 64], least: OrderByte) -> u64 {
    let mut mask = 0;
    for (child, &byte) in bytes.iter().enumerate() {
        mask |= u64::from(byte >= least) << child;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order_byte_by_definition(set: u64) -> u8 {
        (0..=6u32)
            .rev()
            .find(|&order| {
                (0..64)
                    .step_by(1 << order)
                    .any(|at| set & span(at, at + (1 << order)) == span(at, at + (1 << order)))
            })
            .map_or(0, |order| order as u8 + 1)
    }

    fn samples() -> impl Iterator<Item = u64> {
        let mut seed = 7u64;
        (0..2000u32).map(move |i| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let word = seed ^ (seed >> 29);
            match i % 5 {
                0 => word,
                1 => word | (word << 1) | (word << 2) | (word << 3),
                2 => !(1 << (word >> 58)),
                3 => span((word >> 58) as u32 / 2, 32 + ((word >> 52) & 31) as u32),
                _ => word & (word << 7) & (word >> 5),
            }
        })
    }

    #[test]
    fn order_bytes_match_their_definition() {
        for set in samples().chain([0, !0, 1, 1 << 63]) {
            assert_eq!(order_byte(set), order_byte_by_definition(set), "{set:#x}");
            for order in 0..=6 {
                let most = 63 - aligned_runs(set, order).leading_zeros() as i32;
                let by_definition = (0..64i32).step_by(1 << order).rfind(|&at| {
                    let run = span(at as u32, at as u32 + (1 << order));
                    set & run == run
                });
                assert_eq!(most, by_definition.unwrap_or(-1));
            }
        }
    }

    #[test]
    fn byte_masks_match_the_plain_ones() {
        let mut bytes = [0u8; 64];
        for (i, word) in samples().enumerate() {
            bytes[i % 64] = (word >> 57) as u8;
            let least = (word >> 20) as u8 & 0x7f;
            assert_eq!(at_least(&bytes, least), at_least_plain(&bytes, least));
            assert_eq!(largest(&bytes), bytes.into_iter().max().unwrap());
        }
    }
}
