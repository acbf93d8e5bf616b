//! What each thread measures, and what comes together from all of them.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, Sender},
    time::Duration,
};

use dmabench_flushq::BackendCounts;

use super::{Calls, Fairness, Figures, Interval, Play, Played, StreamFigures};
use crate::run::{
    clock::TickClock,
    latency::{Latencies, Tally},
    timing::thread_cpu_ns,
};

/// What a thread found in one interval.
pub(super) struct Handover {
    stream: usize,
    interval: u64,
    map: Tally,
    unmap: Tally,
}

/// What a thread did.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Requests it unmapped.
    unmapped: u64,
    seconds: f64,
    cpu_ns: u64,
}

/// What one thread measures.
pub(super) struct Recorder<'a> {
    tallies: &'a Sender<Handover>,
    stream: usize,
    begun: u64,
    /// Ticks of an interval, not 0.
    length: u64,
    interval: u64,
    ends: u64,
    map: Latencies,
    unmap: Latencies,
    pub(super) mapped: u64,
    unmapped: u64,
    cpu_before: u64,
}

impl<'a> Recorder<'a> {
    /// For a thread that starts now, of a run that began at `begun`; intervals
    /// last `length` ticks.
    pub(super) fn new(
        tallies: &'a Sender<Handover>,
        stream: usize,
        begun: u64,
        length: u64,
    ) -> Self {
        let length = length.max(1);
        Recorder {
            tallies,
            stream,
            begun,
            length,
            interval: 0,
            ends: begun.saturating_add(length),
            map: Latencies::new(),
            unmap: Latencies::new(),
            mapped: 0,
            unmapped: 0,
            cpu_before: thread_cpu_ns(),
        }
    }
}

impl Recorder<'_> {
    // Counters of two processors may differ by some ticks where a hypervisor
    // made them: a thread that moved then shows 0.
    #[inline]
    pub(super) fn map(&mut self, begin: u64, end: u64) {
        if end >= self.ends {
            self.next_interval(end);
        }
        self.map.push(end.saturating_sub(begin));
        self.mapped += 1;
    }

    #[inline]
    pub(super) fn unmap(&mut self, begin: u64, end: u64) {
        if end >= self.ends {
            self.next_interval(end);
        }
        self.unmap.push(end.saturating_sub(begin));
        self.unmapped += 1;
    }

    #[cold]
    fn next_interval(&mut self, now: u64) {
        self.hand_over();
        self.interval = now.saturating_sub(self.begun) / self.length;
        let next = (self.interval + 1).saturating_mul(self.length);
        self.ends = self.begun.saturating_add(next);
    }

    fn hand_over(&mut self) {
        let (map, unmap) = (self.map.take(), self.unmap.take());
        if map.len() + unmap.len() > 0 {
            // The receiver lives as long as the threads.
            let _ = self.tallies.send(Handover {
                stream: self.stream,
                interval: self.interval,
                map,
                unmap,
            });
        }
    }

    pub(super) fn finish(mut self, clock: &TickClock) -> Done {
        let elapsed = clock.now().saturating_sub(self.begun);
        let cpu_ns = thread_cpu_ns().saturating_sub(self.cpu_before);
        self.hand_over();
        Done {
            unmapped: self.unmapped,
            seconds: clock.ns(elapsed as f64) / 1e9,
            cpu_ns,
        }
    }
}

/// What has come in from the threads.
pub(super) struct Collected {
    interval: Option<Duration>,
    streams: Vec<OneStream>,
    intervals: BTreeMap<u64, (Tally, Tally)>,
    all: (Tally, Tally),
}

struct OneStream {
    map: Tally,
    unmap: Tally,
    unmapped: u64,
    seconds: f64,
    cpu_ns: u64,
}

impl Collected {
    pub(super) fn new(play: &Play<'_>) -> Self {
        let stream = |_| OneStream {
            map: Tally::new(),
            unmap: Tally::new(),
            unmapped: 0,
            seconds: 0.0,
            cpu_ns: 0,
        };
        Collected {
            interval: play.interval,
            streams: play.streams.iter().map(stream).collect(),
            intervals: BTreeMap::new(),
            all: (Tally::new(), Tally::new()),
        }
    }

    pub(super) fn take(&mut self, tallies: &Receiver<Handover>) {
        for found in tallies.try_iter() {
            let stream = &mut self.streams[found.stream];
            stream.map.add(&found.map);
            stream.unmap.add(&found.unmap);
            self.all.0.add(&found.map);
            self.all.1.add(&found.unmap);
            if self.interval.is_some() {
                let empty = || (Tally::new(), Tally::new());
                let sum = self.intervals.entry(found.interval).or_insert_with(empty);
                sum.0.add(&found.map);
                sum.1.add(&found.unmap);
            }
        }
    }

    pub(super) fn done(&mut self, number: usize, done: &Done) {
        let stream = &mut self.streams[number];
        stream.unmapped += done.unmapped;
        stream.seconds = stream.seconds.max(done.seconds);
        stream.cpu_ns += done.cpu_ns;
    }

    pub(super) fn finish(
        self,
        clock: &TickClock,
        counts: BackendCounts,
        interrupted: bool,
    ) -> Played {
        let figures = |tally: &Tally| Figures {
            calls: tally.len(),
            latency: tally.figures(clock).0,
            stdev: tally.stdev_ns(clock),
        };
        let streams: Vec<StreamFigures> = (self.streams.iter())
            .map(|stream| StreamFigures {
                requests: stream.unmapped,
                seconds: stream.seconds,
                cpu_seconds: stream.cpu_ns as f64 / 1e9,
                map: figures(&stream.map),
                unmap: figures(&stream.unmap),
            })
            .collect();
        let seconds = streams.iter().map(|s| s.seconds).fold(0.0, f64::max);
        let rates: Vec<f64> = (streams.iter())
            .map(|s| s.requests as f64 / s.seconds.max(1e-9))
            .collect();
        let length = self.interval.unwrap_or_default();
        let whole = Duration::from_secs_f64(seconds);
        let intervals = (self.intervals.iter())
            .map(|(&number, (map, unmap))| {
                let begin = length.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
                Interval {
                    begin,
                    length: length.min(whole.saturating_sub(begin)),
                    map_ns: map.in_ns(clock),
                    unmap_ns: unmap.in_ns(clock),
                }
            })
            .collect();
        Played {
            fairness: Fairness::of(&rates),
            curves: (self.all.0.figures(clock).1, self.all.1.figures(clock).1),
            calls: Calls {
                map: figures(&self.all.0),
                unmap: figures(&self.all.1),
            },
            streams,
            seconds,
            counts,
            intervals,
            interrupted,
        }
    }
}
