//! Up, down, out of memory, errors and events.

use super::*;

#[test]
fn a_stopped_queue_is_back_after_a_reset() {
    let (device, mut smmu) = make();
    let context = smmu.create_context(&stage1()).unwrap();
    smmu.attach(9, StreamTarget::Context(context), AtsUse::Off)
        .unwrap();
    let before = entry(&device, 9);
    device.eager.store(false, Ordering::Relaxed);
    device.set(r::CMDQ_CONS, 0x155);
    let ticket = smmu.sync_begin(None).unwrap();
    smmu.invalidate_all(None, &context).unwrap();
    let next = smmu.sync_begin(None).unwrap();
    assert_eq!(
        smmu.sync_wait(None, next, MS),
        Err(Late::Failed(BackendError::Stopped))
    );
    assert!(matches!(
        smmu.command_queue().stop_reason(),
        Some(StopReason::Corrupt { .. })
    ));
    assert_eq!(
        smmu.invalidate_all(None, &context),
        Err(BackendError::Stopped)
    );
    device.eager.store(true, Ordering::Relaxed);
    smmu.reset().unwrap();
    assert!(
        smmu.sync_wait(None, ticket, MS).is_err(),
        "nothing old succeeds"
    );
    smmu.invalidate_all(None, &context).unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    assert!(smmu.sync_wait(None, ticket, MS).is_ok());
    assert_eq!(entry(&device, 9), before, "streams stay as they were");
}

#[test]
fn bad_input_63_events_are_reported_by_device() {
    let (device, smmu) = make();
    smmu.attach(0x20, StreamTarget::Abort, AtsUse::Off).unwrap();
    for (sid, kind) in [(0x20, 0x10), (0x20, 0x13), (0x999, 0x7f)] {
        device.event(&[kind | sid << 32, 1 << 35, 0x5000, 0]);
    }
    let mut seen = 0;
    let batch = smmu.poll_events(100, |_| seen += 1).unwrap();
    assert_eq!((batch.events, seen, batch.reserved), (3, 3, 1));
    let faults = smmu.faults_of(0x20).unwrap();
    assert_eq!(faults.count, 2);
    assert_eq!(faults.last.kind, crate::format::EventKind::Permission);
    assert_eq!(smmu.faults_of(0x999), None);
    assert_eq!(smmu.unknown_stream_events(), 1);
    for n in 0..200 {
        device.event(&[0x10 | n << 32, 0, 0, 0]);
    }
    assert!(smmu.poll_events(1000, |_| ()).unwrap().lost);
    assert_eq!(smmu.event_losses(), 1);
}

#[test]
fn global_errors_are_acknowledged_and_service_failure_turns_the_smmu_off() {
    let (device, smmu) = make();
    device.raise(r::GERROR_MSI_ABT);
    assert_eq!(smmu.poll_errors().active, r::GERROR_MSI_ABT);
    assert_eq!(smmu.poll_errors(), ErrorReport::default());
    device.raise(r::GERROR_SFM);
    assert!(smmu.poll_errors().service_failure);
    assert_eq!(device.get(r::CR0), 0);
}

/// Every allocation fails once; nothing is lost, and what was made works.
#[test]
fn e_running_out_of_memory_anywhere_is_an_error_and_leaks_nothing() {
    for fail_at in 1.. {
        let memory = Counted::default();
        memory.fail_at.store(fail_at, Ordering::Relaxed);
        let device = TestDevice::new(IDS);
        let failed = (|| {
            let smmu = Smmu::new(device.clone(), &memory, config()).map_err(|_| ())?;
            let context = smmu.create_context(&stage1()).map_err(|_| ())?;
            let target = StreamTarget::Context(context);
            smmu.attach(0x20, target, AtsUse::Off).map_err(|_| ())?;
            smmu.attach(0x2000, target, AtsUse::Off).map_err(|_| ())
        })()
        .is_err();
        assert_eq!(
            memory.live.load(Ordering::Relaxed),
            0,
            "allocation {fail_at}"
        );
        if !failed {
            assert!(fail_at > 5);
            break;
        }
    }
}

