//! What QEMU's SMMU and SD host make of malformed commands, structures, queues
//! and lists: each is a typed error here, and the next transfer works.
#![cfg(target_os = "linux")]

mod qemu_support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use dmabench_dma::{Direction, Mode, UnmapError};
use dmabench_flushq::{BackendError, Late};
use dmabench_pgtable::{PageTable, Prot, S1K4, TableConfig};
use dmabench_platform::{Fences, Iova, PhysAddr, Slots, TimeNs, Timeout};
use dmabench_smmu::{
    SmmuHost,
    driver::{
        AtsUse, AttachError, SetupError, Smmu, SmmuConfig, SmmuContext, StreamTableKind,
        StreamTarget,
    },
    format::{
        Cd, Command, Event, EventClass, EventKind, Ste, StreamContext, check_cd, check_ste,
        registers as reg,
    },
    qemu::{
        AdmaTable, AdmaWidth, BLOCK_BYTES, Batch, GuestRam, Qemu, QemuConfig, QemuSmmu, SdHost,
        TransferError,
    },
    queue::{StopReason, WaitError},
};
use qemu_support::{Machine, PAGE, config, pattern, short, start};

/// No RAM and no device.
const HOLE: u64 = 0x8000_0000;
const SHORT: Timeout = Timeout(200_000_000);

/// What becomes of a command's two words.
type Change = fn(&mut [u64; 2]);

/// Registers whose writes are falsified once, when a test says so.
struct Meddler {
    inner: QemuSmmu,
    ram: GuestRam,
    queue: AtomicU64,
    prod: AtomicU32,
    /// What becomes of the first command that is published next.
    command: Mutex<Option<Change>>,
    /// The base register whose next value points into the hole.
    base: Mutex<Option<u32>>,
}

impl Meddler {
    fn new(qemu: &Qemu) -> Self {
        Meddler {
            inner: qemu.smmu(),
            ram: qemu.ram().clone(),
            queue: AtomicU64::new(0),
            prod: AtomicU32::new(0),
            command: Mutex::new(None),
            base: Mutex::new(None),
        }
    }

    fn falsify(&self, first: u32, change: Change) {
        let (base, lg2) = reg::decode_queue_base(self.queue.load(Ordering::Relaxed));
        let slot = reg::QueueIndex::of(first, lg2).slot(lg2);
        let at = PhysAddr(base.0 + u64::from(slot) * 16);
        let mut words = [0, 1].map(|word| self.word(PhysAddr(at.0 + 8 * word)));
        change(&mut words);
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.ram.write(at, &bytes).unwrap();
    }

    fn word(&self, at: PhysAddr) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(at, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }
}

// SAFETY: as `QemuSmmu`, but for what a test falsifies: a command that is illegal
// and thus reported, or a base in a hole, where nothing is executed either.
unsafe impl SmmuHost for Meddler {
    fn read32(&self, offset: u32) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        if offset == reg::CMDQ_PROD {
            let first = self.prod.swap(value, Ordering::Relaxed);
            if let Some(change) = self.command.lock().unwrap().take() {
                self.falsify(first, change);
            }
        }
        self.inner.write32(offset, value);
    }

    fn write64(&self, offset: u32, value: u64) {
        let mut base = self.base.lock().unwrap();
        if *base == Some(offset) {
            *base = None;
            return self.inner.write64(offset, HOLE | value & 0x1f);
        }
        if offset == reg::CMDQ_BASE {
            self.queue.store(value, Ordering::Relaxed);
        }
        self.inner.write64(offset, value);
    }

    fn now(&self) -> TimeNs {
        self.inner.now()
    }
}

const DATA: Iova = Iova(0x10_0000);
const TABLE: Iova = Iova(0x20_0000);

