use alloc::{vec, vec::Vec};
use core::convert::Infallible;

use dmabench_platform::{Granule, PhysAddr};

use super::*;
use crate::format::{CdFields, Stage2Fields, SteFields, TableHalf};

/// Memory that checks after every 64-bit store what an SMMU would read.
struct Watched {
    kind: EntryKind,
    words: Words,
    start: Words,
    target: Words,
    stores: usize,
    /// The entry was not valid at some moment.
    broken: bool,
}

impl Watched {
    fn new(kind: EntryKind, start: Words, target: Words) -> Self {
        Watched {
            kind,
            words: start,
            start,
            target,
            stores: 0,
            broken: start[0] & kind.valid() == 0,
        }
    }

    /// Not valid, or on its used bits equal to one of the two entries.
    fn check(&mut self) {
        if self.words[0] & self.kind.valid() == 0 {
            self.broken = true;
            return;
        }
        let used = self.kind.used(&self.words);
        let free = self.kind.indifferent(&self.start, &self.target);
        let is = |entry: &Words| {
            let theirs = self.kind.used(entry);
            (0..8).all(|w| {
                let mask = (used[w] | theirs[w]) & !free[w];
                (self.words[w] ^ entry[w]) & mask & used[w] == 0
            })
        };
        assert!(
            is(&self.start) || is(&self.target),
            "after {} stores the SMMU reads neither:\n{:x?}\nfrom {:x?}\nto   {:x?}",
            self.stores,
            self.words,
            self.start,
            self.target
        );
    }
}

impl EntryMemory for Watched {
    fn load(&self, index: usize) -> u64 {
        self.words[index]
    }
    fn store(&mut self, index: usize, value: u64) {
        self.words[index] = value;
        self.stores += 1;
        self.check();
    }
}

/// Number of syncs and how it went; checks every store on the way.
fn update(kind: EntryKind, start: Words, target: Words) -> (usize, UpdateKind) {
    let mut memory = Watched::new(kind, start, target);
    let mut syncs = 0;
    let done = update_entry(kind, &mut memory, &target, false, || {
        syncs += 1;
        Ok::<_, Infallible>(())
    });
    let Ok(done) = done;
    assert_eq!(memory.words, target);
    assert_eq!(
        memory.broken,
        done == UpdateKind::Broke || start == target && memory.broken
    );
    (syncs, done)
}

fn cdtable(dss: u8, pointer: u64) -> Words {
    let mut fields = SteFields::stage1(PhysAddr(pointer), 3);
    fields.s1_dss = dss;
    if dss == 1 {
        fields.shcfg = 1;
    }
    fields.encode().0
}

fn s2_fields() -> Stage2Fields {
    Stage2Fields {
        t0sz: 24,
        sl0: 1,
        ttb: PhysAddr(0x8000_0000),
        ..Stage2Fields::default()
    }
}

const ABORT: Words = SteFields::abort().encode().0;
const BYPASS: Words = SteFields::bypass().encode().0;

/// The rows of the kernel's table: (from, to, hitless, syncs there, syncs back).
#[test]
fn the_24_transitions_of_the_kernels_table() {
    let table = cdtable(2, 0x4000);
    let dss_bypass = cdtable(1, 0x4000);
    let new_pointer = cdtable(0, 0x8_0000);
    let s2 = SteFields::stage2(s2_fields()).encode().0;
    let mut stalled = SteFields::stage1(PhysAddr(0x4000), 3);
    stalled.s1_stall_disabled = true;
    let stalled = stalled.encode().0;
    let mut s2_stalled = s2_fields();
    s2_stalled.stall = true;
    let s2_stalled = SteFields::stage2(s2_stalled).encode().0;
    let mut nested = SteFields::nested(PhysAddr(0x4000), 3, s2_fields());
    nested.s1_dss = 1;
    nested.eats = 1;
    nested.merge_events = true;
    let nested = nested.encode().0;
    let rows = [
        (BYPASS, ABORT, true, 2, 2),
        (table, ABORT, true, 2, 2),
        (table, BYPASS, true, 3, 3),
        (table, dss_bypass, true, 1, 1),
        (dss_bypass, BYPASS, true, 2, 2),
        (s2, ABORT, true, 2, 2),
        (s2, BYPASS, true, 2, 2),
        (table, s2, true, 3, 3),
        (table, new_pointer, false, 3, 3),
        (stalled, s2_stalled, true, 3, 3),
        (nested, s2, true, 3, 2),
    ];
    for (row, (from, to, hitless, there, back)) in rows.into_iter().enumerate() {
        let kind = if hitless {
            UpdateKind::Hitless
        } else {
            UpdateKind::Broke
        };
        assert_eq!(update(EntryKind::Ste, from, to), (there, kind), "row {row}");
        assert_eq!(
            update(EntryKind::Ste, to, from),
            (back, kind),
            "row {row} back"
        );
    }
    let empty = [0; 8];
    let low = TableHalf::new(PhysAddr(0xabc0_0000), 16, Granule::K4);
    let s1 = CdFields::new(778, low, 5, 0xff44).encode().0;
    let other_asid = CdFields::new(1997, low, 5, 0xff44).encode().0;
    let sva = CdFields {
        affd: true,
        aset: false,
        ..CdFields::new(9, low, 5, 0xff44)
    };
    let released = CdFields {
        low: TableHalf {
            granule: Some(Granule::K4),
            ..TableHalf::DISABLED
        },
        ..sva
    };
    let (sva, released) = (sva.encode().0, released.encode().0);
    for (from, to, hitless, there, back) in [
        (empty, s1, false, 2, 2),
        (s1, other_asid, true, 1, 1),
        (empty, sva, false, 2, 2),
        (sva, released, true, 2, 2),
    ] {
        let kind = if hitless {
            UpdateKind::Hitless
        } else {
            UpdateKind::Broke
        };
        assert_eq!(update(EntryKind::Cd, from, to), (there, kind));
        assert_eq!(update(EntryKind::Cd, to, from), (back, kind));
    }
}

