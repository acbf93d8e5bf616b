//! Looking at entries: iteration, a dump for humans, checks of a range.

use core::fmt;

use dmabench_platform::{Iova, PhysAddr, SlotGuard, sync::atomic::Ordering};

use crate::{
    Format, Level, PageTable, Prot, TableMemory, Translation, UnmapError,
    format::{CONTIGUOUS, DBM},
    table::Table,
};

/// A leaf: a page, a block, or a contiguous run as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// First IOVA.
    pub iova: Iova,
    /// Where it goes.
    pub paddr: PhysAddr,
    /// Its size in bytes; of the whole run where the contiguous hint is set.
    pub len_bytes: u64,
    /// The level of the entry.
    pub level: Level,
    /// Whether it is a contiguous run.
    pub contiguous: bool,
    /// What it allows.
    pub prot: Prot,
    /// Whether it was written through; false without [`Quirks::ARM_HD`](crate::Quirks::ARM_HD).
    pub dirty: bool,
}

/// Iterator over the leaves of a range: see [`PageTable::entries`].
pub struct Entries<'a, F: Format, M: TableMemory> {
    table: &'a PageTable<F, M>,
    /// Keeps the tables alive.
    _slot: &'a SlotGuard<'a>,
    next: Option<u64>,
    last: u64,
}

impl<F: Format, M: TableMemory> Iterator for Entries<'_, F, M> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let off = self.next?;
            let (found, shift) = self.table.find(off);
            let Some((descriptor, ..)) = found else {
                self.step_to(self.table.nothing_up_to(off));
                continue;
            };
            let t = PageTable::<F, M>::translation(descriptor, shift, off);
            let start = off & !(t.page_bytes - 1);
            self.step_to(off | (t.page_bytes - 1));
            return Some(Entry {
                iova: self.table.iova(start),
                paddr: PhysAddr(t.paddr.0 - (off - start)),
                len_bytes: t.page_bytes,
                level: t.level,
                contiguous: t.contiguous,
                prot: t.prot,
                dirty: self.table.run_is_dirty(start, shift, &t),
            });
        }
    }
}

impl<F: Format, M: TableMemory> Entries<'_, F, M> {
    /// Goes on after `last_seen`.
    fn step_to(&mut self, last_seen: u64) {
        self.next = last_seen.checked_add(1).filter(|next| *next <= self.last);
    }
}

impl<F: Format, M: TableMemory> fmt::Debug for Entries<'_, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Prints what is mapped: see [`PageTable::dump`].
pub struct Dump<'a, F: Format, M: TableMemory> {
    table: &'a PageTable<F, M>,
    slot: &'a SlotGuard<'a>,
}

impl<F: Format, M: TableMemory> fmt::Display for Dump<'_, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let geometry = self.table.geometry();
        writeln!(
            f,
            "root {} level {} entries {}, {} bits in, {} out, granule {} KiB",
            self.table.registers().ttb,
            geometry.start,
            1_u64 << geometry.root_bits,
            self.table.config().ias,
            self.table.config().oas,
            F::GRANULE.bytes() / 1024,
        )?;
        let (first, last) = self.table.input_range();
        // Neighbours that only continue are printed as one line.
        let mut line: Option<(Entry, u64)> = None;
        for entry in self.table.entries(self.slot, first, last) {
            line = match line {
                Some((head, length))
                    if head.iova.0 + length == entry.iova.0
                        && head.paddr.0 + length == entry.paddr.0
                        && (head.level, head.contiguous, head.prot, head.dirty)
                            == (entry.level, entry.contiguous, entry.prot, entry.dirty) =>
                {
                    Some((head, length + entry.len_bytes))
                }
                Some((head, length)) => {
                    write_line(f, &head, length)?;
                    Some((entry, entry.len_bytes))
                }
                None => Some((entry, entry.len_bytes)),
            };
        }
        match line {
            Some((head, length)) => write_line(f, &head, length),
            None => Ok(()),
        }
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, head: &Entry, length: u64) -> fmt::Result {
    writeln!(
        f,
        "{:#018x}-{:#018x} -> {:#015x} level {} {:>6} x {}{} {:?}{}",
        head.iova.0,
        head.iova.0 + (length - 1),
        head.paddr.0,
        head.level,
        length / head.len_bytes,
        Size(head.len_bytes),
        if head.contiguous { " contiguous" } else { "" },
        head.prot,
        if head.dirty { " dirty" } else { "" },
    )
}

/// A page size as humans say it.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, unit) = match self.0.trailing_zeros() {
            40.. => (self.0 >> 40, "T"),
            30.. => (self.0 >> 30, "G"),
            20.. => (self.0 >> 20, "M"),
            _ => (self.0 >> 10, "K"),
        };
        write!(f, "{amount}{unit}")
    }
}

