//! What the tool exists to show, on every shipped trace, through the same code
//! as the program.

use std::sync::{LazyLock, atomic::AtomicBool};

use dmabench::{
    cli::ModeArg,
    model,
    report::RunResult,
    run::{self, Plan},
    trace::{Options, shipped},
    workload::{
        Workload,
        generate::{Cqe, DdSeq, Generator},
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
        modes: MODES.to_vec(),
        requests_min: 2560,
        ..Plan::default()
    };
    run(&workloads, &plan)
});

/// Those in which each request is mapped and unmapped.
const MODES: [ModeArg; 7] = [
    ModeArg::Passthrough,
    ModeArg::Strict,
    ModeArg::StrictBatched,
    ModeArg::StrictPipelined,
    ModeArg::Lazy,
    ModeArg::LazySingle,
    ModeArg::LazyParked,
];

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
fn strict_modes_and_parked_buffers_leave_nothing_for_the_device() {
    let modes = [
        ModeArg::Strict,
        ModeArg::StrictBatched,
        ModeArg::StrictPipelined,
        ModeArg::LazyParked,
    ];
    for r in modes.into_iter().flat_map(of_mode) {
        assert_eq!(r.stale_device_accesses, Some(0), "{}", r.workload);
        assert_eq!(r.stale_window_max_ns, Some(0), "{}", r.workload);
        let exposure = r.exposure.as_ref().unwrap();
        // Parked buffers that were not given back when the run ended: one ring.
        let waiting = if r.mode == "lazy-parked" { 256 } else { 0 };
        assert!(exposure.probes + waiting >= r.requests, "{}", r.workload);
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

/// One ring of 32768 entries and a second: a trace's pass ends before either.
#[test]
fn the_single_queue_exposes_for_longer_and_flushes_less() {
    for (single, lazy) in of_mode(ModeArg::LazySingle).zip(of_mode(ModeArg::Lazy)) {
        assert_eq!(single.workload, lazy.workload);
        let exposure = single.exposure.as_ref().unwrap();
        assert_eq!(exposure.stale_window_bound_ns, 1_000_000_000 + 883);
        let window = single.stale_window_max_ns.unwrap();
        assert!(window <= exposure.stale_window_bound_ns, "{window}");
        assert!(
            window >= lazy.stale_window_max_ns.unwrap(),
            "{}",
            lazy.workload
        );
        assert!(single.tlb_flush_all_commands * 60.0 < lazy.tlb_flush_all_commands);
    }
}

/// Pipelined waits as often as strict, but beside the next transfer; batched as
/// often as there are completions.
#[test]
fn syncs_are_one_for_each_request_or_completion() {
    for mode in [ModeArg::StrictBatched, ModeArg::StrictPipelined] {
        for r in of_mode(mode) {
            let requests = r.requests as f64;
            assert!(r.sync_commands <= requests, "{}", r.workload);
            assert!(r.tlb_invalidate_commands <= requests, "{}", r.workload);
            assert_eq!(r.tlb_flush_all_commands, 0.0, "{}", r.workload);
            if mode == ModeArg::StrictPipelined {
                assert_eq!(r.sync_commands, requests, "{}", r.workload);
            }
        }
    }
}

/// Completions that come 16 at a time: strict for about the price of lazy.
#[test]
fn strict_batched_on_a_command_queue_is_within_15_percent_of_lazy() {
    let plan = Plan {
        modes: vec![ModeArg::Strict, ModeArg::StrictBatched, ModeArg::Lazy],
        requests_min: 8192,
        ..Plan::default()
    };
    let results = run(&[Cqe::DEFAULT.generate(1)], &plan);
    let [strict, batched, lazy] = &results[..] else {
        panic!("three modes");
    };
    assert_eq!(batched.stale_device_accesses, Some(0));
    assert_eq!(strict.sync_commands, 1024.0);
    // 62 completions of 16, and the last 32 at once.
    assert_eq!(batched.sync_commands, 63.0);
    // Any 16 of 32 requests that lie next to each other: four ranges at most.
    assert!(batched.tlb_invalidate_ranges <= 4.0 * 63.0);
    assert!(batched.tlb_invalidate_commands <= 5.0 * 63.0);
    let both = |r: &RunResult| r.cpu_ns_per_request + r.modelled_ns_per_request;
    let ratio = both(batched) / both(lazy);
    assert!(
        ratio <= 1.15,
        "{ratio}: {} and {}",
        both(batched),
        both(lazy)
    );
    assert!(both(strict) > 1.15 * both(lazy) || cfg!(debug_assertions));
}

/// What was left to wish for in 2021, on every built-in hardware.
#[test]
fn strict_pipelined_on_dd_seq_is_within_2_percent_of_lazy() {
    let mut slowest = 1.0_f64;
    for profile in model::built_in() {
        let plan = Plan {
            modes: vec![ModeArg::Strict, ModeArg::StrictPipelined, ModeArg::Lazy],
            requests_min: 1,
            profile,
            ..Plan::default()
        };
        let results = run(&[DdSeq::DEFAULT.generate(1)], &plan);
        let rate = |r: &RunResult| r.modelled_mb_per_s.unwrap();
        let [strict, pipelined, lazy] = &results[..] else {
            panic!("three modes");
        };
        assert_eq!(pipelined.stale_device_accesses, Some(0));
        let ratio = rate(pipelined) / rate(lazy);
        assert!(ratio > 0.98, "{}: {ratio}", plan.profile.name);
        slowest = slowest.min(rate(strict) / rate(lazy));
    }
    // Else there was nothing to hide.
    assert!(slowest < 0.9, "{slowest}");
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
