//! The window of simulated memory that translation tables are taken from.
//!
//! Tables need what data pages do not: one run of host memory per table, at an
//! address that stays, since the page-table code writes through a host pointer.
//! So the window is backed in chunks of 1 MiB, and each frame has a state:
//! a walker that reads a frame after it was freed is caught in the act.

use alloc::{boxed::Box, vec::Vec};
use core::{
    fmt,
    mem::ManuallyDrop,
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering},
};

use dmabench_platform::{PhysAddr, sync::Mutex};

use super::memory::{
    Directory, FRAME_BYTES, Frame, MemoryConfigError, MemoryFull, PHYS_BITS, word_index,
};

/// Host memory is taken in steps of this many bytes; also the largest table.
pub(super) const CHUNK_BYTES: u64 = 1 << 20;
const FRAMES: usize = (CHUNK_BYTES / FRAME_BYTES) as usize;
/// Tables of 4 KiB to 1 MiB.
const ORDERS: usize = 9;

// What a frame of the window is used for.
/// No table yet: plain memory.
const UNTOUCHED: u8 = 0;
/// Part of a table.
const LIVE: u8 = 1;
/// Was part of a table.
const FREED: u8 = 2;

/// As the alignment is that of the chunk, a table that is aligned in the window
/// is aligned for the host too.
#[repr(C, align(1048576))]
struct Chunk {
    frames: [Frame; FRAMES],
}

struct Chunks {
    memory: Box<Chunk>,
    states: [AtomicU8; FRAMES],
}

impl Chunks {
    fn new() -> Box<Self> {
        // SAFETY: a chunk is an array of `AtomicU64`, for which all-zero bytes
        // are a valid value.
        let memory = unsafe { Box::<Chunk>::new_zeroed().assume_init() };
        Box::new(Chunks {
            memory,
            states: [const { AtomicU8::new(UNTOUCHED) }; FRAMES],
        })
    }
}

struct Free {
    /// Free tables by size: `FRAME_BYTES << order`. The last one freed is the
    /// first one used again, so that a table freed too early does harm at once.
    by_order: [Vec<u64>; ORDERS],
    /// Offset of the first chunk never used.
    next_chunk: u64,
    live_bytes: u64,
}

/// See the module.
pub(super) struct TableWindow {
    base: u64,
    len: u64,
    /// Kept for ever if a table is live when the window goes: a detached table
    /// may still be written to, by whoever holds its token.
    chunks: ManuallyDrop<Box<Directory<Chunks>>>,
    free: Mutex<Free>,
}

impl Drop for TableWindow {
    fn drop(&mut self) {
        if self.live_bytes() == 0 {
            // SAFETY: dropped here only, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.chunks) };
        }
    }
}

impl TableWindow {
    pub(super) fn new(base: PhysAddr, len: u64) -> Result<Self, MemoryConfigError> {
        let fits = base
            .last_byte(len)
            .is_some_and(|last| last.0 >> PHYS_BITS == 0);
        if !fits
            || !base.0.is_multiple_of(CHUNK_BYTES)
            || !len.is_multiple_of(CHUNK_BYTES)
            || len > super::SimMemory::TABLE_WINDOW_MAX_BYTES
        {
            return Err(MemoryConfigError::TableWindow {
                base,
                len_bytes: len,
            });
        }
        Ok(TableWindow {
            base: base.0,
            len,
            chunks: ManuallyDrop::new(Directory::new()),
            free: Mutex::new(Free {
                by_order: [const { Vec::new() }; ORDERS],
                next_chunk: 0,
                live_bytes: 0,
            }),
        })
    }

    #[inline]
    pub(super) fn contains(&self, phys: PhysAddr) -> bool {
        phys.0.wrapping_sub(self.base) < self.len
    }

