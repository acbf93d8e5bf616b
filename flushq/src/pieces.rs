//! How a length is cut into range commands of an SMMUv3: exact, never one
//! granule too many.

/// The operands `SCALE` and `NUM` of one range command: it covers
/// `(NUM + 1) * 2^SCALE` granules (Arm IHI 0070, 4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangePiece {
    /// `SCALE`.
    pub scale: u8,
    /// `NUM + 1`: 1 to 32.
    pub count: u8,
}

impl RangePiece {
    /// Granules the command covers.
    #[inline]
    pub const fn granules(self) -> u64 {
        (self.count as u64) << self.scale
    }
}

/// The pieces of a length, the longest first. There are as many as
/// [`commands_for`](crate::commands_for) counts for the same `SCALE` limit.
#[derive(Clone, Copy, Debug)]
pub struct RangePieces {
    left: u64,
    scale_max: u8,
}

/// Cuts `granules` granules into range commands whose `SCALE` is at most
/// `scale_max` (31, with `IDR5.DS` 39; more than 58 is taken as 58). No
/// granules, no pieces.
#[inline]
pub const fn range_pieces(granules: u64, scale_max: u8) -> RangePieces {
    RangePieces {
        left: granules,
        scale_max: if scale_max > 58 { 58 } else { scale_max },
    }
}

impl Iterator for RangePieces {
    type Item = RangePiece;

    #[inline]
    fn next(&mut self) -> Option<RangePiece> {
        if self.left == 0 {
            return None;
        }
        // The five highest digits, or as many as the largest scale leaves.
        let width = 64 - self.left.leading_zeros();
        let scale = width.saturating_sub(5).min(u32::from(self.scale_max));
        let count = (self.left >> scale).min(32);
        // The same length with the largest scale: 32 granules of scale 0 do not
        // fit a larger window, 1 granule of scale 5 does.
        let up = count
            .trailing_zeros()
            .min(u32::from(self.scale_max) - scale);
        let piece = RangePiece {
            scale: (scale + up) as u8,
            count: (count >> up) as u8,
        };
        self.left -= piece.granules();
        Some(piece)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use alloc::vec::Vec;

    use dmabench_platform::{Granule, Iova};

    use super::*;
    use crate::{RangeCommands, TlbRange, commands_for};

    fn pieces(granules: u64, scale_max: u8) -> Vec<(u8, u8)> {
        range_pieces(granules, scale_max)
            .map(|p| (p.scale, p.count))
            .collect()
    }

    /// The vectors of TF-RMM's test of its range chooser, as (SCALE, NUM + 1).
    #[test]
    fn vectors_of_tf_rmm() {
        for i in 0..=31 {
            assert_eq!(pieces(1 << i, 31), [(i, 1)]);
        }
        for (granules, expected) in [
            (31, (0, 31)),
            (62, (1, 31)),
            (124, (2, 31)),
            (6, (1, 3)),
            (7, (0, 7)),
            (3, (0, 3)),
            (10, (1, 5)),
            (1 << 32, (31, 2)),
            (1 << 35, (31, 16)),
            (1 << 36, (31, 32)),
        ] {
            assert_eq!(pieces(granules, 31), [expected], "{granules}");
        }
        assert_eq!(pieces(33, 31), [(5, 1), (0, 1)]);
        assert_eq!(pieces(1 << 37, 31), [(31, 32), (31, 32)]);
        assert_eq!(pieces(1 << 44, 39), [(39, 32)]);
        assert_eq!(pieces(1 << 45, 39), [(39, 32), (39, 32)]);
        assert_eq!(pieces(511, 31), [(4, 31), (0, 15)]);
        assert_eq!(pieces(512, 31), [(9, 1)]);
        assert_eq!(pieces(513, 31), [(9, 1), (0, 1)]);
        assert_eq!(pieces(0, 31), []);
    }

    #[test]
    fn two_to_the_n_minus_one_takes_211_commands_in_total() {
        let mut total = 0;
        for n in 6..=44 {
            let cut = pieces((1 << n) - 1, 39);
            assert_eq!(cut[0], (n - 5, 31));
            total += cut.len();
        }
        assert_eq!(total, 211);
    }

    /// Exact, and as many as are counted. One granule more would invalidate
    /// what was not asked for; one less would leave it reachable.
    #[test]
    fn a6_every_length_is_covered_exactly() {
        let check = |granules: u64, scale_max: u8| {
            let mut sum = 0;
            let mut number = 0;
            for piece in range_pieces(granules, scale_max) {
                assert!((1..=32).contains(&piece.count) && piece.scale <= scale_max);
                sum += piece.granules();
                number += 1;
            }
            assert_eq!(sum, granules);
            number
        };
        let counted = |granules: u64| {
            let range = TlbRange {
                iova: Iova(0),
                len_bytes: granules << 12,
                granule: Granule::K4,
                level: None,
                leaf_only: true,
            };
            commands_for(&range, RangeCommands::Supported).by_address
        };
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let lengths = (1..4096).chain((12..64).map(|bit| 1_u64 << bit)).chain(
            core::iter::repeat_with(move || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed >> (seed & 31)
            })
            .take(4000),
        );
        for length in lengths {
            check(length, 39);
            let length = length & ((1 << 52) - 1);
            if length != 0 && length >> 36 < 64 {
                assert_eq!(check(length, 31), counted(length), "{length:#x}");
            }
        }
        // Linux 7.2 transcribed: beyond SCALE 31 it covers too little.
        for bit in 31..=44 {
            check(1 << bit, 31);
            check((1 << bit) + 1, 31);
        }
    }

    /// The pieces of whole blocks are whole blocks, so that a level hint holds
    /// for each.
    #[test]
    fn pieces_of_blocks_stay_aligned_to_blocks() {
        for block_lg2 in [9, 11, 13, 18, 26] {
            for blocks in 1..2000_u64 {
                for piece in range_pieces(blocks << block_lg2, 31) {
                    assert_eq!(piece.granules() & ((1 << block_lg2) - 1), 0);
                }
            }
        }
    }
}
