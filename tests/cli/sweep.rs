//! `sweep` from the outside: its files, and going on after Ctrl-C.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::{Bench, dmabench, interrupt, stdout};

fn sweep(bench: &Bench) -> Command {
    let mut command = bench.command();
    command.arg("sweep");
    command
}

fn json(bench: &Bench) -> serde_json::Value {
    serde_json::from_slice(&fs::read(bench.out().join("sweep.json")).unwrap()).unwrap()
}

#[test]
fn both_sweeps_of_the_default_workload_are_written() {
    let bench = Bench::new();
    let line = "--entries 16 --timeouts-ms 1 --sizes 4k,132k --length 200 --requests 100";
    let output = sweep(&bench).args(line.split(' ')).output().unwrap();
    let text = stdout(&output);
    assert!(
        text.contains("dd-seq:\n") && text.contains("sweep.csv"),
        "{text}"
    );
    let mut table = text.lines().filter(|line| !line.starts_with("note: "));
    assert!(table.all(|line| line.chars().count() <= 110), "{text}");
    let json = json(&bench);
    assert_eq!(json["queue"].as_array().unwrap().len(), 3);
    assert_eq!(json["sizes"].as_array().unwrap().len(), 6);
    assert_eq!(json["missing"], 0);
    assert_eq!(fs::read_dir(bench.out()).unwrap().count(), 3);
}

#[test]
fn an_interrupted_sweep_is_written_and_gone_on_with() {
    let bench = Bench::new();
    // Long enough to be interrupted, short enough to be finished.
    let line = "queue --length 400 --requests 20000 --entries 16,64,256 --timeouts-ms 1,4,10,40";
    let running = sweep(&bench)
        .args(line.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    // It may have ended already, on a fast machine.
    interrupt(&running);
    let output = running.wait_with_output().unwrap();
    let code = output.status.code();
    let first = json(&bench);
    let missing = first["missing"].as_u64().unwrap();
    assert_eq!(code, Some(if missing > 0 { 130 } else { 0 }));
    let done = first["queue"].as_array().unwrap().len() as u64;
    assert_eq!(done + missing, 2 + 12);

    let resume: Vec<&str> = (first["resume"].as_array().unwrap().iter())
        .map(|argument| argument.as_str().unwrap())
        .collect();
    let output = dmabench(&bench.dir).args(&resume[1..]).output();
    stdout(&output.unwrap());
    let second = json(&bench);
    assert_eq!(
        (&second["missing"], &second["sessions"]),
        (&0.into(), &2.into())
    );
    assert_eq!(second["queue"].as_array().unwrap().len(), 14);
    for point in first["queue"].as_array().unwrap() {
        assert!(second["queue"].as_array().unwrap().contains(point));
    }
}
