//! The operands of invalidations by address (4.4.1) and of `CMD_ATC_INV` (4.5).

use dmabench_platform::{Granule, Iova};

use super::bits::{bit, flag, get, put, span};

/// `TG` of a range command: 0 is none, 1 is 4K, 2 is 16K, 3 is 64K. (Context
/// descriptors and stream table entries use other codes.)
#[inline(always)]
pub const fn tg_code(granule: Option<Granule>) -> u8 {
    match granule {
        None => 0,
        Some(Granule::K4) => 1,
        Some(Granule::K16) => 2,
        Some(Granule::K64) => 3,
    }
}

/// The granule of a `TG` code; only the low two bits count.
pub const fn tg_granule(code: u8) -> Option<Granule> {
    match code & 3 {
        0 => None,
        1 => Some(Granule::K4),
        2 => Some(Granule::K16),
        _ => Some(Granule::K64),
    }
}

/// What `CMD_TLBI_NH_VA`, `_VAA`, `_EL2_VA`, `_EL2_VAA` and `_S2_IPA` say about
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbiAddress {
    /// The first address; bits `[11:0]` are not part of the command.
    pub address: Iova,
    /// `Leaf`: cached table entries need not go.
    pub leaf: bool,
    /// `TG`; `None`: one address, and `num`, `scale` and `ttl` are not used.
    pub granule: Option<Granule>,
    /// `TTL`: level of the leaf entries, 1 to 3; 0 for any level.
    pub ttl: u8,
    /// `NUM`: 0 to 31.
    pub num: u8,
    /// `SCALE`: 0 to 31, with `IDR5.DS` to 39.
    pub scale: u8,
}

impl TlbiAddress {
    /// One address, whatever the size of the entry that translates it.
    pub const fn single(address: Iova, leaf: bool) -> Self {
        TlbiAddress {
            address,
            leaf,
            granule: None,
            ttl: 0,
            num: 0,
            scale: 0,
        }
    }

    /// First and last byte that the command covers (4.4.1.1). A range that
    /// would wrap ends at the last address.
    pub const fn covers(&self) -> (Iova, Iova) {
        let (lg2, pages) = match self.granule {
            None => (12, 1),
            Some(granule) => {
                let granules =
                    (self.num as u128 + 1) << if self.scale > 63 { 63 } else { self.scale };
                (granule.lg2(), granules)
            }
        };
        let last = self.address.0 as u128 + (pages << lg2) - 1;
        let last = if last > u64::MAX as u128 {
            u64::MAX
        } else {
            last as u64
        };
        (self.address, Iova(last))
    }

    /// The fields as they stand in words 0 and 1.
    #[inline(always)]
    pub(super) const fn encode(&self) -> [u64; 2] {
        let word0 = put(self.num as u64, 12, 5) | put(self.scale as u64, 20, 6);
        let word1 = flag(self.leaf, 0)
            | put(self.ttl as u64, 8, 2)
            | put(tg_code(self.granule) as u64, 10, 2)
            | (self.address.0 & span(63, 12));
        [word0, word1]
    }

    /// From the words of a command. `ds` is `IDR5.DS`: without it bit 25 is not
    /// part of `SCALE`. Without `ranges` (`IDR3.RIL`) or with `TG` = 0 the
    /// command names one address.
    pub(super) const fn decode(raw: &[u64; 2], ranges: bool, ds: bool) -> Self {
        let address = Iova(raw[1] & span(63, 12));
        let leaf = bit(raw[1], 0);
        let granule = tg_granule(get(raw[1], 10, 2) as u8);
        if !ranges || granule.is_none() {
            return TlbiAddress::single(address, leaf);
        }
        TlbiAddress {
            address,
            leaf,
            granule,
            ttl: get(raw[1], 8, 2) as u8,
            num: get(raw[0], 12, 5) as u8,
            scale: get(raw[0], 20, if ds { 6 } else { 5 }) as u8,
        }
    }
}

/// The operand of `CMD_ATC_INV` (4.5.1) that covers every page of `first` to
/// `last` (both included): the smallest aligned block of a power of two of 4K
/// pages. Returns its address and the `Size` field; 52 is everything.
pub const fn atc_span(first: Iova, last: Iova) -> (Iova, u8) {
    let differ = (first.0 ^ last.0) >> 12;
    let size = 64 - differ.leading_zeros();
    if size >= 52 {
        return (Iova(0), 52);
    }
    (Iova(first.0 & !((1 << (size + 12)) - 1)), size as u8)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn atc_blocks_are_aligned_and_cover() {
        let page = |n: u64| Iova(n << 12);
        assert_eq!(atc_span(page(8), page(11)), (page(8), 2), "4 pages at 8");
        assert_eq!(atc_span(page(7), page(10)), (page(0), 4), "16 pages at 0");
        assert_eq!(atc_span(page(5), Iova(0x5fff)), (page(5), 0));
        assert_eq!(atc_span(Iova(0), Iova(u64::MAX)), (Iova(0), 52));
        assert_eq!(atc_span(Iova(0), Iova((1 << 63) - 1)), (Iova(0), 51));
        for first in 0..64_u64 {
            for last in first..64 {
                let (base, size) = atc_span(page(first), page(last));
                let pages = 1_u64 << size;
                assert!(base <= page(first) && page(last) < Iova(base.0 + (pages << 12)));
                assert_eq!(base.0 >> 12 & (pages - 1), 0);
                let half = pages / 2;
                assert!(size == 0 || first / half != last / half, "smallest");
            }
        }
    }

    #[test]
    fn a_range_covers_num_plus_one_times_two_to_the_scale() {
        let range = TlbiAddress {
            address: Iova(0x1_0000),
            leaf: true,
            granule: Some(Granule::K16),
            ttl: 3,
            num: 4,
            scale: 1,
        };
        assert_eq!(
            range.covers(),
            (Iova(0x1_0000), Iova(0x1_0000 + 10 * 0x4000 - 1))
        );
        let top = TlbiAddress {
            address: Iova(0xffff_ffff_ffff_0000),
            num: 31,
            scale: 39,
            ..range
        };
        assert_eq!(top.covers().1, Iova(u64::MAX));
        assert_eq!(
            TlbiAddress::single(Iova(0x5000), false).covers(),
            (Iova(0x5000), Iova(0x5fff))
        );
    }
}