/// One stream, two mapped pages, no domain: everything within reach.
struct Rig {
    host: SdHost,
    tables: PageTable<S1K4, GuestRam>,
    slots: Arc<Slots>,
    driver: Smmu<Meddler, GuestRam>,
    context: SmmuContext,
    data: PhysAddr,
    adma: AdmaTable,
    qemu: Qemu,
    passes: u64,
}

impl Rig {
    fn new(name: &str) -> Option<Self> {
        Self::with(
            name,
            SmmuConfig::default(),
            TableConfig::new(48, 44),
            |_| {},
        )
    }

    fn with(
        name: &str,
        smmu: SmmuConfig,
        tables: TableConfig,
        meddle: impl Fn(&Meddler),
    ) -> Option<Self> {
        let qemu = start(name, QemuConfig::default().with_cards(&[1 << 20]))?;
        let host = qemu.sd_host(0).unwrap();
        let meddler = Meddler::new(&qemu);
        meddle(&meddler);
        let driver = Smmu::new(meddler, qemu.ram().clone(), smmu.with_timeout(SHORT)).unwrap();
        let slots = Arc::new(Slots::new(1, Fences::detect()).unwrap());
        let tables = PageTable::new(tables, qemu.ram().clone(), slots.clone()).unwrap();
        let context = driver.create_context(&tables.registers()).unwrap();
        let [data, list] = [0, 1].map(|_| qemu.ram().alloc(PAGE, PAGE).unwrap());
        for (iova, phys) in [(DATA, data), (TABLE, list)] {
            let slot = slots.enter_fallback();
            tables
                .map(&slot, iova, phys, PAGE, Prot::READ_WRITE)
                .unwrap();
        }
        let adma = AdmaTable::new(qemu.ram(), list, PAGE, TABLE, AdmaWidth::Bits32);
        Some(Rig {
            host,
            tables,
            slots,
            driver,
            context,
            data,
            adma,
            qemu,
            passes: 0,
        })
    }

    fn attach(&self) {
        let target = StreamTarget::Context(self.context);
        let sid = self.host.stream_id();
        self.driver.attach(sid, target, AtsUse::Off).unwrap();
    }

    fn attached(name: &str) -> Option<Self> {
        let rig = Self::new(name)?;
        rig.attach();
        Some(rig)
    }

    fn read(&mut self, pieces: &[(Iova, u64)]) -> Result<(), TransferError> {
        let list = self.adma.fill(pieces.iter().copied()).unwrap();
        self.host.read(0, &list)
    }

    fn transfer(&mut self) -> Result<(), TransferError> {
        self.read(&[(DATA, BLOCK_BYTES)])
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let batch = self.driver.poll_events(1000, |event| events.push(*event));
        assert!(!batch.unwrap().lost);
        events
    }

    /// A transfer succeeds, its data arrives, nothing is reported.
    fn works(&mut self) {
        self.passes += 1;
        let data = pattern(self.passes, 0, BLOCK_BYTES);
        self.host.image().write(0, &data).unwrap();
        self.transfer().unwrap();
        let mut got = vec![0; BLOCK_BYTES as usize];
        self.qemu.ram().read(self.data, &mut got).unwrap();
        assert_eq!(got, data);
        assert_eq!(self.events(), []);
    }

    /// A transfer fails, and this is reported, once for each access.
    fn fails(&mut self) -> Vec<Event> {
        let error = self.transfer().unwrap_err();
        assert!(matches!(error, TransferError::Dma { .. }), "{error:?}");
        self.events()
    }

    fn word(&self, at: u64) -> u64 {
        self.driver.host().word(PhysAddr(at))
    }

    fn set_word(&self, at: u64, value: u64) {
        self.qemu
            .ram()
            .write(PhysAddr(at), &value.to_le_bytes())
            .unwrap();
    }

