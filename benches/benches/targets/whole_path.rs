//! The whole path's rows: `dma`'s public API on the counting backend.

use std::{sync::Barrier, time::Instant};

use dmabench_dma::Mode;
use dmabench_platform::PhysAddr;

use super::{Compare, Ratio, Row, timed};
use crate::fixture::{self, Bench, PAGE, PAIRS};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (mode_name, mode, targets) in [
        ("strict", Mode::Strict, [14.0, 22.0, 70.0]),
        ("lazy", Mode::lazy(), [18.0, 27.0, 80.0]),
    ] {
        for ((size, pages), target) in [("4K", 1), ("64K", 16), ("512K", 128)]
            .into_iter()
            .zip(targets)
        {
            let name = format!("whole path: {mode_name} {size}");
            rows.push(row(name, mode, pages, Bench::pairs).target(target));
        }
    }
    for (mode_name, mode) in [("strict", Mode::Strict), ("lazy", Mode::lazy())] {
        for segments in [1, 32, 128] {
            let name = format!("whole path: {mode_name}, list of {segments} x 4K");
            rows.push(row(name, mode, segments, Bench::sg_pairs));
        }
    }
    rows
}

fn row(name: String, mode: Mode, pages: u64, pairs: fn(&mut Bench)) -> Row {
    let row = Row::timed_inside(name, pages as usize, move || {
        let mut bench = Bench::new(mode, pages);
        let mut done = 0;
        move |rounds| {
            let took = timed(|| {
                for _ in 0..rounds {
                    pairs(&mut bench);
                    done += PAIRS;
                }
            });
            bench.check(done);
            took
        }
    });
    row.units(PAIRS as f64)
}

/// Pairs of one page each by so many threads on one domain; nanoseconds per pair,
/// of the slower thread's median batch (the shortest might be one that ran while
/// the other thread did not).
fn on(mode: Mode, threads: u64) -> f64 {
    let bench = Bench::new(mode, 1);
    let barrier = Barrier::new(threads as usize);
    let (bench, barrier) = (&bench, &barrier);
    let one = move |thread: u64| {
        let mut buffer = bench.buffer;
        buffer.phys = PhysAddr(buffer.phys.0 + thread * PAGE);
        barrier.wait();
        let mut times: Vec<_> = (0..400)
            .map(|_| {
                let begun = Instant::now();
                for _ in 0..PAIRS {
                    let mapping = fixture::map(&bench.domain, &bench.device, buffer).unwrap();
                    fixture::unmap(&bench.domain, mapping).unwrap();
                }
                begun.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2].as_nanos() as f64 / PAIRS as f64
    };
    let slowest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || one(thread)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .fold(0.0, f64::max)
    });
    assert_eq!(bench.domain.stats().live_mappings, 0);
    slowest
}

pub(super) const STRICT: Ratio = Ratio {
    name: "whole path: strict 4K on two threads",
    target: 1.15,
    compare: Compare::Times,
    run: || (on(Mode::Strict, 1), on(Mode::Strict, 2)),
};

pub(super) const LAZY: Ratio = Ratio {
    name: "whole path: lazy 4K on two threads",
    target: 1.6,
    compare: Compare::Times,
    run: || (on(Mode::lazy(), 1), on(Mode::lazy(), 2)),
};
