//! `dmabench breakdown`: where the time of a request goes, in the columns that
//! are asked of Linux: alloc, page table, find, free, invalidate, other.
//!
//! # Method
//!
//! By differences. A batch of 32 requests goes through a `Domain`: the whole.
//! Beside it the same requests are built up: first only the caller's slot is
//! entered and left, then addresses are taken and given back too, then tables
//! are written and cleared too, then it is invalidated or queued too. What a
//! step costs is what it adds. (A step measured alone costs more: the processor
//! hides much of its latency behind its neighbours. That was tried first, and
//! the parts of a 4 KiB request came to 140 % of it.) Maps and unmaps of a batch
//! are timed apart, so that what a step adds to the maps is `alloc`, and to the
//! unmaps `free`.
//!
//! The clock is read twice for 32 calls, and its cost is taken off. All steps
//! take turns batch by batch, so that what disturbs the machine disturbs all of
//! them; groups of 64 batches give one value each, of which the median counts.
//!
//! *Other* is what is left of the whole: the *section* (entering the caller's
//! slot) and a *rest*: the layer's own work (checks, tokens, counters) and the
//! error of the method. It may come out negative; its size against the whole is
//! printed. That the last step does the work of the whole is not a matter of
//! time: the tests compare addresses, commands and tables, and the bench
//! `breakdown_ir` compares instructions.
//!
//! *Find* is 0 here: a mapping's token knows its address and size. What looking
//! it up in the tables would cost, as Linux does on every unmap, is printed
//! beside the table and is not part of the whole.

pub mod parts;
mod text;

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use dmabench_dma::Mode;
use dmabench_flushq::QueueConfig;
use serde::Serialize;

use self::parts::{BATCH, Load, Parts, Step};
use crate::{
    cli::{ModeArg, RunOptions},
    report::Machine,
    run::{self, Plan, TickClock},
    size,
};

/// Version of the structure of [`Breakdown`].
pub const SCHEMA_VERSION: u32 = 1;

/// Batches of a group: a queue of 256 entries is flushed 8 times in it.
const GROUP: u64 = 64;

/// Modes that can be taken apart.
const MODES: [ModeArg; 3] = [ModeArg::Passthrough, ModeArg::Strict, ModeArg::Lazy];

/// Options of `breakdown`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BreakdownArgs {
    /// Sizes of the requests: whole pages of 4k, at most 1m
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = bytes,
          default_value = "4k,16k,64k,128k,512k,1m")]
    pub sizes: Vec<u64>,

    /// Requests are lists of single pages instead of one buffer
    #[arg(long)]
    pub lists: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    size::bytes(text)
        .filter(|n| (4096..=parts::BYTES_MAX).contains(n) && n.is_multiple_of(4096))
        .ok_or_else(|| "give a size of whole pages from 4k to 1m".to_owned())
}

/// Why there is no breakdown. Displays as one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BreakdownError {
    /// That mode has no parts that could be measured one by one.
    #[error(
        "mode {0} is not taken apart: its unmaps belong together; choose from passthrough, strict, lazy with --modes"
    )]
    Mode(ModeArg),
    /// The core refused something.
    #[error("breakdown: {0}")]
    Core(String),
}

/// What `breakdown` found, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Breakdown {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of dmabench.
    pub version: &'static str,
    /// The machine of the measured figures.
    pub machine: Machine,
    /// Requests that are mapped before the first is unmapped.
    pub batch: usize,
    /// Whether requests are lists of pages.
    pub lists: bool,
    /// Entries of the queue in lazy mode.
    pub queue_entries: usize,
    /// Profile of the modelled figures.
    pub profile: String,
    /// One per mode and size.
    pub rows: Vec<Row>,
    /// Whether the user ended it; rows are missing then.
    pub interrupted: bool,
    /// Remarks, one sentence each.
    pub notes: Vec<String>,
}

