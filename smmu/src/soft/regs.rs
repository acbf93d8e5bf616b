//! From raw register fields to the shape of a translation regime.
//!
//! Written from the field definitions of the context descriptor and the stream
//! table entry (Arm IHI 0070, 5.2 and 5.4) and the table geometry of VMSAv8-64
//! (Arm DDI 0487, D8.2), not from the code that builds the tables: if both read
//! a rule differently, a test fails.

use core::fmt;

use dmabench_pgtable::Registers;
use dmabench_platform::Granule;

/// Stage 1 fields of a context descriptor (IHI 0070, 5.4), as raw values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1Regs {
    /// TTB0: base of the table for low addresses, in bytes.
    pub ttb0: u64,
    /// T0SZ: 64 minus the bits of a low address.
    pub t0sz: u8,
    /// TG0: 0 is 4K, 1 is 64K, 2 is 16K.
    pub tg0: u8,
    /// EPD0: low addresses fault.
    pub epd0: bool,
    /// TTB1: base of the table for high addresses.
    pub ttb1: u64,
    /// T1SZ.
    pub t1sz: u8,
    /// TG1: 1 is 16K, 2 is 4K, 3 is 64K.
    pub tg1: u8,
    /// EPD1: high addresses fault.
    pub epd1: bool,
    /// IPS: bits of the output address, 0 to 6 for 32, 36, 40, 42, 44, 48, 52.
    pub ips: u8,
    /// 52-bit descriptors for 4K and 16K (FEAT_LPA2).
    pub ds: bool,
    /// AFFD: an access flag of 0 does not fault.
    pub affd: bool,
    /// HA: the walker sets the access flag.
    pub ha: bool,
    /// HD: the walker makes a DBM entry writable at the first write.
    pub hd: bool,
}

impl Default for Stage1Regs {
    /// 4K, 48 bits in and out, no table: both halves fault.
    fn default() -> Self {
        Stage1Regs {
            ttb0: 0,
            t0sz: 16,
            tg0: 0,
            epd0: true,
            ttb1: 0,
            t1sz: 16,
            tg1: 2,
            epd1: true,
            ips: 5,
            ds: false,
            affd: false,
            ha: false,
            hd: false,
        }
    }
}

impl Stage1Regs {
    /// The fields for one stage 1 table; the other half faults.
    pub fn for_table(registers: &Registers) -> Self {
        let mut regs = Stage1Regs {
            ips: registers.output_size,
            ds: registers.ds,
            ha: registers.dirty,
            hd: registers.dirty,
            ..Stage1Regs::default()
        };
        if registers.upper {
            regs.ttb1 = registers.ttb.0;
            regs.t1sz = registers.tsz;
            regs.tg1 = registers.tg();
            regs.epd1 = false;
        } else {
            regs.ttb0 = registers.ttb.0;
            regs.t0sz = registers.tsz;
            regs.tg0 = registers.tg();
            regs.epd0 = false;
        }
        regs
    }
}

/// Stage 2 fields of a stream table entry (IHI 0070, 5.2), as raw values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2Regs {
    /// S2TTB: base of the table (or of the first of up to 16 tables).
    pub ttb: u64,
    /// S2T0SZ: 64 minus the bits of an input address.
    pub t0sz: u8,
    /// S2SL0: where the walk starts. 4K: 0 is level 2, 1 is level 1, 2 is level
    /// 0; 16K and 64K: 0 is level 3, 1 is level 2, 2 is level 1. With DS also
    /// 3 for level 0 of 16K, and 4 (S2SL0_2) for level -1 of 4K.
    pub sl0: u8,
    /// S2TG: 0 is 4K, 1 is 64K, 2 is 16K.
    pub tg: u8,
    /// S2PS: bits of the output address, as [`Stage1Regs::ips`].
    pub ps: u8,
    /// 52-bit descriptors for 4K and 16K (FEAT_LPA2).
    pub ds: bool,
    /// S2AFFD: an access flag of 0 does not fault.
    pub affd: bool,
    /// S2HA: the walker sets the access flag.
    pub ha: bool,
    /// S2HD: the walker makes a DBM entry writable at the first write.
    pub hd: bool,
}

