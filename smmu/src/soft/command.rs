//! Commands as values (Arm IHI 0070, chapter 4).

use dmabench_platform::{Granule, Iova};

/// What a `CMD_TLBI_*` by address covers, as raw field values (IHI 0070,
/// 4.4.1). Any value of the fields can be said, legal or not: what an SMMU makes
/// of it is told by [`reach`](Self::reach).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Address. Bits `[11:0]` do not fit the command.
    pub address: u64,
    /// Leaf: only last-level entries need go.
    pub leaf: bool,
    /// TTL, two bits: the level of the leaves, 0 for any.
    pub ttl: u8,
    /// TG, two bits: 0 for one address in any granule, 1 for 4K, 2 for 16K, 3
    /// for 64K.
    pub tg: u8,
    /// NUM, five bits: the range has NUM + 1 times `2^SCALE` granules.
    pub num: u8,
    /// SCALE, five bits, or six where the SMMU has 52-bit tables (IDR5.DS).
    pub scale: u8,
}

/// What a [`Span`] makes an SMMU remove for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
    /// Only entries of this granule; `None` for all.
    pub granule: Option<Granule>,
    /// Only leaf entries of this level, and only table entries above it; `None`
    /// for all levels.
    pub level: Option<i8>,
    /// Cached table entries stay.
    pub leaf_only: bool,
}

/// Why nothing is certain about what a [`Span`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanFlaw {
    /// The encoding is reserved: the queue stops with `CERROR_ILL`. TG not 0
    /// with NUM, SCALE and TTL all 0 (4.4.1.1).
    Illegal,
    /// TG is 0 but NUM, SCALE or TTL is not (they are RES0 then).
    ReservedField,
    /// The address is not aligned to the leaf size that TG and TTL name, so the
    /// range is UNPREDICTABLE (4.4.1.1).
    Misaligned,
    /// The range runs past the last address.
    Wraps,
}

impl Span {
    /// One address, any granule, all levels.
    pub const fn single(address: u64, leaf: bool) -> Self {
        Span {
            address,
            leaf,
            ttl: 0,
            tg: 0,
            num: 0,
            scale: 0,
        }
    }

    /// The granule that TG names; `None` for 0.
    pub const fn granule(&self) -> Option<Granule> {
        match self.tg & 3 {
            1 => Some(Granule::K4),
            2 => Some(Granule::K16),
            3 => Some(Granule::K64),
            _ => None,
        }
    }

    /// What certainly goes. `ds`: the SMMU has 52-bit tables (IDR5.DS).
    ///
    /// # Errors
    ///
    /// A [`SpanFlaw`] where the specification leaves open what goes, or forbids
    /// the encoding; a careful reader then takes nothing as gone.
    pub fn reach(&self, ds: bool) -> Result<Reach, SpanFlaw> {
        let Some(granule) = self.granule() else {
            if self.ttl != 0 || self.num != 0 || self.scale != 0 {
                return Err(SpanFlaw::ReservedField);
            }
            let first = self.address & !0xfff;
            return Ok(Reach {
                first,
                last: first | 0xfff,
                granule: None,
                level: None,
                leaf_only: self.leaf,
            });
        };
        if self.ttl == 0 && self.num == 0 && self.scale == 0 {
            return Err(SpanFlaw::Illegal);
        }
        // With 16K tables and no block at level 1, TTL 1 is read as 0.
        let ttl = match (granule, self.ttl) {
            (Granule::K16, 1) if !ds => 0,
            (_, ttl) => ttl,
        };
        // TTL 0 asks for the alignment of a page, as TTL 3 does.
        let aligned_lg2 = match ttl {
            0 => granule.lg2(),
            level => granule.lg2() + (3 - u32::from(level & 3)) * granule.index_bits(),
        };
        if self.address & ((1 << aligned_lg2) - 1) & !0xfff != 0 {
            return Err(SpanFlaw::Misaligned);
        }
        let first = self.address & !0xfff;
        let bytes = u64::from(self.num & 31) + 1;
        let shift = u32::from(self.scale) + granule.lg2();
        let last = bytes
            .checked_shl(shift)
            .filter(|b| b >> shift == bytes)
            .and_then(|b| first.checked_add(b - 1))
            .ok_or(SpanFlaw::Wraps)?;
        Ok(Reach {
            first,
            last,
            granule: Some(granule),
            level: (ttl != 0).then_some(ttl as i8),
            leaf_only: self.leaf,
        })
    }

    /// The first address as an I/O virtual address.
    pub const fn iova(&self) -> Iova {
        Iova(self.address)
    }
}

/// How a `CMD_SYNC` says that it is complete (IHI 0070, 4.7.3: CS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncSignal {
    /// CS = 0: only by the consumer index.
    None,
    /// CS = 1: an interrupt, or a 32-bit store if an address is given.
    Interrupt {
        /// MSIAddress, in bytes, or 0 for a wired interrupt.
        address: u64,
        /// MSIData.
        data: u32,
    },
    /// CS = 2: an event for waiting CPUs.
    Event,
}

