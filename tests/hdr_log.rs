//! Interval logs of the runs that `compare` and `replay` make.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// Intervals by tag.
fn tags(file: &Path) -> BTreeMap<String, u32> {
    let log = fs::read(file).unwrap();
    let mut tags = BTreeMap::new();
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            assert!(interval.encoded_histogram().starts_with("HISTFAAA"));
            let tag = interval.tag().unwrap().as_str().to_owned();
            *tags.entry(tag).or_insert(0) += 1;
        }
    }
    tags
}

fn compare(dir: &Path, more: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_dmabench"))
        .current_dir(dir)
        .args(["--out", "out", "--workload", "dd-seq", "--length", "100"])
        .args(["--requests", "2000", "--modes", "strict,lazy"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn every_turn_of_a_mode_is_an_interval() {
    let dir = tempfile::tempdir().unwrap();
    let output = compare(dir.path(), &["--hdr-log", "log.hlog"]);
    assert!(output.status.success());
    let found = tags(&dir.path().join("log.hlog"));
    let names = [
        "dd-seq:lazy:map",
        "dd-seq:lazy:unmap",
        "dd-seq:strict:map",
        "dd-seq:strict:unmap",
    ];
    assert_eq!(found.keys().collect::<Vec<_>>(), names);
    // Twenty passes in eight turns.
    assert!(found.values().all(|&turns| turns == 8), "{found:?}");
    // The figures of the report are those of all intervals.
    let report = fs::read(dir.path().join("out/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["results"][0]["passes"], 20);
    assert!(report["results"][0]["map_ns"]["p50"].as_f64() > Some(0.0));
}

#[test]
fn several_threads_have_a_log_too() {
    let dir = tempfile::tempdir().unwrap();
    let output = compare(dir.path(), &["--threads", "2", "--hdr-log", "log.hlog"]);
    assert!(output.status.success());
    let found = tags(&dir.path().join("log.hlog"));
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_log_that_cannot_be_written_is_refused_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["no/such/folder/log", "."] {
        let output = compare(dir.path(), &["--hdr-log", bad]);
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("cannot write"), "{stderr}");
        assert!(!dir.path().join("out/report.json").exists());
    }
}
