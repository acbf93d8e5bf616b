//! One entry at a time with relaxed atomics.

use dmabench_platform::sync::atomic::Ordering;

use crate::table::Table;

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
        unsafe { self.and_or_all(table, first, count) }.1 == 0
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
        let mut common = u64::MAX;
        for index in first..first + count {
            // SAFETY: the caller promises that the entry is in the table.
            common &= unsafe { table.entry(index) }.load(Ordering::Relaxed);
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
        let mut value = descriptor;
        for index in first..first + count {
            // SAFETY: the caller promises that the entry is in the table.
            unsafe { table.entry(index) }.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        }
    }

    /// Stores zero into `count` entries.
    ///
    /// # Safety
    ///
    /// The entries lie in the table, and there is at least one.
    #[inline(always)]
    pub(crate) unsafe fn clear(self, table: Table, first: usize, count: usize) {
        for index in first..first + count {
            // SAFETY: the caller promises that the entry is in the table.
            unsafe { table.entry(index) }.store(0, Ordering::Relaxed);
        }
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
