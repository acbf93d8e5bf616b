//! Runs: each workload in each mode, once to see what is exposed and then again
//! and again to see what it costs.
//!
//! The exposure runs of a workload (`exposure.rs`) use the software SMMU and a
//! virtual clock, so they may run beside each other; its timing runs (`timing.rs`)
//! come after them, one at a time, on one thread, with nothing else going on in
//! the process. Then comes the next workload. Whoever ends a run early so has all
//! of the workloads before, and of the one under way what was done.

mod bed;
mod clock;
mod copies;
mod crew;
mod disciplines;
mod exposure;
mod ground;
mod latency;
mod machine;
mod plan;
mod registered;
pub mod threads;
mod timing;
mod watch;

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use dmabench_platform::{Granule, SlotSource, ThreadSlots};
use rayon::prelude::*;

pub(crate) use bed::config as domain_config;
pub use clock::TickClock;
pub use machine::describe as machine;
pub use plan::Plan;

use crate::{
    cli::ModeArg,
    model::{self, Load, RequestTime},
    report::RunResult,
    workload::Workload,
};
use exposure::Exposed;
use timing::Timing;

/// Translation granule of every run.
pub const GRANULE: Granule = Granule::K4;

/// Why a run stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The core refused something a workload asked for.
    #[error("{workload} cannot be run in mode {mode}: {reason}; leave it out with --workload")]
    Refused {
        /// The workload.
        workload: String,
        /// The mode.
        mode: ModeArg,
        /// What the core said.
        reason: String,
    },
    /// The core did what it must not do.
    #[error("defect of dmabench: {0}; please report it with the trace")]
    Defect(String),
}

impl RunError {
    fn refused(error: impl fmt::Display) -> Self {
        RunError::Refused {
            workload: String::new(),
            mode: ModeArg::Strict,
            reason: error.to_string(),
        }
    }

    /// Says which run it was.
    fn of(self, name: &str, run_mode: ModeArg) -> Self {
        match self {
            RunError::Refused { reason, .. } => RunError::Refused {
                workload: name.to_owned(),
                mode: run_mode,
                reason,
            },
            RunError::Defect(what) => RunError::Defect(format!("{name}, {run_mode}: {what}")),
        }
    }
}

/// What the runs found.
#[derive(Debug)]
pub struct Found {
    /// One entry per workload and mode that was finished, workloads first.
    pub results: Vec<RunResult>,
    /// The clock the latencies were read from.
    pub clock: TickClock,
    /// Remarks on all of it.
    pub notes: Vec<String>,
    /// Whether the user ended the run early.
    pub interrupted: bool,
}

/// Runs every workload in every mode of `plan`. `done` is called after each of
/// [`Plan::units`]; `interrupted` may be set at any time.
///
/// # Errors
///
/// [`RunError`] of the first run that could not be finished.
pub fn all(
    workloads: &[Workload],
    plan: &Plan,
    done: &(dyn Fn() + Sync),
    interrupted: &AtomicBool,
) -> Result<Found, RunError> {
    let stop = || interrupted.load(Ordering::Relaxed);
    // This thread times, so it takes a slot number before rayon's threads do:
    // however many they are, it has a slot of its own.
    let _number = ThreadSlots.pin();
    let clock = TickClock::calibrate();
    let mut found = Found {
        results: Vec::with_capacity(workloads.len() * plan.modes.len()),
        clock,
        notes: notes(plan, &clock),
        interrupted: false,
    };
    for workload in workloads {
        let exposed: Vec<Option<Exposed>> = (plan.modes.par_iter())
            .map(|&mode| {
                if stop() {
                    return Ok(None);
                }
                let exposed = exposure::run(workload, mode, plan, interrupted)
                    .map_err(|error| error.of(&workload.name, mode))?;
                done();
                // Ended before the first request: nothing was seen.
                Ok(Some(exposed).filter(|e| e.cut_after != Some(0)))
            })
            .collect::<Result<_, RunError>>()?;
        // Those that were begun before the user wanted to end.
        let (modes, exposed): (Vec<ModeArg>, Vec<Exposed>) = (plan.modes.iter().zip(exposed))
            .filter_map(|(&mode, exposed)| Some((mode, exposed?)))
            .unzip();
        let mut remarks = Vec::new();
        let timings = match &workload.crew {
            None => timing::run(workload, &modes, plan, &clock, interrupted),
            Some(crew) => (modes.iter())
                .map(|&mode| {
                    let (timing, remark) = crew::run(crew, mode, plan, &clock, interrupted)
                        .map_err(|error| (mode, error))?;
                    remarks.push(remark);
                    Ok(timing)
                })
                .collect(),
        }
        .map_err(|(mode, error)| error.of(&workload.name, mode))?;
        let mut remarks = remarks.into_iter();
        for ((mode, timing), exposed) in modes.into_iter().zip(timings).zip(exposed) {
            let mut result = result(workload, mode, plan, timing, exposed);
            result.notes.extend(remarks.next());
            found.results.push(result);
            done();
        }
        if stop() {
            found.interrupted = true;
            break;
        }
    }
    Ok(found)
}

