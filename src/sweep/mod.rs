//! `dmabench sweep`: what a flush queue's size and timeout buy and cost, and
//! where requests become too large for the caches.
//!
//! * **queue**: each number of entries with each timeout. On one axis CPU time
//!   and throughput, on the other how long and how much a device can still
//!   reach, and what is held back meanwhile. Modes without a queue stand beside
//!   it, once.
//! * **sizes**: requests of one size each, across the 128 KiB at which Linux's
//!   caches of I/O addresses end. Beside the times stands how often the
//!   allocator had to search its shared index, which is counted and the same
//!   everywhere.
//!
//! Each point is one run as `compare` makes it: an exposure run on the virtual
//! clock and a timing run. The timing run has no timer, so CPU time belongs to
//! the entries; the flushes of the timer are taken from the exposure run, and
//! with them the modelled figures.
//!
//! A sweep that was ended early is written as far as it came; `--resume` goes
//! on with it.

mod found;
mod sizes;
mod text;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::{Args, ValueEnum};
use dmabench_flushq::{BackendCounts, QueueConfig};

pub use found::{QueuePoint, SCHEMA_VERSION, Setting, SizePoint, SweepReport};

use crate::{
    cli::{ModeArg, RunOptions},
    model::{self, RequestTime},
    report::{self, ReportError, RunResult},
    run::{self, Plan, RunError, TickClock},
    size,
    workload::Workload,
};

/// Requests of the workload that is swept where none is named: two seconds of
/// the device, so that a timeout of 100 ms passes many times.
pub const LENGTH_DEFAULT: u32 = 4096;

/// The workload that is swept where none is named: that of the 2021 thread.
pub const WORKLOAD_DEFAULT: &str = "dd-seq";

/// Modes that are swept where none are named.
const MODES: [ModeArg; 3] = [ModeArg::Passthrough, ModeArg::Strict, ModeArg::Lazy];

/// The largest request of the sweep of sizes.
const BYTES_MAX: u64 = 4 << 20;

/// Options of `sweep`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SweepArgs {
    /// What to sweep; without it, both
    #[arg(value_enum)]
    pub what: Option<What>,

    /// Entries of the flush queue: powers of two, 2 to 32768
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = crate::cli::queue_entries,
          default_value = "16,64,256,1024,4096")]
    pub entries: Vec<usize>,

    /// Timeouts of the flush queue in milliseconds
    #[arg(long, value_name = "MS,...", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(1..=3_600_000),
          default_value = "1,4,10,40,100")]
    pub timeouts_ms: Vec<u64>,

    /// Sizes of the requests, up to 4m
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = bytes,
          default_value = "4k,16k,64k,96k,128k,132k,192k,256k,384k,512k,516k,1m")]
    pub sizes: Vec<u64>,

    /// Mappings in flight in the sweep of sizes
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub depth: u32,

    /// Requests of one pass of a generated workload
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub length: Option<u32>,

    /// Go on with the sweep in FILE, a sweep.json
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
}

/// What to sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Queue size and timeout
    Queue,
    /// Request sizes
    Sizes,
}

fn bytes(text: &str) -> Result<u64, String> {
    size::bytes(text)
        .filter(|n| (1..=BYTES_MAX).contains(n))
        .ok_or_else(|| "give a size from 1 to 4m".to_owned())
}

/// Why there is no sweep. Displays as one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A point cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file.
    #[error(transparent)]
    File(#[from] ReportError),
    /// The earlier sweep is not of the same setting.
    #[error(
        "{file} was swept with another {what}; give the options it printed, or leave --resume out"
    )]
    OtherSetting {
        /// The file.
        file: PathBuf,
        /// What is different.
        what: &'static str,
    },
    /// The table of points.
    #[error("sweep.csv cannot be made: {0}; please report this as a bug")]
    Csv(#[from] csv::Error),
    /// Counting searches failed.
    #[error(
        "not enough memory for an I/O address allocator; give fewer --sizes or a smaller --depth"
    )]
    NoMemory,
}

/// The files of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Everything.
    pub json: PathBuf,
    /// A line per point.
    pub csv: PathBuf,
    /// Plots and tables.
    pub html: PathBuf,
}

/// A point of the queue's sweep.
type Queue<'a> = (&'a Workload, ModeArg, Option<(usize, u64)>);

