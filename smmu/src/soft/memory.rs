//! Sparse simulated physical memory: every address up to 52 bits can be read and
//! written, and only what was written takes host memory.
//!
//! Four levels of directories with 1024 entries each lead from the page number
//! (40 bits) to the page. Directories and pages are installed by compare-exchange
//! and never move or go away before the memory itself, so readers need no lock
//! and host addresses are stable.

use alloc::{boxed::Box, sync::Arc};
use core::{
    fmt,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

use dmabench_platform::PhysAddr;

use super::tables::TableWindow;

/// Addresses have at most this many bits (Arm DDI 0487: FEAT_LPA2).
pub const PHYS_BITS: u32 = 52;

/// Bytes of a simulated page frame.
pub const FRAME_BYTES: u64 = 4096;

const FRAME_LG2: u32 = 12;
const WORDS: usize = (FRAME_BYTES / 8) as usize;
const FANOUT_LG2: u32 = 10;
const FANOUT: usize = 1 << FANOUT_LG2;

/// A page frame. Words are little-endian, as everything the SMMU reads.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(super) struct Frame {
    pub(super) words: [AtomicU64; WORDS],
}

impl Frame {
    fn zeroed() -> Box<Self> {
        Box::new(Frame {
            words: [const { AtomicU64::new(0) }; WORDS],
        })
    }
}

/// 1024 places for a `T`, each filled at most once and then for good.
pub(super) struct Directory<T> {
    entries: [AtomicPtr<T>; FANOUT],
}

impl<T> Directory<T> {
    pub(super) fn new() -> Box<Self> {
        Box::new(Directory {
            entries: [const { AtomicPtr::new(null_mut()) }; FANOUT],
        })
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        // Acquire: pairs with the release of the install, so the content is
        // there when the pointer is.
        let entry = self.entries[index].load(Ordering::Acquire);
        // SAFETY: a pointer that is not null came from `Box::into_raw` in
        // `get_or_make` and is freed in `drop` only, which has `&mut self`.
        unsafe { entry.as_ref() }
    }

    /// The `T` at `index`, made by `make` if it is not there. Of two callers
    /// that make one at the same time, one drops its own again.
    pub(super) fn get_or_make(
        &self,
        index: usize,
        make: impl FnOnce() -> Result<Box<T>, MemoryFull>,
        unmake: impl FnOnce(),
    ) -> Result<&T, MemoryFull> {
        if let Some(found) = self.get(index) {
            return Ok(found);
        }
        let made = Box::into_raw(make()?);
        let installed = match self.entries[index].compare_exchange(
            null_mut(),
            made,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => made,
            Err(theirs) => {
                // SAFETY: `made` came from `Box::into_raw` just above and was
                // not installed, so nobody else has it.
                drop(unsafe { Box::from_raw(made) });
                unmake();
                theirs
            }
        };
        // SAFETY: as in `get`: installed pointers live as long as `self`.
        Ok(unsafe { &*installed })
    }
}

impl<T> Drop for Directory<T> {
    fn drop(&mut self) {
        for entry in &mut self.entries {
            let pointer = *entry.get_mut();
            if !pointer.is_null() {
                // SAFETY: it came from `Box::into_raw`, was installed once, and
                // nobody else can reach it: `&mut self`.
                drop(unsafe { Box::from_raw(pointer) });
            }
        }
    }
}

impl<T> fmt::Debug for Directory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

type Level4 = Directory<Frame>;
type Level3 = Directory<Level4>;
type Level2 = Directory<Level3>;
type Level1 = Directory<Level2>;

/// How a [`SimMemory`] is made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SimMemoryConfig {
    /// The most host memory that data pages and their directories may take, in
    /// bytes. A write that would need more is refused. Default: 1 GiB.
    pub data_limit_bytes: u64,
    /// First address of the window that translation tables are taken from. It
    /// must be a multiple of [`SimMemory::TABLE_WINDOW_ALIGN`]. Default: bit 46,
    /// beyond the memory of the machines the shipped traces come from and
    /// inside every output size from 48 bits on. For smaller output sizes
    /// choose an address the trace does not use.
    pub table_base: PhysAddr,
    /// Bytes of that window; at most [`SimMemory::TABLE_WINDOW_MAX_BYTES`].
    /// Default: 1 GiB. Host memory is taken in steps of 1 MiB, as needed.
    pub table_bytes: u64,
}

