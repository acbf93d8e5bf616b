//! Stream table entries (5.2).

use dmabench_platform::{Granule, PhysAddr};

use super::{
    bits::{bit, flag, get, put, span},
    cd::{tg0_code, tg0_granule},
};

/// A stream table entry as memory holds it: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ste(pub [u64; 8]);

/// `STE.Config`: what happens to the stream's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteConfig {
    /// 0b0xx: aborted, without an event.
    Abort,
    /// 0b100: passed on as they are.
    Bypass,
    /// 0b101.
    Stage1,
    /// 0b110.
    Stage2,
    /// 0b111: stage 1, then stage 2.
    Nested,
}

impl SteConfig {
    /// The field.
    pub const fn code(self) -> u8 {
        match self {
            SteConfig::Abort => 0,
            SteConfig::Bypass => 4,
            SteConfig::Stage1 => 5,
            SteConfig::Stage2 => 6,
            SteConfig::Nested => 7,
        }
    }

    /// From the low three bits of `code`.
    pub const fn from_code(code: u8) -> Self {
        match code & 7 {
            4 => SteConfig::Bypass,
            5 => SteConfig::Stage1,
            6 => SteConfig::Stage2,
            7 => SteConfig::Nested,
            _ => SteConfig::Abort,
        }
    }

    /// `Config[0]` with translation on.
    pub const fn stage1(self) -> bool {
        matches!(self, SteConfig::Stage1 | SteConfig::Nested)
    }

    /// `Config[1]` with translation on.
    pub const fn stage2(self) -> bool {
        matches!(self, SteConfig::Stage2 | SteConfig::Nested)
    }
}

/// `STE.S1DSS`: transactions without a substream where substreams exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum S1Dss {
    /// 0: aborted, with an event.
    Terminate = 0,
    /// 1: stage 1 is skipped.
    Bypass = 1,
    /// 2: they use substream 0.
    Substream0 = 2,
}

/// The stage 2 fields: `S2VMID` to `S2TTB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2Fields {
    /// `S2VMID`.
    pub vmid: u16,
    /// `S2T0SZ`: 64 minus the bits of an input address.
    pub t0sz: u8,
    /// `S2SL0` with `S2SL0_2` above it.
    pub sl0: u8,
    /// `S2IR0`.
    pub ir0: u8,
    /// `S2OR0`.
    pub or0: u8,
    /// `S2SH0`.
    pub sh0: u8,
    /// `S2TG`; `None` for the reserved code.
    pub granule: Option<Granule>,
    /// `S2PS`.
    pub ps: u8,
    /// `S2AA64`: VMSAv8-64 tables.
    pub aa64: bool,
    /// `S2ENDI`: big-endian tables.
    pub big_endian: bool,
    /// `S2AFFD`: an access flag of 0 does not fault.
    pub affd: bool,
    /// `S2PTW`: no table walks in device memory.
    pub protected_walk: bool,
    /// `S2HD`.
    pub hd: bool,
    /// `S2HA`.
    pub ha: bool,
    /// `S2S`: faults stall.
    pub stall: bool,
    /// `S2R`: faults are recorded.
    pub record: bool,
    /// `S2FWB`.
    pub fwb: bool,
    /// `S2DS`: 52 bits with 4K and 16K.
    pub ds: bool,
    /// `S2TTB`.
    pub ttb: PhysAddr,
}

impl Default for Stage2Fields {
    /// Little-endian VMSAv8-64 tables of 4K, 48 bits, walked in inner shareable
    /// write-back memory, faults recorded and not stalled; no table.
    fn default() -> Self {
        Stage2Fields {
            vmid: 0,
            t0sz: 16,
            sl0: 2,
            ir0: 1,
            or0: 1,
            sh0: 3,
            granule: Some(Granule::K4),
            ps: 5,
            aa64: true,
            big_endian: false,
            affd: false,
            protected_walk: false,
            hd: false,
            ha: false,
            stall: false,
            record: true,
            fwb: false,
            ds: false,
            ttb: PhysAddr(0),
        }
    }
}

