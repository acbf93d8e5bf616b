//! Runs of neighbouring entries in one table: look at them, fill them, clear
//! them. This is where a map of many pages spends its time.
//!
//! LLVM does not vectorise atomic accesses, so on x86-64 the loops are inline
//! assembly over pairs of entries (SSE2, part of the baseline), and over four with
//! the crate feature `avx2` on a CPU that has it. Elsewhere, under loom, shuttle
//! and Miri, and with the feature `scalar`, they are relaxed atomics one by one.
//!
//! Measured and not done: non-temporal stores (the entries are read again by the
//! unmap), `swap` per entry on unmap (680 ns for 128 pages), a loop unrolled by
//! hand over atomics (gains nothing). On Zen 3, for 512 entries: two of three
//! 16-byte stores and two 8-byte ones per line, to use both store ports (the
//! cache takes 16 bytes a cycle either way: 81 ns as before, and 228 instead of
//! 215 ns with the checks, whose loads then wait for half stores); `rep stosq` to
//! clear (61 instead of 80 ns for 512, but 31 instead of 21 for 128, and callgrind
//! counts each entry).

#[cfg(all(
    target_arch = "x86_64",
    target_feature = "sse2",
    feature = "avx2",
    not(any(loom, shuttle, miri, feature = "scalar"))
))]
mod avx2;
#[cfg(all(
    target_arch = "x86_64",
    target_feature = "sse2",
    feature = "avx2",
    not(any(loom, shuttle, miri, feature = "scalar"))
))]
mod cpu;
mod scalar;
#[cfg(all(
    target_arch = "x86_64",
    target_feature = "sse2",
    not(any(loom, shuttle, miri, feature = "scalar"))
))]
mod sse2;
#[cfg(all(
    target_arch = "x86_64",
    target_feature = "sse2",
    not(any(loom, shuttle, miri, feature = "scalar"))
))]
mod x86_64;

#[cfg(not(all(
    target_arch = "x86_64",
    target_feature = "sse2",
    not(any(loom, shuttle, miri, feature = "scalar"))
)))]
pub(crate) use scalar::Lanes;
#[cfg(all(
    target_arch = "x86_64",
    target_feature = "sse2",
    not(any(loom, shuttle, miri, feature = "scalar"))
))]
pub(crate) use x86_64::Lanes;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use alloc::{alloc::alloc_zeroed, vec::Vec};
    use core::{alloc::Layout, ptr::NonNull};

    use super::{Lanes, scalar};
    use crate::table::Table;
    use dmabench_platform::sync::atomic::Ordering;

    const ENTRIES: usize = 64;

    fn table() -> Table {
        let layout = Layout::from_size_align(ENTRIES * 8, 64).unwrap();
        // SAFETY: the size is not zero. Leaked: the test is short.
        Table::new(
            NonNull::new(unsafe { alloc_zeroed(layout) })
                .unwrap()
                .cast(),
        )
    }

    fn content(table: Table) -> Vec<u64> {
        // SAFETY: the table has so many entries and is never freed.
        let read = |i| unsafe { table.entry(i) }.load(Ordering::Relaxed);
        (0..ENTRIES).map(read).collect()
    }

    /// Every start and length, against one entry at a time: same entries, and
    /// not one beyond.
    #[test]
    fn lanes_do_what_scalar_does() {
        let (fast, slow) = (Lanes::detect(), scalar::Lanes::detect());
        let (a, b) = (table(), table());
        for first in 0..ENTRIES {
            for count in 1..=ENTRIES - first {
                // SAFETY: in bounds by the loops.
                unsafe {
                    fast.fill(a, first, count, 0xec3 + (7 << 12), 1 << 12);
                    slow.fill(b, first, count, 0xec3 + (7 << 12), 1 << 12);
                    assert_eq!(content(a), content(b));
                    assert_eq!(fast.and_all(a, first, count), slow.and_all(b, first, count));
                    let (all, any) = fast.and_or_all(a, first, count);
                    assert_eq!((all, any), slow.and_or_all(b, first, count));
                    assert_eq!(all, fast.and_all(a, first, count));
                    assert!(!fast.all_zero(a, first, count));
                    for hole in [first, first + count / 2, first + count - 1] {
                        let was = a.entry(hole).swap(0, Ordering::Relaxed);
                        assert_eq!(fast.and_all(a, first, count), 0);
                        assert_eq!(fast.and_or_all(a, first, count).0, 0);
                        a.entry(hole).store(was, Ordering::Relaxed);
                    }
                    if (first | count) & 1 == 0 {
                        assert_eq!(fast.and_all_even(a, first, count), all);
                        assert!(!fast.all_zero_even(a, first, count));
                        fast.clear_even(a, first, count);
                        assert!(fast.all_zero_even(a, first, count));
                        assert!(fast.all_zero(a, 0, ENTRIES));
                        for mark in [first, first + count - 1] {
                            a.entry(mark).store(1 << 63, Ordering::Relaxed);
                            assert!(!fast.all_zero_even(a, first, count));
                            assert_eq!(fast.and_all_even(a, first, count), 0);
                            a.entry(mark).store(0, Ordering::Relaxed);
                        }
                        fast.fill_even(a, first, count, 0xec3 + (7 << 12), 1 << 12);
                        assert_eq!(content(a), content(b));
                    }
                    fast.clear(a, first, count);
                    slow.clear(b, first, count);
                    assert!(fast.all_zero(a, 0, ENTRIES) && slow.all_zero(b, 0, ENTRIES));
                    for mark in [first, first + count / 2, first + count - 1] {
                        a.entry(mark).store(1 << 63, Ordering::Relaxed);
                        assert!(!fast.all_zero(a, first, count));
                        assert_eq!(fast.and_or_all(a, first, count).1, 1 << 63);
                        a.entry(mark).store(0, Ordering::Relaxed);
                    }
                    if first > 0 {
                        a.entry(first - 1).store(1, Ordering::Relaxed);
                        assert!(fast.all_zero(a, first, count));
                        a.entry(first - 1).store(0, Ordering::Relaxed);
                    }
                }
                assert_eq!(content(a), content(b));
            }
        }
    }
}
