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

/// Latencies of one kind of call, in ticks.
#[derive(Debug)]
pub(super) struct Latencies {
    batch: Vec<u64>,
    histogram: Histogram<u64>,
    max: u64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        let mut histogram =
            Histogram::new(DIGITS).expect("3 digits are allowed: the range is 0 to 5");
        histogram.auto(true);
        Latencies {
            batch: Vec::with_capacity(BATCH),
            histogram,
            max: 0,
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
            self.max = self.max.max(ticks);
            // With automatic resizing every value has a place, unless the
            // memory for it is missing; then the largest one has to do.
            if self.histogram.record(ticks).is_err() {
                self.histogram.saturating_record(ticks);
            }
        }
    }

    /// The figures and the curve, in nanoseconds.
    pub(super) fn finish(mut self, clock: &TickClock) -> (LatencyNs, Vec<CurvePoint>) {
        self.sort_in();
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
}
