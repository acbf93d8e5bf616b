//! Finding the region of an address among many: registered memory may be one
//! arena or a hundred thousand scattered pages.
//!
//! A binary search over 32,768 pages misses the caches half a dozen times, and a
//! list of pages pays that for each of them. So the span from the first region to
//! the last is cut into about twice as many buckets of equal size as there are
//! regions; a bucket says where its regions begin, and a short binary search does
//! the rest. Where regions crowd into few buckets it is a binary search again.

use alloc::vec::Vec;

use dmabench_platform::PhysAddr;

/// Sorted first addresses.
pub(super) struct Search {
    firsts: Vec<PhysAddr>,
    /// The lowest of them.
    base: u64,
    /// Bucket of an address: its distance from `base`, shifted down by this.
    shift: u32,
    /// For each bucket, how many regions begin before it; one more at the end.
    buckets: Vec<u32>,
}

impl Search {
    /// `firsts` is sorted, and shorter than 2^31.
    pub(super) fn new(firsts: Vec<PhysAddr>) -> Self {
        let base = firsts.first().map_or(0, |first| first.0);
        let span = firsts.last().map_or(0, |last| last.0 - base);
        let wanted = 2 * firsts.len().next_power_of_two() as u64;
        // The smallest shift that leaves no more buckets than wanted.
        let bits = u64::BITS - (span / wanted).leading_zeros();
        let shift = bits.min(u64::BITS - 1);
        let count = (span >> shift) + 1;
        let mut buckets = Vec::with_capacity(count as usize + 1);
        let mut before = 0;
        for bucket in 0..=count {
            while firsts
                .get(before)
                .is_some_and(|first| (first.0 - base) >> shift < bucket)
            {
                before += 1;
            }
            buckets.push(before as u32);
        }
        Search {
            firsts,
            base,
            shift,
            buckets,
        }
    }

    /// The place of the last region that begins at or before `phys`.
    #[inline]
    pub(super) fn last_before(&self, phys: PhysAddr) -> Option<usize> {
        let distance = phys.0.checked_sub(self.base)?;
        // Behind the last bucket: as at its end.
        let bucket = (distance >> self.shift).min(self.buckets.len() as u64 - 2) as usize;
        let (from, to) = (
            self.buckets[bucket] as usize,
            self.buckets[bucket + 1] as usize,
        );
        let inside = self.firsts[from..to].partition_point(|first| *first <= phys);
        (from + inside).checked_sub(1)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(firsts: &[u64], at: u64) {
        let search = Search::new(firsts.iter().map(|first| PhysAddr(*first)).collect());
        let expected = firsts.iter().rposition(|first| *first <= at);
        assert_eq!(
            search.last_before(PhysAddr(at)),
            expected,
            "{firsts:x?} {at:#x}"
        );
    }

    #[test]
    fn ends_of_the_space() {
        for firsts in [
            &[][..],
            &[0],
            &[u64::MAX],
            &[0, u64::MAX],
            &[0x1000, 0x2000, u64::MAX - 1],
        ] {
            for at in [0, 1, 0x1000, 0x1fff, 0x2000, u64::MAX - 1, u64::MAX] {
                check(firsts, at);
            }
        }
    }

    proptest! {
        #[test]
        fn as_a_linear_search(
            firsts in prop::collection::btree_set(
                prop_oneof![0_u64..5000, any::<u64>(), (0_u64..64).prop_map(|bit| 1 << bit)],
                0..60,
            ),
            near in any::<prop::sample::Index>(),
            off in -2_i64..3,
        ) {
            let firsts: Vec<u64> = firsts.into_iter().collect();
            if !firsts.is_empty() {
                check(&firsts, near.get(&firsts).wrapping_add_signed(off));
            }
            check(&firsts, off.unsigned_abs());
        }
    }
}
