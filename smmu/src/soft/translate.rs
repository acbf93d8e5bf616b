//! From an address to where it leads: once by the tables alone (the truth), once
//! through everything the SMMU remembers (what a device gets).

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};

use dmabench_platform::{Granule, PhysAddr};

use super::{
    memory::SimMemory,
    regs::Geometry,
    report::{Access, FaultKind, Stage},
    tlb::{Entry, NEVER, Space, WalkEntry},
    walk::{self, Decoded, Leaf, Rights},
};

/// Whose entries these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tag {
    /// Stage 1, of one ASID.
    Asid { vmid: u16, asid: u16 },
    /// Stage 1, of every ASID of a VMID (nG = 0).
    Global { vmid: u16 },
    /// Stage 2 alone.
    Stage2 { vmid: u16 },
}

/// How the accesses of a stream are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Regime {
    pub(super) vmid: u16,
    pub(super) stage1: Option<(u16, [Option<Geometry>; 2])>,
    pub(super) stage2: Option<Geometry>,
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) kind: FaultKind,
    pub(super) stage: Stage,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) phys: u64,
    pub(super) rights: Rights,
}

/// What a translation met on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    /// A descriptor was read from a table that had been given back.
    pub(super) freed: bool,
    /// An entry was used whose invalidation had completed.
    pub(super) condemned: bool,
}

/// Where a walk stands.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    level: i8,
    table: u64,
    loses: Rights,
    /// Nested: `table` has been through stage 2 already.
    resolved: bool,
}

impl Cursor {
    fn root(geometry: &Geometry) -> Self {
        Cursor {
            level: geometry.start,
            table: geometry.base,
            loses: Rights::NONE,
            resolved: false,
        }
    }

    /// At the table that a descriptor leads to.
    fn below(&self, table: u64, loses: Rights) -> Self {
        Cursor {
            level: self.level + 1,
            table,
            loses: self.loses.or(loses),
            resolved: false,
        }
    }

    /// Address of the descriptor for `address`.
    fn descriptor(&self, geometry: &Geometry, address: u64) -> u64 {
        let mut index = address >> geometry.shift(self.level);
        if self.level == geometry.start {
            // The first level may hold several tables in a row, and has no
            // bits beyond the input size.
            let bits = geometry.input_bits - geometry.shift(self.level);
            index &= (1 << bits) - 1;
        } else {
            index &= (1 << geometry.granule.index_bits()) - 1;
        }
        self.table + index * 8
    }
}

fn stage_of(geometry: &Geometry) -> Stage {
    if geometry.stage2 {
        Stage::Two
    } else {
        Stage::One
    }
}

/// Reads and decodes the descriptor at `phys`.
fn fetch(
    memory: &SimMemory,
    geometry: &Geometry,
    level: i8,
    phys: u64,
    notes: &mut Notes,
) -> Result<(Decoded, u64), Stop> {
    let (descriptor, freed) = memory.fetch(PhysAddr(phys));
    notes.freed |= freed;
    match walk::decode(geometry, level, descriptor) {
        Ok(decoded) => Ok((decoded, descriptor)),
        Err(kind) => Err(Stop {
            kind,
            stage: stage_of(geometry),
        }),
    }
}

/// The half of stage 1 that translates `address`, if the address is inside it.
fn select(halves: &[Option<Geometry>; 2], address: u64) -> Result<&Geometry, Stop> {
    let high = address >> 63 != 0;
    let stop = Stop {
        kind: FaultKind::Translation,
        stage: Stage::One,
    };
    let geometry = halves[usize::from(high)].as_ref().ok_or(stop)?;
    let top = address >> geometry.input_bits;
    let inside = if high {
        top == u64::MAX >> geometry.input_bits
    } else {
        top == 0
    };
    if inside { Ok(geometry) } else { Err(stop) }
}

fn check_input(geometry: &Geometry, address: u64) -> Result<(), Stop> {
    if address >> geometry.input_bits != 0 {
        return Err(Stop {
            kind: FaultKind::Translation,
            stage: Stage::Two,
        });
    }
    Ok(())
}

