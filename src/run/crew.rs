//! The timing run of a workload that several threads play.
//!
//! Latencies are those of all threads. The processor time is the threads' own,
//! waits for one another and clock readings included, so it is not to be set
//! beside that of a single thread's workload.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use dmabench_dma::Device;

use super::{
    RunError,
    clock::TickClock,
    plan::Plan,
    threads::{Play, Played, Stop, play},
    timing::{AT_LEAST, Timing, spread},
};
use crate::{cli::ModeArg, workload::Crew};

/// Intervals of a log of latencies.
const INTERVAL: Duration = Duration::from_secs(1);

/// Mappings on their way from the thread that maps to the one that unmaps.
const WAITING: usize = 64;

/// Plays the streams of `crew` until all of them together have done the plan's
/// requests, each at least one pass.
pub(super) fn run(
    crew: &Crew,
    mode: ModeArg,
    plan: &Plan,
    clock: &TickClock,
    interrupted: &AtomicBool,
) -> Result<(Timing, String), RunError> {
    let streams = crew.streams.len().max(1) as u64;
    let longest = crew.streams.iter().map(|s| s.requests().len()).max();
    let each = (plan.requests_min.div_ceil(streams)).max(longest.unwrap_or(1) as u64);
    let mut played = None;
    if !interrupted.load(Ordering::Relaxed) {
        played = Some(of(crew, mode, plan, clock, each, interrupted)?);
    }
    let done = |played: &Played| -> u64 { played.streams.iter().map(|s| s.requests).sum() };
    let played = match played.filter(|p| done(p) > 0) {
        Some(played) => played,
        // Ended before it began: as in the runs of one thread.
        None => {
            let each = AT_LEAST.div_ceil(streams);
            of(crew, mode, plan, clock, each, &AtomicBool::new(false))?
        }
    };
    let requests = done(&played);
    let cpu = (played.streams.iter())
        .filter(|s| s.requests > 0)
        .map(|s| s.cpu_seconds * 1e9 / s.requests as f64)
        .collect();
    let note = format!(
        "{}: {:.3} million requests/s; Jain's fairness {:.3}, the slowest did {:.1} % and the fastest {:.1} % \
         (measured). CPU time contains clock readings and waits for other threads.",
        crew.name(),
        requests as f64 / played.seconds.max(1e-9) / 1e6,
        played.fairness.jain,
        played.fairness.share_min * 100.0,
        played.fairness.share_max * 100.0,
    );
    let (map_curve, unmap_curve) = played.curves;
    let timing = Timing {
        timed_requests: requests,
        map: (played.calls.map.latency, map_curve),
        unmap: (played.calls.unmap.latency, unmap_curve),
        cpu_ns_per_request: spread(cpu),
        counts: played.counts,
        counted_requests: requests,
    };
    Ok((timing, note))
}

fn of(
    crew: &Crew,
    mode: ModeArg,
    plan: &Plan,
    clock: &TickClock,
    requests: u64,
    interrupted: &AtomicBool,
) -> Result<Played, RunError> {
    let what = Play {
        streams: crew.streams.iter().collect(),
        pairs: crew.pairs.then_some(WAITING),
        hold_ns: 0,
        stop: Stop {
            after: Duration::MAX,
            requests,
        },
        cpus: None,
        device: Device::new(),
        interval: plan.hdr_log.as_ref().map(|_| INTERVAL),
    };
    let begun = plan.hdr_log.as_ref().map(|log| log.now());
    let mut played = play(&what, mode, plan, clock, interrupted)?;
    if let (Some(log), Some(begun)) = (&plan.hdr_log, begun) {
        for interval in played.intervals.drain(..) {
            for (call, ns) in [("map", interval.map_ns), ("unmap", interval.unmap_ns)] {
                let tag = format!("{}:{mode}:{call}", crew.name());
                log.add(&tag, begun + interval.begin, interval.length, ns);
            }
        }
    }
    Ok(played)
}
