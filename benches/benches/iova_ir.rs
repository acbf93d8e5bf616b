//! Instructions of the IOVA allocator, exact and repeatable. Every function
//! runs `N` rounds; divide by it.

// The macros make modules without documentation.
#![allow(missing_docs)]

mod iova_setup;

use std::{collections::VecDeque, hint::black_box};

use dmabench_iova::{AllocRequest, CachedSizes, IovaDomain, IovaRange};
use dmabench_platform::{Iova, SlotSource, ThreadSlots};
use iai_callgrind::{library_benchmark, library_benchmark_group, main};
use iova_setup::{Population, Sizes, alloc, domain, free};

const N: usize = 1000;

/// A domain whose magazines of one size are loaded.
fn warm(size: u64) -> (IovaDomain, u64) {
    let domain = domain(CachedSizes::Auto);
    {
        let pin = ThreadSlots.pin();
        let mut slot = domain.slots().enter_pinned(&pin).unwrap();
        let ranges: Vec<IovaRange> = (0..1300).map(|_| alloc(&domain, &mut slot, size)).collect();
        ranges
            .into_iter()
            .for_each(|range| free(&domain, &mut slot, range));
    }
    (domain, size)
}

#[library_benchmark]
fn lower_bound_push_pop() -> u64 {
    let mut stack: Vec<u64> = Vec::with_capacity(8);
    let mut sum = 0;
    for i in 0..N as u64 {
        black_box(&mut stack).push(i);
        sum += black_box(&mut stack).pop().unwrap_or(0);
    }
    sum
}

// Pairs inside one section, as a request that maps and unmaps.
#[library_benchmark]
#[bench::page_1(args = (1), setup = warm)]
#[bench::pages_16(args = (16), setup = warm)]
#[bench::pages_512(args = (512), setup = warm)]
fn pair((domain, size): (IovaDomain, u64)) -> IovaDomain {
    let pin = ThreadSlots.pin();
    let mut slot = domain.slots().enter_pinned(&pin).unwrap();
    for _ in 0..N {
        let range = alloc(&domain, &mut slot, black_box(size));
        free(&domain, &mut slot, black_box(range));
    }
    drop(slot);
    domain
}

// Each call in a section of its own, as map and unmap have.
#[library_benchmark]
#[bench::page_1(args = (1), setup = warm)]
fn pair_with_sections((domain, size): (IovaDomain, u64)) -> IovaDomain {
    for _ in 0..N {
        let range = {
            let pin = ThreadSlots.pin();
            let mut slot = domain.slots().enter_pinned(&pin).unwrap();
            alloc(&domain, &mut slot, black_box(size))
        };
        let pin = ThreadSlots.pin();
        let mut slot = domain.slots().enter_pinned(&pin).unwrap();
        free(&domain, &mut slot, black_box(range));
    }
    domain
}

// The sections of `pair_with_sections`, without calls.
#[library_benchmark]
#[bench::page_1(args = (1), setup = warm)]
fn sections((domain, _): (IovaDomain, u64)) -> IovaDomain {
    for _ in 0..2 * N {
        let pin = ThreadSlots.pin();
        black_box(&mut domain.slots().enter_pinned(&pin).unwrap());
    }
    domain
}

#[library_benchmark]
#[bench::page_1(args = (1), setup = warm)]
fn burst_of_1000((domain, size): (IovaDomain, u64)) -> IovaDomain {
    let mut held = Vec::with_capacity(N);
    let pin = ThreadSlots.pin();
    let mut slot = domain.slots().enter_pinned(&pin).unwrap();
    for _ in 0..N {
        held.push(alloc(&domain, &mut slot, size));
    }
    for range in held {
        free(&domain, &mut slot, range);
    }
    drop(slot);
    domain
}

