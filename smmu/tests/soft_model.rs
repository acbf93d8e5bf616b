//! The software SMMU behind its registers: queues, stream table, context
//! descriptors, events, and what it does with a driver's mistakes.

mod common;

use common::rig::*;
use dmabench_pgtable::TableMemory;
use dmabench_platform::{Granule, Iova, PhysAddr};
use dmabench_smmu::{
    SmmuHost,
    format::{
        CdFields, Command, EventKind, L1Cd, L1Std, S1Dss, Stage2Fields, SteFields, TableHalf,
        TlbiAddress, registers as reg,
    },
    soft::{Access, FaultKind, ModelConfig, ViolationKind},
};

#[test]
fn a_stream_is_found_and_translated() {
    for seed in [None, Some(1), Some(99)] {
        let config = match seed {
            Some(seed) => ModelConfig::default().with_seed(seed),
            None => ModelConfig::default(),
        };
        let rig = Rig::new(config, 3);
        rig.attach(ASID, PHYS);
        rig.invalidate_config(SID);
        let device = rig.device();
        assert_eq!(device.write(IOVA, &[1, 2, 3]).unwrap().done_bytes, 3);
        assert_eq!(rig.memory.read_u64(PhysAddr(PHYS)), 0x0003_0201);
        assert_eq!(rig.events(), []);
        // The event names stream, address and kind.
        let beyond = Iova(IOVA.0 + 0x1000);
        assert!(device.probe(beyond, Access::Read).fault().is_some());
        let events = rig.events();
        assert_eq!(events.len(), 1);
        let event = events[0];
        assert_eq!(event.kind, EventKind::Translation);
        assert_eq!((event.sid, event.ssid, event.address), (SID, None, beyond));
        assert!(event.read && !event.stage2);
        assert_eq!(rig.model.misuses(), 0);
        assert_eq!(rig.violations(), []);
    }
}

#[test]
fn disabled_it_passes_or_aborts() {
    let rig = Rig::at_once();
    rig.enable(reg::CR0_CMDQEN | reg::CR0_EVENTQEN);
    assert_eq!(
        rig.device().probe(IOVA, Access::Read).phys(),
        Some(PhysAddr(IOVA.0))
    );
    rig.model
        .write32(reg::GBPA, reg::GBPA_UPDATE | reg::GBPA_ABORT);
    assert_eq!(rig.model.read32(reg::GBPA), reg::GBPA_ABORT);
    assert_eq!(fault(&rig.device()), FaultKind::Aborted);
    assert_eq!(rig.events(), []);
}

#[test]
fn each_bad_structure_has_its_event() {
    let rig = Rig::at_once();
    let device = rig.device();
    let expect = |kind: FaultKind, event: Option<EventKind>| {
        rig.invalidate_config(SID);
        assert_eq!(fault(&device), kind);
        let events = rig.events();
        assert_eq!(events.first().map(|e| e.kind), event);
    };
    expect(FaultKind::BadSte, Some(EventKind::BadSte));
    rig.ste(SID, &valid(SteFields::abort()));
    expect(FaultKind::Aborted, None);
    let cds = rig.attach(ASID, PHYS);
    rig.words(cds, &[0]);
    expect(FaultKind::BadCd, Some(EventKind::BadCd));
    // Bad input 65: T0SZ that the granule does not allow.
    let root = rig.tables(PHYS);
    let half = TableHalf::new(root, 12, Granule::K4);
    rig.words(cds, &CdFields::new(ASID, half, 5, 0).encode().0);
    expect(FaultKind::BadCd, Some(EventKind::BadCd));
    // A stream beyond the table.
    let nobody = rig.model.device(64, None);
    assert_eq!(fault(&nobody), FaultKind::BadStreamId);
    assert_eq!(rig.events()[0].kind, EventKind::BadStreamId);
    let substream = rig.model.device(SID, Some(1));
    rig.words(cds, &rig.cd(ASID, root).0);
    rig.invalidate_config(SID);
    assert_eq!(fault(&substream), FaultKind::BadSubstreamId);
    let events = rig.events();
    assert_eq!(
        (events[0].kind, events[0].ssid),
        (EventKind::BadSubstreamId, Some(1))
    );
    assert!(device.probe(IOVA, Access::Read).is_fresh());
}

