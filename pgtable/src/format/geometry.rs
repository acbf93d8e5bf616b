//! Where the levels of a table lie. The rows for 126 configurations are in
//! `tests/data/linux-lpae-golden.txt`.

use super::Format;
use crate::Level;

/// The shape of a table: first level and size of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Geometry {
    /// The level the walk starts at.
    pub start: Level,
    /// Index bits of the root, concatenated tables included.
    pub root_bits: u32,
    /// Input address bits.
    pub ias: u32,
}

impl Geometry {
    /// Entries of the root times 8. (At least 64 bytes are allocated.)
    pub const fn root_bytes(&self) -> usize {
        8 << self.root_bits
    }

    /// As few levels as resolve `ias` bits.
    pub(crate) fn plain<F: Format>(ias: u32) -> Self {
        let index_bits = ias - F::PAGE_LG2;
        let levels = index_bits.div_ceil(F::INDEX_BITS).max(1);
        Geometry {
            start: Level::from_i32(4 - levels as i32),
            root_bits: index_bits - F::INDEX_BITS * (levels - 1),
            ias,
        }
    }

    /// Mali walks four levels whatever the input size.
    pub(super) fn four_levels<F: Format>(ias: u32) -> Self {
        Geometry {
            start: Level::from_i32(0),
            root_bits: ias.saturating_sub(F::PAGE_LG2 + 3 * F::INDEX_BITS),
            ias,
        }
    }

    /// Stage 2 puts up to 16 tables side by side in the root instead of one
    /// more level above them. Done only where the architecture allows no
    /// other start (Arm DDI 0487 K.a: R_DXBSH for 48 bits with 16K; R_SRKBC for
    /// output sizes that exclude the level above), as Linux does.
    pub(super) fn concatenated<F: Format>(ias: u32, oas: u32) -> Self {
        let plain = Self::plain::<F>(ias);
        let mandatory = match (F::PAGE_LG2, plain.start.get()) {
            (12, 0) => oas <= 42,
            (14, 1) => oas <= 40,
            (14, 0) => !F::LPA2 && ias == 48,
            // 32-bit LPAE has no level 0.
            _ => false,
        };
        if !mandatory {
            return plain;
        }
        Geometry {
            start: Level::from_i32(plain.start.get() as i32 + 1),
            root_bits: plain.root_bits + F::INDEX_BITS,
            ias,
        }
    }
}
