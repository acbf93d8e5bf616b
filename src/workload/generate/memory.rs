//! The memory that generated requests are made of.

use dmabench_platform::PhysAddr;

use super::{Random, shape::PAGE};
use crate::workload::{Builder, Lists, Segment};

/// The RAM of the board of the 2021 thread begins at 2 GiB; 1 GiB of it is used,
/// so that pages come back.
const RAM_START: u64 = 0x8000_0000;
const RAM_PAGES: u64 = (1 << 30) / PAGE;

/// Scattered pages a workload takes its scatter lists from: 256 MiB of memory in
/// 1 MiB of entries, however many the requests are.
const POOL_PAGES: u32 = 1 << 16;

/// Pages of the page cache, or of a buffer without huge pages: each anywhere in
/// RAM, each an entry of its own.
#[derive(Debug)]
pub(super) struct Scattered {
    lists: Lists,
    next: u32,
}

impl Scattered {
    /// Takes random pages; as many as the workload can use, where those are few.
    pub(super) fn new(builder: &mut Builder, random: &mut Random, pages_used: u64) -> Self {
        let pages = pages_used.clamp(128, u64::from(POOL_PAGES)) as u32;
        let entries = (0..pages).map(|_| Segment {
            phys: PhysAddr(RAM_START + random.below(RAM_PAGES) * PAGE),
            len_bytes: PAGE,
        });
        Scattered {
            lists: builder.lists(entries),
            next: 0,
        }
    }

    /// The next `pages` pages, at most 128.
    pub(super) fn take(&mut self, pages: u32) -> Lists {
        if self.next + pages > self.lists.len() {
            self.next = 0;
        }
        let taken = self.lists.slice(self.next, pages);
        self.next += pages;
        taken
    }
}
