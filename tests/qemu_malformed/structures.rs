//! Stream tables, context descriptors and translation tables that say what they
//! must not.

use dmabench_pgtable::{Prot, TableConfig};
use dmabench_platform::{Iova, PhysAddr};
use dmabench_smmu::{
    driver::{AtsUse, AttachError, SmmuConfig, StreamTableKind, StreamTarget},
    format::{
        Cd, EventClass, EventKind, Ste, StreamContext, check_cd, check_ste, registers as reg,
    },
    qemu::{AdmaTable, AdmaWidth, BLOCK_BYTES, TransferError},
};

use crate::{
    meddler::{HOLE, Meddler},
    qemu_support::{PAGE, pattern},
    rig::{Rig, kinds},
};

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
