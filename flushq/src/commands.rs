//! How many commands an invalidation costs on an SMMUv3: a pure function, so
//! that what is counted and what the driver emits can be held against each
//! other.

use dmabench_pgtable::Level;
use dmabench_platform::Granule;

use crate::TlbRange;

/// What the SMMU's invalidation commands can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeCommands {
    /// `SMMU_IDR3.RIL` is 1: one command covers `(NUM + 1) * 2^SCALE` granules
    /// with `NUM` and `SCALE` of five bits each (Arm IHI 0070, 4.4.1.1).
    Supported,
    /// One command per leaf entry; from `2^(lg2(granule) - 3)` entries on, one
    /// for the whole context instead, which is the limit Linux set after soft
    /// lockups (`arm_smmu_tlb_inv_range`).
    Absent,
}

/// Commands by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCount {
    /// Commands with an address (`CMD_TLBI_NH_VA`, `CMD_TLBI_S2_IPA`).
    pub by_address: u64,
    /// Commands for a whole context (`CMD_TLBI_NH_ASID`, `CMD_TLBI_S12_VMALL`).
    pub by_context: u64,
}

/// Commands that invalidate `range`.
pub fn commands_for(range: &TlbRange, ranges: RangeCommands) -> CommandCount {
    match ranges {
        RangeCommands::Supported => CommandCount {
            by_address: range_commands(range.len_bytes >> range.granule.lg2()),
            by_context: 0,
        },
        RangeCommands::Absent => {
            let entries = range.len_bytes >> entry_lg2(range);
            if entries >= whole_context_from(range.granule) {
                CommandCount {
                    by_address: 0,
                    by_context: 1,
                }
            } else {
                CommandCount {
                    by_address: entries.max(1),
                    by_context: 0,
                }
            }
        }
    }
}

/// Whether one command with a range surely covers `range`: 32 granules at most,
/// or a power of two of them within the largest scale.
#[inline]
pub(crate) fn is_one_command(range: &TlbRange) -> bool {
    let lg2 = range.granule.lg2();
    range.len_bytes <= 32 << lg2
        || range.len_bytes.is_power_of_two() && range.len_bytes >> lg2 <= 1 << (SCALE_MAX + 5)
}

/// Entries from which on an SMMU without range commands is told to invalidate
/// the whole context: what one full table holds.
pub const fn whole_context_from(granule: Granule) -> u64 {
    1 << granule.index_bits()
}

/// Base-2 logarithm of the bytes that one command without a range covers.
fn entry_lg2(range: &TlbRange) -> u32 {
    let granule = range.granule;
    match range.level {
        Some(level) if range.leaf_only => {
            let above_last = (Level::LAST.get() - level.get()) as u32;
            // No format has a leaf beyond 63 bits (level -1 with 64 KiB).
            (granule.lg2() + above_last * granule.index_bits()).min(63)
        }
        _ => granule.lg2(),
    }
}

/// Range commands for `granules` granules.
///
/// The fewest that cover exactly these: each covers a window of the number's
/// binary digits, five wide, or a multiple of 32 granules at the largest scale.
#[inline]
fn range_commands(granules: u64) -> u64 {
    // NUM + 1 goes from 1 to 32.
    if granules <= 32 {
        return 1;
    }
    let digits = granules >> granules.trailing_zeros();
    if digits < 32 && granules >> (SCALE_MAX + 5) == 0 {
        1
    } else {
        range_commands_slow(granules)
    }
}

const SCALE_MAX: u32 = 31;

#[cold]
fn range_commands_slow(granules: u64) -> u64 {
    // NUM + 1 goes to 32, so at the largest scale 32 * 2^31 at a time.
    let full = granules >> (SCALE_MAX + 5);
    let mut rest = granules & ((1 << (SCALE_MAX + 5)) - 1);
    let mut count = full;
    while rest != 0 {
        let window = 0x1f << rest.trailing_zeros();
        rest &= !window;
        count += 1;
    }
    count
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use dmabench_platform::Iova;

    use super::*;

    fn range(granules: u64) -> TlbRange {
        TlbRange {
            iova: Iova(0),
            len_bytes: granules << 12,
            granule: Granule::K4,
            level: None,
            leaf_only: true,
        }
    }

    fn ril(granules: u64) -> u64 {
        commands_for(&range(granules), RangeCommands::Supported).by_address
    }

    #[test]
    fn range_command_counts_as_published() {
        // TF-RMM's tests of its range chooser.
        for one in [1, 2, 3, 6, 7, 10, 31, 62, 124, 512, 1 << 31, 1 << 36] {
            assert_eq!(ril(one), 1, "{one}");
        }
        assert_eq!(ril(33), 2);
        assert_eq!(ril(255), 2);
        assert_eq!(ril((1 << 37) + 1), 3, "32 * 2^31 twice, and one granule");
        assert_eq!(ril(3 << 35), 2);
        let total: u64 = (6..=36).map(|n| ril((1 << n) - 1)).sum();
        assert_eq!(total, (6..=36_u64).map(|n| n.div_ceil(5)).sum());
    }

    #[test]
    fn one_command_is_said_only_where_one_is_counted() {
        let mut said = 0;
        for n in (1..5000).chain((0..40).map(|bit| 1_u64 << bit)) {
            if is_one_command(&range(n)) {
                assert_eq!(ril(n), 1, "{n}");
                said += 1;
            }
        }
        // 1 to 32, the powers of two from 64 to 4096, and all up to 2^36.
        assert_eq!(said, 32 + 7 + 37);
    }

    /// The chooser of the specification, by brute force: windows from the top.
    #[test]
    fn no_exact_cover_needs_fewer() {
        fn from_the_top(mut n: u64) -> u64 {
            let mut count = 0;
            while n != 0 {
                let scale = (63 - n.leading_zeros()).saturating_sub(4);
                n -= n >> scale << scale;
                count += 1;
            }
            count
        }
        for n in 1..20_000 {
            assert_eq!(ril(n), from_the_top(n), "{n}");
        }
    }

    #[test]
    fn without_ranges_one_per_leaf_and_a_limit() {
        let count = |r: &TlbRange| commands_for(r, RangeCommands::Absent);
        assert_eq!(count(&range(511)).by_address, 511);
        assert_eq!(
            count(&range(512)),
            CommandCount {
                by_address: 0,
                by_context: 1
            }
        );
        let blocks = TlbRange {
            level: Level::new(2),
            ..range(1024)
        };
        assert_eq!(count(&blocks).by_address, 2, "two blocks of 2 MiB");
        let nowhere = TlbRange {
            granule: Granule::K64,
            level: Level::new(-1),
            ..range(512)
        };
        assert_eq!(count(&nowhere).by_address, 1, "no leaf is so large");
        let table = TlbRange {
            level: None,
            leaf_only: false,
            ..range(512)
        };
        assert_eq!(count(&table).by_context, 1);
    }
}
