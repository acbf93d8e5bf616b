//! One random sequence on two SMMUs.

use std::sync::Arc;

use dmabench_flushq::TlbRange;
use dmabench_pgtable::{Format, Prot, Stage};
use dmabench_platform::{Iova, PhysAddr};
use dmabench_smmu::{
    driver::Smmu,
    format::{Event, EventKind},
    qemu::{AdmaTable, AdmaWidth, BLOCK_BYTES, GuestRam, Qemu, QemuSmmu, SdHost},
    soft::{Access, SimDevice, SimMemory, SmmuModel},
};

use super::{
    history::{History, Outcome, fresh},
    side::Side,
};
use crate::qemu_support::{PAGE, Random, pattern, short};

/// Steps of a sequence.
const STEPS: u32 = 60;

/// What does not change from sequence to sequence.
pub(crate) struct Court {
    pub(crate) driver: Arc<Smmu<QemuSmmu, GuestRam>>,
    pub(crate) soft: Arc<Smmu<Arc<SmmuModel>, Arc<SimMemory>>>,
    pub(crate) model: Arc<SmmuModel>,
    pub(crate) memory: Arc<SimMemory>,
    pub(crate) hosts: Vec<SdHost>,
    /// Of the descriptor tables: 64 KiB, so that every granule can map it.
    pub(crate) list: PhysAddr,
    /// Where data lies: 1 GiB, aligned to that.
    pub(crate) data: PhysAddr,
    pub(crate) qemu: Qemu,
    pub(crate) stamps: u64,
}

/// What is done wrong on purpose, to see that it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// QEMU is not told of some invalidations.
    QemuNotTold,
    /// The software SMMU is not.
    SoftNotTold,
}

/// What sequences came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Transfers where nothing could be stale.
    pub(crate) exact: u64,
    /// Of these, those that were stopped.
    pub(crate) stopped: u64,
    /// Transfers where something could be.
    pub(crate) open: u64,
    /// Of these, those where QEMU used something stale.
    pub(crate) stale: u64,
    /// Of these, those where both SMMUs did the same.
    pub(crate) same: u64,
    /// Blocks mapped.
    pub(crate) blocks: u64,
    /// Tables unlinked.
    pub(crate) tables: u64,
    /// Faults of stage 2 that QEMU did not report.
    pub(crate) silent: u64,
}

struct Sequence<'a, F: Format> {
    court: &'a mut Court,
    random: Random,
    host: usize,
    one: Side<F, QemuSmmu, GuestRam>,
    two: Side<F, Arc<SmmuModel>, Arc<SimMemory>>,
    device: SimDevice,
    history: History,
    table: AdmaTable,
    /// The first of six block-sized areas: pages around the end of the first,
    /// blocks or whole tables in the third and fourth, the descriptors in the
    /// sixth.
    base: u64,
    live: Vec<(u64, u64)>,
    gone: Vec<(u64, u64)>,
    flaw: Flaw,
    tally: Tally,
    log: Vec<String>,
}

const fn granule<F: Format>() -> u64 {
    1 << F::GRANULE.lg2()
}

const fn block<F: Format>() -> u64 {
    // A table has as many entries as fit into a granule.
    1 << (2 * F::GRANULE.lg2() - 3)
}

const RW: Prot = Prot::READ_WRITE.with(Prot::CACHE);
const PAGES_HALF: u64 = 24;

/// Runs the sequence of that seed.
pub(crate) fn run<F: Format>(court: &mut Court, seed: u64, flaw: Flaw) -> Result<Tally, String> {
    let mut random = Random::new(seed);
    let host = random.below(court.hosts.len() as u64) as usize;
    let sid = court.hosts[host].stream_id();
    let places = match F::STAGE {
        Stage::One => 1 << 14,
        Stage::Two => 1 << 11,
    };
    let base = random.below(places) * 8 * block::<F>();
    let list = Iova(base + 5 * block::<F>());
    let one = Side::new(&court.driver, court.qemu.ram().clone(), sid);
    let two = Side::new(&court.soft, court.memory.clone(), sid);
    let bytes = granule::<F>();
    assert_eq!(
        one.map(list, court.list, bytes, RW),
        two.map(list, court.list, bytes, RW)
    );
    let device = court.model.device(sid, None);
    let table = AdmaTable::new(court.qemu.ram(), court.list, PAGE, list, AdmaWidth::Bits64);
    let mut sequence = Sequence::<F> {
        court,
        random,
        host,
        one,
        two,
        device,
        history: History::default(),
        table,
        base,
        live: Vec::new(),
        gone: Vec::new(),
        flaw,
        tally: Tally::default(),
        log: Vec::new(),
    };
    let mut result = Ok(());
    for _ in 0..STEPS {
        result = sequence.step();
        if result.is_err() {
            break;
        }
    }
    let Sequence {
        one,
        two,
        tally,
        log,
        ..
    } = sequence;
    one.end();
    two.end();
    result.map(|()| tally).map_err(|what| {
        let granule = F::GRANULE;
        format!(
            "seed {seed}, {granule:?}: {what}\nafter\n  {}",
            log.join("\n  ")
        )
    })
}

