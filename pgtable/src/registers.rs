//! What the walker must be told: typed values for `TTBR`, `TCR`, `MAIR` and
//! `VTCR`, or the same fields of an SMMUv3 context descriptor and stream table
//! entry (IHI 0070 5.2, 5.4).

use dmabench_platform::{Granule, PhysAddr};

use crate::{Format, Level, Quirks, Stage, config::OUTPUT_SIZES, format::Geometry};

/// `SHx`: who observes table walks in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shareability {
    /// Nobody else.
    NonShareable = 0,
    /// Everybody.
    Outer = 2,
    /// The CPUs.
    Inner = 3,
}

/// `IRGNx`, `ORGNx`: how table walks use a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cacheability {
    /// Not at all.
    NonCacheable = 0,
    /// Write-back, read- and write-allocate.
    WriteBackAllocate = 1,
    /// Write-through.
    WriteThrough = 2,
    /// Write-back, no write-allocate.
    WriteBack = 3,
}

/// Memory attributes by `AttrIndx`, as Linux's IOMMU tables use them.
pub const MAIR: u64 = 0xf404_ff44;

/// How a walker finds and reads a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registers {
    /// The stage.
    pub stage: Stage,
    /// Base of the root table.
    pub ttb: PhysAddr,
    /// The table serves the upper half (`TTBR1`).
    pub upper: bool,
    /// The granule.
    pub granule: Granule,
    /// `TxSZ`: 64 less the input size.
    pub tsz: u8,
    /// `IPS`, `PS`: code of the output size.
    pub output_size: u8,
    /// `SHx` of table walks; with [`ds`](Self::ds) of all cacheable memory too,
    /// since descriptors then have no shareability (Arm DDI 0487 D8.6, R_HTSGQ).
    pub sh: Shareability,
    /// `IRGNx` of table walks.
    pub irgn: Cacheability,
    /// `ORGNx` of table walks.
    pub orgn: Cacheability,
    /// `DS`: FEAT_LPA2 descriptors.
    pub ds: bool,
    /// `HA` and `HD`: the hardware marks writes.
    pub dirty: bool,
    /// The level the walk starts at.
    pub start: Level,
    /// `MAIR` (stage 1).
    pub mair: u64,
}

impl Registers {
    pub(crate) fn new<F: Format>(
        geometry: &Geometry,
        ttb: PhysAddr,
        oas: u32,
        quirks: Quirks,
        coherent: bool,
    ) -> Self {
        let (sh, irgn, orgn) = if coherent {
            (
                Shareability::Inner,
                Cacheability::WriteBackAllocate,
                Cacheability::WriteBackAllocate,
            )
        } else if quirks.contains(Quirks::OUTER_WBWA) {
            (
                Shareability::Outer,
                Cacheability::NonCacheable,
                Cacheability::WriteBackAllocate,
            )
        } else {
            (
                Shareability::Outer,
                Cacheability::NonCacheable,
                Cacheability::NonCacheable,
            )
        };
        let output_size = OUTPUT_SIZES.iter().position(|bits| *bits == oas);
        Registers {
            stage: F::STAGE,
            ttb,
            upper: quirks.contains(Quirks::TTBR1),
            granule: F::GRANULE,
            tsz: 64 - geometry.ias as u8,
            // The configuration was checked to hold one of these sizes.
            output_size: output_size.unwrap_or(0) as u8,
            sh,
            irgn,
            orgn,
            ds: F::LPA2,
            dirty: quirks.contains(Quirks::ARM_HD),
            start: geometry.start,
            mair: MAIR,
        }
    }

    /// `TG0`, or `TG1` for an upper table: they count differently.
    pub const fn tg(&self) -> u8 {
        match (self.upper, self.granule) {
            (false, Granule::K4) => 0,
            (false, Granule::K64) => 1,
            (false, Granule::K16) => 2,
            (true, Granule::K16) => 1,
            (true, Granule::K4) => 2,
            (true, Granule::K64) => 3,
        }
    }

    /// `SL0` (low two bits) and `SL2` (bit 2) of stage 2: the start level in
    /// the code of its granule (Arm DDI 0487 D8.2.8 to D8.2.10, "determining stage
    /// 2 initial lookup level"). Level -1 of 4K is 0b100; `SL2` is 0 otherwise.
    pub const fn sl(&self) -> u8 {
        let start = self.start.get();
        match (self.granule, start) {
            (Granule::K4, -1) => 0b100,
            (Granule::K4, 3) => 0b011,
            (Granule::K4, _) => (2 - start) as u8,
            (_, _) => (3 - start) as u8,
        }
    }

    /// `TTBRn_EL1` or `VTTBR_EL2` without ASID or VMID. With 52-bit addresses
    /// (64K granule or FEAT_LPA2) bits 51:48 of the base stand in bits 5:2.
    pub const fn ttbr(&self) -> u64 {
        let low = self.ttb.0 & 0x0000_ffff_ffff_ffff;
        low | (self.ttb.0 >> 48 & 0xf) << 2
    }

    /// The stage 1 fields in the layout of `TCR_EL1` (Arm DDI 0487 D24): those
    /// of this table, walks through the other half disabled, `IPS`, `HA`, `HD`,
    /// `DS`.
    pub const fn tcr_el1(&self) -> u64 {
        let half = self.tsz as u64
            | (self.irgn as u64) << 8
            | (self.orgn as u64) << 10
            | (self.sh as u64) << 12;
        const EPD0: u64 = 1 << 7;
        const EPD1: u64 = 1 << 23;
        let (half, other_off) = if self.upper {
            (half << 16 | (self.tg() as u64) << 30, EPD0)
        } else {
            (half | (self.tg() as u64) << 14, EPD1)
        };
        half | other_off
            | (self.output_size as u64) << 32
            | (self.dirty as u64) << 39
            | (self.dirty as u64) << 40
            | (self.ds as u64) << 59
    }

    /// The fields in the layout of `VTCR_EL2` (stage 2; bit 31 is RES1).
    pub const fn vtcr_el2(&self) -> u64 {
        self.tsz as u64
            | (self.sl() as u64 & 3) << 6
            | (self.irgn as u64) << 8
            | (self.orgn as u64) << 10
            | (self.sh as u64) << 12
            | (self.tg() as u64) << 14
            | (self.output_size as u64) << 16
            | 1 << 31
            | (self.ds as u64) << 32
            | (self.sl() as u64 >> 2) << 33
    }
}
