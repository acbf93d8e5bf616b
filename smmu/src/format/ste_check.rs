//! Which stream table entries are illegal (5.2.2).

use core::fmt;

use dmabench_platform::Granule;

use super::{
    Features, S1Dss, StallModel, Ste, SteConfig, SteFields, TtEndian,
    cd_check::{size_in_bits, table_base_out_of_range, txsz_out_of_range},
};

/// Why an entry makes the SMMU abort with `C_BAD_STE` (5.2.2, Non-secure,
/// SMMUv3.1 and later).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SteIllegal {
    /// `V` = 0.
    NotValid,
    /// `Config[0]` without `IDR0.S1P`.
    NoStage1,
    /// `Config[1]` without `IDR0.S2P`.
    NoStage2,
    /// `EATS` contradicts `Config`, `S2S` or `IDR0.NS1ATS`.
    Eats,
    /// `STRW` is reserved.
    Strw,
    /// `S1STALLD` although `IDR0.STALL_MODEL` is not 0.
    S1StallDisable,
    /// `S1CDMax` is above `IDR1.SSIDSIZE`.
    CdMax,
    /// `S1Fmt` asks for two levels without `IDR0.CD2L`.
    S1Format,
    /// `S1ContextPtr` is beyond the intermediate (nested) or output address
    /// size.
    ContextPointer,
    /// `S2FWB` with VMSAv8-32.
    Fwb,
    /// `S2S` contradicts `IDR0.STALL_MODEL`.
    S2Stall,
    /// `S2AA64` names a table format the SMMU does not have.
    TableFormat,
    /// `S2HA` or `S2HD` beyond what `IDR0.HTTU` offers.
    HardwareUpdate,
    /// `S2TG` is reserved or not supported.
    Granule,
    /// `S2TTB` is beyond the effective `S2PS`.
    TableBase,
    /// `S2T0SZ` is out of range.
    InputSize,
    /// `S2SL0` does not fit `S2T0SZ` and `S2TG`.
    StartLevel,
    /// `S2ENDI` contradicts `IDR0.TTENDIAN`.
    Endian,
    /// `S2VMID` has more than 8 bits without `IDR0.VMID16`.
    Vmid,
    /// `S1DSS` = 3: reserved, behaves as 0. Not illegal for hardware, but an
    /// entry that does not say what it does.
    ReservedDss,
}

impl fmt::Display for SteIllegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SteIllegal::NotValid => "STE.V is 0",
            SteIllegal::NoStage1 => "the SMMU has no stage 1; configure stage 2",
            SteIllegal::NoStage2 => "the SMMU has no stage 2; configure stage 1",
            SteIllegal::Eats => "STE.EATS does not fit Config, S2S or the SMMU's ATS support",
            SteIllegal::Strw => "STE.STRW is reserved; use 0 or 2",
            SteIllegal::S1StallDisable => "S1STALLD must be 0 on this stall model",
            SteIllegal::CdMax => "S1CDMax is above SSIDSIZE",
            SteIllegal::S1Format => "the SMMU has no two-level context tables; use a linear one",
            SteIllegal::ContextPointer => "S1ContextPtr is beyond the address size",
            SteIllegal::Fwb => "S2FWB needs VMSAv8-64 tables",
            SteIllegal::S2Stall => "S2S does not fit the stall model",
            SteIllegal::TableFormat => "S2AA64 names a table format the SMMU does not have",
            SteIllegal::HardwareUpdate => "S2HA or S2HD without HTTU",
            SteIllegal::Granule => "S2TG is reserved or not supported",
            SteIllegal::TableBase => "S2TTB is beyond the output size",
            SteIllegal::InputSize => "S2T0SZ is out of range",
            SteIllegal::StartLevel => "S2SL0 does not fit S2T0SZ and S2TG",
            SteIllegal::Endian => "S2ENDI does not fit the SMMU's endianness",
            SteIllegal::Vmid => "S2VMID has more than 8 bits",
            SteIllegal::ReservedDss => "S1DSS is reserved; use 0 to 2",
        })
    }
}

impl core::error::Error for SteIllegal {}

