//! What the tool exists to show, on every shipped trace, through the same code
//! as the program.

use std::sync::{LazyLock, atomic::AtomicBool};

use dmabench::{
    cli::ModeArg,
    report::RunResult,
    run::{self, Plan},
    trace::{Options, shipped},
    workload::{
        Workload,
        generate::{DdSeq, Generator},
    },
};

fn traces() -> Vec<Workload> {
    (shipped::ALL.iter())
        .map(|s| s.workload(Options { strict: true }).unwrap())
        .collect()
}

fn run(workloads: &[Workload], plan: &Plan) -> Vec<RunResult> {
    let never = AtomicBool::new(false);
    run::all(workloads, plan, &|| (), &never).unwrap().results
}

/// Every shipped trace and dd-seq in every mode, each at least 2560 requests
/// long.
static RESULTS: LazyLock<Vec<RunResult>> = LazyLock::new(|| {
    let mut workloads = traces();
    workloads.push(DdSeq::DEFAULT.generate(1));
    let plan = Plan {
        requests_min: 2560,
        ..Plan::default()
    };
    run(&workloads, &plan)
});

fn of_mode(mode: ModeArg) -> impl Iterator<Item = &'static RunResult> {
    RESULTS.iter().filter(move |r| r.mode == mode.name())
}

#[test]
fn strict_sends_one_range_and_one_sync_for_each_request() {
    assert_eq!(of_mode(ModeArg::Strict).count(), 11);
    for r in of_mode(ModeArg::Strict) {
        let requests = r.requests as f64;
        assert_eq!(r.tlb_invalidate_ranges, requests, "{}", r.workload);
        assert_eq!(r.sync_commands, requests, "{}", r.workload);
        assert_eq!(r.tlb_flush_all_commands, 0.0, "{}", r.workload);
        // Real Linux sends one range command for each of these too: their
        // lengths of 1, 2, 4, 6, 7, 8, 16, 32 and 128 pages are m x 2^k with m
        // up to 31 (docs/linux-counts.md).
        assert_eq!(r.tlb_invalidate_commands, requests, "{}", r.workload);
    }
}

#[test]
fn strict_leaves_nothing_for_the_device() {
    for r in of_mode(ModeArg::Strict) {
        assert_eq!(r.stale_device_accesses, Some(0), "{}", r.workload);
        assert_eq!(r.stale_window_max_ns, Some(0), "{}", r.workload);
        let exposure = r.exposure.as_ref().unwrap();
        assert!(exposure.probes >= r.requests, "{}", r.workload);
        assert!(exposure.device_accesses > 0, "{}", r.workload);
        assert_eq!(exposure.violations, 0, "{}", r.workload);
    }
}

#[test]
fn lazy_at_full_rate_flushes_once_for_each_full_ring() {
    for r in of_mode(ModeArg::Lazy) {
        assert_eq!(r.tlb_invalidate_ranges, 0.0, "{}", r.workload);
        assert_eq!(r.tlb_invalidate_commands, 0.0, "{}", r.workload);
        assert_eq!(r.sync_commands, r.tlb_flush_all_commands, "{}", r.workload);
        // 256 entries; Linux uses 255 of them. Whole rings only: at most one is
        // begun before the first pass and one left over after the last.
        let unmaps = (r.requests * r.passes) as f64;
        let flushes = r.tlb_flush_all_commands * r.passes as f64;
        assert!(
            (flushes - unmaps / 256.0).abs() <= 1.0,
            "{}: {flushes}",
            r.workload
        );
    }
}