impl<F: Format> Sequence<'_, F> {
    fn step(&mut self) -> Result<(), String> {
        match self.random.below(100) {
            0..24 => self.map(),
            24..40 => self.unmap(),
            40..52 => self.invalidate(),
            52..54 => self.invalidate_all(),
            54..58 => self.invalidate_any(),
            _ => self.transfer(),
        }
    }

    fn note(&mut self, what: String) {
        self.log.push(what);
    }

    /// Where the area of number `index` begins.
    fn area(&self, index: u64) -> u64 {
        self.base + index * block::<F>()
    }

    /// A run of pages, a block, or a whole table of pages. The tables may refuse:
    /// then both do.
    fn map(&mut self) -> Result<(), String> {
        let page = granule::<F>();
        let size = block::<F>();
        // Few pages of data, so that addresses meet again; blocks in two places.
        let data = self.court.data.0;
        let somewhere = data + self.random.below(64) * page;
        let whole = data + self.random.below((1 << 30) / size) * size;
        let either = self.area(2 + self.random.0 % 2);
        let (iova, phys, len) = match self.random.below(10) {
            0 => (either, whole, size),
            // Not where a block could be: a table full of pages.
            1 if whole + size < data + (1 << 30) => {
                (either, whole + page * (1 + self.random.below(3)), size)
            }
            2..4 => {
                let first = self.area(2) + self.random.below(2 * size / page - 8) * page;
                (first, somewhere, page * (1 + self.random.below(8)))
            }
            // Aligned as the contiguous hint needs it.
            4 => {
                let run = 16 * page;
                let first = self.area(1) - PAGES_HALF * page;
                let first = first.next_multiple_of(run) + self.random.below(2) * run;
                (first, data + self.random.below(4) * run, run)
            }
            _ => {
                let pages = 1 + self.random.below(8);
                let first = self.random.below(2 * PAGES_HALF - pages);
                (
                    self.area(1) - PAGES_HALF * page + first * page,
                    somewhere,
                    pages * page,
                )
            }
        };
        let prot = match self.random.below(4) {
            0 => Prot::READ.with(Prot::CACHE),
            // Of what it has cached, QEMU does not look at the permission to read;
            // at stage 1, where to write is to read, it need not.
            1 if F::STAGE == Stage::One => Prot::WRITE.with(Prot::CACHE),
            _ => RW,
        };
        let done = self.one.map(Iova(iova), PhysAddr(phys), len, prot);
        let other = self.two.map(Iova(iova), PhysAddr(phys), len, prot);
        self.note(format!(
            "map {iova:#x} -> {phys:#x}, {len:#x} bytes, {prot:?}: {done}"
        ));
        if done != other {
            return Err(format!("the tables differ: {done} and {other}"));
        }
        if done == "Ok(())" {
            self.live.push((iova, len));
            let leaf = self.one.translate(Iova(iova));
            self.tally.blocks += u64::from(leaf.is_some_and(|l| l.page_bytes == size));
        }
        Ok(())
    }

    /// A whole mapping, or some pages of one.
    fn unmap(&mut self) -> Result<(), String> {
        if self.live.is_empty() {
            return Ok(());
        }
        let index = self.random.below(self.live.len() as u64) as usize;
        let (mut iova, mut len) = self.live[index];
        let pages = len / granule::<F>();
        if pages > 1 && self.random.below(4) == 0 {
            let skipped = self.random.below(pages);
            iova += skipped * granule::<F>();
            len = (1 + self.random.below(pages - skipped)) * granule::<F>();
        }
        let leaves = self.leaves(iova, len);
        let (done, ranges) = self.one.unmap(Iova(iova), len);
        let (other, other_ranges) = self.two.unmap(Iova(iova), len);
        self.note(format!(
            "unmap {iova:#x}, {len:#x} bytes: {done}, {ranges:?}"
        ));
        if (done, &ranges) != (other, &other_ranges) {
            return Err(format!("the tables differ: {other}, {other_ranges:?}"));
        }
        if !done {
            // A part of a block or a contiguous run.
            return Ok(());
        }
        for (at, bytes, leaf) in &leaves {
            self.history.leaf(Iova(*at), *bytes, leaf);
        }
        for range in ranges.iter().filter(|range| !range.leaf_only) {
            self.history.table(range);
            self.tally.tables += 1;
        }
        let (first, whole) = self.live.remove(index);
        let end = first + whole;
        let rest = [(first, iova - first), (iova + len, end - (iova + len))];
        self.live
            .extend(rest.into_iter().filter(|(_, len)| *len != 0));
        self.gone.push((iova, len));
        if self.gone.len() > 6 {
            self.gone.remove(0);
        }
        Ok(())
    }

    /// The leaves of a range.
    fn leaves(&self, iova: u64, len: u64) -> Vec<(u64, u64, dmabench_pgtable::Translation)> {
        let mut leaves = Vec::new();
        let mut at = iova;
        while at < iova + len {
            match self.one.translate(Iova(at)) {
                Some(leaf) => {
                    // A partial unmap begins inside a run only where it fails.
                    let bytes = (leaf.page_bytes - at % leaf.page_bytes).min(iova + len - at);
                    leaves.push((at, bytes, leaf));
                    at += bytes;
                }
                None => at += granule::<F>(),
            }
        }
        leaves
    }

    /// What one unmap left.
    fn invalidate(&mut self) -> Result<(), String> {
        let count = self.one.pending.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let index = self.random.below(count) as usize;
        let ranges = self.one.pending[index].ranges().to_vec();
        let skip = self.random.below(2) == 0;
        self.one
            .invalidate(index, skip && self.flaw == Flaw::QemuNotTold);
        self.two
            .invalidate(index, skip && self.flaw == Flaw::SoftNotTold);
        self.note(format!("invalidate {ranges:?}"));
        for range in &ranges {
            self.history.invalidated(range);
        }
        Ok(())
    }

    fn invalidate_all(&mut self) -> Result<(), String> {
        self.one.invalidate_all();
        self.two.invalidate_all();
        self.note("invalidate all".to_owned());
        self.history.invalidated_all();
        Ok(())
    }

    /// Any pages, at any level.
    fn invalidate_any(&mut self) -> Result<(), String> {
        let pages = 1 + self.random.below(20);
        let range = TlbRange {
            iova: Iova(self.page() & !(granule::<F>() - 1)),
            len_bytes: pages * granule::<F>(),
            granule: F::GRANULE,
            level: None,
            leaf_only: false,
        };
        self.one.invalidate_range(range);
        self.two.invalidate_range(range);
        self.note(format!("invalidate {range:?}"));
        self.history.invalidated(&range);
        Ok(())
    }

    /// An address worth a look: of a mapping, of one that is gone, or any.
    fn page(&mut self) -> u64 {
        let (first, len) = match self.random.below(8) {
            0..4 if !self.live.is_empty() => {
                self.live[self.random.below(self.live.len() as u64) as usize]
            }
            4..7 if !self.gone.is_empty() => {
                self.gone[self.random.below(self.gone.len() as u64) as usize]
            }
            7 => (self.area(2), 2 * block::<F>()),
            _ => {
                let half = PAGES_HALF * granule::<F>();
                (self.area(1) - half, 2 * half)
            }
        };
        // Few places of a large one, so that each is met again.
        let pages = len / granule::<F>();
        let page = match self.random.below(4) {
            0 => 0,
            1 => pages - 1,
            _ => self.random.below(pages.min(12)) * (pages / pages.min(12)),
        };
        first + page * granule::<F>()
    }

    /// One block between card and memory, on both sides.
    fn transfer(&mut self) -> Result<(), String> {
        let offset = self.random.below(granule::<F>() / BLOCK_BYTES) * BLOCK_BYTES;
        let iova = Iova(self.page() + offset);
        // The card is read: memory is written.
        let write = self.random.below(2) == 0;
        let found = self.one.translate(iova);
        if found != self.two.translate(iova) {
            return Err("the two sets of tables differ".to_owned());
        }
        let now = fresh(found, write);
        let mut allowed = self.history.stale(iova, write);
        let exact = allowed.is_empty();
        allowed.push(now);
        let (qemu, events) = self.on_qemu(iova, write, &allowed)?;
        let (soft, soft_events) = self.on_soft(iova, write);
        let what = if write {
            "read the card to"
        } else {
            "write the card from"
        };
        self.note(format!(
            "{what} {iova}: {qemu:?} (soft {soft:?}, allowed {allowed:?})"
        ));
        if exact && (qemu != now || soft != now) {
            return Err(format!(
                "the tables say {now:?}, QEMU {qemu:?}, the software SMMU {soft:?}"
            ));
        }
        for (who, outcome) in [("QEMU", qemu), ("the software SMMU", soft)] {
            if !allowed.contains(&outcome) {
                return Err(format!("{who} came to {outcome:?}, which nothing allows"));
            }
        }
        let shown = |events: &[Event]| events.iter().map(short).collect::<Vec<_>>();
        let (events, soft_events) = (shown(&events), shown(&soft_events));
        for (who, outcome, events) in [("QEMU", qemu, &events), ("soft", soft, &soft_events)] {
            let sid = self.court.hosts[self.host].stream_id();
            let expected = match outcome {
                Outcome::Reached(_) => vec![],
                Outcome::Stopped(kind) => vec![(kind, sid, iova.0 & !(PAGE - 1), !write)],
            };
            if who == "QEMU" && events.is_empty() && Self::is_silent(outcome) {
                self.tally.silent += 1;
            } else if *events != expected {
                return Err(format!("{who} reported {events:?}, not {expected:?}"));
            }
        }
        self.tally.exact += u64::from(exact);
        self.tally.stopped += u64::from(exact && matches!(now, Outcome::Stopped(_)));
        self.tally.open += u64::from(!exact);
        self.tally.stale += u64::from(!exact && qemu != now);
        self.tally.same += u64::from(!exact && qemu == soft);
        Ok(())
    }

    /// QEMU 10 takes a write that a cached entry of stage 2 forbids for a fault of
    /// stage 1, which an SMMU without a context descriptor does not record.
    fn is_silent(outcome: Outcome) -> bool {
        F::STAGE == Stage::Two && outcome == Outcome::Stopped(EventKind::Permission)
    }

    /// Where the card's controller got, by the bytes that it moved.
    fn on_qemu(
        &mut self,
        iova: Iova,
        write: bool,
        allowed: &[Outcome],
    ) -> Result<(Outcome, Vec<Event>), String> {
        let ram = self.court.qemu.ram().clone();
        let host = &mut self.court.hosts[self.host];
        let candidates: Vec<PhysAddr> = (allowed.iter())
            .filter_map(|outcome| match outcome {
                Outcome::Reached(phys) => Some(*phys),
                Outcome::Stopped(_) => None,
            })
            .collect();
        let mut stamp = || {
            self.court.stamps += 1;
            pattern(self.court.stamps, 0, BLOCK_BYTES)
        };
        let list = self.table.fill([(iova, BLOCK_BYTES)]).unwrap();
        let mut moved = vec![0; BLOCK_BYTES as usize];
        let (done, from) = if write {
            let card = stamp();
            host.image().write(0, &card).unwrap();
            for phys in &candidates {
                ram.write(*phys, &stamp()).unwrap();
            }
            let done = host.read(0, &list).is_ok();
            let there = |phys: &&PhysAddr| {
                ram.read(**phys, &mut moved).unwrap();
                moved == card
            };
            (done, candidates.iter().find(there).copied())
        } else {
            host.image().write(1, &stamp()).unwrap();
            let stamps: Vec<_> = candidates.iter().map(|_| stamp()).collect();
            // One address may be among them twice.
            for (phys, bytes) in candidates.iter().zip(&stamps) {
                ram.write(*phys, bytes).unwrap();
            }
            let done = host.write(1, &list).is_ok();
            host.image().read(1, &mut moved).unwrap();
            let at = stamps.iter().rposition(|bytes| *bytes == moved);
            (done, at.map(|at| candidates[at]))
        };
        let events = self.one.events();
        match (done, from) {
            (true, Some(phys)) => Ok((Outcome::Reached(phys), events)),
            (false, None) => match events.first() {
                Some(event) => Ok((Outcome::Stopped(event.kind), events)),
                None if allowed.iter().any(|outcome| Self::is_silent(*outcome)) => {
                    Ok((Outcome::Stopped(EventKind::Permission), events))
                }
                None => Err(format!("QEMU stopped {iova} without an event")),
            },
            (true, None) => Err(format!(
                "QEMU moved the data of {iova}, but not as {allowed:?}"
            )),
            (false, Some(phys)) => Err(format!("QEMU stopped {iova}, and yet reached {phys}")),
        }
    }

    fn on_soft(&mut self, iova: Iova, write: bool) -> (Outcome, Vec<Event>) {
        let descriptor = self.device.probe(self.table.addr(), Access::Read);
        assert!(descriptor.is_fresh(), "{descriptor:?}");
        let access = if write { Access::Write } else { Access::Read };
        let outcome = self.device.probe(iova, access);
        let events = self.two.events();
        let outcome = match (outcome.phys(), outcome.fault()) {
            (Some(phys), _) => Outcome::Reached(phys),
            (None, Some(fault)) => {
                let code = fault.kind.event_code().unwrap_or(0);
                Outcome::Stopped(EventKind::from_code(code))
            }
            (None, None) => unreachable!("an access reaches memory or does not"),
        };
        (outcome, events)
    }
}
