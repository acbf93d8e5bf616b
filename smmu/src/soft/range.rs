//! From ranges of addresses to invalidation commands: exact cover, never more
//! and never less.
//!
//! A range command covers `(NUM + 1) * 2^SCALE` granules (Arm IHI 0070,
//! 4.4.1.1). A run of `n` granules is cut into windows of five binary digits of
//! `n`, from the top: the fewest commands that cover exactly `n`.
//! `m * 2^k` granules with `m` up to 32 are one command.
//!
//! Three traps, each with a defect in somebody's history: TG with NUM, SCALE and
//! TTL all 0 is illegal, so one granule without a level hint uses TG 0; a level
//! hint on a table invalidation keeps table entries alive, so those carry none;
//! SCALE beyond its field removes less than asked, so it is clamped.

use dmabench_flushq::TlbRange;
use dmabench_platform::Granule;

use super::command::Span;

/// What the SMMU's commands by address can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeSupport {
    /// IDR3.RIL: ranges and level hints exist.
    pub ril: bool,
    /// IDR5.DS: 52-bit tables; SCALE goes to 39 instead of 31, and 16K has
    /// blocks at level 1.
    pub ds: bool,
}

impl RangeSupport {
    /// The largest SCALE.
    pub const fn scale_max(self) -> u32 {
        if self.ds { 39 } else { 31 }
    }
}

/// The next piece of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// SCALE.
    pub scale: u32,
    /// How many times `2^scale` granules: NUM + 1, so 1 to 32.
    pub count: u32,
}

impl Piece {
    /// Granules of the piece.
    pub const fn granules(self) -> u64 {
        (self.count as u64) << self.scale
    }
}

/// The largest piece that does not overshoot `granules`; `None` for 0.
///
/// Where several say the same number of granules, the one with the smallest
/// count: its scale is the position of the lowest digit.
#[inline]
pub const fn largest_piece(granules: u64, scale_max: u32) -> Option<Piece> {
    if granules == 0 {
        return None;
    }
    let digits = 64 - granules.leading_zeros();
    let mut scale = digits.saturating_sub(5);
    if scale > scale_max {
        // Beyond the largest scale: as many as NUM holds.
        scale = scale_max;
    }
    let mut count = granules >> scale;
    if count > 32 {
        count = 32;
    }
    // Drop zero digits at the bottom, as far as SCALE goes.
    let zeros = count.trailing_zeros();
    let room = scale_max - scale;
    let zeros = if zeros < room { zeros } else { room };
    Some(Piece {
        scale: scale + zeros,
        count: (count >> zeros) as u32,
    })
}

/// The spans that invalidate one [`TlbRange`].
#[derive(Clone, Debug)]
pub enum Spans {
    /// Everything in the context instead: without range commands the range has
    /// too many leaves (from one full table on, the limit of Linux).
    WholeContext,
    /// These, one after the other.
    ByAddress(SpanIter),
}

/// Iterator of [`Spans::ByAddress`].
#[derive(Clone, Debug)]
pub struct SpanIter {
    address: u64,
    /// Left to cover, in steps of `1 << step_lg2` bytes.
    steps: u64,
    step_lg2: u32,
    tg: u8,
    ttl: u8,
    leaf: bool,
    ranges: bool,
    scale_max: u32,
}

/// TG of a granule (4.4.1).
pub const fn tg_of(granule: Granule) -> u8 {
    match granule {
        Granule::K4 => 1,
        Granule::K16 => 2,
        Granule::K64 => 3,
    }
}