    /// The chunk of an address of the window and the index of its frame.
    #[inline]
    fn locate(&self, phys: PhysAddr) -> Option<(&Chunks, usize)> {
        let offset = phys.0.wrapping_sub(self.base);
        let chunk = self.chunks.get((offset / CHUNK_BYTES) as usize)?;
        Some((chunk, (offset % CHUNK_BYTES / FRAME_BYTES) as usize))
    }

    /// The frame of an address of the window, if its chunk was ever used.
    #[inline]
    pub(super) fn frame(&self, phys: PhysAddr) -> Option<&Frame> {
        let (chunk, index) = self.locate(phys)?;
        Some(&chunk.memory.frames[index])
    }

    /// The word at `phys`, an address of the window, and whether its frame was
    /// part of a table that has been given back.
    #[inline]
    pub(super) fn fetch(&self, phys: PhysAddr) -> (u64, bool) {
        let Some((chunk, index)) = self.locate(phys) else {
            return (0, false);
        };
        let word = &chunk.memory.frames[index].words[word_index(phys)];
        let state = chunk.states[index].load(Ordering::Acquire);
        (word.load(Ordering::Acquire), state == FREED)
    }

    fn set_state(&self, phys: u64, order: usize, state: u8) {
        let Some((chunk, index)) = self.locate(PhysAddr(phys)) else {
            return;
        };
        for frame in &chunk.states[index..index + (1 << order)] {
            frame.store(state, Ordering::Release);
        }
    }

