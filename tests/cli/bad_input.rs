//! Files, folders and options that cannot be used: refused before the work, with
//! words that say what to do.

use std::{fs, path::Path};

use crate::{Bench, assert_refused, dmabench, json, shipped};

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
        &[
            "no events of DMA mappings",
            "trace-cmd record -e iommu:map -e iommu:unmap",
        ],
    );
}

#[test]
fn an_unwritable_output_folder_is_refused_before_the_work() {
    let bench = Bench::new();
    // A file where the folder should be: also refused to root, who may write
    // into any folder.
    bench.file("taken", b"");
    let begun = std::time::Instant::now();
    let mut command = dmabench(&bench.dir);
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
