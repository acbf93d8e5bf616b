//! What the device can still reach after an unmap: one pass against the
//! software SMMU, on a virtual clock.
//!
//! The device uses every page of a request when it is mapped and again after
//! each flush, so that the SMMU remembers every translation. Each request takes
//! the service time of a stated storage device; then it is unmapped and the
//! device goes on to use its old addresses: `watch.rs` says when. The clock
//! stops at the flush queue's deadlines. The drain at the end does not count.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dmabench_dma::DmaSegment;
use dmabench_flushq::CostModel;
use dmabench_platform::{Clock, Iova, TimeNs, VirtualClock};
use dmabench_smmu::soft::{Access, SimMemory, SoftSmmu};

use super::{
    GRANULE, RunError,
    bed::{self, Bed},
    copies,
    disciplines::{Batched, ParkedBuffers, Pipelined},
    ground::Ground,
    plan::Plan,
    registered,
    watch::{Mapped, Seen, Watch, Watched},
};
use crate::{
    cli::ModeArg,
    report::{Exposure, TimelinePoint},
    workload::{Direction, Step, Workload},
};

/// Points of the timeline that are kept for the plot.
const TIMELINE_POINTS: usize = 250;

/// The backend of an exposure run.
pub(super) type Backend = Arc<CostModel<Watched<Arc<SoftSmmu>>>>;

/// Requests after which an exposure run stops mapping: a workload of a million
/// would else take minutes in nine modes. The same in every mode, and the report
/// says so.
const REQUESTS_MAX: u64 = 200_000;

/// Pages mapped after which it stops: the same for large requests.
const PAGES_MAX: u64 = 4_000_000;

/// Steps between two looks at whether the user wants to end.
const STRIDE: usize = 256;

/// What the exposure run found.
#[derive(Debug, Default)]
pub(super) struct Exposed {
    /// `None` in passthrough, where nothing is translated.
    pub(super) exposure: Option<Exposure>,
    pub(super) stale_accesses: u64,
    pub(super) stale_window_max_ns: u64,
    pub(super) iova_pages_held_max: u64,
    pub(super) page_table_bytes: u64,
    /// Requests that were run, where that is not all of them.
    pub(super) cut_after: Option<u64>,
    /// What a reader of the result should know.
    pub(super) notes: Vec<String>,
}

/// What a bed for exposure runs consists of besides the domains.
pub(super) struct Lab {
    pub(super) clock: Arc<VirtualClock>,
    pub(super) smmu: Arc<SoftSmmu>,
    pub(super) watch: Arc<Watch>,
}

/// Runs one pass of `workload` in `mode`, or its beginning if it is long or
/// `interrupted` is set.
pub(super) fn run(
    workload: &Workload,
    mode: ModeArg,
    plan: &Plan,
    interrupted: &AtomicBool,
) -> Result<Exposed, RunError> {
    let limit = requests_of(workload, REQUESTS_MAX, PAGES_MAX);
    match mode {
        ModeArg::Passthrough => Ok(Exposed::default()),
        ModeArg::Premapped => registered::exposed(workload, plan),
        ModeArg::Bounce => {
            let (bed, lab) = copies::simulated(workload, plan)?;
            let mut exposed = run_on(&bed, &lab, workload, mode, plan, limit, interrupted)?;
            exposed.notes.push(bed.note());
            Ok(exposed)
        }
        _ => {
            let (bed, lab) = Bed::simulated(workload, mode, plan)?;
            on_bed(bed, &lab, workload, mode, plan, limit, interrupted)
        }
    }
}

/// [`run_on`] a bed, with the discipline of `mode`.
fn on_bed(
    bed: Bed<Backend, Arc<SimMemory>>,
    lab: &Lab,
    workload: &Workload,
    mode: ModeArg,
    plan: &Plan,
    limit: u64,
    interrupted: &AtomicBool,
) -> Result<Exposed, RunError> {
    match mode {
        ModeArg::StrictBatched => {
            let bed = Batched::new(bed, workload);
            run_on(&bed, lab, workload, mode, plan, limit, interrupted)
        }
        ModeArg::StrictPipelined => {
            let bed = Pipelined::new(bed);
            run_on(&bed, lab, workload, mode, plan, limit, interrupted)
        }
        ModeArg::LazyParked => {
            let bed = ParkedBuffers::new(bed);
            run_on(&bed, lab, workload, mode, plan, limit, interrupted)
        }
        _ => run_on(&bed, lab, workload, mode, plan, limit, interrupted),
    }
}

