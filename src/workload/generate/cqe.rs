//! An eMMC behind a command queue (CQHCI): up to 32 requests in flight, which
//! the device serves in any order, and one interrupt for several completions.

use super::{
    Generator, Random, Refused, Shape, SizeMix, finish, memory::Scattered, shape::refuse_if,
};
use crate::workload::{Builder, Direction, Workload};

/// Large reads through a command queue.
#[derive(Debug, Clone)]
pub struct Cqe {
    /// Requests of one pass.
    pub requests: u32,
    /// Requests mapped at once: [`Cqe::SLOTS`] at most.
    pub depth: u32,
    /// Completions that one interrupt reports and that are unmapped in a row:
    /// at most [`Cqe::COALESCE_MAX`] and `depth`.
    pub coalesce: u32,
    /// Sizes of the requests.
    pub sizes: SizeMix,
}

impl Cqe {
    /// Task slots of a command queue (JESD84-B51 and Linux's `NUM_SLOTS`).
    pub const SLOTS: u32 = 32;

    /// The largest threshold of interrupt coalescing: five bits of `CQIC`.
    pub const COALESCE_MAX: u32 = 31;

    /// Half a GiB in requests of 512 KiB, 32 in flight, an interrupt for each
    /// half of the queue, so that the device has work meanwhile.
    pub const DEFAULT: Cqe = Cqe {
        requests: 1024,
        depth: Self::SLOTS,
        coalesce: 16,
        sizes: SizeMix::K512,
    };
}

impl Generator for Cqe {
    fn name(&self) -> &'static str {
        "cqe"
    }

    fn description(&self) -> &'static str {
        "eMMC command queue: reads of 512 KiB, 32 in flight, 16 completions in one interrupt"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let pages_used = u64::from(self.requests) * u64::from(self.sizes.largest());
        let mut memory = Scattered::new(&mut builder, &mut random, pages_used);
        let mut flying = Vec::new();
        let depth = self.depth.clamp(1, Self::SLOTS) as usize;
        let coalesce = self.coalesce.clamp(1, Self::COALESCE_MAX).min(depth as u32);
        let mut left = self.requests;
        while left > 0 {
            while flying.len() < depth && left > 0 {
                let pages = memory.take(self.sizes.draw(&mut random));
                flying.push(builder.map_list(0, Direction::FromDevice, pages));
                left -= 1;
            }
            // The last ones are reported by the timer: `finish` unmaps them.
            for _ in 0..coalesce.min(flying.len() as u32) {
                let done = random.below(flying.len() as u64) as usize;
                builder.unmap(flying.swap_remove(done));
            }
        }
        let parameters = format!(
            "requests={} depth={depth} coalesce={coalesce} sizes={}",
            self.requests, self.sizes
        );
        finish(self, builder, &parameters, seed, "cqhci")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        let depth = shape.depth.unwrap_or(self.depth);
        refuse_if(
            depth > Self::SLOTS,
            self.name(),
            "--depth",
            "a command queue has 32 slots",
        )?;
        Ok(Box::new(Cqe {
            requests: shape.requests.unwrap_or(self.requests),
            depth,
            // Half of the queue, as in the default.
            coalesce: if shape.depth.is_some() {
                (depth / 2).max(1)
            } else {
                self.coalesce
            },
            sizes: shape.sizes.clone().unwrap_or_else(|| self.sizes.clone()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Step;

    /// Lengths of the rows of unmaps.
    fn rows(workload: &Workload) -> Vec<usize> {
        (workload.steps())
            .chunk_by(|a, b| matches!(a, Step::Map(_)) == matches!(b, Step::Map(_)))
            .filter(|row| matches!(row[0], Step::Unmap(_)))
            .map(<[Step]>::len)
            .collect()
    }

    #[test]
    fn completions_come_in_rows_and_in_any_order() {
        let workload = Cqe::DEFAULT.generate(1);
        assert_eq!(workload.requests().len(), 1024);
        assert_eq!(workload.bytes(), 512 << 20);
        assert_eq!(workload.live_max, 32);
        let rows = rows(&workload);
        assert!(rows[..rows.len() - 1].iter().all(|n| *n == 16), "{rows:?}");
        assert_eq!(rows.last(), Some(&32), "the timer reports the last");
        let unmaps: Vec<u32> = (workload.steps().iter())
            .filter_map(|s| match *s {
                Step::Unmap(r) => Some(r),
                Step::Map(_) => None,
            })
            .collect();
        assert!(!unmaps.is_sorted());
    }

    #[test]
    fn the_slots_are_never_exceeded() {
        let small = Cqe {
            depth: 99,
            coalesce: 99,
            requests: 100,
            ..Cqe::DEFAULT
        };
        let workload = small.generate(1);
        assert_eq!(workload.live_max, 32);
        assert_eq!(rows(&workload)[0], 31);
        let shape = |depth| Shape {
            depth: Some(depth),
            ..Shape::default()
        };
        let refused = Cqe::DEFAULT.shaped(&shape(33)).err().unwrap();
        assert!(refused.to_string().contains("32 slots"), "{refused}");
        let eight = Cqe::DEFAULT.shaped(&shape(8)).unwrap().generate(1);
        assert_eq!((eight.live_max, rows(&eight)[0]), (8, 4));
    }
}
