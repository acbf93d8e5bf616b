//! `dmabench qemu` from the outside.
#![cfg(target_os = "linux")]

mod qemu_support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use dmabench::qemu::QemuReport;
use dmabench_smmu::qemu::QemuConfig;
use rustix::process::{Pid, Signal, kill_process};

fn dmabench(out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmabench"));
    command.arg("qemu").args(arguments).arg("--out").arg(out);
    command
}

#[test]
fn a_trace_is_replayed_with_the_card_doing_the_io_in_every_mode() {
    let name = "a_trace_is_replayed_with_the_card_doing_the_io_in_every_mode";
    if qemu_support::start(name, QemuConfig::default()).is_none() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let arguments = ["--workload", "strict-randread_4k", "--json"];
    let run = dmabench(out.path(), &arguments).output().unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let report: QemuReport = serde_json::from_slice(&run.stdout).unwrap();
    let file = fs::read(out.path().join("qemu.json")).unwrap();
    let written: QemuReport = serde_json::from_slice(&file).unwrap();
    assert_eq!(written, report);
    assert_eq!(report.results.len(), report.modes.len());
    assert_eq!(report.modes.len(), 9, "every mode there is");
    for result in &report.results {
        assert_eq!(result.ours, result.qemu, "{result:?}");
        assert_eq!(result.requests, 512);
        assert_eq!(result.bytes_verified, 2 << 20);
        match result.mode.as_str() {
            "passthrough" => assert_eq!(result.stale_accesses, None),
            "strict" => {
                assert_eq!(result.ours.syncs, 512);
                assert_eq!((result.probes, result.stale_accesses), (Some(512), Some(0)));
                assert_eq!(result.ours.events, 512);
            }
            "lazy" => {
                assert!(result.ours.syncs < 10, "{result:?}");
                assert!(result.stale_accesses > Some(400), "{result:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn without_qemu_it_says_how_to_get_it() {
    let out = tempfile::tempdir().unwrap();
    let run = dmabench(out.path(), &["--workload", "randread"])
        .env("QEMU_SYSTEM_AARCH64", "no-such-qemu")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("no-such-qemu was not found"), "{said}");
    assert!(said.contains("apt-get install qemu-system-arm"), "{said}");
    assert!(!out.path().join("qemu.json").exists());
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|child| {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            // "PID (NAME) STATE PARENT ..."; a name may hold anything.
            let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            rest.split(' ').nth(1) == Some(&pid.to_string())
        })
        .collect()
}

#[test]
fn ctrl_c_writes_what_was_found_and_leaves_nothing_behind() {
    let name = "ctrl_c_writes_what_was_found_and_leaves_nothing_behind";
    if qemu_support::start(name, QemuConfig::default()).is_none() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    // Far more than there is patience for.
    let mut run = dmabench(out.path(), &["--limit", "1000", "--modes", "strict"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let mut emulators = Vec::new();
    while emulators.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no emulator");
        thread::sleep(Duration::from_millis(20));
        emulators = children(run.id());
    }
    let pid = Pid::from_raw(run.id() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    // The replays under way are still finished, unless it is told again.
    thread::sleep(Duration::from_millis(100));
    emulators.extend(children(run.id()));
    let _gone = kill_process(pid, Signal::INT);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    for emulator in emulators {
        while fs::read_to_string(format!("/proc/{emulator}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
        {
            assert!(begun.elapsed() < Duration::from_secs(60), "left behind");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
