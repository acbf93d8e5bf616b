use alloc::{vec, vec::Vec};

use dmabench_pgtable::{Level, UnmapSink};
use dmabench_platform::{Fences, Granule, Iova, SlotGuard, Slots, Timeout, sync::Mutex};
use proptest::prelude::*;

use super::{Gather, PagesRange, ranges::Ranges};
use crate::{
    BackendError, CostModel, CountingBackend, HardwareCosts, JoinCost, Late, RangeCommands, Synced,
    Ticket, TlbBackend, TlbRange,
};

const PAGES: Level = Level::LAST;
const BLOCKS: Level = Level::new(2).unwrap();

fn leaf(iova: u64, len_bytes: u64, level: Level) -> TlbRange {
    TlbRange {
        iova: Iova(iova),
        len_bytes,
        granule: Granule::K4,
        level: Some(level),
        leaf_only: true,
    }
}

fn table(iova: u64, len_bytes: u64) -> TlbRange {
    TlbRange {
        level: None,
        leaf_only: false,
        ..leaf(iova, len_bytes, PAGES)
    }
}

/// Notes what it was asked, and fails when told to.
#[derive(Default)]
struct Scripted {
    ranges: Mutex<Vec<TlbRange>>,
    calls: Mutex<Vec<&'static str>>,
    fail: Mutex<Vec<&'static str>>,
    /// What `sync_wait` proves less than it was asked for.
    behind: u64,
}

impl Scripted {
    fn called(&self, name: &'static str) -> Result<(), BackendError> {
        self.calls.lock().push(name);
        let mut fail = self.fail.lock();
        if fail.first() == Some(&name) {
            fail.remove(0);
            return Err(BackendError::Rejected { code: 1 });
        }
        Ok(())
    }
}

// SAFETY: there is no hardware that could keep a translation.
unsafe impl TlbBackend for Scripted {
    type Context = u16;

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        _context: &u16,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        assert!(!ranges.is_empty(), "called with nothing to do");
        *self.ranges.lock() = ranges.to_vec();
        self.called("invalidate")
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        _context: &u16,
    ) -> Result<(), BackendError> {
        self.called("invalidate_all")
    }

    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        self.called("sync_begin").map(|()| Ticket(9))
    }

    fn sync_wait(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        _timeout: Timeout,
    ) -> Result<Synced, Late> {
        self.called("sync_wait")?;
        // SAFETY: nothing is ever outstanding.
        Ok(unsafe { Synced::new(Ticket(ticket.0 - self.behind)) })
    }
}

#[test]
fn a6_runs_of_one_level_become_one_range() {
    let mut gather = Gather::new(Granule::K4);
    gather.leaves(Iova(0x1000), 0x1000, PAGES);
    gather.leaves(Iova(0x2000), 0x3000, PAGES);
    gather.leaves(Iova(0), 0x1000, PAGES);
    assert_eq!(gather.ranges(), [leaf(0, 0x5000, PAGES)]);
}

#[test]
fn a6_each_range_has_one_level() {
    // 4K, 2M, 4K: one unmap, three ranges, one sync (Linux: three syncs).
    let mut gather = Gather::new(Granule::K4);
    gather.leaves(Iova(0x1f_f000), 0x1000, PAGES);
    gather.leaves(Iova(0x20_0000), 0x20_0000, BLOCKS);
    gather.leaves(Iova(0x40_0000), 0x1000, PAGES);
    assert_eq!(
        gather.ranges(),
        [
            leaf(0x1f_f000, 0x1000, PAGES),
            leaf(0x20_0000, 0x20_0000, BLOCKS),
            leaf(0x40_0000, 0x1000, PAGES)
        ]
    );
}

#[test]
fn a6_a_table_takes_its_leaves_along_without_a_level() {
    for table_first in [false, true] {
        let mut ranges = Ranges::new();
        let mut parts = [
            leaf(0x20_0000, 0x20_1000, PAGES),
            table(0x20_0000, 0x20_0000),
        ];
        if table_first {
            parts.reverse();
        }
        for part in parts {
            ranges.add(part);
        }
        assert_eq!(ranges.as_slice(), [table(0x20_0000, 0x20_1000)]);
    }
}

