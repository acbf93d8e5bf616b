//! The ID registers (6.3.1 to 6.3.6).

use dmabench_platform::Granule;

use super::bits::{bit, get};

/// The ID registers as read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// `SMMU_IDR0`.
    pub idr0: u32,
    /// `SMMU_IDR1`.
    pub idr1: u32,
    /// `SMMU_IDR3`.
    pub idr3: u32,
    /// `SMMU_IDR5`.
    pub idr5: u32,
}

/// `IDR0.STALL_MODEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallModel {
    /// 0: stalling and terminating.
    Both,
    /// 1: terminating only.
    TerminateOnly,
    /// 2: faults of stage 1 always stall.
    StallForced,
}

/// `IDR0.TTENDIAN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtEndian {
    /// 0: both.
    Mixed,
    /// 2: little-endian only.
    Little,
    /// 3: big-endian only.
    Big,
}

/// What an SMMU can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `S1P`: stage 1.
    pub stage1: bool,
    /// `S2P`: stage 2.
    pub stage2: bool,
    /// `TTF[1]`: VMSAv8-64 tables.
    pub aarch64_tables: bool,
    /// `COHACC`: tables and queues are read coherently.
    pub coherent: bool,
    /// `HTTU`: 0 none, 1 access flag, 2 and dirty state, 3 and table access flag.
    pub httu: u8,
    /// `Hyp`: EL2 regimes.
    pub hyp: bool,
    /// `ATS`.
    pub ats: bool,
    /// `NS1ATS`: split-stage ATS is not supported.
    pub no_split_stage_ats: bool,
    /// `ASID16`.
    pub asid16: bool,
    /// `MSI`.
    pub msi: bool,
    /// `SEV`.
    pub sev: bool,
    /// `PRI`.
    pub pri: bool,
    /// `VMID16`.
    pub vmid16: bool,
    /// `CD2L`: two-level context tables.
    pub cd_two_level: bool,
    /// `TTENDIAN`.
    pub tt_endian: TtEndian,
    /// `STALL_MODEL`.
    pub stall_model: StallModel,
    /// `TERM_MODEL`: terminated means aborted, never read as zero.
    pub term_model: bool,
    /// `ST_LEVEL`: two-level stream tables.
    pub st_two_level: bool,
    /// `SIDSIZE`: bits of a stream ID.
    pub sid_bits: u32,
    /// `SSIDSIZE`: bits of a substream ID; 0 for none.
    pub ssid_bits: u32,
    /// `CMDQS`: largest base-2 logarithm of the command queue's entries.
    pub cmdq_lg2_max: u32,
    /// `EVENTQS`.
    pub eventq_lg2_max: u32,
    /// `QUEUES_PRESET` or `TABLES_PRESET`: bases that cannot be changed.
    pub preset: bool,
    /// `FWB`.
    pub fwb: bool,
    /// `STT`: small translation tables.
    pub small_tables: bool,
    /// `RIL`: range invalidation and level hints.
    pub range_invalidation: bool,
    /// `BBML`: 0 to 2.
    pub bbm_level: u8,
    /// `OAS` in bits: 32 to 52.
    pub oas_bits: u32,
    /// `GRAN4K`.
    pub gran4k: bool,
    /// `GRAN16K`.
    pub gran16k: bool,
    /// `GRAN64K`.
    pub gran64k: bool,
    /// `VAX` of 1 or more: 52-bit virtual addresses.
    pub va52: bool,
    /// `DS`: 52-bit addresses with 4K and 16K.
    pub ds: bool,
    /// `STALL_MAX`.
    pub stall_max: u32,
}

impl Features {
    /// Reads the fields. Reserved values mean the least: an unknown
    /// `STALL_MODEL` cannot stall, an unknown `TTENDIAN` is mixed.
    pub const fn decode(ids: &IdRegisters) -> Self {
        let (r0, r1) = (ids.idr0 as u64, ids.idr1 as u64);
        let (r3, r5) = (ids.idr3 as u64, ids.idr5 as u64);
        const OAS: [u32; 8] = [32, 36, 40, 42, 44, 48, 52, 52];
        Features {
            stage2: bit(r0, 0),
            stage1: bit(r0, 1),
            aarch64_tables: bit(r0, 3),
            coherent: bit(r0, 4),
            httu: get(r0, 6, 2) as u8,
            hyp: bit(r0, 9),
            ats: bit(r0, 10),
            no_split_stage_ats: bit(r0, 11),
            asid16: bit(r0, 12),
            msi: bit(r0, 13),
            sev: bit(r0, 14),
            pri: bit(r0, 16),
            vmid16: bit(r0, 18),
            cd_two_level: bit(r0, 19),
            tt_endian: match get(r0, 21, 2) {
                2 => TtEndian::Little,
                3 => TtEndian::Big,
                _ => TtEndian::Mixed,
            },
            stall_model: match get(r0, 24, 2) {
                0 => StallModel::Both,
                2 => StallModel::StallForced,
                _ => StallModel::TerminateOnly,
            },
            term_model: bit(r0, 26),
            st_two_level: get(r0, 27, 2) == 1,
            sid_bits: {
                let bits = get(r1, 0, 6) as u32;
                if bits > 32 { 32 } else { bits }
            },
            ssid_bits: {
                let bits = get(r1, 6, 5) as u32;
                if bits > 20 { 20 } else { bits }
            },
            eventq_lg2_max: get(r1, 16, 5) as u32,
            cmdq_lg2_max: get(r1, 21, 5) as u32,
            preset: bit(r1, 29) || bit(r1, 30),
            fwb: bit(r3, 8),
            small_tables: bit(r3, 9),
            range_invalidation: bit(r3, 10),
            bbm_level: get(r3, 11, 2) as u8,
            oas_bits: OAS[get(r5, 0, 3) as usize],
            gran4k: bit(r5, 4),
            gran16k: bit(r5, 5),
            gran64k: bit(r5, 6),
            ds: bit(r5, 7),
            va52: get(r5, 10, 2) != 0,
            stall_max: get(r5, 16, 16) as u32,
        }
    }

