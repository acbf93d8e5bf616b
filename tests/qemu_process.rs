//! QEMU as a process: what is missing, old, mute or dead is a typed error with
//! advice, and nothing is left behind.
#![cfg(target_os = "linux")]

mod qemu_support;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use dmabench_dma::{Direction, Mode, UnmapError};
use dmabench_flushq::Late;
use dmabench_platform::Timeout;
use dmabench_smmu::{
    driver::SmmuConfig,
    qemu::{AdmaWidth, Qemu, QemuConfig, QemuError, QemuVersion, TransferError},
};
use qemu_support::{Machine, PAGE, config, start, start_in};
use rustix::process::{Pid, Signal, kill_process};

fn fake(name: &str) -> QemuConfig {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/qemu_support/fake");
    QemuConfig::default().with_binary(path.join(name))
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether a process runs (one that waits to be reaped does not).
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    state.is_some_and(|state| state != "Z" && state != "X")
}

#[test]
fn a_missing_program_is_named_with_the_way_to_get_it() {
    let binary = PathBuf::from("qemu-system-of-another-planet");
    let error = Qemu::start(QemuConfig::default().with_binary(&binary)).unwrap_err();
    assert_eq!(error, QemuError::NotFound { binary });
    assert!(
        error
            .to_string()
            .contains("apt-get install qemu-system-arm"),
        "{error}"
    );
    let error = Qemu::start(QemuConfig::default().with_binary("/")).unwrap_err();
    assert!(matches!(error, QemuError::NotRunnable { .. }), "{error:?}");
}

#[test]
fn without_qemu_a_test_is_skipped() {
    let missing = QemuConfig::default().with_binary("no-such-qemu");
    assert!(start_in("an example", missing, false).is_none());
}

#[test]
#[should_panic(expected = "an example must not be skipped in CI")]
fn without_qemu_a_test_fails_in_ci() {
    start_in(
        "an example",
        QemuConfig::default().with_binary("no-such-qemu"),
        true,
    );
}

#[test]
fn an_old_qemu_and_what_is_no_qemu_are_refused() {
    let found = QemuVersion {
        major: 6,
        minor: 2,
        patch: 0,
    };
    let error = Qemu::start(fake("old.sh")).unwrap_err();
    assert_eq!(error, QemuError::TooOld { found });
    assert!(error.to_string().contains("7.2.0 is the oldest"), "{error}");
    let error = Qemu::start(fake("other.sh")).unwrap_err();
    assert!(matches!(error, QemuError::NotQemu { .. }), "{error:?}");
}

#[test]
fn a_qemu_that_ends_at_once_is_quoted() {
    match Qemu::start(fake("broken.sh")).unwrap_err() {
        QemuError::Died { status, message } => {
            assert_eq!(status.and_then(|s| s.code()), Some(3));
            assert!(message.contains("unsupported machine type"), "{message}");
        }
        error => panic!("{error}"),
    }
}

#[test]
fn a_qemu_that_does_not_answer_is_killed_in_time() {
    let begun = Instant::now();
    let after = Duration::from_millis(300);
    let error = Qemu::start(fake("mute.sh").with_reply_timeout(after)).unwrap_err();
    assert_eq!(error, QemuError::Hung { after });
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let wrong = [
        QemuConfig::default().with_ram_bytes(1 << 20),
        QemuConfig::default().with_ram_bytes((64 << 20) + 1),
        QemuConfig::default().with_ram_bytes(u64::MAX),
        QemuConfig::default().with_cards(&[3 << 20]),
        QemuConfig::default().with_cards(&[512]),
        QemuConfig::default().with_cards(&[1 << 20; 17]),
        QemuConfig::default().with_reply_timeout(Duration::ZERO),
    ];
    for config in wrong {
        let error = Qemu::start(config.clone()).unwrap_err();
        assert!(
            matches!(error, QemuError::Config { .. }),
            "{config:?}: {error:?}"
        );
    }
}

#[test]
fn missing_controllers_are_named() {
    let name = "missing_controllers_are_named";
    let Some(qemu) = start(name, QemuConfig::default().with_cards(&[])) else {
        return;
    };
    assert_eq!(qemu.sd_hosts(), 0);
    let error = qemu.sd_host(0).unwrap_err();
    assert!(
        matches!(error, QemuError::NoDevice { index: 0, .. }),
        "{error:?}"
    );
}

