//! Random mixed operations against a map of pages, over several formats.

mod common;

use common::model::{Choices, Machine, arena, run};
use dmabench_pgtable::{Quirks, S1K4, S1K4Lpa2, S1K16, S1K64, S2K4, S2K16, S2K64, TableConfig};
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a5_a6_a7_a10_hold_for_stage_1_4k(bytes in bytes()) {
        run::<S1K4>(TableConfig::new(48, 48), &bytes);
    }

    #[test]
    fn a5_a6_a7_a10_hold_with_dirty_tracking(bytes in bytes()) {
        run::<S1K4>(TableConfig::new(48, 48).with_quirks(Quirks::ARM_HD), &bytes);
    }

    #[test]
    fn a5_a6_a7_a10_hold_for_the_upper_half_without_snooping(bytes in bytes()) {
        let quirks = Quirks::TTBR1 | Quirks::NS;
        run::<S1K4Lpa2>(
            TableConfig::new(52, 52).with_quirks(quirks).with_coherent(false).with_spare_tables(2),
            &bytes,
        );
    }

    #[test]
    fn a5_a6_a7_a10_hold_for_concatenated_roots(bytes in bytes()) {
        run::<S2K4>(TableConfig::new(40, 40), &bytes);
        run::<S2K16>(TableConfig::new(40, 40), &bytes);
    }
}

/// A machine with something mapped in it, and the bytes that map it.
fn machine() -> (Machine<S1K4>, Choices<'static>) {
    let machine = Machine::new(TableConfig::new(48, 48), arena::<S1K4>(), 0);
    (machine, Choices(&[3, 0, 9, 3, 0]))
}

#[test]
#[should_panic(expected = "page ")]
fn a_sweep_sees_a_changed_descriptor() {
    let (mut machine, mut choices) = machine();
    machine.sweep_corrupted(&mut choices);
}

#[test]
#[should_panic(expected = "page ")]
fn asking_for_every_page_sees_a_changed_descriptor() {
    let (mut machine, mut choices) = machine();
    machine.ask_corrupted(&mut choices);
}

#[test]
#[should_panic(expected = "page ")]
fn the_iterator_tells_a_changed_descriptor() {
    let (mut machine, mut choices) = machine();
    machine.iterate_corrupted(&mut choices);
}

#[test]
#[should_panic(expected = "page ")]
fn the_check_of_a_range_sees_a_changed_descriptor() {
    let (mut machine, mut choices) = machine();
    machine.check_corrupted(&mut choices);
}

proptest! {
    // Their windows hold thousands of pages.
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn a5_a6_a7_a10_hold_for_large_granules(bytes in bytes()) {
        run::<S1K16>(TableConfig::new(47, 48), &bytes);
        run::<S1K64>(TableConfig::new(52, 52), &bytes);
        run::<S2K64>(TableConfig::new(42, 44), &bytes);
    }
}