/// What the access flag and the rights of a leaf make of `access`: the rights
/// it has, with the descriptor the walker would write back if it manages the
/// flags.
fn admit(
    geometry: &Geometry,
    leaf: &Leaf,
    loses: Rights,
    access: Access,
    descriptor: u64,
) -> Result<(Rights, u64), Stop> {
    let stop = |kind| Stop {
        kind,
        stage: stage_of(geometry),
    };
    let mut updated = descriptor;
    if !leaf.accessed && !geometry.affd {
        if !geometry.ha {
            return Err(stop(FaultKind::AccessFlag));
        }
        updated |= walk::AF;
    }
    let mut rights = leaf.rights.without(loses);
    let needed = Rights::needed(access);
    let may_dirty = geometry.hd && leaf.dbm && access == Access::Write;
    if may_dirty && !rights.has(Rights::WRITE) && !loses.has(Rights::WRITE) {
        rights = rights.or(Rights::WRITE);
        // Stage 1: AP[2] says read-only. Stage 2: S2AP[1] says writable.
        updated ^= walk::AP2;
    }
    if !rights.has(needed) {
        return Err(stop(FaultKind::Permission));
    }
    Ok((rights, updated))
}

/// Where the tables alone say that `address` leads. Changes nothing.
pub(super) fn truth(
    memory: &SimMemory,
    regime: &Regime,
    address: u64,
    access: Access,
    notes: &mut Notes,
) -> Result<Target, Stop> {
    let Some((_, halves)) = &regime.stage1 else {
        return match &regime.stage2 {
            Some(geometry) => truth_of_stage2(memory, geometry, address, access, notes),
            None => Ok(Target {
                phys: address,
                rights: Rights::ALL,
            }),
        };
    };
    let geometry = select(halves, address)?;
    let mut cursor = Cursor::root(geometry);
    loop {
        let mut at = cursor.descriptor(geometry, address);
        if let Some(second) = &regime.stage2 {
            at = truth_of_stage2(memory, second, at, Access::Read, notes)?.phys;
        }
        let (decoded, descriptor) = fetch(memory, geometry, cursor.level, at, notes)?;
        match decoded {
            Decoded::Table { address, loses } => {
                cursor = cursor.below(address, loses);
            }
            Decoded::Leaf(leaf) => {
                let (rights, _) = admit(geometry, &leaf, cursor.loses, access, descriptor)?;
                let phys = leaf.address | address & ((1 << geometry.shift(cursor.level)) - 1);
                let Some(second) = &regime.stage2 else {
                    return Ok(Target { phys, rights });
                };
                let end = truth_of_stage2(memory, second, phys, access, notes)?;
                return Ok(Target {
                    phys: end.phys,
                    rights: rights.and(end.rights),
                });
            }
        }
    }
}

pub(super) fn truth_of_stage2(
    memory: &SimMemory,
    geometry: &Geometry,
    address: u64,
    access: Access,
    notes: &mut Notes,
) -> Result<Target, Stop> {
    check_input(geometry, address)?;
    let mut cursor = Cursor::root(geometry);
    loop {
        let at = cursor.descriptor(geometry, address);
        let (decoded, descriptor) = fetch(memory, geometry, cursor.level, at, notes)?;
        match decoded {
            Decoded::Table { address, loses } => {
                cursor = cursor.below(address, loses);
            }
            Decoded::Leaf(leaf) => {
                let (rights, _) = admit(geometry, &leaf, cursor.loses, access, descriptor)?;
                let phys = leaf.address | address & ((1 << geometry.shift(cursor.level)) - 1);
                return Ok(Target { phys, rights });
            }
        }
    }
}

/// A finished walk through the caches.
struct Walked {
    leaf: Leaf,
    rights: Rights,
    level: i8,
    /// Size of what may be cached: the leaf, or its contiguous run.
    lg2: u32,
}

/// Everything the SMMU remembers.
#[derive(Default)]
pub(super) struct Caches {
    pub(super) spaces: BTreeMap<Tag, Space>,
    /// Counts steps, so that entries have an age that no clock needs to tell.
    pub(super) step: u64,
}

/// What a device gets.
pub(super) struct Answer<'c> {
    pub(super) target: Target,
    /// The entry the answer came from or went to. `None` for a bypass.
    pub(super) entry: Option<&'c mut Entry>,
    pub(super) hit: bool,
}

