//! `dd if=/dev/mmcblk1 of=/dev/null bs=4M iflag=direct`: one buffer of 4 MiB in
//! huge pages, read into again and again in requests of 512 KiB.
//!
//! An SD host takes at most 512 KiB and segments of at most 64 KiB (Linux 7.2,
//! `sdhci.c`), so a request is 8 entries that lie one behind the other: the
//! other end from the scattered pages of `dd-seq`.

use std::collections::HashMap;

use dmabench_platform::PhysAddr;

use super::{Generator, Random, Refused, Shape, SizeMix, finish, shape::PAGE};
use crate::workload::{Builder, Direction, HostLimits, Lists, Segment, Workload};

/// The buffer of `bs=4M`.
const BUFFER_PAGES: u32 = 1024;
/// Pages of a huge page of 2 MiB.
const HUGE_PAGES: u32 = 512;
/// The RAM of the board, as in `dd-seq`: 512 huge pages from 2 GiB on.
const RAM_START: u64 = 0x8000_0000;

/// Sequential reads into a buffer of huge pages.
#[derive(Debug, Clone)]
pub struct DdDirect {
    /// Requests of one pass.
    pub requests: u32,
    /// Requests mapped at once.
    pub depth: u32,
    /// Sizes of the requests.
    pub sizes: SizeMix,
}

impl DdDirect {
    /// Half a GiB in requests of 512 KiB, two mapped at once (`pre_req`).
    pub const DEFAULT: DdDirect = DdDirect {
        requests: 1024,
        depth: 2,
        sizes: SizeMix::K512,
    };
}

/// The entries of `pages` pages of the buffer from `first` on.
fn entries(huge: &[u64], first: u32, pages: u32) -> Vec<Segment> {
    let mut entries: Vec<Segment> = Vec::new();
    for page in first..first + pages {
        let start = huge[(page / HUGE_PAGES) as usize] + u64::from(page % HUGE_PAGES) * PAGE;
        match entries.last_mut() {
            Some(last)
                if last.phys.0 + last.len_bytes == start
                    && last.len_bytes + PAGE <= HostLimits::SDHCI.segment_bytes =>
            {
                last.len_bytes += PAGE;
            }
            _ => entries.push(Segment {
                phys: PhysAddr(start),
                len_bytes: PAGE,
            }),
        }
    }
    entries
}

impl Generator for DdDirect {
    fn name(&self) -> &'static str {
        "dd-direct"
    }

    fn description(&self) -> &'static str {
        "sequential direct read into huge pages: 512 KiB requests of 8 contiguous entries, 2 mapped at once"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let mut place = || RAM_START + random.below(512) * u64::from(HUGE_PAGES) * PAGE;
        let huge = [place(), place()];
        let mut lists: HashMap<(u32, u32), Lists> = HashMap::new();
        let mut mapped = std::collections::VecDeque::new();
        let mut next = 0;
        for _ in 0..self.requests {
            let pages = self.sizes.draw(&mut random);
            if next + pages > BUFFER_PAGES {
                next = 0;
            }
            let list = *(lists.entry((next, pages)))
                .or_insert_with(|| builder.lists(entries(&huge, next, pages)));
            next += pages;
            if mapped.len() as u32 >= self.depth.max(1)
                && let Some(oldest) = mapped.pop_front()
            {
                builder.unmap(oldest);
            }
            mapped.push_back(builder.map_list(0, Direction::FromDevice, list));
        }
        let parameters = format!(
            "requests={} depth={} sizes={}",
            self.requests, self.depth, self.sizes
        );
        finish(self, builder, &parameters, seed, "sdhci")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        Ok(Box::new(DdDirect {
            requests: shape.requests.unwrap_or(self.requests),
            depth: shape.depth.unwrap_or(self.depth),
            sizes: shape.sizes.clone().unwrap_or_else(|| self.sizes.clone()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_comes_back_every_eighth_request() {
        let workload = DdDirect::DEFAULT.generate(1);
        assert_eq!(workload.bytes(), 512 << 20);
        assert_eq!(workload.live_max, 2);
        let list = |r: usize| workload.segments(&workload.requests()[r]);
        assert_eq!(list(3), list(11));
        assert_ne!(list(3), list(4));
        for request in workload.requests() {
            let list = workload.segments(request);
            assert_eq!(list.len(), 8);
            assert!(list.iter().all(|s| s.len_bytes == 65536));
        }
    }

    #[test]
    fn odd_sizes_keep_the_hosts_limits() {
        let shape = Shape {
            sizes: Some("12K,100K,512K".parse().unwrap()),
            ..Shape::default()
        };
        let workload = DdDirect::DEFAULT.shaped(&shape).unwrap().generate(2);
        for request in workload.requests() {
            let list = workload.segments(request);
            assert!(list.iter().all(|s| s.len_bytes <= 65536 && s.len_bytes > 0));
            // Entries follow one another but at the border of the huge pages.
            let breaks = (list.windows(2))
                .filter(|w| w[0].phys.0 + w[0].len_bytes != w[1].phys.0)
                .count();
            assert!(breaks <= 1);
        }
    }
}
