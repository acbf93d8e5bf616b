//! A user's own board, from measured rows to a run, through the program.

use std::process::Output;

use crate::{Bench, assert_refused, stdout};

fn run(bench: &Bench, arguments: &[&str]) -> Output {
    bench.command().args(arguments).output().unwrap()
}

#[test]
fn measured_rows_become_a_board_that_a_run_uses() {
    let bench = Bench::new();
    bench.file(
        "soc.csv",
        b"# Ashish Mhetre, 2024-08-06\nsize_kib,unmap_us\n4,3\n256,52.2\n2048,65.5\n",
    );
    let board = stdout(&run(&bench, &["fit", "soc.csv"]));
    assert!(board.contains("name = \"soc\""), "{board}");
    assert!(board.contains("command_ns = 659 "), "{board}");
    assert!(
        board.contains("#          256          52200          52200    +0.0%"),
        "{board}"
    );
    bench.file("soc.toml", board.as_bytes());

    let arguments = [
        "--profile",
        "soc.toml",
        "--workload",
        "dd-seq",
        "--quick",
        "--json",
    ];
    let report = stdout(&run(&bench, &arguments));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["profile"]["name"], "soc");
    let rate = |mode: &str| {
        let results = report["results"].as_array().unwrap();
        let of = |r: &&serde_json::Value| r["workload"] == "dd-seq" && r["mode"] == mode;
        let result = results.iter().find(of).unwrap();
        (
            result["modelled_ns_per_request"].as_f64().unwrap(),
            result["modelled_mb_per_s"].as_f64().unwrap(),
        )
    };
    let (strict, lazy) = (rate("strict"), rate("lazy"));
    // 32 commands and a sync; the cache maintenance is in the rate only.
    assert!(
        (strict.0 - (32.0 * 659.0 + 2219.0)).abs() < 2.0,
        "{strict:?}"
    );
    assert!(lazy.1 > strict.1 && strict.1 > 100.0, "{strict:?} {lazy:?}");
}

#[test]
fn profiles_are_listed_with_sources_and_printed_as_files() {
    let bench = Bench::new();
    let list = stdout(&run(&bench, &["profiles"]));
    for words in [
        "smmuv3-server-2020-ril (default)",
        "smmu500-sc7180",
        "Barry Song",
        "Fast & Safe",
        "ISCA 2016",
    ] {
        assert!(list.contains(words), "{words}");
    }
    let one = stdout(&run(&bench, &["profiles", "smmuv3-trapped"]));
    assert!(one.contains("doorbell_ns = 3071"), "{one}");
}

#[test]
fn nonsense_ends_in_one_line() {
    let bench = Bench::new();
    for (name, text, words) in [
        ("a.csv", "size_kib,unmap_us\n4,3\n", "1 different sizes"),
        (
            "b.csv",
            "size_kib,unmap_us\n4,3\n8,-1\n",
            "cannot be negative",
        ),
        (
            "c.toml",
            "[[row]]\nsize_kib = 4\n",
            "there is no unmap_ns or unmap_us",
        ),
    ] {
        bench.file(name, text.as_bytes());
        let output = run(&bench, &["fit", name]);
        assert_refused(&output, &[name, words]);
    }
    let gone = run(&bench, &["fit", "gone.csv"]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("gone.csv cannot be read"));
    bench.file("bad.toml", b"name = 'x'\n");
    for profile in ["bad.toml", "no-such-profile"] {
        let output = run(&bench, &["--profile", profile]);
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.starts_with("error: invalid value"), "{stderr}");
    }
}
