//! The IOVA allocator, its lower bounds and crates that do part of its job, in
//! one run. Time per pair of alloc and free, unless a name says otherwise.
//!
//! Compare with the lower bounds of the same run: nanoseconds mean nothing
//! across machines or beside other load.

mod iova_setup;

use std::{
    collections::VecDeque,
    hint::black_box,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use dmabench_iova::{CachedSizes, IovaConfig, IovaDomain, IovaRange, Policy};
use dmabench_platform::{Fences, Granule, Iova, SlotSource, Slots, ThreadSlots};
use iova_setup::{Population, REQUEST, Random, Sizes, alloc, domain, free};

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
        .sample_size(20);
    group
}

thread_local! {
    static STACK: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn lower_bounds(c: &mut Criterion) {
    let mut group = group(c, "iova/lower_bound");
    group.bench_function("thread_local_push_pop", |b| {
        b.iter(|| {
            STACK.with_borrow_mut(|stack| stack.push(black_box(7)));
            STACK.with_borrow_mut(|stack| stack.pop())
        });
    });
    let flag = AtomicBool::new(false);
    group.bench_function("spin_lock_one_rmw", |b| {
        b.iter(|| {
            assert!(!black_box(&flag).swap(true, Ordering::Acquire));
            black_box(&flag).store(false, Ordering::Release);
        });
    });
    group.finish();
}

fn caches(c: &mut Criterion) {
    let mut group = group(c, "iova/cached");
    let domain = domain(CachedSizes::Auto);
    for size in [1, 8, 64, 512] {
        group.bench_function(format!("pair_{size}_pages"), |b| {
            let pin = ThreadSlots.pin();
            let mut slot = domain.slots().enter_pinned(&pin).unwrap();
            b.iter(|| {
                let range = alloc(&domain, &mut slot, black_box(size));
                debug_assert_eq!(range.size_pages(), size);
                free(&domain, &mut slot, range);
            });
        });
    }
    group.bench_function("pair_1_page_with_two_sections", |b| {
        b.iter(|| {
            let pin = ThreadSlots.pin();
            let range = alloc(&domain, &mut domain.slots().enter_pinned(&pin).unwrap(), 1);
            free(
                &domain,
                &mut domain.slots().enter_pinned(&pin).unwrap(),
                range,
            );
        });
    });
    group.bench_function("burst_of_1000_pairs", |b| {
        let mut held = Vec::with_capacity(1000);
        let pin = ThreadSlots.pin();
        let mut slot = domain.slots().enter_pinned(&pin).unwrap();
        b.iter(|| {
            for _ in 0..1000 {
                held.push(alloc(&domain, &mut slot, 1));
            }
            for range in held.drain(..) {
                free(&domain, &mut slot, range);
            }
        });
    });
    group.bench_function("fifo_of_256", |b| {
        let pin = ThreadSlots.pin();
        let mut slot = domain.slots().enter_pinned(&pin).unwrap();
        let mut held: VecDeque<_> = (0..256).map(|_| alloc(&domain, &mut slot, 1)).collect();
        b.iter(|| {
            held.push_back(alloc(&domain, &mut slot, 1));
            let oldest = held.pop_front().expect("256 are held");
            free(&domain, &mut slot, oldest);
        });
        held.into_iter()
            .for_each(|range| free(&domain, &mut slot, range));
    });
    group.bench_function("cold_alloc_of_6400_by_refills", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                domain.drain();
                let pin = ThreadSlots.pin();
                let mut slot = domain.slots().enter_pinned(&pin).unwrap();
                let mut held = Vec::with_capacity(6400);
                let start = Instant::now();
                for _ in 0..6400 {
                    held.push(alloc(&domain, &mut slot, 1));
                }
                spent += start.elapsed();
                held.into_iter()
                    .for_each(|range| free(&domain, &mut slot, range));
            }
            spent
        });
    });
    group.finish();
    let stats = domain.stats();
    assert_eq!(stats.live_bytes, 0, "every range came back");
}