/// How many of the first requests are within the limits.
fn requests_of(workload: &Workload, requests_max: u64, pages_max: u64) -> u64 {
    let mut pages = 0_u64;
    let within = (workload.requests().iter()).take_while(|request| {
        pages = pages.saturating_add(request.bytes.div_ceil(GRANULE.bytes()));
        pages <= pages_max
    });
    (within.count() as u64).clamp(1, requests_max)
}

fn run_on<'a, G: Ground<'a>>(
    bed: &'a G,
    lab: &'a Lab,
    workload: &'a Workload,
    mode: ModeArg,
    plan: &'a Plan,
    requests_max: u64,
    interrupted: &AtomicBool,
) -> Result<Exposed, RunError> {
    let mut run = Run {
        workload,
        mode,
        plan,
        bed,
        lab,
        live: (0..workload.live_max).map(|_| None).collect(),
        out: vec![DmaSegment::EMPTY; workload.segments_max()],
        mapped_pages: 0,
        held_max: 0,
        table_bytes_max: 0,
        flushes_timer: 0,
        timeline: Vec::new(),
        leaving: HashMap::new(),
        back: Vec::new(),
    };
    let mut mapped = 0;
    let mut limit = requests_max;
    let mut first = 0;
    for steps in workload.steps().chunks(STRIDE) {
        // What is mapped by then goes its way to the end.
        if interrupted.load(Ordering::Relaxed) {
            limit = mapped;
        }
        for (at, step) in steps.iter().enumerate() {
            match *step {
                Step::Map(request) if mapped < limit => {
                    mapped += 1;
                    run.idle(workload.idle_ns(request))?;
                    run.map(request)?;
                }
                Step::Map(_) => {}
                // Of a request that was not mapped: nothing to do.
                Step::Unmap(request) => {
                    let more = G::BATCHES && workload.more_done(first + at);
                    run.unmap(request, more)?;
                }
            }
        }
        first += steps.len();
        if mapped == limit && run.mapped_pages == 0 {
            break;
        }
    }
    run.settle()?;
    let cut_after = (mapped < workload.requests().len() as u64).then_some(mapped);
    let mut exposed = run.finish()?;
    exposed.cut_after = cut_after;
    if let Some(exposure) = &mut exposed.exposure {
        exposure.requests = mapped;
    }
    Ok(exposed)
}

struct Run<'a, G: Ground<'a>> {
    workload: &'a Workload,
    mode: ModeArg,
    plan: &'a Plan,
    bed: &'a G,
    lab: &'a Lab,
    live: Vec<Option<G::Live>>,
    out: Vec<DmaSegment>,
    mapped_pages: u64,
    held_max: u64,
    table_bytes_max: u64,
    flushes_timer: u64,
    timeline: Vec<TimelinePoint>,
    /// Requests the device is done with whose buffers are not given back yet.
    leaving: HashMap<u32, Leaving>,
    /// Requests that were given back a moment ago.
    back: Vec<u32>,
}

struct Leaving {
    device: u16,
    /// Its I/O pages.
    range: Option<(Iova, u64)>,
    buffer: Option<Mapped>,
}

