//! Asking where an address goes.

use dmabench_platform::{Iova, PhysAddr, SlotGuard, sync::atomic::Ordering};

use crate::{Format, Level, PageTable, Prot, TableMemory, format::CONTIGUOUS};

/// What an address translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Translation {
    /// The output address of the very byte asked for.
    pub paddr: PhysAddr,
    /// Size of the page or block, in bytes; of the whole run where the
    /// contiguous hint is set.
    pub page_bytes: u64,
    /// The level of the entry.
    pub level: Level,
    /// Whether the entry has the contiguous hint.
    pub contiguous: bool,
    /// What it allows.
    pub prot: Prot,
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// What `iova` translates to, or `None` where nothing is mapped (or the
    /// guard is of another slot table). Runs beside everything else.
    #[inline(always)]
    pub fn translate(&self, slot: &SlotGuard<'_>, iova: Iova) -> Option<Translation> {
        if !self.is_plain_for(slot) {
            return self.translate_other(slot, iova);
        }
        let off = iova.0;
        if off > Self::PLAIN_MASK {
            return None;
        }
        if let Some((table, index)) = self.descend_as::<true>(off, F::PAGE_LG2) {
            // SAFETY: in a section of our slots; the index is in bounds by its mask.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Acquire);
            return Self::is_leaf(descriptor, F::PAGE_LG2)
                .then(|| Self::translation(descriptor, F::PAGE_LG2, off));
        }
        self.translate_any(off)
    }

    /// In a table that is not [plain](Self::is_plain).
    #[inline(never)]
    fn translate_other(&self, slot: &SlotGuard<'_>, iova: Iova) -> Option<Translation> {
        let off = iova.0.wrapping_sub(self.base);
        if off > self.ia_mask || !self.guard_is_ours(slot) {
            return None;
        }
        self.translate_any(off)
    }

    /// Any first level, any leaf.
    ///
    /// The caller holds a guard of `self.slots`, and `off` is at most `ia_mask`.
    #[inline(never)]
    fn translate_any(&self, off: u64) -> Option<Translation> {
        let mut table = self.root;
        let mut shift = self.top_shift;
        let mut index = (off >> shift) as usize;
        loop {
            // SAFETY: in a section of our slots; the index is in bounds: of the
            // root because `off` is, of others by the mask.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Acquire);
            if shift == F::PAGE_LG2 || !Self::is_table(descriptor) {
                return Self::is_leaf(descriptor, shift)
                    .then(|| Self::translation(descriptor, shift, off));
            }
            // SAFETY: a valid table descriptor, read in the section.
            table = unsafe { self.child(descriptor) };
            shift -= F::INDEX_BITS;
            index = (off >> shift) as usize & (Self::ENTRIES - 1);
        }
    }

    /// The output address of `iova` alone: what [`translate`](Self::translate)
    /// says, without decoding the rest.
    #[inline(always)]
    pub fn translate_phys(&self, slot: &SlotGuard<'_>, iova: Iova) -> Option<PhysAddr> {
        let off = iova.0;
        if self.is_plain_for(slot)
            && off <= Self::PLAIN_MASK
            && let Some((table, index)) = self.descend_as::<true>(off, F::PAGE_LG2)
        {
            // SAFETY: in a section of our slots; the index is in bounds by its mask.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Acquire);
            let leaf = Self::is_leaf(descriptor, F::PAGE_LG2);
            let paddr = F::decode_oa(descriptor) | off & Self::PAGE_MASK;
            return leaf.then_some(PhysAddr(paddr));
        }
        self.translate_phys_other(slot, iova)
    }

    #[inline(never)]
    fn translate_phys_other(&self, slot: &SlotGuard<'_>, iova: Iova) -> Option<PhysAddr> {
        self.translate_other(slot, iova).map(|found| found.paddr)
    }

    #[inline(always)]
    pub(crate) fn translation(descriptor: u64, shift: u32, off: u64) -> Translation {
        let level = Self::level_of(shift);
        let contiguous = descriptor & CONTIGUOUS != 0;
        let run_lg2 = if contiguous {
            F::contiguous_lg2(level)
        } else {
            0
        };
        let inside = (1 << shift) - 1;
        Translation {
            paddr: PhysAddr(F::decode_oa(descriptor) & !inside | off & inside),
            page_bytes: 1 << (shift + run_lg2),
            level,
            contiguous,
            prot: F::prot(descriptor),
        }
    }
}
