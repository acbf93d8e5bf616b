//! Workloads of any shape: strict leaves nothing reachable, lazy nothing beyond
//! its bound, and the counts follow from the workload.

use std::sync::atomic::AtomicBool;

use dmabench::{
    cli::ModeArg,
    report::Source,
    run::{self, Plan},
    workload::{Builder, Direction, Segment, Workload},
};
use dmabench_flushq::QueueConfig;
use dmabench_platform::PhysAddr;
use proptest::prelude::*;

/// One entry of a scatter list: any place in a page, up to some pages long.
fn segment() -> impl Strategy<Value = Segment> {
    let place = prop_oneof![Just(0), 0..4096_u64];
    let len = prop_oneof![Just(4096), 1..5 * 4096_u64, Just(2 << 20)];
    (0..1_u64 << 20, place, len).prop_map(|(page, offset, len_bytes)| Segment {
        phys: PhysAddr((page << 12) + offset),
        len_bytes,
    })
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![
        Just(Direction::ToDevice),
        Just(Direction::FromDevice),
        Just(Direction::Bidirectional)
    ]
}

/// Requests of three devices, and after each how many of the oldest or newest
/// are unmapped.
fn workload() -> impl Strategy<Value = Workload> {
    let request = (
        0..3_u16,
        direction(),
        prop::collection::vec(segment(), 1..6),
        0..3_usize,
        any::<bool>(),
    );
    prop::collection::vec(request, 1..80).prop_map(|requests| {
        let mut builder = Builder::new();
        let mut live = std::collections::VecDeque::new();
        for (device, direction, segments, unmaps, newest) in requests {
            live.push_back(builder.map(device, direction, segments));
            for _ in 0..unmaps {
                let request = if newest {
                    live.pop_back()
                } else {
                    live.pop_front()
                };
                if let Some(request) = request {
                    builder.unmap(request);
                }
            }
        }
        let source = Source::Generated {
            generator: "random".to_owned(),
        };
        let devices = ["a", "b", "c"].map(str::to_owned).to_vec();
        builder.finish("random".to_owned(), String::new(), source, None, devices)
    })
}

const MODES: [ModeArg; 7] = [
    ModeArg::Passthrough,
    ModeArg::Strict,
    ModeArg::StrictBatched,
    ModeArg::StrictPipelined,
    ModeArg::Lazy,
    ModeArg::LazySingle,
    ModeArg::LazyParked,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_workload_keeps_the_promises_of_its_mode(
        workload in workload(),
        entries_lg2 in 1..6_u32,
        timeout_ns in prop_oneof![Just(10_000_000), 1..2_000_000_u64],
    ) {
        let plan = Plan {
            requests_min: 1,
            flush_queue_entries: 1 << entries_lg2,
            flush_timeout_ns: timeout_ns,
            single_queue: QueueConfig {
                entries_per_slot: 1 << entries_lg2,
                timeout_ns,
            },
            modes: MODES.to_vec(),
            ..Plan::default()
        };
        let never = AtomicBool::new(false);
        let workloads = [workload];
        let found = run::all(&workloads, &plan, &|| (), &never).unwrap();
        let requests = workloads[0].requests().len() as u64;
        for result in &found.results {
            let exposure = result.exposure.as_ref();
            match result.mode.as_str() {
                "strict" => {
                    prop_assert_eq!(result.sync_commands, requests as f64);
                    prop_assert_eq!(result.stale_device_accesses, Some(0));
                    prop_assert_eq!(exposure.unwrap().sync_commands, requests);
                }
                "strict-batched" => {
                    prop_assert!(result.sync_commands <= requests as f64);
                    prop_assert_eq!(result.stale_device_accesses, Some(0));
                    prop_assert!(exposure.unwrap().probes >= requests);
                }
                "strict-pipelined" => {
                    prop_assert_eq!(result.sync_commands, requests as f64);
                    prop_assert_eq!(result.stale_device_accesses, Some(0));
                    prop_assert!(exposure.unwrap().probes >= requests);
                }
                "lazy-parked" => {
                    prop_assert_eq!(result.tlb_invalidate_ranges, 0.0);
                    prop_assert_eq!(result.stale_device_accesses, Some(0));
                    prop_assert_eq!(exposure.unwrap().stale_buffers, 0);
                }
                "lazy" | "lazy-single" => {
                    let mode = if result.mode == "lazy" { ModeArg::Lazy } else { ModeArg::LazySingle };
                    let exposure = exposure.unwrap();
                    prop_assert_eq!(result.tlb_invalidate_ranges, 0.0);
                    let window = result.stale_window_max_ns.unwrap();
                    // A flush of one device's queue may wait for those of the
                    // two others that are due at the same time.
                    let bound = plan.stale_bound_ns(mode) + 2 * plan.profile.costs.flush_ns(1);
                    prop_assert!(window <= bound, "{} {}", window, bound);
                    prop_assert_eq!(exposure.stale_buffers, requests);
                    prop_assert!(exposure.stale_buffers_max <= 3 << entries_lg2);
                }
                _ => prop_assert!(exposure.is_none()),
            }
        }
        prop_assert_eq!(found.results.len(), MODES.len());
    }
}
