//! Whole path, wall clock: map and unmap through the public API, strict and
//! lazy, 4 KiB, 64 KiB, 512 KiB and lists of single pages; nanoseconds are per 1024
//! pairs. The lower bound beside each is the stores into the table.

#[path = "whole_path_fixture/mod.rs"]
mod fixture;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dmabench_dma::Mode;
use fixture::{Bench, PAIRS, Stores};

fn whole_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole_path");
    group.throughput(Throughput::Elements(PAIRS));
    for (name, pages) in [("4K", 1), ("64K", 16), ("512K", 128)] {
        for mode in [Mode::Strict, Mode::lazy()] {
            group.bench_function(format!("{}/{name}", mode.name()), |bencher| {
                let mut bench = Bench::new(mode, pages);
                let mut pairs = 0;
                bencher.iter(|| {
                    bench.pairs();
                    pairs += PAIRS;
                });
                bench.check(pairs);
            });
        }
        group.bench_function(format!("lower-bound/{name}"), |bencher| {
            let mut stores = Stores::new(pages);
            bencher.iter(|| stores.pairs());
            stores.check();
        });
    }
    for segments in [1, 32, 128] {
        for mode in [Mode::Strict, Mode::lazy()] {
            group.bench_function(format!("{}/sg-{segments}x4K", mode.name()), |bencher| {
                let mut bench = Bench::new(mode, segments);
                let mut pairs = 0;
                bencher.iter(|| {
                    bench.sg_pairs();
                    pairs += PAIRS;
                });
                bench.check(pairs);
            });
        }
    }
    // The bounds are those of as many pages in one buffer, but for this one.
    group.bench_function("lower-bound/sg-32x4K", |bencher| {
        let mut stores = Stores::new(32);
        bencher.iter(|| stores.pairs());
        stores.check();
    });
    group.finish();
}

criterion_group!(benches, whole_path);
criterion_main!(benches);