#[test]
fn a6_a_fifth_range_widens_the_nearest() {
    let mut ranges = Ranges::new();
    for page in [0x10, 0x1000, 0x2000, 0x3000_u64] {
        ranges.add(leaf(page << 12, 0x1000, PAGES));
    }
    ranges.add(leaf(0x1002 << 12, 0x1000, BLOCKS));
    let widened = TlbRange {
        level: None,
        ..leaf(0x1000 << 12, 0x3000, PAGES)
    };
    assert_eq!(ranges.as_slice()[1], widened);
    assert_eq!(ranges.as_slice().len(), 4);
    assert_eq!(ranges.over_bytes(), 0x1000, "the page between");
}

fn scattered(gather: &mut Gather, count: u64, every: u64) {
    for number in 0..count {
        let page = 0x100 + number * every;
        gather.leaves(Iova(page << 12), 0x1000, PAGES);
    }
}

/// The published server (`src/model/builtin.rs`), and a walk of 65 + 197 ns.
const SERVER: HardwareCosts = HardwareCosts {
    issue_ns: 0,
    doorbell_ns: 0,
    command_ns: 125,
    sync_ns: 758,
    range_commands: RangeCommands::Supported,
};
const WALK_NS: u64 = 262;

/// Modelled time of a batch of `count` pages, `every` pages apart: what the clock
/// says, and looking up again what was in use between them.
fn batch_ns(costs: HardwareCosts, joining: JoinCost, room: usize, count: u64, every: u64) -> u64 {
    use dmabench_platform::{Clock, VirtualClock};
    let slots = Slots::new(1, Fences::Symmetric).unwrap();
    let counting = CountingBackend::with_range_commands(&slots, costs.range_commands);
    let clock = alloc::sync::Arc::new(VirtualClock::default());
    let model = CostModel::new(counting, costs, clock.clone()).joining_by(joining);
    let mut gather = Gather::with_room(Granule::K4, (), room).unwrap();
    scattered(&mut gather, count, every);
    let issued = gather.issue_in_place(&model, None, &()).unwrap();
    let mut complete = issued.wait(None, Timeout::DEFAULT).unwrap();
    let refills = (complete.over_bytes() >> 12).min(joining.in_use_granules);
    clock.now().0 + refills * WALK_NS
}

#[test]
fn the_cost_decides_when_many_ranges_become_one_and_not_their_number() {
    let by_cost = |in_use| SERVER.join_cost(WALK_NS, in_use);
    let time = |in_use, room, count| batch_ns(SERVER, by_cost(in_use), room, count, 16);
    // A device that uses three pages: from the eighth range on it is one.
    let apart = |count| count * SERVER.command_ns + SERVER.sync_ns;
    assert_eq!(time(3, 64, 7), apart(7));
    assert_eq!(time(3, 64, 64), apart(2) + 3 * WALK_NS, "1009 pages");
    // One that may use them all: never.
    assert_eq!(time(u64::MAX, 64, 64), apart(64));
    // Four ranges, however many there are, are as dear or dearer.
    let mut better = 0;
    for in_use in [0, 1, 3, 20, 1000, u64::MAX] {
        for count in 1..=64 {
            let (cost, four) = (time(in_use, 64, count), time(in_use, 0, count));
            assert!(
                cost <= four,
                "{count} ranges, {in_use} in use: {cost}, {four}"
            );
            better += u64::from(cost < four);
        }
    }
    assert!(better > 300, "{better}");
}

#[test]
fn a_gap_is_covered_where_a_command_takes_longer_than_its_lookups() {
    // A command takes two lookups: gaps of two pages, and not of three.
    let slow = HardwareCosts {
        command_ns: 2 * WALK_NS,
        ..SERVER
    };
    let joining = slow.join_cost(WALK_NS, u64::MAX);
    let one = slow.command_ns + slow.sync_ns;
    assert_eq!(batch_ns(slow, joining, 64, 8, 3), one + 7 * 2 * WALK_NS);
    let eight = 8 * slow.command_ns + slow.sync_ns;
    assert_eq!(batch_ns(slow, joining, 64, 8, 4), eight);
}

