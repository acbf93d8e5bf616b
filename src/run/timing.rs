//! What our own code costs: latency of each call by cycle counter, and
//! processor time from passes in which no clock is read.
//!
//! The backend counts and takes no time, so nothing here is hardware. The two
//! figures come from separate passes over the same domain: a pair of readings
//! costs about as much as a small map call.

use std::{
    hint::black_box,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use dmabench_dma::DmaSegment;
use dmabench_flushq::BackendCounts;
use rustix::time::{ClockId, clock_gettime};

use super::{
    RunError,
    bed::Bed,
    clock::TickClock,
    copies,
    disciplines::{Batched, ParkedBuffers, Pipelined},
    ground::{Counted, Ground},
    latency::Latencies,
    plan::Plan,
    registered,
};
use crate::{
    cli::ModeArg,
    hdr_log::SharedLog,
    report::{CurvePoint, LatencyNs, Spread},
    workload::{Request, Step, Workload},
};

/// Requests between two readings of the processor-time clock, at least: the
/// readings take some 300 ns.
const CPU_BATCH: u64 = 2_000;

/// Turns the modes take. What disturbs the machine for a moment then disturbs
/// a part of each mode's passes and not all of one mode's.
const ROUNDS: u64 = 8;

/// From so many requests on, a pass is its own warming up: what it finds in the
/// caches at its beginning does not matter.
const LONG_PASS: u64 = 100_000;

/// Bytes after which a mode that copies them has been timed long enough, and the
/// most it copies in a part of the run that only warms up or has no clock: at
/// some GB/s the usual number of requests would take minutes.
const COPIED_MAX: u64 = 1 << 30;

/// Requests that are run in each mode even if the user ends the run before: so
/// that there is something to report.
pub(super) const AT_LEAST: u64 = 1_000;

/// Steps between two looks at whether the user wants to end.
const STRIDE: usize = 1 << 12;

/// What the timing run of one mode found.
pub(super) struct Timing {
    /// Requests with latencies.
    pub(super) timed_requests: u64,
    pub(super) map: (LatencyNs, Vec<CurvePoint>),
    pub(super) unmap: (LatencyNs, Vec<CurvePoint>),
    /// Of the batches of passes.
    pub(super) cpu_ns_per_request: Spread,
    /// Of all passes but the first, those without a clock included.
    pub(super) counts: BackendCounts,
    pub(super) counted_requests: u64,
}

/// Runs `workload` in `modes`, in their order. If the user ends the run, each
/// mode has what was done until then, and a thousand requests at least.
pub(super) fn run(
    workload: &Workload,
    modes: &[ModeArg],
    plan: &Plan,
    clock: &TickClock,
    interrupted: &AtomicBool,
) -> Result<Vec<Timing>, (ModeArg, RunError)> {
    let mut subjects = (modes.iter())
        .map(|&mode| Subject::new(workload, mode, plan, clock, interrupted).map_err(|e| (mode, e)))
        .collect::<Result<Vec<_>, _>>()?;
    let share = |all: u64, round: u64| all * (round + 1) / ROUNDS - all * round / ROUNDS;
    for round in 0..ROUNDS {
        for subject in &mut subjects {
            let passes = share(subject.passes, round);
            let batches = share(subject.passes.div_ceil(subject.batch), round);
            if passes + batches > 0 {
                let done = subject.round(passes, batches);
                done.map_err(|error| (subject.mode, error))?;
            }
        }
    }
    for subject in &mut subjects {
        subject.begin_interval();
        (subject.at_least_some()).map_err(|error| (subject.mode, error))?;
        subject.end_interval();
    }
    Ok(subjects.into_iter().map(Subject::finish).collect())
}

/// The log of intervals, and what names this mode's lines in it.
struct Log<'a> {
    log: &'a SharedLog,
    tag: String,
    begun: Duration,
}

/// One mode, with everything it keeps from round to round.
struct Subject<'a> {
    mode: ModeArg,
    runner: Box<dyn Player<'a> + 'a>,
    timed: Timed<'a>,
    cpu: Vec<f64>,
    log: Option<Log<'a>>,
    interrupted: &'a AtomicBool,
    /// Of one pass.
    requests: u64,
    /// Passes to time.
    passes: u64,
    /// Passes between two readings of the processor-time clock.
    batch: u64,
    /// Requests of a pass that is not timed, at most.
    untimed_max: u64,
    timed_requests: u64,
    counted_requests: u64,
    /// At the end of the first pass, which begins with an empty queue.
    counts_before: BackendCounts,
}