/// Sweeps over `workloads` (those of the queue) and sizes. `done` is called
/// after each point; `interrupted` may be set at any time.
///
/// # Errors
///
/// [`SweepError`].
pub fn run(
    args: &SweepArgs,
    options: &RunOptions,
    workloads: &[Workload],
    begin: &dyn Fn(u64),
    done: &dyn Fn(),
    interrupted: &AtomicBool,
) -> Result<SweepReport, SweepError> {
    let plan = Plan::of(options, &MODES);
    let setting = setting(args, &plan, options, workloads);
    let earlier = match &args.resume {
        Some(file) => Some(read(file, &setting)?),
        None => None,
    };
    let mut sweep = SweepReport {
        schema_version: SCHEMA_VERSION,
        setting,
        machine: run::machine(&TickClock::calibrate()),
        sessions: earlier.as_ref().map_or(1, |e| e.sessions.saturating_add(1)),
        resume: resume_line(args, options),
        missing: 0,
        queue: Vec::new(),
        sizes: Vec::new(),
        notes: Vec::new(),
    };
    let queues = queue_points(args, &plan, workloads);
    let loads = size_loads(args, options.seed);
    begin((queues.len() + loads.len()) as u64);
    for queue in queues {
        let before = earlier.as_ref().and_then(|e| before(e, &queue));
        match before
            .cloned()
            .map_or_else(|| queue_point(&queue, &plan, interrupted), |p| Ok(Some(p)))?
        {
            Some(point) => sweep.queue.push(point),
            None => sweep.missing += 1,
        }
        done();
    }
    for load in loads {
        let bytes = load.requests()[0].bytes;
        let known = |mode: &ModeArg| earlier.as_ref()?.size_point(mode.name(), bytes).cloned();
        let points: Option<Vec<SizePoint>> = plan.modes.iter().map(known).collect();
        match points.map_or_else(|| size_points(&load, &plan, interrupted), |p| Ok(Some(p)))? {
            Some(points) => sweep.sizes.extend(points),
            None => sweep.missing += 1,
        }
        done();
    }
    sweep.notes = notes(&sweep);
    Ok(sweep)
}

/// Writes `sweep.json`, `sweep.csv` and `sweep.html` into `out_dir`.
///
/// # Errors
///
/// [`SweepError::File`] or [`SweepError::Csv`].
pub fn write(sweep: &SweepReport, out_dir: &Path) -> Result<Written, SweepError> {
    let written = Written {
        json: out_dir.join("sweep.json"),
        csv: out_dir.join("sweep.csv"),
        html: out_dir.join("sweep.html"),
    };
    let json = report::to_json(sweep)?;
    let csv = sweep.csv()?;
    let html = report::sweep_page(sweep)?;
    report::check_out_dir(out_dir)?;
    report::write_file(&written.csv, &csv)?;
    report::write_file(&written.html, html.as_bytes())?;
    // Last: what is named for `--resume` is whole.
    report::write_file(&written.json, &json)?;
    Ok(written)
}

fn read(file: &Path, now: &Setting) -> Result<SweepReport, SweepError> {
    let text = fs::read(file).map_err(|source| ReportError::Read {
        path: file.to_owned(),
        source,
    })?;
    let earlier: SweepReport =
        serde_json::from_slice(&text).map_err(|error| ReportError::Format {
            path: file.to_owned(),
            reason: error.to_string(),
        })?;
    let then = &earlier.setting;
    let differs = [
        ("schema_version", earlier.schema_version != SCHEMA_VERSION),
        ("version of dmabench", then.version != now.version),
        ("build profile", then.optimised != now.optimised),
        ("--seed", then.seed != now.seed),
        ("--requests", then.requests_min != now.requests_min),
        (
            "--profile",
            then.profile != now.profile || then.device != now.device,
        ),
        ("--workload or --length", then.workloads != now.workloads),
        ("--depth", then.depth != now.depth),
        ("--queue-entries", then.queue_entries != now.queue_entries),
        (
            "--flush-timeout-ms",
            then.flush_timeout_ns != now.flush_timeout_ns,
        ),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(SweepError::OtherSetting {
            file: file.to_owned(),
            what,
        }),
        None => Ok(earlier),
    }
}

fn setting(args: &SweepArgs, plan: &Plan, options: &RunOptions, workloads: &[Workload]) -> Setting {
    Setting {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        optimised: !cfg!(debug_assertions),
        seed: options.seed,
        requests_min: plan.requests_min,
        profile: plan.profile.name.clone(),
        device: plan.device.name.to_owned(),
        workloads: (workloads.iter())
            .map(|w| (w.name.clone(), w.requests().len() as u64, w.bytes()))
            .collect(),
        depth: args.depth,
        queue_entries: plan.flush_queue_entries as u64,
        flush_timeout_ns: plan.flush_timeout_ns,
    }
}