    /// A zeroed table of `size_bytes`, rounded up to a power of two of whole
    /// frames and aligned to that. `None` if the window is used up or the size
    /// is 0 or beyond a chunk.
    pub(super) fn alloc(&self, size_bytes: u64) -> Option<(NonNull<u8>, PhysAddr)> {
        let order = order_of(size_bytes)?;
        let offset = {
            let mut free = self.free.lock();
            let offset = self.take(&mut free, order)?;
            free.live_bytes += FRAME_BYTES << order;
            offset
        };
        let phys = PhysAddr(self.base + offset);
        let (chunk, index) = self.locate(phys)?;
        let frames = &chunk.memory.frames[index..index + (1 << order)];
        for frame in frames {
            for word in &frame.words {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.set_state(phys.0, order, LIVE);
        Some((NonNull::from(frames).cast(), phys))
    }

    fn take(&self, free: &mut Free, order: usize) -> Option<u64> {
        if let Some(offset) = free.by_order[order].pop() {
            return Some(offset);
        }
        let larger = (order + 1..ORDERS).find(|o| !free.by_order[*o].is_empty());
        let (mut have, offset) = match larger {
            Some(larger) => (larger, free.by_order[larger].pop()?),
            None => {
                let offset = free.next_chunk;
                if offset >= self.len {
                    return None;
                }
                let index = (offset / CHUNK_BYTES) as usize;
                let made: Result<_, MemoryFull> =
                    self.chunks.get_or_make(index, || Ok(Chunks::new()), || ());
                made.ok()?;
                free.next_chunk += CHUNK_BYTES;
                (ORDERS - 1, offset)
            }
        };
        // Halves are not merged again: the sizes of one run are few.
        while have > order {
            have -= 1;
            free.by_order[have].push(offset + (FRAME_BYTES << have));
        }
        Some(offset)
    }

    /// Gives a table back. Its content stays until it is used again, as in real
    /// memory.
    pub(super) fn free(&self, phys: PhysAddr, size_bytes: u64) {
        let order = order_of(size_bytes).expect("only sizes that `alloc` took come back");
        let state = self.locate(phys).map(|(chunk, index)| &chunk.states[index]);
        assert!(
            state.is_some_and(|s| s.load(Ordering::Acquire) == LIVE),
            "table at {phys} freed, but it is not live"
        );
        self.set_state(phys.0, order, FREED);
        let mut free = self.free.lock();
        free.live_bytes -= FRAME_BYTES << order;
        free.by_order[order].push(phys.0 - self.base);
    }

    /// Host address of an address of the window.
    pub(super) fn host_pointer(&self, phys: PhysAddr) -> Option<NonNull<u8>> {
        if !self.contains(phys) {
            return None;
        }
        let (chunk, index) = self.locate(phys)?;
        // The pointer may be used for the rest of its table, so it must come
        // from the chunk, not from one frame.
        let start = NonNull::from(&*chunk.memory).cast::<u8>();
        let offset = index * FRAME_BYTES as usize + (phys.0 % FRAME_BYTES) as usize;
        // SAFETY: `index` is below FRAMES, so the offset is inside the chunk.
        Some(unsafe { start.add(offset) })
    }

    /// Bytes of the tables that are live now.
    pub(super) fn live_bytes(&self) -> u64 {
        self.free.lock().live_bytes
    }
}

impl fmt::Debug for TableWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableWindow")
            .field("base", &PhysAddr(self.base))
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Which multiple of a frame holds `size_bytes`.
fn order_of(size_bytes: u64) -> Option<usize> {
    if size_bytes == 0 || size_bytes > CHUNK_BYTES {
        return None;
    }
    let frames = size_bytes.div_ceil(FRAME_BYTES).next_power_of_two();
    Some(frames.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(mib: u64) -> TableWindow {
        TableWindow::new(PhysAddr(1 << 40), mib << 20).unwrap()
    }

    #[test]
    fn tables_are_zeroed_aligned_and_apart() {
        let window = window(4);
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for size in [64, 4096, 8192, 65536, 1 << 18, 4096, 1 << 20, 16384] {
            let (ptr, phys) = window.alloc(size).unwrap();
            let rounded = size.max(4096);
            assert_eq!(phys.0 % rounded, 0);
            assert_eq!(ptr.as_ptr() as u64 % rounded, 0);
            assert_eq!(window.host_pointer(phys), Some(ptr));
            for (at, len) in &taken {
                assert!(phys.0 + rounded <= *at || at + len <= phys.0);
            }
            taken.push((phys.0, rounded));
            for offset in (0..rounded).step_by(8) {
                assert_eq!(window.fetch(PhysAddr(phys.0 + offset)), (0, false));
            }
            window.frame(phys).unwrap().words[0].store(!0, Ordering::Relaxed);
        }
        assert_eq!(window.live_bytes(), taken.iter().map(|t| t.1).sum::<u64>());
        for (at, len) in taken {
            window.free(PhysAddr(at), len);
            assert_eq!(window.fetch(PhysAddr(at)), (!0, true));
        }
        assert_eq!(window.live_bytes(), 0);
        let (_, phys) = window.alloc(1 << 20).unwrap();
        assert_eq!(window.fetch(phys), (0, false));
    }

    #[test]
    fn a_used_up_window_refuses() {
        let window = window(1);
        for _ in 0..256 {
            assert!(window.alloc(4096).is_some());
        }
        assert_eq!(window.alloc(4096), None);
        assert_eq!(window.alloc(0), None);
        assert_eq!(window.alloc(CHUNK_BYTES + 1), None);
        window.free(PhysAddr((1 << 40) + 4096), 4096);
        let (_, phys) = window.alloc(64).unwrap();
        assert_eq!(phys, PhysAddr((1 << 40) + 4096), "the last one freed");
    }

    #[test]
    #[should_panic(expected = "is not live")]
    fn a_table_freed_twice_is_caught() {
        let window = window(1);
        let (_, phys) = window.alloc(4096).unwrap();
        window.free(phys, 4096);
        window.free(phys, 4096);
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        for (base, len) in [
            (1 << 40, 0),
            (4096, 1 << 20),
            (1 << 40, 4096),
            (1 << 40, 2 << 30),
            ((1 << 52) - (1 << 20), 2 << 20),
            (u64::MAX - (1 << 20) + 1, 1 << 20),
        ] {
            let refused = TableWindow::new(PhysAddr(base), len);
            assert!(refused.is_err(), "{base:#x} {len:#x}");
        }
    }
}
