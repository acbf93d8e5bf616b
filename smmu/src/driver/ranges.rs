//! From a range to the addresses of invalidation commands.

use dmabench_flushq::{RangeCommands, RangePieces, TlbRange, range_pieces, whole_context_from};
use dmabench_platform::{Granule, Iova};

use crate::format::{Features, TlbiAddress};

use super::Errata;

/// What decides the form of invalidations by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeEncoder {
    /// `IDR3.RIL`, unless an erratum forbids its use.
    ranges: bool,
    level_hints: bool,
    always_range: bool,
    ds: bool,
    scale_max: u8,
}

/// A range that no command can say: empty, not aligned to its granule, or
/// beyond the end of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRange;

/// What a range becomes.
#[derive(Clone, Copy, Debug)]
pub enum RangePlan {
    /// These commands, one after the other.
    ByAddress(Addresses),
    /// Too many single commands: the whole context instead.
    WholeContext,
}

impl RangeEncoder {
    /// For an SMMU with these features.
    pub const fn new(features: &Features, errata: &Errata) -> Self {
        RangeEncoder {
            ranges: features.range_invalidation && !errata.single_address_only,
            level_hints: !errata.no_level_hint,
            always_range: errata.always_range,
            ds: features.ds,
            scale_max: features.scale_max() as u8,
        }
    }

    /// What one command can cover.
    pub const fn range_commands(&self) -> RangeCommands {
        if self.ranges {
            RangeCommands::Supported
        } else {
            RangeCommands::Absent
        }
    }

    /// The one command that invalidates `range`, where one is enough and no rule
    /// needs a second look; else `None`, and [`plan`](Self::plan) decides. What it
    /// returns is what the plan would begin and end with.
    #[inline(always)]
    pub fn single(&self, range: &TlbRange) -> Option<TlbiAddress> {
        let lg2 = range.granule.lg2();
        let granules = range.len_bytes >> lg2;
        let scale = granules.trailing_zeros();
        let count = granules >> (scale & 63);
        // No granule at all has 64 zeros.
        let fits = count < 32 && scale <= u32::from(self.scale_max) && self.ranges;
        let aligned = (range.iova.0 | range.len_bytes) & range.granule.mask() == 0;
        let ends = range.iova.0.checked_add(range.len_bytes).is_some();
        if !(fits && aligned && ends) {
            return None;
        }
        let ttl = self.ttl(range);
        if granules == 1 && ttl == 0 {
            return (!self.always_range).then(|| TlbiAddress::single(range.iova, range.leaf_only));
        }
        Some(TlbiAddress {
            address: range.iova,
            leaf: range.leaf_only,
            granule: Some(range.granule),
            ttl,
            num: (count - 1) as u8,
            scale: scale as u8,
        })
    }

    /// The commands that invalidate `range`: exactly its granules (A6) and, where
    /// the SMMU has no range commands, one per leaf up to the number from which
    /// on [`commands_for`](dmabench_flushq::commands_for) counts one for the
    /// whole context.
    ///
    /// # Errors
    ///
    /// [`BadRange`], see there. Nothing is encoded.
    pub fn plan(&self, range: &TlbRange) -> Result<RangePlan, BadRange> {
        let mask = range.granule.mask();
        if (range.iova.0 | range.len_bytes) & mask != 0
            || range.iova.last_byte(range.len_bytes).is_none()
        {
            return Err(BadRange);
        }
        if self.ranges {
            return Ok(RangePlan::ByAddress(Addresses {
                at: range.iova.0,
                leaf: range.leaf_only,
                granule: range.granule,
                ttl: self.ttl(range),
                steps: Steps::Pieces {
                    pieces: range_pieces(range.len_bytes >> range.granule.lg2(), self.scale_max),
                    always_range: self.always_range,
                },
            }));
        }
        let step_lg2 = single_step_lg2(range);
        // A leaf that the range does not hold whole is still one command.
        let count = (range.len_bytes >> step_lg2).max(1);
        if count >= whole_context_from(range.granule) {
            return Ok(RangePlan::WholeContext);
        }
        Ok(RangePlan::ByAddress(Addresses {
            at: range.iova.0,
            leaf: range.leaf_only,
            granule: range.granule,
            ttl: 0,
            steps: Steps::Single {
                step: 1 << step_lg2,
                left: count,
            },
        }))
    }