#[test]
fn substreams_have_contexts_of_their_own() {
    let rig = Rig::at_once();
    let leaf = rig.memory.alloc(65536).unwrap().phys;
    let level1 = rig.memory.alloc(4096).unwrap().phys;
    let contexts = L1Cd {
        valid: true,
        table: leaf,
    };
    rig.words(level1, &[contexts.encode()]);
    for (ssid, phys) in [(0, PHYS), (7, PHYS + 0x1000)] {
        let cd = rig.cd(ASID + ssid as u16, rig.tables(phys));
        rig.words(PhysAddr(leaf.0 + ssid * 64), &cd.0);
    }
    let mut fields = SteFields::stage1(level1, 8);
    fields.s1_format = 2;
    let reached = |ssid| {
        let device = rig.model.device(SID, ssid);
        device.probe(IOVA, Access::Read).phys().map(|p| p.0)
    };
    for (dss, without, zero) in [
        (S1Dss::Substream0, Some(PHYS), None),
        (S1Dss::Bypass, Some(IOVA.0), Some(PHYS)),
        (S1Dss::Terminate, None, Some(PHYS)),
    ] {
        fields.s1_dss = dss as u8;
        rig.ste(SID, &valid(fields));
        rig.invalidate_config(SID);
        assert_eq!(reached(None), without, "{dss:?}");
        assert_eq!(reached(Some(0)), zero, "{dss:?}");
        assert_eq!(reached(Some(7)), Some(PHYS + 0x1000));
        assert_eq!(reached(Some(8)), None, "an invalid descriptor");
        assert_eq!(reached(Some(256)), None, "beyond S1CDMax");
    }
}

#[test]
fn two_level_stream_tables_and_their_spans() {
    let rig = Rig::at_once();
    rig.enable(reg::CR0_CMDQEN | reg::CR0_EVENTQEN);
    let level1 = rig.memory.alloc(4096).unwrap().phys;
    let level2 = rig.memory.alloc(4096).unwrap().phys;
    let cfg = reg::StrtabBaseCfg {
        lg2_size: 12,
        split: Some(6),
    };
    rig.model
        .write64(reg::STRTAB_BASE, reg::strtab_base(level1, false));
    rig.model.write32(reg::STRTAB_BASE_CFG, cfg.encode());
    rig.enable(reg::CR0_CMDQEN | reg::CR0_EVENTQEN | reg::CR0_SMMUEN);
    let block = L1Std {
        span: 3,
        table: level2,
    };
    rig.words(PhysAddr(level1.0 + 8), &[block.encode()]);
    let bypass = valid(SteFields::bypass());
    for entry in 0..8 {
        rig.words(PhysAddr(level2.0 + entry * 64), &bypass.0);
    }
    let kind = |sid| {
        rig.model
            .device(sid, None)
            .probe(IOVA, Access::Read)
            .fault()
    };
    assert_eq!(kind(64), None);
    assert_eq!(kind(67), None);
    // Span 3 holds four entries; block 0 has no table.
    for sid in [68, 127, 0, 4096] {
        assert_eq!(kind(sid).unwrap().kind, FaultKind::BadStreamId, "{sid}");
    }
    // A longer span is seen only after an invalidation that is not leaf-only.
    let longer = L1Std { span: 4, ..block };
    rig.words(PhysAddr(level1.0 + 8), &[longer.encode()]);
    let forget = |leaf| {
        rig.send(Command::CfgiSte { sid: 68, leaf });
        rig.send(Command::SYNC);
    };
    forget(true);
    assert!(kind(68).is_some());
    forget(false);
    assert_eq!(kind(68), None);
}

#[test]
fn stage_2_and_nested_streams() {
    let rig = Rig::at_once();
    // Stage 2 maps the first GiB onto PHYS, by one block.
    let root = rig.memory.alloc(8192).unwrap().phys;
    rig.words(root, &[0x9_0000_0000 & !0x3fff_ffff | 0x7fd]);
    let stage2 = Stage2Fields {
        vmid: 9,
        t0sz: 24,
        sl0: 1,
        ttb: root,
        ..Stage2Fields::default()
    };
    rig.ste(SID, &valid(SteFields::stage2(stage2)));
    rig.invalidate_config(SID);
    let outcome = rig.device().probe(Iova(0x1234), Access::Write);
    let base = 0x9_0000_0000_u64 & !0x3fff_ffff;
    assert_eq!(outcome.phys(), Some(PhysAddr(base + 0x1234)));
    // Stage 2 faults are told only where S2R asks for it.
    let beyond = Iova(1 << 30);
    assert!(rig.device().probe(beyond, Access::Read).fault().is_some());
    assert!(rig.events()[0].stage2);
}

#[test]
fn a_structure_that_became_valid_needs_its_invalidation() {
    let rig = Rig::at_once();
    assert_eq!(fault(&rig.device()), FaultKind::BadSte);
    rig.attach(ASID, PHYS);
    assert_eq!(
        fault(&rig.device()),
        FaultKind::BadSte,
        "the invalid one stays"
    );
    assert_eq!(rig.violations(), [ViolationKind::LostMapping]);
    rig.send(Command::CfgiSte {
        sid: SID,
        leaf: true,
    });
    assert_eq!(fault(&rig.device()), FaultKind::BadSte, "until the sync");
    rig.send(Command::SYNC);
    assert!(rig.device().probe(IOVA, Access::Read).is_fresh());
}

