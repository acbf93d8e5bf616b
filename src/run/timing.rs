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

/// What the timing run found.
pub(super) struct Timing {
    pub(super) passes: u64,
    pub(super) map: (LatencyNs, Vec<CurvePoint>),
    pub(super) unmap: (LatencyNs, Vec<CurvePoint>),
    /// Of the batches of passes.
    pub(super) cpu_ns_per_request: Spread,
    /// Of all passes with latencies together.
    pub(super) counts: BackendCounts,
}

/// Runs `workload` in `mode`; `None` if interrupted.
pub(super) fn run(
    workload: &Workload,
    mode: ModeArg,
    plan: &Plan,
    clock: &TickClock,
    interrupted: &AtomicBool,
) -> Result<Option<Timing>, RunError> {
    let bed = Bed::counting(workload, mode, plan)?;
    let mut runner = Runner::new(workload, &bed);
    let requests = workload.requests().len() as u64;
    let passes = plan.requests_min.div_ceil(requests).max(1);
    let stop = || interrupted.load(Ordering::Relaxed);

    // Tables, caches and the queue as they are in the middle of a run.
    runner.pass(&mut Untimed)?;
    let before = bed.counts();
    let mut timed = Timed {
        clock,
        begun: 0,
        map: Latencies::new(),
        unmap: Latencies::new(),
    };
    for _ in 0..passes {
        if stop() {
            return Ok(None);
        }
        runner.pass(&mut timed)?;
    }
    let counts = bed.counts() - before;

    let batch = CPU_BATCH.div_ceil(requests);
    let mut cpu: Vec<f64> = Vec::new();
    for _ in 0..passes.div_ceil(batch) {
        if stop() {
            return Ok(None);
        }
        let begun = thread_cpu_ns();
        for _ in 0..batch {
            runner.pass(&mut Untimed)?;
        }
        let spent = thread_cpu_ns() - begun;
        cpu.push(spent as f64 / (batch * requests) as f64);
    }
    bed.drain()?;
    Ok(Some(Timing {
        passes,
        map: timed.map.finish(clock),
        unmap: timed.unmap.finish(clock),
        cpu_ns_per_request: spread(cpu),
        counts,
    }))
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

impl Watch for Timed<'_> {
    #[inline(always)]
    fn begin(&mut self) {
        self.begun = self.clock.now();
    }
    #[inline(always)]
    fn end_map(&mut self) {
        let now = self.clock.now();
        self.map.push(now - self.begun);
    }
    #[inline(always)]
    fn end_unmap(&mut self) {
        let now = self.clock.now();
        self.unmap.push(now - self.begun);
    }
}

struct Runner<'a> {
    workload: &'a Workload,
    bed: &'a Bed<CountingBackend>,
    live: Vec<Option<Mapping>>,
    /// What the driver would tell the device.
    out: Vec<DmaSegment>,
}

impl<'a> Runner<'a> {
    fn new(workload: &'a Workload, bed: &'a Bed<CountingBackend>) -> Self {
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
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
