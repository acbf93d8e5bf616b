//! Small requests in deep queues from several threads: the load of the tables
//! that show how strict unmapping scales.
//!
//! Barry Song, linux iommu list, 2020-05: a strict unmap on a real SMMUv3 takes
//! 1956 ns on one thread and 101,880 ns on each of 96. John Garry, 2020-08: map
//! and unmap per processor and second fall from 282 K on 8 processors to 11 K on
//! 64. Both with 4 KiB.

use super::{Generator, Random, Refused, Shape, SizeMix, finish, in_flight, memory::Scattered};
use crate::workload::{Builder, Direction, Workload};

/// Reads from an NVMe drive.
#[derive(Debug, Clone)]
pub struct NvmeContend {
    /// Requests of one pass.
    pub requests: u32,
    /// Requests mapped at once.
    pub depth: u32,
    /// Sizes of the requests.
    pub sizes: SizeMix,
}

impl NvmeContend {
    /// 4 KiB, 128 in flight.
    pub const DEFAULT: NvmeContend = NvmeContend {
        requests: 4096,
        depth: 128,
        sizes: SizeMix::K4,
    };
}

impl Generator for NvmeContend {
    fn name(&self) -> &'static str {
        "nvme-contend"
    }

    fn description(&self) -> &'static str {
        "NVMe queue of one thread: reads of 4 KiB, 128 in flight, completed in any order"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let pages_used = u64::from(self.requests) * u64::from(self.sizes.largest());
        let mut memory = Scattered::new(&mut builder, &mut random, pages_used);
        in_flight::keep(
            &mut builder,
            &mut random,
            self.requests,
            self.depth,
            |builder, random| {
                let list = memory.take(self.sizes.draw(random));
                builder.map_list(0, Direction::FromDevice, list)
            },
        );
        let parameters = format!(
            "requests={} depth={} sizes={}",
            self.requests, self.depth, self.sizes
        );
        finish(self, builder, &parameters, seed, "nvme")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        Ok(Box::new(NvmeContend {
            requests: shape.requests.unwrap_or(self.requests),
            depth: shape.depth.unwrap_or(self.depth),
            sizes: shape.sizes.clone().unwrap_or_else(|| self.sizes.clone()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Step;

    #[test]
    fn the_queue_stays_full_and_completes_in_any_order() {
        let workload = NvmeContend::DEFAULT.generate(1);
        assert_eq!(workload.live_max, 128);
        assert_eq!(workload.bytes(), 4096 * 4096);
        // How many stayed in flight less long than one mapped before them.
        let mut live: u32 = 0;
        let mut newest_done = 0;
        let mut overtaken = 0;
        for (at, step) in workload.steps().iter().enumerate() {
            match *step {
                Step::Map(_) => live += 1,
                Step::Unmap(request) => {
                    live -= 1;
                    overtaken += u32::from(request < newest_done);
                    newest_done = newest_done.max(request);
                }
            }
            assert!(live >= 127 || !(128..8192 - 128).contains(&at));
        }
        assert!(overtaken > 3000, "{overtaken}");
    }

    #[test]
    fn a_mix_of_sizes_is_drawn_from() {
        let shape = Shape {
            sizes: Some("4K:1,512K:1".parse().unwrap()),
            depth: Some(3),
            requests: Some(1000),
            ..Shape::default()
        };
        let workload = NvmeContend::DEFAULT.shaped(&shape).unwrap().generate(1);
        assert_eq!(workload.live_max, 3);
        let sizes = workload.sizes();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|s| s.requests > 430), "{sizes:?}");
    }
}