impl Stage2Regs {
    /// The fields for one stage 2 table.
    pub fn for_table(registers: &Registers) -> Self {
        Stage2Regs {
            ttb: registers.ttb.0,
            t0sz: registers.tsz,
            sl0: registers.sl(),
            tg: registers.tg(),
            ps: registers.output_size,
            ds: registers.ds,
            affd: false,
            ha: registers.dirty,
            hd: registers.dirty,
        }
    }
}

/// A combination of fields that IHI 0070 calls ILLEGAL, or that this model does
/// not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegsError {
    /// A granule code that is reserved.
    Granule {
        /// The value of the field.
        tg: u8,
    },
    /// T0SZ, T1SZ or S2T0SZ outside what the granule and DS allow.
    InputSize {
        /// The value of the field.
        tsz: u8,
    },
    /// IPS or S2PS of 7, or 6 where neither 64K nor DS gives 52 bits.
    OutputSize {
        /// The value of the field.
        ps: u8,
    },
    /// S2SL0 does not fit S2T0SZ and S2TG.
    StartLevel {
        /// The value of the field.
        sl0: u8,
    },
    /// The table base is beyond the output size or not aligned to the table.
    TableBase {
        /// The value of the field.
        ttb: u64,
    },
}

impl fmt::Display for RegsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegsError::Granule { tg } => write!(f, "granule code {tg} is reserved"),
            RegsError::InputSize { tsz } => write!(
                f,
                "TxSZ {tsz} is outside what granule and DS allow (16 to 39, 12 with 52 bits)"
            ),
            RegsError::OutputSize { ps } => write!(
                f,
                "output size code {ps}: use 0 to 5, or 6 with the 64K granule or DS"
            ),
            RegsError::StartLevel { sl0 } => {
                write!(f, "S2SL0 {sl0} does not fit S2T0SZ and S2TG")
            }
            RegsError::TableBase { ttb } => write!(
                f,
                "table base {ttb:#x} is not aligned to its table or beyond the output size"
            ),
        }
    }
}

impl core::error::Error for RegsError {}

/// Where a walk starts and what shape the tables have: one half of stage 1, or
/// stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) base: u64,
    pub(super) granule: Granule,
    /// Bits of the input address.
    pub(super) input_bits: u32,
    /// Level of the first table: -1 to 3.
    pub(super) start: i8,
    /// Bits of the output address.
    pub(super) output_bits: u32,
    /// Descriptors of 4K and 16K carry 52 bits.
    pub(super) ds: bool,
    pub(super) stage2: bool,
    pub(super) affd: bool,
    pub(super) ha: bool,
    pub(super) hd: bool,
}

impl Geometry {
    /// Base-2 logarithm of what one entry of a table of `level` covers.
    #[inline]
    pub(super) fn shift(&self, level: i8) -> u32 {
        self.granule.lg2() + (3 - level) as u32 * self.granule.index_bits()
    }

    /// Whether a descriptor of `level` may be a block (DDI 0487, D8.3.1).
    #[inline]
    pub(super) fn block_allowed(&self, level: i8) -> bool {
        match (self.granule, level) {
            (Granule::K4, 1 | 2) | (Granule::K16 | Granule::K64, 2) => true,
            (Granule::K4, 0) | (Granule::K16, 1) => self.ds,
            (Granule::K64, 1) => self.output_bits == 52,
            _ => false,
        }
    }

    /// Base-2 logarithm of what a run of contiguous entries of `level` covers,
    /// where such runs exist (DDI 0487, D8.7.1).
    #[inline]
    pub(super) fn contiguous_lg2(&self, level: i8) -> Option<u32> {
        let entries_lg2 = match (self.granule, level) {
            (Granule::K4, 1..=3) => 4,
            (Granule::K16, 3) => 7,
            (Granule::K16, 2) => 5,
            (Granule::K64, 2 | 3) => 5,
            _ => return None,
        };
        Some(self.shift(level) + entries_lg2)
    }