/// Checks an entry as the SMMU does when it fetches it.
///
/// # Errors
///
/// The first violated rule, in the order of 5.2.2.
pub fn check_ste(ste: &Ste, features: &Features) -> Result<SteFields, SteIllegal> {
    let fields = SteFields::decode(ste);
    if !fields.valid {
        return Err(SteIllegal::NotValid);
    }
    let config = fields.config;
    if config == SteConfig::Abort {
        return Ok(fields);
    }
    if config.stage1() && !features.stage1 {
        return Err(SteIllegal::NoStage1);
    }
    if config.stage2() && !features.stage2 {
        return Err(SteIllegal::NoStage2);
    }
    check_eats(&fields, features)?;
    if strw_used(&fields, features) && fields.strw & 1 != 0 {
        return Err(SteIllegal::Strw);
    }
    if config.stage1() {
        check_stage1(&fields, features)?;
    }
    if config.stage2() {
        check_stage2(&fields, features)?;
    }
    let el1 = !strw_used(&fields, features) || fields.strw == 0;
    let vmid_used = features.stage2 && config != SteConfig::Bypass && el1;
    if vmid_used && !features.vmid16 && fields.stage2.vmid > 0xff {
        return Err(SteIllegal::Vmid);
    }
    if config.stage1() && features.ssid_bits != 0 && fields.s1_cd_max != 0 && fields.s1_dss == 3 {
        return Err(SteIllegal::ReservedDss);
    }
    Ok(fields)
}

/// `IgnoreSTESTRW` of 5.2.2, turned around.
fn strw_used(fields: &SteFields, features: &Features) -> bool {
    features.stage1 && features.hyp && fields.config == SteConfig::Stage1
}

fn check_eats(fields: &SteFields, features: &Features) -> Result<(), SteIllegal> {
    if !features.ats || fields.config == SteConfig::Bypass {
        return Ok(());
    }
    let stall = fields.stage2.stall;
    let bad = match fields.eats {
        2 => fields.config != SteConfig::Nested || stall || features.no_split_stage_ats,
        1 => stall && fields.config.stage2(),
        _ => false,
    };
    if bad { Err(SteIllegal::Eats) } else { Ok(()) }
}

fn check_stage1(fields: &SteFields, features: &Features) -> Result<(), SteIllegal> {
    if fields.s1_stall_disabled && features.stall_model != StallModel::Both {
        return Err(SteIllegal::S1StallDisable);
    }
    if features.ssid_bits != 0 {
        if u32::from(fields.s1_cd_max) > features.ssid_bits {
            return Err(SteIllegal::CdMax);
        }
        let two_level = matches!(fields.s1_format, 1 | 2);
        if fields.s1_cd_max != 0 && !features.cd_two_level && two_level {
            return Err(SteIllegal::S1Format);
        }
    }
    let bits = if fields.config == SteConfig::Nested {
        features.ias_bits()
    } else {
        features.oas_bits
    };
    if fields.s1_context.0 >> bits != 0 {
        return Err(SteIllegal::ContextPointer);
    }
    Ok(())
}

fn check_stage2(fields: &SteFields, features: &Features) -> Result<(), SteIllegal> {
    let s2 = &fields.stage2;
    if !s2.aa64 && features.fwb && s2.fwb {
        return Err(SteIllegal::Fwb);
    }
    let stall_fits = match features.stall_model {
        StallModel::Both => true,
        StallModel::TerminateOnly => !s2.stall,
        StallModel::StallForced => s2.stall,
    };
    if !stall_fits {
        return Err(SteIllegal::S2Stall);
    }
    // VMSAv8-32 is not decoded; this crate's `Features` do not offer it.
    if !s2.aa64 || !features.aarch64_tables {
        return Err(SteIllegal::TableFormat);
    }
    if (s2.ha || s2.hd) && features.httu == 0 || s2.hd && features.httu == 1 {
        return Err(SteIllegal::HardwareUpdate);
    }
    let Some(granule) = s2.granule.filter(|g| features.supports(*g)) else {
        return Err(SteIllegal::Granule);
    };
    let ds = s2.ds && features.ds;
    let bits = size_in_bits(s2.ps).min(features.oas_bits);
    if table_base_out_of_range(s2.ttb, granule, ds, bits) {
        return Err(SteIllegal::TableBase);
    }
    let least = 64 - features.ias_bits();
    if txsz_out_of_range(s2.t0sz, granule, ds, true, features) || u32::from(s2.t0sz) < least {
        return Err(SteIllegal::InputSize);
    }
    if !start_level_fits(s2.t0sz, s2.sl0, granule, ds, features) {
        return Err(SteIllegal::StartLevel);
    }
    let endian_fits = match features.tt_endian {
        TtEndian::Mixed => true,
        TtEndian::Little => !s2.big_endian,
        TtEndian::Big => s2.big_endian,
    };
    if !endian_fits {
        return Err(SteIllegal::Endian);
    }
    Ok(())
}

