//! Parts of a range, table by table.

use crate::table::Table;

/// Part of a range that lies in one table.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// Offset of the first byte from the start of the input space.
    pub(crate) off: u64,
    /// Offset of the last byte.
    pub(crate) last: u64,
    /// Where the first byte goes.
    pub(crate) pa: u64,
}

/// Entries of one last-level table.
pub(crate) struct Part {
    pub(crate) table: Table,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Span {
    /// What of the span lies in the entry that begins at `entry_off` and spans
    /// `1 << shift`.
    #[inline]
    pub(crate) fn within(&self, entry_off: u64, shift: u32) -> Span {
        let off = self.off.max(entry_off);
        Span {
            off,
            last: self.last.min(entry_off + ((1 << shift) - 1)),
            pa: self.pa + (off - self.off),
        }
    }

    /// Whether no aligned `1 << shift` bytes of input space lie in the span
    /// whole.
    #[inline]
    pub(crate) fn has_no_whole(&self, shift: u32) -> bool {
        let inside = (1 << shift) - 1;
        let first_whole = (self.off + inside) >> shift;
        let end_of_whole = self.last.wrapping_add(1) >> shift;
        first_whole >= end_of_whole
    }

    /// Calls `f` with the parts of the span that lie in the aligned
    /// `1 << shift` bytes each, until it says no.
    #[inline(always)]
    pub(crate) fn each(&self, shift: u32, mut f: impl FnMut(Span) -> bool) -> bool {
        let mut off = self.off;
        loop {
            let last = self.last.min(off | ((1 << shift) - 1));
            let pa = self.pa + (off - self.off);
            if !f(Span { off, last, pa }) {
                return false;
            }
            if last == self.last {
                return true;
            }
            off = last + 1;
        }
    }

    /// Whether one leaf of `1 << shift` bytes is exactly this span.
    #[inline]
    pub(crate) fn is_one_leaf(&self, shift: u32) -> bool {
        self.last - self.off == (1 << shift) - 1 && self.pa & ((1 << shift) - 1) == 0
    }
}
