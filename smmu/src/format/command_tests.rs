use alloc::{vec, vec::Vec};

use dmabench_platform::{Iova, PhysAddr};

use super::{
    super::{
        Resume, SyncSignal,
        features::tests::{QEMU_NESTED, everything},
    },
    *,
};

fn qemu() -> Features {
    Features::decode(&QEMU_NESTED)
}

fn range(granule: Granule, ttl: u8, num: u8, scale: u8, address: u64) -> TlbiAddress {
    TlbiAddress {
        address: Iova(address),
        leaf: true,
        granule: Some(granule),
        ttl,
        num,
        scale,
    }
}

/// Every kind of command, with operands that use the highest bits.
fn samples() -> Vec<Command> {
    let at = range(Granule::K4, 2, 31, 31, 0x20_0000);
    let sid = 0xffff_ffff;
    let ssid = Some(0xf_ffff);
    vec![
        Command::PrefetchConfig { sid, ssid },
        Command::PrefetchAddr {
            sid,
            ssid: None,
            address: Iova(0xffff_ffff_ffff_f000),
        },
        Command::CfgiSte { sid, leaf: true },
        Command::CfgiSteRange { sid, range: 30 },
        Command::CfgiAll,
        Command::CfgiCd {
            sid,
            ssid: 0xf_ffff,
            leaf: true,
        },
        Command::CfgiCdAll { sid },
        Command::TlbiNhAll { vmid: 0xffff },
        Command::TlbiNhAsid {
            vmid: 0xffff,
            asid: 0xfffe,
        },
        Command::TlbiNhVa {
            vmid: 0x8001,
            asid: 0x8002,
            at,
        },
        Command::TlbiNhVaa { vmid: 3, at },
        Command::TlbiEl2All,
        Command::TlbiEl2Asid { asid: 9 },
        Command::TlbiEl2Va { asid: 0xffff, at },
        Command::TlbiEl2Vaa { at },
        Command::TlbiS12VmAll { vmid: 0xfffe },
        Command::TlbiS2Ipa {
            vmid: 1,
            at: TlbiAddress::single(Iova(0xf_ffff_ffff_f000), false),
        },
        Command::TlbiNsnhAll,
        Command::AtcInv {
            sid,
            ssid,
            global: true,
            address: Iova(0),
            size: 52,
        },
        Command::PriResp {
            sid,
            ssid,
            group: 0x1ff,
            response: 2,
        },
        Command::Resume {
            sid,
            stag: 0xffff,
            resume: Resume::Abort,
        },
        Command::StallTerm { sid },
        Command::SYNC,
        Command::Sync {
            signal: SyncSignal::Event,
        },
        Command::Sync {
            signal: SyncSignal::Interrupt {
                address: PhysAddr(0xf_ffff_ffff_fffc),
                data: 0xdead_beef,
                shareability: 3,
                attributes: 0xf,
            },
        },
    ]
}

#[test]
fn every_command_survives_encoding_and_passes_the_checker() {
    for command in samples() {
        assert_eq!(check_command(&command.encode(), &everything()), Ok(command));
    }
}

/// Words that QEMU 7.2 to 11.1 executed.
#[test]
fn encodings_as_emulators_and_kernels_have_them() {
    let cases = [
        (
            Command::CfgiSte {
                sid: 0x20,
                leaf: true,
            },
            [0x20_0000_0003, 1],
        ),
        (Command::CfgiAll, [0x04, 31]),
        (
            Command::TlbiNhAsid { vmid: 0, asid: 7 },
            [0x0007_0000_0000_0011, 0],
        ),
        (
            Command::TlbiNhVa {
                vmid: 5,
                asid: 7,
                at: range(Granule::K4, 3, 4, 1, 0x8_0000_1000),
            },
            [
                0x0007_0005_0000_0012 | 4 << 12 | 1 << 20,
                0x8_0000_1000 | 1 << 10 | 3 << 8 | 1,
            ],
        ),
        (Command::TlbiS12VmAll { vmid: 9 }, [0x9_0000_0028, 0]),
        (Command::TlbiNsnhAll, [0x30, 0]),
        (Command::SYNC, [0x46, 0]),
        (
            Command::Sync {
                signal: SyncSignal::Event,
            },
            [0x2046, 0],
        ),
    ];
    for (command, raw) in cases {
        assert_eq!(command.encode(), raw, "{command:?}");
        assert_eq!(check_command(&raw, &qemu()), Ok(command));
    }
}

