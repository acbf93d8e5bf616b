//! The walk of the hot paths: down to one table, as long as nothing on the way
//! needs attention.

use dmabench_platform::{PhysAddr, sync::atomic::Ordering};

use crate::{Format, PageTable, TableMemory, table::Table};

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// The table for `off` whose entries span `1 << target`, and the index in
    /// it, if every descriptor on the way is there and needs no attention.
    ///
    /// The caller holds a guard of `self.slots`, and `off` is at most `ia_mask`.
    /// `PLAIN` only where the table [is](Self::is_plain).
    #[inline(always)]
    pub(crate) fn descend_as<const PLAIN: bool>(
        &self,
        off: u64,
        target: u32,
    ) -> Option<(Table, usize)> {
        debug_assert!(!PLAIN || self.is_plain());
        if PLAIN {
            let in_service = |d| Self::without(d, Self::PLAIN_WANT);
            return self.descend_from(Self::PLAIN_TOP, off, target, in_service);
        }
        let in_service = |d| Self::without(d, self.table_want);
        if self.top_shift == Self::PLAIN_TOP {
            self.descend_from(Self::PLAIN_TOP, off, target, in_service)
        } else {
            self.descend_from(self.top_shift, off, target, in_service)
        }
    }

    /// [`descend_as`](Self::descend_as) in any table.
    #[inline(always)]
    pub(crate) fn descend(&self, off: u64, target: u32) -> Option<(Table, usize)> {
        if self.is_plain() {
            self.descend_as::<true>(off, target)
        } else {
            self.descend_as::<false>(off, target)
        }
    }

    /// As [`descend`](Self::descend), for a range whose tables this section has
    /// found or made: `reclaim` may look at them meanwhile, but not take them.
    #[inline(always)]
    pub(crate) fn descend_prepared(&self, off: u64, target: u32) -> Option<(Table, usize)> {
        if self.is_plain() {
            return self.descend_from(Self::PLAIN_TOP, off, target, Self::points_to_table);
        }
        self.descend_from(self.top_shift, off, target, Self::points_to_table)
    }

    /// The address in a table descriptor that has `want` besides it and nothing
    /// else.
    #[inline(always)]
    pub(crate) fn without(descriptor: u64, want: u64) -> Option<u64> {
        let wanted = descriptor & !F::TABLE_ADDRESS == want;
        // The subtraction is part of the next access's address: a cycle less
        // for each level than with a mask, or with the test on the difference.
        let address = descriptor.wrapping_sub(want);
        wanted.then_some(if F::ADDRESS_IN_PLACE {
            address
        } else {
            F::decode_oa(address)
        })
    }

    /// The address in any table descriptor that the walker uses.
    #[inline(always)]
    fn points_to_table(descriptor: u64) -> Option<u64> {
        Self::is_table(descriptor).then_some(F::decode_oa(descriptor))
    }

    /// Follows descriptors for which `address` has an answer, from the root,
    /// whose entries span `1 << top`, to the table whose entries span
    /// `1 << target`. It has one for table descriptors alone: the address in them.
    #[inline(always)]
    fn descend_from(
        &self,
        top: u32,
        off: u64,
        target: u32,
        address: impl Fn(u64) -> Option<u64>,
    ) -> Option<(Table, usize)> {
        let mut table = self.root;
        let mut shift = top;
        let mut index = (off >> shift) as usize;
        while shift > target {
            // SAFETY: the caller is in a section, and the index is in bounds:
            // of the root because `off` is, of others by the mask.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Acquire);
            let phys = PhysAddr(address(descriptor)?);
            // SAFETY: from a valid table descriptor, read in the section, which
            // keeps the table; it was made by `install` from a table of this
            // memory.
            table = Table::new(unsafe { self.pool.memory.phys_to_ptr(phys) });
            shift -= F::INDEX_BITS;
            index = (off >> shift) as usize & (Self::ENTRIES - 1);
        }
        Some((table, index))
    }
}