impl<'a> Subject<'a> {
    fn new(
        workload: &'a Workload,
        mode: ModeArg,
        plan: &'a Plan,
        clock: &'a TickClock,
        interrupted: &'a AtomicBool,
    ) -> Result<Self, RunError> {
        let mut runner: Box<dyn Player<'a> + 'a> = match mode {
            ModeArg::Bounce => Box::new(Runner::new(workload, copies::counting(workload, plan)?)),
            ModeArg::Premapped => {
                Box::new(Runner::new(workload, registered::counting(workload, plan)?))
            }
            _ => {
                let bed = Bed::counting(workload, mode, plan)?;
                match mode {
                    ModeArg::StrictBatched => {
                        Box::new(Runner::new(workload, Batched::new(bed, workload)))
                    }
                    ModeArg::StrictPipelined => {
                        Box::new(Runner::new(workload, Pipelined::new(bed)))
                    }
                    ModeArg::LazyParked => Box::new(Runner::new(workload, ParkedBuffers::new(bed))),
                    _ => Box::new(Runner::new(workload, bed)),
                }
            }
        };
        let requests = workload.requests().len() as u64;
        let wanted = plan.requests_min.div_ceil(requests).max(1);
        let (passes, untimed_max) = if mode == ModeArg::Bounce {
            let bytes = workload.bytes().max(1);
            let copied = u128::from(requests) * u128::from(COPIED_MAX) / u128::from(bytes);
            (
                wanted.min(COPIED_MAX / bytes).max(1),
                u64::try_from(copied).unwrap_or(u64::MAX).max(AT_LEAST),
            )
        } else {
            (wanted, u64::MAX)
        };
        runner.untimed(Until {
            interrupted,
            at_least: 0,
            at_most: untimed_max,
        })?;
        Ok(Subject {
            mode,
            counts_before: runner.counts(),
            runner,
            timed: Timed {
                clock,
                begun: 0,
                map: Latencies::new(),
                unmap: Latencies::new(),
            },
            cpu: Vec::new(),
            log: plan.hdr_log.as_ref().map(|log| Log {
                log,
                tag: format!("{}:{mode}", workload.name),
                begun: log.now(),
            }),
            interrupted,
            requests,
            passes,
            batch: CPU_BATCH.div_ceil(requests),
            untimed_max,
            timed_requests: 0,
            counted_requests: 0,
        })
    }

    fn round(&mut self, passes: u64, batches: u64) -> Result<(), RunError> {
        // The processor's caches as they are in the middle of a run.
        if self.requests < LONG_PASS {
            self.counted_requests += self.runner.untimed(self.until(0))?;
        }
        self.begin_interval();
        for _ in 0..passes {
            self.timed_pass(0)?;
        }
        self.end_interval();
        for _ in 0..batches {
            self.cpu_batch(self.batch, 0)?;
        }
        Ok(())
    }

    fn begin_interval(&mut self) {
        if let Some(log) = &mut self.log {
            log.begun = log.log.now();
        }
    }

    fn end_interval(&mut self) {
        let Some(Log { log, tag, begun }) = &self.log else {
            return;
        };
        let length = log.now().saturating_sub(*begun);
        let Timed {
            clock, map, unmap, ..
        } = &mut self.timed;
        for (call, latencies) in [("map", map), ("unmap", unmap)] {
            let ns = latencies.cut().in_ns(clock);
            log.add(&format!("{tag}:{call}"), *begun, length, ns);
        }
    }

