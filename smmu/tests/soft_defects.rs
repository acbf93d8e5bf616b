//! Every defect of a mapping layer that this model is there to see, one test
//! each, beside the correct sequence that it must not complain about.

mod common;

use common::*;
use dmabench_flushq::{Late, TlbBackend};
use dmabench_platform::{Iova, PhysAddr, TimeNs, Timeout};
use dmabench_smmu::soft::{
    Access, Command, FaultKind, Freshness, Outcome, SoftConfig, Span, SyncSignal, ViolationKind,
};

const IOVA: u64 = 0x4000_0000;
const PHYS: u64 = 0x9_8000_0000;

fn hand() -> Hand {
    Hand::new(SoftConfig::default())
}

fn kinds(hand: &Hand) -> Vec<ViolationKind> {
    hand.smmu.violations().iter().map(|v| v.kind).collect()
}

/// Touches 16 pages, unmaps them, and returns what the device could touch after
/// `invalidate` and, if wanted, a sync.
fn unmap_16(hand: &Hand, invalidate: impl FnOnce(&Hand), sync: bool) -> u64 {
    hand.map_pages(IOVA, PHYS, 16);
    let touched = hand.device.touch(Iova(IOVA), 16 * 4096, Access::Write);
    assert_eq!(touched.fresh, 16);
    hand.unmap_pages(IOVA, 16);
    invalidate(hand);
    if sync {
        hand.sync();
    }
    let after = hand.device.touch(Iova(IOVA), 16 * 4096, Access::Write);
    assert_eq!(after.fresh, 0);
    assert_eq!(after.stale + after.faulted, 16);
    after.stale
}

#[test]
fn s1_a_correct_unmap_leaves_nothing() {
    let hand = hand();
    assert_eq!(
        unmap_16(&hand, |h| h.invalidate(leaves(IOVA, 16, 3)), true),
        0
    );
    assert_eq!(kinds(&hand), []);
    let stats = hand.smmu.stats();
    assert_eq!(
        (stats.ranges, stats.commands_by_address, stats.syncs),
        (1, 1, 1)
    );
    assert_eq!(stats.tlb_entries, 0);
    assert_eq!(stats.walk_entries, 2, "leaf-only keeps the table pointers");
}

#[test]
fn s1_a_skipped_invalidation_is_seen() {
    let hand = hand();
    hand.smmu.set_tamper(Some(Box::new(|command| {
        (!matches!(command, Command::TlbiNhVa { .. })).then_some(command)
    })));
    let stale = unmap_16(&hand, |h| h.invalidate(leaves(IOVA, 16, 3)), true);
    assert_eq!(stale, 16);
    assert_eq!(kinds(&hand), [ViolationKind::AfterInvalidation; 16]);
}

#[test]
fn s1_without_any_invalidation_the_declaration_finds_it() {
    let hand = hand();
    let declare = |h: &Hand| h.smmu.declare_gone(&CONTEXT, Iova(IOVA), 16 * 4096);
    assert_eq!(unmap_16(&hand, declare, false), 16);
    assert_eq!(kinds(&hand), [ViolationKind::AfterInvalidation; 16]);
}

#[test]
fn s1_an_invalidation_without_its_sync_has_done_nothing() {
    let hand = hand();
    let invalidate = |h: &Hand| h.invalidate(leaves(IOVA, 16, 3));
    assert_eq!(unmap_16(&hand, invalidate, false), 16, "before the sync");
    assert_eq!(
        kinds(&hand),
        [],
        "which is allowed while nothing is released"
    );
    hand.smmu.declare_gone(&CONTEXT, Iova(IOVA), 16 * 4096);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_stale());
    assert_eq!(kinds(&hand), [ViolationKind::AfterInvalidation]);
    hand.sync();
    assert!(
        hand.device
            .probe(Iova(IOVA), Access::Read)
            .fault()
            .is_some()
    );
}