impl Caches {
    fn next_step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    /// Where `address` leads, as far as the SMMU remembers; what it does not
    /// remember it reads, and remembers from then on.
    pub(super) fn answer(
        &mut self,
        memory: &SimMemory,
        regime: &Regime,
        address: u64,
        access: Access,
        now: u64,
        notes: &mut Notes,
    ) -> Result<Answer<'_>, Stop> {
        let vmid = regime.vmid;
        let Some((asid, halves)) = &regime.stage1 else {
            return match &regime.stage2 {
                Some(geometry) => {
                    self.answer_of_stage2(memory, vmid, geometry, address, access, now, notes)
                }
                None => Ok(Answer {
                    target: Target {
                        phys: address,
                        rights: Rights::ALL,
                    },
                    entry: None,
                    hit: false,
                }),
            };
        };
        let geometry = select(halves, address)?;
        let own = Tag::Asid { vmid, asid: *asid };
        let tags = [own, Tag::Global { vmid }];
        if let Some((tag, target)) = self.look_up(tags, Stage::One, address, access, notes)? {
            return self.with_entry(tag, address, target, true);
        }
        let mut cursor = self.start(own, geometry, address, notes);
        let (walked, mut end) = loop {
            let read = Access::Read;
            let mut at = cursor.descriptor(geometry, address);
            if let Some(second) = &regime.stage2
                && !cursor.resolved
            {
                let table = self.answer_of_stage2(memory, vmid, second, at, read, now, notes)?;
                at = table.target.phys;
            }
            match descend(memory, geometry, &cursor, at, access, notes)? {
                Ok(mut next) => {
                    // A 4K table lies in one page of stage 2, so its final
                    // address may be remembered; a larger one may not.
                    if let Some(second) = &regime.stage2
                        && geometry.granule == Granule::K4
                    {
                        let ipa = next.table;
                        let table =
                            self.answer_of_stage2(memory, vmid, second, ipa, read, now, notes)?;
                        next.table = table.target.phys;
                        next.resolved = true;
                    }
                    self.remember_table(own, geometry, &next, address);
                    cursor = next;
                }
                Err(walked) => {
                    let offset = address & ((1 << geometry.shift(walked.level)) - 1);
                    let end = walked.leaf.address | offset;
                    break (walked, end);
                }
            }
        };
        let mut rights = walked.rights;
        let mut lg2 = walked.lg2;
        if let Some(second) = &regime.stage2 {
            let answer = self.answer_of_stage2(memory, vmid, second, end, access, now, notes)?;
            end = answer.target.phys;
            rights = rights.and(answer.target.rights);
            // The combined entry is no larger than a page: it holds for every
            // size that stage 2 may have there.
            lg2 = 12;
        }
        let tag = if walked.leaf.global {
            Tag::Global { vmid }
        } else {
            own
        };
        let target = Target { phys: end, rights };
        self.remember(tag, geometry, &walked, lg2, address, target, now);
        self.with_entry(tag, address, target, false)
    }

    #[allow(clippy::too_many_arguments)] // The state of one walk; a struct for it would be used once.
    fn answer_of_stage2(
        &mut self,
        memory: &SimMemory,
        vmid: u16,
        geometry: &Geometry,
        address: u64,
        access: Access,
        now: u64,
        notes: &mut Notes,
    ) -> Result<Answer<'_>, Stop> {
        check_input(geometry, address)?;
        let tag = Tag::Stage2 { vmid };
        if let Some((tag, target)) = self.look_up([tag], Stage::Two, address, access, notes)? {
            return self.with_entry(tag, address, target, true);
        }
        let mut cursor = self.start(tag, geometry, address, notes);
        let walked = loop {
            let at = cursor.descriptor(geometry, address);
            match descend(memory, geometry, &cursor, at, access, notes)? {
                Ok(next) => {
                    self.remember_table(tag, geometry, &next, address);
                    cursor = next;
                }
                Err(walked) => break walked,
            }
        };
        let offset = address & ((1 << geometry.shift(walked.level)) - 1);
        let target = Target {
            phys: walked.leaf.address | offset,
            rights: walked.rights,
        };
        self.remember(tag, geometry, &walked, walked.lg2, address, target, now);
        self.with_entry(tag, address, target, false)
    }

    /// What is cached for `address`, if that settles the access.
    fn look_up<const N: usize>(
        &mut self,
        tags: [Tag; N],
        stage: Stage,
        address: u64,
        access: Access,
        notes: &mut Notes,
    ) -> Result<Option<(Tag, Target)>, Stop> {
        for tag in tags {
            let Some(space) = self.spaces.get_mut(&tag) else {
                continue;
            };
            let Some((entry, lg2)) = space.find(address) else {
                continue;
            };
            let needed = Rights::needed(access);
            if !entry.rights.has(needed) {
                // The first write to a clean entry is the walker's business.
                if entry.dbm && access == Access::Write {
                    return Ok(None);
                }
                notes.condemned |= entry.condemned;
                return Err(Stop {
                    kind: FaultKind::Permission,
                    stage,
                });
            }
            notes.condemned |= entry.condemned;
            let target = Target {
                phys: entry.phys | address & ((1 << lg2) - 1),
                rights: entry.rights,
            };
            return Ok(Some((tag, target)));
        }
        Ok(None)
    }

    fn with_entry(
        &mut self,
        tag: Tag,
        address: u64,
        target: Target,
        hit: bool,
    ) -> Result<Answer<'_>, Stop> {
        let entry = self
            .spaces
            .get_mut(&tag)
            .and_then(|space| space.find(address))
            .map(|(entry, _)| entry);
        Ok(Answer { target, entry, hit })
    }

    /// Where a walk begins: at the remembered table nearest to the leaf.
    fn start(&mut self, tag: Tag, geometry: &Geometry, address: u64, notes: &mut Notes) -> Cursor {
        let known = self
            .spaces
            .get(&tag)
            .and_then(|space| space.deepest_walk(geometry.granule, address));
        match known {
            Some((level, entry)) if level >= geometry.start => {
                notes.condemned |= entry.condemned;
                Cursor {
                    level: level + 1,
                    table: entry.table,
                    loses: entry.loses,
                    resolved: entry.resolved,
                }
            }
            _ => Cursor::root(geometry),
        }
    }

    /// Remembers the table that a walk has come to.
    fn remember_table(&mut self, tag: Tag, geometry: &Geometry, at: &Cursor, address: u64) {
        let entry = WalkEntry {
            table: at.table,
            loses: at.loses,
            resolved: at.resolved,
            born: self.next_step(),
            condemned: false,
        };
        // Its descriptor was read one level above.
        let level = at.level - 1;
        let space = self.spaces.entry(tag).or_default();
        space.insert_walk(
            geometry.granule,
            level,
            geometry.shift(level),
            address,
            entry,
        );
    }

    #[allow(clippy::too_many_arguments)] // As above.
    fn remember(
        &mut self,
        tag: Tag,
        geometry: &Geometry,
        walked: &Walked,
        lg2: u32,
        address: u64,
        target: Target,
        now: u64,
    ) {
        let born = self.next_step();
        let entry = Entry {
            phys: target.phys & !((1 << lg2) - 1),
            born,
            last_fresh: now,
            stale_since: NEVER,
            rights: target.rights,
            dbm: walked.leaf.dbm && geometry.hd,
            condemned: false,
        };
        let space = self.spaces.entry(tag).or_default();
        space.insert(geometry.granule, walked.level, lg2, address, entry);
    }
}

