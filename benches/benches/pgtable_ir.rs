//! Instructions of the page-table paths (callgrind): one map and unmap pair,
//! table pages there. Each checks its answer.
#![allow(missing_docs)]

mod pgtable_support;

use dmabench_platform::PhysAddr;
use iai_callgrind::{library_benchmark, library_benchmark_group, main};
use pgtable_support::*;
use std::hint::black_box;

struct Case {
    bed: Bed,
    iova: u64,
    len: u64,
}

fn pages(count: u64) -> Box<Case> {
    // 512 pages lie in two tables, neither covered.
    let (iova, len) = (IOVA, count << 12);
    let mut case = Box::new(Case {
        bed: Bed::with_table(iova, len),
        iova,
        len,
    });
    run(&mut case);
    case
}

fn blocks(count: u64) -> Box<Case> {
    let iova = 0x12_4020_0000;
    let mut case = Box::new(Case {
        bed: Bed::with_middle(0x12_4000_0000),
        iova,
        len: count << 21,
    });
    run(&mut case);
    case
}

#[inline(never)]
fn run(case: &mut Case) {
    let Bed {
        table,
        slot,
        gather,
    } = &mut case.bed;
    let pa = case.iova + 0x10_0000_0000;
    map(table, slot, case.iova, pa, case.len).unwrap();
    unmap(table, slot, case.iova, case.len, gather).unwrap();
}

#[library_benchmark]
#[bench::p1(pages(1))]
#[bench::p16(pages(16))]
#[bench::p128(pages(128))]
#[bench::p512(pages(512))]
#[bench::b1(blocks(1))]
#[bench::b16(blocks(16))]
fn pair(case: Box<Case>) -> Box<Case> {
    let mut case = black_box(case);
    run(&mut case);
    assert_eq!(case.bed.gather.end, case.iova + case.len);
    assert!(case.bed.gather.tables.is_empty());
    case
}

fn list() -> (Box<Case>, Vec<(PhysAddr, u64)>) {
    (pages(128), scattered())
}

#[library_benchmark]
#[bench::sg128(list())]
fn scatter((case, pieces): (Box<Case>, Vec<(PhysAddr, u64)>)) -> Box<Case> {
    let mut case = black_box(case);
    let bed = &mut case.bed;
    assert_eq!(
        map_sg(bed.table, &bed.slot, case.iova, &pieces),
        Ok(case.len)
    );
    unmap(bed.table, &bed.slot, case.iova, case.len, &mut bed.gather).unwrap();
    case
}

fn mapped() -> Box<Case> {
    let case = pages(128);
    map(case.bed.table, &case.bed.slot, IOVA, PA, case.len).unwrap();
    case
}

#[library_benchmark]
#[bench::page(mapped())]
fn translation(case: Box<Case>) -> Box<Case> {
    let case = black_box(case);
    let found = translate(case.bed.table, &case.bed.slot, IOVA + 0x5042);
    assert_eq!(found.map(|t| t.paddr), Some(PhysAddr(PA + 0x5042)));
    case
}

#[library_benchmark]
#[bench::page(mapped())]
fn translation_phys(case: Box<Case>) -> Box<Case> {
    let case = black_box(case);
    let found = translate_phys(case.bed.table, &case.bed.slot, IOVA + 0x5042);
    assert_eq!(found, Some(PhysAddr(PA + 0x5042)));
    case
}

/// The middle tables there, a spare table at hand.
fn tables_missing() -> Box<Case> {
    let mut case = blocks(1);
    let iova = case.iova + 0x1000;
    let bed = &mut case.bed;
    // Fill a table and unmap all of it: it goes to the spare ones.
    map(bed.table, &bed.slot, case.iova, 0x1000, 2 << 20).unwrap();
    unmap(bed.table, &bed.slot, case.iova, 2 << 20, &mut bed.gather).unwrap();
    let tables = std::mem::take(&mut bed.gather.tables);
    // SAFETY: no walker knows these tables.
    unsafe { bed.table.release(tables) };
    let table = bed.table;
    bed.slot.pause(|| table.collect());
    assert_eq!(table.stats().spare, 1);
    case.iova = iova;
    case.len = 0x1000;
    case
}

#[library_benchmark]
#[bench::spare(tables_missing())]
fn table_made(case: Box<Case>) -> Box<Case> {
    let case = black_box(case);
    map(case.bed.table, &case.bed.slot, case.iova, PA, case.len).unwrap();
    assert_eq!(case.bed.table.stats().spare, 0);
    case
}

library_benchmark_group!(name = pgtable; benchmarks = pair, scatter, translation, translation_phys, table_made);
main!(library_benchmark_groups = pgtable);
