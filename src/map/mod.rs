//! `dmabench map`: Linux's `dma_map_benchmark`, on this core.
//!
//! The same loop (map, wait for the transfer, unmap, each call timed) with the
//! same letters for the options, the same limits and the same three lines of
//! output, so that scripts that read the kernel's tool read this one. What is
//! measured is the code of this core on a backend that counts: no hardware
//! time. What the kernel's tool leaves out follows below the three lines:
//! maximum and percentiles, several mappings in flight, unmaps by another
//! thread, mixed sizes, fairness between threads, interval logs.
//!
//! Differences, besides: the mean is of nanoseconds, not of each call rounded
//! down to 100 ns; buffers are numbers and not memory, so they are not written
//! to before a mapping; a lazy queue is polled every millisecond.

mod options;
mod stream;
mod text;

use std::{
    fmt::{self, Display as _},
    path::PathBuf,
    sync::atomic::AtomicBool,
    time::Duration,
};

use dmabench_dma::{Device, DeviceError};
use serde::Serialize;

pub use options::{MapArgs, Size};

use crate::{
    cli::{ModeArg, RunOptions},
    hdr_log::HdrLog,
    report::{self, LatencyNs, Machine, ReportError},
    run::{
        self, Plan, RunError, TickClock,
        threads::{self, Figures, Play, Played, Stop, StreamFigures},
    },
};

/// Version of the structure of [`MapReport`].
pub const SCHEMA_VERSION: u32 = 1;

/// Threads with requests of their own where sizes are mixed; more share these.
const STREAMS: u64 = 16;

/// Why `map` stops. Displays as one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A number out of the limits of Linux's tool.
    #[error("{option} {value}: {what} must be {from} to {to}")]
    Option {
        /// The letter.
        option: &'static str,
        /// What it stands for.
        what: &'static str,
        /// What was given.
        value: i64,
        /// The least.
        from: i64,
        /// The most.
        to: i64,
    },
    /// The system shows no NUMA nodes.
    #[error("-n: this system shows no NUMA nodes; leave -n out")]
    NoNuma,
    /// That node is not there, or has no processors.
    #[error(
        "-n {node}: no such node with processors; nodes of this system: {}",
        listed(online)
    )]
    Node {
        /// What was given.
        node: i64,
        /// Those that are there.
        online: Vec<usize>,
    },
    /// That mode is not one domain that threads share.
    #[error("in mode {0} no mapping is made and undone by itself; leave it out of --modes")]
    Mode(ModeArg),
    /// The device.
    #[error(transparent)]
    Device(DeviceError),
    /// The runs.
    #[error(fmt = run_error)]
    Run(RunError),
    /// A file.
    #[error(transparent)]
    File(#[from] ReportError),
}

/// A run that the core refuses, in terms of this command's options.
fn run_error(error: &RunError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        RunError::Refused { mode, reason, .. } => write!(
            f,
            "mode {mode}: {reason}; try fewer or smaller mappings at once (-t, -g, --depth) or \
             more address bits (-b)"
        ),
        RunError::Defect(_) => error.fmt(f),
    }
}

fn listed(nodes: &[usize]) -> String {
    let nodes: Vec<String> = nodes.iter().map(usize::to_string).collect();
    nodes.join(", ")
}

/// What `map` found, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MapReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of dmabench.
    pub version: &'static str,
    /// The options in force.
    pub options: MapOptions,
    /// The machine.
    pub machine: Machine,
    /// One per mode.
    pub runs: Vec<MapRun>,
    /// The interval log that was written.
    pub hdr_log: Option<PathBuf>,
    /// Whether the user ended it; the last mode is then cut short.
    pub interrupted: bool,
    /// Remarks, one sentence each.
    pub notes: Vec<String>,
}

/// The options, defaults included.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "named as on the command line")]
pub struct MapOptions {
    pub threads: u64,
    pub pairs: Option<u32>,
    pub seconds: i64,
    pub node: i64,
    pub bits: i64,
    pub direction: &'static str,
    pub transfer_ns: i64,
    pub pages: Option<i64>,
    pub sizes: Vec<String>,
    pub map_mode: &'static str,
    pub depth: u32,
    pub count: Option<u64>,
    pub seed: u64,
    pub queue_entries: usize,
    pub flush_timeout_ns: u64,
}

/// One mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MapRun {
    /// The mode.
    pub mode: String,
    /// From the common start to the end of the last thread. Measured.
    pub seconds: f64,
    /// Requests mapped and unmapped.
    pub requests: u64,
    /// Of all threads together. Measured, clock readings and transfers included.
    pub requests_per_second: f64,
    /// Map calls. Measured.
    pub map_ns: Call,
    /// Unmap calls. Measured.
    pub unmap_ns: Call,
    /// Slowest stream's part of the rates.
    pub share_min: f64,
    /// Fastest stream's.
    pub share_max: f64,
    /// Jain's index of the streams' rates.
    pub jain: f64,
    /// Invalidation commands of an SMMUv3 per request. Counted.
    pub invalidations_per_request: f64,
    /// Syncs per request. Counted.
    pub syncs_per_request: f64,
    /// One per thread, or per pair.
    pub streams: Vec<Stream>,
}

/// One kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Call {
    /// How many.
    pub calls: u64,
    /// Mean, percentiles, maximum.
    #[serde(flatten)]
    pub latency: LatencyNs,
    /// Standard deviation.
    pub stdev: f64,
}

/// One thread, or one pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stream {
    /// Requests it mapped and unmapped.
    pub requests: u64,
    /// Until its last unmap.
    pub seconds: f64,
    /// Processor time of its threads, clock readings and transfers included.
    pub cpu_seconds: f64,
    /// Its map calls.
    pub map_ns: Call,
    /// Its unmap calls.
    pub unmap_ns: Call,
}

