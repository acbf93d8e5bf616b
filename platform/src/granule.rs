//! The translation granule: the smallest page a format has.

/// A translation granule of VMSAv8-64 (Arm DDI 0487, D8.2): the size of the
/// smallest page and of a full translation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Granule {
    /// 4 KiB.
    K4 = 12,
    /// 16 KiB.
    K16 = 14,
    /// 64 KiB.
    K64 = 16,
}

impl Granule {
    /// Every granule there is.
    pub const ALL: [Granule; 3] = [Granule::K4, Granule::K16, Granule::K64];

    /// Base-2 logarithm of [`bytes`](Self::bytes): 12, 14 or 16.
    #[inline]
    pub const fn lg2(self) -> u32 {
        self as u32
    }

    /// Size in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self.lg2()
    }

    /// `bytes() - 1`.
    #[inline]
    pub const fn mask(self) -> u64 {
        self.bytes() - 1
    }

    /// Index bits one table level resolves: `lg2 - 3`, as a descriptor has 8
    /// bytes.
    #[inline]
    pub const fn index_bits(self) -> u32 {
        self.lg2() - 3
    }

    /// Pages that cover `len_bytes` bytes, of which the first has the offset
    /// `offset_bytes` in its page; `None` where the sum leaves 64 bits.
    #[inline]
    pub const fn pages_covering(self, offset_bytes: u64, len_bytes: u64) -> Option<u64> {
        match (offset_bytes & self.mask()).checked_add(len_bytes) {
            Some(span) => match span.checked_add(self.mask()) {
                Some(up) => Some(up >> self.lg2()),
                None => None,
            },
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_covering_counts_partial_pages() {
        let g = Granule::K4;
        assert_eq!(g.pages_covering(0, 0), Some(0));
        assert_eq!(g.pages_covering(0, 1), Some(1));
        assert_eq!(g.pages_covering(0xfff, 2), Some(2));
        assert_eq!(g.pages_covering(0x400, 0x400), Some(1));
        assert_eq!(g.pages_covering(1, u64::MAX), None);
    }
}