    fn check_base(&self) -> Result<(), RegsError> {
        // The first table has one entry for each value of the bits above the
        // first shift, at 8 bytes, and is aligned to its size, at least 64 (with
        // 52-bit addresses; 32 would do for fewer).
        let entries_lg2 = self.input_bits.saturating_sub(self.shift(self.start));
        let align_lg2 = (entries_lg2 + 3).max(5);
        let beyond = self.base >> self.output_bits != 0;
        if beyond || self.base & ((1 << align_lg2) - 1) != 0 {
            return Err(RegsError::TableBase { ttb: self.base });
        }
        Ok(())
    }
}

fn output_bits(ps: u8, granule: Granule, ds: bool) -> Result<u32, RegsError> {
    const BITS: [u32; 7] = [32, 36, 40, 42, 44, 48, 52];
    let bits = *BITS.get(ps as usize).ok_or(RegsError::OutputSize { ps })?;
    if bits == 52 && granule != Granule::K64 && !ds {
        return Err(RegsError::OutputSize { ps });
    }
    Ok(bits)
}

fn input_bits(tsz: u8, granule: Granule, ds: bool) -> Result<u32, RegsError> {
    let least = if granule == Granule::K64 || ds {
        12
    } else {
        16
    };
    // 39 without small tables (IDR3.STT); with them 48, or 47 for 64K.
    let most = if granule == Granule::K64 { 47 } else { 48 };
    if !(least..=most).contains(&tsz) {
        return Err(RegsError::InputSize { tsz });
    }
    Ok(64 - u32::from(tsz))
}

/// Both halves of a stage 1 regime; a half that is turned off is `None`.
pub(super) fn stage1(regs: &Stage1Regs) -> Result<[Option<Geometry>; 2], RegsError> {
    let half = |base, tsz, granule| {
        let input_bits = input_bits(tsz, granule, regs.ds)?;
        let resolved = input_bits.saturating_sub(granule.lg2());
        let levels = resolved.div_ceil(granule.index_bits()).max(1);
        let geometry = Geometry {
            base,
            granule,
            input_bits,
            start: 4 - levels as i8,
            output_bits: output_bits(regs.ips, granule, regs.ds)?,
            ds: regs.ds && granule != Granule::K64,
            stage2: false,
            affd: regs.affd,
            ha: regs.ha,
            hd: regs.hd,
        };
        geometry.check_base()?;
        Ok(geometry)
    };
    let low = if regs.epd0 {
        None
    } else {
        let granule = match regs.tg0 {
            0 => Granule::K4,
            1 => Granule::K64,
            2 => Granule::K16,
            tg => return Err(RegsError::Granule { tg }),
        };
        Some(half(regs.ttb0, regs.t0sz, granule)?)
    };
    let high = if regs.epd1 {
        None
    } else {
        let granule = match regs.tg1 {
            1 => Granule::K16,
            2 => Granule::K4,
            3 => Granule::K64,
            tg => return Err(RegsError::Granule { tg }),
        };
        Some(half(regs.ttb1, regs.t1sz, granule)?)
    };
    Ok([low, high])
}

