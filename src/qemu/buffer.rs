//! A request's buffer in the emulated machine's memory.

use dmabench_dma::Segment;
use dmabench_platform::PhysAddr;
use dmabench_smmu::qemu::{BLOCK_BYTES, GuestRam, RamError};

const PAGE: u64 = 4096;

/// Segments as long, and as far into their pages, as those of the workload, on
/// pages of their own.
#[derive(Debug)]
pub(super) struct Buffer {
    ram: GuestRam,
    pub(super) segments: Vec<Segment>,
    pub(super) bytes: u64,
}

impl Buffer {
    pub(super) fn new(ram: &GuestRam, wanted: &[Segment]) -> Result<Self, RamError> {
        let mut buffer = Buffer {
            ram: ram.clone(),
            segments: Vec::with_capacity(wanted.len()),
            bytes: 0,
        };
        for segment in wanted {
            let offset = segment.phys.0 % PAGE;
            // If it fails, what was allocated so far goes with `buffer`.
            let page = ram.alloc(offset + segment.len_bytes, PAGE)?;
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
            self.ram.read(segment.phys, now)?;
            rest = later;
        }
        Ok(all)
    }

    /// Fills it.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), RamError> {
        let mut rest = bytes;
        for segment in &self.segments {
            let (now, later) = rest.split_at((segment.len_bytes as usize).min(rest.len()));
            self.ram.write(segment.phys, now)?;
            rest = later;
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        for segment in &self.segments {
            let offset = segment.phys.0 % PAGE;
            let page = PhysAddr(segment.phys.0 - offset);
            let freed = self.ram.free(page, offset + segment.len_bytes);
            debug_assert!(freed.is_ok());
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
