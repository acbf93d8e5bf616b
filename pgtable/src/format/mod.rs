//! Formats: small types of constants and inline functions under the one
//! algorithm. Arm DDI 0487 D8.3 has the descriptors.

mod attrs;
mod geometry;

use core::{fmt, marker::PhantomData};

pub(crate) use attrs::READ_ONLY;
pub use attrs::{Mali, Stage1, Stage2, StageKind};
use dmabench_platform::Granule;
pub use geometry::Geometry;

use crate::{Level, Prot, Quirks};

/// Bit 0: the walker uses the descriptor.
pub(crate) const VALID: u64 = 1;
/// Bit 1 of a valid descriptor: next table or, at the last level, page.
pub(crate) const TABLE_OR_PAGE: u64 = 1 << 1;
/// Bit 51, DBM: the hardware may make the entry writable-dirty.
pub(crate) const DBM: u64 = 1 << 51;
/// Bit 52: one of a run of entries that the TLB may keep as one.
pub(crate) const CONTIGUOUS: u64 = 1 << 52;
/// Bit 63 of a table descriptor: everything below is non-secure.
pub(crate) const NS_TABLE: u64 = 1 << 63;
/// Bit 55 of a table descriptor, ignored by hardware: `reclaim` looks at the
/// table. With bit 0 clear: the table is out of service, waiting for an
/// invalidation, and may be put back.
pub(crate) const FROZEN: u64 = 1 << 55;
/// Bit 56 of a table descriptor, ignored by hardware: the descriptor has been
/// cleaned to memory (non-coherent walkers only).
pub(crate) const CLEANED: u64 = 1 << 56;

/// Which stage of translation a format serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Stage 1: virtual to physical or intermediate addresses.
    One,
    /// Stage 2: intermediate to physical addresses.
    Two,
}

/// A translation table format: what the generic algorithm needs to know.
///
/// Sealed: [`Lpae`] implements it for every combination that exists.
pub trait Format: sealed::Sealed + Copy + Send + Sync + fmt::Debug + 'static {
    /// Which stage.
    const STAGE: Stage;
    /// Base-2 logarithm of the page size.
    const PAGE_LG2: u32;
    /// Index bits per level below the first.
    const INDEX_BITS: u32;
    /// The most bits an input or output address can have.
    const MAX_ADDRESS_BITS: u32;
    /// The most bits an input address can have, where that is fewer.
    const MAX_INPUT_BITS: u32;
    /// Descriptors of consecutive output addresses differ by the page size as
    /// long as no multiple of `1 << OA_LINEAR_LG2` lies between.
    const OA_LINEAR_LG2: u32;
    /// Bits 1:0 of a leaf at the last level.
    const LAST_LEVEL_TYPE: u64;
    /// The granule.
    const GRANULE: Granule;
    /// The bits of a table descriptor that hold an address.
    const TABLE_ADDRESS: u64;
    /// Whether they hold it as it is.
    const ADDRESS_IN_PLACE: bool;

    /// An output address, or a next table's, in its place in a descriptor.
    fn encode_oa(pa: u64) -> u64;
    /// The output or next-table address of a descriptor, whole pages.
    fn decode_oa(descriptor: u64) -> u64;
    /// Whether a block may stand at `level` (not the last).
    fn block_legal(level: Level, oas: u32) -> bool;
    /// Base-2 logarithm of the entries in a contiguous run at `level`, 0 where
    /// there is no such hint.
    fn contiguous_lg2(level: Level) -> u32;
    /// The attribute bits of a leaf, without type and address; `None` for a
    /// protection that cannot be expressed.
    fn attrs(prot: Prot, quirks: Quirks) -> Option<u64>;
    /// The protection a leaf grants. The inverse of [`attrs`](Self::attrs) as
    /// far as the descriptor can tell.
    fn prot(descriptor: u64) -> Prot;
    /// Quirks that mean something in this format.
    const QUIRKS: Quirks;
    /// Whether descriptors follow FEAT_LPA2 (`TCR.DS` = 1).
    const LPA2: bool;
    /// Where the levels lie.
    fn geometry(ias: u32, oas: u32) -> Geometry;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// Granules as types.
