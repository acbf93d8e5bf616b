//! The page tables' rows.

use std::{hint::black_box, sync::Barrier, time::Duration};

use dmabench_pgtable::TableConfig;

use super::{Compare, Ratio, Row, timed};
use crate::pgtable_support::*;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = pages();
    rows.extend(blocks());
    rows.extend([scatter(), translate_all(), translate_address()]);
    rows.push(table_made());
    rows
}

/// Targets by the width of the accesses.
const fn target(sse2: f64, avx2: f64, scalar: f64) -> f64 {
    if cfg!(feature = "pgtable-scalar") {
        scalar
    } else if cfg!(feature = "pgtable-avx2") {
        avx2
    } else {
        sse2
    }
}

#[inline(always)]
fn pair(bed: &mut Bed, iova: u64, pa: u64, len: u64) {
    let Bed {
        table,
        slot,
        gather,
    } = bed;
    map(table, slot, black_box(iova), pa, black_box(len)).unwrap();
    unmap(table, slot, black_box(iova), black_box(len), gather).unwrap();
    assert_eq!(gather.end, iova + len);
}

fn pages() -> Vec<Row> {
    let targets = [
        (1, target(10.0, 10.0, 10.0)),
        (16, target(19.0, 19.0, 19.0)),
        (128, target(65.0, 42.0, 85.0)),
        (512, target(200.0, 125.0, 320.0)),
    ];
    let row = |(count, target): (u64, f64)| {
        let name = format!("page table: pair of {count} x 4K");
        let row = Row::new(name, count as usize, move || {
            let mut bed = Bed::with_table(IOVA, count << 12);
            move |rounds| {
                for _ in 0..rounds {
                    pair(&mut bed, IOVA, PA, count << 12);
                }
            }
        });
        row.target(target).batch(if count < 100 { 256 } else { 64 })
    };
    targets.map(row).into()
}

fn blocks() -> Vec<Row> {
    let row = |(count, target): (u64, f64)| {
        let name = format!("page table: pair of {count} x 2M");
        let row = Row::new(name, count as usize, move || {
            let iova = 0x12_4020_0000;
            let mut bed = Bed::with_middle(0x12_4000_0000);
            move |rounds| {
                for _ in 0..rounds {
                    pair(&mut bed, iova, iova + (1 << 36), count << 21);
                }
            }
        });
        row.target(target).batch(256)
    };
    [(1, 9.0), (16, 20.0)].map(row).into()
}

fn scatter() -> Row {
    let row = Row::new("page table: list of 128 x 4K, per page", 1, || {
        let mut bed = Bed::with_table(IOVA, 128 << 12);
        let pieces = scattered();
        move |rounds| {
            let Bed {
                table,
                slot,
                gather,
            } = &mut bed;
            for _ in 0..rounds {
                let len = map_sg(table, slot, black_box(IOVA), &pieces).unwrap();
                unmap(table, slot, black_box(IOVA), len, gather).unwrap();
                assert_eq!(gather.end, IOVA + (128 << 12));
            }
        }
    });
    row.target(1.5).units(128.0).batch(32)
}

/// Addresses that one round of the translations looks up.
const ADDRESSES: u64 = 64;

fn address(i: u64) -> u64 {
    IOVA + (i * 37 % 128) * 0x1000 + i
}

/// What they translate to, added up.
fn translated() -> u64 {
    (0..ADDRESSES).map(|i| PA + (address(i) - IOVA)).sum()
}

fn mapped() -> Bed {
    let bed = Bed::new();
    map(bed.table, &bed.slot, IOVA, PA, 128 << 12).unwrap();
    bed
}

fn translate_all() -> Row {
    let row = Row::new("page table: translate", 1, || {
        let bed = mapped();
        move |rounds| {
            for _ in 0..rounds {
                let one = |i| translate(bed.table, &bed.slot, address(i)).unwrap();
                let sum: u64 = (0..ADDRESSES).map(|i| one(i).paddr.0).sum();
                assert_eq!(sum, translated());
            }
        }
    });
    row.target(3.0).units(ADDRESSES as f64).batch(32)
}

