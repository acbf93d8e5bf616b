//! Random operations on a page table beside a map of pages. After every step the
//! table memory is checked for leaks and undefined bits, and the pages about the
//! step are asked for; after every n-th step, n from the input, and at the end the
//! whole space is compared.
#![no_main]

#[path = "../../pgtable/tests/common/mod.rs"]
mod common;

use std::sync::Arc;

use common::{arena::Arena, model};
use dmabench_pgtable::{Format, Quirks, S1K4, S1K4Lpa2, S2K4, S2K16, TableConfig};
use libfuzzer_sys::fuzz_target;

thread_local! {
    /// One for all runs: a fresh one costs more than many a run.
    static ARENA: Arc<Arena> = model::arena::<S2K16>();
}

fn run<F: Format>(config: TableConfig, bytes: &[u8]) {
    ARENA.with(|arena| {
        model::run_in::<F>(config, arena.clone(), bytes);
        arena.reset();
    });
}

fuzz_target!(|data: &[u8]| {
    let Some((format, rest)) = data.split_first() else {
        return;
    };
    // Long inputs only repeat what short ones find.
    let rest = &rest[..rest.len().min(512)];
    // Small roots: the last look goes through the whole of one, and a run is over
    // before that where it has tens of thousands of entries. The property test has
    // the large ones.
    match format % 5 {
        0 => run::<S1K4>(TableConfig::new(42, 48), rest),
        1 => run::<S1K4>(TableConfig::new(40, 44).with_quirks(Quirks::ARM_HD), rest),
        2 => run::<S1K4Lpa2>(
            TableConfig::new(52, 52)
                .with_quirks(Quirks::TTBR1)
                .with_coherent(false)
                .with_spare_tables(1),
            rest,
        ),
        // Two tables side by side.
        3 => run::<S2K4>(TableConfig::new(40, 40), rest),
        _ => run::<S2K16>(TableConfig::new(38, 44), rest),
    }
});
