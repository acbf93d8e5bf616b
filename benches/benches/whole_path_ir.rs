//! Whole path, instructions: as `whole_path`, 1024 pairs each. Divide by 1024.
#![allow(missing_docs, reason = "the macros make public items")]

#[path = "whole_path_fixture/mod.rs"]
mod fixture;

use dmabench_dma::Mode;
use dmabench_flushq::QueueConfig;
use fixture::{Bench, PAIRS, Stores};
use iai_callgrind::{library_benchmark, library_benchmark_group, main};

fn strict(pages: u64) -> Bench {
    Bench::new(Mode::Strict, pages)
}

fn lazy(pages: u64) -> Bench {
    Bench::new(Mode::lazy(), pages)
}

fn check(bench: Bench) {
    bench.check(PAIRS);
}

fn check_stores(mut stores: Stores) {
    stores.check();
}

#[library_benchmark(teardown = check)]
#[bench::strict_4k(args = (1), setup = strict)]
#[bench::strict_64k(args = (16), setup = strict)]
#[bench::strict_512k(args = (128), setup = strict)]
#[bench::lazy_4k(args = (1), setup = lazy)]
#[bench::lazy_64k(args = (16), setup = lazy)]
#[bench::lazy_512k(args = (128), setup = lazy)]
fn pairs(mut bench: Bench) -> Bench {
    bench.pairs();
    bench
}

#[library_benchmark(teardown = check)]
#[bench::strict_1(args = (1), setup = strict)]
#[bench::strict_32(args = (32), setup = strict)]
#[bench::strict_128(args = (128), setup = strict)]
#[bench::lazy_1(args = (1), setup = lazy)]
#[bench::lazy_32(args = (32), setup = lazy)]
#[bench::lazy_128(args = (128), setup = lazy)]
fn sg_pairs(mut bench: Bench) -> Bench {
    bench.sg_pairs();
    bench
}

/// One ring for all slots, and so long that the bursts its flushes give back are
/// more than the caches of addresses hold for a slot.
const LONG: QueueConfig = QueueConfig {
    entries_per_slot: 4096,
    ..QueueConfig::SINGLE
};

fn single(pages: u64) -> Bench {
    let mut bench = Bench::new(Mode::LazySingle(LONG), pages);
    bench.long();
    bench
}

fn check_long(bench: Bench) {
    assert_eq!(bench.flushes(), 2, "one while warming up, one in the bench");
}

// 4096 pairs: divide by that.
#[library_benchmark(teardown = check_long)]
#[bench::single_128k(args = (32), setup = single)]
fn long_queue(mut bench: Bench) -> Bench {
    bench.long();
    bench
}

#[library_benchmark(setup = Stores::new, teardown = check_stores)]
#[bench::bound_4k(1)]
#[bench::bound_64k(16)]
#[bench::bound_512k(128)]
#[bench::bound_sg_32(32)]
fn lower_bound(mut stores: Stores) -> Stores {
    stores.pairs();
    stores
}

library_benchmark_group!(name = whole_path; benchmarks = pairs, sg_pairs, long_queue, lower_bound);
main!(library_benchmark_groups = whole_path);
