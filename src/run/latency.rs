//! Latencies of many calls: taken in the loop, sorted into a histogram outside
//! of what is timed.

use hdrhistogram::Histogram;

use super::clock::TickClock;
use crate::report::{CurvePoint, LatencyNs};

/// Samples kept before they are sorted in. Small enough to stay in the cache
/// beside the tables that are measured.
const BATCH: usize = 2048;

/// Three digits: a figure is off by at most 0.1 %.
const DIGITS: u8 = 3;

/// Where the percentile curves have their points.
const CURVE: [f64; 20] = [
    0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999,
    0.9995, 0.9999, 1.0,
];

/// How often each latency occurred, in ticks.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    histogram: Histogram<u64>,
    /// Exact, where the histogram has a bucket.
    max: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        let mut histogram =
            Histogram::new(DIGITS).expect("3 digits are allowed: the range is 0 to 5");
        histogram.auto(true);
        Tally { histogram, max: 0 }
    }

    fn record(&mut self, ticks: u64) {
        self.max = self.max.max(ticks);
        self.put(ticks, 1);
    }

    fn put(&mut self, value: u64, count: u64) {
        // With automatic resizing every value has a place, unless the memory
        // for it is missing; then the largest one has to do.
        if self.histogram.record_n(value, count).is_err() {
            self.histogram.saturating_record_n(value, count);
        }
    }

    /// Takes in what another thread or interval found.
    pub(super) fn add(&mut self, other: &Tally) {
        self.max = self.max.max(other.max);
        for value in other.histogram.iter_recorded() {
            self.put(value.value_iterated_to(), value.count_at_value());
        }
    }

    /// Calls.
    pub(super) fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// Standard deviation in nanoseconds; 0 without calls.
    pub(super) fn stdev_ns(&self, clock: &TickClock) -> f64 {
        clock.ns(self.histogram.stdev())
    }

    /// The same in whole nanoseconds: what interval logs hold.
    pub(super) fn in_ns(&self, clock: &TickClock) -> Histogram<u64> {
        let mut in_ns = Tally::new();
        for value in self.histogram.iter_recorded() {
            let ns = clock.ns(value.value_iterated_to() as f64).round() as u64;
            in_ns.put(ns, value.count_at_value());
        }
        in_ns.histogram
    }

    /// The figures and the curve, in nanoseconds; zeros without calls.
    pub(super) fn figures(&self, clock: &TickClock) -> (LatencyNs, Vec<CurvePoint>) {
        let histogram = &self.histogram;
        let max = clock.ns(self.max as f64);
        // A bucket's upper end may lie above the largest value.
        let at = |quantile| {
            clock
                .ns(histogram.value_at_quantile(quantile) as f64)
                .min(max)
        };
        let figures = LatencyNs {
            mean: clock.ns(histogram.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max,
        };
        let curve = (CURVE.iter())
            .map(|&quantile| CurvePoint {
                quantile,
                ns: at(quantile),
            })
            .collect();
        (figures, curve)
    }
}

/// Latencies of one kind of call, in ticks.
#[derive(Debug)]
pub(super) struct Latencies {
    batch: Vec<u64>,
    tally: Tally,
    /// Of intervals that were cut off.
    before: Option<Tally>,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Latencies {
            batch: Vec::with_capacity(BATCH),
            tally: Tally::new(),
            before: None,
        }
    }

    /// Takes one call. The caller does so outside of what it times.
    #[inline]
    pub(super) fn push(&mut self, ticks: u64) {
        if self.batch.len() == BATCH {
            self.sort_in();
        }
        self.batch.push(ticks);
    }

    #[cold]
    fn sort_in(&mut self) {
        for ticks in self.batch.drain(..) {
            self.tally.record(ticks);
        }
    }

    /// What was found since the last call, which starts anew.
    pub(super) fn take(&mut self) -> Tally {
        let mut tally = self.since_cut();
        if let Some(before) = self.before.take() {
            tally.add(&before);
        }
        tally
    }

    /// What was found since the last cut, for a log of intervals. It stays part
    /// of the whole.
    pub(super) fn cut(&mut self) -> Tally {
        let interval = self.since_cut();
        match &mut self.before {
            Some(before) => before.add(&interval),
            None => self.before = Some(interval.clone()),
        }
        interval
    }

    fn since_cut(&mut self) -> Tally {
        self.sort_in();
        std::mem::replace(&mut self.tally, Tally::new())
    }

    /// The figures and the curve, in nanoseconds.
    pub(super) fn finish(mut self, clock: &TickClock) -> (LatencyNs, Vec<CurvePoint>) {
        self.take().figures(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let mut latencies = Latencies::new();
        for ticks in 1..=10_000 {
            latencies.push(ticks);
        }
        latencies.push(u64::MAX / 2);
        let clock = TickClock::calibrate();
        let (figures, curve) = latencies.finish(&clock);
        let near = |shown: f64, ticks: f64| (shown / clock.ns(ticks) - 1.0).abs() < 0.002;
        assert!(near(figures.p50, 5_000.0), "{figures:?}");
        assert!(near(figures.p90, 9_000.0), "{figures:?}");
        assert!(near(figures.p999, 9_990.0), "{figures:?}");
        assert!(near(figures.max, (u64::MAX / 2) as f64), "{figures:?}");
        assert!(curve.is_sorted_by(|a, b| a.quantile < b.quantile && a.ns <= b.ns));
    }

    #[test]
    fn tallies_add_up_and_turn_into_nanoseconds() {
        let clock = TickClock::calibrate();
        let mut latencies = Latencies::new();
        let mut sum = Tally::new();
        for part in 0..3_u64 {
            for ticks in 1..=3_000 {
                latencies.push(ticks + part * 3_000);
            }
            sum.add(&latencies.take());
        }
        assert_eq!((sum.len(), latencies.take().len()), (9_000, 0));
        assert_eq!(sum.max, 9_000);
        let figures = sum.figures(&clock).0;
        let near = |shown: f64, ticks: f64| (shown / clock.ns(ticks) - 1.0).abs() < 0.002;
        assert!(near(figures.p50, 4_500.0), "{figures:?}");
        assert!(near(figures.mean, 4_500.5), "{figures:?}");
        // Of 1 to n it is n / sqrt(12).
        assert!(near(sum.stdev_ns(&clock), 9_000.0 / 12_f64.sqrt()));
        let in_ns = sum.in_ns(&clock);
        assert_eq!(in_ns.len(), 9_000);
        assert!((in_ns.max() as f64 - clock.ns(9_000.0)).abs() <= 2.0 + clock.ns(9.0));
    }

    #[test]
    fn intervals_stay_part_of_the_whole() {
        let mut latencies = Latencies::new();
        let mut cut = 0;
        for interval in 1..=3 {
            for ticks in 0..interval * 1_000 {
                latencies.push(ticks);
            }
            cut += latencies.cut().len();
        }
        latencies.push(77_777);
        assert_eq!(
            (cut, latencies.cut().len(), latencies.cut().len()),
            (6_000, 1, 0)
        );
        let whole = latencies.take();
        assert_eq!((whole.len(), whole.max), (6_001, 77_777));
        assert_eq!(latencies.take().len(), 0);
    }

    #[test]
    fn no_calls_give_zeros() {
        let clock = TickClock::calibrate();
        let (figures, _) = Tally::new().figures(&clock);
        assert_eq!((figures.mean, figures.p999, figures.max), (0.0, 0.0, 0.0));
        assert_eq!(Tally::new().stdev_ns(&clock), 0.0);
    }
}