/// One mode and size. Nanoseconds of a request, map and unmap together, unless
/// said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The mode.
    pub mode: String,
    /// Bytes of a request.
    pub bytes: u64,
    /// Requests that were timed.
    pub requests: u64,
    /// The whole: `alloc + page_table + find + free + invalidate + other`.
    /// Measured.
    pub whole_ns: f64,
    /// Its map call.
    pub map_ns: f64,
    /// Its unmap call.
    pub unmap_ns: f64,
    /// What taking I/O addresses adds. Measured.
    pub alloc_ns: f64,
    /// What writing and clearing entries adds. Measured.
    pub page_table_ns: f64,
    /// Looking the mapping up: 0, its token knows.
    pub find_ns: f64,
    /// What giving the addresses back adds. Measured.
    pub free_ns: f64,
    /// What invalidation adds as the counting backend takes it, or queueing and
    /// flushes.
    /// Measured, without hardware time.
    pub invalidate_ns: f64,
    /// `section_ns + rest_ns`.
    pub other_ns: f64,
    /// Entering and leaving the caller's slot twice. Measured.
    pub section_ns: f64,
    /// The layer's own work, and the error of the method.
    pub rest_ns: f64,
    /// `|rest_ns| / whole_ns`: the measured columns are the whole within that.
    pub unexplained: f64,
    /// What a lookup in the tables would cost; not part of the whole.
    /// Measured.
    pub lookup_would_cost_ns: f64,
    /// Hardware time of the commands. Modelled; not part of the whole.
    pub modelled_hardware_ns: f64,
}

/// Takes each size apart in each mode.
///
/// # Errors
///
/// [`BreakdownError`].
pub fn run(
    args: &BreakdownArgs,
    options: &RunOptions,
    interrupted: &AtomicBool,
) -> Result<Breakdown, BreakdownError> {
    let plan = Plan::of(options, &MODES);
    let mut loads = Vec::new();
    for &mode in &plan.modes {
        let of_mode = dma_mode(mode, &plan)?;
        loads.extend(args.sizes.iter().map(|&bytes| Load {
            bytes,
            lists: args.lists,
            mode: of_mode,
        }));
    }
    let clock = TickClock::calibrate();
    let groups = plan.requests_min.div_ceil(GROUP * BATCH as u64).max(3);
    let mut rows = Vec::new();
    let mut was_interrupted = false;
    for load in loads {
        match row(load, groups, &plan, &clock, interrupted) {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => {
                was_interrupted = true;
                break;
            }
            Err(error) => return Err(BreakdownError::Core(error.to_string())),
        }
    }
    let mut notes = Vec::new();
    if cfg!(debug_assertions) {
        notes
            .push("Built without optimisation: the figures say nothing; use --release.".to_owned());
    }
    if was_interrupted {
        notes.push("Interrupted: lines are missing.".to_owned());
    }
    Ok(Breakdown {
        schema_version: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION"),
        machine: run::machine(&clock),
        batch: BATCH,
        lists: args.lists,
        queue_entries: plan.flush_queue_entries,
        profile: plan.profile.name,
        rows,
        interrupted: was_interrupted,
        notes,
    })
}

fn dma_mode(mode: ModeArg, plan: &Plan) -> Result<Mode, BreakdownError> {
    match mode {
        ModeArg::Passthrough => Ok(Mode::Passthrough),
        ModeArg::Strict => Ok(Mode::Strict),
        ModeArg::Lazy => Ok(Mode::Lazy(QueueConfig {
            entries_per_slot: plan.flush_queue_entries,
            timeout_ns: plan.flush_timeout_ns,
        })),
        _ => Err(BreakdownError::Mode(mode)),
    }
}

/// What is timed as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timed {
    WholeMap,
    WholeUnmap,
    Map(Step),
    Unmap(Step),
    Find,
}

/// One batch of everything.
const TURN: [Timed; 11] = [
    Timed::WholeMap,
    Timed::WholeUnmap,
    Timed::Map(Step::Section),
    Timed::Unmap(Step::Section),
    Timed::Map(Step::Addresses),
    Timed::Unmap(Step::Addresses),
    Timed::Map(Step::Tables),
    Timed::Find,
    Timed::Unmap(Step::Tables),
    Timed::Map(Step::Invalidation),
    Timed::Unmap(Step::Invalidation),
];

