//! From ranges of addresses to invalidation commands: exact cover, never more
//! and never less.
//!
//! [`range_pieces`] cuts a run of granules into range commands (Arm IHI 0070,
//! 4.4.1.1); this adds what the commands say beside the number.
//!
//! Three traps, each with a defect in somebody's history: TG with NUM, SCALE and
//! TTL all 0 is illegal, so one granule without a level hint uses TG 0; a level
//! hint on a table invalidation keeps table entries alive, so those carry none;
//! SCALE beyond its field removes less than asked, so it is clamped.

use dmabench_flushq::{RangePieces, TlbRange, range_pieces, whole_context_from};
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
    pub const fn scale_max(self) -> u8 {
        if self.ds { 39 } else { 31 }
    }
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
    steps: Steps,
    tg: u8,
    ttl: u8,
    leaf: bool,
}

#[derive(Clone, Debug)]
enum Steps {
    /// Ranges of granules of `1 << granule_lg2` bytes.
    Ranges {
        pieces: RangePieces,
        granule_lg2: u32,
    },
    /// `left` single addresses, `1 << step_lg2` bytes apart.
    Single { left: u64, step_lg2: u32 },
}

/// TG of a granule (4.4.1).
const fn tg_of(granule: Granule) -> u8 {
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
            steps: Steps::Ranges {
                pieces: range_pieces(range.len_bytes >> granule.lg2(), support.scale_max()),
                granule_lg2: granule.lg2(),
            },
            tg: tg_of(granule),
            ttl,
            leaf: range.leaf_only,
        });
    }
    // One command removes the leaf that translates its address, whatever its
    // size; so a known leaf size is the step.
    let step_lg2 = hint.map_or(granule.lg2(), leaf_lg2);
    let left = range.len_bytes >> step_lg2;
    if left >= whole_context_from(granule) {
        return Spans::WholeContext;
    }
    Spans::ByAddress(SpanIter {
        address: range.iova.0,
        steps: Steps::Single { left, step_lg2 },
        tg: 0,
        ttl: 0,
        leaf: range.leaf_only,
    })
}

impl Iterator for SpanIter {
    type Item = Span;

    #[inline]
    fn next(&mut self) -> Option<Span> {
        let mut span = Span::single(self.address, self.leaf);
        let bytes = match &mut self.steps {
            Steps::Ranges {
                pieces,
                granule_lg2,
            } => {
                let piece = pieces.next()?;
                // NUM = SCALE = TTL = 0 is reserved with TG; without, the command
                // names one address of any granule.
                if piece.granules() > 1 || self.ttl != 0 {
                    span.tg = self.tg;
                    span.ttl = self.ttl;
                    span.num = piece.count - 1;
                    span.scale = piece.scale;
                }
                piece.granules() << *granule_lg2
            }
            Steps::Single { left, step_lg2 } => {
                *left = left.checked_sub(1)?;
                1 << *step_lg2
            }
        };
        // Wraps only behind the last piece of a range that ends at the top.
        self.address = self.address.wrapping_add(bytes);
        Some(span)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use dmabench_pgtable::Level;
    use dmabench_platform::Iova;

    use super::*;

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