#[test]
fn without_range_commands_a_gap_costs_commands_and_many_pages_are_the_context() {
    let costs = HardwareCosts {
        command_ns: 10 * WALK_NS,
        range_commands: RangeCommands::Absent,
        ..SERVER
    };
    let eight = 8 * costs.command_ns + costs.sync_ns;
    let joining = costs.join_cost(WALK_NS, 0);
    assert_eq!(batch_ns(costs, joining, 64, 8, 2), eight);
    let slots = Slots::new(1, Fences::Symmetric).unwrap();
    let backend = CountingBackend::with_range_commands(&slots, RangeCommands::Absent);
    for (count, by_address, by_context) in [(511, 511, 0), (512, 0, 1)] {
        let before = backend.counts();
        let mut gather = Gather::with_room(Granule::K4, (), 512).unwrap();
        scattered(&mut gather, count, 2);
        let issued = gather.issue_in_place(&backend, None, &()).unwrap();
        let _ = issued.wait(None, Timeout::DEFAULT).unwrap();
        let done = backend.counts() - before;
        assert_eq!(
            (done.commands_by_address, done.commands_by_context),
            (by_address, by_context)
        );
    }
}

#[test]
fn what_is_unused_between_two_ranges_is_covered_for_nothing() {
    // Three pages of every four, and nobody has the fourth: 31 pages.
    use RangeCommands::{Absent, Supported};
    let cases = [
        (true, Supported, 1),
        (false, Supported, 8),
        (true, Absent, 24),
    ];
    for (unused, range_commands, commands) in cases {
        let slots = Slots::new(1, Fences::Symmetric).unwrap();
        let backend = CountingBackend::with_range_commands(&slots, range_commands);
        let mut gather = Gather::with_room(Granule::K4, (), 16).unwrap();
        for number in (0..8).rev() {
            let at = 0x10_0000 + number * 0x4000;
            gather.leaves(Iova(at), 0x3000, PAGES);
            if unused {
                gather.unused(Iova(at + 0x3000), 0x1000);
            }
        }
        let issued = gather.issue_in_place(&backend, None, &()).unwrap();
        let mut complete = issued.wait(None, Timeout::DEFAULT).unwrap();
        assert_eq!(complete.over_bytes(), 0);
        assert_eq!(backend.counts().commands_by_address, commands);
    }
}

#[test]
fn a_list_beyond_its_room_is_widened_and_does_not_grow() {
    let mut ranges = Ranges::with_room(8).unwrap();
    for page in 0..20_u64 {
        ranges.add(leaf(page << 16, 0x1000, PAGES));
    }
    assert_eq!(ranges.as_slice().len(), 8);
    assert_eq!(ranges.over_bytes(), 12 * 0xf000);
    ranges.settle(&JoinCost::EXACT);
    assert_eq!(ranges.as_slice().len(), 8);
    ranges.clear();
    assert_eq!((ranges.as_slice().len(), ranges.over_bytes()), (0, 0));
}

#[test]
fn a6_the_last_page_of_the_space_is_covered() {
    let mut ranges = Ranges::new();
    ranges.add(leaf(u64::MAX - 0xfff, 0x1000, PAGES));
    ranges.add(leaf(u64::MAX - 0x1fff, 0x1000, PAGES));
    assert_eq!(ranges.as_slice(), [leaf(u64::MAX - 0x1fff, 0x2000, PAGES)]);
}

#[test]
fn the_driver_is_never_called_empty() {
    let backend = Scripted::default();
    let mut gather = Gather::holding(Granule::K4, Some("thing"));
    gather.leaves(Iova(0x1000), 0, PAGES);
    let issued = gather.issue_in_place(&backend, None, &1).unwrap();
    let mut complete = issued.wait(None, Timeout::DEFAULT).unwrap();
    assert_eq!(complete.take_payload(), Some("thing"));
    assert!(backend.calls.lock().is_empty());
}