fn pairs_for(domain: &IovaDomain, rounds: u64) -> Duration {
    let pin = ThreadSlots.pin();
    let mut slot = domain.slots().enter_pinned(&pin).unwrap();
    let start = Instant::now();
    for _ in 0..rounds {
        let range = alloc(domain, &mut slot, black_box(1));
        free(domain, &mut slot, range);
    }
    start.elapsed()
}

fn threads(c: &mut Criterion) {
    let mut group = group(c, "iova/threads");
    let domain = domain(CachedSizes::Auto);
    group.bench_function("one_thread_pairs", |b| {
        b.iter_custom(|rounds| pairs_for(&domain, rounds))
    });
    group.bench_function("two_threads_pairs_each", |b| {
        b.iter_custom(|rounds| {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| pairs_for(&domain, rounds));
                let own = pairs_for(&domain, rounds);
                own.max(other.join().expect("the other thread ends"))
            })
        });
    });
    group.bench_function("alloc_here_free_there", |b| {
        b.iter_custom(|rounds| {
            let (sender, receiver) = mpsc::sync_channel::<Vec<IovaRange>>(4);
            std::thread::scope(|scope| {
                let domain = &domain;
                let freer = scope.spawn(move || {
                    let mut spent = Duration::ZERO;
                    for batch in receiver {
                        let pin = ThreadSlots.pin();
                        let mut slot = domain.slots().enter_pinned(&pin).unwrap();
                        let start = Instant::now();
                        batch
                            .into_iter()
                            .for_each(|range| free(domain, &mut slot, range));
                        spent += start.elapsed();
                    }
                    spent
                });
                let mut spent = Duration::ZERO;
                let mut left = rounds;
                while left > 0 {
                    let batch = left.min(200);
                    left -= batch;
                    let mut ranges = Vec::with_capacity(200);
                    {
                        let pin = ThreadSlots.pin();
                        let mut slot = domain.slots().enter_pinned(&pin).unwrap();
                        let start = Instant::now();
                        ranges.extend((0..batch).map(|_| alloc(domain, &mut slot, 1)));
                        spent += start.elapsed();
                    }
                    sender.send(ranges).expect("the freer listens");
                }
                drop(sender);
                spent + freer.join().expect("the freer ends")
            })
        });
    });
    group.finish();
    assert_eq!(domain.stats().live_bytes, 0);
}

fn index(c: &mut Criterion) {
    let mut group = group(c, "iova/index");
    for live in [0, 100_000] {
        let population = Population::new(live, Sizes::One(64));
        group.bench_function(format!("lifo_64_pages_{live}_live"), |b| {
            let pin = ThreadSlots.pin();
            let mut slot = population.domain.slots().enter_pinned(&pin).unwrap();
            b.iter(|| {
                let range = alloc(&population.domain, &mut slot, black_box(64));
                free(&population.domain, &mut slot, range);
            });
        });
    }
    for (name, sizes) in [
        ("1_page", Sizes::One(1)),
        ("64_pages", Sizes::One(64)),
        ("64_to_512_pages", Sizes::Mixed),
    ] {
        for live in [1_000, 100_000, 300_000] {
            let mut population = Population::new(live, sizes);
            let slots = population.domain.slots().clone();
            group.bench_function(format!("free_random_alloc_{name}_{live}_live"), |b| {
                let pin = ThreadSlots.pin();
                let mut slot = slots.enter_pinned(&pin).unwrap();
                b.iter(|| population.churn(&mut slot));
            });
            let stats = population.domain.stats();
            assert!(stats.nodes_visited_max <= 10, "bounded nodes: {stats:?}");
        }
    }
    group.finish();
}

