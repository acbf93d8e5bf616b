//! What the threads do.

use std::{
    hint::{black_box, spin_loop},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender},
    },
    time::Duration,
};

use dmabench_dma::{DmaSegment, Mapping};
use dmabench_flushq::CountingBackend;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{
    Play,
    collect::{Done, Handover, Recorder},
    gate::Gate,
};
use crate::{
    run::{RunError, bed::Bed, clock::TickClock},
    workload::{Step, Workload},
};

/// Waits above this give the processor to others meanwhile.
const SPIN_NS: u64 = 20_000;

/// What a thread does once it may start.
pub(super) type Work<'a> = Box<dyn FnOnce() -> Result<Done, RunError> + Send + 'a>;

/// What the threads share.
pub(super) struct Shared<'a> {
    play: &'a Play<'a>,
    bed: &'a Bed<CountingBackend>,
    clock: &'a TickClock,
    hold_ticks: u64,
    pub(super) gate: Gate,
    pub(super) stop: AtomicBool,
    tallies: Sender<Handover>,
}

/// A mapping, and when it was made.
pub(super) struct Live {
    mapping: Mapping,
    since: u64,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        play: &'a Play<'a>,
        bed: &'a Bed<CountingBackend>,
        clock: &'a TickClock,
        tallies: Sender<Handover>,
    ) -> Self {
        Shared {
            play,
            bed,
            clock,
            hold_ticks: (play.hold_ns as f64 / clock.ns(1.0)).ceil() as u64,
            gate: Gate::default(),
            stop: AtomicBool::new(false),
            tallies,
        }
    }
}

impl Shared<'_> {
    /// A thread's life: bound, started with all others; if it cannot go on it
    /// stops the others.
    pub(super) fn thread(&self, work: Work<'_>) -> Result<Done, RunError> {
        let bound = self.bind();
        if bound.is_err() {
            // The others wait for this one.
            self.stop.store(true, Ordering::Relaxed);
            self.gate.pass();
        }
        let done = bound.and_then(|()| work());
        if done.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        done
    }

    fn bind(&self) -> Result<(), RunError> {
        let Some(cpus) = &self.play.cpus else {
            return Ok(());
        };
        let mut set = CpuSet::new();
        for &cpu in cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU) {
            set.set(cpu);
        }
        sched_setaffinity(None, &set).map_err(|error| {
            RunError::refused(format_args!(
                "threads cannot be bound to the processors {cpus:?}: {error}"
            ))
        })
    }

    fn stopped(&self, mapped: u64) -> bool {
        mapped >= self.play.stop.requests || self.stop.load(Ordering::Relaxed)
    }

    /// Waits until the transfer of a mapping is over.
    #[inline]
    fn transfer(&self, since: u64) {
        if self.hold_ticks == 0 {
            return;
        }
        let until = since.saturating_add(self.hold_ticks);
        while self.clock.now() < until {
            if self.play.hold_ns > SPIN_NS {
                std::thread::yield_now();
            } else {
                spin_loop();
            }
        }
    }

    fn map(
        &self,
        stream: &Workload,
        number: u32,
        out: &mut [DmaSegment],
        recorder: &mut Recorder<'_>,
    ) -> Result<Live, RunError> {
        let request = &stream.requests()[number as usize];
        let segments = stream.segments(request);
        let begin = self.clock.now();
        let mapping = self.bed.map(request, segments, out);
        let end = self.clock.now();
        recorder.map(begin, end);
        Ok(Live {
            mapping: mapping?,
            since: end,
        })
    }

    fn unmap(&self, live: Live, recorder: &mut Recorder<'_>) -> Result<(), RunError> {
        self.transfer(live.since);
        let begin = self.clock.now();
        let unmapped = self.bed.unmap(0, black_box(live.mapping));
        let end = self.clock.now();
        recorder.unmap(begin, end);
        unmapped
    }

    /// Waits for the common start; `None` if there is none.
    fn start(&self, stream: usize) -> Option<Recorder<'_>> {
        let begun = self.gate.pass()?;
        let ticks = |span: Duration| span.as_nanos() as f64 / self.clock.ns(1.0);
        let length = self.play.interval.map_or(u64::MAX, |i| ticks(i) as u64);
        Some(Recorder::new(&self.tallies, stream, begun, length))
    }

    /// One thread for the whole stream.
    pub(super) fn alone(&self, number: usize, stream: &Workload) -> Result<Done, RunError> {
        self.play(number, stream, |mapped, recorder| {
            self.unmap(mapped, recorder).map(|()| true)
        })
    }

    /// The first thread of a pair: what is to be unmapped it gives away.
    pub(super) fn mapper(
        &self,
        number: usize,
        stream: &Workload,
        give: SyncSender<Live>,
    ) -> Result<Done, RunError> {
        // The other thread is gone only if it could not go on; then this one
        // ends too, and the error is the other's.
        self.play(number, stream, |mapped, _| Ok(give.send(mapped).is_ok()))
    }

    /// Maps the stream again and again, until it is to stop. `done` gets what is to
    /// be unmapped, and says whether to go on.
    #[inline]
    fn play(
        &self,
        number: usize,
        stream: &Workload,
        mut done: impl FnMut(Live, &mut Recorder<'_>) -> Result<bool, RunError>,
    ) -> Result<Done, RunError> {
        let Some(mut recorder) = self.start(number) else {
            return Ok(Done::default());
        };
        let mut live: Vec<Option<Live>> = (0..stream.live_max).map(|_| None).collect();
        let mut out = vec![DmaSegment::EMPTY; stream.segments_max()];
        'passes: while !stream.steps().is_empty() {
            for step in stream.steps() {
                match *step {
                    Step::Map(request) => {
                        if self.stopped(recorder.mapped) {
                            break 'passes;
                        }
                        let place = stream.requests()[request as usize].place as usize;
                        live[place] = Some(self.map(stream, request, &mut out, &mut recorder)?);
                    }
                    Step::Unmap(request) => {
                        let place = stream.requests()[request as usize].place as usize;
                        if let Some(mapped) = live[place].take()
                            && !done(mapped, &mut recorder)?
                        {
                            break 'passes;
                        }
                    }
                }
            }
        }
        for mapped in live.into_iter().flatten() {
            if !done(mapped, &mut recorder)? {
                break;
            }
        }
        Ok(recorder.finish(self.clock))
    }

    /// The second thread of a pair: ends when the first has ended and all is
    /// unmapped.
    pub(super) fn unmapper(&self, number: usize, take: Receiver<Live>) -> Result<Done, RunError> {
        let Some(mut recorder) = self.start(number) else {
            return Ok(Done::default());
        };
        for mapped in take {
            self.unmap(mapped, &mut recorder)?;
        }
        Ok(recorder.finish(self.clock))
    }
}
