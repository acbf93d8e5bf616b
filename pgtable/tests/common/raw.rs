//! The leaves of a table read from its memory, without the crate's walker.

use dmabench_pgtable::{Format, Geometry, Level};
use dmabench_platform::PhysAddr;

use super::arena::Arena;

/// A leaf as it stands in memory; a contiguous run is one.
#[derive(Clone, Copy, Debug)]
pub struct RawLeaf {
    /// Offset from the start of the input space.
    pub off: u64,
    pub len_bytes: u64,
    /// The (first) descriptor.
    pub word: u64,
}

const CONTIGUOUS: u64 = 1 << 52;

/// Entries that are looked at together: most of a table is 0.
const STRIDE: usize = 16;

/// All leaves below the table at `root`, in order.
///
/// # Safety
///
/// Nobody writes to the tables meanwhile.
pub unsafe fn leaves<F: Format>(arena: &Arena, root: PhysAddr, g: Geometry) -> Vec<RawLeaf> {
    let mut found = Vec::new();
    // SAFETY: the caller's promise.
    unsafe { walk::<F>(arena, root, 1 << g.root_bits, g.start.get(), 0, &mut found) };
    found
}

/// # Safety
///
/// Nobody writes to the tables meanwhile.
unsafe fn walk<F: Format>(
    arena: &Arena,
    table: PhysAddr,
    entries: usize,
    level: i8,
    base: u64,
    found: &mut Vec<RawLeaf>,
) {
    let shift = F::PAGE_LG2 + (3 - level) as u32 * F::INDEX_BITS;
    let run = 1 << F::contiguous_lg2(Level::new(level).unwrap());
    // SAFETY: the caller's promise.
    let words = unsafe { arena.words_of(table, entries) };
    for (i, some) in words.chunks(STRIDE).enumerate() {
        if some.iter().fold(0, |any, word| any | word) & 1 == 0 {
            continue;
        }
        for (j, word) in some.iter().enumerate() {
            let index = i * STRIDE + j;
            let off = base + ((index as u64) << shift);
            if word & 1 == 0 {
                continue;
            }
            if level < 3 && word & 2 != 0 {
                let next = PhysAddr(F::decode_oa(*word));
                // SAFETY: the caller's promise.
                unsafe { walk::<F>(arena, next, 1 << F::INDEX_BITS, level + 1, off, found) };
            } else if word & CONTIGUOUS == 0 {
                found.push(RawLeaf {
                    off,
                    len_bytes: 1 << shift,
                    word: *word,
                });
            } else if index.is_multiple_of(run) {
                // All of a run has the bit, or none of it.
                let all = words[index..index + run]
                    .iter()
                    .fold(u64::MAX, |all, word| all & word);
                assert_eq!(all & (CONTIGUOUS | 1), CONTIGUOUS | 1, "run at {off:#x}");
                found.push(RawLeaf {
                    off,
                    len_bytes: (run as u64) << shift,
                    word: *word,
                });
            } else {
                let first = words[index & !(run - 1)];
                assert_eq!(first & (CONTIGUOUS | 1), CONTIGUOUS | 1, "run at {off:#x}");
            }
        }
    }
}
