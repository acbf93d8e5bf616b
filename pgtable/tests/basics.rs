//! The plain cases, one by one.

mod common;

use common::Fixture;
use dmabench_pgtable::{Level, Prot, S1K4, TableConfig};

const RW: Prot = Prot::READ_WRITE;

fn s1() -> Fixture<S1K4> {
    Fixture::new(TableConfig::new(48, 48))
}

#[test]
fn a_range_over_two_tables_is_mapped_and_unmapped_whole() {
    let f = s1();
    f.map(0x1f_d000, 0x8000_1000, 0x6000, RW).unwrap();
    for page in 0..6_u64 {
        let at = 0x1f_d000 + page * 0x1000;
        assert_eq!(f.phys(at + 0x42), Some(0x8000_1042 + page * 0x1000));
    }
    assert_eq!(f.phys(0x1f_c000), None);
    assert_eq!(f.phys(0x20_3000), None);
    let log = f.unmap(0x1f_d000, 0x6000).unwrap();
    assert_eq!(log.leaves, [(0x1f_d000, 0x6000, Level::LAST)]);
    assert!(log.tables.is_empty());
    assert_eq!(f.phys(0x1f_d000), None);
}

#[test]
fn blocks_of_every_level_are_used() {
    let f = s1();
    let gib = 1 << 30;
    f.map(gib - 0x20_0000, 4 * gib - 0x20_0000, gib + 0x40_1000, RW)
        .unwrap();
    let level = |iova| f.translation(iova).unwrap().level.get();
    assert_eq!(level(gib - 1), 2);
    assert_eq!(level(gib), 1);
    assert_eq!(level(2 * gib), 2);
    assert_eq!(level(2 * gib + 0x20_0000), 3);
    assert_eq!(f.phys(2 * gib + 0x20_0fff), Some(5 * gib + 0x20_0fff));
    let log = f.unmap(gib - 0x20_0000, gib + 0x40_1000).unwrap();
    let total: u64 = log.leaves.iter().map(|(_, len, _)| len).sum();
    assert_eq!(total, gib + 0x40_1000);
}

#[test]
fn a_table_that_the_unmap_covers_goes_to_the_sink() {
    let f = s1();
    // Physically misaligned: no block.
    f.map(0x40_0000, 0x1000, 0x20_0000, RW).unwrap();
    assert_eq!(f.table.stats().live, 3);
    let log = f.unmap(0x40_0000, 0x20_0000).unwrap();
    assert_eq!(log.leaves, [(0x40_0000, 0x20_0000, Level::LAST)]);
    assert_eq!(log.tables, [(0x40_0000, 0x20_0000, Level::LAST)]);
    assert_eq!(f.table.stats().live, 2);
    assert_eq!(f.table.stats().limbo, 1);
    assert_eq!(f.table.collect(), 1);
    assert_eq!(f.table.stats().spare, 1);
    f.map(0x40_0000, 0x1000, 0x1000, RW).unwrap();
    assert_eq!(f.table.stats().spare, 0);
}

#[test]
fn a_scatter_list_is_one_range() {
    let f = s1();
    let pieces = [
        (0x9000, 0x1000),
        (0x5000, 0x2000),
        (0x7000, 0x1000),
        (0x10_0000, 0x20_0000),
    ];
    assert_eq!(f.map_sg(0x1f_f000, &pieces, RW), Ok(0x20_4000));
    let mut at = 0x1f_f000;
    for (pa, len) in pieces {
        for off in (0..len).step_by(0x1000) {
            assert_eq!(f.phys(at + off), Some(pa + off));
        }
        at += len;
    }
    f.unmap(0x1f_f000, 0x20_4000).unwrap();
    assert_eq!(f.phys(0x1f_f000), None);
}

#[test]
fn the_contiguous_hint_is_set_on_whole_runs_only() {
    let f = s1();
    f.map(0xf000, 0x2_f000, 0x2_2000, RW).unwrap();
    let hinted = |iova| f.translation(iova).unwrap().contiguous;
    assert!(!hinted(0xf000));
    assert!(hinted(0x1_0000) && hinted(0x2_f000));
    assert!(!hinted(0x3_0000));
    assert_eq!(f.translation(0x1_0000).unwrap().page_bytes, 0x1_0000);
}
