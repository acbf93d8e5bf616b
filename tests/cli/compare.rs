//! Modes, seeds and the options of generated workloads: what they change, and
//! that the report has them.

use std::fs;

use crate::{Bench, json, shipped, unpacked};

#[test]
fn copied_and_registered_memory_ask_the_hardware_for_nothing() {
    let bench = Bench::new();
    let file = shipped("sd-strict-seqwrite_64k_direct");
    let output = bench.replay(&file, &["--modes", "premapped,bounce"]);
    assert!(output.status.success(), "{output:?}");
    let report = json(&bench.out());
    let [bounce, premapped] = report["results"].as_array().unwrap().as_slice() else {
        panic!("{report}");
    };
    assert_eq!(
        (&bounce["mode"], &premapped["mode"]),
        (&"bounce".into(), &"premapped".into())
    );
    assert_eq!(bounce["stale_device_accesses"], 0);
    assert!(bounce["exposure"]["probes"].as_u64().unwrap() > 0);
    // Nothing is taken away, so there is nothing to count: no 0.
    assert!(premapped["stale_device_accesses"].is_null());
    assert!(premapped["exposure"].is_null());
    for result in [bounce, premapped] {
        assert_eq!(result["tlb_invalidate_commands"], 0.0);
        assert_eq!(result["sync_commands"], 0.0);
        assert!(result["iova_pages_held_max"].as_u64().unwrap() > 0);
        assert!(!result["notes"].as_array().unwrap().is_empty());
    }
}