#[test]
fn s2_the_payload_comes_out_after_the_sync() {
    let backend = Scripted::default();
    let mut gather = Gather::holding(Granule::K4, vec!["first"]);
    gather.leaves(Iova(0x1000), 0x1000, PAGES);
    gather.hold("second");
    let gather = gather.into_unused().expect_err("something was gathered");
    let issued = gather.issue(&backend, None, &1).unwrap();
    assert_eq!(*backend.calls.lock(), ["invalidate", "sync_begin"]);
    let complete = issued.wait(None, Timeout::DEFAULT).unwrap();
    let (payload, tables) = complete.into_payload_and_tables();
    assert_eq!(payload, ["first", "second"]);
    assert!(tables.is_empty());
    assert_eq!(
        *backend.calls.lock(),
        ["invalidate", "sync_begin", "sync_wait"]
    );
}

#[test]
fn a11_an_error_at_any_step_hands_the_gather_back_whole() {
    for step in ["invalidate", "sync_begin", "sync_wait"] {
        let backend = Scripted::default();
        backend.fail.lock().push(step);
        let mut gather = Gather::holding(Granule::K4, Some("thing"));
        gather.leaves(Iova(0x7000), 0x2000, PAGES);
        let again = match gather.issue(&backend, None, &1) {
            Err(error) => error.gather,
            Ok(issued) => issued
                .wait(None, Timeout::DEFAULT)
                .expect_err(step)
                .issued
                .abandon(),
        };
        assert_eq!(again.ranges(), [leaf(0x7000, 0x2000, PAGES)]);
        assert_eq!(again.payload(), &Some("thing"));
        backend.ranges.lock().clear();
        let complete = again
            .issue(&backend, None, &1)
            .unwrap()
            .wait(None, Timeout::DEFAULT)
            .unwrap();
        assert_eq!(complete.into_payload_and_tables().0, Some("thing"));
        assert_eq!(*backend.ranges.lock(), [leaf(0x7000, 0x2000, PAGES)]);
    }
}

#[test]
fn a11_a_proof_of_an_earlier_ticket_is_no_proof() {
    let backend = Scripted {
        behind: 1,
        ..Scripted::default()
    };
    let mut gather = Gather::new(Granule::K4);
    gather.leaves(Iova(0), 0x1000, PAGES);
    let issued = gather.issue_in_place(&backend, None, &1).unwrap();
    let error = issued.wait(None, Timeout(5)).unwrap_err();
    assert!(matches!(error.late, Late::TimedOut { .. }));
    assert!(!gather.is_empty());
}

#[test]
fn s2_pages_give_the_payload_back_after_the_sync() {
    let slots = Slots::new(1, Fences::Symmetric).unwrap();
    let mut slot = slots.enter_fallback();
    let backend = Scripted::default();
    let pages = PagesRange::new(Granule::K4, Iova(0x7000), 0x2000);
    let wait = Timeout::DEFAULT;
    let done = Gather::complete_pages(pages, "thing", &backend, &mut slot, &1, wait);
    assert_eq!(done.unwrap(), "thing");
    assert_eq!(*backend.ranges.lock(), [leaf(0x7000, 0x2000, PAGES)]);
    assert_eq!(
        *backend.calls.lock(),
        ["invalidate", "sync_begin", "sync_wait"]
    );
}

#[test]
fn a11_pages_that_are_not_invalidated_become_a_gather() {
    let slots = Slots::new(1, Fences::Symmetric).unwrap();
    let mut slot = slots.enter_fallback();
    for step in ["invalidate", "sync_begin", "sync_wait", "behind"] {
        let backend = Scripted {
            behind: u64::from(step == "behind"),
            ..Scripted::default()
        };
        backend.fail.lock().push(step);
        let pages = PagesRange::new(Granule::K4, Iova(0x7000), 0x2000);
        let wait = Timeout::DEFAULT;
        let done = Gather::complete_pages(pages, "thing", &backend, &mut slot, &1, wait);
        let (gather, late) = done.expect_err(step).into_gather();
        let failed = BackendError::Rejected { code: 1 };
        let expected = match step {
            "behind" => Late::TimedOut { after: wait },
            _ => Late::Failed(failed),
        };
        assert_eq!(late, expected);
        assert_eq!(gather.ranges(), [leaf(0x7000, 0x2000, PAGES)]);
        assert_eq!(gather.payload(), &Some("thing"));
    }
}

