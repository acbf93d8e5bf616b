//! Attaching, switching, contexts.

use super::*;

#[test]
fn bring_up_writes_what_qemu_was_seen_to_accept() {
    let device = TestDevice::new(IDS);
    let smmu: Driver = Smmu::new(device.clone(), HeapTables, config()).unwrap();
    assert_eq!(device.get(r::CR0), 0xd);
    assert_eq!(device.get(r::CR1), 0xd75);
    let (table, known) = r::StrtabBaseCfg::decode(device.get(r::STRTAB_BASE_CFG));
    assert!(known);
    assert_eq!((table.lg2_size, table.split), (16, Some(8)));
    let (_, lg2) = r::decode_queue_base(device.get_wide(r::CMDQ_BASE));
    assert_eq!(lg2, 8);
    assert_eq!(
        decoded(&device.take_executed(), &smmu),
        [Command::CfgiAll, Command::TlbiNsnhAll, Command::SYNC]
    );
    drop(smmu);
    assert_eq!(device.get(r::CR0), 0, "off again");
}

#[test]
fn attach_switch_and_detach_write_legal_entries_and_tell_the_smmu() {
    let (device, smmu) = make();
    let one = smmu.create_context(&stage1()).unwrap();
    let two = smmu.create_context(&stage2()).unwrap();
    assert_eq!(entry(&device, 0x20), None, "no second level yet");
    let target = StreamTarget::Context(one);
    let first = smmu.attach(0x20, target, AtsUse::Off).unwrap();
    assert_eq!(first, UpdateKind::Broke, "it was not valid before");
    let told = decoded(&device.take_executed(), &smmu);
    let forget = |leaf| Command::CfgiSte { sid: 0x20, leaf };
    assert_eq!(
        told,
        [forget(false), Command::SYNC, forget(false), Command::SYNC]
    );
    let ste = entry(&device, 0x20).unwrap();
    let fields = check_ste(&ste, smmu.features()).unwrap();
    assert_eq!(fields.config, SteConfig::Stage1);
    let cd = Cd(core::array::from_fn(|w| {
        word_at(fields.s1_context.0 + 8 * w as u64).load(Ordering::Relaxed)
    }));
    let cd = check_cd(&cd, &StreamContext::of(&fields), smmu.features()).unwrap();
    assert_eq!(one.stage(), TranslationStage::One { asid: cd.asid });
    assert_eq!(cd.low.txsz, 16);
    assert_eq!(smmu.streams_of(one), Some(1));

    let second = smmu
        .attach(0x20, StreamTarget::Bypass, AtsUse::Off)
        .unwrap();
    assert_eq!(second, UpdateKind::Hitless);
    assert_eq!(smmu.streams_of(one), Some(0));
    let third = smmu.attach(0x20, StreamTarget::Context(two), AtsUse::Off);
    assert_eq!(third, Ok(UpdateKind::Hitless));
    let ste = entry(&device, 0x20).unwrap();
    let fields = check_ste(&ste, smmu.features()).unwrap();
    assert_eq!(fields.config, SteConfig::Stage2);
    assert_eq!(
        two.stage(),
        TranslationStage::Two {
            vmid: fields.stage2.vmid
        }
    );
    assert!(decoded(&device.take_executed(), &smmu).contains(&forget(true)));
    assert_eq!(smmu.detach(0x20), Ok(UpdateKind::Hitless));
    assert_eq!(smmu.detach(0x20), Ok(UpdateKind::Unchanged));
    let aborted = check_ste(&entry(&device, 0x20).unwrap(), smmu.features()).unwrap();
    assert_eq!(aborted.config, SteConfig::Abort);
    smmu.destroy_context(one).unwrap();
    smmu.destroy_context(two).unwrap();
    assert_eq!(smmu.destroy_context(one), Err(ContextError::Unknown));
    assert_eq!(
        smmu.attach(0x20, target, AtsUse::Off),
        Err(AttachError::UnknownContext)
    );
}

