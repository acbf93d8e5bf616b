//! Many threads on one address space: each plays a workload of its own, over
//! and over, until it has done enough or the time is up.
//!
//! A *stream* is one workload's requests. Alone, one thread maps and unmaps
//! them; as a *pair*, one thread maps and hands each mapping over a channel to
//! another one that unmaps it, as a driver does whose interrupts arrive on
//! another CPU.
//!
//! All threads start together. Each call is timed by cycle counter and lands in
//! a histogram of its thread; a thread hands its histograms over at the end of
//! each interval, so that nothing is shared while it measures. Meanwhile this
//! thread is the kernel's timer: every millisecond it polls the domain, so that
//! lazy queues are also flushed by age.

mod collect;
mod gate;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use dmabench_dma::Device;
use dmabench_flushq::BackendCounts;
use dmabench_platform::{Clock, MonotonicClock};

use self::{
    collect::Collected,
    worker::{Shared, Work},
};
use super::{RunError, bed::Bed, clock::TickClock, plan::Plan};
use crate::{
    cli::ModeArg,
    report::{CurvePoint, LatencyNs},
    workload::Workload,
};

/// How often the domain is polled.
const POLL: Duration = Duration::from_millis(1);

/// What the threads do.
#[derive(Debug, Clone)]
pub struct Play<'a> {
    /// One per thread, or per pair; all of device 0. The same workload may occur
    /// again and again: it is only read.
    pub streams: Vec<&'a Workload>,
    /// Mappings that may wait between the two threads of a pair; `None`: each
    /// stream is one thread.
    pub pairs: Option<usize>,
    /// How long a mapping lives at least: the time of the transfer, in
    /// nanoseconds. As in the kernel the thread waits for it, and does nothing
    /// else.
    pub hold_ns: u64,
    /// When to stop.
    pub stop: Stop,
    /// Processors the threads may use; `None`: any.
    pub cpus: Option<Vec<usize>>,
    /// What the device can address.
    pub device: Device,
    /// Length of the intervals of [`Played::intervals`]; `None`: none.
    pub interval: Option<Duration>,
}

/// When a run of threads ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The run lasts no longer.
    pub after: Duration,
    /// A stream maps no more requests than that.
    pub requests: u64,
}

/// What the threads found.
#[derive(Debug)]
pub struct Played {
    /// One per stream.
    pub streams: Vec<StreamFigures>,
    /// From the common start to the last thread's end.
    pub seconds: f64,
    /// All map calls, all unmap calls.
    pub calls: Calls,
    /// Percentile curves of the same, for plots.
    pub curves: (Vec<CurvePoint>, Vec<CurvePoint>),
    /// What the backend was asked for, the final drain included.
    pub counts: BackendCounts,
    /// How evenly the streams came on.
    pub fairness: Fairness,
    /// In order of time; empty without [`Play::interval`].
    pub intervals: Vec<Interval>,
    /// Whether the user ended it.
    pub interrupted: bool,
}

/// One stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamFigures {
    /// Requests that were mapped and unmapped.
    pub requests: u64,
    /// From the common start to the end of the last unmap.
    pub seconds: f64,
    /// Processor time of the stream's threads, clock readings and waits
    /// included.
    pub cpu_seconds: f64,
    /// Its map calls.
    pub map: Figures,
    /// Its unmap calls.
    pub unmap: Figures,
}

/// Latencies with their spread, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Calls.
    pub calls: u64,
    /// Mean, percentiles and maximum.
    pub latency: LatencyNs,
    /// Standard deviation.
    pub stdev: f64,
}

/// Latencies of all streams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calls {
    /// All map calls.
    pub map: Figures,
    /// All unmap calls.
    pub unmap: Figures,
}

/// How evenly the streams came on, by requests per second of each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fairness {
    /// The slowest stream's part of the sum: 1/n of n streams if all are equal.
    pub share_min: f64,
    /// The fastest stream's.
    pub share_max: f64,
    /// Jain's index, `(sum x)^2 / (n sum x^2)`: 1 if all are equal, 1/n if one
    /// has everything. (Jain, Chiu, Hawe, DEC-TR-301, 1984.)
    pub jain: f64,
}

