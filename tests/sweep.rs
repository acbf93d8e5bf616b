//! `sweep` from the outside: its files, and going on after Ctrl-C.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

fn sweep(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmabench"));
    command.current_dir(dir).args(["sweep", "--out", "out"]);
    command
}

#[test]
fn both_sweeps_of_the_default_workload_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let line = "--entries 16 --timeouts-ms 1 --sizes 4k,132k --length 200 --requests 100";
    let output = sweep(dir.path()).args(line.split(' ')).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("dd-seq:\n") && text.contains("sweep.csv"),
        "{text}"
    );
    let mut table = text.lines().filter(|line| !line.starts_with("note: "));
    assert!(table.all(|line| line.chars().count() <= 110), "{text}");
    let json = fs::read(dir.path().join("out/sweep.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["queue"].as_array().unwrap().len(), 3);
    assert_eq!(json["sizes"].as_array().unwrap().len(), 6);
    assert_eq!(json["missing"], 0);
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 3);
}

#[test]
fn an_interrupted_sweep_is_written_and_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    // Long enough to be interrupted, short enough to be finished.
    let line = "queue --length 400 --requests 20000 --entries 16,64,256 --timeouts-ms 1,4,10,40";
    let running = sweep(dir.path())
        .args(line.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let pid = rustix::process::Pid::from_raw(running.id() as i32).unwrap();
    // It may have ended already, on a fast machine.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    let output = running.wait_with_output().unwrap();
    let code = output.status.code();
    let read = || -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.path().join("out/sweep.json")).unwrap()).unwrap()
    };
    let first = read();
    let missing = first["missing"].as_u64().unwrap();
    assert_eq!(code, Some(if missing > 0 { 130 } else { 0 }));
    let done = first["queue"].as_array().unwrap().len() as u64;
    assert_eq!(done + missing, 2 + 12);

    let resume: Vec<&str> = (first["resume"].as_array().unwrap().iter())
        .map(|argument| argument.as_str().unwrap())
        .collect();
    let output = Command::new(env!("CARGO_BIN_EXE_dmabench"))
        .current_dir(dir.path())
        .args(&resume[1..])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let second = read();
    assert_eq!(
        (&second["missing"], &second["sessions"]),
        (&0.into(), &2.into())
    );
    assert_eq!(second["queue"].as_array().unwrap().len(), 14);
    for point in first["queue"].as_array().unwrap() {
        assert!(second["queue"].as_array().unwrap().contains(point));
    }
}
