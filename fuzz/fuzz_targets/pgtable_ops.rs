//! Random operations on a page table beside a map of pages; after every step the
//! table memory is checked for leaks and undefined bits.
#![no_main]

#[path = "../../pgtable/tests/common/mod.rs"]
mod common;

use common::model::run;
use dmabench_pgtable::{Quirks, S1K4, S1K4Lpa2, S2K16, TableConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((format, rest)) = data.split_first() else {
        return;
    };
    // Long inputs only repeat what short ones find.
    let rest = &rest[..rest.len().min(512)];
    match format % 4 {
        0 => run::<S1K4>(TableConfig::new(48, 48), rest),
        1 => run::<S1K4>(TableConfig::new(40, 44).with_quirks(Quirks::ARM_HD), rest),
        2 => run::<S1K4Lpa2>(
            TableConfig::new(52, 52)
                .with_quirks(Quirks::TTBR1)
                .with_coherent(false)
                .with_spare_tables(1),
            rest,
        ),
        _ => run::<S2K16>(TableConfig::new(40, 40), rest),
    }
});