#[test]
fn lazy_exposes_and_never_longer_than_it_promises() {
    for r in of_mode(ModeArg::Lazy) {
        assert!(r.stale_device_accesses > Some(0), "{}", r.workload);
        let exposure = r.exposure.as_ref().unwrap();
        let window = r.stale_window_max_ns.unwrap();
        // Timer, no wait for a poll, one flush.
        assert_eq!(exposure.stale_window_bound_ns, 10_000_000 + 883);
        assert!(
            window <= exposure.stale_window_bound_ns,
            "{}: {window}",
            r.workload
        );
        // The clock stops at deadlines, so the bound is also reached: every
        // trace is longer than 10 ms on an eMMC.
        assert!(window > 10_000_000, "{}: {window}", r.workload);
        // Nothing but the ring and the timer flushes.
        let flushes = exposure.flushes_ring_full + exposure.flushes_timer;
        assert_eq!(exposure.sync_commands, flushes, "{}", r.workload);
        assert!(exposure.stale_buffers_max <= 256, "{}", r.workload);
        // Every request is unmapped while its translations are remembered.
        assert_eq!(exposure.stale_buffers, r.requests, "{}", r.workload);
        assert!(r.iova_pages_held_max > 0 && r.page_table_bytes > 0);
    }
}

/// Without the timer and with a card that takes no time only the ring flushes,
/// and then a window is as long as 256 requests.
#[test]
fn with_a_long_timer_only_full_rings_flush() {
    let workloads = [DdSeq::DEFAULT.generate(1)];
    let plan = Plan {
        modes: vec![ModeArg::Lazy],
        requests_min: 1,
        flush_timeout_ns: u64::MAX / 2,
        ..Plan::default()
    };
    let results = run(&workloads, &plan);
    let exposure = results[0].exposure.as_ref().unwrap();
    assert_eq!(exposure.flushes_timer, 0);
    // 1024 unmaps; the fourth full ring is flushed by an unmap that never comes.
    assert_eq!(exposure.flushes_ring_full, 3);
    assert_eq!(exposure.stale_buffers_max, 256);
    assert_eq!(exposure.stale_bytes_max, 256 * 131_072);
}

#[test]
fn passthrough_has_no_commands_and_no_exposure_figure() {
    for r in of_mode(ModeArg::Passthrough) {
        assert_eq!(r.sync_commands, 0.0);
        assert_eq!(r.tlb_flush_all_commands, 0.0);
        assert_eq!(r.modelled_ns_per_request, 0.0);
        assert_eq!(r.stale_device_accesses, None);
        assert_eq!(r.stale_window_max_ns, None);
        assert!(r.exposure.is_none());
    }
}

/// Commands of real Linux 6.12 for each MiB, counted by QEMU's trace events
/// (docs/linux-counts.md): range TLBIs and syncs strict; flushes lazy.
#[test]
fn strict_commands_are_those_of_linux() {
    for (workload, per_mib) in [
        ("sd-strict-randread_4k_direct", 256.0),
        ("sd-strict-seqread_64k_direct", 16.0),
        ("sd-strict-seqread_1m_buffered", 2.0),
        ("sd-strict-seqread_4k_buffered", 8.13),
    ] {
        let r = of_mode(ModeArg::Strict)
            .find(|r| r.workload == workload)
            .unwrap();
        let mib = r.bytes as f64 / f64::from(1 << 20);
        let ours = r.tlb_invalidate_commands / mib;
        assert!((ours / per_mib - 1.0).abs() < 0.01, "{workload}: {ours}");
        assert_eq!(r.sync_commands, r.tlb_invalidate_commands);
    }
    // Lazy: 1.0 flush and sync for each MiB of 4 KiB requests, 0.06 of 64 KiB.
    for (workload, per_mib) in [
        ("sd-strict-randread_4k_direct", 1.0),
        ("sd-strict-seqread_64k_direct", 0.06),
    ] {
        let r = of_mode(ModeArg::Lazy)
            .find(|r| r.workload == workload)
            .unwrap();
        let mib = r.bytes as f64 / f64::from(1 << 20);
        let ours = r.tlb_flush_all_commands / mib;
        assert!((ours - per_mib).abs() < 0.01, "{workload}: {ours}");
    }
}