/// What a reader of the measured figures should know.
fn notes(plan: &Plan, clock: &TickClock) -> Vec<String> {
    let info = clock.info();
    let mut notes = vec![format!(
        "Each latency contains one pair of readings of {}, {:.0} ns here; CPU time contains none.",
        info.name, info.cost_ns
    )];
    if plan.requests_min < crate::cli::REQUESTS_DEFAULT {
        notes.push(format!(
            "Only about {} requests of each workload were timed: p99.9 and max say little.",
            plan.requests_min
        ));
    }
    if plan.modes.contains(&ModeArg::Bounce) {
        notes.push(copies::mode_note(plan.bounce_in_place_from));
    }
    if plan.modes.contains(&ModeArg::Premapped) {
        notes.push(registered::MODE_NOTE.to_owned());
    }
    if cfg!(debug_assertions) {
        notes.push(
            "Built without optimisation: the measured figures say nothing; use --release."
                .to_owned(),
        );
    }
    notes
}

fn result(
    workload: &Workload,
    mode: ModeArg,
    plan: &Plan,
    timing: Timing,
    exposed: Exposed,
) -> RunResult {
    let requests = workload.requests().len() as u64;
    let per_request = |all: f64| all / timing.counted_requests as f64;
    let per_pass = |count: u64| per_request(count as f64) * requests as f64;
    let counts = &timing.counts;
    // Passthrough and premapped take nothing away, so nothing is left behind.
    let taken_away = !matches!(mode, ModeArg::Passthrough | ModeArg::Premapped);
    // Then some of its requests are as strict ones.
    let bounces_in_place = mode == ModeArg::Bounce && plan.bounce_in_place_from.is_some();
    let load = Load {
        requests,
        bytes: workload.bytes(),
        cpu_ns: timing.cpu_ns_per_request.p50,
        counts,
        counted_requests: timing.counted_requests,
        translated: mode != ModeArg::Passthrough,
        maps: model::maps(mode) || bounces_in_place,
    };
    let waits = if bounces_in_place {
        model::Waits::BeforeNext
    } else {
        model::waits(mode)
    };
    let request_time = RequestTime::of(&plan.profile, &plan.device, &load);
    let mut notes = exposed.notes;
    if let Some(done) = exposed.cut_after {
        notes.push(format!(
            "The exposure run covers the first {done} of {requests} requests."
        ));
    }
    if timing.timed_requests < requests {
        notes.push(format!(
            "Interrupted: only {} of {requests} requests were timed.",
            timing.timed_requests
        ));
    } else if mode == ModeArg::Bounce && timing.timed_requests < plan.requests_min {
        notes.push(format!(
            "Every byte is copied, so only {} requests were timed: p99.9 and max say little.",
            timing.timed_requests
        ));
    }
    RunResult {
        workload: workload.name.clone(),
        mode: mode.name().to_owned(),
        requests,
        passes: (timing.timed_requests / requests).max(1),
        bytes: workload.bytes(),
        map_ns: timing.map.0,
        unmap_ns: timing.unmap.0,
        cpu_ns_per_request: timing.cpu_ns_per_request.p50,
        cpu_ns_spread: timing.cpu_ns_per_request,
        tlb_invalidate_ranges: per_pass(counts.ranges),
        tlb_invalidate_commands: per_pass(counts.commands() - counts.flush_alls),
        tlb_flush_all_commands: per_pass(counts.flush_alls),
        sync_commands: per_pass(counts.syncs),
        stale_device_accesses: taken_away.then_some(exposed.stale_accesses),
        stale_window_max_ns: taken_away.then_some(exposed.stale_window_max_ns),
        iova_pages_held_max: exposed.iova_pages_held_max,
        page_table_bytes: exposed.page_table_bytes,
        modelled_ns_per_request: per_request(plan.profile.hardware_ns(counts)),
        modelled_wait_ns_per_request: Some(request_time.waited_ns(waits)),
        modelled_mb_per_s: Some(model::modelled_mb_per_s(
            &request_time,
            waits,
            plan.device.queue_depth,
        )),
        model: plan.profile.name.clone(),
        map_curve: timing.map.1,
        unmap_curve: timing.unmap.1,
        exposure: exposed.exposure,
        notes,
    }
}
