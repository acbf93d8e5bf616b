//! One entry at a time with relaxed atomics. LLVM unrolls such loops here and does
//! not there (a pair of 128 pages: 2,692 instructions, of 512: 5,045), so they are
//! written in eights.

use dmabench_platform::sync::atomic::{AtomicU64, Ordering};

use crate::table::Table;

/// Entries in one turn of a loop.
const EIGHT: usize = 8;

/// `fold` over the entries, in any order.
#[inline(always)]
fn fold(entries: &[AtomicU64], first: u64, op: impl Fn(u64, u64) -> u64) -> u64 {
    let (eights, rest) = entries.as_chunks::<EIGHT>();
    let mut result = first;
    for eight in eights {
        for entry in eight {
            result = op(result, entry.load(Ordering::Relaxed));
        }
    }
    for entry in rest {
        result = op(result, entry.load(Ordering::Relaxed));
    }
    result
}

/// How many entries one access takes: one.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) struct Lanes(());

#[allow(
    dead_code,
    reason = "elsewhere the tests compare with it, by some of these"
)]
impl Lanes {
    /// What every CPU can do.
    pub(crate) const BASELINE: Lanes = Lanes(());

    /// What this CPU can do.
    pub(crate) fn detect() -> Self {
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
        fold(unsafe { table.entries(first, count) }, 0, |a, b| a | b) == 0
    }

    /// The bits that all, and those that any of `count` entries from `first` on
    /// have.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn and_or_all(self, table: Table, first: usize, count: usize) -> (u64, u64) {
        let (mut common, mut any) = (u64::MAX, 0);
        for index in first..first + count {
            // SAFETY: the caller promises that the entry is in the table.
            let entry = unsafe { table.entry(index) }.load(Ordering::Relaxed);
            common &= entry;
            any |= entry;
        }
        (common, any)
    }

    /// The bits that `count` entries from `first` on have in common.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn and_all(self, table: Table, first: usize, count: usize) -> u64 {
        // SAFETY: as promised.
        fold(unsafe { table.entries(first, count) }, u64::MAX, |a, b| {
            a & b
        })
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
        // SAFETY: as promised.
        let (eights, rest) = unsafe { table.entries(first, count) }.as_chunks::<EIGHT>();
        let mut value = descriptor;
        let mut store = |entry: &AtomicU64| {
            entry.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        };
        for eight in eights {
            eight.iter().for_each(&mut store);
        }
        rest.iter().for_each(store);
    }

    /// Stores zero into `count` entries.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn clear(self, table: Table, first: usize, count: usize) {
        // SAFETY: as promised.
        let (eights, rest) = unsafe { table.entries(first, count) }.as_chunks::<EIGHT>();
        let clear = |entry: &AtomicU64| entry.store(0, Ordering::Relaxed);
        for eight in eights {
            eight.iter().for_each(clear);
        }
        rest.iter().for_each(clear);
    }

    // Runs of an even number of entries from an even one on: no different here.

    /// [`all_zero`](Self::all_zero).
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn all_zero_even(self, table: Table, first: usize, count: usize) -> bool {
        // SAFETY: as promised.
        unsafe { self.all_zero(table, first, count) }
    }

    /// [`and_all`](Self::and_all).
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn and_all_even(self, table: Table, first: usize, count: usize) -> u64 {
        // SAFETY: as promised.
        unsafe { self.and_all(table, first, count) }
    }

    /// [`fill`](Self::fill).
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn fill_even(
        self,
        table: Table,
        first: usize,
        count: usize,
        descriptor: u64,
        step: u64,
    ) {
        // SAFETY: as promised.
        unsafe { self.fill(table, first, count, descriptor, step) };
    }

    /// [`clear`](Self::clear).
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn clear_even(self, table: Table, first: usize, count: usize) {
        // SAFETY: as promised.
        unsafe { self.clear(table, first, count) };
    }
}