    /// Whether tables may have this granule.
    pub const fn supports(&self, granule: Granule) -> bool {
        match granule {
            Granule::K4 => self.gran4k,
            Granule::K16 => self.gran16k,
            Granule::K64 => self.gran64k,
        }
    }

    /// Bits of an ASID: 8 or 16.
    pub const fn asid_bits(&self) -> u32 {
        if self.asid16 { 16 } else { 8 }
    }

    /// Bits of a VMID: 8 or 16.
    pub const fn vmid_bits(&self) -> u32 {
        if self.vmid16 { 16 } else { 8 }
    }

    /// The largest `SCALE` of a range command (4.4.1.1): 31, with `DS` 39.
    pub const fn scale_max(&self) -> u32 {
        if self.ds { 39 } else { 31 }
    }

    /// Intermediate address bits (3.4): the output size, as VMSAv8-64 is used
    /// (VMSAv8-32, with its 40 bits, is not).
    pub const fn ias_bits(&self) -> u32 {
        self.oas_bits
    }

    /// Whether the SMMU can hold a faulting transaction.
    pub const fn can_stall(&self) -> bool {
        !matches!(self.stall_model, StallModel::TerminateOnly)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
pub(crate) mod tests {
    use super::*;

    /// QEMU 10.0, `-M virt`: nested translation.
    pub(crate) const QEMU_NESTED: IdRegisters = IdRegisters {
        idr0: 0x0d44_101b,
        idr1: 0x0273_0010,
        idr3: 0x0000_1414,
        idr5: 0x0000_0074,
    };

    /// Everything the driver knows how to use.
    pub(crate) fn everything() -> Features {
        Features {
            stage1: true,
            stage2: true,
            aarch64_tables: true,
            coherent: true,
            httu: 2,
            hyp: true,
            ats: true,
            no_split_stage_ats: false,
            asid16: true,
            msi: true,
            sev: true,
            pri: true,
            vmid16: true,
            cd_two_level: true,
            tt_endian: TtEndian::Mixed,
            stall_model: StallModel::Both,
            term_model: false,
            st_two_level: true,
            sid_bits: 32,
            ssid_bits: 20,
            cmdq_lg2_max: 19,
            eventq_lg2_max: 19,
            preset: false,
            fwb: true,
            small_tables: true,
            range_invalidation: true,
            bbm_level: 2,
            oas_bits: 52,
            gran4k: true,
            gran16k: true,
            gran64k: true,
            va52: true,
            ds: true,
            stall_max: 64,
        }
    }

    #[test]
    fn qemu_says_what_its_documentation_says() {
        let nested = Features::decode(&QEMU_NESTED);
        assert!(nested.stage1 && nested.stage2 && nested.aarch64_tables && nested.coherent);
        assert!(nested.asid16 && nested.vmid16 && !nested.msi && !nested.ats && !nested.hyp);
        assert_eq!(nested.tt_endian, TtEndian::Little);
        assert_eq!(nested.stall_model, StallModel::TerminateOnly);
        assert!(nested.term_model && nested.st_two_level && nested.range_invalidation);
        assert_eq!((nested.sid_bits, nested.ssid_bits), (16, 0));
        assert_eq!((nested.cmdq_lg2_max, nested.eventq_lg2_max), (19, 19));
        assert_eq!(
            (nested.bbm_level, nested.oas_bits, nested.ds),
            (2, 44, false)
        );
        assert!(nested.gran4k && nested.gran16k && nested.gran64k);
        // 7.2: stage 1 only, 8-bit VMIDs.
        let old = Features::decode(&IdRegisters {
            idr0: 0x0d40_101a,
            idr3: 0x1404,
            ..QEMU_NESTED
        });
        assert!(old.stage1 && !old.stage2 && !old.vmid16);
    }
}
