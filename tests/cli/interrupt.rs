//! Ctrl-C.

use std::fs;

use crate::{Bench, interrupt, json};

/// Ctrl-C ends the run early, with what was found until then.
#[test]
fn an_interrupted_run_writes_what_it_has() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.args(["--requests", "1000000000"]);
    command
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    interrupt(&child);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    // Nothing half-written, whether or not a result was finished.
    if let Ok(entries) = fs::read_dir(bench.out()) {
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                ["report.json", "report.html"].contains(&name.as_str()),
                "{name}"
            );
        }
    }
    if bench.out().join("report.json").exists() {
        let notes = json(&bench.out())["notes"].to_string();
        assert!(notes.contains("interrupted"), "{notes}");
    }
}

/// In the middle of a long workload: what was done of it is reported, as a whole
/// report that can be shown again.
#[test]
fn an_interrupted_million_is_reported_as_far_as_it_came() {
    let bench = Bench::new();
    // A busy machine may need longer before there is anything to report.
    for seconds in [4, 10, 30] {
        let mut command = bench.command();
        command.args(["--workload", "mobile-mix", "--length", "1000000"]);
        command.args(["--modes", "passthrough,strict,lazy"]);
        command
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        assert!(child.try_wait().unwrap().is_none(), "it takes longer");
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        if bench.out().join("report.json").exists() {
            break;
        }
    }

    let report = json(&bench.out());
    let notes = report["notes"].to_string();
    assert!(notes.contains("interrupted"), "{notes}");
    let results = report["results"].as_array().unwrap();
    assert!(!results.is_empty());
    for result in results {
        assert_eq!(result["requests"], 1_000_000);
        assert!(result["cpu_ns_per_request"].as_f64().unwrap() > 0.0);
        assert!(result["map_ns"]["max"].as_f64().unwrap() > 0.0);
        if result["mode"] == "strict" {
            assert_eq!(result["stale_device_accesses"], 0);
            let (ran, per_pass) = (
                result["exposure"]["requests"].as_u64().unwrap(),
                result["sync_commands"].as_f64().unwrap(),
            );
            assert!(ran > 0 && ran < 1_000_000, "{ran}");
            // One sync for each request, whatever part was run.
            assert!((per_pass / 1e6 - 1.0).abs() < 1e-9, "{per_pass}");
            let notes = result["notes"].to_string();
            assert!(notes.contains("requests were timed"), "{notes}");
            assert!(notes.contains("covers the first"), "{notes}");
        }
    }
    let shown = (bench.command().args(["report", "out/report.json"])).output();
    assert!(shown.unwrap().status.success());
}

/// A command that has nothing to keep ends at once, not at its end.
#[test]
fn an_interrupted_scenario_ends_at_once() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.arg("scenario").stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
