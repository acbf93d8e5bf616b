//! `dd if=/dev/mmcblk1 of=/dev/null bs=4M`, the load of the 2021 thread: the
//! page cache reads ahead in requests of 128 KiB.

use super::{Generator, PAGES_MAX, Random, Refused, Shape, finish, memory::Scattered};
use crate::workload::{Builder, Direction, Workload};

/// Sequential reads through the page cache.
#[derive(Debug, Clone, Copy)]
pub struct DdSeq {
    /// Pages of one request, at most [`PAGES_MAX`].
    pub pages: u32,
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
        let pages = self.pages.clamp(1, PAGES_MAX);
        let pages_used = u64::from(self.requests) * u64::from(pages);
        let mut memory = Scattered::new(&mut builder, &mut random, pages_used);
        let mut mapped = std::collections::VecDeque::new();
        for _ in 0..self.requests {
            let list = memory.take(pages);
            mapped.push_back(builder.map_list(0, Direction::FromDevice, list));
            if mapped.len() as u32 >= self.depth
                && let Some(oldest) = mapped.pop_front()
            {
                builder.unmap(oldest);
            }
        }
        let parameters = format!(
            "pages={pages} requests={} depth={}",
            self.requests, self.depth
        );
        finish(self, builder, &parameters, seed, "sdhci")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        shape.no_sizes(
            self.name(),
            "its requests are the read-ahead of 128 KiB; dd-direct takes it",
        )?;
        Ok(Box::new(DdSeq {
            requests: shape.requests.unwrap_or(self.requests),
            depth: shape.depth.unwrap_or(self.depth),
            ..*self
        }))
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