/// Every entry our code can build.
fn all_stes() -> Vec<Words> {
    let mut all = vec![[0; 8], ABORT, BYPASS];
    for pointer in [0x4000, 0x1_8000_0000] {
        for (stall_disabled, cd_max) in [(false, 0), (true, 0), (false, 4), (true, 4)] {
            for dss in 0..=2 {
                for eats in 0..=2 {
                    for nested in [false, true] {
                        for vmid in [0, 7] {
                            let s2 = Stage2Fields {
                                vmid,
                                fwb: stall_disabled,
                                ..s2_fields()
                            };
                            let mut ste = if nested {
                                SteFields::nested(PhysAddr(pointer), cd_max, s2)
                            } else {
                                SteFields::stage1(PhysAddr(pointer), cd_max)
                            };
                            ste.s1_dss = dss;
                            ste.s1_stall_disabled = stall_disabled;
                            ste.eats = eats;
                            ste.shcfg = u8::from(nested || dss == 1);
                            all.push(ste.encode().0);
                        }
                    }
                }
            }
        }
    }
    for vmid in [0, 7] {
        for stall in [false, true] {
            for eats in 0..=1 {
                for ttb in [0x8000_0000, 0x9000_0000] {
                    let mut ste = SteFields::stage2(Stage2Fields {
                        vmid,
                        stall,
                        ttb: PhysAddr(ttb),
                        ..s2_fields()
                    });
                    ste.eats = eats;
                    all.push(ste.encode().0);
                }
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn all_cds() -> Vec<Words> {
    let mut all = vec![[0; 8]];
    for asid in [1, 0xffff] {
        for base in [0x1000, 0xf_0000_0000] {
            for txsz in [16, 25] {
                for stall in [false, true] {
                    for (low, high) in [(true, false), (false, true), (true, true), (false, false)]
                    {
                        let half = TableHalf::new(PhysAddr(base), txsz, Granule::K16);
                        let off = TableHalf {
                            granule: Some(Granule::K4),
                            ..TableHalf::DISABLED
                        };
                        let high_off = TableHalf {
                            granule: None,
                            ..off
                        };
                        all.push(
                            CdFields {
                                stall,
                                high: if high { half } else { high_off },
                                ..CdFields::new(asid, if low { half } else { off }, 5, 0xff)
                            }
                            .encode()
                            .0,
                        );
                    }
                }
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Every pair, and every intermediate store (the checks are in `Watched`).
#[test]
fn brute_force_over_all_pairs_of_entries() {
    for (kind, all) in [(EntryKind::Ste, all_stes()), (EntryKind::Cd, all_cds())] {
        assert!(all.len() > 40);
        let mut hitless = 0;
        for from in &all {
            for to in &all {
                let (syncs, done) = update(kind, *from, *to);
                assert!(syncs <= 3);
                assert_eq!(syncs == 0, from == to);
                hitless += u32::from(done == UpdateKind::Hitless);
            }
        }
        assert!(hitless > 0);
    }
}

/// A writer that does not care is caught by the same memory.
#[test]
fn a_torn_update_is_noticed() {
    let from = cdtable(2, 0x4000);
    let to = SteFields::stage2(Stage2Fields {
        vmid: 7,
        ..s2_fields()
    })
    .encode()
    .0;
    let torn = std::panic::catch_unwind(|| {
        let mut memory = Watched::new(EntryKind::Ste, from, to);
        write(&mut memory, &to);
    });
    assert!(torn.is_err());
}

#[test]
fn a11_an_update_whose_sync_fails_can_be_taken_up_again() {
    let entries = all_stes();
    for (n, from) in entries.iter().enumerate().step_by(7) {
        let to = &entries[(n * 5 + 3) % entries.len()];
        for fail_at in 1..=3 {
            let mut memory = Watched::new(EntryKind::Ste, *from, *to);
            let mut syncs = 0;
            let first = update_entry(EntryKind::Ste, &mut memory, to, false, || {
                syncs += 1;
                if syncs == fail_at { Err(()) } else { Ok(()) }
            });
            if first.is_ok() {
                continue;
            }
            let mut again = 0;
            let second = update_entry(EntryKind::Ste, &mut memory, to, true, || {
                again += 1;
                Ok::<_, ()>(())
            });
            assert!(second.is_ok() && again > 0, "the SMMU was told");
            assert_eq!(memory.words, *to);
        }
    }
}