#[test]
fn one_seed_gives_the_same_counts_and_two_files_of_one_name_stay_apart() {
    let counted = |seed: &str| {
        let bench = Bench::new();
        let mut command = bench.command();
        command.args(["--workload", "dd-seq", "--seed", seed, "--requests", "2000"]);
        assert!(command.output().unwrap().status.success());
        let report = json(&bench.out());
        let pick = |r: &serde_json::Value| {
            [
                "tlb_invalidate_ranges",
                "tlb_flush_all_commands",
                "sync_commands",
                "stale_device_accesses",
                "stale_window_max_ns",
                "iova_pages_held_max",
                "page_table_bytes",
                "exposure",
                "passes",
            ]
            .map(|field| r[field].clone())
        };
        let results: Vec<_> = report["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(pick)
            .collect();
        results
    };
    assert_eq!(counted("7"), counted("7"));

    let bench = Bench::new();
    fs::create_dir(bench.path("a")).unwrap();
    let text = unpacked("sd-strict-seqwrite_64k_direct");
    let (one, two) = (bench.file("t.txt", &text), bench.file("a/t.txt", &text));
    let mut command = bench.command();
    command
        .arg("replay")
        .args([one, two])
        .args(["--requests", "1", "--modes", "strict"]);
    assert!(command.output().unwrap().status.success());
    let report = json(&bench.out());
    assert_eq!(report["results"][0]["workload"], "t");
    assert_eq!(report["results"][1]["workload"], "t#2");
}

#[test]
fn a_shorter_timer_and_a_smaller_queue_shorten_the_window() {
    let exposure = |mode: &str, more: &[&str]| {
        let bench = Bench::new();
        let mut command = bench.command();
        command.args(["--workload", "dd-seq", "--modes", mode, "--requests", "1"]);
        assert!(command.args(more).output().unwrap().status.success());
        let result = json(&bench.out())["results"][0].clone();
        (
            result["stale_window_max_ns"].as_u64().unwrap(),
            result["exposure"]["flushes_ring_full"].as_u64().unwrap(),
        )
    };
    let (window, full) = exposure("lazy", &[]);
    assert!(window > 10_000_000 && full == 0, "{window} {full}");
    let (window, full) = exposure("lazy-single", &[]);
    assert!(window > 400_000_000 && full == 0, "{window} {full}");
    for (mode, timeout, entries) in [
        ("lazy", "--flush-timeout-ms", "--queue-entries"),
        (
            "lazy-single",
            "--single-flush-timeout-ms",
            "--single-queue-entries",
        ),
    ] {
        let (window, full) = exposure(mode, &[timeout, "2"]);
        assert!(window > 2_000_000 && window < 2_100_000 && full == 0);
        // Four requests of 469 us.
        let (window, full) = exposure(mode, &[entries, "4"]);
        assert!(window < 3_000_000 && full == 255, "{window} {full}");
    }
    // The buffers wait, not the device.
    let (window, full) = exposure("lazy-parked", &["--queue-entries", "4"]);
    assert!(window == 0 && full == 255, "{window} {full}");
}

#[test]
fn the_list_names_every_workload() {
    let output = Bench::new().command().arg("list").output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let generators = dmabench::workload::generate::ALL;
    assert_eq!(list.lines().count(), 10 + generators.len(), "{list}");
    for generator in generators {
        assert!(list.contains(generator.name()), "{list}");
    }
}

#[test]
fn options_of_generated_workloads_reach_the_report() {
    let bench = Bench::new();
    let mut command = bench.command();
    command.args(["--workload", "cqe", "--length", "100", "--modes", "strict"]);
    command.args(["compare", "--depth", "8", "--sizes", "4K:3,64K"]);
    let output = command
        .args(["--threads", "2", "--requests", "1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = json(&bench.out());
    let workload = &report["workloads"][0];
    assert_eq!(workload["name"], "cqe, 2 threads");
    assert_eq!(workload["requests"], 200);
    assert_eq!(workload["live_max"], 16);
    assert_eq!(workload["sizes"].as_array().unwrap().len(), 2);
    let other = &report["options"]["other"];
    assert_eq!(other["sizes"], "4K:3,64K:1");
    assert_eq!(
        (&other["depth"], &other["threads"]),
        (&"8".into(), &"2".into())
    );
}

/// Several threads on one address space: the requests of all of them, and how
/// evenly they came on.
#[test]
fn threads_and_pairs_play_a_workload_together() {
    for (option, name) in [("--threads", "2 threads"), ("--pairs", "2 pairs")] {
        let bench = Bench::new();
        let mut command = bench.command();
        command.args(["--workload", "contend", "--length", "500", option, "2"]);
        let output = command.args(["--requests", "3000"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let report = json(&bench.out());
        let results = report["results"].as_array().unwrap();
        assert_eq!(
            results.len(),
            report["options"]["other"]["modes"]
                .as_str()
                .unwrap()
                .split(',')
                .count()
        );
        for result in results {
            assert_eq!(result["workload"], format!("nvme-contend, {name}"));
            assert_eq!(
                (&result["requests"], &result["passes"]),
                (&1000.into(), &3.into())
            );
            let notes = result["notes"].to_string();
            assert!(
                notes.contains(name) && notes.contains("fairness"),
                "{notes}"
            );
            if result["mode"] == "strict" {
                assert_eq!(result["sync_commands"], 1000);
                assert_eq!(result["stale_device_accesses"], 0);
                assert_eq!(result["exposure"]["requests"], 1000);
            }
        }
        let shown = (bench.command().args(["report", "out/report.json"])).output();
        assert!(shown.unwrap().status.success());
    }
}

/// All that is counted, from the seed and the options in the report alone.
#[test]
fn a_report_has_what_it_takes_to_count_the_same_again() {
    let first = Bench::new();
    let mut command = first.command();
    command.args(["--workload", "mobile-mix", "--workload", "contend"]);
    command.args(["--length", "700", "--depth", "5", "--seed", "9"]);
    command.args(["--requests", "2100", "--queue-entries", "32"]);
    command.args(["--single-queue-entries", "64", "--modes"]);
    command.arg("strict-batched,strict-pipelined,lazy,lazy-single,lazy-parked");
    assert!(command.output().unwrap().status.success());
    let report = json(&first.out());

    let again = Bench::new();
    let mut command = again.command();
    let options = &report["options"];
    let timeout_ms = options["flush_timeout_ns"].as_u64().unwrap() / 1_000_000;
    command.args(["--seed", &report["seed"].to_string()]);
    command.args(["--profile", report["profile"]["name"].as_str().unwrap()]);
    command.args(["--requests", &options["requests_min"].to_string()]);
    command.args([
        "--queue-entries",
        &options["flush_queue_entries"].to_string(),
    ]);
    command.args(["--flush-timeout-ms", &timeout_ms.to_string()]);
    for (name, value) in options["other"].as_object().unwrap() {
        match value.as_str().unwrap() {
            "false" => {}
            "true" => {
                command.arg(format!("--{name}"));
            }
            names if name == "workload" => {
                command.args(names.split(',').flat_map(|name| ["--workload", name]));
            }
            value => {
                command.args([&format!("--{name}"), value]);
            }
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let second = json(&again.out());
    assert_eq!(report["workloads"], second["workloads"]);
    let results = |report: &serde_json::Value| report["results"].as_array().unwrap().clone();
    let (one, two) = (results(&report), results(&second));
    assert_eq!(one.len(), two.len());
    assert!(one.len() >= 6);
    let kinds = report["kind"].as_object().unwrap();
    let mut compared = 0;
    for (one, two) in one.iter().zip(&two) {
        for (field, value) in one.as_object().unwrap() {
            let kind = kinds.get(&format!("results[].{field}"));
            if kind.is_some_and(|k| k == "counted") {
                assert_eq!(value, &two[field], "{field}");
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "{compared}: {kinds:?}");
}

#[test]
fn a_scenario_prints_its_figures_beside_the_published_ones() {
    let bench = Bench::new();
    let mut command = bench.command();
    let output = command
        .args(["scenario", "ageing", "--quick"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["scenario ageing", "nodes max", "published: ", "seed: 1"] {
        assert!(text.contains(words), "{words} is missing in: {text}");
    }
}