    /// For a pass that is not timed.
    fn until(&self, at_least: u64) -> Until<'a> {
        Until {
            interrupted: self.interrupted,
            at_least,
            at_most: self.untimed_max,
        }
    }

    fn timed_pass(&mut self, at_least: u64) -> Result<(), RunError> {
        let until = Until {
            at_most: u64::MAX,
            ..self.until(at_least)
        };
        let done = self.runner.timed(&mut self.timed, until)?;
        self.timed_requests += done;
        self.counted_requests += done;
        Ok(())
    }

    fn cpu_batch(&mut self, passes: u64, at_least: u64) -> Result<(), RunError> {
        let begun = thread_cpu_ns();
        let mut done = 0;
        for _ in 0..passes {
            done += self.runner.untimed(self.until(at_least))?;
        }
        let spent = thread_cpu_ns() - begun;
        self.counted_requests += done;
        if done > 0 {
            self.cpu.push(spent as f64 / done as f64);
        }
        Ok(())
    }

    /// Where the user ended the run before anything was measured.
    fn at_least_some(&mut self) -> Result<(), RunError> {
        if self.timed_requests == 0 {
            self.timed_pass(AT_LEAST)?;
        }
        if self.cpu.is_empty() {
            self.cpu_batch(1, AT_LEAST)?;
        }
        Ok(())
    }

    fn finish(self) -> Timing {
        let clock = self.timed.clock;
        Timing {
            timed_requests: self.timed_requests,
            map: self.timed.map.finish(clock),
            unmap: self.timed.unmap.finish(clock),
            cpu_ns_per_request: spread(self.cpu),
            counts: self.runner.counts() - self.counts_before,
            counted_requests: self.counted_requests,
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

/// Where a pass ends before its end.
#[derive(Clone, Copy)]
struct Until<'a> {
    /// The user wants to end.
    interrupted: &'a AtomicBool,
    /// So many requests are run all the same.
    at_least: u64,
    /// About so many requests are enough.
    at_most: u64,
}

impl Until<'_> {
    fn reached(&self, done: u64) -> bool {
        done >= self.at_most || (done >= self.at_least && self.interrupted.load(Ordering::Relaxed))
    }
}

/// Passes over a workload, whatever they run on: one indirect call for each
/// pass, none for a request.
trait Player<'a> {
    fn untimed(&mut self, until: Until<'_>) -> Result<u64, RunError>;
    fn timed(&mut self, watch: &mut Timed<'a>, until: Until<'_>) -> Result<u64, RunError>;
    fn counts(&self) -> BackendCounts;
}

impl<'a, G: Ground<'a> + Counted> Player<'a> for Runner<'a, G> {
    fn untimed(&mut self, until: Until<'_>) -> Result<u64, RunError> {
        self.pass(&mut Untimed, until)
    }

    fn timed(&mut self, watch: &mut Timed<'a>, until: Until<'_>) -> Result<u64, RunError> {
        self.pass(watch, until)
    }

    fn counts(&self) -> BackendCounts {
        self.bed.counts()
    }
}

struct Runner<'a, G: Ground<'a>> {
    workload: &'a Workload,
    bed: G,
    live: Vec<Option<G::Live>>,
    /// What the driver would tell the device.
    out: Vec<DmaSegment>,
}

impl<'a, G: Ground<'a>> Runner<'a, G> {
    fn new(workload: &'a Workload, bed: G) -> Self {
        Runner {
            workload,
            bed,
            live: (0..workload.live_max).map(|_| None).collect(),
            out: vec![DmaSegment::EMPTY; workload.segments_max()],
        }
    }

    /// One pass, or its beginning. Says how many requests it ran.
    fn pass<W: Watch>(&mut self, watch: &mut W, until: Until<'_>) -> Result<u64, RunError> {
        let steps = self.workload.steps();
        let (mut done, mut at) = (0, 0);
        while at < steps.len() {
            if until.reached(done) {
                self.unmap_rest(&steps[at..])?;
                break;
            }
            let end = steps.len().min(at + STRIDE);
            done += self.some_steps(at..end, watch)?;
            at = end;
        }
        self.bed.settle(&mut |_| ())?;
        Ok(done)
    }

    /// Says how many requests were mapped.
    fn some_steps<W: Watch>(
        &mut self,
        range: Range<usize>,
        watch: &mut W,
    ) -> Result<u64, RunError> {
        let requests: &[Request] = self.workload.requests();
        let mut mapped = 0;
        let first = range.start;
        for (at, step) in self.workload.steps()[range].iter().enumerate() {
            match *step {
                Step::Map(number) => {
                    let request = &requests[number as usize];
                    let segments = self.workload.segments(request);
                    watch.begin();
                    let ready = self.bed.before_map(number, &mut |_| ());
                    let mapping = self.bed.map(request, segments, &mut self.out);
                    watch.end_map();
                    ready?;
                    self.live[request.place as usize] = Some(mapping?);
                    mapped += 1;
                }
                Step::Unmap(number) => {
                    let request = &requests[number as usize];
                    let Some(mapping) = self.live[request.place as usize].take() else {
                        continue;
                    };
                    let more = G::BATCHES && self.workload.more_done(first + at);
                    watch.begin();
                    let unmapped = (self.bed).done(
                        number,
                        request.device,
                        black_box(mapping),
                        more,
                        &mut |number| {
                            black_box(number);
                        },
                    );
                    watch.end_unmap();
                    unmapped?;
                }
            }
        }
        Ok(mapped)
    }

    /// Of the steps that a pass was cut short of, those that unmap what is
    /// mapped.
    fn unmap_rest(&mut self, steps: &[Step]) -> Result<(), RunError> {
        let mut mapped = self.live.iter().flatten().count();
        for step in steps {
            if mapped == 0 {
                break;
            }
            let Step::Unmap(number) = *step else {
                continue;
            };
            let request = &self.workload.requests()[number as usize];
            if let Some(mapping) = self.live[request.place as usize].take() {
                self.bed.unmap(request.device, mapping)?;
                mapped -= 1;
            }
        }
        Ok(())
    }
}