impl Default for SimMemoryConfig {
    fn default() -> Self {
        SimMemoryConfig {
            data_limit_bytes: 1 << 30,
            table_base: PhysAddr(1 << 46),
            table_bytes: 1 << 30,
        }
    }
}

impl SimMemoryConfig {
    /// Puts the tables at `base`.
    pub fn with_tables_at(mut self, base: PhysAddr, len_bytes: u64) -> Self {
        self.table_base = base;
        self.table_bytes = len_bytes;
        self
    }

    /// Limits the host memory of data pages.
    pub fn with_data_limit(mut self, bytes: u64) -> Self {
        self.data_limit_bytes = bytes;
        self
    }
}

/// The configuration of a [`SimMemory`] makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryConfigError {
    /// The table window is not aligned, empty, too large, or ends beyond 52
    /// bits.
    TableWindow {
        /// The address asked for.
        base: PhysAddr,
        /// The length asked for.
        len_bytes: u64,
    },
}

impl fmt::Display for MemoryConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryConfigError::TableWindow { base, len_bytes } => write!(
                f,
                "table window of {len_bytes:#x} bytes at {base}: choose 1 to 1024 MiB, 1 MiB \
                 aligned, below 2^52"
            ),
        }
    }
}

impl core::error::Error for MemoryConfigError {}

/// The simulated memory has no room left: its limit was set by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFull {
    /// The limit that would have been passed, in bytes.
    pub limit_bytes: u64,
}

impl fmt::Display for MemoryFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "simulated memory is full at {} bytes; raise its limit",
            self.limit_bytes
        )
    }
}

impl core::error::Error for MemoryFull {}

/// Sparse simulated physical memory of 52 bits.
///
/// Memory that was never written reads as zero and takes no room. All calls may
/// run at the same time from any thread; an aligned 64-bit word is read and
/// written as a whole, longer accesses word by word.
#[derive(Debug)]
pub struct SimMemory {
    root: Box<Level1>,
    used_bytes: AtomicU64,
    limit_bytes: u64,
    pub(super) tables: TableWindow,
}

impl SimMemory {
    /// Alignment of the table window, in bytes.
    pub const TABLE_WINDOW_ALIGN: u64 = super::tables::CHUNK_BYTES;
    /// The largest table window, in bytes.
    pub const TABLE_WINDOW_MAX_BYTES: u64 = super::tables::CHUNK_BYTES * FANOUT as u64;

    /// Empty memory.
    ///
    /// # Errors
    ///
    /// [`MemoryConfigError::TableWindow`] for a window that cannot be.
    pub fn new(config: SimMemoryConfig) -> Result<Arc<Self>, MemoryConfigError> {
        let tables = TableWindow::new(config.table_base, config.table_bytes)?;
        Ok(Arc::new(SimMemory {
            root: Directory::new(),
            used_bytes: AtomicU64::new(0),
            limit_bytes: config.data_limit_bytes,
            tables,
        }))
    }

    /// Host bytes that data pages and their directories take now.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Whether `phys` lies in the window that tables are taken from.
    pub fn is_table_address(&self, phys: PhysAddr) -> bool {
        self.tables.contains(phys)
    }

