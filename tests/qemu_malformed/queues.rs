//! Illegal commands, and queues that are in a hole or full.

use dmabench_dma::{Direction, Mode, UnmapError};
use dmabench_flushq::{BackendError, Late};
use dmabench_pgtable::TableConfig;
use dmabench_platform::Iova;
use dmabench_smmu::{
    driver::{AtsUse, AttachError, SetupError, SmmuConfig, StreamTarget},
    format::{EventKind, registers as reg},
    qemu::{AdmaWidth, BLOCK_BYTES, QemuConfig},
    queue::{StopReason, WaitError},
};

use crate::{
    meddler::{Change, Meddler},
    qemu_support::{Machine, PAGE, config, short, start},
    rig::Rig,
};

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