/// The shape of a stage 2 regime.
pub(super) fn stage2(regs: &Stage2Regs) -> Result<Geometry, RegsError> {
    let granule = match regs.tg {
        0 => Granule::K4,
        1 => Granule::K64,
        2 => Granule::K16,
        tg => return Err(RegsError::Granule { tg }),
    };
    let input_bits = input_bits(regs.t0sz, granule, regs.ds)?;
    let bad_start = RegsError::StartLevel { sl0: regs.sl0 };
    let start = match (granule, regs.sl0) {
        (Granule::K4, 0) => 2,
        (Granule::K4, 1) => 1,
        (Granule::K4, 2) => 0,
        (Granule::K16 | Granule::K64, 0) => 3,
        (Granule::K16 | Granule::K64, 1) => 2,
        (Granule::K16 | Granule::K64, 2) => 1,
        (Granule::K16, 3) if regs.ds => 0,
        (Granule::K4, 4) if regs.ds => -1,
        _ => return Err(bad_start),
    };
    let geometry = Geometry {
        base: regs.ttb,
        granule,
        input_bits,
        start,
        output_bits: output_bits(regs.ps, granule, regs.ds)?,
        ds: regs.ds && granule != Granule::K64,
        stage2: true,
        affd: regs.affd,
        ha: regs.ha,
        hd: regs.hd,
    };
    // At least one bit is resolved at the first level, and at most 16 tables
    // are concatenated there.
    let shift = geometry.shift(start);
    if input_bits <= shift || input_bits > shift + granule.index_bits() + 4 {
        return Err(bad_start);
    }
    geometry.check_base()?;
    Ok(geometry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low(tg0: u8, t0sz: u8, ips: u8) -> Result<Geometry, RegsError> {
        stage1(&Stage1Regs {
            tg0,
            t0sz,
            ips,
            epd0: false,
            ..Stage1Regs::default()
        })
        .map(|halves| halves[0].unwrap())
    }

    #[test]
    fn stage1_starts_where_the_architecture_says() {
        // (TG0, input bits, first level), from the table in DDI 0487, D8.2.
        let cases = [
            (0, 32, 1),
            (0, 36, 1),
            (0, 40, 0),
            (0, 48, 0),
            (2, 32, 2),
            (2, 36, 2),
            (2, 40, 1),
            (2, 48, 0),
            (1, 32, 2),
            (1, 42, 2),
            (1, 44, 1),
            (1, 52, 1),
        ];
        for (tg, bits, start) in cases {
            let geometry = low(tg, 64 - bits, 5).unwrap();
            assert_eq!(geometry.start, start, "TG0 {tg}, {bits} bits");
            assert_eq!(geometry.input_bits, u32::from(bits));
        }
    }

    #[test]
    fn bad_input_65_reserved_and_inconsistent_fields_are_refused() {
        assert_eq!(low(3, 16, 5), Err(RegsError::Granule { tg: 3 }));
        assert_eq!(low(0, 12, 5), Err(RegsError::InputSize { tsz: 12 }));
        assert_eq!(low(0, 49, 5), Err(RegsError::InputSize { tsz: 49 }));
        assert_eq!(low(1, 48, 5), Err(RegsError::InputSize { tsz: 48 }));
        assert_eq!(low(0, 16, 6), Err(RegsError::OutputSize { ps: 6 }));
        assert_eq!(low(0, 16, 7), Err(RegsError::OutputSize { ps: 7 }));
        let s2 = |tg, t0sz, sl0, ttb| {
            stage2(&Stage2Regs {
                ttb,
                t0sz,
                sl0,
                tg,
                ps: 2,
                ds: false,
                affd: false,
                ha: false,
                hd: false,
            })
            .map(|g| g.start)
        };
        // 40 bits of 4K: two concatenated tables at level 1, or level 0.
        assert_eq!(s2(0, 24, 1, 0x2000), Ok(1));
        assert_eq!(s2(0, 24, 2, 0x2000), Ok(0));
        assert_eq!(s2(0, 24, 0, 0x2000), Err(RegsError::StartLevel { sl0: 0 }));
        assert_eq!(s2(0, 24, 3, 0x2000), Err(RegsError::StartLevel { sl0: 3 }));
        assert_eq!(s2(0, 16, 1, 0x2000), Err(RegsError::StartLevel { sl0: 1 }));
        // Two tables of 4K: 8K alignment.
        assert_eq!(
            s2(0, 24, 1, 0x1000),
            Err(RegsError::TableBase { ttb: 0x1000 })
        );
        assert_eq!(
            s2(0, 24, 1, 1 << 40),
            Err(RegsError::TableBase { ttb: 1 << 40 })
        );
    }
}