#[test]
fn a_missing_cfgi_is_seen() {
    let rig = Rig::at_once();
    rig.attach(ASID, PHYS);
    rig.invalidate_config(SID);
    assert!(rig.device().probe(IOVA, Access::Write).is_fresh());
    // Detached, but only in memory.
    rig.ste(SID, &valid(SteFields::abort()));
    assert!(rig.device().probe(IOVA, Access::Write).is_stale());
    assert_eq!(rig.model.smmu().stats().stale_configurations, 1);
    assert_eq!(rig.violations(), []);
    rig.model.declare_configured(SID, None);
    assert_eq!(rig.violations(), [ViolationKind::StaleConfiguration]);
    rig.invalidate_config(SID);
    rig.model.declare_configured(SID, None);
    assert_eq!(rig.violations().len(), 1);
    assert_eq!(fault(&rig.device()), FaultKind::Aborted);
}

#[test]
fn a_context_descriptor_is_forgotten_by_its_own_command() {
    let rig = Rig::at_once();
    let cds = rig.attach(ASID, PHYS);
    rig.invalidate_config(SID);
    assert!(rig.device().probe(IOVA, Access::Read).is_fresh());
    // Another address space, with an ASID of its own.
    let cd = rig.cd(ASID + 1, rig.tables(PHYS + 0x5000));
    rig.words(cds, &cd.0);
    let reached = || rig.device().probe(IOVA, Access::Read).phys().map(|p| p.0);
    for wrong in [
        Command::CfgiCd {
            sid: SID,
            ssid: 1,
            leaf: true,
        },
        Command::CfgiCd {
            sid: SID + 1,
            ssid: 0,
            leaf: true,
        },
        Command::CfgiSteRange { sid: 64, range: 4 },
    ] {
        rig.send(wrong);
        rig.send(Command::SYNC);
        assert_eq!(reached(), Some(PHYS), "{wrong:?}");
    }
    rig.send(Command::CfgiCd {
        sid: SID,
        ssid: 0,
        leaf: true,
    });
    rig.send(Command::SYNC);
    assert_eq!(reached(), Some(PHYS + 0x5000));
}

#[test]
fn a1_an_asid_given_to_another_before_its_invalidation_is_seen() {
    let rig = Rig::at_once();
    rig.attach(ASID, PHYS);
    rig.invalidate_config(SID);
    assert!(rig.device().probe(IOVA, Access::Read).is_fresh());
    rig.attach(ASID, PHYS + 0x8000);
    rig.invalidate_config(SID);
    assert!(rig.device().probe(IOVA, Access::Read).is_stale());
    assert_eq!(rig.violations(), [ViolationKind::Reused]);
    rig.send(Command::TlbiNhAsid {
        vmid: 0,
        asid: ASID,
    });
    rig.send(Command::SYNC);
    assert!(rig.device().probe(IOVA, Access::Read).is_fresh());
}

#[test]
fn invalidations_by_bytes_reach_the_tlb() {
    let rig = Rig::at_once();
    rig.attach(ASID, PHYS);
    rig.invalidate_config(SID);
    let filled = || {
        assert!(rig.device().probe(IOVA, Access::Read).is_fresh());
        let stats = rig.model.smmu().stats();
        (stats.tlb_entries, stats.walk_entries)
    };
    let at = TlbiAddress {
        address: IOVA,
        leaf: true,
        granule: Some(Granule::K4),
        ttl: 3,
        num: 4,
        scale: 2,
    };
    let by = |at| Command::TlbiNhVa {
        vmid: 0,
        asid: ASID,
        at,
    };
    for (command, left) in [
        (by(at), (0, 2)),
        (
            by(TlbiAddress {
                leaf: false,
                ttl: 0,
                ..at
            }),
            (0, 0),
        ),
        (
            by(TlbiAddress {
                ttl: 2,
                address: Iova(IOVA.0),
                ..at
            }),
            (1, 2),
        ),
        (
            by(TlbiAddress {
                address: Iova(IOVA.0 - 20 * 4096),
                ..at
            }),
            (1, 2),
        ),
        (
            by(TlbiAddress {
                address: Iova(IOVA.0 - 19 * 4096),
                ..at
            }),
            (0, 2),
        ),
        (by(TlbiAddress::single(IOVA, true)), (0, 2)),
        (Command::TlbiNhAll { vmid: 0 }, (0, 0)),
        (Command::TlbiNsnhAll, (0, 0)),
    ] {
        assert_eq!(filled(), (1, 2));
        rig.send(command);
        rig.send(Command::SYNC);
        let stats = rig.model.smmu().stats();
        assert_eq!((stats.tlb_entries, stats.walk_entries), left, "{command:?}");
    }
}

