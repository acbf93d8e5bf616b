//! Memory for block traces, which do not say where the data lay.

use dmabench_platform::PhysAddr;

use crate::workload::{Builder, HostLimits, Lists, Segment, generate::Random};

const PAGE: u64 = 4096;
/// 1 GiB from 2 GiB on, as for the generated workloads.
const RAM_START: u64 = 0x8000_0000;
const RAM_PAGES: u64 = (1 << 30) / PAGE;
/// Pages that are used over and over: 64 MiB.
const POOL: usize = 1 << 14;
/// Any number, always the same.
const SEED: u64 = 1;

/// Pages anywhere in memory, in an order that does not change from run to run.
#[derive(Debug)]
pub(super) struct Memory {
    pages: Vec<u64>,
    lists: Lists,
    next: usize,
}

impl Memory {
    pub(super) fn new(builder: &mut Builder) -> Self {
        let mut random = Random::new(SEED);
        let pages: Vec<u64> = (0..POOL)
            .map(|_| RAM_START + random.below(RAM_PAGES) * PAGE)
            .collect();
        let lists = builder.lists(pages.iter().map(|&phys| segment(phys, PAGE)));
        Memory {
            pages,
            lists,
            next: 0,
        }
    }

    /// Calls `each` with the scatter list of every request that the host makes of
    /// `bytes` bytes.
    pub(super) fn requests(
        &mut self,
        builder: &mut Builder,
        bytes: u64,
        mut each: impl FnMut(&mut Builder, Lists),
    ) {
        let first = self.next;
        let pages = bytes.div_ceil(PAGE);
        let page_of = |n: u64| (first as u64).wrapping_add(n) as usize % POOL;
        let entries = (0..pages).map(|n| {
            let len_bytes = (bytes - n * PAGE).min(PAGE);
            segment(self.pages[page_of(n)], len_bytes)
        });
        let mut from = 0;
        HostLimits::SDHCI.split(entries, |list| {
            // A list of whole pages of the pool, which is nearly every one, is
            // there already.
            let (start, len) = (page_of(from), list.len());
            let whole = start + len <= POOL
                && (list.iter().zip(&self.pages[start..]))
                    .all(|(entry, page)| entry.phys.0 == *page && entry.len_bytes == PAGE);
            let covered: u64 = list.iter().map(|s| s.len_bytes).sum();
            let list = if whole {
                self.lists.slice(start as u32, len as u32)
            } else {
                builder.lists(list.iter().copied())
            };
            from += covered.div_ceil(PAGE);
            each(builder, list);
        });
        self.next = page_of(pages);
    }
}

fn segment(phys: u64, len_bytes: u64) -> Segment {
    Segment {
        phys: PhysAddr(phys),
        len_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::Source, workload::Direction};

    fn sizes(bytes: &[u64]) -> Vec<(u64, usize)> {
        let mut builder = Builder::new();
        let mut memory = Memory::new(&mut builder);
        for &bytes in bytes {
            memory.requests(&mut builder, bytes, |builder, list| {
                let request = builder.map_list(0, Direction::ToDevice, list);
                builder.unmap(request);
            });
        }
        let source = Source::Generated {
            generator: String::new(),
        };
        let workload = builder.finish(String::new(), String::new(), source, None, vec![]);
        (workload.requests().iter())
            .map(|r| (r.bytes, workload.segments(r).len()))
            .collect()
    }

    #[test]
    fn requests_have_their_bytes_and_the_hosts_limits() {
        assert_eq!(sizes(&[512, 4096]), [(512, 1), (4096, 1)]);
        let large = sizes(&[(1 << 20) + 1536]);
        let bytes: u64 = large.iter().map(|(bytes, _)| bytes).sum();
        assert_eq!(bytes, (1 << 20) + 1536);
        // Two pages that happen to be neighbours would be one entry.
        assert_eq!(large.len(), 3, "{large:?}");
        assert!(
            large
                .iter()
                .all(|(bytes, n)| *bytes <= 512 << 10 && *n <= 128)
        );
        // Round the pool more than once: 1 GiB in 64 MiB.
        let huge = sizes(&[4096, 1 << 30]);
        assert_eq!(huge.iter().map(|(b, _)| b).sum::<u64>(), (1 << 30) + 4096);
        assert!(
            huge.iter()
                .all(|(bytes, n)| *bytes <= 512 << 10 && *n <= 128)
        );
    }
}