impl From<&Figures> for Call {
    fn from(figures: &Figures) -> Self {
        Call {
            calls: figures.calls,
            latency: figures.latency,
            stdev: figures.stdev,
        }
    }
}

impl From<&StreamFigures> for Stream {
    fn from(stream: &StreamFigures) -> Self {
        Stream {
            requests: stream.requests,
            seconds: stream.seconds,
            cpu_seconds: stream.cpu_seconds,
            map_ns: (&stream.map).into(),
            unmap_ns: (&stream.unmap).into(),
        }
    }
}

/// Runs each mode for the time asked for.
///
/// # Errors
///
/// [`MapError`]; no file is written then.
pub fn run(
    args: &MapArgs,
    options: &RunOptions,
    interrupted: &AtomicBool,
) -> Result<MapReport, MapError> {
    args.check()?;
    let cpus = args.cpus()?;
    let device = Device::new()
        .mask_bits(args.bits as u32)
        .map_err(MapError::Device)?;
    let plan = Plan::of(options, &[ModeArg::Strict]);
    if let Some(&mode) = plan.modes.iter().find(|mode| mode.one_thread_only()) {
        return Err(MapError::Mode(mode));
    }
    let streams = args.pairs.map_or(args.threads as u64, u64::from);
    // A pair's mapper hands over at once; the depth is that of the channel.
    let depth = args.pairs.map_or(args.depth, |_| 1);
    let distinct = if args.sizes.is_empty() {
        1
    } else {
        streams.min(STREAMS)
    };
    let workloads: Vec<_> = (0..distinct)
        .map(|number| stream::stream(args, depth, options.seed.wrapping_add(number)))
        .collect();
    let play = Play {
        streams: workloads.iter().cycle().take(streams as usize).collect(),
        pairs: args.pairs.map(|_| args.depth as usize),
        hold_ns: args.transfer_ns as u64,
        stop: Stop {
            after: Duration::from_secs(args.seconds as u64),
            requests: args.count.unwrap_or(u64::MAX),
        },
        cpus,
        device,
        interval: (options.hdr_log.as_ref()).map(|_| Duration::from_millis(args.hdr_interval_ms)),
    };

    if let Some(file) = &options.hdr_log {
        report::check_file(file)?;
    }
    let clock = TickClock::calibrate();
    let mut log = HdrLog::new();
    let mut runs = Vec::new();
    let mut was_interrupted = false;
    for &mode in &plan.modes {
        let begun = log.now();
        let played = threads::play(&play, mode, &plan, &clock, interrupted).map_err(|error| {
            MapError::Run(match error {
                RunError::Refused { reason, .. } => RunError::Refused {
                    workload: "map".to_owned(),
                    mode,
                    reason,
                },
                other => other,
            })
        })?;
        was_interrupted |= played.interrupted;
        runs.push(of_mode(mode, &played));
        for interval in played.intervals {
            for (call, ns) in [("map", interval.map_ns), ("unmap", interval.unmap_ns)] {
                let begin = begun + interval.begin;
                log.add(&format!("{mode}:{call}"), begin, interval.length, ns);
            }
        }
        if was_interrupted {
            break;
        }
    }
    if let Some(file) = &options.hdr_log {
        log.write(file)?;
    }
    let info = clock.info();
    let mut notes = vec![format!(
        "Each latency contains one pair of readings of {}, {:.0} ns here.",
        info.name, info.cost_ns
    )];
    if cfg!(debug_assertions) {
        notes
            .push("Built without optimisation: the figures say nothing; use --release.".to_owned());
    }
    if args.threads_all() > std::thread::available_parallelism().map_or(1, |n| n.get() as u64) {
        notes.push(
            "More threads than processors: the longest calls contain other threads' turns."
                .to_owned(),
        );
    }
    if was_interrupted {
        notes.push("Interrupted: the last mode was cut short.".to_owned());
    }
    Ok(MapReport {
        schema_version: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION"),
        options: in_force(args, options),
        machine: run::machine(&clock),
        runs,
        hdr_log: options.hdr_log.clone(),
        interrupted: was_interrupted,
        notes,
    })
}

fn of_mode(mode: ModeArg, played: &Played) -> MapRun {
    let requests = played.calls.unmap.calls;
    let per_request = |count: u64| count as f64 / requests.max(1) as f64;
    MapRun {
        mode: mode.name().to_owned(),
        seconds: played.seconds,
        requests,
        requests_per_second: requests as f64 / played.seconds.max(1e-9),
        map_ns: (&played.calls.map).into(),
        unmap_ns: (&played.calls.unmap).into(),
        share_min: played.fairness.share_min,
        share_max: played.fairness.share_max,
        jain: played.fairness.jain,
        invalidations_per_request: per_request(played.counts.commands()),
        syncs_per_request: per_request(played.counts.syncs),
        streams: played.streams.iter().map(Stream::from).collect(),
    }
}

fn in_force(args: &MapArgs, options: &RunOptions) -> MapOptions {
    MapOptions {
        threads: args.threads_all(),
        pairs: args.pairs,
        seconds: args.seconds,
        node: args.node,
        bits: args.bits,
        direction: text::direction(args.direction),
        transfer_ns: args.transfer_ns,
        pages: args.sizes.is_empty().then_some(args.pages),
        sizes: (args.sizes.iter())
            .map(|size| format!("{}:{}", size.bytes, size.weight))
            .collect(),
        map_mode: text::map_mode(args.map_mode),
        depth: args.depth,
        count: args.count,
        seed: options.seed,
        queue_entries: options.queue_entries,
        flush_timeout_ns: options.flush_timeout_ms * 1_000_000,
    }
}
