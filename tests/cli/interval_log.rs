//! Interval logs of the runs that `compare` and `replay` make.

use std::{collections::BTreeMap, fs, path::Path, process::Output, time::Duration};

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use crate::{Bench, assert_refused, json};

/// Intervals by tag.
pub(crate) fn tags(file: &Path) -> BTreeMap<String, u32> {
    let log = fs::read(file).unwrap();
    let mut tags = BTreeMap::new();
    let mut last = Duration::ZERO;
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            assert!(interval.encoded_histogram().starts_with("HISTFAAA"));
            assert!(interval.start_timestamp() >= last, "in order of time");
            last = interval.start_timestamp();
            let tag = interval.tag().unwrap().as_str().to_owned();
            *tags.entry(tag).or_insert(0) += 1;
        }
    }
    tags
}

fn compare(bench: &Bench, more: &[&str]) -> Output {
    (bench.command())
        .args(["--workload", "dd-seq", "--length", "100"])
        .args(["--requests", "2000", "--modes", "strict,lazy"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn every_turn_of_a_mode_is_an_interval() {
    let bench = Bench::new();
    let output = compare(&bench, &["--hdr-log", "log.hlog"]);
    assert!(output.status.success());
    let found = tags(&bench.path("log.hlog"));
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
    let report = json(&bench.out());
    assert_eq!(report["results"][0]["passes"], 20);
    assert!(report["results"][0]["map_ns"]["p50"].as_f64() > Some(0.0));
}

#[test]
fn several_threads_have_a_log_too() {
    let bench = Bench::new();
    let output = compare(&bench, &["--threads", "2", "--hdr-log", "log.hlog"]);
    assert!(output.status.success());
    let found = tags(&bench.path("log.hlog"));
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_log_that_cannot_be_written_is_refused_before_the_run() {
    let bench = Bench::new();
    for bad in ["no/such/folder/log", "."] {
        let output = compare(&bench, &["--hdr-log", bad]);
        assert_refused(&output, &["cannot write"]);
        assert!(!bench.out().join("report.json").exists());
    }
}
