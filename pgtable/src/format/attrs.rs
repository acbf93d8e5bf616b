//! Attribute bits of leaves, by stage. The values are those Linux 7.2 writes
//! (`arm_lpae_prot_to_pte`), row by row in `tests/data/linux-lpae-golden.txt`.

use core::fmt;

use super::{DBM, Format, Geometry, Stage};
use crate::{Prot, Quirks};

/// Bits 53 and 54: `PXN` and `UXN` at stage 1, `XN` at stage 2.
const NEVER_EXECUTE: u64 = 3 << 53;
/// Bit 10: no fault on the first access.
const ACCESSED: u64 = 1 << 10;
/// Bit 11 at stage 1: the entry belongs to one ASID.
const NOT_GLOBAL: u64 = 1 << 11;
/// Bit 7 at stage 1, `AP[2]`.
pub(crate) const READ_ONLY: u64 = 1 << 7;
/// Bit 6 at stage 1, `AP[1]`.
const UNPRIVILEGED: u64 = 1 << 6;
/// Bit 5 at stage 1.
const NON_SECURE: u64 = 1 << 5;
/// Bits 9:8.
const INNER_SHAREABLE: u64 = 3 << 8;
const OUTER_SHAREABLE: u64 = 2 << 8;
/// `AttrIndx` at stage 1, `MemAttr` at stage 2.
const MEMORY_SHIFT: u32 = 2;
/// `MAIR` index of cacheable memory.
const INDEX_CACHE: u64 = 1;
/// `MAIR` index of device memory.
const INDEX_DEVICE: u64 = 2;
/// Stage 2 `S2AP`.
const MAY_READ: u64 = 1 << 6;
const MAY_WRITE: u64 = 1 << 7;
/// Stage 2 `MemAttr`: write-back, non-cacheable, Device-nGnRE; with FEAT_S2FWB
/// 6 is "force write-back".
const S2_WRITE_BACK: u64 = 0xf;
const S2_FORCED_WRITE_BACK: u64 = 6;
const S2_NON_CACHEABLE: u64 = 5;
const S2_DEVICE: u64 = 1;

/// Stages as types.
pub trait StageKind: Copy + Send + Sync + fmt::Debug + 'static {
    /// The stage.
    const STAGE: Stage;
    /// Bits 1:0 of a leaf at the last level.
    const LAST_LEVEL_TYPE: u64 = 3;
    /// Whether the contiguous hint exists.
    const HAS_CONTIGUOUS: bool = true;
    /// Quirks that mean something.
    const QUIRKS: Quirks;
    /// Attribute bits of a protection with read or write in it.
    fn attrs(prot: Prot, quirks: Quirks) -> u64;
    /// Back again; `lpa2`: bits 9:8 are address bits.
    fn prot(descriptor: u64, lpa2: bool) -> Prot;
    /// Where the levels lie.
    fn geometry<F: Format>(ias: u32, oas: u32) -> Geometry;
}

/// Stage 1.
#[derive(Clone, Copy, Debug)]
pub struct Stage1;
/// Stage 2.
#[derive(Clone, Copy, Debug)]
pub struct Stage2;
/// Mali's GPU tables: memory attributes as stage 1, permissions as stage 2.
#[derive(Clone, Copy, Debug)]
pub struct Mali;

fn flag(on: bool, bits: u64) -> u64 {
    if on { bits } else { 0 }
}

fn prot_if(on: bool, prot: Prot) -> Prot {
    if on { prot } else { Prot::NONE }
}

/// `AttrIndx` of stage 1.
fn index_attrs(prot: Prot) -> u64 {
    let index = if prot.contains(Prot::MMIO) {
        INDEX_DEVICE
    } else if prot.contains(Prot::CACHE) {
        INDEX_CACHE
    } else {
        0
    };
    index << MEMORY_SHIFT
}

fn index_prot(descriptor: u64) -> Prot {
    match descriptor >> MEMORY_SHIFT & 7 {
        INDEX_DEVICE => Prot::MMIO,
        INDEX_CACHE => Prot::CACHE,
        _ => Prot::NONE,
    }
}

/// Cacheable memory is shared with the CPUs (inner), other accesses are visible
/// to everybody (outer).
fn shareability(prot: Prot) -> u64 {
    if prot.contains(Prot::CACHE) {
        INNER_SHAREABLE
    } else {
        OUTER_SHAREABLE
    }
}

fn shareability_prot(descriptor: u64, lpa2: bool) -> Prot {
    prot_if(
        !lpa2 && descriptor & INNER_SHAREABLE == INNER_SHAREABLE,
        Prot::CACHE,
    )
}

/// What bits 9:2 of a stage 1 leaf say, as [`Prot`] bits; the second row for
/// FEAT_LPA2. A translation is decoded in a few nanoseconds, and bit by bit this
/// took more than the walk.
static STAGE_1_LOW: [[u8; 256]; 2] = [stage_1_low(false), stage_1_low(true)];

