//! `dd if=/dev/mmcblk1 of=/dev/null bs=4M`, the load of the 2021 thread: the
//! page cache reads ahead in requests of 128 KiB.

use dmabench_platform::PhysAddr;

use super::{Generator, Random};
use crate::{
    report::Source,
    workload::{Builder, Direction, Segment, Workload},
};

const PAGE: u64 = 4096;
/// Page-cache pages lie anywhere in the RAM of the board of the thread, which
/// begins at 2 GiB; 1 GiB of it is used, so that pages come back.
const RAM_START: u64 = 0x8000_0000;
const RAM_PAGES: u64 = (1 << 30) / PAGE;

/// Sequential reads through the page cache.
#[derive(Debug, Clone, Copy)]
pub struct DdSeq {
    /// Pages of one request.
    pub pages: u64,
    /// Requests of one pass.
    pub requests: u32,
    /// Requests mapped at once: the MMC core maps request N+1 while N is
    /// transferred (`pre_req`).
    pub depth: u32,
}

impl DdSeq {
    /// 128 MiB in requests of `VM_READAHEAD` (128 KiB), each page an entry of
    /// its own, two mapped at once.
    pub const DEFAULT: DdSeq = DdSeq {
        pages: 32,
        requests: 1024,
        depth: 2,
    };
}

impl Generator for DdSeq {
    fn name(&self) -> &'static str {
        "dd-seq"
    }

    fn description(&self) -> &'static str {
        "sequential read through the page cache: 128 KiB requests of 32 scattered pages, 2 mapped at once"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let mut mapped = std::collections::VecDeque::new();
        for _ in 0..self.requests {
            let pages = (0..self.pages).map(|_| Segment {
                phys: PhysAddr(RAM_START + random.below(RAM_PAGES) * PAGE),
                len_bytes: PAGE,
            });
            mapped.push_back(builder.map(0, Direction::FromDevice, pages));
            if mapped.len() as u32 >= self.depth
                && let Some(oldest) = mapped.pop_front()
            {
                builder.unmap(oldest);
            }
        }
        let source = Source::Generated {
            generator: format!(
                "{} pages={} requests={} depth={} seed={seed}",
                self.name(),
                self.pages,
                self.requests,
                self.depth
            ),
        };
        builder.finish(
            self.name().to_owned(),
            self.description().to_owned(),
            source,
            None,
            vec!["sdhci".to_owned()],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_workload() {
        let workload = DdSeq::DEFAULT.generate(1);
        assert_eq!(workload.requests().len(), 1024);
        assert_eq!(workload.bytes(), 128 << 20);
        assert_eq!(workload.live_max, 2);
        assert_eq!(workload.steps().len(), 2048);
        let segments = |w: &Workload| w.segments(&w.requests()[7]).to_vec();
        assert_eq!(segments(&workload), segments(&DdSeq::DEFAULT.generate(1)));
        assert_ne!(segments(&workload), segments(&DdSeq::DEFAULT.generate(2)));
    }
}