fn translate_address() -> Row {
    let row = Row::new("page table: translate, address only", 1, || {
        let bed = mapped();
        move |rounds| {
            for _ in 0..rounds {
                let one = |i| translate_phys(bed.table, &bed.slot, address(i)).unwrap();
                let sum: u64 = (0..ADDRESSES).map(|i| one(i).0).sum();
                assert_eq!(sum, translated());
            }
        }
    });
    row.target(3.0).units(ADDRESSES as f64).batch(32)
}

/// Maps that must each make a table, from the spare ones.
fn table_made() -> Row {
    const TABLES: u64 = 256;
    let row = Row::timed_inside("page table: map of 4K, one table made", 1, || {
        let base = 0x12_4000_0000_u64;
        let mut bed = Bed::with_config(TableConfig::new(48, 48).with_spare_tables(256));
        map(bed.table, &bed.slot, base + (511 << 21), PA, 0x1000).unwrap();
        move |rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                took += timed(|| {
                    for i in 0..TABLES {
                        map(bed.table, &bed.slot, base + (i << 21), PA, 0x1000).unwrap();
                    }
                });
                for i in 0..TABLES {
                    let (at, gather) = (base + (i << 21), &mut bed.gather);
                    unmap(bed.table, &bed.slot, at, 0x1000, gather).unwrap();
                }
                assert_eq!(reclaim(&mut bed, TABLES), TABLES);
            }
            took
        }
    });
    row.target(45.0).units(TABLES as f64)
}

/// What being reclaimable costs a request: the section that a reclaimer waits
/// for. (Its mark in a descriptor is tested with the valid bits, which costs
/// nothing.) In `dma` one section serves the caches too.
/// What a section around each call costs, which is all that `reclaim` asks of the
/// hot path: pairs in one long section, and pairs in two short ones each. (Sections
/// opened and closed with nothing in them would show how long the counter takes to
/// come back from the store buffer, and little else.)
pub(super) const SECTIONS: Ratio = Ratio {
    name: "page table: a section around each call",
    // Per call; a pair has two.
    target: 1.0,
    compare: Compare::Added { calls: 2.0 },
    run: || {
        const PAIRS: u64 = 512;
        let len = 1 << 12;
        let mut held = Bed::with_table(IOVA, len);
        let Bed {
            table,
            slot,
            mut gather,
        } = Bed::with_table(IOVA, len);
        drop(slot);
        let mut short = || {
            for _ in 0..PAIRS {
                // SAFETY: one thread uses these slots, and is in no section of them.
                let slot = unsafe { table.slots().enter(black_box(Some(0))) }.unwrap();
                map(table, &slot, black_box(IOVA), PA, black_box(len)).unwrap();
                drop(slot);
                // SAFETY: as above.
                let slot = unsafe { table.slots().enter(black_box(Some(0))) }.unwrap();
                unmap(table, &slot, black_box(IOVA), black_box(len), &mut gather).unwrap();
                drop(slot);
                assert_eq!(gather.end, IOVA + len);
            }
        };
        let mut long = || (0..PAIRS).for_each(|_| pair(&mut held, IOVA, PA, len));
        let (mut without, mut with) = (Duration::MAX, Duration::MAX);
        for _ in 0..20_000 {
            without = without.min(timed(&mut long));
            with = with.min(timed(&mut short));
        }
        let ns = |took: Duration| took.as_nanos() as f64 / PAIRS as f64;
        (ns(without), ns(with))
    },
};

pub(super) const THREADS: Ratio = Ratio {
    name: "page table: pairs of 16 x 4K, two threads",
    target: 1.15,
    compare: Compare::Times,
    run: || {
        let on = |threads: usize| {
            let shared = Shared::new();
            let barrier = Barrier::new(threads);
            let least = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads)
                    .map(|i| {
                        let (shared, barrier) = (&shared, &barrier);
                        scope.spawn(move || shared.run(i, 4000, barrier))
                    })
                    .collect();
                workers.into_iter().map(|w| w.join().unwrap()).max()
            });
            least.unwrap().as_nanos() as f64 / BATCH_PAIRS as f64
        };
        (on(1), on(2))
    },
};