/// Churn in a 32-bit space: `percent` of it live.
fn low32(c: &mut Criterion) {
    let mut group = group(c, "iova/low32");
    let slots = std::sync::Arc::new(Slots::new(8, Fences::detect()).unwrap());
    let config =
        IovaConfig::new(Granule::K4, Iova(0x1000), Iova(u32::MAX.into())).policy(Policy::BestFit);
    let domain = IovaDomain::new(config, slots.clone()).unwrap();
    let mut random = Random(3);
    let mut live = Vec::new();
    let mut pages = 0;
    let pin = ThreadSlots.pin();
    let mut slot = slots.enter_pinned(&pin).unwrap();
    while pages < (1 << 20) / 10 * 9 {
        let size = 1 << random.below(10);
        live.push(alloc(&domain, &mut slot, size));
        pages += size;
    }
    group.bench_function("churn_powers_of_two_90_percent", |b| {
        b.iter(|| {
            let at = random.below(live.len() as u64) as usize;
            free(&domain, &mut slot, live.swap_remove(at));
            let size = 1 << random.below(10);
            pages = size;
            match domain.alloc(&mut slot, size, &REQUEST) {
                Ok(range) => live.push(range),
                Err(_) => live.push(alloc(&domain, &mut slot, 1)),
            }
        });
    });
    group.finish();
}

/// Crates that hand out ranges of numbers, doing their part of the job: no
/// limit, no natural alignment (buddies have it), no threads.
fn peers(c: &mut Criterion) {
    let mut group = group(c, "iova/peers");
    const LIVE: usize = 10_000;
    let mut random = Random(11);

    group.bench_function("dmabench_index_free_random_64", |b| {
        let mut population = Population::new(LIVE, Sizes::One(64));
        let slots = population.domain.slots().clone();
        let mut slot = slots.enter_fallback();
        b.iter(|| population.churn(&mut slot));
    });
    group.bench_function("offset_allocator_free_random_64", |b| {
        let mut peer =
            offset_allocator::Allocator::<u32>::with_max_allocs(1 << 30, 2 * LIVE as u32);
        let mut live: Vec<_> = (0..LIVE)
            .map(|_| peer.allocate(64).expect("space"))
            .collect();
        b.iter(|| {
            let at = random.below(LIVE as u64) as usize;
            peer.free(live[at]);
            live[at] = peer.allocate(64).expect("space");
        });
    });
    group.bench_function("range_alloc_free_random_64", |b| {
        let mut peer = range_alloc::RangeAllocator::new(0..1u64 << 36);
        let mut live: Vec<_> = (0..LIVE)
            .map(|_| peer.allocate_range(64).expect("space"))
            .collect();
        b.iter(|| {
            let at = random.below(LIVE as u64) as usize;
            peer.free_range(live[at].clone());
            live[at] = peer.allocate_range(64).expect("space");
        });
    });
    group.bench_function("buddy_system_allocator_free_random_64", |b| {
        let mut peer = buddy_system_allocator::FrameAllocator::<33>::new();
        peer.add_frame(0, 1 << 22);
        let mut live: Vec<usize> = (0..LIVE).map(|_| peer.alloc(64).expect("space")).collect();
        b.iter(|| {
            let at = random.below(LIVE as u64) as usize;
            peer.dealloc(live[at], 64);
            live[at] = peer.alloc(64).expect("space");
        });
    });
    // talc keeps its books inside the memory it manages: a shadow of one byte
    // per 64 pages stands for the space.
    group.bench_function("talc_over_a_shadow_free_random_64", |b| {
        let mut shadow = vec![0u64; 1 << 20];
        let layout = std::alloc::Layout::from_size_align(64, 64).expect("a layout");
        let mut peer = talc::TalcCell::new(talc::source::Manual).into_inner();
        // SAFETY: the shadow outlives the allocator and nobody else uses it.
        unsafe { peer.claim(shadow.as_mut_ptr().cast(), 8 << 20) }.expect("room for its books");
        // SAFETY: the layout is not of size 0.
        let mut live: Vec<_> = (0..LIVE)
            .map(|_| unsafe { peer.allocate(layout) }.expect("space"))
            .collect();
        b.iter(|| {
            let at = random.below(LIVE as u64) as usize;
            // SAFETY: allocated with this layout, and freed once.
            unsafe { peer.deallocate(live[at].as_ptr(), layout) };
            // SAFETY: the layout is not of size 0.
            live[at] = unsafe { peer.allocate(layout) }.expect("space");
        });
    });
    group.finish();
}

criterion_group!(benches, lower_bounds, caches, threads, index, low32, peers);
criterion_main!(benches);