/// One step of a walk: to the next table, or the leaf.
#[allow(clippy::type_complexity)] // Two ways on, or none.
fn descend(
    memory: &SimMemory,
    geometry: &Geometry,
    cursor: &Cursor,
    at: u64,
    access: Access,
    notes: &mut Notes,
) -> Result<Result<Cursor, Walked>, Stop> {
    let (decoded, descriptor) = fetch(memory, geometry, cursor.level, at, notes)?;
    let leaf = match decoded {
        Decoded::Table { address, loses } => return Ok(Ok(cursor.below(address, loses))),
        Decoded::Leaf(leaf) => leaf,
    };
    let (rights, updated) = admit(geometry, &leaf, cursor.loses, access, descriptor)?;
    if updated != descriptor {
        write_flags(memory.word(PhysAddr(at)), descriptor, updated);
    }
    let run = geometry.contiguous_lg2(cursor.level);
    let lg2 = match run {
        Some(lg2) if leaf.contiguous => lg2,
        _ => geometry.shift(cursor.level),
    };
    Ok(Err(Walked {
        leaf,
        rights,
        level: cursor.level,
        lg2,
    }))
}

/// Hardware update of the access flag and dirty state (IHI 0070, 3.13): only if
/// the descriptor is still the one that was read.
fn write_flags(word: Option<&AtomicU64>, read: u64, updated: u64) {
    if let Some(word) = word {
        // A descriptor that changed meanwhile is left alone; the next access
        // reads it again.
        let _unchanged = word.compare_exchange(read, updated, Ordering::AcqRel, Ordering::Acquire);
    }
}
