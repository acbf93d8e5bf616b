//! Reports of earlier runs: shown again, compared.

use std::fs;

use crate::{Bench, assert_refused, dmabench, shipped};

#[test]
fn an_earlier_report_is_shown_and_its_page_written_again() {
    let bench = Bench::new();
    let first = bench.replay(&shipped("sd-strict-seqwrite_64k_direct"), &[]);
    let page = fs::read(bench.out().join("report.html")).unwrap();
    fs::remove_file(bench.out().join("report.html")).unwrap();
    let again = bench
        .command()
        .args(["report", "out/report.json"])
        .output()
        .unwrap();
    assert!(again.status.success());
    assert_eq!(again.stdout, first.stdout);
    assert_eq!(fs::read(bench.out().join("report.html")).unwrap(), page);
}

#[test]
fn a_report_that_is_none_is_refused() {
    let bench = Bench::new();
    for (name, content, word) in [
        ("empty.json", "", "not a report"),
        (
            "other.json",
            "{\"schema_version\": 2}",
            "schema_version is 2",
        ),
    ] {
        let file = bench.file(name, content.as_bytes());
        let output = bench.command().arg("report").arg(&file).output().unwrap();
        assert_refused(&output, &[name, word]);
        assert!(!bench.out().exists());
    }
}

#[test]
fn two_reports_are_compared_and_a_worse_one_fails() {
    let bench = Bench::new();
    let run = |out: &str, more: &[&str]| {
        let mut command = dmabench(&bench.dir);
        command.args([
            "--workload",
            "dd-seq",
            "--modes",
            "lazy",
            "--requests",
            "200",
        ]);
        let status = command
            .args(["--out", out])
            .args(more)
            .output()
            .unwrap()
            .status;
        assert!(status.success());
    };
    run("a", &[]);
    run("b", &[]);
    run("c", &["--queue-entries", "32"]);
    let report = |files: &[&str]| {
        let mut command = bench.command();
        command.arg("report").args(files).output().unwrap()
    };
    // Timings of so few requests may differ, counts may not.
    let same = report(&["a/report.json", "b/report.json"]);
    let comparison: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.out().join("comparison.json")).unwrap()).unwrap();
    let changes = comparison[0]["changes"].as_array().unwrap();
    assert!(
        changes.iter().all(|c| c["kind"] == "measured"),
        "{changes:?}"
    );
    assert!(matches!(same.status.code(), Some(0 | 4)));
    // Other options: said, and not compared.
    let other = report(&["a/report.json", "c/report.json"]);
    let text = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(
        text.contains("not compared, counted: another flush queue"),
        "{text}"
    );
    // Twice the tables.
    let worse = fs::read_to_string(bench.path("a/report.json")).unwrap();
    let mut worse: serde_json::Value = serde_json::from_str(&worse).unwrap();
    worse["results"][0]["page_table_bytes"] = 1_000_000_000.into();
    let file = bench.file("worse.json", worse.to_string().as_bytes());
    let output = report(&["a/report.json", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("WORSE"), "{text}");
    let output = report(&["a/report.json", "nowhere.json"]);
    assert_refused(&output, &["nowhere.json", "name a report.json"]);
}