/// The SMMU does not stop: its memory must not be given back.
#[test]
fn a2_a_device_that_does_not_turn_off_keeps_its_memory() {
    struct Stubborn(Arc<TestDevice>, AtomicBool);
    // SAFETY: the device's own registers, but for one answer.
    unsafe impl SmmuHost for Stubborn {
        fn read32(&self, offset: u32) -> u32 {
            if offset == r::CR0ACK && self.1.load(Ordering::Relaxed) {
                return 0xd;
            }
            self.0.read32(offset)
        }
        fn write32(&self, offset: u32, value: u32) {
            self.0.write32(offset, value);
        }
        fn write64(&self, offset: u32, value: u64) {
            self.0.write64(offset, value);
        }
        fn now(&self) -> dmabench_platform::TimeNs {
            self.0.now()
        }
    }
    let memory = Counted::default();
    let host = Stubborn(TestDevice::new(IDS), AtomicBool::new(false));
    let smmu = Smmu::new(host, &memory, config()).unwrap();
    smmu.host().1.store(true, Ordering::Relaxed);
    drop(smmu);
    assert!(memory.live.load(Ordering::Relaxed) > 0, "leaked, not freed");
    let host = Stubborn(TestDevice::new(IDS), AtomicBool::new(true));
    assert!(matches!(
        Smmu::new(host, &memory, config()),
        Err(SetupError::NoAnswer { .. })
    ));
}

#[test]
fn setups_that_make_no_sense_are_refused() {
    let fails = |ids, config| {
        Smmu::new(TestDevice::new(ids), HeapTables, config)
            .map(|_| ())
            .unwrap_err()
    };
    let no_translation = IdRegisters {
        idr0: QEMU_NESTED.idr0 & !3,
        ..IDS
    };
    assert_eq!(fails(no_translation, config()), SetupError::NotUsable);
    let preset = IdRegisters {
        idr1: QEMU_NESTED.idr1 | 1 << 29,
        ..IDS
    };
    assert_eq!(fails(preset, config()), SetupError::NotUsable);
    for split in [0, 7, 11] {
        let config = config().with_streams(16, StreamTableKind::TwoLevel { split });
        assert_eq!(fails(IDS, config), SetupError::StreamTable);
    }
    let wide = IdRegisters {
        idr1: QEMU_NESTED.idr1 | 0x20,
        ..IDS
    };
    let linear = config().with_streams(21, StreamTableKind::Linear);
    assert_eq!(fails(wide, linear), SetupError::StreamTable);
    assert!(matches!(
        fails(IDS, config().with_event_queue_lg2(20)),
        SetupError::Queue(_)
    ));
}

/// Several SMMUs side by side do not know each other.
#[test]
fn instances_are_independent() {
    let (device_a, a) = make();
    let (device_b, b) = make_with(IDS, config().with_streams(6, StreamTableKind::Auto));
    let in_a = a.create_context(&stage1()).unwrap();
    let in_b = b.create_context(&stage1()).unwrap();
    a.attach(1, StreamTarget::Context(in_a), AtsUse::Off)
        .unwrap();
    device_a.take_executed();
    b.attach(1, StreamTarget::Context(in_b), AtsUse::Off)
        .unwrap();
    assert!(device_a.take_executed().is_empty());
    assert!(!device_b.take_executed().is_empty());
    device_a.eager.store(false, Ordering::Relaxed);
    b.detach(1).unwrap();
    b.destroy_context(in_b).unwrap();
    assert_eq!(a.streams_of(in_a), Some(1));
}

/// Contexts come and go as long as the machine runs; their numbers come round.
#[test]
fn the_numbers_of_contexts_come_round_and_skip_those_in_use() {
    let (_, smmu) = make();
    let old = smmu.create_context(&stage1()).unwrap();
    smmu.tables.lock().next_context = u32::MAX;
    let last = smmu.create_context(&stage1()).unwrap();
    let next = smmu.create_context(&stage1()).unwrap();
    let numbers = [old, last, next].map(|context| context.number);
    assert_eq!(numbers, [0, u32::MAX, 1]);
    for context in [old, last, next] {
        assert_eq!(smmu.streams_of(context), Some(0));
        smmu.destroy_context(context).unwrap();
    }
}