#[test]
fn bad_input_66_streams_beyond_the_table_or_never_attached() {
    let (device, smmu) = make();
    for sid in [0x1_0000, u32::MAX] {
        let refused = smmu.attach(sid, StreamTarget::Bypass, AtsUse::Off);
        assert_eq!(refused, Err(AttachError::StreamId { sid }));
        assert_eq!(smmu.detach(sid), Err(AttachError::StreamId { sid }));
    }
    assert_eq!(smmu.detach(5), Err(AttachError::NotAttached { sid: 5 }));
    assert!(device.take_executed().is_empty(), "nothing was queued");
    assert_eq!(entry(&device, 5), None, "nor made");
    // A linear table of 4 bits.
    let (_, small) = make_with(IDS, config().with_streams(4, StreamTableKind::Linear));
    assert_eq!(
        small.attach(16, StreamTarget::Abort, AtsUse::Off),
        Err(AttachError::StreamId { sid: 16 })
    );
    assert!(small.attach(15, StreamTarget::Abort, AtsUse::Off).is_ok());
}

#[test]
fn bad_input_65_tables_the_smmu_cannot_walk_are_refused() {
    let (_, smmu) = make_with(QEMU_NESTED, config());
    // The heap lies beyond 44 bits.
    let result = smmu.create_context(&stage1());
    assert_eq!(
        result,
        Err(ContextError::BadCd(crate::format::CdIllegal::TableBase))
    );
    let no_stage2 = IdRegisters {
        idr0: QEMU_NESTED.idr0 & !1,
        ..IDS
    };
    let (_, smmu) = make_with(no_stage2, config());
    assert_eq!(
        smmu.create_context(&stage2()),
        Err(ContextError::BadSte(SteIllegal::NoStage2))
    );
    let only_4k = IdRegisters { idr5: 0x15, ..IDS };
    let (_, smmu) = make_with(only_4k, config());
    let wide = PageTable::<S1K64, _>::new(TableConfig::new(48, 48), HeapTables, slots()).unwrap();
    assert_eq!(
        smmu.create_context(&wide.registers()),
        Err(ContextError::BadCd(crate::format::CdIllegal::Granule))
    );
    assert!(smmu.create_context(&stage1()).is_ok(), "no number was lost");
}

#[test]
fn bad_input_57_more_contexts_than_eight_bits_hold() {
    let ids = IdRegisters {
        idr0: QEMU_NESTED.idr0 & !(1 << 12),
        ..IDS
    };
    let (_, smmu) = make_with(ids, config());
    let registers = stage1();
    let all: Vec<_> = (0..255)
        .map(|_| smmu.create_context(&registers).unwrap())
        .collect();
    assert_eq!(smmu.create_context(&registers), Err(ContextError::NoId));
    smmu.destroy_context(all[77]).unwrap();
    let again = smmu.create_context(&registers).unwrap();
    assert_eq!(again.stage(), all[77].stage());
    assert_ne!(again, all[77], "the old name is not the new context");
    assert_eq!(smmu.destroy_context(all[77]), Err(ContextError::Unknown));
}

#[test]
fn a1_a_number_is_not_reused_before_its_invalidation_has_completed() {
    let (device, smmu) = make();
    let context = smmu.create_context(&stage1()).unwrap();
    let TranslationStage::One { asid } = context.stage() else {
        panic!("stage 1 was asked for");
    };
    smmu.attach(1, StreamTarget::Context(context), AtsUse::Off)
        .unwrap();
    assert_eq!(
        smmu.destroy_context(context),
        Err(ContextError::InUse { streams: 1 })
    );
    smmu.detach(1).unwrap();
    device.eager.store(false, Ordering::Relaxed);
    let late = ContextError::NotInvalidated(WaitError::TimedOut { after: MS });
    assert_eq!(smmu.destroy_context(context), Err(late));
    for _ in 0..3 {
        let other = smmu.create_context(&stage1()).unwrap();
        assert_ne!(
            other.stage(),
            context.stage(),
            "A11: the number stays taken"
        );
    }
    device.run(100);
    device.eager.store(true, Ordering::Relaxed);
    device.take_executed();
    smmu.destroy_context(context).unwrap();
    assert_eq!(
        decoded(&device.take_executed(), &smmu),
        [Command::TlbiNhAsid { vmid: 0, asid }, Command::SYNC]
    );
}

