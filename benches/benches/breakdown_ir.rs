//! What `dmabench breakdown` times, in instructions: each step of a request, the
//! step with those before it, and the whole. 32 requests in flight, 256 in all.
//!
//! `ci/callgrind.py` also holds `whole` against `built_4_invalidation`, which
//! does the same work outside of a domain: the columns of a breakdown add up
//! within what the two differ by.
#![allow(missing_docs, reason = "the macros make public items")]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "a part of the tool, which uses the rest"
)]
#[path = "../../src/breakdown/parts.rs"]
mod parts;

use dmabench_dma::Mode;
use iai_callgrind::{library_benchmark, library_benchmark_group, main};
use parts::{Load, Parts, Step};

const ROUNDS: usize = 8;

fn warm(mode: Mode, bytes: u64) -> Parts {
    let load = Load {
        bytes,
        lists: false,
        mode,
    };
    let mut parts = Parts::new(load).unwrap();
    // A whole number of turns of the ring, so that flushes are counted whole.
    for _ in 0..ROUNDS {
        parts.whole_map().unwrap();
        parts.whole_unmap().unwrap();
        for step in Step::ALL {
            parts.map(step).unwrap();
            parts.unmap(step).unwrap();
        }
    }
    parts
}

fn strict(bytes: u64) -> Parts {
    warm(Mode::Strict, bytes)
}

fn lazy(bytes: u64) -> Parts {
    warm(Mode::lazy(), bytes)
}

fn build(mut parts: Parts, step: Step) -> Parts {
    for _ in 0..ROUNDS {
        parts.map(step).unwrap();
        parts.unmap(step).unwrap();
    }
    parts
}

#[library_benchmark]
#[bench::strict_4k(args = (4 << 10), setup = strict)]
#[bench::strict_128k(args = (128 << 10), setup = strict)]
#[bench::lazy_4k(args = (4 << 10), setup = lazy)]
fn whole(mut parts: Parts) -> Parts {
    for _ in 0..ROUNDS {
        parts.whole_map().unwrap();
        parts.whole_unmap().unwrap();
    }
    parts
}

#[library_benchmark]
#[bench::strict_4k(args = (4 << 10), setup = strict)]
fn built_1_section(parts: Parts) -> Parts {
    build(parts, Step::Section)
}

#[library_benchmark]
#[bench::strict_4k(args = (4 << 10), setup = strict)]
#[bench::strict_128k(args = (128 << 10), setup = strict)]
fn built_2_addresses(parts: Parts) -> Parts {
    build(parts, Step::Addresses)
}

#[library_benchmark]
#[bench::strict_4k(args = (4 << 10), setup = strict)]
#[bench::strict_128k(args = (128 << 10), setup = strict)]
fn built_3_tables(parts: Parts) -> Parts {
    build(parts, Step::Tables)
}

#[library_benchmark]
#[bench::strict_4k(args = (4 << 10), setup = strict)]
#[bench::strict_128k(args = (128 << 10), setup = strict)]
#[bench::lazy_4k(args = (4 << 10), setup = lazy)]
fn built_4_invalidation(parts: Parts) -> Parts {
    build(parts, Step::Invalidation)
}

library_benchmark_group!(
    name = breakdown;
    benchmarks = whole, built_1_section, built_2_addresses, built_3_tables, built_4_invalidation
);
main!(library_benchmark_groups = breakdown);
