//! Which context descriptors are illegal (5.4.2).

use core::fmt;

use dmabench_platform::{Granule, PhysAddr};

use super::{Cd, CdFields, Features, StallModel, SteFields, TableHalf, TtEndian, cd::tg0_code};

/// Why a descriptor makes the SMMU abort with `C_BAD_CD` (5.4.2, Non-secure EL1,
/// SMMUv3.1 and later).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CdIllegal {
    /// `V` = 0.
    NotValid,
    /// `S` although the stream's `S1STALLD` is 1.
    StallDisabled,
    /// `A` = 0 although `IDR0.TERM_MODEL` is 1.
    TermModel,
    /// `S` contradicts `IDR0.STALL_MODEL`.
    Stall,
    /// `ENDI` contradicts `IDR0.TTENDIAN`.
    Endian,
    /// `AA64` names a table format the SMMU does not have, or that `S2AA64` of a
    /// nested stream rules out.
    TableFormat,
    /// `HA`, `HD` or `HAFT` beyond what `IDR0.HTTU` offers.
    HardwareUpdate,
    /// The ASID has more than 8 bits without `IDR0.ASID16`.
    Asid,
    /// `TxSZ` of an enabled half is out of range.
    InputSize,
    /// `TGx` of an enabled half is reserved or not supported.
    Granule,
    /// `TTBx` of an enabled half is beyond the effective `IPS`.
    TableBase,
}

impl fmt::Display for CdIllegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CdIllegal::NotValid => "CD.V is 0",
            CdIllegal::StallDisabled => "CD.S on a stream with S1STALLD",
            CdIllegal::TermModel => "CD.A must be 1 on this SMMU",
            CdIllegal::Stall => "CD.S does not fit the stall model",
            CdIllegal::Endian => "CD.ENDI does not fit the SMMU's endianness",
            CdIllegal::TableFormat => "CD.AA64 names a table format that cannot be used here",
            CdIllegal::HardwareUpdate => "CD.HA, HD or HAFT without HTTU",
            CdIllegal::Asid => "the ASID has more than 8 bits",
            CdIllegal::InputSize => "TxSZ is out of range",
            CdIllegal::Granule => "TGx is reserved or not supported",
            CdIllegal::TableBase => "TTBx is beyond the output size",
        })
    }
}

impl core::error::Error for CdIllegal {}

/// What the judgement of a descriptor needs to know of the stream table entry it
/// was reached through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamContext {
    /// `S1STALLD`.
    pub stall_disabled: bool,
    /// Stage 2 is on, with VMSAv8-32 tables.
    pub stage2_aarch32: bool,
}

impl StreamContext {
    /// Of an entry.
    pub const fn of(ste: &SteFields) -> Self {
        StreamContext {
            stall_disabled: ste.s1_stall_disabled,
            stage2_aarch32: ste.config.stage2() && !ste.stage2.aa64,
        }
    }
}

/// `IPS` and `S2PS` in bits; 7 behaves as 6 up to SMMUv3.3.
pub(super) fn size_in_bits(code: u8) -> u32 {
    const BITS: [u32; 8] = [32, 36, 40, 42, 44, 48, 52, 52];
    BITS[usize::from(code & 7)]
}

/// `TTBx` and `S2TTB`: beyond the size, or beyond 48 bits where descriptors of
/// the granule cannot say more.
pub(super) fn table_base_out_of_range(
    base: PhysAddr,
    granule: Granule,
    ds: bool,
    bits: u32,
) -> bool {
    let bits = if granule == Granule::K64 || ds {
        bits
    } else {
        bits.min(48)
    };
    base.0 >> bits != 0
}

