//! Times of the page-table paths. Every case checks its answer before it is
//! measured; `store_loop` is the lower bound of the same run, and two crates that
//! also write VMSAv8-64 tables are the peers.
#![allow(missing_docs)]

mod pgtable_support;

use std::{
    hint::black_box,
    ptr::NonNull,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use dmabench_pgtable::TableConfig;
use pgtable_support::*;

/// The shortest of many short batches, times `rounds`: on a machine with other
/// work the mean measures that work. (Criterion's spread is then that of the
/// minimum.)
fn minimum(rounds: u64, mut f: impl FnMut()) -> Duration {
    const BATCH: u64 = 64;
    let mut least = Duration::MAX;
    for _ in 0..rounds.div_ceil(BATCH).max(20) {
        let begun = Instant::now();
        for _ in 0..BATCH {
            f();
        }
        least = least.min(begun.elapsed());
    }
    least.mul_f64(rounds as f64 / BATCH as f64)
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("pgtable/pair");
    for count in [1_u64, 16, 128, 512] {
        let mut bed = Bed::with_table(IOVA, count << 12);
        group.bench_function(format!("4K x {count}"), |b| {
            b.iter_custom(|rounds| minimum(rounds, || one_pair(&mut bed, IOVA, PA, count << 12)));
        });
        let mut entries = vec![0_u64; count as usize];
        group.bench_function(format!("lower bound, stores of {count} entries"), |b| {
            b.iter_custom(|rounds| {
                minimum(rounds, || {
                    store_loop(black_box(&mut entries), black_box(0xf47));
                    clear_loop(black_box(&mut entries));
                })
            });
        });
    }
    for count in [1_u64, 16] {
        let iova = 0x12_4020_0000;
        let mut bed = Bed::with_middle(0x12_4000_0000);
        group.bench_function(format!("2M x {count}"), |b| {
            b.iter_custom(|rounds| {
                minimum(rounds, || {
                    one_pair(&mut bed, iova, iova + (1 << 36), count << 21)
                })
            });
        });
    }
    group.finish();
}

#[inline(always)]
fn one_pair(bed: &mut Bed, iova: u64, pa: u64, len: u64) {
    let Bed {
        table,
        slot,
        gather,
    } = bed;
    map(table, slot, black_box(iova), pa, black_box(len)).unwrap();
    unmap(table, slot, black_box(iova), black_box(len), gather).unwrap();
    assert_eq!(gather.end, iova + len);
}

fn scatter(c: &mut Criterion) {
    let mut bed = Bed::with_table(IOVA, 128 << 12);
    let pieces = scattered();
    c.bench_function("pgtable/scatter list of 128 x 4K, map and unmap", |b| {
        let Bed {
            table,
            slot,
            gather,
        } = &mut bed;
        b.iter_custom(|rounds| {
            minimum(rounds, || {
                let len = map_sg(table, slot, black_box(IOVA), &pieces).unwrap();
                unmap(table, slot, black_box(IOVA), len, gather).unwrap();
            })
        });
    });
}

fn translations(c: &mut Criterion) {
    let bed = Bed::new();
    map(bed.table, &bed.slot, IOVA, PA, 128 << 12).unwrap();
    c.bench_function("pgtable/translate to an address alone, 64 addresses", |b| {
        b.iter_custom(|rounds| {
            minimum(rounds, || {
                let mut sum = 0;
                for i in 0..64_u64 {
                    let at = IOVA + (i * 37 % 128) * 0x1000 + i;
                    sum += translate_phys(bed.table, &bed.slot, at).unwrap().0;
                }
                black_box(sum);
            })
        });
    });
    c.bench_function("pgtable/translate, 64 addresses", |b| {
        b.iter_custom(|rounds| {
            minimum(rounds, || {
                let mut sum = 0;
                for i in 0..64_u64 {
                    let at = IOVA + (i * 37 % 128) * 0x1000 + i;
                    sum += translate(bed.table, &bed.slot, at).unwrap().paddr.0;
                }
                black_box(sum);
            })
        });
    });
}

/// A map that must make one table: from the spare ones, and from the heap.
fn table_made(c: &mut Criterion) {
    const BATCH: u64 = 256;
    let base = 0x12_4000_0000_u64;
    for spare in [BATCH, 0] {
        let config = TableConfig::new(48, 48).with_spare_tables(spare as usize);
        let mut bed = Bed::with_config(config);
        map(bed.table, &bed.slot, base + (511 << 21), PA, 0x1000).unwrap();
        let name = format!("pgtable/map 4K when a table must be made, {spare} spare");
        c.bench_function(&name, |b| {
            b.iter_custom(|rounds| {
                let mut least = Duration::MAX;
                for _ in 0..rounds.div_ceil(BATCH).max(20) {
                    let begun = Instant::now();
                    for i in 0..BATCH {
                        map(bed.table, &bed.slot, base + (i << 21), PA, 0x1000).unwrap();
                    }
                    least = least.min(begun.elapsed());
                    for i in 0..BATCH {
                        unmap(
                            bed.table,
                            &bed.slot,
                            base + (i << 21),
                            0x1000,
                            &mut bed.gather,
                        )
                        .unwrap();
                    }
                    assert_eq!(reclaim(&mut bed, spare), BATCH);
                }
                least.mul_f64(rounds as f64 / BATCH as f64)
            });
        });
    }
}

/// Two threads, each with its own slot, on adjacent ranges of one last-level
/// table, against one.
fn threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("pgtable/threads");
    for threads in [1_usize, 2] {
        group.bench_function(format!("pair of 16 x 4K on {threads}"), |b| {
            b.iter_custom(|rounds| {
                let shared = Shared::new();
                let barrier = std::sync::Barrier::new(threads);
                let batches = rounds.div_ceil(BATCH_PAIRS).max(50);
                std::thread::scope(|scope| {
                    let workers: Vec<_> = (0..threads)
                        .map(|i| {
                            let (shared, barrier) = (&shared, &barrier);
                            scope.spawn(move || shared.run(i, batches, barrier))
                        })
                        .collect();
                    let least = workers.into_iter().map(|w| w.join().unwrap()).max();
                    least.unwrap().mul_f64(rounds as f64 / BATCH_PAIRS as f64)
                })
            });
        });
    }
    group.finish();
}

