//! Level 1 descriptors of two-level stream and context tables (5.1, 5.3).

use core::fmt;

use dmabench_platform::PhysAddr;

use super::bits::{flag, get, put, span};

/// A level 1 stream table descriptor (5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1Std {
    /// `Span`: the second level has `2^(span - 1)` entries; 0: none.
    pub span: u8,
    /// `L2Ptr[55:6]`, aligned to the size of that table.
    pub table: PhysAddr,
}

/// Why a level 1 stream table descriptor makes the SMMU record
/// `C_BAD_STREAMID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum L1StdError {
    /// `Span` = 0: no stream of this block exists.
    Invalid,
    /// `Span` is above `SPLIT` + 1, or reserved.
    Span {
        /// The field.
        span: u8,
    },
}

impl fmt::Display for L1StdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            L1StdError::Invalid => f.write_str("the stream's block has no second-level table"),
            L1StdError::Span { span } => write!(f, "Span {span} is reserved or above SPLIT + 1"),
        }
    }
}

impl core::error::Error for L1StdError {}

impl L1Std {
    /// No second level.
    pub const INVALID: L1Std = L1Std {
        span: 0,
        table: PhysAddr(0),
    };

    /// The 8 bytes.
    pub const fn encode(self) -> u64 {
        put(self.span as u64, 0, 5) | (self.table.0 & span(55, 6))
    }

    /// The fields, unchecked.
    pub const fn decode(word: u64) -> Self {
        L1Std {
            span: get(word, 0, 5) as u8,
            table: PhysAddr(word & span(55, 6)),
        }
    }

    /// The number of entries of the second level, if the SMMU accepts the
    /// descriptor in a table with this `SPLIT`.
    ///
    /// # Errors
    ///
    /// [`L1StdError`]: both end in `C_BAD_STREAMID`.
    pub const fn entries(self, split: u32) -> Result<u32, L1StdError> {
        match self.span {
            0 => Err(L1StdError::Invalid),
            span if span as u32 > split + 1 || span > 11 => Err(L1StdError::Span { span }),
            span => Ok(1 << (span - 1)),
        }
    }
}

/// A level 1 context table descriptor (5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1Cd {
    /// `V`.
    pub valid: bool,
    /// `L2Ptr[55:12]`.
    pub table: PhysAddr,
}

impl L1Cd {
    /// The 8 bytes.
    pub const fn encode(self) -> u64 {
        flag(self.valid, 0) | (self.table.0 & span(55, 12))
    }

    /// The fields.
    pub const fn decode(word: u64) -> Self {
        L1Cd {
            valid: get(word, 0, 1) != 0,
            table: PhysAddr(word & span(55, 12)),
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn spans_of_a_table_split_at_eight_bits() {
        let with = |span| L1Std {
            span,
            table: PhysAddr(0x4000_4000),
        };
        assert_eq!(with(9).encode(), 0x4000_4009);
        assert_eq!(L1Std::decode(0x4000_4009), with(9));
        assert_eq!(with(9).entries(8), Ok(256));
        assert_eq!(with(1).entries(8), Ok(1));
        assert_eq!(with(0).entries(8), Err(L1StdError::Invalid));
        assert_eq!(with(10).entries(8), Err(L1StdError::Span { span: 10 }));
        assert_eq!(with(12).entries(31), Err(L1StdError::Span { span: 12 }));
        assert_eq!(L1Std::INVALID.encode(), 0);
    }

    #[test]
    fn context_leaves_are_aligned_to_4k() {
        let leaf = L1Cd {
            valid: true,
            table: PhysAddr(0x12_3000),
        };
        assert_eq!(leaf.encode(), 0x12_3001);
        assert_eq!(L1Cd::decode(0x12_3fff), leaf);
        assert!(!L1Cd::decode(0x12_3000).valid);
    }
}
