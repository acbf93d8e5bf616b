//! The stream table in memory (3.3.1): linear, or of two levels.

use alloc::{vec, vec::Vec};
use core::ptr::NonNull;

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::{
    PhysAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{StreamTableKind, writer::EntryMemory};
use crate::format::{L1Std, registers::StrtabBaseCfg};

const STE_BYTES: usize = 64;

/// The table and what hangs on it. Exclusive access comes from the driver's
/// configuration lock.
pub(super) struct StreamTable<M: TableMemory> {
    memory: M,
    coherent: bool,
    bits: u32,
    /// Base-2 logarithm of the entries of a second-level table.
    split: Option<u32>,
    base: TableRef,
    base_bytes: usize,
    /// By level 1 index.
    leaves: Vec<Option<TableRef>>,
}

// SAFETY: the pointers are to memory that came from `memory`, which is `Send` and
// `Sync`, and the words are accessed atomically.
unsafe impl<M: TableMemory> Send for StreamTable<M> {}

/// No memory for a part of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoTableMemory {
    pub(super) bytes: usize,
}

impl<M: TableMemory> StreamTable<M> {
    /// An empty table for streams of `bits` bits: no stream is configured.
    pub(super) fn new(
        memory: M,
        coherent: bool,
        bits: u32,
        kind: StreamTableKind,
    ) -> Result<Self, NoTableMemory> {
        let split = match kind {
            StreamTableKind::TwoLevel { split } if bits > split => Some(split),
            // One second-level table would do: then it is the table.
            _ => None,
        };
        let bytes = match split {
            None => STE_BYTES << bits,
            Some(split) => (8_usize << (bits - split)).max(64),
        };
        let base = memory.alloc(bytes).ok_or(NoTableMemory { bytes })?;
        let leaves = split.map_or(0, |split| 1 << (bits - split));
        Ok(StreamTable {
            memory,
            coherent,
            bits,
            split,
            base,
            base_bytes: bytes,
            leaves: vec![None; leaves],
        })
    }

    pub(super) fn base(&self) -> PhysAddr {
        self.base.phys
    }

    pub(super) fn config(&self) -> StrtabBaseCfg {
        StrtabBaseCfg {
            lg2_size: self.bits,
            split: self.split,
        }
    }

    pub(super) fn contains(&self, sid: u32) -> bool {
        u64::from(sid) >> self.bits == 0
    }

    /// The entry of a stream inside the table, if its block has a second level.
    pub(super) fn entry(&mut self, sid: u32) -> Option<Entry<'_, M>> {
        if !self.contains(sid) {
            return None;
        }
        let (table, index) = match self.split {
            None => (self.base, sid as usize),
            Some(split) => (
                self.leaves[(sid >> split) as usize]?,
                (sid & ((1 << split) - 1)) as usize,
            ),
        };
        // SAFETY: the table has 64 bytes for each index below its size.
        let words = unsafe { table.ptr.add(index * STE_BYTES / 8) };
        Some(Entry {
            words,
            memory: &self.memory,
            coherent: self.coherent,
        })
    }

    /// As [`entry`](Self::entry); makes the second level if it is missing. The
    /// flag says so: the SMMU may have cached the level 1 descriptor as invalid.
    pub(super) fn entry_or_make(
        &mut self,
        sid: u32,
    ) -> Result<Option<(Entry<'_, M>, bool)>, NoTableMemory> {
        if !self.contains(sid) {
            return Ok(None);
        }
        let mut made = false;
        if let Some(split) = self.split {
            let block = (sid >> split) as usize;
            if self.leaves[block].is_none() {
                let bytes = STE_BYTES << split;
                let leaf = self.memory.alloc(bytes).ok_or(NoTableMemory { bytes })?;
                self.leaves[block] = Some(leaf);
                made = true;
                let descriptor = L1Std {
                    span: split as u8 + 1,
                    table: leaf.phys,
                };
                // The zeroed leaf is visible before the descriptor is.
                self.memory.publish();
                let mut slot = Entry {
                    // SAFETY: the table has 8 bytes for each block.
                    words: unsafe { self.base.ptr.add(block) },
                    memory: &self.memory,
                    coherent: self.coherent,
                };
                slot.store(0, descriptor.encode());
            }
        }
        Ok(self.entry(sid).map(|entry| (entry, made)))
    }

    /// Gives all memory back.
    ///
    /// # Safety
    ///
    /// The SMMU does not read the table any more.
    pub(super) unsafe fn free(&mut self) {
        let leaf_bytes = self.split.map_or(0, |split| STE_BYTES << split);
        for leaf in self.leaves.iter_mut().filter_map(Option::take) {
            // SAFETY: it came from `alloc` with this size.
            unsafe { self.memory.free(leaf, leaf_bytes) };
        }
        // SAFETY: as above; the caller does not use the table again.
        unsafe { self.memory.free(self.base, self.base_bytes) };
    }
}

/// An entry in memory that the SMMU reads.
pub(super) struct Entry<'a, M: TableMemory> {
    words: NonNull<u64>,
    memory: &'a M,
    coherent: bool,
}

impl<'a, M: TableMemory> Entry<'a, M> {
    /// The 64 bytes at `table`.
    ///
    /// # Safety
    ///
    /// `table` has 64 bytes, came from `memory`, and lives as long as the result.
    pub(super) unsafe fn of(table: TableRef, memory: &'a M, coherent: bool) -> Self {
        Entry {
            words: table.ptr,
            memory,
            coherent,
        }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < 8);
        // SAFETY: whoever made the entry gave it memory of enough words, which
        // lives as long as `self`; words that the SMMU reads are atomic.
        unsafe { self.words.add(index).cast().as_ref() }
    }
}

impl<M: TableMemory> EntryMemory for Entry<'_, M> {
    fn load(&self, index: usize) -> u64 {
        u64::from_le(self.word(index).load(Ordering::Relaxed))
    }

    fn store(&mut self, index: usize, value: u64) {
        // Release: earlier words are there before this one.
        self.word(index).store(value.to_le(), Ordering::Release);
        if !self.coherent {
            // SAFETY: the word lies in the entry.
            self.memory.clean(unsafe { self.words.add(index) }, 1);
        }
    }
}