    /// Reads `into.len()` bytes from `phys` on. Bytes beyond 52 bits read as
    /// zero.
    pub fn read(&self, phys: PhysAddr, into: &mut [u8]) {
        let mut address = phys.0;
        let mut rest = into;
        while !rest.is_empty() {
            let offset = (address & 7) as usize;
            let n = rest.len().min(8 - offset);
            let word = self.read_u64(PhysAddr(address & !7)).to_le_bytes();
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&word[offset..offset + n]);
            rest = later;
            // Beyond the end of 64 bits there is nothing to read either.
            address = address.saturating_add(n as u64);
        }
    }

    /// Writes `from` at `phys`. What lies beyond 52 bits is dropped, as a bus
    /// would.
    ///
    /// # Errors
    ///
    /// [`MemoryFull`] at the first page that finds no room; the bytes before it
    /// are written.
    pub fn write(&self, phys: PhysAddr, from: &[u8]) -> Result<(), MemoryFull> {
        let mut address = phys.0;
        let mut rest = from;
        while !rest.is_empty() {
            let offset = (address & 7) as usize;
            let n = rest.len().min(8 - offset);
            if let Some(word) = self.word_to_write(PhysAddr(address & !7))? {
                if n == 8 {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&rest[..8]);
                    word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
                } else {
                    // A part of a word: others may write the other part.
                    let merge = |old: u64| {
                        let mut bytes = old.to_le_bytes();
                        bytes[offset..offset + n].copy_from_slice(&rest[..n]);
                        Some(u64::from_le_bytes(bytes))
                    };
                    let _always_ok = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
                }
            }
            rest = &rest[n..];
            address = address.saturating_add(n as u64);
        }
        Ok(())
    }

    /// The aligned 64-bit word at `phys` (its low three bits are ignored), with
    /// acquire ordering: what an SMMU fetches.
    pub fn read_u64(&self, phys: PhysAddr) -> u64 {
        self.word(phys).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// Stores an aligned 64-bit word with release ordering; the low three bits
    /// of `phys` are ignored.
    ///
    /// # Errors
    ///
    /// [`MemoryFull`] if its page finds no room.
    pub fn write_u64(&self, phys: PhysAddr, value: u64) -> Result<(), MemoryFull> {
        if let Some(word) = self.word_to_write(phys)? {
            word.store(value, Ordering::Release);
        }
        Ok(())
    }

    /// The word at `phys` as a walker fetches it, and whether it lies in a table
    /// that has been given back.
    #[inline]
    pub(super) fn fetch(&self, phys: PhysAddr) -> (u64, bool) {
        if self.tables.contains(phys) {
            self.tables.fetch(phys)
        } else {
            (self.read_u64(phys), false)
        }
    }

    /// Bytes of the tables that are allocated now, each rounded up to whole
    /// frames.
    pub fn table_bytes(&self) -> u64 {
        self.tables.live_bytes()
    }

    /// The word at `phys`, if its page was ever written.
    pub(super) fn word(&self, phys: PhysAddr) -> Option<&AtomicU64> {
        let index = word_index(phys);
        if self.tables.contains(phys) {
            return Some(&self.tables.frame(phys)?.words[index]);
        }
        let [i1, i2, i3, i4] = directory_indices(phys)?;
        let frame = self.root.get(i1)?.get(i2)?.get(i3)?.get(i4)?;
        Some(&frame.words[index])
    }

    /// `None` beyond 52 bits.
    fn word_to_write(&self, phys: PhysAddr) -> Result<Option<&AtomicU64>, MemoryFull> {
        let index = word_index(phys);
        if self.tables.contains(phys) {
            return Ok(self.tables.frame(phys).map(|f| &f.words[index]));
        }
        let Some([i1, i2, i3, i4]) = directory_indices(phys) else {
            return Ok(None);
        };
        let level2 = self.node(&self.root, i1, Directory::new)?;
        let level3 = self.node(level2, i2, Directory::new)?;
        let level4 = self.node(level3, i3, Directory::new)?;
        let frame = self.node(level4, i4, Frame::zeroed)?;
        Ok(Some(&frame.words[index]))
    }

    fn node<'d, T>(
        &self,
        directory: &'d Directory<T>,
        index: usize,
        make: impl FnOnce() -> Box<T>,
    ) -> Result<&'d T, MemoryFull> {
        let bytes = size_of::<T>() as u64;
        let take = || {
            self.used_bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                    used.checked_add(bytes).filter(|u| *u <= self.limit_bytes)
                })
                .map_err(|_| MemoryFull {
                    limit_bytes: self.limit_bytes,
                })?;
            Ok(make())
        };
        directory.get_or_make(index, take, || {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        })
    }
}