/// `CDTxSZInvalid` and `STES2T0SZInvalid` (without the latter's lower bound by
/// the intermediate address size). Stage 2 does not depend on `IDR5.VAX`.
pub(super) fn txsz_out_of_range(
    txsz: u8,
    granule: Granule,
    ds: bool,
    stage2: bool,
    features: &Features,
) -> bool {
    let most = match (features.small_tables, granule) {
        (false, _) => 39,
        (true, Granule::K64) => 47,
        (true, _) => 48,
    };
    let wide = granule == Granule::K64 || ds;
    let least = if wide && (stage2 || features.va52) {
        12
    } else {
        16
    };
    !(least..=most).contains(&txsz)
}

/// Checks a descriptor as the SMMU does when it fetches it for a stream of EL1.
///
/// # Errors
///
/// The first violated rule, in the order of 5.4.2.
pub fn check_cd(
    cd: &Cd,
    stream: &StreamContext,
    features: &Features,
) -> Result<CdFields, CdIllegal> {
    let fields = CdFields::decode(cd);
    if !fields.valid {
        return Err(CdIllegal::NotValid);
    }
    if stream.stall_disabled && fields.stall {
        return Err(CdIllegal::StallDisabled);
    }
    if features.term_model && !fields.abort {
        return Err(CdIllegal::TermModel);
    }
    let stall_fits = match features.stall_model {
        StallModel::Both => true,
        StallModel::TerminateOnly => !fields.stall,
        StallModel::StallForced => fields.stall,
    };
    if !stall_fits {
        return Err(CdIllegal::Stall);
    }
    let endian_fits = match features.tt_endian {
        _ if fields.low.disabled && fields.high.disabled => true,
        TtEndian::Mixed => true,
        TtEndian::Little => !fields.big_endian,
        TtEndian::Big => fields.big_endian,
    };
    if !endian_fits {
        return Err(CdIllegal::Endian);
    }
    if !fields.aa64 || !features.aarch64_tables || stream.stage2_aarch32 {
        return Err(CdIllegal::TableFormat);
    }
    let update_fits = match features.httu {
        0 => !fields.ha && !fields.hd,
        1 => !fields.hd,
        2 => true,
        _ => !fields.haft || fields.ha,
    };
    if !update_fits {
        return Err(CdIllegal::HardwareUpdate);
    }
    if !features.asid16 && fields.asid > 0xff {
        return Err(CdIllegal::Asid);
    }
    for half in [&fields.low, &fields.high] {
        check_half(half, &fields, features)?;
    }
    Ok(fields)
}

fn check_half(half: &TableHalf, fields: &CdFields, features: &Features) -> Result<(), CdIllegal> {
    if half.disabled {
        return Ok(());
    }
    let Some(granule) = half.granule.filter(|g| features.supports(*g)) else {
        return Err(CdIllegal::Granule);
    };
    let ds = fields.ds && features.ds;
    if txsz_out_of_range(half.txsz, granule, ds, false, features) {
        return Err(CdIllegal::InputSize);
    }
    let bits = size_in_bits(fields.ips).min(features.oas_bits);
    if table_base_out_of_range(half.base, granule, ds, bits) {
        return Err(CdIllegal::TableBase);
    }
    Ok(())
}