#[test]
fn s2_a_buffer_given_back_before_the_sync_is_seen() {
    let hand = hand();
    let early = |h: &Hand| {
        h.invalidate(leaves(IOVA, 16, 3));
        // The owner fills its memory with something else.
        h.smmu.declare_gone(&CONTEXT, Iova(IOVA), 16 * 4096);
        h.memory.write(PhysAddr(PHYS), b"secret").unwrap();
        let mut read = [0; 6];
        assert_eq!(h.device.read(Iova(IOVA), &mut read).stale_pages, 1);
        assert_eq!(&read, b"secret");
    };
    assert_eq!(unmap_16(&hand, early, true), 0);
    assert_eq!(kinds(&hand), [ViolationKind::AfterInvalidation]);
}

#[test]
fn a6_a_missed_page_at_the_end_of_a_range_is_seen() {
    let hand = hand();
    let short = |h: &Hand| {
        h.invalidate(leaves(IOVA, 15, 3));
        h.sync();
        h.smmu.declare_gone(&CONTEXT, Iova(IOVA), 16 * 4096);
    };
    assert_eq!(unmap_16(&hand, short, true), 1);
    let violations = hand.smmu.violations();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].iova, Iova(IOVA + 15 * 4096));
    assert_eq!(violations[0].phys, Some(PhysAddr(PHYS + 15 * 4096)));
}

#[test]
fn a6_a_ttl_off_by_one_is_seen() {
    for wrong in [1, 2] {
        let hand = hand();
        hand.smmu.set_tamper(Some(Box::new(move |command| {
            Some(match command {
                Command::TlbiNhVa { vmid, asid, span } => Command::TlbiNhVa {
                    vmid,
                    asid,
                    span: Span { ttl: wrong, ..span },
                },
                other => other,
            })
        })));
        assert_eq!(
            unmap_16(&hand, |h| h.invalidate(leaves(IOVA, 16, 3)), true),
            16
        );
        assert_eq!(kinds(&hand), [ViolationKind::AfterInvalidation; 16]);
    }
}

#[test]
fn a6_a_wrong_level_from_the_gather_leaves_blocks() {
    // Two blocks of 2 MiB, invalidated as if they had been pages.
    let hand = hand();
    hand.set(IOVA, 2, PHYS | BLOCK_RW);
    hand.set(IOVA + 0x20_0000, 2, (PHYS + 0x20_0000) | BLOCK_RW);
    assert_eq!(
        hand.device.touch(Iova(IOVA), 0x40_0000, Access::Read).fresh,
        1024
    );
    assert_eq!(hand.smmu.stats().tlb_entries, 2);
    hand.set(IOVA, 2, 0);
    hand.set(IOVA + 0x20_0000, 2, 0);
    hand.invalidate(leaves(IOVA, 1024, 3));
    hand.sync();
    assert_eq!(
        hand.device.touch(Iova(IOVA), 0x40_0000, Access::Read).stale,
        1024
    );
    hand.invalidate(leaves(IOVA, 1024, 2));
    hand.sync();
    assert_eq!(
        hand.device
            .touch(Iova(IOVA), 0x40_0000, Access::Read)
            .faulted,
        1024
    );
}

/// Maps and touches one page, then takes its whole table away and gives it back
/// after `invalidate` and a sync.
fn free_a_table(hand: &Hand, leaf_only: bool) {
    hand.map_pages(IOVA, PHYS, 1);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
    let table = hand.unlink_table(IOVA);
    hand.invalidate(if leaf_only {
        leaves(IOVA, 512, 3)
    } else {
        everything(IOVA, 512)
    });
    hand.sync();
    hand.free_table(table);
}