impl<F: Format, M: TableMemory> fmt::Debug for Dump<'_, F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// The leaves that overlap `first..=last`, in order of their IOVA. Empty
    /// where the guard is of another slot table.
    pub fn entries<'a>(
        &'a self,
        slot: &'a SlotGuard<'a>,
        first: Iova,
        last: Iova,
    ) -> Entries<'a, F, M> {
        let low = first.0.max(self.base) - self.base;
        let high = last.0.min(self.base + self.ia_mask).wrapping_sub(self.base);
        let some = last.0 >= self.base && low <= high && self.guard_is_ours(slot);
        Entries {
            table: self,
            _slot: slot,
            next: some.then_some(low),
            last: high,
        }
    }

    /// What is mapped, for humans: one line per run of like entries.
    pub fn dump<'a>(&'a self, slot: &'a SlotGuard<'a>) -> Dump<'a, F, M> {
        Dump { table: self, slot }
    }

    /// The leaf that holds `off` with its table and index, and the shift of the
    /// level where the walk ended. The caller is in a section, and `off` is at
    /// most `ia_mask`.
    pub(crate) fn find(&self, off: u64) -> (Option<(u64, Table, usize)>, u32) {
        let mut table = self.root;
        let mut shift = self.top_shift;
        loop {
            let index = self.index(off, shift);
            // SAFETY: in bounds, in a section.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Acquire);
            if Self::is_leaf(descriptor, shift) {
                return (Some((descriptor, table, index)), shift);
            }
            if shift == F::PAGE_LG2 || !Self::is_table(descriptor) {
                return (None, shift);
            }
            // SAFETY: a valid table descriptor, read in the section.
            table = unsafe { self.child(descriptor) };
            shift -= F::INDEX_BITS;
        }
    }

    /// The last offset of the entry that holds `off`, no leaf and no table, and of
    /// those after it in its table that are empty. The caller is in a section, and
    /// `off` is at most `ia_mask`.
    fn nothing_up_to(&self, off: u64) -> u64 {
        let (mut table, mut shift) = (self.root, self.top_shift);
        let mut entries = self.root_mask + 1;
        loop {
            let index = self.index(off, shift);
            // SAFETY: in bounds, in a section.
            let descriptor = unsafe { self.entry(table, index) }.load(Ordering::Acquire);
            if shift == F::PAGE_LG2 || !Self::is_table(descriptor) {
                let more = (index + 1..entries)
                    // SAFETY: in bounds, in a section.
                    .take_while(|&i| unsafe { self.entry(table, i) }.load(Ordering::Relaxed) == 0)
                    .count() as u64;
                return (off | ((1 << shift) - 1)) + (more << shift);
            }
            // SAFETY: a valid table descriptor, read in the section.
            table = unsafe { self.child(descriptor) };
            shift -= F::INDEX_BITS;
            entries = Self::ENTRIES;
        }
    }

    /// Whether any entry of the leaf or run that begins at `start` is marked.
    fn run_is_dirty(&self, start: u64, shift: u32, leaf: &Translation) -> bool {
        // By number: a block may be larger than `usize`.
        (0..leaf.page_bytes >> shift)
            .map(|number| start + (number << shift))
            .any(|off| matches!(self.find(off).0, Some((d, ..)) if d & DBM != 0 && crate::dirty::is_dirty(d)))
    }

    /// Offsets of the first and last byte of a range that is not empty, aligned
    /// and inside the input space.
    #[inline(always)]
    pub(crate) fn check_range(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
    ) -> Result<(u64, u64), UnmapError> {
        match self.offsets::<false>(slot, iova, len_bytes) {
            Some(offsets) => Ok(offsets),
            None => Err(self.unmap_refusal(slot, iova, len_bytes)),
        }
    }

    /// As [`check_range`](Self::check_range), without a reason. `PLAIN`: the
    /// caller has [looked at the guard](Self::is_plain_for).
    #[inline(always)]
    pub(crate) fn offsets<const PLAIN: bool>(
        &self,
        slot: &SlotGuard<'_>,
        iova: Iova,
        len_bytes: u64,
    ) -> Option<(u64, u64)> {
        let off = iova.0.wrapping_sub(self.base_as::<PLAIN>());
        let more = len_bytes.wrapping_sub(1);
        let last = off.wrapping_add(more);
        // As in `map_span`: one comparison for what must not exceed the mask.
        let allowed = (iova.0 | len_bytes) & Self::PAGE_MASK == 0
            && (off | more | last) <= self.ia_mask_as::<PLAIN>()
            && (PLAIN || self.guard_is_ours(slot));
        allowed.then_some((off, last))
    }

    /// That the leaf or run at `at`, if there is one, lies whole in `off..=last`.
    pub(crate) fn check_not_cut(&self, at: u64, off: u64, last: u64) -> Result<(), UnmapError> {
        let (Some((descriptor, ..)), shift) = self.find(at) else {
            return Ok(());
        };
        let size = Self::translation(descriptor, shift, at).page_bytes;
        let start = at & !(size - 1);
        if start < off || start + (size - 1) > last {
            return Err(self.part_of_leaf(start, shift, descriptor & CONTIGUOUS));
        }
        Ok(())
    }

    /// Calls `f` with table, shift, index and offset of every leaf entry in
    /// `off..=last`. The caller is in a section.
    pub(crate) fn for_each_leaf(
        &self,
        off: u64,
        last: u64,
        f: &mut dyn FnMut(Table, u32, usize, u64),
    ) {
        self.for_each_leaf_in(self.root, self.top_shift, off, last, f);
    }

    fn for_each_leaf_in(
        &self,
        table: Table,
        shift: u32,
        off: u64,
        last: u64,
        f: &mut dyn FnMut(Table, u32, usize, u64),
    ) {
        let first = self.index(off, shift);
        let count = self.index(last, shift) - first + 1;
        let entry_off = off & !((1 << shift) - 1);
        for i in 0..count {
            let start = entry_off + ((i as u64) << shift);
            // SAFETY: in bounds, in a section.
            let descriptor = unsafe { self.entry(table, first + i) }.load(Ordering::Acquire);
            if Self::is_leaf(descriptor, shift) {
                f(table, shift, first + i, start);
            } else if shift > F::PAGE_LG2 && Self::is_table(descriptor) {
                let (o, l) = (off.max(start), last.min(start + ((1 << shift) - 1)));
                // SAFETY: a valid table descriptor, read in the section.
                let child = unsafe { self.child(descriptor) };
                self.for_each_leaf_in(child, shift - F::INDEX_BITS, o, l, f);
            }
        }
    }
}