/// The calls of one interval, of all streams.
#[derive(Debug, Clone)]
pub struct Interval {
    /// Since the common start.
    pub begin: Duration,
    /// Its length; the last one may be shorter.
    pub length: Duration,
    /// Map calls in whole nanoseconds.
    pub map_ns: hdrhistogram::Histogram<u64>,
    /// Unmap calls in whole nanoseconds.
    pub unmap_ns: hdrhistogram::Histogram<u64>,
}

impl Fairness {
    /// Of the streams' rates; of nothing, and of zeros, it is even.
    pub fn of(rates: &[f64]) -> Self {
        let sum: f64 = rates.iter().sum();
        if rates.is_empty() || sum <= 0.0 {
            let equal = 1.0 / rates.len().max(1) as f64;
            return Fairness {
                share_min: equal,
                share_max: equal,
                jain: 1.0,
            };
        }
        let squares: f64 = rates.iter().map(|r| r * r).sum();
        Fairness {
            share_min: rates.iter().copied().fold(f64::INFINITY, f64::min) / sum,
            share_max: rates.iter().copied().fold(0.0, f64::max) / sum,
            jain: sum * sum / (rates.len() as f64 * squares),
        }
    }
}

/// Plays the streams in one mode. `interrupted` may be set at any time.
///
/// # Errors
///
/// [`RunError`] of the first thread that could not go on, and if the threads
/// cannot be started or bound to their processors.
pub fn play(
    play: &Play<'_>,
    mode: ModeArg,
    plan: &Plan,
    clock: &TickClock,
    interrupted: &AtomicBool,
) -> Result<Played, RunError> {
    let threads = play.streams.len() * if play.pairs.is_some() { 2 } else { 1 };
    let bed = Bed::shared(mode, plan, threads, play.device)?;
    let (give, tallies) = mpsc::channel();
    let shared = Shared::new(play, &bed, clock, give);
    let mut works: Vec<(usize, Work<'_>)> = Vec::with_capacity(threads);
    for (number, &stream) in play.streams.iter().enumerate() {
        let shared = &shared;
        match play.pairs {
            None => works.push((number, Box::new(move || shared.alone(number, stream)))),
            Some(waiting) => {
                let (give, take) = mpsc::sync_channel(waiting.max(1));
                works.push((
                    number,
                    Box::new(move || shared.mapper(number, stream, give)),
                ));
                works.push((number, Box::new(move || shared.unmapper(number, take))));
            }
        }
    }
    std::thread::scope(|scope| {
        let mut workers = Vec::with_capacity(threads);
        for (number, work) in works {
            let shared = &shared;
            let spawned = std::thread::Builder::new()
                .name(format!("stream {number}"))
                .spawn_scoped(scope, move || shared.thread(work));
            match spawned {
                Ok(worker) => workers.push((number, worker)),
                Err(error) => {
                    shared.gate.abandon();
                    return Err(RunError::refused(format_args!(
                        "{threads} threads cannot be started: {error}"
                    )));
                }
            }
        }
        let mut collected = Collected::new(play);
        let mut failed = None;
        let mut was_interrupted = false;
        shared.gate.open(threads, || clock.now());
        let time = MonotonicClock::new();
        while workers.iter().any(|(_, worker)| !worker.is_finished()) {
            was_interrupted |= interrupted.load(Ordering::Relaxed);
            let elapsed = Duration::from_nanos(time.now().0);
            let left = play.stop.after.saturating_sub(elapsed);
            if was_interrupted || left.is_zero() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            let now = time.now();
            if bed.next_deadline().is_some_and(|due| due <= now)
                && let Err(error) = bed.poll(now)
            {
                shared.stop.store(true, Ordering::Relaxed);
                failed = Some(error);
            }
            collected.take(&tallies);
            std::thread::sleep(POLL.min(left.max(POLL / 10)));
        }
        for (number, worker) in workers {
            let done = worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match done {
                Ok(done) => collected.done(number, &done),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        collected.take(&tallies);
        bed.drain()?;
        Ok(collected.finish(clock, bed.counts(), was_interrupted))
    })
}
