//! `fio --rw=randrw --rwmixread=70 --bs=4K --iodepth=20 --numjobs=20 --direct=1`:
//! the jobs of Linux's HSQ series for eMMC (Baolin Wang, v8, 2020-02-05), mixed
//! 70 to 30.

use super::{Generator, Random, Refused, Shape, finish, in_flight, memory::Scattered, shape::PAGE};
use crate::workload::{Builder, Direction, Workload};

/// Random reads and writes of 4 KiB.
#[derive(Debug, Clone, Copy)]
pub struct FioRand {
    /// Requests of one pass.
    pub requests: u32,
    /// Requests mapped at once.
    pub depth: u32,
}

impl FioRand {
    /// Processes of the job, each with [`FioRand::IODEPTH`] in flight.
    pub const JOBS: u32 = 20;
    /// Requests of one process in flight.
    pub const IODEPTH: u32 = 20;
    /// Reads among 100 requests.
    const READ_PERCENT: u64 = 70;

    /// All jobs on one thread: 400 in flight.
    pub const DEFAULT: FioRand = FioRand {
        requests: 4096,
        depth: Self::JOBS * Self::IODEPTH,
    };
}

impl Generator for FioRand {
    fn name(&self) -> &'static str {
        "fio-rand-4k"
    }

    fn description(&self) -> &'static str {
        "fio, random direct I/O of 4 KiB, 70 % reads: 20 jobs of depth 20, so 400 in flight"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        // One buffer for each request in flight, used again and again.
        let buffers = u64::from(self.depth);
        let mut memory = Scattered::new(&mut builder, &mut random, buffers);
        in_flight::keep(
            &mut builder,
            &mut random,
            self.requests,
            self.depth,
            |builder, random| {
                let direction = if random.below(100) < Self::READ_PERCENT {
                    Direction::FromDevice
                } else {
                    Direction::ToDevice
                };
                builder.map_list(0, direction, memory.take(1))
            },
        );
        let parameters = format!(
            "requests={} depth={} bytes={PAGE} read={}%",
            self.requests,
            self.depth,
            Self::READ_PERCENT
        );
        finish(self, builder, &parameters, seed, "mmc")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        shape.no_sizes(
            self.name(),
            "its requests are of 4 KiB; nvme-contend takes it",
        )?;
        // The jobs are dealt to the threads, one at least to each.
        let jobs = (Self::JOBS / shape.players.unwrap_or(1)).max(1);
        Ok(Box::new(FioRand {
            requests: shape.requests.unwrap_or(self.requests),
            depth: shape.depth.unwrap_or(jobs * Self::IODEPTH),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_of_ten_are_reads_and_the_jobs_are_dealt_to_the_threads() {
        let workload = FioRand {
            requests: 20_000,
            ..FioRand::DEFAULT
        }
        .generate(1);
        assert_eq!(workload.live_max, 400);
        let reads = (workload.requests().iter())
            .filter(|r| r.direction == Direction::FromDevice)
            .count();
        // Three standard deviations are 194.
        assert!(reads.abs_diff(14_000) < 194, "{reads}");
        assert!(workload.requests().iter().all(|r| r.bytes == 4096));
        for (threads, depth) in [(1, 400), (4, 100), (20, 20), (1000, 20)] {
            let shape = Shape {
                players: Some(threads),
                ..Shape::default()
            };
            let dealt = FioRand::DEFAULT.shaped(&shape).unwrap().generate(1);
            assert_eq!(dealt.live_max, depth, "{threads}");
        }
    }
}