    /// Where the stream's entry is in memory, as the SMMU finds it.
    fn ste(&self) -> u64 {
        let sid = u64::from(self.host.stream_id());
        let mut base = Batch::new();
        for word in 0..3 {
            base.read32(0x0905_0000 + u64::from(reg::STRTAB_BASE) + 4 * word);
        }
        let words = self.qemu.qtest().run(&base).unwrap();
        let level1 = (words[0] | words[1] << 32) & 0x000f_ffff_ffff_ffc0;
        let (shape, _) = reg::StrtabBaseCfg::decode(words[2] as u32);
        let split = shape.split.expect("two levels");
        let leaf = self.word(level1 + 8 * (sid >> split)) & 0x000f_ffff_ffff_ffc0;
        leaf + 64 * (sid & ((1 << split) - 1))
    }

    fn cd(&self) -> u64 {
        self.word(self.ste()) & 0x000f_ffff_ffff_ffc0
    }

    /// Configuration and translations are read again.
    fn forget(&self) {
        let queue = self.driver.command_queue();
        let all = [Command::CfgiAll.encode(), Command::TlbiNsnhAll.encode()];
        let ticket = queue.push_sync(&all).unwrap();
        queue.sync_wait(ticket, SHORT).unwrap();
    }

    /// With one word changed, transfers fail; with the old one they work again.
    fn broken_by(&mut self, at: u64, value: u64) -> Vec<Event> {
        let old = self.word(at);
        assert_ne!(old, value);
        self.set_word(at, value);
        self.forget();
        let events = self.fails();
        self.set_word(at, old);
        self.forget();
        self.works();
        events
    }
}

fn kinds(events: &[Event]) -> Vec<EventKind> {
    let mut kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    kinds.dedup();
    kinds
}

