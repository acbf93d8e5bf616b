//! The program from the outside: what it prints and writes, and that every bad
//! input ends in one line that says what to do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn out(&self) -> PathBuf {
        self.path("out")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmabench"));
        command.current_dir(self.dir.path());
        command.args(["--out", "out"]);
        command
    }

    fn replay(&self, file: &Path, more: &[&str]) -> Output {
        let mut command = self.command();
        command.arg("replay").arg(file).args(["--requests", "50"]);
        command.args(more).output().unwrap()
    }

    /// The run must fail with one line on standard error that holds `words`,
    /// and leave nothing behind.
    fn refused(&self, file: &Path, words: &[&str]) {
        let output = self.replay(file, &[]);
        assert_refused(&output, words);
        assert!(!self.out().join("report.json").exists());
        assert!(!self.out().join("report.html").exists());
    }
}

fn assert_refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{stderr:?} does not say {word:?}");
    }
    assert!(output.stdout.is_empty());
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("traces/{name}.txt.gz"))
}

fn unpacked(name: &str) -> Vec<u8> {
    let packed = fs::File::open(shipped(name)).unwrap();
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
    text
}

fn json(out: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap()
}

#[test]
fn a_missing_file_is_refused() {
    let bench = Bench::new();
    bench.refused(&bench.path("nowhere.txt"), &["nowhere.txt", "No such file"]);
}

#[test]
fn a_directory_is_refused() {
    let bench = Bench::new();
    fs::create_dir(bench.path("traces")).unwrap();
    bench.refused(
        &bench.path("traces"),
        &["is a directory", "name the trace files"],
    );
}

#[test]
fn an_empty_file_is_refused() {
    let bench = Bench::new();
    bench.refused(
        &bench.file("empty.txt", b""),
        &["is empty", "cat /sys/kernel/tracing/trace"],
    );
    // Packed nothing is nothing too.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"").unwrap();
    let packed = packed.finish().unwrap();
    bench.refused(&bench.file("empty.gz", &packed), &["is empty"]);
    // Packed twice.
    let mut twice = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut twice, &packed).unwrap();
    let twice = twice.finish().unwrap();
    bench.refused(&bench.file("twice.gz", &twice), &["gunzip"]);
}

#[test]
fn binary_junk_is_refused() {
    let bench = Bench::new();
    let junk: Vec<u8> = (0..100_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    bench.refused(&bench.file("junk", &junk), &["is binary"]);
    let text = b"no trace at all\njust words\n";
    bench.refused(
        &bench.file("words.txt", text),
        &["no line of the ftrace form"],
    );
    bench.refused(
        &bench.file("t.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0]),
        &["not a whole zstd file"],
    );
    bench.refused(&bench.file("t.xz", b"\xfd7zXZ\0"), &["xz -dk"]);
    bench.refused(
        &bench.file("t.gz", &[0x1f, 0x8b, 8, 0, 0, 0]),
        &["not a whole gzip file"],
    );
}

/// A device that never ends, and a pipe, which has no size.
#[cfg(target_os = "linux")]
#[test]
fn what_is_no_regular_file_is_read_or_refused_all_the_same() {
    let bench = Bench::new();
    bench.refused(Path::new("/dev/zero"), &["is binary"]);
    bench.refused(Path::new("/dev/null"), &["is empty"]);
    let mut command = bench.command();
    command.args([
        "replay",
        "/dev/stdin",
        "--requests",
        "1",
        "--modes",
        "strict",
    ]);
    command.stdin(fs::File::open(shipped("sd-strict-seqwrite_64k_direct")).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(json(&bench.out())["results"][0]["requests"], 128);
}

#[test]
fn a_binary_trace_dat_is_refused() {
    let bench = Bench::new();
    let head = b"\x17\x08\x44tracing6\0\0\x08\x00\x10\0\0";
    bench.refused(&bench.file("trace.dat", head), &["trace-cmd report -i"]);
    bench.refused(&bench.file("perf.data", b"PERFILE2h\0\0\0"), &["perf.data"]);
}

#[test]
fn a_trace_without_dma_events_is_refused() {
    let bench = Bench::new();
    let text = "# tracer: nop\n\
        <idle>-0 [000] d.s.. 1.000001: sched_switch: prev_comm=a\n\
        dd-205 [001] ..... 1.000002: block_rq_issue: 179,0 RS 4096 () 8 + 8 be,0,4 [dd]\n";
    bench.refused(
        &bench.file("sched.txt", text.as_bytes()),
        &["no DMA mapping events", "trace-cmd record -e dma -e iommu"],
    );
}

#[test]
fn an_unwritable_output_folder_is_refused_before_the_work() {
    let bench = Bench::new();
    // A file where the folder should be: also refused to root, who may write
    // into any folder.
    bench.file("taken", b"");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmabench"));
    command.current_dir(bench.dir.path());
    let begun = std::time::Instant::now();
    let output = command.args(["--out", "taken/deeper"]).output().unwrap();
    assert_refused(&output, &["cannot write to the output folder", "--out"]);
    assert!(begun.elapsed().as_secs() < 20, "the work was done first");
    assert_eq!(fs::read(bench.path("taken")).unwrap(), b"");
}

#[test]
fn an_unknown_workload_is_refused_with_those_there_are() {
    let bench = Bench::new();
    let output = bench
        .command()
        .args(["--workload", "tape"])
        .output()
        .unwrap();
    assert_refused(&output, &["tape", "dd-seq", "sd-strict-ext4_write_fsync"]);
}

#[test]
fn wrong_usage_is_told_from_a_failed_run() {
    let bench = Bench::new();
    for arguments in [
        &["replay"][..],
        &["--modes", "strictest"],
        &["--requests", "0"],
        &["--requests", "10", "--quick"],
        &["--queue-entries", "255"],
        &["--flush-timeout-ms", "0"],
        &["--length", "0"],
        &["--depth", "0"],
        &["--threads", "1025"],
        &["--pairs", "0"],
        &["--threads", "1", "--pairs", "1"],
        &["--sizes", "4K:0"],
        &["--sizes", "1M"],
        &["wat"],
    ] {
        let output = bench.command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

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
fn an_option_that_does_not_apply_is_refused_with_the_reason() {
    for (arguments, words) in [
        (
            &["--depth", "4"][..],
            &["--depth", "shipped traces", "--workload"][..],
        ),
        (
            &["--workload", "cqe", "--depth", "33"],
            &["cqe", "32 slots"],
        ),
        (
            &["--workload", "sqlite", "--depth", "2"],
            &["sqlite-sync", "waits for each"],
        ),
        (
            &["--workload", "dd-seq", "--sizes", "4K"],
            &["dd-seq", "dd-direct"],
        ),
        (
            &["--workload", "cqe", "--pairs", "1", "--modes", "bounce"],
            &["bounce", "--pairs"],
        ),
        (
            &["--length", "5", "scenario", "ageing"],
            &["--length", "this command"],
        ),
    ] {
        let output = Bench::new().command().args(arguments).output().unwrap();
        assert_refused(&output, words);
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

/// Ctrl-C ends the run early, with what was found until then.
#[cfg(unix)]
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
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
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
#[cfg(unix)]
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
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
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

#[test]
fn an_unknown_scenario_is_refused_with_the_known_ones() {
    let bench = Bench::new();
    let output = bench
        .command()
        .args(["scenario", "bogus"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("linear-search, low32, ageing"), "{text}");
}

#[test]
fn two_reports_are_compared_and_a_worse_one_fails() {
    let bench = Bench::new();
    let run = |out: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmabench"));
        command.current_dir(bench.dir.path());
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