#[library_benchmark]
#[bench::page_1(args = (1), setup = warm)]
fn fifo_of_256((domain, size): (IovaDomain, u64)) -> IovaDomain {
    let mut held = VecDeque::with_capacity(257);
    let pin = ThreadSlots.pin();
    let mut slot = domain.slots().enter_pinned(&pin).unwrap();
    for i in 0..N {
        held.push_back(alloc(&domain, &mut slot, size));
        if i >= 256
            && let Some(range) = held.pop_front()
        {
            free(&domain, &mut slot, range);
        }
    }
    for range in held {
        free(&domain, &mut slot, range);
    }
    drop(slot);
    domain
}

fn cold_domain() -> IovaDomain {
    let (domain, _) = warm(16);
    domain
}

// Allocations that magazines cannot serve: every 64th refills.
#[library_benchmark]
#[bench::page_1(setup = cold_domain)]
fn cold_alloc(domain: IovaDomain) -> (IovaDomain, Vec<IovaRange>) {
    let mut held = Vec::with_capacity(N);
    let pin = ThreadSlots.pin();
    let mut slot = domain.slots().enter_pinned(&pin).unwrap();
    for _ in 0..N {
        held.push(alloc(&domain, &mut slot, 1));
    }
    drop(slot);
    (domain, held)
}

fn population(count: usize, sizes: Sizes) -> Population {
    let mut population = Population::new(count, sizes);
    let slots = population.domain.slots().clone();
    let mut slot = slots.enter_fallback();
    for _ in 0..count.min(20_000) {
        population.churn(&mut slot);
    }
    population
}

#[library_benchmark]
#[bench::live_0(args = (0, Sizes::One(64)), setup = population)]
#[bench::live_100k(args = (100_000, Sizes::One(64)), setup = population)]
fn index_lifo_64_pages(population: Population) -> Population {
    let slots = population.domain.slots().clone();
    let mut slot = slots.enter_fallback();
    for _ in 0..N {
        let range = alloc(&population.domain, &mut slot, black_box(64));
        free(&population.domain, &mut slot, black_box(range));
    }
    population
}

#[library_benchmark]
#[bench::one_page_1k(args = (1_000, Sizes::One(1)), setup = population)]
#[bench::one_page_100k(args = (100_000, Sizes::One(1)), setup = population)]
#[bench::one_page_300k(args = (300_000, Sizes::One(1)), setup = population)]
#[bench::pages_64_1k(args = (1_000, Sizes::One(64)), setup = population)]
#[bench::pages_64_100k(args = (100_000, Sizes::One(64)), setup = population)]
#[bench::pages_64_300k(args = (300_000, Sizes::One(64)), setup = population)]
#[bench::mixed_1k(args = (1_000, Sizes::Mixed), setup = population)]
#[bench::mixed_100k(args = (100_000, Sizes::Mixed), setup = population)]
fn index_free_random(mut population: Population) -> Population {
    let slots = population.domain.slots().clone();
    let mut slot = slots.enter_fallback();
    for _ in 0..N {
        population.churn(&mut slot);
    }
    population
}

/// A range came and went alone at the end of the space: the remembered path
/// holds four nodes that are wholly free.
fn path_to_leave() -> IovaDomain {
    let domain = domain(CachedSizes::None);
    {
        let mut slot = domain.slots().enter_fallback();
        let range = alloc(&domain, &mut slot, 1);
        free(&domain, &mut slot, range);
    }
    domain
}

// One call: it releases four nodes and needs four others, as its limit is in
// the middle of the space.
#[library_benchmark]
#[bench::page_1(setup = path_to_leave)]
fn index_worst_call(domain: IovaDomain) -> (IovaDomain, IovaRange) {
    let request = AllocRequest::below(Iova((1 << 46) - 0x3001));
    let range = {
        let mut slot = domain.slots().enter_fallback();
        domain.alloc(&mut slot, 1, &request).unwrap()
    };
    assert_eq!(range.last(), request.limit);
    (domain, range)
}

library_benchmark_group!(
    name = caches;
    benchmarks = lower_bound_push_pop, pair, pair_with_sections, sections, burst_of_1000, fifo_of_256, cold_alloc
);
library_benchmark_group!(name = index; benchmarks = index_lifo_64_pages, index_free_random, index_worst_call);

main!(library_benchmark_groups = caches, index);