#[test]
fn a2_a_table_freed_after_its_invalidation_is_never_walked() {
    let hand = hand();
    free_a_table(&hand, false);
    let outcome = hand.device.probe(Iova(IOVA), Access::Read);
    assert_eq!(outcome.fault().unwrap().kind, FaultKind::Translation);
    assert_eq!(kinds(&hand), []);
    // Its memory serves another table at the same place, and nothing is wrong.
    hand.map_pages(IOVA, PHYS + 0x1000, 1);
    let outcome = hand.device.probe(Iova(IOVA), Access::Read);
    assert_eq!(outcome.phys(), Some(PhysAddr(PHYS + 0x1000)));
    assert_eq!(kinds(&hand), []);
}

#[test]
fn a2_a_leaf_only_invalidation_where_a_table_was_freed_is_seen() {
    let hand = hand();
    free_a_table(&hand, true);
    // The freed table still holds its last content: the device gets through.
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_stale());
    assert_eq!(kinds(&hand), [ViolationKind::FreedTable]);
}

#[test]
fn a2_a_leaf_only_command_for_a_table_is_seen() {
    let hand = hand();
    hand.smmu.set_tamper(Some(Box::new(|command| {
        Some(match command {
            Command::TlbiNhVa { vmid, asid, span } => Command::TlbiNhVa {
                vmid,
                asid,
                span: Span { leaf: true, ..span },
            },
            other => other,
        })
    })));
    hand.map_pages(IOVA, PHYS, 1);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
    hand.unlink_table(IOVA);
    hand.invalidate(everything(IOVA, 512));
    hand.sync();
    // The table is not even given back yet: using the pointer is enough.
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_stale());
    assert_eq!(kinds(&hand), [ViolationKind::AfterInvalidation]);
}

#[test]
fn a2_a_ttl_with_a_table_keeps_pointers_below_it() {
    // Leaf = 0 with TTL 2 drops only pointers read above level 2.
    let hand = hand();
    hand.map_pages(IOVA, PHYS, 1);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
    assert_eq!(hand.smmu.stats().walk_entries, 2);
    let command = |ttl, tg| Command::TlbiNhVa {
        vmid: 0,
        asid: ASID,
        span: Span {
            address: IOVA,
            leaf: false,
            ttl,
            tg,
            num: 0,
            scale: if ttl == 0 { 1 } else { 0 },
        },
    };
    let sync = Command::Sync(SyncSignal::None);
    hand.smmu.command(command(2, 1)).unwrap();
    hand.smmu.command(sync).unwrap();
    assert_eq!(hand.smmu.stats().walk_entries, 1);
    // Another granule's entries are not meant.
    hand.smmu.command(command(0, 3)).unwrap();
    hand.smmu.command(sync).unwrap();
    assert_eq!(hand.smmu.stats().walk_entries, 1);
    hand.smmu.command(command(0, 1)).unwrap();
    hand.smmu.command(sync).unwrap();
    assert_eq!(hand.smmu.stats().walk_entries, 0);
    assert_eq!(hand.smmu.stats().tlb_entries, 0);
}

#[test]
fn a1_an_address_reused_before_its_invalidation_is_seen() {
    let hand = hand();
    hand.map_pages(IOVA, PHYS, 1);
    assert!(hand.device.probe(Iova(IOVA), Access::Write).is_fresh());
    hand.unmap_pages(IOVA, 1);
    hand.map_pages(IOVA, PHYS + 0x5000, 1);
    let outcome = hand.device.probe(Iova(IOVA), Access::Write);
    assert_eq!(outcome.phys(), Some(PhysAddr(PHYS)), "the old buffer");
    assert_eq!(kinds(&hand), [ViolationKind::Reused]);
}

#[test]
fn a2_a_table_put_where_a_cached_one_was_loses_mappings() {
    // A neighbour is mapped in the span of an unlinked table before the walk
    // caches were told.
    let hand = hand();
    hand.map_pages(IOVA, PHYS, 1);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
    hand.unlink_table(IOVA);
    hand.map_pages(IOVA + 0x1000, PHYS, 1);
    let outcome = hand.device.probe(Iova(IOVA + 0x1000), Access::Read);
    assert_eq!(outcome.fault().unwrap().kind, FaultKind::Translation);
    assert_eq!(kinds(&hand), [ViolationKind::LostMapping]);
}