#[test]
fn the_guard_comes_back_from_each_step() {
    let slots = Slots::new(1, Fences::Symmetric).unwrap();
    let mut slot = slots.enter_fallback();
    let backend = Scripted::default();
    let mut gather = Gather::new(Granule::K4);
    gather.leaves(Iova(0), 0x1000, PAGES);
    let issued = gather
        .issue_in_place(&backend, Some(&mut slot), &1)
        .unwrap();
    let _ = issued.wait(Some(&mut slot), Timeout::DEFAULT).unwrap();
}

/// Costs of all kinds: nothing is joined, everything, and what is between.
fn costs() -> impl Strategy<Value = JoinCost> {
    let commands = prop::bool::ANY.prop_map(|some| match some {
        true => RangeCommands::Supported,
        false => RangeCommands::Absent,
    });
    let figures = (0_u64..2000, 0_u64..600, 0_u64..1 << 20);
    (commands, figures).prop_map(
        |(range_commands, (command_ns, refill_ns, in_use_granules))| JoinCost {
            range_commands,
            command_ns,
            refill_ns,
            in_use_granules,
        },
    )
}

proptest! {
    /// As below, for a list, after it was joined by any cost; and what it says it
    /// covers beyond the parts is what it covers.
    #[test]
    fn a6_a_list_that_was_joined_covers_everything(
        parts in prop::collection::btree_map(0_u64..400, (1_i8..=3, prop::bool::weighted(0.1)), 1..40),
        room in 5_usize..60,
        cost in costs(),
    ) {
        let mut ranges = Ranges::with_room(room).unwrap();
        let mut all = Vec::new();
        for (at, (level, is_table)) in parts {
            // Places of 1 GiB, so that no two share an address.
            let lg2 = 12 + 9 * (3 - u32::from(level.unsigned_abs()));
            let part = match is_table {
                true => table(at << 30, 1 << lg2),
                false => leaf(at << 30, 1 << lg2, Level::new(level).unwrap()),
            };
            ranges.add(part);
            all.push(part);
        }
        for settled in [false, true] {
            if settled {
                ranges.settle(&cost);
            }
            for part in &all {
                prop_assert!(ranges.as_slice().iter().any(|range| range.covers(part)));
            }
            let covered: u64 = ranges.as_slice().iter().map(|range| range.len_bytes).sum();
            let asked: u64 = all.iter().map(|part| part.len_bytes).sum();
            prop_assert_eq!(covered, asked + ranges.over_bytes());
        }
        prop_assert!(ranges.as_slice().len() <= room);
    }

    /// Whatever comes in, each part stays covered, at its own level or at all.
    #[test]
    fn a6_gather_covers_everything_in_any_order(
        parts in prop::collection::vec((0_u64..64, 1_u64..8, 1_u32..=3, prop::bool::weighted(0.2)), 1..40)
    ) {
        let mut ranges = Ranges::new();
        let mut all = Vec::new();
        for (at, len, level, is_table) in parts {
            let lg2 = 12 + 9 * (3 - level);
            let part = if is_table {
                table(at << lg2, len << lg2)
            } else {
                leaf(at << lg2, len << lg2, Level::new(level as i8).unwrap())
            };
            ranges.add(part);
            all.push(part);
            for part in &all {
                prop_assert!(
                    ranges.as_slice().iter().any(|range| range.covers(part)),
                    "{part:?} is not in {:?}", ranges.as_slice()
                );
            }
            prop_assert!(ranges.as_slice().len() <= 4);
            for range in ranges.as_slice() {
                // The limits of the TTL hint (Arm IHI 0070, 4.4.1).
                if let Some(level) = range.level {
                    let lg2 = 12 + 9 * (3 - i32::from(level.get())) as u32;
                    prop_assert!(range.iova.is_aligned_lg2(lg2));
                    prop_assert_eq!(range.len_bytes & ((1 << lg2) - 1), 0);
                    prop_assert!(range.leaf_only);
                }
            }
        }
    }
}
