//! What an invalidation covers.

use dmabench_pgtable::Level;
use dmabench_platform::{Granule, Iova};

/// One range of I/O virtual addresses to invalidate.
///
/// The range is never empty, starts and ends on a multiple of `granule`, and
/// does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbRange {
    /// First address. In bytes.
    pub iova: Iova,
    /// Length in bytes; a multiple of the granule, at least one.
    pub len_bytes: u64,
    /// Translation granule of the tables.
    pub granule: Granule,
    /// The level of every leaf that was removed in the range, and then the
    /// range is a multiple of that leaf's size at both ends; `None` where
    /// leaves of several levels, or a whole table, went.
    ///
    /// A backend may pass it to the hardware as a hint (Arm IHI 0070, 4.4.1:
    /// TTL), which then need not remove entries of any other level.
    pub level: Option<Level>,
    /// Whether only leaf entries have to go. `false`: cached table entries
    /// (walk caches) of the range as well, at every level.
    pub leaf_only: bool,
}

impl TlbRange {
    /// The last byte of the range.
    #[inline]
    pub const fn last_byte(&self) -> Iova {
        Iova(self.iova.0 + (self.len_bytes - 1))
    }

    /// Whether invalidating `self` invalidates all that `other` asks for.
    pub fn covers(&self, other: &TlbRange) -> bool {
        self.iova <= other.iova
            && self.last_byte() >= other.last_byte()
            && self.granule == other.granule
            && (self.level.is_none() || self.level == other.level)
            && (!self.leaf_only || other.leaf_only)
    }

    /// Whether the two ranges share an address or lie end to end.
    #[inline]
    pub(crate) fn touches(&self, other: &TlbRange) -> bool {
        self.iova.0 <= other.last_byte().0.saturating_add(1)
            && other.iova.0 <= self.last_byte().0.saturating_add(1)
    }

    /// The smallest range that covers both.
    pub(crate) fn hull(&self, other: &TlbRange) -> TlbRange {
        let first = self.iova.min(other.iova);
        let last = self.last_byte().max(other.last_byte());
        TlbRange {
            iova: first,
            // All of 2^64 bytes cannot be said: less by one byte is still every
            // page, as an invalidation goes by pages.
            len_bytes: (last.0 - first.0).saturating_add(1),
            granule: self.granule,
            level: if self.level == other.level {
                self.level
            } else {
                None
            },
            leaf_only: self.leaf_only && other.leaf_only,
        }
    }
}