pub trait GranuleKind: Copy + Send + Sync + fmt::Debug + 'static {
    /// The granule.
    const GRANULE: Granule;
}

/// 4 KiB granule.
#[derive(Clone, Copy, Debug)]
pub struct K4;
/// 16 KiB granule.
#[derive(Clone, Copy, Debug)]
pub struct K16;
/// 64 KiB granule.
#[derive(Clone, Copy, Debug)]
pub struct K64;

impl GranuleKind for K4 {
    const GRANULE: Granule = Granule::K4;
}
impl GranuleKind for K16 {
    const GRANULE: Granule = Granule::K16;
}
impl GranuleKind for K64 {
    const GRANULE: Granule = Granule::K64;
}

/// Where the output address lies in a descriptor.
pub trait AddressKind: Copy + Send + Sync + fmt::Debug + 'static {
    /// FEAT_LPA2.
    const LPA2: bool;
    /// The most address bits, if not the granule's own.
    const MAX_BITS: Option<u32>;
}

/// 48 bits in place; with the 64K granule bits 51:48 in 15:12.
#[derive(Clone, Copy, Debug)]
pub struct Plain;
/// FEAT_LPA2, 4K and 16K: bits 49:48 in place, 51:50 in 9:8.
#[derive(Clone, Copy, Debug)]
pub struct Lpa2;
/// 40 bits: the 32-bit long-descriptor format of Armv7-A and AArch32.
#[derive(Clone, Copy, Debug)]
pub struct Bits40;

impl AddressKind for Plain {
    const LPA2: bool = false;
    const MAX_BITS: Option<u32> = None;
}
impl AddressKind for Lpa2 {
    const LPA2: bool = true;
    const MAX_BITS: Option<u32> = Some(52);
}
impl AddressKind for Bits40 {
    const LPA2: bool = false;
    const MAX_BITS: Option<u32> = Some(40);
}

/// A format put together from a stage, a granule and an address layout. Use
/// the aliases: they are the combinations that exist.
#[derive(Clone, Copy, Debug)]
pub struct Lpae<S, G, A>(PhantomData<(S, G, A)>);

/// Stage 1, 4K granule.
pub type S1K4 = Lpae<Stage1, K4, Plain>;
/// Stage 1, 16K granule.
pub type S1K16 = Lpae<Stage1, K16, Plain>;
/// Stage 1, 64K granule, to 52 bits.
pub type S1K64 = Lpae<Stage1, K64, Plain>;
/// Stage 1, 4K granule with FEAT_LPA2, to 52 bits.
pub type S1K4Lpa2 = Lpae<Stage1, K4, Lpa2>;
/// Stage 1, 16K granule with FEAT_LPA2, to 52 bits.
pub type S1K16Lpa2 = Lpae<Stage1, K16, Lpa2>;
/// Stage 2, 4K granule.
pub type S2K4 = Lpae<Stage2, K4, Plain>;
/// Stage 2, 16K granule.
pub type S2K16 = Lpae<Stage2, K16, Plain>;
/// Stage 2, 64K granule, to 52 bits.
pub type S2K64 = Lpae<Stage2, K64, Plain>;
/// Stage 2, 4K granule with FEAT_LPA2, to 52 bits.
pub type S2K4Lpa2 = Lpae<Stage2, K4, Lpa2>;
/// Stage 2, 16K granule with FEAT_LPA2, to 52 bits.
pub type S2K16Lpa2 = Lpae<Stage2, K16, Lpa2>;
/// 32-bit LPAE (AArch32 long descriptors), stage 1: at most 32 bits in, 40 out.
pub type S1Lpae32 = Lpae<Stage1, K4, Bits40>;
/// 32-bit LPAE (AArch32 long descriptors), stage 2: at most 40 bits in and out.
pub type S2Lpae32 = Lpae<Stage2, K4, Bits40>;
/// The GPU format of Arm Mali (Midgard, Bifrost): four levels of 4K.
pub type MaliLpae = Lpae<Mali, K4, Plain>;

