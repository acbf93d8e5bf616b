//! SQLite on a phone: small synchronous writes, one at a time, and a cache flush
//! after every few.
//!
//! Lee and Won, "Smart Layers and Dumb Result: IO Characterization of an
//! Android-Based Smartphone", EMSOFT 2012: 70 % of an Android phone's writes are
//! of 4 KiB, most are synchronous, and one SQLite operation makes at least 11 of
//! them. How the other 30 % are spread the study does not say: here each
//! further power of two to 64 KiB is about two thirds as frequent as the one
//! before.

use super::{Generator, Random, Refused, Shape, SizeMix, finish, memory::Scattered};
use crate::workload::{Builder, Direction, Workload};

/// 4, 8, 16, 32 and 64 KiB.
const SIZES: SizeMix = SizeMix::fixed(&[(1, 70), (2, 13), (4, 8), (8, 5), (16, 4)], 100);

/// Writes of one transaction.
const TRANSACTION: u32 = 11;

/// A flush moves no data and maps nothing: the command alone, on the device of
/// the exposure run.
const FLUSH_US: u32 = 32;

/// Transactions of a database.
#[derive(Debug, Clone, Copy)]
pub struct SqliteSync {
    /// Requests of one pass.
    pub requests: u32,
}

impl SqliteSync {
    /// 182 transactions of 11 writes.
    pub const DEFAULT: SqliteSync = SqliteSync {
        requests: 182 * TRANSACTION,
    };
}

impl Generator for SqliteSync {
    fn name(&self) -> &'static str {
        "sqlite-sync"
    }

    fn description(&self) -> &'static str {
        "SQLite transactions: 11 writes one by one, 70 % of them 4 KiB, a flush after 1 to 3"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let pages_used = 4 * u64::from(self.requests);
        let mut memory = Scattered::new(&mut builder, &mut random, pages_used);
        let mut to_flush = 0;
        for write in 0..self.requests {
            if to_flush == 0 {
                to_flush = 1 + random.below(3);
            }
            let list = memory.take(SIZES.draw(&mut random));
            let request = builder.map_list(0, Direction::ToDevice, list);
            builder.unmap(request);
            to_flush -= 1;
            // A commit ends with one.
            if to_flush == 0 || (write + 1) % TRANSACTION == 0 {
                to_flush = 0;
                builder.idle(FLUSH_US);
            }
        }
        let parameters = format!("requests={} sizes={SIZES}", self.requests);
        finish(self, builder, &parameters, seed, "sdhci")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        shape.no_depth(self.name(), "a transaction waits for each of its writes")?;
        shape.no_sizes(self.name(), "its sizes are those of a published study")?;
        Ok(Box::new(SqliteSync {
            requests: shape.requests.unwrap_or(self.requests),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_flushes_are_those_of_the_study() {
        let workload = SqliteSync { requests: 22_000 }.generate(1);
        assert_eq!(workload.live_max, 1);
        let small = (workload.sizes().iter())
            .find(|s| s.bytes == 4096)
            .map_or(0, |s| s.requests);
        // 70 % of 22,000; three standard deviations are 204.
        assert!(small.abs_diff(15_400) < 204, "{small}");
        assert!((workload.requests().iter()).all(|r| r.direction == Direction::ToDevice));
        // A flush after 1 to 3 writes, and at the end of each transaction.
        let mut since = 0;
        let mut lengths = [0_u32; 3];
        for write in 1..22_000 {
            since += 1;
            if workload.idle_ns(write) > 0 {
                lengths[since - 1] += 1;
                since = 0;
            }
            assert!(since == 0 || write % TRANSACTION != 0, "a commit flushes");
        }
        // A third each, but that the end of a transaction cuts some short.
        assert!(lengths.iter().all(|n| *n > 2500), "{lengths:?}");
    }
}
