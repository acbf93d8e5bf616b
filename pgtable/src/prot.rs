//! What a mapping allows, and the deviations a table is made with.

use core::{
    fmt,
    ops::{BitOr, BitOrAssign},
};

macro_rules! flags {
    (
        $(#[$doc:meta])* $name:ident: $repr:ty;
        $($(#[$flag_doc:meta])* $flag:ident = $bit:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name($repr);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: $name = $name(1 << $bit);)*

            /// No flag.
            pub const NONE: $name = $name(0);

            const NAMES: &'static [($name, &'static str)] =
                &[$(($name::$flag, stringify!($flag))),*];

            /// Every flag there is.
            pub const ALL: $name = $name(0 $(| 1 << $bit)*);

            /// The flags that `bits` stands for; `None` where a bit means
            /// nothing.
            pub const fn from_bits(bits: $repr) -> Option<Self> {
                if bits & !Self::ALL.0 == 0 { Some($name(bits)) } else { None }
            }

            /// The flags that `bits` stands for, those that mean nothing left
            /// out.
            #[inline]
            pub const fn truncated(bits: $repr) -> Self {
                $name(bits & Self::ALL.0)
            }

            /// As bits.
            #[inline]
            pub const fn bits(self) -> $repr {
                self.0
            }

            /// Whether every flag of `other` is set.
            #[inline]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether a flag of `other` is set.
            #[inline]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The flags of both (`const`, unlike `|`).
            #[inline]
            pub const fn with(self, other: Self) -> Self {
                $name(self.0 | other.0)
            }

            /// The flags of `self` that `other` does not have.
            #[inline]
            pub const fn without(self, other: Self) -> Self {
                $name(self.0 & !other.0)
            }
        }

        impl BitOr for $name {
            type Output = Self;
            #[inline]
            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }

        impl BitOrAssign for $name {
            #[inline]
            fn bitor_assign(&mut self, other: Self) {
                *self = self.with(other);
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut any = false;
                for (flag, name) in Self::NAMES {
                    if self.contains(*flag) {
                        if any {
                            f.write_str("|")?;
                        }
                        f.write_str(name)?;
                        any = true;
                    }
                }
                if any { Ok(()) } else { f.write_str("NONE") }
            }
        }
    };
}

flags! {
    /// What a mapping allows and how its memory is reached. The bit values are
    /// those of Linux's `IOMMU_*` protections (`include/linux/iommu.h`).
    ///
    /// Stage 1 has no write-only permission: `WRITE` alone is encoded as
    /// read-write there, as Linux does. At stage 2 `WRITE` alone is write-only.
    Prot: u8;
    /// The device may read.
    READ = 0;
    /// The device may write.
    WRITE = 1;
    /// Cacheable and coherent with the CPUs; else normal non-cacheable memory.
    CACHE = 2;
    /// No instruction fetches.
    NOEXEC = 3;
    /// Device memory (nGnRE), such as registers of another device.
    MMIO = 4;
    /// Privileged accesses only (stage 1; stage 2 has no such thing and
    /// ignores it).
    PRIV = 5;
}

impl Prot {
    /// Read and write.
    pub const READ_WRITE: Prot = Prot::READ.with(Prot::WRITE);
    /// Distinct values of [`bits`](Self::bits).
    pub(crate) const COUNT: usize = 64;
}

flags! {
    /// Deviations from the plain format, as Linux's `IO_PGTABLE_QUIRK_*`. Each
    /// is refused where the format has no use for it.
    Quirks: u32;
    /// Stage 1: output addresses and next tables are in the non-secure space.
    NS = 0;
    /// Stage 1: the table serves the upper half of the address space
    /// (`TTBR1`): input addresses have all bits above the input size set.
    TTBR1 = 1;
    /// Stage 1 with a non-coherent walker: table walks are outer-cacheable
    /// (a system cache in front of memory).
    OUTER_WBWA = 2;
    /// Stage 1: the hardware marks writes in the descriptors (DBM).
    ARM_HD = 3;
    /// Stage 2: `MemAttr` has the meaning of FEAT_S2FWB.
    S2FWB = 4;
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn bad_input_22_unknown_protection_bits_cannot_be_made() {
        assert_eq!(Prot::from_bits(64), None);
        assert_eq!(Prot::from_bits(0xff), None);
        assert_eq!(Prot::from_bits(3), Some(Prot::READ_WRITE));
        assert_eq!(Prot::ALL.bits() as usize, Prot::COUNT - 1);
        assert_eq!(Quirks::from_bits(1 << 5), None);
    }

    #[test]
    fn debug_names_the_flags() {
        extern crate std;
        assert_eq!(std::format!("{:?}", Prot::READ | Prot::MMIO), "READ|MMIO");
        assert_eq!(std::format!("{:?}", Prot::NONE), "NONE");
    }
}
