//! The token of ownership.

use core::{fmt, num::NonZeroU64};

use dmabench_platform::{Granule, Iova};

/// Bits of a token word that carry the domain's key: below the smallest
/// granule, addresses have zeros.
const KEY_BITS: u32 = Granule::K4.lg2();
const KEY_MASK: u64 = (1 << KEY_BITS) - 1;
/// Of the second word's key bits, the lowest two say which granule.
const GRANULE_BITS: u32 = 2;

/// How many domains can exist: their numbers have 22 bits.
pub(crate) const MAX_DOMAINS: u32 = 1 << (2 * KEY_BITS - GRANULE_BITS);
/// The largest size a token can carry, in pages.
pub(crate) const MAX_SIZE_PAGES: u64 = (1 << (64 - KEY_BITS)) - 1;

/// A range of I/O virtual addresses that belongs to whoever holds this value.
///
/// Neither `Copy` nor `Clone`, so it can be given back once only. Dropping it
/// leaks the addresses: they stay allocated until their domain goes.
/// 16 bytes, `Option<IovaRange>` too.
#[must_use = "a dropped range stays allocated for ever; give it back with `IovaDomain::free`"]
pub struct IovaRange {
    /// Address, and the low half of the domain's key.
    address_and_key: u64,
    /// Size in pages shifted up by `KEY_BITS`, and the high half of the key.
    size_and_key: NonZeroU64,
}

impl IovaRange {
    /// The first address.
    #[inline]
    pub fn iova(&self) -> Iova {
        Iova(self.address_and_key & !KEY_MASK)
    }

    /// The size that was asked for, in granules of the domain.
    #[inline]
    pub fn size_pages(&self) -> u64 {
        self.size_and_key.get() >> KEY_BITS
    }

    /// The size in bytes.
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        self.size_pages() << self.granule().lg2()
    }

    /// The last address.
    #[inline]
    pub fn last(&self) -> Iova {
        // A range lies inside an aperture, so this does not overflow.
        Iova(self.iova().0 + (self.len_bytes() - 1))
    }

    /// The granule of the domain the range is from.
    #[inline]
    pub fn granule(&self) -> Granule {
        match self.size_and_key.get() & ((1 << GRANULE_BITS) - 1) {
            1 => Granule::K4,
            2 => Granule::K16,
            _ => Granule::K64,
        }
    }
}

impl fmt::Debug for IovaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "IovaRange({:#x} + {} pages)",
            self.iova(),
            self.size_pages()
        )
    }
}

/// What marks a domain's tokens as its own: 22 bits of number, 2 of granule,
/// split over the unused low bits of both words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenKey {
    low: u64,
    /// Never 0, and so no token's second word: no granule has the number 0.
    high: NonZeroU64,
}

impl TokenKey {
    pub(crate) fn new(number: u32, granule: Granule) -> Self {
        debug_assert!(number < MAX_DOMAINS);
        let granule = match granule {
            Granule::K4 => 0,
            Granule::K16 => 1,
            Granule::K64 => 2,
        };
        let granule = NonZeroU64::MIN.saturating_add(granule);
        let number = u64::from(number);
        TokenKey {
            low: number & KEY_MASK,
            high: granule | (number >> KEY_BITS << GRANULE_BITS),
        }
    }

    /// The number the key was made from.
    pub(crate) fn number(self) -> u32 {
        (self.low | (self.high.get() >> GRANULE_BITS << KEY_BITS)) as u32
    }

    /// A new token. The caller owns the pages; `address` is a multiple of 4 KiB
    /// and `size_pages` is in `1..=MAX_SIZE_PAGES`.
    #[inline]
    pub(crate) fn token(self, address: u64, size_pages: u64) -> IovaRange {
        debug_assert!(address & KEY_MASK == 0);
        debug_assert!(size_pages != 0 && size_pages <= MAX_SIZE_PAGES);
        // SAFETY: `new` made both halves of so few bits. Known here, what is read
        // back from the token need not be masked.
        unsafe {
            core::hint::assert_unchecked(self.low <= KEY_MASK);
            core::hint::assert_unchecked(self.high.get() <= KEY_MASK);
        }
        IovaRange {
            address_and_key: address | self.low,
            size_and_key: self.high | (size_pages << KEY_BITS),
        }
    }

    /// Address and size in pages, if the token is of this domain.
    #[inline]
    pub(crate) fn open(self, token: &IovaRange) -> Option<(u64, u64)> {
        let address = token.address_and_key ^ self.low;
        let size = token.size_and_key.get() ^ self.high.get();
        if (address | size) & KEY_MASK != 0 {
            return None;
        }
        Some((address, size >> KEY_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_two_words_with_room_for_an_error() {
        assert_eq!(size_of::<IovaRange>(), 16);
        assert_eq!(size_of::<Option<IovaRange>>(), 16);
        assert_eq!(size_of::<Result<IovaRange, crate::AllocError>>(), 16);
        assert_eq!(size_of::<Result<(), crate::FreeError>>(), 16);
    }

    #[test]
    fn a_key_opens_its_own_tokens_only() {
        let keys = [
            TokenKey::new(0, Granule::K4),
            TokenKey::new(0, Granule::K64),
            TokenKey::new(1, Granule::K4),
            TokenKey::new(MAX_DOMAINS - 1, Granule::K16),
            TokenKey::new(1 << KEY_BITS, Granule::K4),
        ];
        for (i, key) in keys.iter().enumerate() {
            let token = key.token(0xffff_ffff_ffff_f000, MAX_SIZE_PAGES);
            for (j, other) in keys.iter().enumerate() {
                let opened = other.open(&token);
                assert_eq!(opened.is_some(), i == j);
            }
            assert_eq!(
                key.open(&token),
                Some((0xffff_ffff_ffff_f000, MAX_SIZE_PAGES))
            );
        }
        assert_eq!(keys[3].number(), MAX_DOMAINS - 1);
        assert_eq!(keys[1].token(0x10000, 3).len_bytes(), 3 << 16);
    }
}