const fn stage_1_low(lpa2: bool) -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        let descriptor = (at as u64) << MEMORY_SHIFT;
        let index = descriptor >> MEMORY_SHIFT & 7;
        let shared = !lpa2 && descriptor & INNER_SHAREABLE == INNER_SHAREABLE;
        let mut prot = Prot::READ;
        if descriptor & READ_ONLY == 0 {
            prot = prot.with(Prot::WRITE);
        }
        if shared || index == INDEX_CACHE {
            prot = prot.with(Prot::CACHE);
        }
        if index == INDEX_DEVICE {
            prot = prot.with(Prot::MMIO);
        }
        if descriptor & UNPRIVILEGED == 0 {
            prot = prot.with(Prot::PRIV);
        }
        table[at] = prot.bits();
        at += 1;
    }
    table
}

const HIGH_SHIFT: u32 = DBM.trailing_zeros();

/// What bits 54:51 of a stage 1 leaf say. With DBM the hardware grants writes by
/// clearing `READ_ONLY`.
static STAGE_1_HIGH: [u8; 16] = {
    let mut table = [0; 16];
    let mut at = 0;
    while at < table.len() {
        let descriptor = (at as u64) << HIGH_SHIFT;
        let mut prot = Prot::NONE;
        if descriptor & DBM != 0 {
            prot = prot.with(Prot::WRITE);
        }
        if descriptor & NEVER_EXECUTE != 0 {
            prot = prot.with(Prot::NOEXEC);
        }
        table[at] = prot.bits();
        at += 1;
    }
    table
};

impl StageKind for Stage1 {
    const STAGE: Stage = Stage::One;
    const QUIRKS: Quirks = Quirks::NS
        .with(Quirks::TTBR1)
        .with(Quirks::OUTER_WBWA)
        .with(Quirks::ARM_HD);

    fn attrs(prot: Prot, quirks: Quirks) -> u64 {
        let write = prot.contains(Prot::WRITE);
        NOT_GLOBAL
            | ACCESSED
            | index_attrs(prot)
            | shareability(prot)
            | flag(!write, READ_ONLY)
            | flag(write && quirks.contains(Quirks::ARM_HD), DBM)
            | flag(!prot.contains(Prot::PRIV), UNPRIVILEGED)
            | flag(prot.contains(Prot::NOEXEC), NEVER_EXECUTE)
            | flag(quirks.contains(Quirks::NS), NON_SECURE)
    }

    #[inline(always)]
    fn prot(descriptor: u64, lpa2: bool) -> Prot {
        let low = STAGE_1_LOW[usize::from(lpa2)][(descriptor >> MEMORY_SHIFT) as usize & 0xff];
        let high = STAGE_1_HIGH[(descriptor >> HIGH_SHIFT) as usize & 0xf];
        Prot::truncated(low | high)
    }

    fn geometry<F: Format>(ias: u32, _oas: u32) -> Geometry {
        Geometry::plain::<F>(ias)
    }
}

fn stage2_permissions(prot: Prot) -> u64 {
    flag(prot.contains(Prot::READ), MAY_READ)
        | flag(prot.contains(Prot::WRITE), MAY_WRITE)
        | flag(prot.contains(Prot::NOEXEC), NEVER_EXECUTE)
        | ACCESSED
}

fn stage2_permissions_prot(descriptor: u64) -> Prot {
    prot_if(descriptor & MAY_READ != 0, Prot::READ)
        | prot_if(descriptor & MAY_WRITE != 0, Prot::WRITE)
        | prot_if(descriptor & NEVER_EXECUTE != 0, Prot::NOEXEC)
}

impl StageKind for Stage2 {
    const STAGE: Stage = Stage::Two;
    const QUIRKS: Quirks = Quirks::S2FWB;

    fn attrs(prot: Prot, quirks: Quirks) -> u64 {
        let memory = if prot.contains(Prot::MMIO) {
            S2_DEVICE
        } else if !prot.contains(Prot::CACHE) {
            S2_NON_CACHEABLE
        } else if quirks.contains(Quirks::S2FWB) {
            S2_FORCED_WRITE_BACK
        } else {
            S2_WRITE_BACK
        };
        stage2_permissions(prot) | memory << MEMORY_SHIFT | shareability(prot)
    }

    fn prot(descriptor: u64, lpa2: bool) -> Prot {
        let memory = match descriptor >> MEMORY_SHIFT & 0xf {
            S2_DEVICE => Prot::MMIO,
            S2_WRITE_BACK | S2_FORCED_WRITE_BACK => Prot::CACHE,
            _ => Prot::NONE,
        };
        stage2_permissions_prot(descriptor) | memory | shareability_prot(descriptor, lpa2)
    }

    fn geometry<F: Format>(ias: u32, oas: u32) -> Geometry {
        Geometry::concatenated::<F>(ias, oas)
    }
}

impl StageKind for Mali {
    const STAGE: Stage = Stage::One;
    // Mali has pages with the type of a block, and no hint.
    const LAST_LEVEL_TYPE: u64 = 1;
    const HAS_CONTIGUOUS: bool = false;
    const QUIRKS: Quirks = Quirks::NONE;

    fn attrs(prot: Prot, _quirks: Quirks) -> u64 {
        // Mali's inner domain is the GPU itself: what the CPUs share is outer.
        stage2_permissions(prot) | index_attrs(prot) | OUTER_SHAREABLE
    }

    fn prot(descriptor: u64, _lpa2: bool) -> Prot {
        stage2_permissions_prot(descriptor) | index_prot(descriptor)
    }

    fn geometry<F: Format>(ias: u32, _oas: u32) -> Geometry {
        Geometry::four_levels::<F>(ias)
    }
}