/// Whether the walk that `S2SL0` starts resolves all of `S2T0SZ`'s bits with at
/// least one bit and at most 16 tables at its first level (5.2, `S2SL0`; Arm DDI
/// 0487, D8.2.9).
fn start_level_fits(t0sz: u8, sl0: u8, granule: Granule, ds: bool, features: &Features) -> bool {
    let level: i32 = match (granule, sl0) {
        (Granule::K4, 0) => 2,
        (Granule::K4, 1) => 1,
        (Granule::K4, 2) => 0,
        (Granule::K4, 3) if features.small_tables => 3,
        (Granule::K4, 4) if ds => -1,
        (Granule::K16 | Granule::K64, 0) => 3,
        (Granule::K16 | Granule::K64, 1) => 2,
        (Granule::K16 | Granule::K64, 2) => 1,
        (Granule::K16, 3) if ds => 0,
        _ => return false,
    };
    let input_bits = 64 - u32::from(t0sz);
    let shift = granule.lg2() + (3 - level) as u32 * granule.index_bits();
    input_bits > shift && input_bits <= shift + granule.index_bits() + 4
}

impl S1Dss {
    /// From the field; `None` for the reserved 3.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(S1Dss::Terminate),
            1 => Some(S1Dss::Bypass),
            2 => Some(S1Dss::Substream0),
            _ => None,
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use dmabench_platform::PhysAddr;

    use super::*;
    use crate::format::{Stage2Fields, features::tests::everything};

    fn s2() -> Stage2Fields {
        Stage2Fields {
            vmid: 1,
            t0sz: 24,
            sl0: 1,
            ps: 2,
            ttb: PhysAddr(0x2000),
            ..Stage2Fields::default()
        }
    }

    fn check(fields: SteFields, features: &Features) -> Result<(), SteIllegal> {
        check_ste(&fields.encode(), features).map(|_| ())
    }

    /// Each rule broken alone, on the least able SMMU that shows it.
    #[test]
    fn bad_input_65_every_illegal_entry_is_refused() {
        use SteIllegal as E;
        let f = everything();
        let v8 = Features { ds: false, ..f };
        let stage1 = SteFields::stage1(PhysAddr(0x1000), 0);
        let nested = SteFields::nested(PhysAddr(0x1000), 0, s2());
        let stage2 = |change: fn(&mut Stage2Fields)| {
            let mut fields = s2();
            change(&mut fields);
            SteFields::stage2(fields)
        };
        for good in [SteFields::abort(), SteFields::bypass(), stage1, nested] {
            assert_eq!(check(good, &f), Ok(()));
        }
        type Row = (SteFields, Features, SteIllegal);
        let rows: &[Row] = &[
            (
                SteFields {
                    valid: false,
                    ..stage1
                },
                f,
                E::NotValid,
            ),
            (stage1, Features { stage1: false, ..f }, E::NoStage1),
            (nested, Features { stage2: false, ..f }, E::NoStage2),
            (SteFields { eats: 2, ..stage1 }, f, E::Eats),
            (
                SteFields { eats: 2, ..nested },
                Features {
                    no_split_stage_ats: true,
                    ..f
                },
                E::Eats,
            ),
            (
                SteFields {
                    eats: 1,
                    ..stage2(|s| s.stall = true)
                },
                f,
                E::Eats,
            ),
            (SteFields { strw: 1, ..stage1 }, f, E::Strw),
            (SteFields { strw: 3, ..stage1 }, f, E::Strw),
            (
                SteFields {
                    s1_stall_disabled: true,
                    ..stage1
                },
                Features {
                    stall_model: StallModel::TerminateOnly,
                    ..f
                },
                E::S1StallDisable,
            ),
            (SteFields::stage1(PhysAddr(0), 21), f, E::CdMax),
            (
                SteFields {
                    s1_format: 1,
                    ..SteFields::stage1(PhysAddr(0), 2)
                },
                Features {
                    cd_two_level: false,
                    ..f
                },
                E::S1Format,
            ),
            (
                SteFields::stage1(PhysAddr(1 << 44), 0),
                Features { oas_bits: 44, ..f },
                E::ContextPointer,
            ),
            (stage2(|s| (s.aa64, s.fwb) = (false, true)), f, E::Fwb),
            (
                stage2(|s| s.stall = true),
                Features {
                    stall_model: StallModel::TerminateOnly,
                    ..f
                },
                E::S2Stall,
            ),
            (
                stage2(|_| ()),
                Features {
                    stall_model: StallModel::StallForced,
                    ..f
                },
                E::S2Stall,
            ),
            (stage2(|s| s.aa64 = false), f, E::TableFormat),
            (
                stage2(|s| s.ha = true),
                Features { httu: 0, ..f },
                E::HardwareUpdate,
            ),
            (
                stage2(|s| s.hd = true),
                Features { httu: 1, ..f },
                E::HardwareUpdate,
            ),
            (
                stage2(|s| s.granule = Some(Granule::K16)),
                Features {
                    gran16k: false,
                    ..f
                },
                E::Granule,
            ),
            (stage2(|s| s.granule = None), f, E::Granule),
            (stage2(|s| s.ttb = PhysAddr(1 << 40)), f, E::TableBase),
            (
                stage2(|s| (s.ps, s.ttb) = (6, PhysAddr(1 << 48))),
                v8,
                E::TableBase,
            ),
            (
                stage2(|s| s.t0sz = 40),
                Features {
                    small_tables: false,
                    ..f
                },
                E::InputSize,
            ),
            (stage2(|s| (s.t0sz, s.sl0) = (15, 2)), v8, E::InputSize),
            (
                stage2(|s| (s.t0sz, s.sl0) = (16, 2)),
                Features { oas_bits: 44, ..v8 },
                E::InputSize,
            ),
            (stage2(|s| s.sl0 = 0), f, E::StartLevel),
            (stage2(|s| (s.t0sz, s.sl0) = (16, 1)), f, E::StartLevel),
            (stage2(|s| s.sl0 = 4), f, E::StartLevel),
            (
                stage2(|s| s.big_endian = true),
                Features {
                    tt_endian: TtEndian::Little,
                    ..f
                },
                E::Endian,
            ),
            (
                stage2(|_| ()),
                Features {
                    tt_endian: TtEndian::Big,
                    ..f
                },
                E::Endian,
            ),
            (
                stage2(|s| s.vmid = 0x100),
                Features { vmid16: false, ..f },
                E::Vmid,
            ),
            (
                SteFields {
                    s1_dss: 3,
                    ..SteFields::stage1(PhysAddr(0), 1)
                },
                f,
                E::ReservedDss,
            ),
        ];
        for (fields, features, illegal) in rows {
            assert_eq!(check(*fields, features), Err(*illegal), "{fields:?}");
        }
    }

