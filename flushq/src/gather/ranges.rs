//! A few ranges, inline, or as many as a list was made for.

use alloc::{boxed::Box, collections::TryReserveError, vec::Vec};
use core::mem::MaybeUninit;

use dmabench_pgtable::Level;
use dmabench_platform::{Granule, Iova};

use crate::{JoinCost, TlbRange};

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

/// Neither grows beyond the room it was made with.
struct List {
    ranges: Vec<TlbRange>,
    /// First address and bytes of what nobody uses.
    unused: Vec<(Iova, u64)>,
}

/// Of a list, so many of the latest are looked at for one to join: unmaps of a
/// batch go upwards. The rest is done when all are there.
const LATEST: usize = INLINE;

pub(super) struct Ranges {
    /// At most `INLINE`; the first `len` items are initialised.
    len: usize,
    /// Not zeroed: that would cost more than all else a small unmap gathers.
    items: MaybeUninit<[TlbRange; INLINE]>,
    /// In place of `items` where it was made with room. (Boxed: gathers are in
    /// errors, which are large enough.)
    list: Option<Box<List>>,
    /// Bytes that were joined in between and not asked for.
    over_bytes: u64,
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
            (&raw mut (*ranges.as_mut_ptr()).list).write(None);
            (&raw mut (*ranges.as_mut_ptr()).over_bytes).write(0);
            ranges.assume_init()
        }
    }

    /// With room for `count` ranges, if that is more than there is inline.
    pub(super) fn with_room(count: usize) -> Result<Self, TryReserveError> {
        let mut ranges = Ranges::new();
        if count > INLINE {
            let mut list = List {
                ranges: Vec::new(),
                unused: Vec::new(),
            };
            list.ranges.try_reserve_exact(count)?;
            list.unused.try_reserve_exact(count)?;
            ranges.list = Some(Box::new(list));
        }
        Ok(ranges)
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.len = 0;
        if let Some(list) = &mut self.list {
            list.ranges.clear();
            list.unused.clear();
        }
        self.over_bytes = 0;
    }

    /// Nobody uses these addresses. Forgotten where there is no room.
    pub(super) fn add_unused(&mut self, iova: Iova, len_bytes: u64) {
        if let Some(List { unused, .. }) = self.list.as_deref_mut()
            && unused.len() < unused.capacity()
        {
            unused.push((iova, len_bytes));
        }
    }

    /// Bytes covered that lie between ranges and were not asked for.
    pub(super) fn over_bytes(&self) -> u64 {
        self.over_bytes
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[TlbRange] {
        if let Some(list) = &self.list {
            return &list.ranges;
        }
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
        if let Some(list) = &mut self.list {
            list.ranges[index] = range;
        } else {
            assert!(index < self.len);
            self.write(index, range);
        }
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
        if self.len == 0 && self.list.is_none() {
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
        let len = self.as_slice().len();
        for index in (0..len).rev().take(LATEST) {
            let old = self.as_slice()[index];
            if old.covers(&new) {
                return;
            }
            if let Some(both) = joined(&old, &new) {
                self.set(index, both);
                return;
            }
        }
        match &mut self.list {
            // It does not allocate, whatever an unmap adds beyond the room.
            Some(list) if len < list.ranges.capacity() => list.ranges.push(new),
            None if len < INLINE => {
                self.write(len, new);
                self.len += 1;
            }
            _ => self.widen(new),
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
        self.over_bytes += gap_bytes(&self.as_slice()[index], &new);
        self.set(index, hull);
    }

    /// The ranges of a list, all of which are there, as `cost` would have them:
    /// upwards, joined where they meet, and over a gap where that pays.
    pub(super) fn settle(&mut self, cost: &JoinCost) {
        let Ranges {
            list, over_bytes, ..
        } = self;
        let Some(List {
            ranges: list,
            unused,
        }) = list.as_deref_mut()
        else {
            return;
        };
        list.sort_unstable_by_key(|range| range.iova);
        unused.sort_unstable();
        let (mut at, mut gaps) = (0, 0);
        // Of the bytes between the two, those that somebody may use. For ranges
        // that come upwards.
        let mut used_between = |last: &TlbRange, next: &TlbRange| {
            let mut used = gap_bytes(last, next);
            while let Some((iova, len_bytes)) = unused.get(at)
                && *iova < next.iova
            {
                let end = iova.0.saturating_add(*len_bytes).min(next.iova.0);
                let first = iova.0.max(last.last_byte().0.saturating_add(1));
                used = used.saturating_sub(end.saturating_sub(first));
                at += 1;
            }
            used
        };
        list.dedup_by(|next, last| {
            if last.covers(next) {
                return true;
            }
            if let Some(both) = joined(last, next) {
                *last = both;
                return true;
            }
            let (hull, used) = (last.hull(next), used_between(last, next));
            let pays = cost.pays(last, next, &hull, used);
            if pays {
                *last = hull;
                *over_bytes += used;
            } else {
                gaps += used;
            }
            pays
        });
        let Some((first, rest)) = list.split_first() else {
            return;
        };
        let hull = rest.iter().fold(*first, |hull, range| hull.hull(range));
        if cost.one_pays(list, &hull, gaps) || cost.too_many(list) {
            list.clear();
            list.push(hull);
            *over_bytes += gaps;
        }
    }
}

/// Ends that meet are joined where no precision is lost. With a table of the same
/// addresses its leaves ride along: the table's invalidation has no level and
/// takes them too.
fn joined(old: &TlbRange, new: &TlbRange) -> Option<TlbRange> {
    let same = old.level == new.level && old.leaf_only == new.leaf_only;
    let table = !old.leaf_only || !new.leaf_only;
    ((same || table) && old.touches(new)).then(|| old.hull(new))
}

/// Bytes between the two.
fn gap_bytes(one: &TlbRange, other: &TlbRange) -> u64 {
    let (low, high) = if one.iova <= other.iova {
        (one, other)
    } else {
        (other, one)
    };
    high.iova
        .0
        .saturating_sub(low.last_byte().0.saturating_add(1))
}
