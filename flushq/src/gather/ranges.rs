//! A few ranges, inline.

use core::mem::MaybeUninit;

use dmabench_pgtable::Level;
use dmabench_platform::{Granule, Iova};

use crate::TlbRange;

#[inline]
fn leaves(iova: Iova, len_bytes: u64, granule: Granule, level: Level) -> TlbRange {
    TlbRange {
        iova,
        len_bytes,
        granule,
        level: Some(level),
        leaf_only: true,
    }
}

/// Ranges kept apart. An unmap of one mapping gives one range for each change
/// of level: a run of pages, a run of blocks, a run of pages.
pub(super) const INLINE: usize = 4;

pub(super) struct Ranges {
    /// At most `INLINE`; the first `len` items are initialised.
    len: usize,
    /// Not zeroed: that would cost more than all else a small unmap gathers.
    items: MaybeUninit<[TlbRange; INLINE]>,
}

impl Ranges {
    #[inline]
    pub(super) fn new() -> Self {
        let mut ranges = MaybeUninit::<Self>::uninit();
        // Not `Ranges { len: 0, items: uninit() }`: the compiler makes a
        // constant of that, and copies its (zero) bytes.
        // SAFETY: `len` is a place inside `ranges`; after it is written, every
        // field is initialised, as `items` need not be.
        unsafe {
            (&raw mut (*ranges.as_mut_ptr()).len).write(0);
            ranges.assume_init()
        }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[TlbRange] {
        debug_assert!(self.len <= INLINE);
        // SAFETY: the first `len` items of the array are initialised, and `len`
        // is at most its length.
        unsafe { core::slice::from_raw_parts(self.items.as_ptr().cast(), self.len) }
    }

    #[inline]
    fn write(&mut self, index: usize, range: TlbRange) {
        assert!(index < INLINE);
        // SAFETY: the place is inside the array, which is ours.
        unsafe {
            self.items
                .as_mut_ptr()
                .cast::<TlbRange>()
                .add(index)
                .write(range);
        }
    }

    /// # Panics
    ///
    /// If `index` is not below `len`.
    fn set(&mut self, index: usize, range: TlbRange) {
        assert!(index < self.len);
        self.write(index, range);
    }

    /// Adds the leaves of one level; from now on the ranges cover them.
    ///
    /// In parts, so that the first range of a gather, mostly the only one, is
    /// written where it stays.
    #[inline]
    pub(super) fn add_leaves(
        &mut self,
        iova: Iova,
        len_bytes: u64,
        granule: Granule,
        level: Level,
    ) {
        if self.len == 0 {
            self.write(0, leaves(iova, len_bytes, granule, level));
            self.len = 1;
        } else {
            self.add_more_leaves(iova, len_bytes, granule, level);
        }
    }

    #[inline(never)]
    fn add_more_leaves(&mut self, iova: Iova, len_bytes: u64, granule: Granule, level: Level) {
        self.add(leaves(iova, len_bytes, granule, level));
    }

    /// Adds `new`; from now on the ranges cover it.
    pub(super) fn add(&mut self, new: TlbRange) {
        // The latest first: walks go upwards.
        for index in (0..self.len).rev() {
            let old = self.as_slice()[index];
            if old.covers(&new) {
                return;
            }
            // Ends that meet are joined where no precision is lost. With a
            // table of the same addresses its leaves ride along: the table's
            // invalidation has no level and takes them too.
            let same = old.level == new.level && old.leaf_only == new.leaf_only;
            let table = !old.leaf_only || !new.leaf_only;
            if (same || table) && old.touches(&new) {
                self.set(index, old.hull(&new));
                return;
            }
        }
        if self.len < INLINE {
            self.write(self.len, new);
            self.len += 1;
        } else {
            self.widen(new);
        }
    }

    /// Joins `new` with the range that grows least.
    #[cold]
    fn widen(&mut self, new: TlbRange) {
        let (index, hull) = self
            .as_slice()
            .iter()
            .map(|old| (old, old.hull(&new)))
            .enumerate()
            .min_by_key(|(_, (old, hull))| hull.len_bytes - old.len_bytes)
            .map(|(index, (_, hull))| (index, hull))
            .expect("a full list is not empty");
        self.set(index, hull);
    }
}