/// Whether the codes of `TG0` are those of `S2TG`, on which both encoders rely.
const _: () = assert!(tg0_code(Some(Granule::K64)) == 1);

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::format::features::tests::everything;

    fn good() -> CdFields {
        let low = TableHalf::new(PhysAddr(0x4000), 16, Granule::K4);
        CdFields::new(7, low, 5, 0)
    }

    fn check(fields: CdFields, features: &Features) -> Result<(), CdIllegal> {
        check_cd(&fields.encode(), &StreamContext::default(), features).map(|_| ())
    }

    #[test]
    fn bad_input_65_every_illegal_descriptor_is_refused() {
        use CdIllegal as E;
        let f = everything();
        let v8 = Features { ds: false, ..f };
        assert_eq!(check(good(), &f), Ok(()));
        let low = |change: fn(&mut TableHalf)| {
            let mut fields = good();
            change(&mut fields.low);
            fields
        };
        let g = good();
        let no_stall = Features {
            stall_model: StallModel::TerminateOnly,
            ..f
        };
        let forced = Features {
            stall_model: StallModel::StallForced,
            ..f
        };
        let big = Features {
            tt_endian: TtEndian::Big,
            ..f
        };
        let little = Features {
            tt_endian: TtEndian::Little,
            ..f
        };
        let rows: &[(CdFields, Features, CdIllegal)] = &[
            (CdFields { valid: false, ..g }, f, E::NotValid),
            (
                CdFields { abort: false, ..g },
                Features {
                    term_model: true,
                    ..f
                },
                E::TermModel,
            ),
            (CdFields { stall: true, ..g }, no_stall, E::Stall),
            (g, forced, E::Stall),
            (g, big, E::Endian),
            (
                CdFields {
                    big_endian: true,
                    ..g
                },
                little,
                E::Endian,
            ),
            (CdFields { aa64: false, ..g }, f, E::TableFormat),
            (
                g,
                Features {
                    aarch64_tables: false,
                    ..f
                },
                E::TableFormat,
            ),
            (
                CdFields { ha: true, ..g },
                Features { httu: 0, ..f },
                E::HardwareUpdate,
            ),
            (
                CdFields { hd: true, ..g },
                Features { httu: 1, ..f },
                E::HardwareUpdate,
            ),
            (
                CdFields { haft: true, ..g },
                Features { httu: 3, ..f },
                E::HardwareUpdate,
            ),
            (
                CdFields { asid: 0x100, ..g },
                Features { asid16: false, ..f },
                E::Asid,
            ),
            (low(|l| l.txsz = 15), v8, E::InputSize),
            (
                low(|l| l.txsz = 40),
                Features {
                    small_tables: false,
                    ..f
                },
                E::InputSize,
            ),
            (low(|l| l.txsz = 49), f, E::InputSize),
            (
                low(|l| (l.txsz, l.granule) = (48, Some(Granule::K64))),
                f,
                E::InputSize,
            ),
            (
                low(|l| (l.txsz, l.granule) = (12, Some(Granule::K64))),
                Features { va52: false, ..f },
                E::InputSize,
            ),
            (low(|l| l.granule = None), f, E::Granule),
            (g, Features { gran4k: false, ..f }, E::Granule),
            (low(|l| l.base = PhysAddr(1 << 48)), f, E::TableBase),
            (
                CdFields {
                    ips: 6,
                    ..low(|l| l.base = PhysAddr(1 << 48))
                },
                f,
                E::TableBase,
            ),
            (
                low(|l| l.base = PhysAddr(1 << 44)),
                Features { oas_bits: 44, ..f },
                E::TableBase,
            ),
        ];
        for (fields, features, illegal) in rows {
            assert_eq!(check(*fields, features), Err(*illegal), "{fields:?}");
        }
        let stalled = CdFields { stall: true, ..g };
        let stream = StreamContext {
            stall_disabled: true,
            ..StreamContext::default()
        };
        assert_eq!(
            check_cd(&stalled.encode(), &stream, &f),
            Err(E::StallDisabled)
        );
    }

    #[test]
    fn a_disabled_half_may_hold_anything() {
        let f = Features {
            tt_endian: TtEndian::Little,
            ..everything()
        };
        let junk = TableHalf {
            base: PhysAddr(0xf_ffff_ffff_fff0),
            txsz: 63,
            granule: None,
            inner: 3,
            outer: 3,
            shareability: 3,
            disabled: true,
        };
        assert_eq!(
            check(
                CdFields {
                    high: junk,
                    ..good()
                },
                &f
            ),
            Ok(())
        );
        let both = CdFields {
            low: junk,
            high: junk,
            big_endian: true,
            ..good()
        };
        assert_eq!(check(both, &f), Ok(()));
        // 52 bits with DS, which widens both TxSZ and TTBx.
        let mut wide = good();
        wide.ds = true;
        wide.ips = 6;
        wide.low.txsz = 12;
        wide.low.base = PhysAddr(1 << 51);
        assert_eq!(check(wide, &everything()), Ok(()));
    }
}
