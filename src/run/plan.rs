//! What is the same for every workload and mode of a run.

use std::collections::BTreeMap;

use clap::ValueEnum;
use dmabench_flushq::QueueConfig;

use crate::{
    cli::{ModeArg, RunOptions},
    hdr_log::SharedLog,
    model::{self, HardwareProfile, StorageDevice},
    report,
    workload::Workload,
};

/// How to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which modes.
    pub modes: Vec<ModeArg>,
    /// A workload is repeated until so many requests were timed.
    pub requests_min: u64,
    /// Entries of the flush queue: a power of two.
    pub flush_queue_entries: usize,
    /// Timer of the flush queue, in nanoseconds of the exposure run's clock.
    pub flush_timeout_ns: u64,
    /// The one queue of lazy-single; its time is of the same clock.
    pub single_queue: QueueConfig,
    /// Bytes in whole granules from which on mode bounce maps in place; `None`:
    /// never.
    pub bounce_in_place_from: Option<u64>,
    /// Where the modelled times come from.
    pub profile: HardwareProfile,
    /// What the virtual clock of the exposure run goes by.
    pub device: StorageDevice,
    /// Where the latencies of each interval go, too.
    pub hdr_log: Option<SharedLog>,
}

impl Default for Plan {
    /// Every mode; Linux's queue of 256 entries and 10 ms.
    fn default() -> Self {
        Plan {
            modes: ModeArg::value_variants().to_vec(),
            requests_min: crate::cli::REQUESTS_DEFAULT,
            flush_queue_entries: 256,
            flush_timeout_ns: 10_000_000,
            single_queue: QueueConfig::SINGLE,
            bounce_in_place_from: None,
            profile: model::default_profile(),
            device: StorageDevice::emmc_2021(),
            hdr_log: None,
        }
    }
}

impl Plan {
    /// As the command line says; in `modes` where it names none.
    pub fn of(options: &RunOptions, modes: &[ModeArg]) -> Self {
        Plan {
            modes: options.modes_or(modes),
            requests_min: options.requests_min(),
            flush_queue_entries: options.queue_entries,
            flush_timeout_ns: options.flush_timeout_ms * 1_000_000,
            single_queue: QueueConfig {
                entries_per_slot: options.single_queue_entries,
                timeout_ns: options.single_flush_timeout_ms * 1_000_000,
            },
            bounce_in_place_from: options.bounce_in_place_from,
            profile: options.profile.clone(),
            device: (options.profile.device.clone()).unwrap_or_else(StorageDevice::emmc_2021),
            hdr_log: options.hdr_log.as_ref().map(|_| SharedLog::default()),
        }
    }

    /// Steps of a progress bar: an exposure run and a timing run each.
    pub fn units(&self, workloads: &[Workload]) -> u64 {
        2 * (self.modes.len() * workloads.len()) as u64
    }

    /// The longest a stale translation may live: the timer, no wait for a poll
    /// (the virtual clock stops at deadlines), and one flush. 0 in modes that
    /// leave none.
    pub fn stale_bound_ns(&self, mode: ModeArg) -> u64 {
        let timeout_ns = match mode {
            ModeArg::Lazy => self.flush_timeout_ns,
            ModeArg::LazySingle => self.single_queue.timeout_ns,
            _ => return 0,
        };
        timeout_ns.saturating_add(self.profile.costs.flush_ns(1))
    }

    /// As the report prints it.
    pub fn for_report(&self, other: BTreeMap<String, String>) -> report::Options {
        report::Options {
            granule_bytes: super::GRANULE.bytes(),
            flush_queue_entries: self.flush_queue_entries as u64,
            flush_timeout_ns: self.flush_timeout_ns,
            poll_period_ns: 0,
            requests_min: self.requests_min,
            other,
        }
    }
}
