//! Addresses as types, so that an I/O virtual address cannot be used as a
//! physical one.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// `self + bytes`, or `None` where that leaves 64 bits.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The last byte of `len_bytes` bytes that start here; `None` for a
            /// length of zero or an end beyond 64 bits. A range may end at the
            /// very last byte, which an exclusive end could not say.
            #[inline]
            pub const fn last_byte(self, len_bytes: u64) -> Option<Self> {
                match len_bytes.checked_sub(1) {
                    Some(last) => self.checked_add(last),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `1 << lg2` bytes.
            #[inline]
            pub const fn is_aligned_lg2(self, lg2: u32) -> bool {
                lg2 < 64 && self.0 & ((1 << lg2) - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// An I/O virtual address: what a device puts on the bus, before the IOMMU
    /// translates it. In bytes.
    Iova
}

address! {
    /// A physical address: what the IOMMU puts out (Arm: OA), and where tables
    /// live. In bytes.
    PhysAddr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_byte_handles_both_ends_of_the_space() {
        assert_eq!(Iova(0).last_byte(0), None);
        assert_eq!(Iova(u64::MAX).last_byte(1), Some(Iova(u64::MAX)));
        assert_eq!(Iova(u64::MAX).last_byte(2), None);
        assert_eq!(Iova(0x1000).last_byte(0x1000), Some(Iova(0x1fff)));
    }

    #[test]
    fn alignment_by_an_impossible_power_is_false_not_a_panic() {
        assert!(!Iova(0).is_aligned_lg2(64));
        assert!(Iova(0x20_0000).is_aligned_lg2(21));
        assert!(!PhysAddr(0x20_1000).is_aligned_lg2(21));
    }
}