#[test]
fn a11_a_stream_whose_switch_is_not_synced_holds_both_contexts() {
    let (device, smmu) = make();
    let old = smmu.create_context(&stage1()).unwrap();
    let new = smmu.create_context(&stage1()).unwrap();
    smmu.attach(3, StreamTarget::Context(old), AtsUse::Off)
        .unwrap();
    device.eager.store(false, Ordering::Relaxed);
    let failed = smmu.attach(3, StreamTarget::Context(new), AtsUse::Off);
    assert!(matches!(failed, Err(AttachError::NotSynced(_))));
    assert_eq!(
        (smmu.streams_of(old), smmu.streams_of(new)),
        (Some(1), Some(1))
    );
    device.run(100);
    device.eager.store(true, Ordering::Relaxed);
    device.take_executed();
    smmu.attach(3, StreamTarget::Context(new), AtsUse::Off)
        .unwrap();
    assert!(
        !device.take_executed().is_empty(),
        "told again, whatever memory says"
    );
    assert_eq!(
        (smmu.streams_of(old), smmu.streams_of(new)),
        (Some(0), Some(1))
    );
}

#[test]
fn every_shape_of_stream_table_reaches_every_stream() {
    for (bits, kind) in [
        (6, StreamTableKind::Linear),
        (12, StreamTableKind::Linear),
        (16, StreamTableKind::TwoLevel { split: 6 }),
        (16, StreamTableKind::TwoLevel { split: 10 }),
        (8, StreamTableKind::TwoLevel { split: 8 }),
        (16, StreamTableKind::Auto),
    ] {
        let (device, smmu) = make_with(IDS, config().with_streams(bits, kind));
        let mut sids = vec![0, 1, 63, (1 << bits) - 1, 1 << (bits - 1)];
        sids.dedup();
        for (n, sid) in sids.iter().enumerate() {
            let target = if n % 2 == 0 {
                StreamTarget::Bypass
            } else {
                StreamTarget::Abort
            };
            smmu.attach(*sid, target, AtsUse::Off).unwrap();
        }
        for sid in sids {
            let fields = check_ste(&entry(&device, sid).unwrap(), smmu.features()).unwrap();
            assert!(matches!(
                fields.config,
                SteConfig::Bypass | SteConfig::Abort
            ));
        }
        assert_eq!(
            entry(&device, 2).map(|ste| ste.0),
            Some([0; 8]),
            "a neighbour that nobody attached is not valid"
        );
    }
}

/// The switch of a live stream, looked at whenever the SMMU executes a command.
/// (After each store: the tests of the writer.)
#[test]
fn a_torn_descriptor_never_shows() {
    let (device, smmu) = make();
    let contexts: Vec<_> = [stage1(), stage2(), stage1(), stage2()]
        .iter()
        .map(|registers| smmu.create_context(registers).unwrap())
        .collect();
    let features: Features = *smmu.features();
    let seen = Arc::new(Plain::new(0));
    smmu.attach(4, StreamTarget::Bypass, AtsUse::Off).unwrap();
    let (inner, count) = (Arc::downgrade(&device), seen.clone());
    let base = r::decode_strtab_base(device.get_wide(r::STRTAB_BASE)).0;
    let l1 = crate::format::L1Std::decode(word_at(base).load(Ordering::Relaxed));
    device.observe(move |_| {
        let _alive = inner.upgrade().is_some();
        let at = l1.table.0 + 4 * 64;
        let ste = Ste(core::array::from_fn(|w| {
            word_at(at + 8 * w as u64).load(Ordering::Relaxed)
        }));
        if ste.0[0] & 1 != 0 {
            // At each command the entry is one the SMMU may use.
            check_ste(&ste, &features).unwrap();
        }
        *count.lock().unwrap() += 1;
    });
    for n in 0..32 {
        let target = match n % 6 {
            4 => StreamTarget::Bypass,
            5 => StreamTarget::Abort,
            k => StreamTarget::Context(contexts[k]),
        };
        smmu.attach(4, target, AtsUse::Off).unwrap();
    }
    assert!(*seen.lock().unwrap() > 100);
}

#[test]
fn tables_of_16k_make_legal_contexts() {
    let (_, smmu) = make();
    let wide = PageTable::<S1K16, _>::new(TableConfig::new(47, 48), HeapTables, slots()).unwrap();
    let context = smmu.create_context(&wide.registers()).unwrap();
    assert!(
        smmu.attach(1, StreamTarget::Context(context), AtsUse::Off)
            .is_ok()
    );
}
