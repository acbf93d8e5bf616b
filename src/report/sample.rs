//! A made-up report for the tests. Its figures mean nothing; they only have the right shape.

use std::collections::BTreeMap;

use super::*;

/// Name of a workload whose file name tries to break out of the page.
pub(super) const HOSTILE: &str = "</title><script>alert('1')</script>&\"x\".txt";

/// Two workloads in three modes.
pub(super) fn report() -> Report {
    let names = ["sd-strict-seqread_4k_buffered", HOSTILE];
    Report {
        schema_version: SCHEMA_VERSION,
        version: "0.0.0".to_owned(),
        command_line: vec![
            "dmabench".to_owned(),
            "replay".to_owned(),
            HOSTILE.to_owned(),
        ],
        started_unix_s: 951_782_400,
        run_seconds: 12.5,
        seed: 1,
        options: Options {
            granule_bytes: 4096,
            flush_queue_entries: 256,
            flush_timeout_ns: 10_000_000,
            poll_period_ns: 0,
            requests_min: 100_000,
            other: BTreeMap::from([("strict-parse".to_owned(), "no".to_owned())]),
        },
        machine: Machine {
            cpu_model: "Example CPU <2>".to_owned(),
            cores: 2,
            arch: "x86_64".to_owned(),
            os: "Example OS".to_owned(),
            kernel: "1.2.3".to_owned(),
            virtualised: Some(true),
            clock: ClockInfo {
                name: "TSC".to_owned(),
                tick_ns: 0.5,
                cost_ns: 12.0,
                cost_subtracted: true,
            },
        },
        profile: Profile {
            name: "example-smmu".to_owned(),
            description: "A made-up SMMU.".to_owned(),
            source: "nowhere".to_owned(),
            formula: "syncs x sync time".to_owned(),
            parameters: vec![parameter("sync", 900.0, "ns")],
        },
        service_device: ServiceDevice {
            name: "example-card".to_owned(),
            description: "A made-up card.".to_owned(),
            source: "nowhere".to_owned(),
            parameters: vec![parameter("bus rate", 300.0, "MB/s")],
        },
        kind: kinds(),
        workloads: names.iter().map(|name| workload(name)).collect(),
        results: names
            .iter()
            .flat_map(|name| {
                [
                    result(name, "passthrough", 5.0, 0.0),
                    result(name, "strict", 142.0, 2.0),
                    result(name, "lazy", 120.0, 1.0 / 256.0),
                ]
            })
            .collect(),
        notes: vec!["A note about <this> run.".to_owned()],
    }
}

fn parameter(name: &str, value: f64, unit: &str) -> Parameter {
    Parameter {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        source: "made up".to_owned(),
    }
}

fn workload(name: &str) -> Workload {
    let trace = name != HOSTILE;
    Workload {
        name: name.to_owned(),
        description: "A made-up load.".to_owned(),
        source: if trace {
            Source::Trace {
                path: format!("traces/{HOSTILE}"),
                format: "ftrace".to_owned(),
                provenance: "made up".to_owned(),
            }
        } else {
            Source::Generated {
                generator: HOSTILE.to_owned(),
            }
        },
        requests: 132,
        bytes: 132 * 131_072,
        to_device: 0,
        from_device: 132,
        live_max: 2,
        sizes: vec![SizeCount {
            bytes: 131_072,
            requests: 132,
        }],
        parse: trace.then(|| ParseStats {
            lines: 1000,
            events: 900,
            unknown_lines: 99,
            damaged_lines: 1,
            damaged_examples: vec![format!("{HOSTILE}:7: no address after iova=")],
            devices: vec!["0000:00:02.0".to_owned()],
            cpus: 1,
            ..ParseStats::default()
        }),
    }
}

/// A result whose figures follow from its CPU time and its commands per request.
pub(super) fn result(workload: &str, mode: &str, cpu_ns: f64, commands: f64) -> RunResult {
    let requests = 132;
    let passthrough = mode == "passthrough";
    let lazy = mode == "lazy";
    let latency = |scale: f64| LatencyNs {
        mean: cpu_ns * 0.55 * scale,
        p50: cpu_ns * 0.5 * scale,
        p90: cpu_ns * 0.6 * scale,
        p99: cpu_ns * scale,
        p999: cpu_ns * 4.0 * scale,
        max: cpu_ns * 100.0 * scale,
    };
    let curve = |scale: f64| {
        [
            (0.5, 0.5),
            (0.9, 0.6),
            (0.99, 1.0),
            (0.999, 4.0),
            (1.0, 100.0),
        ]
        .map(|(quantile, factor)| CurvePoint {
            quantile,
            ns: cpu_ns * factor * scale,
        })
        .to_vec()
    };
    let per_pass = commands * requests as f64;
    RunResult {
        workload: workload.to_owned(),
        mode: mode.to_owned(),
        requests,
        passes: 758,
        bytes: requests * 131_072,
        map_ns: latency(1.0),
        unmap_ns: latency(1.2),
        cpu_ns_per_request: cpu_ns,
        cpu_ns_spread: Spread {
            min: cpu_ns * 0.98,
            p50: cpu_ns,
            max: cpu_ns * 1.1,
        },
        tlb_invalidate_ranges: if lazy { 0.0 } else { per_pass / 2.0 },
        tlb_invalidate_commands: if lazy { 0.0 } else { per_pass / 2.0 },
        tlb_flush_all_commands: if lazy { per_pass } else { 0.0 },
        sync_commands: if lazy { per_pass } else { per_pass / 2.0 },
        stale_device_accesses: (!passthrough).then_some(if lazy { 264 } else { 0 }),
        stale_window_max_ns: (!passthrough).then_some(if lazy { 9_710_000 } else { 0 }),
        iova_pages_held_max: if lazy { 4_224 } else { 64 },
        page_table_bytes: 16_384,
        modelled_ns_per_request: commands * 900.0,
        modelled_wait_ns_per_request: None,
        modelled_mb_per_s: Some(131.072e6 / (500_000.0 + cpu_ns + commands * 900.0)),
        model: "example-smmu".to_owned(),
        map_curve: curve(1.0),
        unmap_curve: curve(1.2),
        exposure: (!passthrough).then(|| Exposure {
            requests,
            device_accesses: 4_224,
            probes: 396,
            stale_buffers: if lazy { 132 } else { 0 },
            stale_buffers_max: if lazy { 21 } else { 0 },
            stale_bytes_max: if lazy { 21 * 131_072 } else { 0 },
            stale_window_p50_ns: if lazy { 5_000_000 } else { 0 },
            stale_window_bound_ns: if lazy { 10_000_000 } else { 0 },
            violations: 0,
            flushes_ring_full: 0,
            flushes_timer: if lazy { 6 } else { 0 },
            sync_commands: if lazy { 6 } else { 132 },
            live_pages_invalidated: Some(if lazy { 12 } else { 0 }),
            virtual_ns: 57_700_000,
            timeline: (0..60)
                .map(|step| TimelinePoint {
                    at_ns: step * 1_000_000,
                    mapped_pages: 32,
                    waiting_pages: if lazy { step % 10 * 64 } else { 0 },
                })
                .collect(),
        }),
        notes: vec![],
    }
}
