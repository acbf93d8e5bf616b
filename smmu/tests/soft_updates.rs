//! Changing a stream table entry word by word, while the SMMU may read it at any
//! time: what a device sees between the stores.
//!
//! The entry is read afresh after every store, which is what a real SMMU may do
//! at any time. An order of stores that lets the device reach a third place,
//! neither the old nor the new one, is *torn*.

mod common;

use common::rig::*;
use dmabench_pgtable::TableMemory;
use dmabench_platform::{Granule, PhysAddr};
use dmabench_smmu::{
    format::{Ste, SteFields, TableHalf},
    soft::{Access, FaultKind, Outcome},
};

/// What the device gets at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    Place(u64),
    Stopped(FaultKind),
}

fn look(rig: &Rig) -> Sees {
    rig.invalidate_config(SID);
    match rig.device().probe(IOVA, Access::Write) {
        Outcome::Reached { phys, .. } => Sees::Place(phys.0),
        Outcome::Faulted(fault) => Sees::Stopped(fault.kind),
    }
}

fn store(rig: &Rig, word: usize, value: u64) {
    let at = PhysAddr(rig.strtab.0 + u64::from(SID) * 64 + 8 * word as u64);
    rig.memory.write_u64(at, value).unwrap();
}

/// Plays the stores and returns what was seen after each.
fn play(from: &Ste, stores: &[(usize, u64)], rig: &Rig) -> Vec<Sees> {
    rig.ste(SID, from);
    let mut seen = vec![look(rig)];
    for (word, value) in stores {
        store(rig, *word, *value);
        seen.push(look(rig));
    }
    seen
}

/// Stage 2 on the left, stage 1 on the right: three words differ.
fn ends(rig: &Rig) -> (Ste, Ste) {
    let root = rig.memory.alloc(8192).unwrap().phys;
    rig.words(
        PhysAddr(root.0 + (IOVA.0 >> 30) * 8),
        &[0x20_0000_0000 | 0x7fd],
    );
    let stage2 = dmabench_smmu::format::Stage2Fields {
        vmid: 9,
        t0sz: 24,
        sl0: 1,
        ttb: root,
        ..Default::default()
    };
    let cds = rig.memory.alloc(4096).unwrap().phys;
    let half = TableHalf::new(rig.tables(PHYS), 25, Granule::K4);
    let cd = dmabench_smmu::format::CdFields::new(ASID, half, 5, 0xff44);
    rig.words(cds, &cd.encode().0);
    (
        valid(SteFields::stage2(stage2)),
        valid(SteFields::stage1(cds, 0)),
    )
}

const OLD: Sees = Sees::Place(0x20_0000_0000 + (IOVA.0 & 0x3fff_ffff));
const NEW: Sees = Sees::Place(PHYS);

fn is_torn(seen: &[Sees]) -> bool {
    seen.iter().any(|s| {
        let aborted = matches!(s, Sees::Stopped(FaultKind::BadSte | FaultKind::Aborted));
        *s != OLD && *s != NEW && !aborted
    })
}

#[test]
fn a4_break_before_make_is_never_torn() {
    let rig = Rig::at_once();
    let (old, new) = ends(&rig);
    // V = 0 first, the other words, and the first word last (3.21.3.1).
    let mut stores = vec![(0, 0)];
    stores.extend((1..8).map(|word| (word, new.0[word])));
    stores.push((0, new.0[0]));
    let seen = play(&old, &stores, &rig);
    assert!(!is_torn(&seen), "{seen:?}");
    assert_eq!((seen[0], seen[9]), (OLD, NEW));
    assert!(
        seen[1..9]
            .iter()
            .all(|s| *s == Sees::Stopped(FaultKind::BadSte))
    );
    assert_eq!(rig.violations(), []);
}

#[test]
fn a4_a_hitless_order_shows_only_the_two_ends() {
    let rig = Rig::at_once();
    let (old, new) = ends(&rig);
    // What stage 2 does not use first, then the switch, then the rest.
    let stores = [(1, new.0[1]), (0, new.0[0]), (2, new.0[2]), (3, new.0[3])];
    let seen = play(&old, &stores, &rig);
    assert_eq!(seen, [OLD, OLD, NEW, NEW, NEW]);
}

/// Stage 1 to stage 2 with the words in the order of memory: the switch comes
/// before the table it switches to.
#[test]
fn a4_a_torn_entry_is_seen() {
    let rig = Rig::at_once();
    let (new, old) = ends(&rig);
    let stores: Vec<_> = (0..8).map(|word| (word, new.0[word])).collect();
    let seen = play(&old, &stores, &rig);
    assert_eq!((seen[0], seen[8]), (NEW, OLD));
    // The first word switches to stage 2 while the table is still that of
    // nobody: an entry that is neither the old nor the new one.
    assert_eq!(seen[1], Sees::Stopped(FaultKind::BadSte));
    assert!(!seen[..4].contains(&OLD), "the device is cut off meanwhile");
}

/// Another context table and another `S1DSS` with it cannot be had in one store.
/// With the table first, transactions use the new one as they used the old one,
/// which is what neither entry says.
#[test]
fn a4_two_words_that_belong_together_show_a_mixture() {
    let rig = Rig::at_once();
    let context = |asid, phys| {
        let cds = rig.memory.alloc(65536).unwrap().phys;
        let half = TableHalf::new(rig.tables(phys), 25, Granule::K4);
        let cd = dmabench_smmu::format::CdFields::new(asid, half, 5, 0xff44);
        rig.words(cds, &cd.encode().0);
        SteFields::stage1(cds, 8)
    };
    let mut old = context(ASID, PHYS);
    let mut new = context(ASID + 1, 0x20_0000_0000 + (IOVA.0 & 0x3fff_ffff));
    (old.s1_dss, new.s1_dss) = (2, 1);
    let (old, new) = (valid(old), valid(new));
    let ends = [Sees::Place(PHYS), Sees::Place(IOVA.0)];
    for order in [[0, 1], [1, 0]] {
        let stores = order.map(|word| (word, new.0[word]));
        let seen = play(&old, &stores, &rig);
        assert_eq!([seen[0], seen[2]], ends);
        let mixed = !ends.contains(&seen[1]);
        assert_eq!(mixed, order == [0, 1], "{seen:?}");
    }
}