fn queue_points<'a>(args: &SweepArgs, plan: &Plan, workloads: &'a [Workload]) -> Vec<Queue<'a>> {
    if args.what == Some(What::Sizes) {
        return Vec::new();
    }
    let mut points = Vec::new();
    for workload in workloads {
        for &mode in &plan.modes {
            if !mode.has_queue() {
                points.push((workload, mode, None));
                continue;
            }
            for &entries in &args.entries {
                let queues = args.timeouts_ms.iter().map(|&ms| (entries, ms));
                points.extend(queues.map(|queue| (workload, mode, Some(queue))));
            }
        }
    }
    points
}

fn before<'a>(earlier: &'a SweepReport, queue: &Queue<'_>) -> Option<&'a QueuePoint> {
    let (workload, mode, sizes) = queue;
    earlier.queue_point(
        &workload.name,
        mode.name(),
        sizes.map(|(entries, _)| entries as u64),
        sizes.map(|(_, ms)| ms),
    )
}

/// Runs one point; `None` if interrupted.
fn queue_point(
    &(workload, mode, queue): &Queue<'_>,
    plan: &Plan,
    interrupted: &AtomicBool,
) -> Result<Option<QueuePoint>, SweepError> {
    let mut plan = Plan {
        modes: vec![mode],
        ..plan.clone()
    };
    if let Some((entries, ms)) = queue {
        plan.flush_queue_entries = entries;
        plan.flush_timeout_ns = ms * 1_000_000;
        plan.single_queue = QueueConfig {
            entries_per_slot: entries,
            timeout_ns: ms * 1_000_000,
        };
    }
    let Some(result) = one(workload, &plan, interrupted)?.pop() else {
        return Ok(None);
    };
    let exposure = result.exposure.as_ref();
    let per_request =
        |count: u64| count as f64 / exposure.map_or(result.requests, |e| e.requests).max(1) as f64;
    let (full, timer) = exposure.map_or((0, 0), |e| (e.flushes_ring_full, e.flushes_timer));
    let requests = result.requests as f64;
    // Of the exposure run where the timer counts, else of the timing run.
    let (hardware_ns, processor_ns, iommu_ns) = if queue.is_some() {
        let flushes = BackendCounts {
            commands_by_context: full + timer,
            flush_alls: full + timer,
            syncs: exposure.map_or(0, |e| e.sync_commands),
            ..BackendCounts::default()
        };
        let of = |ns: f64| ns / exposure.map_or(1.0, |e| e.requests.max(1) as f64);
        (
            of(plan.profile.hardware_ns(&flushes)),
            of(plan.profile.processor_ns(&flushes)),
            of(plan.profile.iommu_ns(&flushes)),
        )
    } else {
        let commands = BackendCounts {
            commands_by_address: result.tlb_invalidate_commands.round() as u64,
            syncs: result.sync_commands.round() as u64,
            ..BackendCounts::default()
        };
        (
            result.modelled_ns_per_request,
            plan.profile.processor_ns(&commands) / requests,
            plan.profile.iommu_ns(&commands) / requests,
        )
    };
    let time = RequestTime {
        bytes: result.bytes as f64 / requests,
        device_ns: plan.device.mean_service_ns(result.requests, result.bytes),
        cpu_ns: result.cpu_ns_per_request * plan.profile.cpu_time_factor,
        issue_ns: processor_ns,
        iommu_ns,
    };
    Ok(Some(QueuePoint {
        workload: workload.name.clone(),
        mode: mode.name().to_owned(),
        entries: queue.map(|(entries, _)| entries as u64),
        timeout_ms: queue.map(|(_, ms)| ms),
        cpu_ns_per_request: result.cpu_ns_per_request,
        flushes_full_per_request: per_request(full),
        flushes_timer_per_request: per_request(timer),
        modelled_ns_per_request: hardware_ns,
        modelled_mb_per_s: model::modelled_mb_per_s(
            &time,
            model::waits(mode),
            plan.device.queue_depth,
        ),
        stale_window_max_ns: result.stale_window_max_ns,
        stale_window_p50_ns: exposure.map(|e| e.stale_window_p50_ns),
        stale_accesses: result.stale_device_accesses,
        stale_buffers_max: exposure.map(|e| e.stale_buffers_max),
        stale_bytes_max: exposure.map(|e| e.stale_bytes_max),
        iova_pages_held_max: result.iova_pages_held_max,
        page_table_bytes: result.page_table_bytes,
    }))
}

fn size_loads(args: &SweepArgs, seed: u64) -> Vec<Workload> {
    if args.what == Some(What::Queue) {
        return Vec::new();
    }
    (args.sizes.iter())
        .map(|&bytes| sizes::workload(bytes, args.depth, seed))
        .collect()
}

