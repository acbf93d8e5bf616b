//! The SMMUv3 driver on a device that takes no time, wall clock: invalidate one
//! range and sync; nanoseconds are per 1024 pairs. Linux 7.2 takes 65 ns per pair
//! on a like machine, and 743 ns with two threads on one queue.

#[path = "smmu_fixture/mod.rs"]
mod fixture;

use std::{thread, time::Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fixture::{Bench, Bound, PAIRS};

fn smmu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("smmu");
    group.throughput(Throughput::Elements(PAIRS));
    for (name, pages, commands) in [("4K", 1, 2), ("512K", 128, 2), ("33-pages", 33, 3)] {
        group.bench_function(format!("invalidate-sync/{name}"), |bencher| {
            let bench = Bench::new(pages);
            let mut pairs = 0;
            bencher.iter(|| {
                bench.pairs();
                pairs += PAIRS;
            });
            bench.check_exact(pairs, commands);
        });
    }
    group.bench_function("lower-bound", |bencher| {
        let bound = Bound::new(0);
        let mut pairs = 0;
        bencher.iter(|| {
            bound.pairs();
            pairs += PAIRS;
        });
        bound.check(pairs);
    });
    // Two threads, each doing 1024 pairs per iteration: the time of a pair as
    // one thread sees it.
    group.bench_function("invalidate-sync/two-threads", |bencher| {
        bencher.iter_custom(|iterations| {
            let bench = Bench::new(1);
            let start = Instant::now();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..iterations {
                            bench.pairs();
                        }
                    });
                }
            });
            let time = start.elapsed();
            bench.check(2 * PAIRS * iterations);
            time
        });
    });
    group.finish();
}

criterion_group!(benches, smmu);
criterion_main!(benches);