/// The fields of an entry that this crate uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteFields {
    /// `V`.
    pub valid: bool,
    /// `Config`.
    pub config: SteConfig,
    /// `S1Fmt`: 0 linear, 1 and 2 two levels with leaves of 4K and 64K.
    pub s1_format: u8,
    /// `S1ContextPtr[55:6]`.
    pub s1_context: PhysAddr,
    /// `S1CDMax`: base-2 logarithm of the number of context descriptors.
    pub s1_cd_max: u8,
    /// `S1DSS`.
    pub s1_dss: u8,
    /// `S1CIR`.
    pub s1_cir: u8,
    /// `S1COR`.
    pub s1_cor: u8,
    /// `S1CSH`.
    pub s1_csh: u8,
    /// `MEV`: events may be merged.
    pub merge_events: bool,
    /// `S1STALLD`: stage 1 faults never stall.
    pub s1_stall_disabled: bool,
    /// `EATS`: 0 no ATS, 1 full, 2 split-stage.
    pub eats: u8,
    /// `STRW`: 0 EL1, 2 EL2.
    pub strw: u8,
    /// `SHCFG`: shareability of what is not translated by stage 1; 1 is "as it
    /// comes in".
    pub shcfg: u8,
    /// The fields of stage 2.
    pub stage2: Stage2Fields,
}

impl SteFields {
    const NONE: SteFields = SteFields {
        valid: true,
        config: SteConfig::Abort,
        s1_format: 0,
        s1_context: PhysAddr(0),
        s1_cd_max: 0,
        s1_dss: 0,
        s1_cir: 0,
        s1_cor: 0,
        s1_csh: 0,
        merge_events: false,
        s1_stall_disabled: false,
        eats: 0,
        strw: 0,
        shcfg: 0,
        stage2: Stage2Fields {
            vmid: 0,
            t0sz: 0,
            sl0: 0,
            ir0: 0,
            or0: 0,
            sh0: 0,
            granule: Some(Granule::K4),
            ps: 0,
            aa64: false,
            big_endian: false,
            affd: false,
            protected_walk: false,
            hd: false,
            ha: false,
            stall: false,
            record: false,
            fwb: false,
            ds: false,
            ttb: PhysAddr(0),
        },
    };

    /// Every transaction is aborted.
    pub const fn abort() -> Self {
        Self::NONE
    }

    /// Every transaction passes.
    pub const fn bypass() -> Self {
        SteFields {
            config: SteConfig::Bypass,
            shcfg: 1,
            ..Self::NONE
        }
    }

    /// Stage 1 with the context descriptors at `context`, `2^cd_max` of them in
    /// a linear table that is read in inner shareable write-back memory.
    /// Transactions without a substream use the first.
    pub const fn stage1(context: PhysAddr, cd_max: u8) -> Self {
        SteFields {
            config: SteConfig::Stage1,
            s1_context: context,
            s1_cd_max: cd_max,
            s1_dss: S1Dss::Substream0 as u8,
            s1_cir: 1,
            s1_cor: 1,
            s1_csh: 3,
            ..Self::NONE
        }
    }

    /// Stage 2.
    pub const fn stage2(fields: Stage2Fields) -> Self {
        SteFields {
            config: SteConfig::Stage2,
            shcfg: 1,
            stage2: fields,
            ..Self::NONE
        }
    }

    /// Both stages; `context` is an intermediate address.
    pub const fn nested(context: PhysAddr, cd_max: u8, fields: Stage2Fields) -> Self {
        SteFields {
            config: SteConfig::Nested,
            shcfg: 1,
            stage2: fields,
            ..Self::stage1(context, cd_max)
        }
    }

    /// The bytes of the entry.
    pub const fn encode(&self) -> Ste {
        let s2 = &self.stage2;
        let q0 = flag(self.valid, 0)
            | put(self.config.code() as u64, 1, 3)
            | put(self.s1_format as u64, 4, 2)
            | (self.s1_context.0 & span(55, 6))
            | put(self.s1_cd_max as u64, 59, 5);
        let q1 = put(self.s1_dss as u64, 0, 2)
            | put(self.s1_cir as u64, 2, 2)
            | put(self.s1_cor as u64, 4, 2)
            | put(self.s1_csh as u64, 6, 2)
            | flag(self.merge_events, 19)
            | flag(s2.fwb, 25)
            | flag(self.s1_stall_disabled, 27)
            | put(self.eats as u64, 28, 2)
            | put(self.strw as u64, 30, 2)
            | put(self.shcfg as u64, 44, 2);
        let q2 = s2.vmid as u64
            | put(s2.t0sz as u64, 32, 6)
            | put((s2.sl0 & 3) as u64, 38, 2)
            | put(s2.ir0 as u64, 40, 2)
            | put(s2.or0 as u64, 42, 2)
            | put(s2.sh0 as u64, 44, 2)
            | put(tg0_code(s2.granule) as u64, 46, 2)
            | put(s2.ps as u64, 48, 3)
            | flag(s2.aa64, 51)
            | flag(s2.big_endian, 52)
            | flag(s2.affd, 53)
            | flag(s2.protected_walk, 54)
            | flag(s2.hd, 55)
            | flag(s2.ha, 56)
            | flag(s2.stall, 57)
            | flag(s2.record, 58);
        let q3 = flag(s2.sl0 & 4 != 0, 2) | flag(s2.ds, 3) | (s2.ttb.0 & span(51, 4));
        Ste([q0, q1, q2, q3, 0, 0, 0, 0])
    }

