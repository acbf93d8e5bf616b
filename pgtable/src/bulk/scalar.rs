//! One entry at a time with relaxed atomics: every instruction set, loom, Miri.

use crate::table::Table;
use dmabench_platform::sync::atomic::Ordering;

/// Whether `count` entries from `first` on are all zero.
///
/// # Safety
///
/// The entries lie in the table.
#[inline(always)]
pub(crate) unsafe fn all_zero(table: Table, first: usize, count: usize) -> bool {
    let mut any = 0;
    for index in first..first + count {
        // SAFETY: the caller promises that the entry is in the table.
        any |= unsafe { table.entry(index) }.load(Ordering::Relaxed);
    }
    any == 0
}

/// The bits that `count` entries from `first` on have in common.
///
/// # Safety
///
/// The entries lie in the table.
#[inline(always)]
pub(crate) unsafe fn and_all(table: Table, first: usize, count: usize) -> u64 {
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
/// The entries lie in the table.
#[inline(always)]
pub(crate) unsafe fn fill(table: Table, first: usize, count: usize, descriptor: u64, step: u64) {
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
/// The entries lie in the table.
#[inline(always)]
pub(crate) unsafe fn clear(table: Table, first: usize, count: usize) {
    for index in first..first + count {
        // SAFETY: the caller promises that the entry is in the table.
        unsafe { table.entry(index) }.store(0, Ordering::Relaxed);
    }
}
