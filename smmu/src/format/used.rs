//! Which bits of an entry the SMMU looks at, given the rest of the entry: what
//! an update may change without being seen.

use super::{
    Cd, Ste, SteConfig, SteFields,
    bits::{bit, span},
};

/// The bits of `ste` that have an effect, as a mask of its words (5.2; the
/// summary of attributes in 13.5 for `SHCFG`).
///
/// * `V` = 0: only `V`.
/// * Abort: `V` and `Config`.
/// * Bypass: also `SHCFG`.
/// * Stage 1: its own fields, and `S2VMID`, which tags the translations; and
///   `SHCFG` where `S1DSS` lets transactions skip the stage.
/// * Stage 2: its own fields.
pub const fn used_by_ste(ste: &Ste) -> [u64; 8] {
    let mut used = [0; 8];
    used[0] = 1;
    let fields = SteFields::decode(ste);
    if !fields.valid {
        return used;
    }
    used[0] |= span(3, 1);
    const S1_WORD0: u64 = span(5, 4) | span(55, 6) | span(63, 59);
    // S1DSS, S1CIR, S1COR, S1CSH, MEV, S1STALLD, EATS, STRW.
    const S1_WORD1: u64 = span(7, 0) | 1 << 19 | 1 << 27 | span(31, 28);
    const SHCFG: u64 = span(45, 44);
    const VMID: u64 = span(15, 0);
    // MEV, S2FWB, EATS.
    const S2_WORD1: u64 = 1 << 19 | 1 << 25 | span(29, 28) | SHCFG;
    // VTCR, S2AA64 to S2R.
    const S2_WORD2: u64 = span(58, 32) | VMID;
    const S2_WORD3: u64 = span(51, 4) | span(3, 2);
    if fields.config.stage1() {
        used[0] |= S1_WORD0;
        used[1] |= S1_WORD1;
        used[2] |= VMID;
        if fields.s1_dss == 1 {
            used[1] |= SHCFG;
        }
    }
    if fields.config.stage2() {
        used[1] |= S2_WORD1;
        used[2] |= S2_WORD2;
        used[3] |= S2_WORD3;
    }
    if matches!(fields.config, SteConfig::Bypass) {
        used[1] |= SHCFG;
    }
    used
}

/// The bits of `cd` that have an effect (5.4): with `V` = 0 only `V`; a half
/// whose `EPD` is set hides its size, granule, attributes and base.
pub const fn used_by_cd(cd: &Cd) -> [u64; 8] {
    const V: u64 = 1 << 31;
    let [q0, ..] = cd.0;
    if !bit(q0, 31) {
        return [V, 0, 0, 0, 0, 0, 0, 0];
    }
    let mut used = [u64::MAX; 8];
    if bit(q0, 14) {
        // T0SZ to SH0, TTB0.
        used[0] &= !span(13, 0);
        used[1] &= !span(51, 4);
    }
    if bit(q0, 30) {
        // T1SZ to SH1, TTB1.
        used[0] &= !span(29, 16);
        used[2] &= !span(51, 4);
    }
    used
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use dmabench_platform::PhysAddr;

    use super::*;
    use crate::format::{CdFields, Stage2Fields, TableHalf};

    /// An entry that its maker built has no bit that is not used.
    #[test]
    fn builders_set_only_bits_that_are_used() {
        let s2 = Stage2Fields {
            vmid: 7,
            ttb: PhysAddr(0x10_0000),
            ds: true,
            sl0: 4,
            fwb: true,
            ..Stage2Fields::default()
        };
        let mut dss = SteFields::stage1(PhysAddr(0x40), 3);
        dss.s1_dss = 1;
        dss.shcfg = 1;
        for fields in [
            SteFields::abort(),
            SteFields::bypass(),
            SteFields::stage1(PhysAddr(0x40), 3),
            dss,
            SteFields::stage2(s2),
            SteFields::nested(PhysAddr(0x40), 3, s2),
        ] {
            let ste = fields.encode();
            let used = used_by_ste(&ste);
            for (word, mask) in ste.0.iter().zip(used) {
                assert_eq!(word & !mask, 0, "{fields:?}");
            }
        }
        let low = TableHalf::new(PhysAddr(0x1000), 16, dmabench_platform::Granule::K4);
        let cd = CdFields::new(1, low, 5, 3).encode();
        let used = used_by_cd(&cd);
        for (word, mask) in cd.0.iter().zip(used) {
            assert_eq!(word & !mask, 0);
        }
        assert_eq!(used_by_cd(&Cd::default())[0], 1 << 31);
        assert_eq!(used_by_ste(&Ste::default())[0], 1);
    }
}