#[test]
fn bad_input_56_reserved_encodings() {
    let f = everything();
    let check = |raw: RawCommand| check_command(&raw, &f);
    let known: Vec<u8> = samples().iter().map(|c| c.encode()[0] as u8).collect();
    for opcode in 0..=255_u8 {
        if !known.contains(&opcode) {
            assert_eq!(
                check([opcode.into(), 0]),
                Err(CommandIssue::Reserved { opcode })
            );
        }
    }
    assert_eq!(
        check([0x3046, 0]),
        Err(CommandIssue::ReservedField { opcode: 0x46 })
    );
    assert_eq!(
        check([0x44 | 3 << 12, 0]),
        Err(CommandIssue::ReservedField { opcode: 0x44 })
    );
    for opcode in [1_u64, 2, 3, 4, 5, 6, 0x40, 0x41, 0x44, 0x45] {
        assert_eq!(
            check([opcode | 1 << 10, 0]),
            Err(CommandIssue::SecureStream)
        );
    }
    // TG without NUM, SCALE and TTL, for every command and granule.
    for opcode in [0x12, 0x13, 0x22, 0x23, 0x2a] {
        for tg in 1..=3 {
            let empty = check([opcode, 0x4000_0000 | tg << 10]);
            assert_eq!(empty, Err(CommandIssue::EmptyRange));
            assert!(empty.unwrap_err().is_cerror_ill());
            // One of the three is enough.
            assert!(check([opcode, tg << 10 | 3 << 8]).is_ok());
            assert!(check([opcode | 1 << 12, tg << 10]).is_ok());
            assert!(check([opcode | 1 << 20, tg << 10]).is_ok());
        }
    }
    let no_ds = Features { ds: false, ..f };
    let level1_of_16k = Command::TlbiNhVaa {
        vmid: 0,
        at: range(Granule::K16, 1, 0, 0, 0),
    };
    assert_eq!(
        check_command(&level1_of_16k.encode(), &no_ds),
        Err(CommandIssue::LevelWithoutLeaves)
    );
    assert!(check_command(&level1_of_16k.encode(), &f).is_ok());
    // Bits nobody defined.
    assert_eq!(check([0x46 | 1 << 8, 0]), Err(CommandIssue::ReservedBits));
    assert_eq!(check([0x30, 1 << 40]), Err(CommandIssue::ReservedBits));
    // TG = 0: NUM, SCALE and TTL have to be 0 too.
    assert_eq!(
        check([0x12 | 1 << 12, 0x1000]),
        Err(CommandIssue::ReservedBits)
    );
}

#[test]
fn bad_input_56_commands_for_what_the_smmu_does_not_have() {
    let none = Features {
        stage1: false,
        stage2: false,
        hyp: false,
        ats: false,
        pri: false,
        stall_model: super::super::StallModel::TerminateOnly,
        ..everything()
    };
    for command in samples() {
        let opcode = command.encode()[0] as u8;
        let result = check_command(&command.encode(), &none);
        let free = matches!(opcode, 1..=4 | 0x30 | 0x46);
        if free {
            assert_eq!(result, Ok(command));
        } else {
            assert_eq!(result, Err(CommandIssue::NotSupported { opcode }));
        }
    }
}

