//! What ranges become.

use super::*;

fn range(iova: u64, len: u64, level: Option<i8>, leaf_only: bool) -> TlbRange {
    TlbRange {
        iova: Iova(iova),
        len_bytes: len,
        granule: Granule::K4,
        level: level.and_then(Level::new),
        leaf_only,
    }
}

fn addresses(
    smmu: &Driver,
    device: &TestDevice,
    ranges: &[TlbRange],
) -> Vec<crate::format::TlbiAddress> {
    let context = SmmuContext {
        number: 0,
        stage: TranslationStage::One { asid: 5 },
    };
    device.take_executed();
    smmu.invalidate(None, &context, ranges).unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    let _synced = smmu.sync_wait(None, ticket, MS).unwrap();
    let mut commands = decoded(&device.take_executed(), smmu);
    assert_eq!(commands.pop(), Some(Command::SYNC));
    commands
        .into_iter()
        .map(|command| match command {
            Command::TlbiNhVa {
                vmid: 0,
                asid: 5,
                at,
            } => at,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn one_range_of_m_times_two_to_the_k_pages_is_one_command() {
    let (device, smmu) = make();
    for m in 1..=32_u64 {
        for k in 0..20 {
            let one = range(0x1_0000_0000, m << (k + 12), None, true);
            let sent = addresses(&smmu, &device, &[one]);
            assert_eq!(sent.len(), 1);
            let (first, last) = sent[0].covers();
            assert_eq!((first, last), (one.iova, one.last_byte()));
        }
    }
    let small = addresses(&smmu, &device, &[range(0x5000, 0x1000, None, false)]);
    assert_eq!(small[0].granule, None, "TG = 0 rather than an empty range");
    let leaf = addresses(&smmu, &device, &[range(0x5000, 0x1000, Some(3), true)]);
    assert_eq!((leaf[0].granule, leaf[0].ttl), (Some(Granule::K4), 3));
}

#[test]
fn level_hints_only_where_they_hold() {
    let (device, smmu) = make();
    let ttl = |r: TlbRange| addresses(&smmu, &device, &[r])[0].ttl;
    let mb2 = 2 << 20;
    assert_eq!(ttl(range(mb2, 3 * mb2, Some(2), true)), 2);
    assert_eq!(ttl(range(1 << 30, 1 << 30, Some(1), true)), 1);
    assert_eq!(
        ttl(range(mb2, 3 * mb2, Some(2), false)),
        0,
        "a table was freed"
    );
    assert_eq!(ttl(range(mb2, 3 * mb2, None, true)), 0, "level unknown");
    assert_eq!(
        ttl(range(mb2 + 4096, 8192, Some(2), true)),
        0,
        "bad_input_58: not aligned"
    );
    assert_eq!(
        ttl(range(0, 1 << 39, Some(0), true)),
        0,
        "level 0 cannot be said"
    );
    let of_16k = TlbRange {
        granule: Granule::K16,
        ..range(1 << 36, 1 << 36, Some(1), true)
    };
    assert_eq!(ttl(of_16k), 0, "no leaves at level 1 without DS");
    let quiet = Errata {
        no_level_hint: true,
        ..Errata::NONE
    };
    let (device, smmu) = make_with(IDS, config().with_errata(quiet));
    assert_eq!(
        addresses(&smmu, &device, &[range(0, 4096, Some(3), true)])[0].ttl,
        0
    );
}

#[test]
fn bad_input_59_sizes_that_no_command_can_say() {
    let (device, smmu) = make();
    let context = smmu.create_context(&stage2()).unwrap();
    device.take_executed();
    for bad in [
        range(0, 0, None, true),
        range(0x1000, u64::MAX, None, true),
        range(0x1000, !0xfff, None, true),
        range(0x800, 0x1000, None, true),
        range(0x1000, 0x1800, None, true),
        range(1 << 52, 0x1000, None, true),
    ] {
        assert_eq!(
            smmu.invalidate(None, &context, &[bad]),
            Err(BackendError::Unsupported)
        );
        // The whole context has a call of its own.
        assert_eq!(
            smmu.invalidate(None, &context, &[range(0, 4096, None, true), bad]),
            Err(BackendError::Unsupported)
        );
    }
    assert!(device.take_executed().is_empty());
    smmu.invalidate_all(None, &context).unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    assert!(smmu.sync_wait(None, ticket, MS).is_ok());
    assert!(matches!(
        decoded(&device.take_executed(), &smmu)[0],
        Command::TlbiS12VmAll { .. }
    ));
}

/// Random ranges: what is sent covers every granule, no byte more, with as many
/// commands as are counted.
#[test]
fn a6_commands_cover_exactly_and_as_counted_with_and_without_ranges() {
    let without = IdRegisters {
        idr3: QEMU_NESTED.idr3 & !(1 << 10),
        ..IDS
    };
    for (ids, kind) in [
        (IDS, RangeCommands::Supported),
        (without, RangeCommands::Absent),
    ] {
        let (device, smmu) = make_with(ids, config());
        let mut seed = 0x1234_5678_9abc_def1_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..600 {
            let (granule, block) =
                [(Granule::K4, 9), (Granule::K16, 11), (Granule::K64, 13)][random() as usize % 3];
            let level = [None, Some(3), Some(2)][random() as usize % 3];
            let unit = granule.bytes() << if level == Some(2) { block } else { 0 };
            let count = 1 + random() % if random() % 4 == 0 { 3000 } else { 40 };
            let asked = TlbRange {
                granule,
                ..range(
                    random() % 1000 * unit,
                    count * unit,
                    level,
                    random() % 3 != 0,
                )
            };
            let counted = commands_for(&asked, kind);
            let all: Option<Vec<_>> = match smmu.encoder.plan(&asked).unwrap() {
                RangePlan::ByAddress(addresses) => Some(addresses.collect()),
                RangePlan::WholeContext => None,
            };
            if let Some(single) = smmu.encoder.single(&asked) {
                assert_eq!(all, Some(vec![single]), "the short way is the long one's");
            } else {
                assert!(all.is_none_or(|all| all.len() > 1 || kind == RangeCommands::Absent));
            }
            if counted.by_context != 0 {
                assert!(asked.len_bytes / granule.bytes() >= whole_context_from(granule));
                continue;
            }
            let sent = addresses(&smmu, &device, &[asked]);
            assert_eq!(sent.len() as u64, counted.by_address, "{asked:?}");
            // Single commands take what lies at the address: count by steps.
            let mut next = asked.iova.0;
            for at in &sent {
                assert_eq!(at.address.0, next);
                assert_eq!(at.leaf, asked.leaf_only);
                next = match at.granule {
                    Some(tg) => {
                        assert_eq!(tg, granule);
                        at.covers().1.0 + 1
                    }
                    None if kind == RangeCommands::Supported => next + granule.bytes(),
                    None => next + asked.len_bytes / counted.by_address,
                };
            }
            assert_eq!(next, asked.last_byte().0 + 1);
        }
    }
}

#[test]
fn without_ranges_a_long_one_becomes_the_whole_context() {
    let ids = IdRegisters {
        idr3: QEMU_NESTED.idr3 & !(1 << 10),
        ..IDS
    };
    let (device, smmu) = make_with(ids, config());
    let context = smmu.create_context(&stage1()).unwrap();
    let long = range(0, 512 << 12, None, true);
    let short = range(1 << 30, 1 << 12, Some(3), true);
    smmu.invalidate(None, &context, &[short, long]).unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    assert!(smmu.sync_wait(None, ticket, MS).is_ok());
    let sent = decoded(&device.take_executed(), &smmu);
    assert_eq!(sent.len(), 2);
    assert!(matches!(sent[0], Command::TlbiNhAsid { .. }));
}

#[test]
fn errata_change_the_commands_as_they_say() {
    let single = Errata {
        single_address_only: true,
        ..Errata::NONE
    };
    let (device, smmu) = make_with(IDS, config().with_errata(single));
    let sent = addresses(&smmu, &device, &[range(0, 40 << 12, Some(3), true)]);
    assert_eq!(sent.len(), 40);
    assert!(sent.iter().all(|at| at.granule.is_none()));

    let wide = Errata {
        always_range: true,
        ..Errata::NONE
    };
    let (device, smmu) = make_with(IDS, config().with_errata(wide));
    let sent = addresses(&smmu, &device, &[range(0x7000, 0x1000, None, false)]);
    assert_eq!(sent[0].covers(), (Iova(0x7000), Iova(0x8fff)));
    let top = !0xfff;
    let sent = addresses(&smmu, &device, &[range(top, 0x1000, None, false)]);
    assert_eq!(sent[0].covers(), (Iova(top - 0x1000), Iova(u64::MAX)));

    let synced = Errata {
        sync_ends_batch: true,
        ..Errata::NONE
    };
    let (device, smmu) = make_with(IDS, config().with_errata(synced));
    let context = smmu.create_context(&stage1()).unwrap();
    device.take_executed();
    let many: Vec<_> = (0..40)
        .map(|n| range(n << 13, 0x1000, Some(3), true))
        .collect();
    smmu.invalidate(None, &context, &many).unwrap();
    let sent = decoded(&device.take_executed(), &smmu);
    assert_eq!(sent.iter().filter(|c| **c == Command::SYNC).count(), 3);
    assert_eq!(sent.last(), Some(&Command::SYNC));
}

#[test]
fn ats_devices_are_told_behind_the_smmu_and_forgotten_when_they_go() {
    let ids = IdRegisters {
        idr0: QEMU_NESTED.idr0 | 1 << 10,
        ..IDS
    };
    let (device, smmu) = make_with(ids, config());
    let context = smmu.create_context(&stage1()).unwrap();
    let target = StreamTarget::Context(context);
    smmu.attach(0x31, target, AtsUse::Full).unwrap();
    let fields = check_ste(&entry(&device, 0x31).unwrap(), smmu.features()).unwrap();
    assert_eq!(fields.eats, 1);
    device.take_executed();
    smmu.invalidate(None, &context, &[range(0x8000, 0x4000, Some(3), true)])
        .unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    assert!(smmu.sync_wait(None, ticket, MS).is_ok());
    let sent = decoded(&device.take_executed(), &smmu);
    let atc = Command::AtcInv {
        sid: 0x31,
        ssid: None,
        global: false,
        address: Iova(0x8000),
        size: 2,
    };
    assert!(matches!(sent[0], Command::TlbiNhVa { .. }));
    assert_eq!(sent[1..], [Command::SYNC, atc, Command::SYNC]);
    smmu.attach(0x31, target, AtsUse::Off).unwrap();
    let sent = decoded(&device.take_executed(), &smmu);
    assert!(sent.contains(&atc_of(0x31)));
    smmu.invalidate(None, &context, &[range(0x8000, 0x4000, Some(3), true)])
        .unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    assert!(smmu.sync_wait(None, ticket, MS).is_ok());
    assert_eq!(device.take_executed().len(), 2, "no device caches any more");
    let (_, plain) = make();
    assert_eq!(
        plain.attach(1, StreamTarget::Context(context), AtsUse::Full),
        Err(AttachError::UnknownContext),
        "contexts belong to one SMMU"
    );
    let own = plain.create_context(&stage1()).unwrap();
    assert_eq!(
        plain.attach(1, StreamTarget::Context(own), AtsUse::Full),
        Err(AttachError::NoAts)
    );
}

/// Each device of the context is told of each range, none of another context,
/// and none that has gone; and telling them takes no memory.
#[test]
fn ats_devices_of_one_context_are_all_told_without_taking_memory() {
    let ids = IdRegisters {
        idr0: QEMU_NESTED.idr0 | 1 << 10,
        ..IDS
    };
    let (device, smmu) = make_with(ids, config());
    let contexts = [0, 1, 2].map(|_| smmu.create_context(&stage1()).unwrap());
    let mut streams = [vec![], vec![], vec![]];
    for n in [7_u32, 3, 11, 0, 5, 9, 1, 14, 2] {
        let to = n as usize % 3;
        let target = StreamTarget::Context(contexts[to]);
        smmu.attach(0x100 + n, target, AtsUse::Full).unwrap();
        streams[to].push(0x100 + n);
    }
    let gone = streams[2].remove(1);
    smmu.attach(gone, StreamTarget::Abort, AtsUse::Off).unwrap();
    let two = [
        range(0x8000, 0x4000, Some(3), true),
        range(0x20_0000, 0x1000, Some(3), true),
    ];
    for (context, streams) in contexts.iter().zip(&mut streams) {
        streams.sort_unstable();
        for ranges in [Some(&two[..]), None] {
            device.eager.store(false, Ordering::Relaxed);
            device.take_executed();
            let taken = allocations(|| match ranges {
                Some(ranges) => smmu.invalidate(None, context, ranges).unwrap(),
                None => smmu.invalidate_all(None, context).unwrap(),
            });
            assert_eq!(taken, 0);
            let ticket = smmu.sync_begin(None).unwrap();
            device.run(u64::MAX);
            assert!(smmu.sync_wait(None, ticket, MS).is_ok());
            device.eager.store(true, Ordering::Relaxed);
            let told: Vec<_> = decoded(&device.take_executed(), &smmu)
                .into_iter()
                .filter_map(|command| match command {
                    Command::AtcInv { sid, .. } => Some(sid),
                    _ => None,
                })
                .collect();
            let each = if ranges.is_some() { 2 } else { 1 };
            let expected: Vec<_> = streams
                .iter()
                .flat_map(|sid| core::iter::repeat_n(*sid, each))
                .collect();
            assert_eq!(told, expected);
        }
    }
}

fn atc_of(sid: u32) -> Command {
    check_command(
        &super::backend::whole_atc(sid),
        &crate::format::features::tests::everything(),
    )
    .unwrap()
}

#[test]
fn a11_a_lost_invalidation_fails_the_sync_and_a_second_try_succeeds() {
    let (device, smmu) = make();
    let context = smmu.create_context(&stage1()).unwrap();
    // Three commands of the bring-up were met.
    device.doom(3, Fate::Illegal, 1);
    smmu.invalidate(None, &context, &[range(0, 4096, Some(3), true)])
        .unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    assert_eq!(
        smmu.sync_wait(None, ticket, MS),
        Err(Late::Failed(BackendError::Rejected { code: 1 }))
    );
    smmu.invalidate(None, &context, &[range(0, 4096, Some(3), true)])
        .unwrap();
    let ticket = smmu.sync_begin(None).unwrap();
    assert!(smmu.sync_wait(None, ticket, MS).is_ok());
    assert_eq!(smmu.command_queue().faults().heals, 1);
}