impl<'a, G: Ground<'a>> Run<'a, G> {
    fn map(&mut self, number: u32) -> Result<(), RunError> {
        let request = &self.workload.requests()[number as usize];
        let segments = self.workload.segments(request);
        self.bed.before_map(number, &mut |n| self.back.push(n))?;
        self.give_back();
        let mapping = self.bed.map(request, segments, &mut self.out)?;
        let (iova, len_bytes) = G::range(&mapping)
            .ok_or_else(|| RunError::Defect("a mapping without I/O pages".to_owned()))?;
        let place = request.place as usize;
        self.lab.watch.mapped(
            place,
            Mapped {
                device: usize::from(request.device),
                iova,
                len_bytes,
                accesses: accesses(request.direction),
            },
        );
        self.mapped_pages += len_bytes >> GRANULE.lg2();
        self.live[place] = Some(mapping);
        self.note();
        Ok(())
    }

    /// Nothing happens for so long but what the clock brings.
    fn idle(&mut self, ns: u64) -> Result<(), RunError> {
        if ns == 0 {
            return Ok(());
        }
        // Nothing is under way, so nothing is worth waiting for.
        self.settle()?;
        self.advance_to(self.lab.clock.now().saturating_add_ns(ns))
    }

    fn unmap(&mut self, number: u32, more: bool) -> Result<(), RunError> {
        let request = &self.workload.requests()[number as usize];
        let place = request.place as usize;
        let Some(mapping) = self.live[place].take() else {
            return Ok(());
        };
        // The transfer; then the driver unmaps.
        let served =
            (self.lab.clock.now()).saturating_add_ns(self.plan.device.service_ns(request.bytes));
        self.advance_to(served)?;
        let range = G::range(&mapping);
        if let Some((_, len_bytes)) = range {
            self.mapped_pages -= len_bytes >> GRANULE.lg2();
        }
        self.lab.watch.leaves(place);
        let back = &mut self.back;
        (self.bed).done(number, request.device, mapping, more, &mut |n| back.push(n))?;
        // Until here the device used it: a flush that made room found it so.
        let leaving = Leaving {
            device: request.device,
            range,
            buffer: self.lab.watch.take(place),
        };
        self.leaving.insert(number, leaving);
        self.give_back();
        // An entry gets its time from the first poll that sees it.
        self.advance_to(self.lab.clock.now())?;
        self.note();
        Ok(())
    }

    /// The buffers of `back` are their owners' again.
    fn give_back(&mut self) {
        for number in self.back.drain(..) {
            let Some(leaving) = self.leaving.remove(&number) else {
                continue;
            };
            if let Some((iova, len_bytes)) = leaving.range
                && self.mode.takes_away()
            {
                let context = bed::context(leaving.device);
                self.lab.smmu.declare_gone(&context, iova, len_bytes);
            }
            if let Some(buffer) = leaving.buffer {
                self.lab.watch.given_back(buffer);
            }
        }
    }

    /// What was left for later is done.
    fn settle(&mut self) -> Result<(), RunError> {
        self.bed.settle(&mut |n| self.back.push(n))?;
        self.give_back();
        Ok(())
    }

    /// Moves the clock on to `to`, with a stop at every deadline on the way.
    fn advance_to(&mut self, to: TimeNs) -> Result<(), RunError> {
        while let Some(deadline) = self.bed.next_deadline().filter(|d| *d <= to) {
            self.lab.clock.advance_to(deadline);
            let (before, _) = self.lab.watch.so_far();
            let now = self.lab.clock.now();
            self.bed.poll(now)?;
            self.bed.came_back(&mut |n| self.back.push(n));
            self.give_back();
            let flushed = self.lab.watch.so_far().0 - before;
            self.flushes_timer += flushed;
            self.note();
            let moved = self.bed.next_deadline().is_none_or(|next| next > deadline);
            if flushed == 0 && !moved {
                return Err(RunError::Defect(format!(
                    "the flush queue's deadline of {} ns passed without a flush",
                    deadline.0
                )));
            }
        }
        self.lab.clock.advance_to(to);
        Ok(())
    }

    /// Takes the figures that have a maximum.
    fn note(&mut self) {
        let (held, table_bytes) = self.bed.held();
        self.held_max = self.held_max.max(held);
        self.table_bytes_max = self.table_bytes_max.max(table_bytes);
        self.timeline.push(TimelinePoint {
            at_ns: self.lab.clock.now().0,
            mapped_pages: self.mapped_pages,
            waiting_pages: held.saturating_sub(self.mapped_pages),
        });
        if self.timeline.len() >= 2 * TIMELINE_POINTS {
            thin(&mut self.timeline);
        }
    }

    fn finish(self) -> Result<Exposed, RunError> {
        let virtual_ns = self.lab.clock.now().0;
        let seen = self.lab.watch.finish();
        self.bed.drain()?;
        if seen.denied > 0 {
            return Err(RunError::Defect(format!(
                "the device could not use {} pages while they were mapped",
                seen.denied
            )));
        }
        let violations = self.lab.smmu.violations();
        if let Some(first) = violations.first() {
            return Err(RunError::Defect(first.to_string()));
        }
        let Seen {
            stale_accesses,
            stale_window_max_ns,
            mut windows_ns,
            ..
        } = seen;
        windows_ns.sort_unstable();
        let mut timeline = self.timeline;
        while timeline.len() > TIMELINE_POINTS {
            thin(&mut timeline);
        }
        Ok(Exposed {
            exposure: Some(Exposure {
                requests: 0,
                device_accesses: seen.device_accesses,
                probes: seen.probes,
                stale_buffers: seen.stale_buffers,
                stale_buffers_max: seen.stale_buffers_max,
                stale_bytes_max: seen.stale_bytes_max,
                stale_window_p50_ns: (windows_ns.get(windows_ns.len() / 2)).map_or(0, |ns| *ns),
                stale_window_bound_ns: self.plan.stale_bound_ns(self.mode),
                violations: 0,
                flushes_ring_full: seen.flushes - self.flushes_timer,
                flushes_timer: self.flushes_timer,
                sync_commands: seen.syncs,
                live_pages_invalidated: Some(seen.live_pages_invalidated),
                virtual_ns,
                timeline,
            }),
            stale_accesses,
            stale_window_max_ns,
            iova_pages_held_max: self.held_max,
            page_table_bytes: self.table_bytes_max,
            cut_after: None,
            notes: Vec::new(),
        })
    }
}