/// Dies or hangs under a domain with a mapping: the unmap is late, the transfer
/// says why, nothing is released, nothing waits for long.
fn lost(name: &str, how: Signal) {
    let setup = QemuConfig::default()
        .with_cards(&[1 << 20])
        .with_reply_timeout(Duration::from_secs(3));
    let Some(qemu) = start(name, setup) else {
        return;
    };
    let short = Timeout(100_000_000);
    let host = qemu.smmu();
    let machine = &mut Machine::with_host(
        qemu,
        host,
        SmmuConfig::default().with_timeout(short),
        || config(Mode::Strict).sync_timeout(short),
        AdmaWidth::Bits32,
    );
    let (_, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    let (_, other) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    let addr = mapping.addr();
    let pid = machine.qemu.process_id();
    signal(pid, how);
    let begun = Instant::now();
    let unfinished = match machine.ports[0].domain().unmap(mapping) {
        Err(UnmapError::NotInvalidated(unfinished)) => unfinished,
        result => panic!("{result:?}"),
    };
    assert!(
        matches!(unfinished.late(), Late::TimedOut { .. }),
        "{unfinished:?}"
    );
    let list = machine.ports[0].list(&[(addr, 512)]);
    let error = machine.ports[0].host.read(0, &list).unwrap_err();
    let cause = machine.qemu.qtest().broken().unwrap();
    assert_eq!(error, TransferError::Qemu(cause.clone()));
    match how {
        Signal::STOP => assert!(matches!(cause, QemuError::Hung { .. }), "{cause:?}"),
        _ => assert!(matches!(cause, QemuError::Died { .. }), "{cause:?}"),
    }
    assert!(!runs(pid), "what hung was killed");
    // A second try is late as well: what stands still completes nothing.
    let again = machine.ports[0].domain().finish(unfinished);
    assert!(
        matches!(again, Err(UnmapError::NotInvalidated(_))),
        "{again:?}"
    );
    drop(again);
    let again = machine.ports[0].domain().unmap(other);
    assert!(
        matches!(again, Err(UnmapError::NotInvalidated(_))),
        "{again:?}"
    );
    drop(again);
    assert_eq!(machine.ports[0].domain().stats().leaked_mappings, 2);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a11_death_of_qemu_releases_nothing() {
    lost("a11_death_of_qemu_releases_nothing", Signal::KILL);
}

#[test]
fn a11_a_hung_qemu_is_killed_and_releases_nothing() {
    lost(
        "a11_a_hung_qemu_is_killed_and_releases_nothing",
        Signal::STOP,
    );
}

#[test]
fn dropping_it_ends_the_process_although_parts_are_alive() {
    let name = "dropping_it_ends_the_process_although_parts_are_alive";
    let Some(qemu) = start(name, QemuConfig::default()) else {
        return;
    };
    let (pid, qtest, ram) = (qemu.process_id(), qemu.qtest().clone(), qemu.ram().clone());
    assert!(runs(pid) && qemu.status().is_none());
    drop(qemu);
    assert!(!runs(pid));
    assert!(matches!(qtest.read32(0), Err(QemuError::Died { .. })));
    assert!(ram.alloc(4096, 4096).is_ok());
}

/// What it has open: nothing that stays on a disk.
#[test]
fn no_file_is_made() {
    let name = "no_file_is_made";
    let Some(qemu) = start(name, QemuConfig::default().with_trace()) else {
        return;
    };
    let mut anonymous = 0;
    for entry in fs::read_dir(format!("/proc/{}/fd", qemu.process_id())).unwrap() {
        let Ok(target) = fs::read_link(entry.unwrap().path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        anonymous += u32::from(target.starts_with("/memfd:"));
        let fine = ["/memfd:", "socket:", "pipe:", "anon_inode:", "/dev/"];
        assert!(fine.iter().any(|kind| target.starts_with(kind)), "{target}");
    }
    assert!(anonymous >= 4, "RAM, image, trace, messages: {anonymous}");
}

const ROLE: &str = "DMABENCH_TEST_ROLE";

/// Not a test of its own: the parent that comes to grief, in a process of its
/// own.
#[test]
#[ignore = "run by no_orphan_is_left_whatever_ends_the_parent"]
fn parent_that_comes_to_grief() {
    let Ok(role) = env::var(ROLE) else { return };
    // Started by a thread that is long gone when the end comes.
    let qemu = thread::spawn(|| Qemu::start(QemuConfig::default()).unwrap());
    let qemu = qemu.join().unwrap();
    qemu.qtest().read32(0x0905_0000).unwrap();
    println!("\npid {}", qemu.process_id());
    match role.as_str() {
        "panic" => panic!("on purpose"),
        "exit" => std::process::exit(7),
        "abort" => std::process::abort(),
        _ => thread::sleep(Duration::from_secs(600)),
    }
}

fn parent(role: &str) -> (Child, u32) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "parent_that_comes_to_grief",
            "--ignored",
            "--nocapture",
        ])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let pid = out
        .lines()
        .find_map(|line| line.ok()?.strip_prefix("pid ")?.parse().ok());
    (child, pid.expect("the parent starts QEMU"))
}

#[test]
fn no_orphan_is_left_whatever_ends_the_parent() {
    let name = "no_orphan_is_left_whatever_ends_the_parent";
    let Some(_there) = start(name, QemuConfig::default()) else {
        return;
    };
    for (role, end) in [
        ("panic", None),
        ("exit", None),
        ("abort", None),
        ("kill", Some(Signal::KILL)),
        ("interrupt", Some(Signal::INT)),
        ("hang up", Some(Signal::HUP)),
    ] {
        let (mut child, pid) = parent(role);
        if let Some(end) = end {
            assert!(runs(pid), "{role}: alive while its parent is");
            signal(child.id(), end);
        }
        child.wait().unwrap();
        let begun = Instant::now();
        while runs(pid) {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{role}: left behind"
            );
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
    }
}
