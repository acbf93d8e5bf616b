//! A user's traces.

use std::fs;

use crate::{Bench, assert_refused, json, shipped, unpacked};

#[test]
fn a_users_trace_is_replayed_plain_and_packed() {
    let bench = Bench::new();
    let name = "sd-strict-seqwrite_64k_direct";
    let plain = bench.file("mine.txt", &unpacked(name));
    let mut command = bench.command();
    command.arg("replay").arg(&plain).arg(shipped(name));
    let output = command.args(["--requests", "300"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = json(&bench.out());
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 18, "two traces in nine modes");
    for result in results {
        assert_eq!(result["requests"], 128);
        assert_eq!(result["passes"], 3);
        assert_eq!(result["bytes"], 8 << 20);
        assert!(result["cpu_ns_per_request"].as_f64().unwrap() > 0.0);
    }
    let formats: Vec<&str> = (report["workloads"].as_array().unwrap().iter())
        .map(|w| w["source"]["format"].as_str().unwrap())
        .collect();
    assert_eq!(formats, ["ftrace", "ftrace, gzip"]);
    assert_eq!(report["command_line"][0], "dmabench");
    let html = fs::read_to_string(bench.out().join("report.html")).unwrap();
    assert!(html.contains("<svg"));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("mine") && table.contains("passthrough"),
        "{table}"
    );
    let left: Vec<_> = fs::read_dir(bench.out()).unwrap().collect();
    assert_eq!(left.len(), 2, "only the two reports are left: {left:?}");
}

#[test]
fn a_damaged_line_is_warned_of_and_strict_parsing_stops() {
    let bench = Bench::new();
    let mut text = unpacked("sd-strict-seqwrite_64k_direct");
    text.extend_from_slice(b"  t-1 [000] ..... 1.5: unmap: IOMMU: iova=0x1000 - 0x20");
    let file = bench.file("cut.txt", &text);
    let output = bench.replay(&file, &["--modes", "strict"]);
    assert!(output.status.success());
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.contains("cut.txt:1037: `size` is missing"),
        "{warning}"
    );
    assert_eq!(
        json(&bench.out())["workloads"][0]["parse"]["damaged_lines"],
        1
    );

    let strict = Bench::new();
    let output = strict.replay(&file, &["--strict-parse"]);
    assert_refused(&output, &["cut.txt:1037:", "--strict-parse"]);
}

#[test]
fn json_goes_to_standard_output_and_is_the_report() {
    let bench = Bench::new();
    let file = shipped("sd-strict-seqwrite_64k_direct");
    let output = bench.replay(&file, &["--json", "--modes", "lazy"]);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, json(&bench.out()));
}