/// What a device does with a buffer of that direction.
fn accesses(direction: Direction) -> &'static [Access] {
    match direction {
        Direction::ToDevice => &[Access::Read],
        Direction::FromDevice => &[Access::Write],
        Direction::Bidirectional => &[Access::Write, Access::Read],
    }
}

/// Of each two neighbours keeps the one with more pages, so that peaks stay;
/// and the last point.
fn thin(timeline: &mut Vec<TimelinePoint>) {
    let Some(last) = timeline.pop() else {
        return;
    };
    let kept = |pair: &[TimelinePoint]| {
        let held = |p: &&TimelinePoint| p.mapped_pages + p.waiting_pages;
        pair.iter().max_by_key(held).copied()
    };
    *timeline = timeline.chunks(2).filter_map(kept).collect();
    timeline.push(last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::generate::{DdSeq, Generator};
    use dmabench_smmu::soft::Command;

    fn small() -> Workload {
        DdSeq {
            pages: 4,
            requests: 600,
            depth: 2,
        }
        .generate(3)
    }

    /// Runs with an SMMU that loses the command of that number.
    fn losing(mode: ModeArg, lost: u32) -> Result<Exposed, RunError> {
        let (plan, workload) = (Plan::default(), small());
        let (bed, lab) = Bed::simulated(&workload, mode, &plan)?;
        let mut number = 0;
        lab.smmu.set_tamper(Some(Box::new(move |command| {
            if matches!(command, Command::Sync(_)) {
                return Some(command);
            }
            number += 1;
            (number != lost).then_some(command)
        })));
        let never = AtomicBool::new(false);
        run_on(&bed, &lab, &workload, mode, &plan, u64::MAX, &never)
    }

    #[test]
    fn one_lost_invalidation_is_seen_in_every_mode() {
        for mode in [ModeArg::Strict, ModeArg::Lazy] {
            let whole = losing(mode, u32::MAX).unwrap();
            assert_eq!(whole.exposure.unwrap().violations, 0);
            let seen = losing(mode, 2);
            assert!(matches!(seen, Err(RunError::Defect(_))), "{mode}: {seen:?}");
        }
    }

    #[test]
    fn a_long_run_is_cut_and_says_so() {
        let (plan, workload) = (Plan::default(), small());
        let (bed, lab) = Bed::simulated(&workload, ModeArg::Lazy, &plan).unwrap();
        let limit = requests_of(&workload, 1000, 400);
        assert_eq!(limit, 100, "4 pages each");
        assert_eq!(requests_of(&workload, 70, 400), 70);
        let never = AtomicBool::new(false);
        let cut = run_on(&bed, &lab, &workload, ModeArg::Lazy, &plan, limit, &never).unwrap();
        let requests = cut.cut_after.unwrap();
        assert_eq!(requests, 100);
        let exposure = cut.exposure.unwrap();
        assert_eq!(exposure.stale_buffers, requests);
        assert_eq!(exposure.timeline.last().unwrap().mapped_pages, 0);
    }

    #[test]
    fn an_interrupted_run_ends_with_nothing_mapped() {
        let (plan, workload) = (Plan::default(), small());
        let now = AtomicBool::new(true);
        let cut = run(&workload, ModeArg::Strict, &plan, &now).unwrap();
        assert_eq!(cut.cut_after, Some(0));
        assert_eq!(cut.exposure.unwrap().requests, 0);
    }

    #[test]
    fn the_timeline_keeps_its_shape_when_thinned() {
        let never = AtomicBool::new(false);
        let exposed = run(&small(), ModeArg::Lazy, &Plan::default(), &never).unwrap();
        let exposure = exposed.exposure.unwrap();
        let timeline = &exposure.timeline;
        assert!(timeline.len() <= TIMELINE_POINTS && timeline.len() > TIMELINE_POINTS / 4);
        assert!(timeline.is_sorted_by_key(|p| p.at_ns));
        let last = timeline.last().unwrap();
        assert_eq!((last.at_ns, last.mapped_pages), (exposure.virtual_ns, 0));
        assert!(timeline.iter().any(|p| p.waiting_pages > 0));
        let held = timeline.iter().map(|p| p.mapped_pages + p.waiting_pages);
        assert!(held.max().unwrap() <= exposed.iova_pages_held_max);
    }
}