    /// `TTL`: the level where it is known, its leaves are all that has to go,
    /// and both ends are aligned to them; else 0. Without a table entry of its
    /// own level a hint would leave freed tables cached.
    #[inline]
    fn ttl(&self, range: &TlbRange) -> u8 {
        let level = match range.level {
            Some(level) if range.leaf_only && self.level_hints => level.get(),
            _ => return 0,
        };
        if level == 3 {
            // Both ends are aligned to a page, as every range is.
            return 3;
        }
        // Levels 0 and -1 cannot be said.
        if level < 1 || (level == 1 && range.granule == Granule::K16 && !self.ds) {
            return 0;
        }
        let leaf_lg2 = range.granule.lg2() + (3 - level as u32) * range.granule.index_bits();
        let aligned = (range.iova.0 | range.len_bytes) & ((1 << leaf_lg2) - 1) == 0;
        if aligned { level as u8 } else { 0 }
    }
}

/// The bytes between two single addresses: a leaf where its level is known and
/// both ends are aligned to it, else a page.
fn single_step_lg2(range: &TlbRange) -> u32 {
    let granule = range.granule;
    let lg2 = match range.level {
        Some(level) if range.leaf_only => {
            granule.lg2() + (3 - i32::from(level.get())).max(0) as u32 * granule.index_bits()
        }
        _ => granule.lg2(),
    };
    // Beyond 63 there is no such leaf.
    let whole = lg2 < 64 && (range.iova.0 | range.len_bytes) & ((1 << lg2) - 1) == 0;
    if whole { lg2 } else { granule.lg2() }
}

#[derive(Clone, Copy, Debug)]
enum Steps {
    Pieces {
        pieces: RangePieces,
        always_range: bool,
    },
    Single {
        step: u64,
        left: u64,
    },
}

/// The operands of the commands for one range.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    at: u64,
    leaf: bool,
    granule: Granule,
    ttl: u8,
    steps: Steps,
}

impl Iterator for Addresses {
    type Item = TlbiAddress;

    #[inline]
    fn next(&mut self) -> Option<TlbiAddress> {
        let address = Iova(self.at);
        match &mut self.steps {
            Steps::Single { step, left } => {
                *left = left.checked_sub(1)?;
                // After the last one the sum may be the end of the space.
                self.at = self.at.wrapping_add(*step);
                Some(TlbiAddress::single(address, self.leaf))
            }
            Steps::Pieces {
                pieces,
                always_range,
            } => {
                let piece = pieces.next()?;
                self.at = self.at.wrapping_add(piece.granules() << self.granule.lg2());
                if piece.granules() == 1 && self.ttl == 0 {
                    // NUM = SCALE = TTL = 0 is illegal with a granule (4.4.1.1).
                    if !*always_range {
                        return Some(TlbiAddress::single(address, self.leaf));
                    }
                    return Some(self.widened(address));
                }
                Some(TlbiAddress {
                    address,
                    leaf: self.leaf,
                    granule: Some(self.granule),
                    ttl: self.ttl,
                    num: piece.count - 1,
                    scale: piece.scale,
                })
            }
        }
    }
}

impl Addresses {
    /// Two granules that hold the one at `address`, for an SMMU whose single
    /// form has an erratum: more than was asked, never less. At the end of the
    /// space the granule before it goes along.
    fn widened(&self, address: Iova) -> TlbiAddress {
        let bytes = self.granule.bytes();
        let start = if address.0.checked_add(2 * bytes - 1).is_none() {
            Iova(address.0 - bytes)
        } else {
            address
        };
        TlbiAddress {
            address: start,
            leaf: self.leaf,
            granule: Some(self.granule),
            ttl: 0,
            num: 1,
            scale: 0,
        }
    }
}