/// A command for the command queue of a non-secure programming interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// `CMD_CFGI_STE`: forget a stream table entry and what depends on it.
    CfgiSte {
        /// StreamID.
        sid: u32,
        /// Leave cached level-1 descriptors.
        leaf: bool,
    },
    /// `CMD_CFGI_STE_RANGE`: an aligned group of `2^(range + 1)` streams. 31
    /// means all (`CMD_CFGI_ALL`).
    CfgiSteRange {
        /// StreamID.
        sid: u32,
        /// Range, five bits.
        range: u8,
    },
    /// `CMD_CFGI_CD`: forget one context descriptor.
    CfgiCd {
        /// StreamID.
        sid: u32,
        /// SubstreamID.
        ssid: u32,
        /// Leave cached level-1 descriptors.
        leaf: bool,
    },
    /// `CMD_CFGI_CD_ALL`: forget all context descriptors of a stream.
    CfgiCdAll {
        /// StreamID.
        sid: u32,
    },
    /// `CMD_TLBI_NH_ALL`: all stage 1 entries of a VMID.
    TlbiNhAll {
        /// VMID.
        vmid: u16,
    },
    /// `CMD_TLBI_NH_ASID`: stage 1 entries of an ASID, global ones aside.
    TlbiNhAsid {
        /// VMID.
        vmid: u16,
        /// ASID.
        asid: u16,
    },
    /// `CMD_TLBI_NH_VA`: stage 1 entries by address and ASID, and global ones.
    TlbiNhVa {
        /// VMID.
        vmid: u16,
        /// ASID.
        asid: u16,
        /// Addresses.
        span: Span,
    },
    /// `CMD_TLBI_NH_VAA`: stage 1 entries by address, of every ASID.
    TlbiNhVaa {
        /// VMID.
        vmid: u16,
        /// Addresses.
        span: Span,
    },
    /// `CMD_TLBI_S12_VMALL`: all entries of both stages of a VMID.
    TlbiS12Vmall {
        /// VMID.
        vmid: u16,
    },
    /// `CMD_TLBI_S2_IPA`: stage 2 entries by intermediate address. Entries that
    /// combine both stages may stay.
    TlbiS2Ipa {
        /// VMID.
        vmid: u16,
        /// Addresses.
        span: Span,
    },
    /// `CMD_TLBI_NSNH_ALL`: all non-secure entries that are not of a
    /// hypervisor.
    TlbiNsnhAll,
    /// `CMD_SYNC`: completes when all commands before it on its queue have.
    Sync(SyncSignal),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(address: u64, tg: u8, ttl: u8, num: u8, scale: u8) -> Span {
        Span {
            address,
            leaf: true,
            ttl,
            tg,
            num,
            scale,
        }
    }

    #[test]
    fn bad_input_56_reserved_encodings_reach_nothing() {
        for tg in 1..=3 {
            assert_eq!(
                span(0x1_0000, tg, 0, 0, 0).reach(false),
                Err(SpanFlaw::Illegal)
            );
        }
        for span in [
            span(0x1000, 0, 3, 0, 0),
            span(0x1000, 0, 0, 1, 0),
            span(0x1000, 0, 0, 0, 1),
        ] {
            assert_eq!(span.reach(false), Err(SpanFlaw::ReservedField));
        }
    }

    #[test]
    fn bad_input_58_an_address_that_does_not_fit_its_ttl_reaches_nothing() {
        // (TG, TTL, lowest address bit that may be set), IHI 0070 4.4.1.1.
        let rules = [
            (1, 1, 30),
            (1, 2, 21),
            (1, 3, 12),
            (2, 2, 25),
            (2, 3, 14),
            (2, 0, 14),
            (3, 1, 42),
            (3, 2, 29),
            (3, 3, 16),
            (3, 0, 16),
        ];
        for (tg, ttl, lowest) in rules {
            let good = span(1 << lowest, tg, ttl, 1, 0);
            assert!(good.reach(false).is_ok(), "{good:?}");
            for bit in 12..lowest {
                let bad = span(1 << bit, tg, ttl, 1, 0);
                assert_eq!(bad.reach(false), Err(SpanFlaw::Misaligned), "{bad:?}");
            }
        }
    }

    #[test]
    fn ttl_1_with_16k_needs_52_bit_tables() {
        let span = span(1 << 36, 2, 1, 3, 4);
        assert_eq!(span.reach(false).unwrap().level, None);
        assert_eq!(span.reach(true).unwrap().level, Some(1));
    }

    #[test]
    fn a_range_has_num_plus_one_times_two_to_the_scale_granules() {
        let reach = span(0x4000_0000, 1, 3, 4, 5).reach(false).unwrap();
        assert_eq!(reach.first, 0x4000_0000);
        assert_eq!(reach.last - reach.first + 1, 5 << (5 + 12));
        assert_eq!(
            span(u64::MAX << 12, 1, 3, 1, 0).reach(false),
            Err(SpanFlaw::Wraps)
        );
        assert_eq!(
            span(u64::MAX << 12, 1, 3, 0, 0).reach(false).unwrap().last,
            u64::MAX
        );
        assert_eq!(span(0, 1, 0, 31, 63).reach(true), Err(SpanFlaw::Wraps));
    }
}
