//! The SMMUv3 driver on a device that takes no time, instructions: as `smmu`,
//! 1024 pairs each. Divide by 1024.
#![allow(missing_docs, reason = "the macros make public items")]

#[path = "smmu_fixture/mod.rs"]
mod fixture;

use fixture::{Bench, Bound, PAIRS};
use iai_callgrind::{library_benchmark, library_benchmark_group, main};

fn check(bench: Bench) {
    bench.check_exact(PAIRS, 2);
}

fn check_more(bench: Bench) {
    bench.check_exact(PAIRS, 3);
}

fn check_bound(bound: Bound) {
    bound.check(PAIRS);
}

#[library_benchmark(setup = Bench::new, teardown = check)]
#[bench::page(1)]
#[bench::pages_128(128)]
fn invalidate_sync(bench: Bench) -> Bench {
    bench.pairs();
    bench
}

#[library_benchmark(setup = Bench::new, teardown = check)]
#[bench::page(1)]
fn invalidate_then_sync(bench: Bench) -> Bench {
    bench.pairs_apart();
    bench
}

#[library_benchmark(setup = Bench::new, teardown = check_more)]
#[bench::pages_33(33)]
fn two_commands(bench: Bench) -> Bench {
    bench.pairs();
    bench
}

#[library_benchmark(setup = Bound::new, teardown = check_bound)]
#[bench::pair(0)]
fn lower_bound(bound: Bound) -> Bound {
    bound.pairs();
    bound
}

library_benchmark_group!(
    name = smmu;
    benchmarks = invalidate_sync, invalidate_then_sync, two_commands, lower_bound
);
main!(library_benchmark_groups = smmu);