    #[test]
    fn fields_that_a_configuration_ignores_do_not_matter() {
        let f = Features {
            vmid16: false,
            ..everything()
        };
        // Stage 2 fields of a bypass entry; STRW where stage 2 is on; the VMID
        // of an EL2 stream.
        let mut bypass = SteFields::bypass();
        bypass.stage2.vmid = 0xffff;
        bypass.stage2.t0sz = 63;
        bypass.strw = 1;
        bypass.eats = 2;
        assert_eq!(check(bypass, &f), Ok(()));
        let mut nested = SteFields::nested(PhysAddr(0), 0, s2());
        nested.strw = 3;
        assert_eq!(check(nested, &f), Ok(()));
        let mut el2 = SteFields::stage1(PhysAddr(0), 0);
        el2.strw = 2;
        el2.stage2.vmid = 0xffff;
        assert_eq!(check(el2, &f), Ok(()));
        let mut abort = SteFields::abort();
        abort.s1_cd_max = 31;
        assert_eq!(check(abort, &f), Ok(()));
    }

    /// The rows of the architecture's table of start levels.
    #[test]
    fn start_levels_of_every_granule() {
        let f = everything();
        let ok = |t0sz, sl0, g, ds| start_level_fits(t0sz, sl0, g, ds, &f);
        // 4K, 40 bits: level 1 with two tables, or level 0.
        assert!(ok(24, 1, Granule::K4, false) && ok(24, 2, Granule::K4, false));
        // 4K, 43 bits: 16 tables at level 1 still; 44 bits need level 0.
        assert!(ok(21, 1, Granule::K4, false) && !ok(20, 1, Granule::K4, false));
        // 16K, 40 bits: 16 tables at level 2.
        assert!(ok(24, 1, Granule::K16, false) && !ok(23, 1, Granule::K16, false));
        assert!(ok(16, 2, Granule::K16, false) && !ok(16, 3, Granule::K16, false));
        assert!(ok(16, 3, Granule::K16, true));
        assert!(ok(12, 2, Granule::K64, false) && !ok(12, 1, Granule::K64, false));
        assert!(ok(12, 4, Granule::K4, true) && !ok(12, 4, Granule::K4, false));
        assert!(!ok(24, 3, Granule::K64, true));
    }
}
