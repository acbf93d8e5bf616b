//! What our own code costs: latency of each call by cycle counter, and
//! processor time from passes in which no clock is read.
//!
//! The backend counts and takes no time, so nothing here is hardware. The two
//! figures come from separate passes over the same domain: a pair of readings
//! costs about as much as a small map call.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
};

use dmabench_dma::{DmaSegment, Mapping};
use dmabench_flushq::{BackendCounts, CountingBackend};
use rustix::time::{ClockId, clock_gettime};

use super::{RunError, bed::Bed, clock::TickClock, latency::Latencies, plan::Plan};
use crate::{
    cli::ModeArg,
    report::{CurvePoint, LatencyNs, Spread},
    workload::{Request, Step, Workload},
};

/// Requests between two readings of the processor-time clock, at least: the
/// readings take some 300 ns.
const CPU_BATCH: u64 = 2_000;

/// Turns the modes take. What disturbs the machine for a moment then disturbs
/// a part of each mode's passes and not all of one mode's.
const ROUNDS: u64 = 8;

/// What the timing run of one mode found.
pub(super) struct Timing {
    /// Passes with latencies.
    pub(super) passes: u64,
    pub(super) map: (LatencyNs, Vec<CurvePoint>),
    pub(super) unmap: (LatencyNs, Vec<CurvePoint>),
    /// Of the batches of passes.
    pub(super) cpu_ns_per_request: Spread,
    /// Of all passes but the first, those without a clock included.
    pub(super) counts: BackendCounts,
    pub(super) counted_passes: u64,
}

/// Runs `workload` in the modes of `plan`, in their order; `None` if
/// interrupted.
pub(super) fn run(
    workload: &Workload,
    plan: &Plan,
    clock: &TickClock,
    interrupted: &AtomicBool,
) -> Result<Option<Vec<Timing>>, (ModeArg, RunError)> {
    let mut subjects = (plan.modes.iter())
        .map(|&mode| Subject::new(workload, mode, plan, clock).map_err(|e| (mode, e)))
        .collect::<Result<Vec<_>, _>>()?;
    let requests = workload.requests().len() as u64;
    let passes = plan.requests_min.div_ceil(requests).max(1);
    let batch = CPU_BATCH.div_ceil(requests);
    let batches = passes.div_ceil(batch);
    let share = |all: u64, round: u64| all * (round + 1) / ROUNDS - all * round / ROUNDS;
    for round in 0..ROUNDS {
        let (passes, batches) = (share(passes, round), share(batches, round));
        if passes + batches == 0 {
            continue;
        }
        for subject in &mut subjects {
            let done = subject.round(passes, batches, batch, interrupted);
            if !done.map_err(|error| (subject.mode, error))? {
                return Ok(None);
            }
        }
    }
    Ok(Some(subjects.into_iter().map(Subject::finish).collect()))
}

/// One mode, with everything it keeps from round to round.
struct Subject<'a> {
    mode: ModeArg,
    runner: Runner<'a>,
    timed: Timed<'a>,
    cpu: Vec<f64>,
    timed_passes: u64,
    counted_passes: u64,
    /// At the end of the first pass, which begins with an empty queue.
    counts_before: BackendCounts,
}

impl<'a> Subject<'a> {
    fn new(
        workload: &'a Workload,
        mode: ModeArg,
        plan: &Plan,
        clock: &'a TickClock,
    ) -> Result<Self, RunError> {
        let mut runner = Runner::new(workload, Bed::counting(workload, mode, plan)?);
        runner.pass(&mut Untimed)?;
        Ok(Subject {
            mode,
            counts_before: runner.bed.counts(),
            runner,
            timed: Timed {
                clock,
                begun: 0,
                map: Latencies::new(),
                unmap: Latencies::new(),
            },
            cpu: Vec::new(),
            timed_passes: 0,
            counted_passes: 0,
        })
    }