    /// The fields out of the bytes. A reserved `S2TG` is `None`; other reserved
    /// values stay as they are, for [`check_ste`](super::check_ste) to judge.
    pub const fn decode(ste: &Ste) -> Self {
        let [q0, q1, q2, q3, ..] = ste.0;
        SteFields {
            valid: bit(q0, 0),
            config: SteConfig::from_code(get(q0, 1, 3) as u8),
            s1_format: get(q0, 4, 2) as u8,
            s1_context: PhysAddr(q0 & span(55, 6)),
            s1_cd_max: get(q0, 59, 5) as u8,
            s1_dss: get(q1, 0, 2) as u8,
            s1_cir: get(q1, 2, 2) as u8,
            s1_cor: get(q1, 4, 2) as u8,
            s1_csh: get(q1, 6, 2) as u8,
            merge_events: bit(q1, 19),
            s1_stall_disabled: bit(q1, 27),
            eats: get(q1, 28, 2) as u8,
            strw: get(q1, 30, 2) as u8,
            shcfg: get(q1, 44, 2) as u8,
            stage2: Stage2Fields {
                vmid: q2 as u16,
                t0sz: get(q2, 32, 6) as u8,
                sl0: get(q2, 38, 2) as u8 | (get(q3, 2, 1) as u8) << 2,
                ir0: get(q2, 40, 2) as u8,
                or0: get(q2, 42, 2) as u8,
                sh0: get(q2, 44, 2) as u8,
                granule: tg0_granule(get(q2, 46, 2) as u8),
                ps: get(q2, 48, 3) as u8,
                aa64: bit(q2, 51),
                big_endian: bit(q2, 52),
                affd: bit(q2, 53),
                protected_walk: bit(q2, 54),
                hd: bit(q2, 55),
                ha: bit(q2, 56),
                stall: bit(q2, 57),
                record: bit(q2, 58),
                fwb: bit(q1, 25),
                ds: bit(q3, 3),
                ttb: PhysAddr(q3 & span(51, 4)),
            },
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// What QEMU 7.2 to 11.1 took, from the notes of a run.
    #[test]
    fn entries_as_emulators_take_them() {
        let stage1 = SteFields::stage1(PhysAddr(0x4010_0000), 0).encode();
        // S1DSS is not looked at without substreams; without it the word is
        // the one that ran.
        assert_eq!(stage1.0[0], 1 | 5 << 1 | 0x4010_0000);
        assert_eq!(stage1.0[1] & !3, 0xd4);
        assert_eq!(
            SteFields::bypass().encode().0,
            [9, 1 << 44, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(SteFields::abort().encode().0, [1, 0, 0, 0, 0, 0, 0, 0]);
        let stage2 = SteFields::stage2(Stage2Fields {
            vmid: 3,
            t0sz: 25,
            sl0: 1,
            ps: 4,
            ttb: PhysAddr(0x4020_0000),
            ..Stage2Fields::default()
        })
        .encode();
        assert_eq!(stage2.0[0], 1 | 6 << 1);
        let vtcr = 25 | 1 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 4 << 16;
        assert_eq!(stage2.0[2], 3 | vtcr << 32 | 1 << 51 | 1 << 58);
        assert_eq!(stage2.0[3], 0x4020_0000);
    }

    #[test]
    fn fields_survive_and_do_not_overlap() {
        let stage2 = Stage2Fields {
            vmid: 0xffff,
            t0sz: 63,
            sl0: 7,
            granule: Some(Granule::K16),
            ps: 7,
            big_endian: true,
            affd: true,
            protected_walk: true,
            hd: true,
            ha: true,
            stall: true,
            fwb: true,
            ds: true,
            ttb: PhysAddr(0xf_ffff_ffff_fff0),
            ..Stage2Fields::default()
        };
        let mut all = SteFields::nested(PhysAddr(0xff_ffff_ffff_ffc0), 31, stage2);
        all.s1_format = 2;
        all.merge_events = true;
        all.s1_stall_disabled = true;
        all.eats = 2;
        all.strw = 2;
        assert_eq!(SteFields::decode(&all.encode()), all);
        for config in 0..8 {
            let decoded = SteConfig::from_code(config);
            assert!(decoded.code() == config || config < 4);
        }
    }
}