/// Bits `high..=low` set.
const fn mask(high: u32, low: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

impl<S: StageKind, G: GranuleKind, A: AddressKind> sealed::Sealed for Lpae<S, G, A> {}

impl<S: StageKind, G: GranuleKind, A: AddressKind> Lpae<S, G, A> {
    /// 64K granule: address bits 51:48 stand in 15:12.
    const SPLIT: bool = matches!(G::GRANULE, Granule::K64);
}

impl<S: StageKind, G: GranuleKind, A: AddressKind> Format for Lpae<S, G, A> {
    const STAGE: Stage = S::STAGE;
    const GRANULE: Granule = G::GRANULE;
    const PAGE_LG2: u32 = G::GRANULE.lg2();
    const INDEX_BITS: u32 = G::GRANULE.index_bits();
    const MAX_ADDRESS_BITS: u32 = match A::MAX_BITS {
        Some(bits) => bits,
        None if Self::SPLIT => 52,
        None => 48,
    };
    const MAX_INPUT_BITS: u32 = match (A::MAX_BITS, S::STAGE) {
        (Some(40), Stage::One) => 32,
        _ => Self::MAX_ADDRESS_BITS,
    };
    const OA_LINEAR_LG2: u32 = if A::LPA2 {
        50
    } else if Self::SPLIT {
        48
    } else {
        64
    };
    const TABLE_ADDRESS: u64 = if A::LPA2 {
        mask(49, Self::PAGE_LG2) | mask(9, 8)
    } else if Self::SPLIT {
        mask(47, 12)
    } else {
        mask(47, Self::PAGE_LG2)
    };
    const ADDRESS_IN_PLACE: bool = !A::LPA2 && !Self::SPLIT;
    const LAST_LEVEL_TYPE: u64 = S::LAST_LEVEL_TYPE;
    const QUIRKS: Quirks = S::QUIRKS;
    const LPA2: bool = A::LPA2;

    #[inline(always)]
    fn encode_oa(pa: u64) -> u64 {
        if A::LPA2 {
            (pa & mask(49, 12)) | (pa >> 50 & 3) << 8
        } else if Self::SPLIT {
            (pa & mask(47, 16)) | (pa >> 48 & 0xf) << 12
        } else {
            pa
        }
    }

    #[inline(always)]
    fn decode_oa(descriptor: u64) -> u64 {
        if A::LPA2 {
            (descriptor & mask(49, Self::PAGE_LG2)) | (descriptor >> 8 & 3) << 50
        } else if Self::SPLIT {
            (descriptor & mask(47, 16)) | (descriptor >> 12 & 0xf) << 48
        } else {
            descriptor & mask(47, Self::PAGE_LG2)
        }
    }

    // D8.2.8 to D8.2.10, the tables of block descriptor properties: 512 GiB and
    // 64 GiB with `DS`, 4 TiB with FEAT_LPA, which an output size of 52 bits implies.
    fn block_legal(level: Level, oas: u32) -> bool {
        match (G::GRANULE, level.get()) {
            (Granule::K4, 1 | 2) | (Granule::K16 | Granule::K64, 2) => true,
            (Granule::K4, 0) | (Granule::K16, 1) => A::LPA2,
            (Granule::K64, 1) => oas == 52,
            _ => false,
        }
    }

    // R_CBXXM; R_HMQXG: the bit is RES0 in the blocks of 512 GiB, 64 GiB and 4 TiB.
    #[inline(always)]
    fn contiguous_lg2(level: Level) -> u32 {
        match (S::HAS_CONTIGUOUS, G::GRANULE, level.get()) {
            (true, Granule::K4, 1..=3) => 4,
            (true, Granule::K16, 3) => 7,
            (true, Granule::K16, 2) => 5,
            (true, Granule::K64, 2 | 3) => 5,
            _ => 0,
        }
    }

    fn attrs(prot: Prot, quirks: Quirks) -> Option<u64> {
        if !prot.intersects(Prot::READ_WRITE) {
            return None;
        }
        let attrs = S::attrs(prot, quirks);
        // With FEAT_LPA2 the shareability field holds address bits; TCR says it
        // for all.
        Some(if A::LPA2 { attrs & !mask(9, 8) } else { attrs })
    }

    #[inline(always)]
    fn prot(descriptor: u64) -> Prot {
        S::prot(descriptor, A::LPA2)
    }

    fn geometry(ias: u32, oas: u32) -> Geometry {
        S::geometry::<Self>(ias, oas)
    }
}
