//! The referee: random sequences of map, unmap, remap, invalidate and DMA on
//! QEMU's SMMUv3, on the software SMMU and by `translate`.
//!
//! Where nothing can be stale, all three agree exactly, events included. Where
//! something can be, each SMMU's outcome is one that the history of the tables
//! allows. `QEMU_SEQUENCES` and `QEMU_SEED` say how many and which.
#![cfg(target_os = "linux")]

#[path = "qemu_referee/history.rs"]
mod history;
mod qemu_support;
#[path = "qemu_referee/sequence.rs"]
mod sequence;
#[path = "qemu_referee/side.rs"]
mod side;

use std::sync::Arc;

use dmabench_pgtable::{S1K4, S1K16, S1K64, S2K4, S2K16, S2K64};
use dmabench_platform::{PhysAddr, VirtualClock};
use dmabench_smmu::{
    SmmuHost,
    driver::{Smmu, SmmuConfig},
    format::{IdRegisters, registers as reg},
    qemu::QemuConfig,
    soft::{ModelConfig, SimMemory, SimMemoryConfig, SmmuModel},
};
use qemu_support::start;
use sequence::{Court, Flaw, Tally, run};

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
        Err(_) => default,
    }
}

fn court(test: &str) -> Option<Court> {
    let config = QemuConfig::default()
        .with_ram_bytes(2 << 30)
        .with_cards(&[1 << 20, 1 << 20]);
    let qemu = start(test, config)?;
    let host = qemu.smmu();
    // The software SMMU has QEMU's features.
    let ids = IdRegisters {
        idr0: host.read32(reg::IDR0),
        idr1: host.read32(reg::IDR1),
        idr3: host.read32(reg::IDR3),
        idr5: host.read32(reg::IDR5),
    };
    let ram = qemu.ram().clone();
    let driver = Smmu::new(host, ram.clone(), SmmuConfig::default()).unwrap();
    // Tables where no data is, and inside of 44 bits.
    let place = SimMemoryConfig::default().with_tables_at(PhysAddr(1 << 40), 1 << 30);
    let memory = SimMemory::new(place).unwrap();
    let clock = Arc::new(VirtualClock::default());
    let model = SmmuModel::new(memory.clone(), clock, ModelConfig::default().with_ids(ids));
    let soft = Smmu::new(model.clone(), memory.clone(), SmmuConfig::default()).unwrap();
    Some(Court {
        driver: Arc::new(driver),
        soft: Arc::new(soft),
        model,
        memory,
        hosts: vec![qemu.sd_host(0).unwrap(), qemu.sd_host(1).unwrap()],
        list: ram.alloc(64 << 10, 64 << 10).unwrap(),
        data: ram.alloc(1 << 30, 1 << 30).unwrap(),
        qemu,
        stamps: 0,
    })
}

/// Sequence `index` of those that begin with `seed`: the granules in turn, and
/// the stages that this QEMU has.
fn play(court: &mut Court, seed: u64, index: u64, flaw: Flaw) -> Result<Tally, String> {
    let seed = seed + index;
    let stages = if court.driver.features().stage2 { 2 } else { 1 };
    match index % (3 * stages) {
        0 => run::<S1K4>(court, seed, flaw),
        1 => run::<S1K16>(court, seed, flaw),
        2 => run::<S1K64>(court, seed, flaw),
        3 => run::<S2K4>(court, seed, flaw),
        4 => run::<S2K16>(court, seed, flaw),
        _ => run::<S2K64>(court, seed, flaw),
    }
}

#[test]
fn qemu_the_software_smmu_and_translate_agree() {
    let Some(mut court) = court("qemu_the_software_smmu_and_translate_agree") else {
        return;
    };
    let (sequences, seed) = (number("QEMU_SEQUENCES", 300), number("QEMU_SEED", 1));
    let mut sum = Tally::default();
    for index in 0..sequences {
        let tally =
            play(&mut court, seed, index, Flaw::None).unwrap_or_else(|what| panic!("{what}"));
        sum.exact += tally.exact;
        sum.stopped += tally.stopped;
        sum.open += tally.open;
        sum.stale += tally.stale;
        sum.same += tally.same;
        sum.blocks += tally.blocks;
        sum.tables += tally.tables;
        sum.silent += tally.silent;
    }
    println!("{sequences} sequences from seed {seed}: {sum:?}");
    // It was about something.
    let each = |count: u64| count / sequences;
    if sequences >= 100 {
        assert!(each(sum.exact) >= 5 && each(sum.open) >= 1, "{sum:?}");
        assert!(
            sum.stopped > sequences && sum.stale > sequences / 2,
            "{sum:?}"
        );
        assert!(
            sum.blocks > sequences / 10 && sum.tables > sequences / 10,
            "{sum:?}"
        );
    }
}

/// An SMMU that is not told of an invalidation is caught.
fn caught(test: &str, flaw: Flaw, who: &str) {
    let Some(mut court) = court(test) else { return };
    let found = (0..60).find_map(|index| play(&mut court, 1000, index, flaw).err());
    let found = found.expect("60 sequences do not see it");
    assert!(found.contains(who), "{found}");
}

#[test]
fn the_referee_sees_invalidations_that_qemu_missed() {
    caught(
        "the_referee_sees_invalidations_that_qemu_missed",
        Flaw::QemuNotTold,
        "QEMU",
    );
}

#[test]
fn the_referee_sees_invalidations_that_the_software_smmu_missed() {
    caught(
        "the_referee_sees_invalidations_that_the_software_smmu_missed",
        Flaw::SoftNotTold,
        "software",
    );
}
