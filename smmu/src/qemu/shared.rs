//! Anonymous memory that QEMU maps or opens too.

use alloc::format;
use core::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};
use std::{fs::File, io, os::fd::OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::QemuError;

/// A file without a name; it is gone when its last descriptor is.
pub(super) fn anonymous_file(what: &'static str, len_bytes: u64) -> Result<File, QemuError> {
    let failed = |error: rustix::io::Errno| QemuError::host(what, &error.into());
    let name = format!("dmabench-{}", what.replace(' ', "-"));
    let file: OwnedFd = memfd_create(name, MemfdFlags::CLOEXEC).map_err(failed)?;
    ftruncate(&file, len_bytes).map_err(failed)?;
    Ok(File::from(file))
}

/// A mapping of such a file. All accesses from here are of whole, aligned 64-bit
/// words, atomic, so that QEMU's accesses in between tear nothing larger.
pub(super) struct Shared {
    map: MmapRaw,
    len_bytes: u64,
}

impl Shared {
    /// Maps `len_bytes` bytes, a multiple of 8, all of the file.
    pub(super) fn map(what: &'static str, file: &File, len_bytes: u64) -> Result<Self, QemuError> {
        let too_large = || QemuError::host(what, &io::ErrorKind::OutOfMemory.into());
        let len = usize::try_from(len_bytes).map_err(|_| too_large())?;
        let map = MmapOptions::new().len(len).map_raw(file);
        Ok(Shared {
            map: map.map_err(|error| QemuError::host(what, &error))?,
            len_bytes,
        })
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Where the byte at `offset`, which is inside, is mapped.
    pub(super) fn pointer(&self, offset: u64) -> NonNull<u8> {
        assert!(offset < self.len_bytes);
        // SAFETY: the mapping has `len_bytes` bytes, and its length fits `usize`.
        let pointer = unsafe { self.map.as_mut_ptr().add(offset as usize) };
        // SAFETY: no part of a mapping is at address 0.
        unsafe { NonNull::new_unchecked(pointer) }
    }

    /// Whether `len` bytes from `offset` on are inside.
    pub(super) fn holds(&self, offset: u64, len: usize) -> bool {
        offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len_bytes)
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8));
        // SAFETY: `pointer` is inside the mapping, which is a multiple of 8 bytes
        // and aligned to a page, lives as long as `self`, and is accessed as
        // atomic words only.
        unsafe { self.pointer(offset).cast::<AtomicU64>().as_ref() }
    }

    /// Copies out. The caller has checked [`holds`](Self::holds).
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let skip = (at & 7) as usize;
            let n = rest.len().min(8 - skip);
            let word = self.word(at & !7).load(Ordering::Acquire).to_ne_bytes();
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&word[skip..skip + n]);
            rest = later;
            at += n as u64;
        }
    }

    /// Copies in. The caller has checked [`holds`](Self::holds).
    pub(super) fn write(&self, offset: u64, from: &[u8]) {
        let (mut at, mut rest) = (offset, from);
        while !rest.is_empty() {
            let skip = (at & 7) as usize;
            let n = rest.len().min(8 - skip);
            let word = self.word(at & !7);
            if let Some(whole) = rest.first_chunk::<8>().filter(|_| skip == 0) {
                word.store(u64::from_ne_bytes(*whole), Ordering::Release);
            } else {
                // A part of a word: QEMU may write the other part.
                let _always_ok = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                    let mut bytes = old.to_ne_bytes();
                    bytes[skip..skip + n].copy_from_slice(&rest[..n]);
                    Some(u64::from_ne_bytes(bytes))
                });
            }
            rest = &rest[n..];
            at += n as u64;
        }
    }

    /// Zeroes whole words.
    pub(super) fn zero(&self, offset: u64, len_bytes: u64) {
        for at in (offset..offset + len_bytes).step_by(8) {
            self.word(at).store(0, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn bytes_come_back_at_every_alignment_and_leave_their_neighbours() {
        let file = anonymous_file("test memory", 4096).unwrap();
        let shared = Shared::map("test memory", &file, 4096).unwrap();
        let data: Vec<u8> = (1..=50).collect();
        for offset in [0, 1, 7, 8, 4046] {
            shared.zero(0, 4096);
            shared.write(offset, &data);
            let mut all = [0; 4096];
            shared.read(0, &mut all);
            let (at, end) = (offset as usize, offset as usize + 50);
            assert_eq!(all[at..end], data[..]);
            assert_eq!(all.iter().filter(|b| **b != 0).count(), 50);
        }
        assert!(shared.holds(4095, 1) && !shared.holds(4095, 2));
        assert!(!shared.holds(u64::MAX, 1));
    }

    #[test]
    fn two_mappings_of_a_file_are_one_memory() {
        let file = anonymous_file("test memory", 8192).unwrap();
        let [one, two] = [0, 1].map(|_| Shared::map("test memory", &file, 8192).unwrap());
        one.write(5000, b"seen");
        let mut seen = [0; 4];
        two.read(5000, &mut seen);
        assert_eq!(&seen, b"seen");
    }
}