#[inline]
pub(super) fn word_index(phys: PhysAddr) -> usize {
    (phys.0 as usize >> 3) & (WORDS - 1)
}

/// The four indices of a page; `None` beyond 52 bits.
#[inline]
fn directory_indices(phys: PhysAddr) -> Option<[usize; 4]> {
    if phys.0 >> PHYS_BITS != 0 {
        return None;
    }
    let page = (phys.0 >> FRAME_LG2) as usize;
    let mask = FANOUT - 1;
    Some([
        page >> (3 * FANOUT_LG2),
        page >> (2 * FANOUT_LG2) & mask,
        page >> FANOUT_LG2 & mask,
        page & mask,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Arc<SimMemory> {
        SimMemory::new(SimMemoryConfig::default()).unwrap()
    }

    #[test]
    fn unwritten_memory_reads_as_zero_and_takes_no_room() {
        let memory = memory();
        let mut bytes = [7; 64];
        for phys in [0, 0xffe4_0000, (1 << 52) - 64, 1 << 52, u64::MAX - 3] {
            memory.read(PhysAddr(phys), &mut bytes);
            assert_eq!(bytes, [0; 64], "{phys:#x}");
        }
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn bytes_come_back_across_words_and_pages() {
        let memory = memory();
        let data: alloc::vec::Vec<u8> = (0..100).collect();
        for phys in [3, 0xffd, 0xf_ffff_ffff_e003] {
            memory.write(PhysAddr(phys), &data).unwrap();
            let mut back = [0; 100];
            memory.read(PhysAddr(phys), &mut back);
            assert_eq!(back[..], data[..], "{phys:#x}");
        }
        // The neighbours are untouched.
        let mut byte = [9];
        memory.read(PhysAddr(2), &mut byte);
        assert_eq!(byte, [0]);
        assert_eq!(memory.read_u64(PhysAddr(103)) >> 56, 0);
    }

    #[test]
    fn memory_beyond_52_bits_swallows_writes() {
        let memory = memory();
        memory.write(PhysAddr((1 << 52) - 4), &[1; 8]).unwrap();
        let mut bytes = [0; 8];
        memory.read(PhysAddr((1 << 52) - 4), &mut bytes);
        assert_eq!(bytes, [1, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(memory.read_u64(PhysAddr(0)), 0, "no wrap to address 0");
    }

    #[test]
    fn a_full_memory_refuses_and_keeps_what_it_has() {
        let config = SimMemoryConfig::default().with_data_limit(3 * 8192 + 2 * 4096);
        let memory = SimMemory::new(config).unwrap();
        memory.write_u64(PhysAddr(0x1000), 1).unwrap();
        memory.write_u64(PhysAddr(0x2000), 2).unwrap();
        let full = MemoryFull {
            limit_bytes: 3 * 8192 + 2 * 4096,
        };
        assert_eq!(memory.write_u64(PhysAddr(0x3000), 3), Err(full));
        assert_eq!(memory.write_u64(PhysAddr(1 << 50), 3), Err(full));
        assert_eq!(memory.read_u64(PhysAddr(0x1000)), 1);
        assert_eq!(memory.used_bytes(), full.limit_bytes);
    }

    #[test]
    fn two_threads_that_write_one_page_see_one_page() {
        let memory = memory();
        std::thread::scope(|scope| {
            for id in 0..2_u64 {
                let memory = &memory;
                scope.spawn(move || {
                    for page in 0..200 {
                        let at = PhysAddr(page * 4096 + id * 4);
                        memory.write(at, &[id as u8 + 1; 4]).unwrap();
                    }
                });
            }
        });
        for page in 0..200 {
            assert_eq!(
                memory.read_u64(PhysAddr(page * 4096)),
                0x0202_0202_0101_0101
            );
        }
    }
}