pub(super) fn spread(mut values: Vec<f64>) -> Spread {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::generate::{Cqe, Generator};

    fn workload() -> Workload {
        Cqe {
            requests: 40_000,
            sizes: "4K".parse().unwrap(),
            ..Cqe::DEFAULT
        }
        .generate(1)
    }

    #[test]
    fn a_run_that_is_ended_at_once_has_a_thousand_requests_of_each_mode() {
        let (workload, plan) = (workload(), Plan::default());
        let (clock, now) = (TickClock::calibrate(), AtomicBool::new(true));
        let timings = run(&workload, &plan.modes, &plan, &clock, &now)
            .ok()
            .unwrap();
        assert_eq!(timings.len(), plan.modes.len());
        for (mode, timing) in plan.modes.iter().zip(timings) {
            let timed = timing.timed_requests;
            // Whole strides of steps, half of which are maps.
            assert!(
                (AT_LEAST..AT_LEAST + STRIDE as u64).contains(&timed),
                "{timed}"
            );
            assert_eq!(timing.counted_requests, 2 * timed);
            assert!(timing.cpu_ns_per_request.p50 > 0.0);
            if *mode == ModeArg::Strict {
                assert_eq!(timing.counts.syncs, 2 * timed, "one for each request");
            }
        }
    }

    #[test]
    fn a_pass_that_is_cut_short_leaves_nothing_mapped() {
        let (workload, plan) = (workload(), Plan::default());
        let bed = Bed::counting(&workload, ModeArg::Strict, &plan)
            .ok()
            .unwrap();
        let mut runner = Runner::new(&workload, bed);
        for at_least in [0, 1, 5000] {
            let interrupted = AtomicBool::new(true);
            let until = Until {
                interrupted: &interrupted,
                at_least,
                at_most: u64::MAX,
            };
            let done = runner.pass(&mut Untimed, until).ok().unwrap();
            assert!(done >= at_least && done < at_least + STRIDE as u64);
            assert!(runner.live.iter().all(Option::is_none));
            assert_eq!(runner.bed.held().0, 0);
        }
        let never = AtomicBool::new(false);
        let mut until = Until {
            interrupted: &never,
            at_least: 0,
            at_most: 10_000,
        };
        let done = runner.pass(&mut Untimed, until).ok().unwrap();
        assert!((10_000..10_000 + STRIDE as u64).contains(&done), "{done}");
        assert!(runner.live.iter().all(Option::is_none));
        until.at_most = u64::MAX;
        let done = runner.pass(&mut Untimed, until).ok().unwrap();
        assert_eq!(done, 40_000);
    }

    /// Copies are real and slow: fewer of them, and no pass of them twice.
    #[test]
    fn a_mode_that_copies_is_timed_for_a_gibibyte() {
        let workload = Cqe {
            requests: 300,
            ..Cqe::DEFAULT
        }
        .generate(1);
        let (clock, never) = (TickClock::calibrate(), AtomicBool::new(false));
        let plan = Plan {
            requests_min: 100_000,
            ..Plan::default()
        };
        let subject = |mode| {
            Subject::new(&workload, mode, &plan, &clock, &never)
                .ok()
                .unwrap()
        };
        let bounce = subject(ModeArg::Bounce);
        assert_eq!((bounce.passes, bounce.untimed_max), (6, 2048));
        let strict = subject(ModeArg::Strict);
        assert_eq!((strict.passes, strict.untimed_max), (334, u64::MAX));
    }
}
