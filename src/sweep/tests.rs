//! Small sweeps; what is written reads back, and a later session goes on.

use std::collections::BTreeMap;

use super::*;
use crate::workload::generate::{DdSeq, Generator};
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: SweepArgs,
    #[command(flatten)]
    options: RunOptions,
}

fn line(text: &str) -> Line {
    Line::parse_from(std::iter::once("sweep").chain(text.split_whitespace()))
}

fn workload() -> Workload {
    DdSeq {
        pages: 4,
        requests: 300,
        depth: 2,
    }
    .generate(1)
}

fn sweep(text: &str) -> Result<SweepReport, SweepError> {
    let Line { args, options } = line(text);
    let go = AtomicBool::new(false);
    run(&args, &options, &[workload()], &|_| (), &|| (), &go)
}

const SMALL: &str =
    "--entries 4,64 --timeouts-ms 1,40 --sizes 4k,132k --requests 100 --modes strict,lazy";

#[test]
fn every_point_is_there_and_windows_follow_the_queue() {
    let found = sweep(SMALL).unwrap();
    assert_eq!((found.queue.len(), found.sizes.len()), (1 + 4, 4));
    assert_eq!((found.missing, found.sessions), (0, 1));
    let strict = found.queue_point("dd-seq", "strict", None, None).unwrap();
    assert_eq!(strict.stale_window_max_ns, Some(0));
    assert_eq!(strict.modelled_ns_per_request, 883.0);
    let of = |entries, ms| {
        let point = found.queue_point("dd-seq", "lazy", Some(entries), Some(ms));
        point.unwrap()
    };
    // A request of 16 KiB takes some 87 us.
    let (tiny, timed, large) = (of(4, 40), of(64, 1), of(64, 40));
    assert!(tiny.stale_window_max_ns.unwrap() < 1_000_000);
    assert!(timed.stale_window_max_ns.unwrap() <= 1_100_000);
    assert!(large.stale_window_max_ns > timed.stale_window_max_ns);
    assert!(large.iova_pages_held_max > tiny.iova_pages_held_max);
    assert!(tiny.flushes_full_per_request > 0.2 && tiny.flushes_timer_per_request == 0.0);
    assert!(timed.flushes_full_per_request == 0.0 && timed.flushes_timer_per_request > 0.05);
    assert!(tiny.modelled_ns_per_request > large.modelled_ns_per_request);
    let knee = found.size_point("strict", 132 << 10).unwrap();
    assert_eq!(
        (knee.pages, knee.linux_index_searches_per_request),
        (33, 1.0)
    );
    assert_eq!(knee.index_searches_per_request, 1.0);
    assert!(
        knee.index_searches_wide_per_request < 0.1,
        "our caches go on"
    );
}

#[test]
fn a_sweep_is_written_and_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let one = "--entries 4 --timeouts-ms 1,40 --sizes 4k --requests 100 --modes strict,lazy";
    let first = sweep(one).unwrap();
    let written = super::write(&first, dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    // The reader refuses rows of different lengths.
    let mut csv = csv::Reader::from_path(&written.csv).unwrap();
    let rows: Vec<BTreeMap<String, String>> = csv.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3 + 2);
    for (row, point) in rows.iter().zip(&first.queue) {
        assert_eq!(
            (&row["sweep"], &row["mode"]),
            (&"queue".into(), &point.mode)
        );
        assert_eq!(row["entries"].parse().ok(), point.entries);
        assert_eq!(row["stale_accesses"].parse().ok(), point.stale_accesses);
        assert_eq!(
            (row["bytes"].as_str(), row["map_p99_ns"].as_str()),
            ("", "")
        );
    }
    for (row, point) in rows[3..].iter().zip(&first.sizes) {
        assert_eq!(
            (&row["sweep"], &row["mode"]),
            (&"sizes".into(), &point.mode)
        );
        assert_eq!(row["bytes"].parse(), Ok(point.bytes));
        assert_eq!(row["unmap_p99_ns"].parse(), Ok(point.unmap_p50_p99_ns.1));
        assert_eq!(
            (row["workload"].as_str(), row["entries"].as_str()),
            ("", "")
        );
    }
    let html = fs::read_to_string(&written.html).unwrap();
    assert!(html.contains("plot-0-lazy-window") && html.contains("plot-sizes-searches"));

    let resume = format!("{SMALL} --resume {}", written.json.display());
    let second = sweep(&resume).unwrap();
    assert_eq!(
        (second.sessions, second.queue.len(), second.sizes.len()),
        (2, 5, 4)
    );
    for point in &first.queue {
        assert!(second.queue.contains(point), "{point:?} was done already");
    }
    assert!(second.sizes.contains(&first.sizes[0]));
    assert!(second.notes.iter().any(|n| n.contains("2 sessions")));

    let other = sweep(&format!("{resume} --seed 7")).unwrap_err();
    assert!(other.to_string().contains("another --seed"), "{other}");
    fs::write(&written.json, "{}").unwrap();
    assert!(matches!(sweep(&resume), Err(SweepError::File(_))));
}

#[test]
fn an_interrupted_sweep_says_how_to_go_on() {
    let Line { args, options } = line(SMALL);
    let stop = AtomicBool::new(false);
    let done = || stop.store(true, Ordering::Relaxed);
    let found = run(&args, &options, &[workload()], &|_| (), &done, &stop).unwrap();
    assert_eq!((found.queue.len(), found.sizes.len()), (1, 0));
    assert_eq!(found.missing, 4 + 2);
    let note = found.notes.last().unwrap();
    assert!(
        note.contains("go on with: dmabench sweep --entries 4,64"),
        "{note}"
    );
    // The printed options are those of the command line.
    let again = crate::cli::Cli::try_parse_from(&found.resume).unwrap();
    assert_eq!(again.options.requests_min(), 100);
    let Some(crate::cli::Command::Sweep(again)) = again.command else {
        panic!("{again:?}");
    };
    assert_eq!((&again.entries, &again.sizes), (&args.entries, &args.sizes));
    assert!(again.resume.is_some());
}
