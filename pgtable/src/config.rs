//! How a table is made: sizes, quirks, and what is refused.

use core::fmt;

use crate::{Format, Geometry, Level, Quirks};

/// Output sizes that exist, in bits, by their code in `TCR.IPS`, `VTCR.PS`.
pub(crate) const OUTPUT_SIZES: [u32; 7] = [32, 36, 40, 42, 44, 48, 52];

/// The fewest input bits: `TxSZ` is at most 39 (IHI 0070 3.4, without
/// small translation tables).
const MIN_INPUT_BITS: u32 = 25;

/// What a page table is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableConfig {
    /// Input address size in bits, 25 to 48 (52 where the format has it).
    pub ias: u32,
    /// Output address size in bits: 32, 36, 40, 42, 44, 48 (52 where the format
    /// has it).
    pub oas: u32,
    /// Deviations from the plain format.
    pub quirks: Quirks,
    /// Page sizes `map` may use, one bit each (bit 12 = 4 KiB). A size that
    /// only the contiguous hint gives (64 KiB with the 4K granule) is a size
    /// like any other. `None`: all there are. The granule must be among them.
    pub page_sizes: Option<u64>,
    /// The walker snoops the CPU's caches. If not, entries are cleaned to memory
    /// through [`TableMemory::clean`](crate::TableMemory::clean).
    pub coherent: bool,
    /// Empty table pages kept for the next use before memory gets them back.
    pub spare_tables: usize,
}

impl TableConfig {
    /// A coherent walker, no quirks, every page size.
    pub const fn new(ias: u32, oas: u32) -> Self {
        TableConfig {
            ias,
            oas,
            quirks: Quirks::NONE,
            page_sizes: None,
            coherent: true,
            spare_tables: 64,
        }
    }

    /// With these quirks.
    #[must_use]
    pub const fn with_quirks(mut self, quirks: Quirks) -> Self {
        self.quirks = quirks;
        self
    }

    /// With these page sizes only.
    #[must_use]
    pub const fn with_page_sizes(mut self, bitmap: u64) -> Self {
        self.page_sizes = Some(bitmap);
        self
    }

    /// With a walker that does (or does not) snoop the CPU's caches.
    #[must_use]
    pub const fn with_coherent(mut self, coherent: bool) -> Self {
        self.coherent = coherent;
        self
    }

    /// With a stock of at most `count` empty table pages.
    #[must_use]
    pub const fn with_spare_tables(mut self, count: usize) -> Self {
        self.spare_tables = count;
        self
    }

    /// Checks everything against the format.
    pub(crate) fn check<F: Format>(&self) -> Result<Checked, CreateError> {
        if self.ias < MIN_INPUT_BITS || self.ias > F::MAX_INPUT_BITS {
            return Err(CreateError::InputSize {
                ias: self.ias,
                most: F::MAX_INPUT_BITS,
            });
        }
        if !OUTPUT_SIZES.contains(&self.oas) || self.oas > F::MAX_ADDRESS_BITS {
            return Err(CreateError::OutputSize {
                oas: self.oas,
                most: F::MAX_ADDRESS_BITS,
            });
        }
        if matches!(F::STAGE, crate::Stage::Two) && self.ias > self.oas {
            return Err(CreateError::InputBeyondOutput {
                ias: self.ias,
                oas: self.oas,
            });
        }
        let foreign = self.quirks.without(F::QUIRKS);
        if foreign != Quirks::NONE {
            return Err(CreateError::Quirk(foreign));
        }
        if self.coherent && self.quirks.contains(Quirks::OUTER_WBWA) {
            return Err(CreateError::Quirk(Quirks::OUTER_WBWA));
        }
        let geometry = F::geometry(self.ias, self.oas);
        let legal = legal_page_sizes::<F>(&geometry, self.oas);
        let sizes = self.page_sizes.unwrap_or(legal);
        if sizes & !legal != 0 || sizes & (1 << F::PAGE_LG2) == 0 {
            return Err(CreateError::PageSizes {
                bitmap: sizes,
                legal,
            });
        }
        Ok(Checked { geometry, sizes })
    }
}

/// A configuration that passed.
pub(crate) struct Checked {
    pub(crate) geometry: Geometry,
    pub(crate) sizes: u64,
}

/// Page sizes a table of this shape can hold, contiguous runs included.
fn legal_page_sizes<F: Format>(geometry: &Geometry, oas: u32) -> u64 {
    let mut sizes = 0;
    for number in geometry.start.get()..=3 {
        let level = Level::from_i32(number as i32);
        let shift = F::PAGE_LG2 + (3 - i32::from(number)) as u32 * F::INDEX_BITS;
        if level != Level::LAST && !F::block_legal(level, oas) {
            continue;
        }
        // A block needs an input and an output space it fits in.
        if shift > geometry.ias || shift > oas {
            continue;
        }
        sizes |= 1 << shift;
        let run = F::contiguous_lg2(level);
        let entries = if level == geometry.start {
            geometry.root_bits
        } else {
            F::INDEX_BITS
        };
        // A run never spans a whole table.
        if run > 0 && run < entries && shift + run <= oas {
            sizes |= 1 << (shift + run);
        }
    }
    sizes
}

/// Why a page table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CreateError {
    /// The input size is below 25 bits or beyond what the format can do.
    InputSize {
        /// What was asked for, in bits.
        ias: u32,
        /// What the format can do, in bits.
        most: u32,
    },
    /// No such output size, or one beyond the format.
    OutputSize {
        /// What was asked for, in bits.
        oas: u32,
        /// What the format can do, in bits.
        most: u32,
    },
    /// Stage 2 maps an input space that is larger than the output space.
    InputBeyondOutput {
        /// Input bits.
        ias: u32,
        /// Output bits.
        oas: u32,
    },
    /// Quirks this format, or a coherent walker, has no use for.
    Quirk(Quirks),
    /// The page sizes miss the granule, or hold one that the format has not.
    PageSizes {
        /// What was asked for.
        bitmap: u64,
        /// What there is.
        legal: u64,
    },
    /// No memory for the root.
    OutOfTables,
    /// The memory's table pages lie beyond the output size, where the walker
    /// cannot reach them, or are not aligned to their size.
    TableAddress(dmabench_platform::PhysAddr),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::InputSize { ias, most } => {
                write!(
                    f,
                    "input size of {ias} bits: use {MIN_INPUT_BITS} to {most}"
                )
            }
            CreateError::OutputSize { oas, most } => write!(
                f,
                "output size of {oas} bits: use one of {OUTPUT_SIZES:?}, at most {most}"
            ),
            CreateError::InputBeyondOutput { ias, oas } => write!(
                f,
                "stage 2 with {ias} input and {oas} output bits: use an input size of at most the output size"
            ),
            CreateError::Quirk(quirks) => {
                write!(f, "quirks {quirks:?} do not apply here: leave them out")
            }
            CreateError::PageSizes { bitmap, legal } => write!(
                f,
                "page sizes {bitmap:#x}: use the granule and any others of {legal:#x}"
            ),
            CreateError::OutOfTables => f.write_str("no memory for the root table: free some"),
            CreateError::TableAddress(phys) => write!(
                f,
                "table memory at {phys} is beyond the output size or misaligned: give tables memory the walker can reach"
            ),
        }
    }
}

impl core::error::Error for CreateError {}
