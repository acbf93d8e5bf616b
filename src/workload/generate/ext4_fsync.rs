//! Files written and fsynced on ext4, as in the shipped trace
//! `sd-strict-ext4_write_fsync`: for each, the data, then the journal's record of
//! the metadata, a cache flush and the commit block, one after the other.
//!
//! Of the trace's 248 requests 157 are of 4 KiB (data and commit blocks), 73 of
//! 28 or 24 KiB (journal records, 68 to 5) and 16 of 512 KiB (files of 1 MiB, one
//! in nine). Its mount and write-back are left out.

use super::{
    Generator, PAGES_MAX, Random, Refused, Shape, finish, memory::Scattered, shape::refuse_if,
};
use crate::workload::{Builder, Direction, Workload};

/// Files of 4 KiB to each of 1 MiB.
const SMALL_TO_LARGE: u64 = 8;
/// Journal records of 7 pages to those of 6.
const RECORDS: (u64, u64) = (68, 5);
/// The flush before the commit block: the command alone, on the device of the
/// exposure run.
const FLUSH_US: u32 = 32;

/// Files, each written and fsynced.
#[derive(Debug, Clone, Copy)]
pub struct Ext4Fsync {
    /// Requests of one pass.
    pub requests: u32,
}

impl Ext4Fsync {
    /// About 660 files.
    pub const DEFAULT: Ext4Fsync = Ext4Fsync { requests: 2048 };
}

impl Generator for Ext4Fsync {
    fn name(&self) -> &'static str {
        "ext4-fsync"
    }

    fn description(&self) -> &'static str {
        "ext4: files of 4 KiB or 1 MiB written and fsynced: data, journal record, flush, commit block, one by one"
    }

    fn generate(&self, seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut builder = Builder::new();
        let pages_used = u64::from(self.requests) * 32;
        let mut memory = Scattered::new(&mut builder, &mut random, pages_used);
        let mut left = self.requests;
        let mut write = |builder: &mut Builder, pages| {
            if left > 0 {
                left -= 1;
                let request = builder.map_list(0, Direction::ToDevice, memory.take(pages));
                builder.unmap(request);
            }
            left > 0
        };
        loop {
            let large = random.below(SMALL_TO_LARGE + 1) == 0;
            let data: &[u32] = if large { &[PAGES_MAX, PAGES_MAX] } else { &[1] };
            let record = if random.below(RECORDS.0 + RECORDS.1) < RECORDS.0 {
                7
            } else {
                6
            };
            for &pages in data {
                write(&mut builder, pages);
            }
            write(&mut builder, record);
            builder.idle(FLUSH_US);
            if !write(&mut builder, 1) {
                break;
            }
        }
        let parameters = format!("requests={}", self.requests);
        finish(self, builder, &parameters, seed, "sdhci")
    }

    fn shaped(&self, shape: &Shape) -> Result<Box<dyn Generator>, Refused> {
        shape.no_depth(self.name(), "an fsync waits for each of its writes")?;
        shape.no_sizes(self.name(), "its sizes are those of a recorded file system")?;
        refuse_if(
            shape.players.is_some(),
            self.name(),
            "--threads or --pairs",
            "one thread writes a file system's journal",
        )?;
        Ok(Box::new(Ext4Fsync {
            requests: shape.requests.unwrap_or(self.requests),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Options, shipped};

    /// Of 1000 requests, those of 1, 6 or 7, and 128 pages.
    fn shares(workload: &Workload) -> [u64; 3] {
        let all = workload.requests().len() as u64;
        [&[1][..], &[6, 7], &[128]].map(|pages| {
            let of_size = (workload.sizes().into_iter())
                .filter(|s| pages.contains(&(s.bytes.div_ceil(4096))))
                .map(|s| s.requests);
            of_size.sum::<u64>() * 1000 / all
        })
    }

    #[test]
    fn sizes_are_those_of_the_recorded_file_system() {
        let trace = (shipped::ALL.iter())
            .find(|s| s.name == "sd-strict-ext4_write_fsync")
            .unwrap();
        let trace = trace.workload(Options::default()).unwrap();
        let generated = Ext4Fsync { requests: 50_000 }.generate(1);
        assert_eq!(generated.requests().len(), 50_000);
        assert_eq!(generated.live_max, 1);
        let (theirs, ours) = (shares(&trace), shares(&generated));
        for (theirs, ours) in theirs.into_iter().zip(ours) {
            assert!(theirs.abs_diff(ours) < 35, "{theirs} {ours}");
        }
        let seven = |w: &Workload, pages: u64| {
            (w.sizes().iter())
                .find(|s| s.bytes == pages * 4096)
                .map_or(0, |s| s.requests)
        };
        let (long, short) = (seven(&generated, 7), seven(&generated, 6));
        // 68 to 5 of some 16,000; three standard deviations are 96.
        assert!(
            short.abs_diff((long + short) * 5 / 73) < 96,
            "{long} {short}"
        );
    }

    #[test]
    fn any_number_of_requests_can_be_asked_for() {
        for requests in 1..12 {
            let workload = Ext4Fsync { requests }.generate(u64::from(requests));
            assert_eq!(workload.requests().len(), requests as usize);
        }
    }
}