#[test]
fn a8_a_read_only_page_stays_read_only_and_an_old_write_right_is_stale() {
    let hand = hand();
    hand.set(IOVA, 3, PHYS | PAGE_RO);
    let fault = hand
        .device
        .probe(Iova(IOVA), Access::Write)
        .fault()
        .unwrap();
    assert_eq!(fault.kind, FaultKind::Permission);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
    let fault = hand
        .device
        .probe(Iova(IOVA), Access::Write)
        .fault()
        .unwrap();
    assert_eq!(fault.kind, FaultKind::Permission, "from the TLB as well");
    hand.map_pages(IOVA + 0x1000, PHYS, 1);
    assert!(
        hand.device
            .probe(Iova(IOVA + 0x1000), Access::Write)
            .is_fresh()
    );
    hand.set(IOVA + 0x1000, 3, PHYS | PAGE_RO);
    assert!(
        hand.device
            .probe(Iova(IOVA + 0x1000), Access::Write)
            .is_stale()
    );
}

#[test]
fn a_contiguous_run_is_one_entry_and_goes_as_one() {
    let hand = hand();
    for page in 0..16 {
        let descriptor = (PHYS + page * 4096) | PAGE_RW | CONTIGUOUS;
        hand.set(IOVA + page * 4096, 3, descriptor);
    }
    assert_eq!(
        hand.device
            .touch(Iova(IOVA), 16 * 4096, Access::Write)
            .fresh,
        16
    );
    assert_eq!(hand.smmu.stats().tlb_entries, 1);
    hand.unmap_pages(IOVA, 16);
    hand.invalidate(leaves(IOVA + 0x7000, 1, 3));
    hand.sync();
    assert_eq!(
        hand.device
            .touch(Iova(IOVA), 16 * 4096, Access::Write)
            .faulted,
        16
    );
    assert_eq!(kinds(&hand), []);
}

#[test]
fn l1_the_age_of_a_stale_entry_is_told() {
    let hand = hand();
    hand.map_pages(IOVA, PHYS, 1);
    hand.clock.advance_ns(100);
    assert!(hand.device.probe(Iova(IOVA), Access::Write).is_fresh());
    hand.clock.advance_ns(50);
    hand.unmap_pages(IOVA, 1);
    let stale = |first_seen, last_fresh| Outcome::Reached {
        phys: PhysAddr(PHYS),
        freshness: Freshness::Stale {
            first_seen: TimeNs(first_seen),
            last_fresh: TimeNs(last_fresh),
        },
    };
    assert_eq!(
        hand.device.probe(Iova(IOVA), Access::Write),
        stale(150, 100)
    );
    hand.clock.advance_ns(1000);
    assert_eq!(
        hand.device.probe(Iova(IOVA), Access::Write),
        stale(150, 100)
    );
    let stats = hand.smmu.stats();
    assert_eq!(stats.stale_accesses, 2);
    assert_eq!(stats.stale_age_max_ns, 1000);
    hand.smmu.invalidate_all(None, &CONTEXT).unwrap();
    hand.sync();
    assert!(
        hand.device
            .probe(Iova(IOVA), Access::Write)
            .fault()
            .is_some()
    );
    assert_eq!(kinds(&hand), []);
}