/// Runs one size in every mode; `None` if interrupted.
fn size_points(
    load: &Workload,
    plan: &Plan,
    interrupted: &AtomicBool,
) -> Result<Option<Vec<SizePoint>>, SweepError> {
    let results = one(load, plan, interrupted)?;
    if results.len() < plan.modes.len() {
        return Ok(None);
    }
    let bytes = load.requests()[0].bytes;
    let mut points = Vec::new();
    for (result, &mode) in results.iter().zip(&plan.modes) {
        let queue = mode.has_queue().then_some(match mode {
            ModeArg::LazySingle => plan.single_queue.entries_per_slot,
            _ => plan.flush_queue_entries,
        });
        let translated = mode != ModeArg::Passthrough;
        let searches = |low32| {
            if !translated {
                return Ok(0.0);
            }
            sizes::index_searches(load, queue, low32).ok_or(SweepError::NoMemory)
        };
        points.push(SizePoint {
            mode: result.mode.clone(),
            bytes,
            pages: bytes.div_ceil(run::GRANULE.bytes()),
            cpu_ns_per_request: result.cpu_ns_per_request,
            map_p50_p99_ns: (result.map_ns.p50, result.map_ns.p99),
            unmap_p50_p99_ns: (result.unmap_ns.p50, result.unmap_ns.p99),
            index_searches_per_request: searches(true)?,
            index_searches_wide_per_request: searches(false)?,
            linux_index_searches_per_request: if translated {
                sizes::linux_index_searches(bytes)
            } else {
                0.0
            },
        });
    }
    Ok(Some(points))
}

/// One workload in the plan's modes; nothing if interrupted.
fn one(
    workload: &Workload,
    plan: &Plan,
    interrupted: &AtomicBool,
) -> Result<Vec<RunResult>, SweepError> {
    if interrupted.load(Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let found = run::all(std::slice::from_ref(workload), plan, &|| (), interrupted)?;
    // What was cut short is no point.
    Ok(if found.interrupted {
        Vec::new()
    } else {
        found.results
    })
}

/// The command line that goes on with this sweep, every option spelt out.
fn resume_line(args: &SweepArgs, options: &RunOptions) -> Vec<String> {
    fn list<T: ToString>(values: &[T]) -> String {
        let values: Vec<String> = values.iter().map(T::to_string).collect();
        values.join(",")
    }
    let mut line = vec!["dmabench".to_owned(), "sweep".to_owned()];
    line.extend(args.what.map(|what| match what {
        What::Queue => "queue".to_owned(),
        What::Sizes => "sizes".to_owned(),
    }));
    let mut option = |name: &str, value: String| line.extend([name.to_owned(), value]);
    option("--entries", list(&args.entries));
    option("--timeouts-ms", list(&args.timeouts_ms));
    option("--sizes", list(&args.sizes));
    option("--depth", args.depth.to_string());
    if let Some(length) = args.length {
        option("--length", length.to_string());
    }
    option("--modes", list(&options.modes_or(&MODES)));
    for workload in &options.workload {
        option("--workload", workload.clone());
    }
    option("--seed", options.seed.to_string());
    option("--requests", options.requests_min().to_string());
    option("--queue-entries", options.queue_entries.to_string());
    option("--flush-timeout-ms", options.flush_timeout_ms.to_string());
    option(
        "--single-queue-entries",
        options.single_queue_entries.to_string(),
    );
    option(
        "--single-flush-timeout-ms",
        options.single_flush_timeout_ms.to_string(),
    );
    if let Some(bytes) = options.bounce_in_place_from {
        option("--bounce-in-place-from", bytes.to_string());
    }
    // A board's file is known by its name to nobody: the note says so.
    if model::named(&options.profile.name).is_some() {
        option("--profile", options.profile.name.clone());
    }
    let out = &options.out;
    option("--out", out.display().to_string());
    let file = out.join("sweep.json");
    option("--resume", file.display().to_string());
    line
}

fn notes(sweep: &SweepReport) -> Vec<String> {
    let mut notes = Vec::new();
    if !sweep.queue.is_empty() {
        notes.push(
            "CPU time is of the calls of map and unmap, where full rings are flushed; the timer's \
             flushes run elsewhere and are in flushes and in the modelled figures."
                .to_owned(),
        );
    }
    if sweep.sessions > 1 {
        notes.push(format!(
            "Made in {} sessions: measured figures of different points may be of different moments.",
            sweep.sessions
        ));
    }
    if cfg!(debug_assertions) {
        notes.push(
            "Built without optimisation: the measured figures say nothing; use --release."
                .to_owned(),
        );
    }
    if sweep.missing > 0 {
        notes.push(format!(
            "Interrupted: {} points are missing; go on with{}: {}",
            sweep.missing,
            if sweep.resume.iter().any(|word| word == "--profile") {
                ""
            } else {
                " the --profile of this run and"
            },
            sweep.resume.join(" ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests;
