//! Which figures are compared, and when one counts as changed.

use super::{Change, NotComparable};
use crate::report::verdict::differ;
use crate::report::{Kind, Report, RunResult, Workload};

/// A measured figure must move by so much, beyond the spread of its batches.
const MEASURED: f64 = 0.05;
/// A counted or modelled one by so much: a queue may fill once more or less over the passes.
const COUNTED: f64 = 0.01;

type Figure = (&'static str, Kind, fn(&RunResult) -> Option<f64>);

/// Less is better for each.
const FIGURES: &[Figure] = &[
    ("cpu_ns_per_request", Kind::Measured, |r| {
        Some(r.cpu_ns_per_request)
    }),
    ("tlb_invalidate_ranges", Kind::Counted, |r| {
        Some(r.tlb_invalidate_ranges)
    }),
    ("tlb_invalidate_commands", Kind::Counted, |r| {
        Some(r.tlb_invalidate_commands)
    }),
    ("tlb_flush_all_commands", Kind::Counted, |r| {
        Some(r.tlb_flush_all_commands)
    }),
    ("sync_commands", Kind::Counted, |r| Some(r.sync_commands)),
    ("stale_device_accesses", Kind::Counted, |r| {
        r.stale_device_accesses.map(|n| n as f64)
    }),
    ("stale_window_max_ns", Kind::Counted, |r| {
        r.stale_window_max_ns.map(|n| n as f64)
    }),
    ("iova_pages_held_max", Kind::Counted, |r| {
        Some(r.iova_pages_held_max as f64)
    }),
    ("page_table_bytes", Kind::Counted, |r| {
        Some(r.page_table_bytes as f64)
    }),
    ("modelled_ns_per_request", Kind::Modelled, |r| {
        Some(r.modelled_ns_per_request)
    }),
];

/// The changes, worst first, and how many figures were compared.
pub(super) fn changes(
    base: &Report,
    new: &Report,
    not_comparable: &[NotComparable],
) -> (Vec<Change>, u64) {
    let mut changes = Vec::new();
    let mut compared = 0;
    for result in &new.results {
        let Some(before) = base.result(&result.workload, &result.mode) else {
            continue;
        };
        let same_load = same(base, new, &result.workload);
        for &(field, kind, figure) in FIGURES {
            let apart = not_comparable.iter().any(|reason| reason.kind == kind);
            if apart || !same_load {
                continue;
            }
            let (Some(one), Some(other)) = (figure(before), figure(result)) else {
                continue;
            };
            compared += 1;
            if changed(kind, (before, one), (result, other)) {
                changes.push(Change {
                    workload: result.workload.clone(),
                    mode: result.mode.clone(),
                    field: field.to_owned(),
                    kind,
                    base: one,
                    new: other,
                    regression: other > one,
                });
            }
        }
    }
    changes.sort_by(|one, other| other.over().total_cmp(&one.over()));
    (changes, compared)
}

/// Whether both runs mean the same requests by a name.
fn same(base: &Report, new: &Report, workload: &str) -> bool {
    let of = |report: &Report| -> Option<Workload> {
        (report.workloads.iter().find(|w| w.name == workload)).cloned()
    };
    match (of(base), of(new)) {
        (Some(one), Some(other)) => {
            (one.requests, one.bytes, one.live_max, one.sizes)
                == (other.requests, other.bytes, other.live_max, other.sizes)
        }
        _ => false,
    }
}

fn changed(kind: Kind, one: (&RunResult, f64), other: (&RunResult, f64)) -> bool {
    let by = |part: f64| (other.1 - one.1).abs() > part * one.1.abs().max(f64::MIN_POSITIVE);
    match kind {
        Kind::Measured => by(MEASURED) && differ(one.0, other.0),
        _ => by(COUNTED),
    }
}
