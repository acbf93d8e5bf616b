//! `map` from the outside: the options, refusals and lines of Linux's
//! `dma_map_benchmark`, and what goes beyond it.

use std::{fs, process::Output};

use crate::{assert_refused, dmabench, interrupt, interval_log::tags, stdout};

fn map(line: &str) -> Output {
    dmabench(".")
        .arg("map")
        .args(line.split_whitespace())
        .output()
        .unwrap()
}

fn out(line: &str) -> String {
    stdout(&map(line))
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(&out(&format!("{line} --json"))).unwrap()
}

fn refused(line: &str, words: &[&str]) {
    assert_refused(&map(line), words);
}

#[test]
fn what_linux_refuses_is_refused() {
    for (line, words) in [
        ("-t 0", ["-t 0", "1 to 1024"]),
        ("-t 1025", ["-t 1025", "1 to 1024"]),
        ("-t -3", ["-t -3", "1 to 1024"]),
        ("-s 0", ["-s 0", "1 to 300"]),
        ("-s 301", ["-s 301", "1 to 300"]),
        ("-x -1", ["-x -1", "0 to 10000000"]),
        ("-x 10000001", ["-x", "0 to 10000000"]),
        ("-b 19", ["-b 19", "20 to 64"]),
        ("-b 65", ["-b 65", "20 to 64"]),
        ("-d 3", ["-d 3", "0 to 2"]),
        ("-d -1", ["-d -1", "0 to 2"]),
        ("-g 0", ["-g 0", "1 to 1024"]),
        ("-g 1025", ["-g 1025", "1 to 1024"]),
        ("-m 2", ["-m 2", "0 to 1"]),
        // The first in Linux's order is named.
        ("-g 0 -t 0 -m 7", ["-m 7", "0 to 1"]),
        ("-n 4000", ["-n", "node"]),
        ("-n -2", ["-n", "node"]),
        ("--modes strict,premapped", ["premapped", "--modes"]),
    ] {
        refused(line, &words);
    }
}

#[test]
fn limits_themselves_are_allowed() {
    // 20 bits: 255 pages can be mapped at once.
    let text = out("-t 1 -s 1 -x 0 -b 20 -d 2 -g 1 -m 0 --count 100");
    assert!(text.contains("dir:FROM_DEVICE granule:1\n"));
    out("-b 64 -g 1024 -m 1 -d 1 --count 20 -s 300");
    refused("-b 20 -g 1024 --count 20", &["mode strict", "-b"]);
}

#[test]
fn the_first_three_lines_are_those_of_linux() {
    for (options, line) in [
        (
            "--count 300",
            "dma mapping benchmark(SINGLE_MODE): threads:1 seconds:20 node:-1 dir:BIDIRECTIONAL granule:1",
        ),
        (
            "-t 2 -s 3 -d 1 -g 8 -m 1 --count 300",
            "dma mapping benchmark(SG_MODE): threads:2 seconds:3 node:-1 dir:TO_DEVICE granule:8",
        ),
    ] {
        let text = out(options);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(line));
        for name in ["map", "unmap"] {
            let line = lines.next().unwrap();
            let rest = line
                .strip_prefix(&format!("average {name} latency(us):"))
                .unwrap_or_else(|| panic!("{line}"));
            let (mean, deviation) = rest.split_once(" standard deviation:").unwrap();
            for number in [mean, deviation] {
                let (_, digits) = number.split_once('.').unwrap();
                assert_eq!(digits.len(), 1, "{line}");
                assert!(number.parse::<f64>().unwrap() >= 0.0);
            }
        }
    }
}

#[test]
fn every_mode_asked_for_has_its_block() {
    let found = json("--modes lazy,passthrough --count 700 -t 2");
    let runs = found["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0]["mode"], "passthrough");
    assert_eq!(runs[1]["mode"], "lazy");
    for run in runs {
        assert_eq!(run["requests"], 1400);
        assert_eq!(run["map_ns"]["calls"], 1400);
        assert_eq!(run["streams"].as_array().unwrap().len(), 2);
        for stream in run["streams"].as_array().unwrap() {
            assert_eq!(stream["requests"], 700);
            assert!(stream["unmap_ns"]["max"].as_f64() >= stream["unmap_ns"]["p50"].as_f64());
        }
        let jain = run["jain"].as_f64().unwrap();
        assert!((0.5..=1.0).contains(&jain), "{jain}");
    }
    assert_eq!(found["options"]["direction"], "BIDIRECTIONAL");
}

#[test]
fn depth_pairs_and_mixed_sizes() {
    let strict = &json("--depth 32 --sizes 4k:70,64k:20,512k:10 --count 3000")["runs"][0];
    assert_eq!(strict["requests"], 3000);
    assert_eq!(strict["syncs_per_request"], 1.0);
    let pairs = json("--pairs 2 --depth 8 --count 1000 -m 1 -g 4");
    assert_eq!(pairs["options"]["threads"], 4);
    assert_eq!(pairs["runs"][0]["streams"].as_array().unwrap().len(), 2);
    assert_eq!(pairs["runs"][0]["unmap_ns"]["calls"], 2000);
    let text = out("--pairs 2 --count 200");
    assert!(text.starts_with("dma mapping benchmark(SINGLE_MODE): threads:4 "));
    assert!(text.contains("fairness: a pair has "), "{text}");
}

#[test]
fn a_run_by_time_takes_its_time() {
    let found = json("-s 1");
    let seconds = found["runs"][0]["seconds"].as_f64().unwrap();
    assert!((0.9..10.0).contains(&seconds), "{seconds}");
}

#[test]
fn nodes_of_this_machine_are_bound_to() {
    if fs::read_to_string("/sys/devices/system/node/node0/cpulist").is_ok_and(|l| l.trim() != "") {
        let text = out("-n 0 --count 100");
        assert!(text.contains(" node:0 "));
    } else {
        refused("-n 0 --count 100", &["-n", "node"]);
    }
}

#[test]
fn the_interval_log_holds_every_call() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("map.hlog");
    let line = format!(
        "--modes strict,lazy --count 5000 --hdr-log {} --hdr-interval-ms 1",
        file.display()
    );
    assert!(out(&line).contains("interval log: "));
    let found = tags(&file);
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["lazy:map", "lazy:unmap", "strict:map", "strict:unmap"]
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftovers");
    refused(
        "--count 10 --hdr-log /no/such/folder/x.hlog",
        &["/no/such/folder/x.hlog"],
    );
}

#[test]
fn ctrl_c_ends_the_run_and_prints_what_was_done() {
    let running = dmabench(".")
        .args(["map", "-s", "60", "--modes", "strict,lazy"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    interrupt(&running);
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("dma mapping benchmark(SINGLE_MODE): threads:1 seconds:60 "));
    assert!(text.contains("note: Interrupted"), "{text}");
    assert!(!text.contains("mode lazy"), "{text}");
}

#[test]
fn options_that_contradict_each_other_are_usage_errors() {
    for line in [
        "-t 2 --pairs 2",
        "-g 2 --sizes 4k",
        "--sizes 0k",
        "--depth 0",
        "--pairs 513",
    ] {
        assert_eq!(map(line).status.code(), Some(2), "{line}");
    }
}