/// An illegal command loses an invalidation: the unmap says so, keeps what it
/// holds, and a second try succeeds.
fn illegal(name: &str, change: Change) {
    let Some(qemu) = start(name, QemuConfig::default().with_cards(&[1 << 20])) else {
        return;
    };
    let host = Meddler::new(&qemu);
    let setup = SmmuConfig::default();
    let strict = || config(Mode::Strict);
    let machine = &mut Machine::with_host(qemu, host, setup, strict, AdmaWidth::Bits32);
    let (_, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    let addr = mapping.addr();
    let list = machine.ports[0].list(&[(addr, BLOCK_BYTES)]);
    machine.ports[0].host.read(0, &list).unwrap();
    *machine.driver.host().command.lock().unwrap() = Some(change);
    let unfinished = match machine.ports[0].domain().unmap(mapping) {
        Err(UnmapError::NotInvalidated(unfinished)) => unfinished,
        result => panic!("{result:?}"),
    };
    let rejected = BackendError::Rejected { code: 1 };
    assert_eq!(unfinished.late(), Late::Failed(rejected));
    machine.ports[0].domain().finish(unfinished).unwrap();
    let faults = machine.driver.command_queue().faults();
    assert_eq!((faults.illegal, faults.heals), (1, 1));
    machine.ports[0].host.read(0, &list).unwrap_err();
    assert_eq!(machine.events().len(), 1);
    // And everything works.
    let (_, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    let list = machine.ports[0].list(&[(mapping.addr(), BLOCK_BYTES)]);
    machine.ports[0].host.read(0, &list).unwrap();
    machine.ports[0].domain().unmap(mapping).unwrap();
    assert_eq!(machine.driver.command_queue().faults(), faults);
    assert_eq!(machine.events(), []);
}

#[test]
fn a11_a_reserved_opcode_loses_nothing() {
    illegal("a11_a_reserved_opcode_loses_nothing", |words| {
        words[0] |= 0xff
    });
}

/// QEMU looks at SSec in configuration commands only, so one of those.
#[test]
fn a11_a_command_for_the_secure_queue_attaches_nothing() {
    let name = "a11_a_command_for_the_secure_queue_attaches_nothing";
    let Some(mut rig) = Rig::attached(name) else {
        return;
    };
    rig.works();
    let sid = rig.host.stream_id();
    *rig.driver.host().command.lock().unwrap() = Some(|words| words[0] |= 1 << 10);
    let refused = rig.driver.attach(sid, StreamTarget::Abort, AtsUse::Off);
    let lost = WaitError::Lost { code: 1 };
    assert_eq!(refused, Err(AttachError::NotSynced(lost)));
    let held = rig.driver.streams_of(rig.context);
    assert_eq!(held, Some(1), "the stream may still use it");
    rig.driver
        .attach(sid, StreamTarget::Abort, AtsUse::Off)
        .unwrap();
    assert_eq!(rig.driver.streams_of(rig.context), Some(0));
    assert_eq!(rig.fails(), []);
    let faults = rig.driver.command_queue().faults();
    assert_eq!((faults.illegal, faults.heals), (1, 1));
    rig.attach();
    rig.works();
}

#[test]
fn a_command_queue_in_a_hole_stops_and_a_reset_repairs_it() {
    let Some(mut rig) = Rig::attached("a_command_queue_in_a_hole_stops_and_a_reset_repairs_it")
    else {
        return;
    };
    rig.works();
    *rig.driver.host().base.lock().unwrap() = Some(reg::CMDQ_BASE);
    let error = rig.driver.reset().unwrap_err();
    let repeated = StopReason::Repeated { code: 2 };
    assert_eq!(error, SetupError::Sync(WaitError::Stopped(repeated)));
    assert!(rig.driver.command_queue().faults().fetch_aborts > 1);
    assert_eq!(rig.driver.command_queue().stop_reason(), Some(repeated));
    rig.driver.reset().unwrap();
    rig.works();
}

#[test]
fn a_stream_table_in_a_hole_is_reported_and_a_reset_repairs_it() {
    let name = "a_stream_table_in_a_hole_is_reported_and_a_reset_repairs_it";
    let tables = TableConfig::new(48, 44);
    let hole = |meddler: &Meddler| *meddler.base.lock().unwrap() = Some(reg::STRTAB_BASE);
    let Some(mut rig) = Rig::with(name, SmmuConfig::default(), tables, hole) else {
        return;
    };
    rig.attach();
    let events = rig.fails();
    assert_eq!(kinds(&events), [EventKind::SteFetch]);
    assert_eq!(events[0].sid, rig.host.stream_id());
    rig.driver.reset().unwrap();
    rig.works();
}

#[test]
fn streams_that_do_not_exist_are_refused_here_and_reported_there() {
    let name = "streams_that_do_not_exist_are_refused_here_and_reported_there";
    // The controller's stream is 0x20: one more than 5 bits say.
    let setup = SmmuConfig::default().with_streams(5, StreamTableKind::Linear);
    let Some(mut rig) = Rig::with(name, setup, TableConfig::new(48, 44), |_| {}) else {
        return;
    };
    let sid = rig.host.stream_id();
    let target = StreamTarget::Context(rig.context);
    let refused = rig.driver.attach(sid, target, AtsUse::Off);
    assert_eq!(refused, Err(AttachError::StreamId { sid }));
    assert_eq!(kinds(&rig.fails()), [EventKind::BadStreamId]);
    assert!(rig.driver.unknown_stream_events() > 0);

    // Of a table that is large enough, but empty.
    let Some(mut rig) = Rig::new(name) else {
        return;
    };
    assert_eq!(kinds(&rig.fails()), [EventKind::BadStreamId]);
    rig.attach();
    rig.works();
}

#[test]
fn malformed_stream_table_entries_are_refused_here_and_reported_there() {
    let name = "malformed_stream_table_entries_are_refused_here_and_reported_there";
    let Some(mut rig) = Rig::attached(name) else {
        return;
    };
    rig.works();
    let features = *rig.driver.features();
    let at = rig.ste();
    let entry: [u64; 8] = std::array::from_fn(|word| rig.word(at + 8 * word as u64));
    assert!(check_ste(&Ste(entry), &features).is_ok());
    // Without substreams S1CDMax is RES0, for us to write as 0 and for an SMMU to
    // ignore (5.2); QEMU refuses it.
    let mut wrong = vec![
        ("V = 0", true, 0, entry[0] & !1),
        ("S1STALLD", true, 1, entry[1] | 1 << 27),
        ("S1CDMax", false, 0, entry[0] | 1 << 59),
    ];
    if !features.stage2 {
        wrong.push(("stage 2", true, 0, entry[0] & !0xe | 6 << 1));
    }
    for (what, refused, word, value) in wrong {
        let mut changed = entry;
        changed[word] = value;
        let checked = check_ste(&Ste(changed), &features);
        assert_eq!(checked.is_err(), refused, "{what}: {checked:?}");
        let events = rig.broken_by(at + 8 * word as u64, value);
        assert_eq!(kinds(&events), [EventKind::BadSte], "{what}");
        assert_eq!(events[0].sid, rig.host.stream_id());
    }
    // What no checker can know.
    let lost = rig.broken_by(at, entry[0] & !0x000f_ffff_ffff_ffc0 | HOLE);
    assert_eq!(kinds(&lost), [EventKind::CdFetch]);
}

#[test]
fn malformed_context_descriptors_are_refused_here_and_reported_there() {
    let name = "malformed_context_descriptors_are_refused_here_and_reported_there";
    let Some(mut rig) = Rig::attached(name) else {
        return;
    };
    rig.works();
    let features = *rig.driver.features();
    let at = rig.cd();
    let entry: [u64; 8] = std::array::from_fn(|word| rig.word(at + 8 * word as u64));
    let stream = StreamContext::default();
    assert!(check_cd(&Cd(entry), &stream, &features).is_ok());
    for (what, word, value) in [
        ("V = 0", 0, entry[0] & !(1 << 31)),
        ("A = 0", 0, entry[0] & !(1 << 46)),
        ("S = 1", 0, entry[0] | 1 << 44),
        ("T0SZ = 40", 0, entry[0] & !0x3f | 40),
        ("TTB0 beyond 44 bits", 1, entry[1] | 1 << 46),
    ] {
        let mut changed = entry;
        changed[word] = value;
        let refused = check_cd(&Cd(changed), &stream, &features);
        assert!(refused.is_err(), "{what}: we would write it");
        let events = rig.broken_by(at + 8 * word as u64, value);
        assert_eq!(kinds(&events), [EventKind::BadCd], "{what}");
    }
    let events = rig.broken_by(at + 8, HOLE);
    assert_eq!(kinds(&events), [EventKind::WalkAbort]);
    assert_eq!(events[0].class, EventClass::Table);
    assert_eq!(events[0].second.0 & !(PAGE - 1), HOLE, "{events:?}");
    // Without records a fault is silent, and a fault all the same.
    let silent = rig.word(at) & !(1 << 45);
    let old = rig.word(at);
    rig.set_word(at, silent);
    rig.forget();
    let error = rig.read(&[(Iova(0x77_0000), 512)]).unwrap_err();
    assert!(matches!(error, TransferError::Dma { .. }));
    assert_eq!(rig.events(), []);
    rig.set_word(at, old);
    rig.forget();
    rig.works();
}

#[test]
fn an_aborting_stream_is_silent_and_bypass_passes() {
    let Some(mut rig) = Rig::attached("an_aborting_stream_is_silent_and_bypass_passes") else {
        return;
    };
    rig.works();
    let sid = rig.host.stream_id();
    rig.driver
        .attach(sid, StreamTarget::Abort, AtsUse::Off)
        .unwrap();
    assert_eq!(rig.fails(), []);
    rig.driver
        .attach(sid, StreamTarget::Bypass, AtsUse::Off)
        .unwrap();
    // At I/O addresses there is nothing now ...
    rig.transfer().unwrap_err();
    assert_eq!(rig.events(), []);
    // ... and memory is where it is.
    rig.host.image().write(0, &[9; 512]).unwrap();
    let data = Iova(rig.data.0);
    let page = rig.qemu.ram().alloc(PAGE, PAGE).unwrap();
    let physical = AdmaTable::new(rig.qemu.ram(), page, PAGE, Iova(page.0), AdmaWidth::Bits32);
    let list = physical.fill([(data, 512)]).unwrap();
    rig.host.read(0, &list).unwrap();
    let mut got = [0; 512];
    rig.qemu.ram().read(rig.data, &mut got).unwrap();
    assert_eq!(got, [9; 512]);
    rig.attach();
    rig.works();
    // Turned off, the SMMU lets everything pass.
    let Rig {
        mut host,
        driver,
        qemu,
        tables,
        data,
        ..
    } = rig;
    drop(driver);
    drop(tables);
    host.image().write(0, &[3; 512]).unwrap();
    host.read(0, &list).unwrap();
    qemu.ram().read(data, &mut got).unwrap();
    assert_eq!(got, [3; 512]);
}

#[test]
fn a_full_event_queue_is_reported_and_goes_on() {
    let name = "a_full_event_queue_is_reported_and_goes_on";
    let setup = SmmuConfig::default().with_event_queue_lg2(2);
    let Some(mut rig) = Rig::with(name, setup, TableConfig::new(48, 44), |_| {}) else {
        return;
    };
    rig.attach();
    let nowhere = [(Iova(0x77_0000), BLOCK_BYTES)];
    for _ in 0..6 {
        rig.read(&nowhere).unwrap_err();
    }
    let mut events = Vec::new();
    let batch = rig
        .driver
        .poll_events(100, |event| events.push(short(event)))
        .unwrap();
    assert!(batch.lost && batch.events == 4, "{batch:?}");
    let event = (
        EventKind::Translation,
        rig.host.stream_id(),
        0x77_0000,
        false,
    );
    assert_eq!(events, [event; 4]);
    assert_eq!(rig.driver.event_losses(), 1);
    rig.works();
    rig.read(&nowhere).unwrap_err();
    let seen: Vec<_> = rig.events().iter().map(short).collect();
    assert_eq!(seen, [event], "later ones are recorded again");
}

#[test]
fn an_address_beyond_the_output_size_is_refused_here_and_reaches_nothing_there() {
    let name = "an_address_beyond_the_output_size_is_refused_here_and_reaches_nothing_there";
    let Some(rig) = Rig::new(name) else { return };
    let far = PhysAddr(1 << 45);
    let slot = rig.slots.enter_fallback();
    let refused = rig
        .tables
        .map(&slot, Iova(0x5000), far, PAGE, Prot::READ_WRITE);
    assert!(refused.is_err());
    drop(slot);
    // Tables that claim more than the SMMU puts out.
    let wide = TableConfig::new(48, 48);
    let Some(mut rig) = Rig::with(name, SmmuConfig::default(), wide, |_| {}) else {
        return;
    };
    rig.attach();
    let slot = rig.slots.enter_fallback();
    let far = PhysAddr(1 << 45 | rig.data.0);
    rig.tables
        .map(&slot, Iova(0x5000), far, PAGE, Prot::READ_WRITE)
        .unwrap();
    drop(slot);
    rig.works();
    let before = pattern(rig.passes, 0, BLOCK_BYTES);
    rig.host.image().write(0, &[0xee; 512]).unwrap();
    // 7.2 loses it without a word, 10.0 reports it.
    let _either = rig.read(&[(Iova(0x5000), 512)]);
    assert!(
        rig.events()
            .iter()
            .all(|e| e.kind == EventKind::AddressSize)
    );
    let mut got = vec![0; BLOCK_BYTES as usize];
    rig.qemu.ram().read(rig.data, &mut got).unwrap();
    assert_eq!(got, before, "not folded back into RAM");
    rig.works();
}

#[test]
fn an_unmapped_descriptor_table_is_a_fault_at_the_descriptor() {
    let name = "an_unmapped_descriptor_table_is_a_fault_at_the_descriptor";
    let Some(mut rig) = Rig::attached(name) else {
        return;
    };
    rig.works();
    let list = rig.adma.fill([(DATA, 512)]).unwrap().at(Iova(0x66_0000));
    let error = rig.host.read(0, &list).unwrap_err();
    assert!(
        matches!(error, TransferError::Dma { state: 1, .. }),
        "{error:?}"
    );
    let events = rig.events();
    assert!(!events.is_empty());
    let event = (
        EventKind::Translation,
        rig.host.stream_id(),
        0x66_0000,
        true,
    );
    assert!(events.iter().all(|e| short(e) == event), "{events:?}");
    rig.works();
}

#[test]
fn a_fault_inside_a_list_is_reported_and_the_next_transfer_works() {
    let name = "a_fault_inside_a_list_is_reported_and_the_next_transfer_works";
    let Some(mut rig) = Rig::attached(name) else {
        return;
    };
    let data = pattern(3, 0, 16 * BLOCK_BYTES);
    rig.host.image().write(0, &data).unwrap();
    let half = BLOCK_BYTES / 2;
    // The fault in each place of a list of 8: first, inside, beyond what the
    // command itself moves, last.
    for place in [0, 2, 6, 7] {
        let mut pieces: Vec<_> = (0..8).map(|i| (Iova(DATA.0 + i * 512), 512)).collect();
        pieces[place].0 = Iova(0x77_0000 + place as u64 * PAGE);
        rig.qemu.ram().write(rig.data, &[0; 4096]).unwrap();
        let error = rig.read(&pieces).unwrap_err();
        let at_end = if place == 7 { 3 } else { 0 };
        assert!(
            matches!(error, TransferError::Dma { state, .. } if state == at_end),
            "{place}: {error:?}"
        );
        let events = rig.events();
        let page = 0x77_0000 + place as u64 * PAGE;
        let event = (EventKind::Translation, rig.host.stream_id(), page, false);
        assert!(
            !events.is_empty() && events.iter().all(|e| short(e) == event),
            "{events:?}"
        );
        let mut got = vec![0; 4096];
        rig.qemu.ram().read(rig.data, &mut got).unwrap();
        let moved = place * 512;
        assert_eq!(
            got[..moved],
            data[..moved],
            "the blocks before it were moved"
        );
        assert!(
            got[moved..].iter().all(|b| *b == 0),
            "and nothing behind it"
        );
        rig.works();
        rig.host.image().write(0, &data).unwrap();
    }
    // Pieces that are not whole blocks.
    let pieces = [
        (Iova(DATA.0), half),
        (Iova(DATA.0 + 1024), half),
        (Iova(DATA.0 + 2048), 512),
    ];
    rig.read(&pieces).unwrap();
    let mut got = [0; 512];
    rig.qemu
        .ram()
        .read(PhysAddr(rig.data.0 + 1024), &mut got)
        .unwrap();
    assert_eq!(got[..256], data[256..512]);
}

#[test]
fn blocks_beyond_the_card_are_refused() {
    let Some(mut rig) = Rig::attached("blocks_beyond_the_card_are_refused") else {
        return;
    };
    let blocks = rig.host.blocks();
    assert_eq!(blocks, 2048);
    let list = rig.adma.fill([(DATA, 1024)]).unwrap();
    for block in [blocks - 1, blocks, u64::MAX] {
        let beyond = TransferError::BeyondCard { block, blocks: 2 };
        assert_eq!(rig.host.read(block, &list), Err(beyond.clone()));
        assert_eq!(rig.host.write(block, &list), Err(beyond));
    }
    rig.host.read(blocks - 2, &list).unwrap();
    rig.works();
}