#[test]
fn bad_input_57_ids_beyond_what_the_smmu_has() {
    let f = Features {
        ssid_bits: 4,
        asid16: false,
        vmid16: false,
        ..qemu()
    };
    let check = |c: Command| check_command(&c.encode(), &f);
    let sid = 0x1_0000;
    assert_eq!(
        check(Command::CfgiSte { sid, leaf: true }),
        Err(CommandIssue::StreamId { sid })
    );
    let cd = Command::CfgiCd {
        sid: 1,
        ssid: 16,
        leaf: true,
    };
    assert_eq!(check(cd), Err(CommandIssue::SubstreamId { ssid: 16 }));
    assert_eq!(
        check(Command::TlbiNhAsid { vmid: 0, asid: 256 }),
        Err(CommandIssue::Asid { asid: 256 })
    );
    assert_eq!(
        check(Command::TlbiS12VmAll { vmid: 256 }),
        Err(CommandIssue::Vmid { vmid: 256 })
    );
    assert!(
        check(Command::TlbiNhAsid {
            vmid: 255,
            asid: 255
        })
        .is_ok()
    );
}

#[test]
fn bad_input_58_addresses_that_are_not_aligned_to_the_level() {
    let f = everything();
    let check = |granule, ttl, address| {
        let at = range(granule, ttl, 0, 1, address);
        check_command(&Command::TlbiNhVaa { vmid: 0, at }.encode(), &f).map(|_| ())
    };
    // (granule, TTL, the lowest address bit that may be set).
    let rows = [
        (Granule::K4, 1, 30),
        (Granule::K4, 2, 21),
        (Granule::K4, 3, 12),
        (Granule::K4, 0, 12),
        (Granule::K16, 2, 25),
        (Granule::K16, 3, 14),
        (Granule::K16, 0, 14),
        (Granule::K64, 1, 42),
        (Granule::K64, 2, 29),
        (Granule::K64, 3, 16),
        (Granule::K64, 0, 16),
    ];
    for (granule, ttl, lowest) in rows {
        assert_eq!(
            check(granule, ttl, 1 << lowest),
            Ok(()),
            "{granule:?} {ttl}"
        );
        if lowest > 12 {
            assert_eq!(
                check(granule, ttl, 1 << (lowest - 1)),
                Err(CommandIssue::AddressAlignment { ttl }),
                "{granule:?} {ttl}"
            );
        }
    }
}

#[test]
fn bad_input_58_ranges_beyond_the_space_and_reserved_scales() {
    let f = everything();
    let check = |f: &Features, c: Command| check_command(&c.encode(), f).map(|_| ());
    let va = |at| Command::TlbiNhVaa { vmid: 0, at };
    let ipa = |at| Command::TlbiS2Ipa { vmid: 0, at };
    assert_eq!(
        check(&f, va(range(Granule::K4, 3, 0, 40, 0))),
        Err(CommandIssue::Scale { scale: 40 })
    );
    assert_eq!(check(&f, va(range(Granule::K4, 3, 31, 39, 0))), Ok(()));
    let no_ds = Features { ds: false, ..f };
    assert_eq!(
        check(&no_ds, va(range(Granule::K4, 3, 0, 32, 0))),
        Err(CommandIssue::ReservedBits),
        "bit 25 belongs to SCALE only with DS; the 0 that is left is no range"
    );
    let top = range(Granule::K4, 3, 1, 0, 0xffff_ffff_ffff_f000);
    assert_eq!(check(&f, va(top)), Err(CommandIssue::RangeWraps));
    let last = range(Granule::K4, 3, 0, 0, 0xffff_ffff_ffff_f000);
    assert_eq!(check(&f, va(last)), Ok(()));
    assert_eq!(
        check(&f, ipa(TlbiAddress::single(Iova(1 << 52), true))),
        Err(CommandIssue::RangeWraps)
    );
    let no_64k = Features {
        gran64k: false,
        ..f
    };
    assert_eq!(
        check(&no_64k, va(range(Granule::K64, 3, 0, 0, 0))),
        Err(CommandIssue::Granule {
            granule: Granule::K64
        })
    );
    assert_eq!(
        check(
            &f,
            Command::AtcInv {
                sid: 0,
                ssid: None,
                global: false,
                address: Iova(0x1000),
                size: 1
            }
        ),
        Err(CommandIssue::AtcSize { size: 1 })
    );
}