#[test]
fn an_asid_or_vmid_that_is_not_meant_keeps_its_entries() {
    let hand = hand();
    hand.map_pages(IOVA, PHYS, 1);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
    let span = Span::single(IOVA, false);
    let others = [
        Command::TlbiNhVa {
            vmid: 0,
            asid: ASID + 1,
            span,
        },
        Command::TlbiNhVa {
            vmid: 1,
            asid: ASID,
            span,
        },
        Command::TlbiNhVaa { vmid: 1, span },
        Command::TlbiS2Ipa { vmid: 0, span },
        Command::TlbiNhAsid {
            vmid: 0,
            asid: ASID + 1,
        },
        Command::TlbiNhAll { vmid: 1 },
        Command::TlbiS12Vmall { vmid: 1 },
    ];
    for command in others {
        hand.smmu.command(command).unwrap();
        hand.smmu.command(Command::Sync(SyncSignal::None)).unwrap();
        assert_eq!(hand.smmu.stats().tlb_entries, 1, "{command:?}");
    }
    for command in [
        Command::TlbiNhVaa { vmid: 0, span },
        Command::TlbiNhAll { vmid: 0 },
        Command::TlbiS12Vmall { vmid: 0 },
        Command::TlbiNsnhAll,
    ] {
        assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
        assert_eq!(hand.smmu.stats().tlb_entries, 1);
        hand.smmu.command(command).unwrap();
        hand.smmu.command(Command::Sync(SyncSignal::None)).unwrap();
        assert_eq!(hand.smmu.stats().tlb_entries, 0, "{command:?}");
    }
}

#[test]
fn bad_input_62_a_hung_sync_is_late_and_proves_nothing() {
    let hand = hand();
    hand.smmu.set_stalled(true);
    hand.map_pages(IOVA, PHYS, 1);
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_fresh());
    hand.unmap_pages(IOVA, 1);
    hand.invalidate(leaves(IOVA, 1, 3));
    let ticket = hand.smmu.sync_begin(None).unwrap();
    let timeout = Timeout(5);
    let late = hand.smmu.sync_wait(None, ticket, timeout);
    assert_eq!(late, Err(Late::TimedOut { after: timeout }));
    assert!(hand.device.probe(Iova(IOVA), Access::Read).is_stale());
    // The same ticket, once the device runs again.
    hand.smmu.set_stalled(false);
    assert!(hand.smmu.sync_wait(None, ticket, timeout).is_ok());
    assert!(
        hand.device
            .probe(Iova(IOVA), Access::Read)
            .fault()
            .is_some()
    );
    assert_eq!(kinds(&hand), []);
}

#[test]
fn out_of_order_completion_ends_at_the_sync() {
    let mut left = 0;
    for seed in 0..50 {
        let hand = Hand::new(SoftConfig::default().with_seed(seed));
        let before = unmap_16(
            &hand,
            |h| {
                for page in 0..16 {
                    h.invalidate(leaves(IOVA + page * 4096, 1, 3));
                }
            },
            false,
        );
        left += before;
        hand.sync();
        let after = hand.device.touch(Iova(IOVA), 16 * 4096, Access::Write);
        assert_eq!(after.faulted, 16, "seed {seed}");
        assert_eq!(kinds(&hand), [], "seed {seed}");
    }
    assert!(
        (1..50 * 16).contains(&left),
        "{left} of 800 waited for the sync"
    );
}

#[test]
fn data_goes_where_the_tables_say() {
    let hand = hand();
    hand.map_pages(IOVA, PHYS, 1);
    hand.map_pages(IOVA + 0x1000, PHYS + 0x10_0000, 1);
    let data: Vec<u8> = (0..200).collect();
    let transfer = hand.device.write(Iova(IOVA + 0xfa0), &data).unwrap();
    assert_eq!((transfer.done_bytes, transfer.fault), (200, None));
    let mut at = [0; 104];
    hand.memory.read(PhysAddr(PHYS + 0x10_0000), &mut at);
    assert_eq!(at[..], data[96..]);
    let mut back = [0; 200];
    assert_eq!(
        hand.device.read(Iova(IOVA + 0xfa0), &mut back).done_bytes,
        200
    );
    assert_eq!(back[..], data[..]);
    // It stops at the first fault and says where.
    let transfer = hand.device.write(Iova(IOVA + 0x1fff), &data).unwrap();
    assert_eq!(transfer.done_bytes, 1);
    assert_eq!(transfer.fault.unwrap().iova, Iova(IOVA + 0x2000));
}