fn take(parts: &mut Parts, timed: Timed) -> Result<(), parts::Refused> {
    match timed {
        Timed::WholeMap => parts.whole_map(),
        Timed::WholeUnmap => parts.whole_unmap(),
        Timed::Map(step) => parts.map(step),
        Timed::Unmap(step) => parts.unmap(step),
        Timed::Find => parts.find(),
    }
}

/// `None` if interrupted.
fn row(
    load: Load,
    groups: u64,
    plan: &Plan,
    clock: &TickClock,
    interrupted: &AtomicBool,
) -> Result<Option<Row>, parts::Refused> {
    let mut parts = Parts::new(load)?;
    // Tables, magazines and the processor's caches as they are later on.
    for _ in 0..GROUP {
        for timed in TURN {
            take(&mut parts, timed)?;
        }
    }
    let before = parts.work()[0].counts;
    let mut groups_of: [Vec<f64>; TURN.len()] = Default::default();
    let reading_ns = clock.info().cost_ns;
    for _ in 0..groups {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut ticks = [0; TURN.len()];
        for _ in 0..GROUP {
            for (timed, ticks) in TURN.into_iter().zip(&mut ticks) {
                let begin = clock.now();
                take(&mut parts, timed)?;
                *ticks += clock.now().saturating_sub(begin);
            }
        }
        for (values, ticks) in groups_of.iter_mut().zip(ticks) {
            let ns = clock.ns(ticks as f64) - GROUP as f64 * reading_ns;
            values.push(ns.max(0.0) / (GROUP * BATCH as u64) as f64);
        }
    }
    let requests = groups * GROUP * BATCH as u64;
    let counts = parts.work()[0].counts - before;
    let mut medians = [0.0; TURN.len()];
    for (median, mut values) in medians.iter_mut().zip(groups_of) {
        values.sort_by(f64::total_cmp);
        *median = values[values.len() / 2];
    }
    let hardware_ns = plan.profile.hardware_ns(&counts) / requests as f64;
    Ok(Some(assemble(load, requests, &medians, hardware_ns)))
}

/// The columns of what was timed.
fn assemble(load: Load, requests: u64, ns: &[f64; TURN.len()], hardware_ns: f64) -> Row {
    let of = |timed| (TURN.iter().position(|&t| t == timed)).map_or(0.0, |at| ns[at]);
    let (map_ns, unmap_ns) = (of(Timed::WholeMap), of(Timed::WholeUnmap));
    let whole_ns = map_ns + unmap_ns;
    let translated = load.mode != Mode::Passthrough;
    // What `step` adds to the step before it.
    let adds = |timed: fn(Step) -> Timed, step, before| {
        if translated {
            of(timed(step)) - of(timed(before))
        } else {
            0.0
        }
    };
    let both = |step, before| adds(Timed::Map, step, before) + adds(Timed::Unmap, step, before);
    let section_ns = of(Timed::Map(Step::Section)) + of(Timed::Unmap(Step::Section));
    let alloc_ns = adds(Timed::Map, Step::Addresses, Step::Section);
    let free_ns = adds(Timed::Unmap, Step::Addresses, Step::Section);
    let page_table_ns = both(Step::Tables, Step::Addresses);
    let invalidate_ns = both(Step::Invalidation, Step::Tables);
    let find_ns = 0.0;
    let other_ns = whole_ns - alloc_ns - page_table_ns - find_ns - free_ns - invalidate_ns;
    let rest_ns = other_ns - section_ns;
    Row {
        mode: load.mode.name().to_owned(),
        bytes: load.bytes,
        requests,
        whole_ns,
        map_ns,
        unmap_ns,
        alloc_ns,
        page_table_ns,
        find_ns,
        free_ns,
        invalidate_ns,
        other_ns,
        section_ns,
        rest_ns,
        unexplained: if whole_ns > 0.0 {
            rest_ns.abs() / whole_ns
        } else {
            0.0
        },
        lookup_would_cost_ns: if translated { of(Timed::Find) } else { 0.0 },
        modelled_hardware_ns: hardware_ns,
    }
}

#[cfg(test)]
mod tests;