    /// False if interrupted.
    fn round(
        &mut self,
        passes: u64,
        batches: u64,
        batch: u64,
        interrupted: &AtomicBool,
    ) -> Result<bool, RunError> {
        let stop = || interrupted.load(Ordering::Relaxed);
        // The processor's caches as they are in the middle of a run.
        self.runner.pass(&mut Untimed)?;
        for _ in 0..passes {
            if stop() {
                return Ok(false);
            }
            self.runner.pass(&mut self.timed)?;
        }
        let requests = self.runner.workload.requests().len() as u64;
        for _ in 0..batches {
            if stop() {
                return Ok(false);
            }
            let begun = thread_cpu_ns();
            for _ in 0..batch {
                self.runner.pass(&mut Untimed)?;
            }
            let spent = thread_cpu_ns() - begun;
            self.cpu.push(spent as f64 / (batch * requests) as f64);
        }
        self.timed_passes += passes;
        self.counted_passes += 1 + passes + batches * batch;
        Ok(true)
    }

    fn finish(self) -> Timing {
        let clock = self.timed.clock;
        Timing {
            passes: self.timed_passes,
            map: self.timed.map.finish(clock),
            unmap: self.timed.unmap.finish(clock),
            cpu_ns_per_request: spread(self.cpu),
            counts: self.runner.bed.counts() - self.counts_before,
            counted_passes: self.counted_passes,
        }
    }
}

/// What is done around each call.
trait Watch {
    fn begin(&mut self);
    fn end_map(&mut self);
    fn end_unmap(&mut self);
}

struct Untimed;

impl Watch for Untimed {
    #[inline(always)]
    fn begin(&mut self) {}
    #[inline(always)]
    fn end_map(&mut self) {}
    #[inline(always)]
    fn end_unmap(&mut self) {}
}

struct Timed<'a> {
    clock: &'a TickClock,
    begun: u64,
    map: Latencies,
    unmap: Latencies,
}

// Counters of two processors may differ by some ticks where a hypervisor made
// them; a thread that moved in between then shows 0 instead of centuries.
impl Watch for Timed<'_> {
    #[inline(always)]
    fn begin(&mut self) {
        self.begun = self.clock.now();
    }
    #[inline(always)]
    fn end_map(&mut self) {
        let now = self.clock.now();
        self.map.push(now.saturating_sub(self.begun));
    }
    #[inline(always)]
    fn end_unmap(&mut self) {
        let now = self.clock.now();
        self.unmap.push(now.saturating_sub(self.begun));
    }
}

struct Runner<'a> {
    workload: &'a Workload,
    bed: Bed<CountingBackend>,
    live: Vec<Option<Mapping>>,
    /// What the driver would tell the device.
    out: Vec<DmaSegment>,
}

impl<'a> Runner<'a> {
    fn new(workload: &'a Workload, bed: Bed<CountingBackend>) -> Self {
        Runner {
            workload,
            bed,
            live: (0..workload.live_max).map(|_| None).collect(),
            out: vec![DmaSegment::EMPTY; workload.segments_max()],
        }
    }

    fn pass<W: Watch>(&mut self, watch: &mut W) -> Result<(), RunError> {
        let requests: &[Request] = self.workload.requests();
        for step in self.workload.steps() {
            match *step {
                Step::Map(number) => {
                    let request = &requests[number as usize];
                    let segments = self.workload.segments(request);
                    watch.begin();
                    let mapping = self.bed.map(request, segments, &mut self.out);
                    watch.end_map();
                    self.live[request.place as usize] = Some(mapping?);
                }
                Step::Unmap(number) => {
                    let request = &requests[number as usize];
                    let Some(mapping) = self.live[request.place as usize].take() else {
                        continue;
                    };
                    watch.begin();
                    let unmapped = self.bed.unmap(request.device, black_box(mapping));
                    watch.end_unmap();
                    unmapped?;
                }
            }
        }
        Ok(())
    }
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    Spread {
        min: values[0],
        p50: values[values.len() / 2],
        max: values[values.len() - 1],
    }
}

/// Processor time of this thread: what others do meanwhile does not count.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