/// The spans for `range`.
///
/// The level of the range becomes TTL only if it says something the SMMU can
/// use: leaves only, a level from 1 on, both ends aligned to that leaf.
pub fn spans(range: &TlbRange, support: RangeSupport) -> Spans {
    let granule = range.granule;
    let leaf_lg2 = |level: i8| granule.lg2() + (3 - level) as u32 * granule.index_bits();
    let hint = match range.level {
        Some(level) if range.leaf_only && (1..=3).contains(&level.get()) => {
            let aligned =
                (range.iova.0 | range.len_bytes) & ((1 << leaf_lg2(level.get())) - 1) == 0;
            aligned.then_some(level.get())
        }
        _ => None,
    };
    if support.ril {
        let ttl = match (granule, hint) {
            (Granule::K16, Some(1)) if !support.ds => 0,
            (_, Some(level)) => level as u8,
            (_, None) => 0,
        };
        return Spans::ByAddress(SpanIter {
            address: range.iova.0,
            steps: range.len_bytes >> granule.lg2(),
            step_lg2: granule.lg2(),
            tg: tg_of(granule),
            ttl,
            leaf: range.leaf_only,
            ranges: true,
            scale_max: support.scale_max(),
        });
    }
    // One command removes the leaf that translates its address, whatever its
    // size; so a known leaf size is the step.
    let step_lg2 = hint.map_or(granule.lg2(), leaf_lg2);
    let steps = range.len_bytes >> step_lg2;
    if steps >> granule.index_bits() != 0 {
        return Spans::WholeContext;
    }
    Spans::ByAddress(SpanIter {
        address: range.iova.0,
        steps,
        step_lg2,
        tg: 0,
        ttl: 0,
        leaf: range.leaf_only,
        ranges: false,
        scale_max: 0,
    })
}

impl Iterator for SpanIter {
    type Item = Span;