#[test]
fn every_queue_size_wraps_at_every_offset() {
    for lg2 in 0..=4 {
        let rig = Rig::new(ModelConfig::default(), lg2);
        for _ in 0..5 << lg2 {
            rig.send(Command::SYNC);
        }
        assert_eq!(rig.model.smmu().stats().syncs, 5 << lg2);
        // A whole queue at once, from every offset.
        for _ in 0..2 << lg2 {
            let mut prod = rig.model.read32(reg::CMDQ_PROD);
            for _ in 0..1 << lg2 {
                prod = rig.put(prod, &Command::SYNC.encode());
            }
            rig.model.write32(reg::CMDQ_PROD, prod);
            assert_eq!(rig.model.read32(reg::CMDQ_CONS), prod);
            rig.send(Command::SYNC);
        }
        assert_eq!(rig.model.misuses(), 0);
    }
}

#[test]
fn bad_input_61_an_illegal_command_stops_the_queue_until_it_is_replaced() {
    let rig = Rig::at_once();
    rig.send(Command::SYNC);
    let before = rig.model.read32(reg::CMDQ_CONS);
    rig.send_raw(&[0xff, 0]);
    rig.send_raw(&Command::SYNC.encode());
    let cons = rig.model.read32(reg::CMDQ_CONS);
    assert_eq!(cons, before | 1 << 24, "CERROR_ILL at the bad command");
    let gerror = rig.model.read32(reg::GERROR);
    assert_eq!(gerror & reg::GERROR_CMDQ, 1);
    assert_eq!(rig.model.smmu().stats().syncs, 1, "nothing behind it ran");
    rig.put(before, &Command::SYNC.encode());
    rig.model.write32(reg::GERRORN, gerror);
    assert_eq!(rig.model.smmu().stats().syncs, 3, "goes on by itself");
    for code in [2, 3, 0x7f] {
        rig.model.inject_command_error(code, 0);
        rig.send_raw(&Command::SYNC.encode());
        assert_eq!(rig.model.read32(reg::CMDQ_CONS) >> 24, u32::from(code));
        let gerror = rig.model.read32(reg::GERROR);
        rig.model.write32(reg::GERRORN, gerror);
    }
    assert_eq!(rig.model.smmu().stats().syncs, 6);
}

#[test]
fn bad_input_60_inconsistent_indices_stop_the_queue() {
    let rig = Rig::new(ModelConfig::default(), 2);
    rig.model.write32(reg::CMDQ_PROD, 5);
    assert_eq!(rig.model.read32(reg::CMDQ_CONS), 0);
    assert!(rig.model.misuses() > 0);
}

#[test]
fn a_sync_tells_by_message() {
    use dmabench_smmu::format::SyncSignal;
    let rig = Rig::at_once();
    let at = PhysAddr(0x5_0000_0004);
    rig.send(Command::Sync {
        signal: SyncSignal::Interrupt {
            address: at,
            data: 0x1234_5678,
            shareability: 3,
            attributes: 15,
        },
    });
    assert_eq!(
        rig.memory.read_u64(PhysAddr(0x5_0000_0000)),
        0x1234_5678 << 32
    );
}

#[test]
fn an_overflow_of_the_event_queue_is_told_once() {
    let rig = Rig::new(ModelConfig::default(), 1);
    let device = rig.device();
    for _ in 0..5 {
        assert_eq!(fault(&device), FaultKind::BadSte);
    }
    let prod = rig.model.read32(reg::EVENTQ_PROD);
    assert_eq!(prod, 1 << 31 | 2, "two records, and the flag");
    assert_eq!(rig.events().len(), 2);
    // Not acknowledged: a second overflow shows no change.
    for _ in 0..3 {
        fault(&device);
    }
    assert_eq!(rig.model.read32(reg::EVENTQ_PROD) >> 31, 1);
    let cons = rig.model.read32(reg::EVENTQ_CONS);
    rig.model.write32(reg::EVENTQ_CONS, cons | 1 << 31);
    fault(&device);
    assert_eq!(rig.model.read32(reg::EVENTQ_PROD) >> 31, 0, "told again");
}

#[test]
fn guarded_registers_do_not_change_while_enabled() {
    let rig = Rig::at_once();
    rig.attach(ASID, PHYS);
    rig.invalidate_config(SID);
    rig.model.write64(reg::STRTAB_BASE, 0x1_0000_0000);
    rig.model.write32(reg::STRTAB_BASE_CFG, 0);
    rig.model.write64(reg::CMDQ_BASE, 0x1_0000_0000);
    assert_eq!(rig.model.misuses(), 3);
    assert!(rig.device().probe(IOVA, Access::Read).is_fresh());
    rig.send(Command::SYNC);
}