mod peers {
    //! The same pairs through crates that write the same tables.
    use super::*;
    use aarch64_paging::{
        Mapping,
        descriptor::{El1Attributes, PagingAttributes, PhysicalAddress},
        paging::{Constraints, El1And0, MemoryRegion, PageTable, Translation, VaRange},
    };

    /// Tables on the heap, at their own addresses.
    #[derive(Debug, Default)]
    pub(super) struct Identity;

    impl<A: PagingAttributes> Translation<A> for Identity {
        fn allocate_table(&mut self) -> (NonNull<PageTable<A>>, PhysicalAddress) {
            let table = PageTable::new();
            (table, PhysicalAddress(table.as_ptr() as usize))
        }

        unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<A>>) {
            // SAFETY: it came from `allocate_table`.
            unsafe {
                std::alloc::dealloc(
                    table.as_ptr().cast(),
                    std::alloc::Layout::new::<PageTable<A>>(),
                )
            };
        }

        fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<A>> {
            NonNull::new(pa.0 as *mut PageTable<A>).unwrap()
        }
    }

    pub(super) fn aarch64_paging(c: &mut Criterion) {
        let mut group = c.benchmark_group("pgtable/peer aarch64-paging");
        let valid = El1Attributes::VALID
            | El1Attributes::ATTRIBUTE_INDEX_1
            | El1Attributes::INNER_SHAREABLE
            | El1Attributes::ACCESSED
            | El1Attributes::UXN;
        for count in [1_usize, 16, 128, 512] {
            let mut table =
                Mapping::with_asid_and_va_range(Identity, 0, 0, El1And0, VaRange::Lower);
            let start = IOVA as usize;
            let region = MemoryRegion::new(start, start + (count << 12));
            let pa = PhysicalAddress(PA as usize);
            let mut pair = move || {
                table
                    .map_range(&region, pa, valid, Constraints::NO_BLOCK_MAPPINGS)
                    .unwrap();
                table
                    .map_range(
                        &region,
                        pa,
                        El1Attributes::empty(),
                        Constraints::NO_BLOCK_MAPPINGS,
                    )
                    .unwrap();
            };
            pair();
            group.bench_function(format!("4K x {count}"), |b| {
                b.iter_custom(|rounds| minimum(rounds, &mut pair));
            });
        }
        group.finish();
    }
}

fn peer_aarch64_paging(c: &mut Criterion) {
    peers::aarch64_paging(c);
}

mod multiarch {
    //! Its AArch64 format builds on AArch64 only; this is its x86-64 one, with
    //! the same four levels of 512 entries under the same generic code.
    use super::*;
    use page_table_multiarch::{MappingFlags, PagingHandler, x86_64::X64PageTable};

    pub(super) struct Identity;

    impl PagingHandler for Identity {
        fn alloc_frames(num: usize, align: usize) -> Option<memory_addr::PhysAddr> {
            let layout = std::alloc::Layout::from_size_align(num << 12, align).ok()?;
            // SAFETY: the size is not zero.
            let at = unsafe { std::alloc::alloc_zeroed(layout) };
            Some(memory_addr::PhysAddr::from(at as usize))
        }

        fn dealloc_frames(paddr: memory_addr::PhysAddr, num: usize) {
            let layout = std::alloc::Layout::from_size_align(num << 12, 4096).unwrap();
            // SAFETY: frames come from `alloc_frames`, tables with this alignment.
            unsafe { std::alloc::dealloc(paddr.as_usize() as *mut u8, layout) };
        }

        fn phys_to_virt(paddr: memory_addr::PhysAddr) -> memory_addr::VirtAddr {
            memory_addr::VirtAddr::from(paddr.as_usize())
        }
    }

    pub(super) fn bench(c: &mut Criterion) {
        let mut group = c.benchmark_group("pgtable/peer page_table_multiarch");
        for count in [1_usize, 16, 128, 512] {
            let mut table = X64PageTable::<Identity>::try_new().unwrap();
            let start = memory_addr::VirtAddr::from(IOVA as usize);
            let mut pair = move || {
                let mut cursor = table.cursor();
                let flags = MappingFlags::READ | MappingFlags::WRITE;
                cursor
                    .map_region(
                        start,
                        |va| {
                            memory_addr::PhysAddr::from(va.as_usize() - IOVA as usize + PA as usize)
                        },
                        count << 12,
                        flags,
                        false,
                    )
                    .unwrap();
                cursor.unmap_region(start, count << 12).unwrap();
            };
            pair();
            group.bench_function(format!("4K x {count}"), |b| {
                b.iter_custom(|rounds| minimum(rounds, &mut pair));
            });
        }
        group.finish();
    }
}

fn peer_multiarch(c: &mut Criterion) {
    multiarch::bench(c);
}

fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(40)
}

criterion_group! {
    name = benches;
    config = config();
    targets = pairs, scatter, translations, table_made, threads, peer_aarch64_paging, peer_multiarch
}
criterion_main!(benches);
