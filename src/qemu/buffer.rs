//! A request's buffer in the emulated machine's memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dmabench_dma::Segment;
use dmabench_platform::PhysAddr;
use dmabench_smmu::qemu::{BLOCK_BYTES, GuestRam, RamError};

const PAGE: u64 = 4096;

/// The memory that buffers are taken from: one piece of the machine's RAM, so
/// that all of it can be registered at once.
#[derive(Debug, Clone)]
pub(super) struct Arena {
    ram: GuestRam,
    pub(super) memory: Segment,
    /// By first byte: how many bytes are taken.
    taken: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Arena {
    /// Takes `len_bytes` of RAM, for as long as the machine lives.
    pub(super) fn new(ram: &GuestRam, len_bytes: u64) -> Result<Self, RamError> {
        let phys = ram.alloc(len_bytes, 2 << 20)?;
        Ok(Arena {
            ram: ram.clone(),
            memory: Segment { phys, len_bytes },
            taken: Arc::default(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // Each change is one insertion or removal.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whole pages; the lowest that are free.
    fn alloc(&self, len_bytes: u64) -> Result<PhysAddr, RamError> {
        let len_bytes = len_bytes.next_multiple_of(PAGE);
        let end = self.memory.phys.0 + self.memory.len_bytes;
        let mut taken = self.taken();
        let mut at = self.memory.phys.0;
        for (&first, &len) in taken.iter() {
            if first - at >= len_bytes {
                break;
            }
            at = first + len;
        }
        if end - at < len_bytes {
            return Err(RamError::Full { bytes: len_bytes });
        }
        taken.insert(at, len_bytes);
        Ok(PhysAddr(at))
    }

    fn free(&self, phys: PhysAddr) {
        self.taken().remove(&phys.0);
    }
}

/// Segments as long, and as far into their pages, as those of the workload, on
/// pages of their own.
#[derive(Debug)]
pub(super) struct Buffer {
    arena: Arena,
    pub(super) segments: Vec<Segment>,
    pub(super) bytes: u64,
}

impl Buffer {
    pub(super) fn new(arena: &Arena, wanted: &[Segment]) -> Result<Self, RamError> {
        let mut buffer = Buffer {
            arena: arena.clone(),
            segments: Vec::with_capacity(wanted.len()),
            bytes: 0,
        };
        for segment in wanted {
            let offset = segment.phys.0 % PAGE;
            // If it fails, what was allocated so far goes with `buffer`.
            let page = arena.alloc(offset + segment.len_bytes)?;
            buffer.segments.push(Segment {
                phys: PhysAddr(page.0 + offset),
                len_bytes: segment.len_bytes,
            });
            buffer.bytes += segment.len_bytes;
        }
        Ok(buffer)
    }

    /// Whether the controller can move it: whole blocks, at multiples of four,
    /// as many as one command can say.
    pub(super) fn is_movable(&self) -> bool {
        let aligned = self.segments.iter().all(|s| s.phys.0.is_multiple_of(4));
        let blocks = self.bytes / BLOCK_BYTES;
        aligned && self.bytes.is_multiple_of(BLOCK_BYTES) && (1..=0xffff).contains(&blocks)
    }

    /// All its bytes, in order.
    pub(super) fn read(&self) -> Result<Vec<u8>, RamError> {
        let mut all = vec![0; self.bytes as usize];
        let mut rest = all.as_mut_slice();
        for segment in &self.segments {
            let (now, later) = rest.split_at_mut(segment.len_bytes as usize);
            self.arena.ram.read(segment.phys, now)?;
            rest = later;
        }
        Ok(all)
    }

    /// Fills it.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), RamError> {
        let mut rest = bytes;
        for segment in &self.segments {
            let (now, later) = rest.split_at((segment.len_bytes as usize).min(rest.len()));
            self.arena.ram.write(segment.phys, now)?;
            rest = later;
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        for segment in &self.segments {
            self.arena.free(PhysAddr(segment.phys.0 & !(PAGE - 1)));
        }
    }
}

/// `bytes` bytes that differ from block to block: xorshift from `seed`.
pub(super) fn pattern(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut all = vec![0; bytes as usize];
    for chunk in all.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    all
}