    #[inline]
    fn next(&mut self) -> Option<Span> {
        let piece = if self.ranges {
            largest_piece(self.steps, self.scale_max)?
        } else if self.steps == 0 {
            return None;
        } else {
            Piece { scale: 0, count: 1 }
        };
        let mut span = Span {
            address: self.address,
            leaf: self.leaf,
            ttl: self.ttl,
            tg: self.tg,
            num: (piece.count - 1) as u8,
            scale: piece.scale as u8,
        };
        if span.ttl == 0 && span.num == 0 && span.scale == 0 {
            // Reserved with TG; without, one address of any granule.
            span.tg = 0;
        }
        self.steps -= piece.granules();
        // Wraps only behind the last piece of a range that ends at the top.
        self.address = self.address.wrapping_add(piece.granules() << self.step_lg2);
        Some(span)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use dmabench_pgtable::Level;
    use dmabench_platform::Iova;

    use super::*;

    fn pieces(mut granules: u64, scale_max: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while let Some(piece) = largest_piece(granules, scale_max) {
            assert!(piece.granules() <= granules, "never overshoots");
            assert!((1..=32).contains(&piece.count) && piece.scale <= scale_max);
            granules -= piece.granules();
            pieces.push(piece);
        }
        pieces
    }

    fn one(granules: u64, scale_max: u32) -> (u32, u32) {
        let pieces = pieces(granules, scale_max);
        assert_eq!(pieces.len(), 1, "{granules}: {pieces:?}");
        (pieces[0].scale, pieces[0].count)
    }

    /// The inputs and results of TF-RMM's `smmuv3_tlbi_tests`.
    #[test]
    fn tf_rmm_vectors() {
        for i in 0..=31 {
            assert_eq!(one(1 << i, 31), (i, 1));
        }
        for (granules, scale_count) in [
            (6, (1, 3)),
            (7, (0, 7)),
            (3, (0, 3)),
            (10, (1, 5)),
            (31, (0, 31)),
            (62, (1, 31)),
            (124, (2, 31)),
        ] {
            assert_eq!(one(granules, 31), scale_count, "{granules}");
        }
        assert_eq!(pieces(33, 31).len(), 2);
        assert_eq!(one(1 << 32, 31), (31, 2));
        assert_eq!(one(1 << 35, 31), (31, 16));
        assert_eq!(one(1 << 36, 31), (31, 32));
        assert_eq!(pieces(1 << 37, 31).len(), 2);
        assert_eq!(one(1 << 44, 39), (39, 32));
        assert_eq!(pieces(1 << 45, 39).len(), 2);
        let mut total = 0;
        for n in 6..=44 {
            let all = pieces((1 << n) - 1, 39);
            let first = all[0];
            assert_eq!((first.scale, first.count), (n - 5, 31), "2^{n} - 1");
            total += all.len();
        }
        assert_eq!(total, 211);
    }

    #[test]
    fn every_number_is_covered_exactly() {
        for scale_max in [31, 39] {
            for granules in (1..5000).chain((1 << 40) - 100..(1 << 40) + 100) {
                let sum: u64 = pieces(granules, scale_max)
                    .iter()
                    .map(|p| p.granules())
                    .sum();
                assert_eq!(sum, granules);
            }
        }
    }

    fn range(granule: Granule, pages: u64, level: Option<i8>, leaf_only: bool) -> TlbRange {
        TlbRange {
            iova: Iova(1 << 42),
            len_bytes: pages << granule.lg2(),
            granule,
            level: level.and_then(Level::new),
            leaf_only,
        }
    }

    fn all(range: &TlbRange, support: RangeSupport) -> Option<Vec<Span>> {
        match spans(range, support) {
            Spans::WholeContext => None,
            Spans::ByAddress(spans) => Some(spans.collect()),
        }
    }

    const RIL: RangeSupport = RangeSupport {
        ril: true,
        ds: false,
    };

    #[test]
    fn a6_spans_reach_the_range_and_no_further() {
        for granule in Granule::ALL {
            for level in [None, Some(3), Some(2), Some(1), Some(0)] {
                for leaf_only in [true, false] {
                    for pages in (1..300).chain([512, 8192, 8192 * 33, 1 << 26]) {
                        let range = range(granule, pages, level, leaf_only);
                        let mut next = range.iova.0;
                        for span in all(&range, RIL).unwrap() {
                            let reach = span.reach(false).unwrap();
                            assert_eq!(reach.first, next, "{range:?} {span:?}");
                            let single = reach.granule.is_none();
                            next = match single {
                                true => next + granule.bytes(),
                                false => reach.last + 1,
                            };
                            // A hint only where it is true and allowed.
                            if let Some(hint) = reach.level {
                                assert!(leaf_only && level == Some(hint));
                            }
                            assert_eq!(reach.leaf_only, leaf_only);
                        }
                        assert_eq!(next, range.last_byte().0 + 1, "{range:?}");
                    }
                }
            }
        }
    }

    /// What the counting backend counts is what goes out here.
    #[test]
    fn as_many_as_flushq_counts() {
        use dmabench_flushq::{CommandCount, RangeCommands, commands_for};
        for ril in [true, false] {
            let support = RangeSupport { ril, ds: false };
            let counted = if ril {
                RangeCommands::Supported
            } else {
                RangeCommands::Absent
            };
            for granule in Granule::ALL {
                for level in [None, Some(2), Some(3)] {
                    for leaf_only in [true, false] {
                        let leaf_pages = match level {
                            Some(2) => 1 << granule.index_bits(),
                            _ => 1,
                        };
                        for leaves in 1..300 {
                            let range = range(granule, leaves * leaf_pages, level, leaf_only);
                            let sent = match all(&range, support) {
                                Some(spans) => CommandCount {
                                    by_address: spans.len() as u64,
                                    by_context: 0,
                                },
                                None => CommandCount {
                                    by_address: 0,
                                    by_context: 1,
                                },
                            };
                            assert_eq!(sent, commands_for(&range, counted), "{range:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn one_granule_without_a_hint_is_not_the_reserved_encoding() {
        let spans = all(&range(Granule::K4, 1, None, false), RIL).unwrap();
        assert_eq!(spans, [Span::single(1 << 42, false)]);
        let spans = all(&range(Granule::K4, 33, None, false), RIL).unwrap();
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[1].tg, 0, "the last of 33 as well");
        let spans = all(&range(Granule::K4, 1, Some(3), true), RIL).unwrap();
        assert_eq!((spans[0].tg, spans[0].ttl), (1, 3));
    }

    #[test]
    fn without_ranges_one_command_per_leaf_up_to_a_table() {
        let support = RangeSupport {
            ril: false,
            ds: false,
        };
        let pages = all(&range(Granule::K4, 511, Some(3), true), support).unwrap();
        assert_eq!(pages.len(), 511);
        assert_eq!(pages[510], Span::single((1 << 42) + 510 * 4096, true));
        assert_eq!(all(&range(Granule::K4, 512, Some(3), true), support), None);
        let blocks = all(&range(Granule::K4, 1024, Some(2), true), support).unwrap();
        assert_eq!(
            blocks,
            vec![
                Span::single(1 << 42, true),
                Span::single((1 << 42) + (2 << 20), true)
            ]
        );
        // A table: page by page, for all levels.
        assert_eq!(all(&range(Granule::K4, 512, None, false), support), None);
    }
}
