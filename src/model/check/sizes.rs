//! Latency by size: the non-coherent SoC, and the Kunpeng server with one thread.

use dmabench_flushq::RangeCommands;

use super::{Role, Row, Table};
use crate::model::fit::{FitRow, Fitted, fit};

/// Half of the last digit of latencies in tenths of a microsecond.
const TENTH: f64 = 0.05;

/// KiB and microseconds.
type Published = (u64, f64);

fn size(kib: u64) -> String {
    if kib >= 1024 {
        format!("{} MiB", kib / 1024)
    } else {
        format!("{kib} KiB")
    }
}

/// A fit to those of `published` whose size is in `calibrate`.
fn fitted(published: &[Published], calibrate: &[u64]) -> Fitted {
    let rows: Vec<FitRow> = (published.iter())
        .filter(|(kib, _)| calibrate.contains(kib))
        .map(|&(kib, us)| FitRow {
            size_bytes: kib << 10,
            unmap_ns: us * 1e3,
        })
        .collect();
    fit(&rows, RangeCommands::Absent).expect("the rows of a published table fit")
}

fn rows(
    published: &[Published],
    calibrate: &[u64],
    predict_us: impl Fn(u64) -> f64,
    reason: impl Fn(u64) -> Option<&'static str>,
) -> Vec<Row> {
    (published.iter())
        .map(|&(kib, us)| {
            let role = if calibrate.contains(&kib) {
                Role::Calibrates
            } else {
                Role::Predicted
            };
            Row::new(size(kib), us, predict_us(kib << 10), role)
                .rounded_to(TENTH)
                .because(reason(kib))
        })
        .collect()
}

fn figures(fitted: &Fitted) -> String {
    format!(
        "{:.0} ns for each unmap, {:.0} ns for each command, {:.0} ns for each 4 KiB",
        fitted.sync_ns, fitted.command_ns, fitted.page_ns
    )
}

const TEGRA: &str = "Ashish Mhetre, linux-tegra and iommu lists, 2024-08-06, \"[PATCH V4] \
                     iommu/io-pgtable-arm: Optimise non-coherent unmap\", dma_map_benchmark";

const TEGRA_WITHOUT: [Published; 11] = [
    (4, 3.0),
    (8, 4.0),
    (16, 6.1),
    (32, 10.2),
    (64, 18.5),
    (128, 35.0),
    (256, 67.5),
    (512, 127.9),
    (1024, 248.6),
    (2048, 65.5),
    (4096, 119.2),
];

const TEGRA_WITH: [Published; 11] = [
    (4, 3.0),
    (8, 3.8),
    (16, 5.4),
    (32, 8.5),
    (64, 14.9),
    (128, 27.5),
    (256, 52.2),
    (512, 97.2),
    (1024, 187.4),
    (2048, 65.5),
    (4096, 119.0),
];

const KUNPENG: &str = "Xiang Chen, iommu list, 2021-07-31, \"[PATCH 0/2] Implement \
                       [map/unmap]_pages callbacks for ARM SMMUV3\", dma_map_benchmark, 1 thread";

const KUNPENG_BEFORE: [Published; 11] = [
    (4, 1.3),
    (8, 1.5),
    (16, 1.9),
    (32, 2.7),
    (64, 4.5),
    (128, 7.9),
    (256, 14.8),
    (512, 14.7),
    (1024, 53.9),
    (2048, 0.9),
    (4096, 1.5),
];

pub(super) const KUNPENG_AFTER: [Published; 11] = [
    (4, 0.8),
    (8, 0.9),
    (16, 1.1),
    (32, 1.4),
    (64, 2.0),
    (128, 3.3),
    (256, 6.1),
    (512, 10.4),
    (1024, 19.3),
    (2048, 0.9),
    (4096, 1.0),
];

const KUNPENG_MAP: [Published; 9] = [
    (4, 0.1),
    (8, 0.2),
    (16, 0.3),
    (32, 0.5),
    (64, 1.0),
    (128, 1.8),
    (256, 3.7),
    (512, 7.1),
    (1024, 14.0),
];

pub(super) fn tables() -> Vec<Table> {
    let none = |_: u64| None;
    let mut tables = Vec::new();
    for (title, published) in [
        (
            "Unmap by size on a non-coherent SoC, each table entry cleaned",
            TEGRA_WITHOUT,
        ),
        (
            "Unmap by size on a non-coherent SoC, neighbouring entries cleaned at once",
            TEGRA_WITH,
        ),
    ] {
        let calibrate = [4, 256, 2048];
        let fitted = fitted(&published, &calibrate);
        tables.push(Table {
            title,
            source: TEGRA,
            model: format!(
                "`fit` on three rows: {}. One command for each page; blocks of 2 MiB are one \
                 command, and their caches cost what the caches of 512 pages do.",
                figures(&fitted)
            ),
            unit: "unmap, us",
            rows: rows(
                &published,
                &calibrate,
                |bytes| fitted.unmap_ns(bytes) / 1e3,
                none,
            ),
        });
    }
    tables.push(tegra_lines());
    let calibrate = [4, 128];
    let before = fitted(&KUNPENG_BEFORE, &calibrate);
    tables.push(Table {
        title: "Unmap by size on Kunpeng 920, one call per page",
        source: KUNPENG,
        model: format!("`fit` on two rows: {}.", figures(&before)),
        unit: "unmap, us",
        rows: rows(
            &KUNPENG_BEFORE,
            &calibrate,
            |bytes| before.unmap_ns(bytes) / 1e3,
            |kib| match kib {
                512 => Some(
                    "The published figure is less than that of half the size; every other row \
                     grows with the size, and the figure looks like a slip of the pen.",
                ),
                2048 => Some(
                    "A block is unmapped in less than a page (0.9 against 1.3 us), which no model \
                     of commands gives: unmapping a page went down one level more of the tables, \
                     and the rest is rounding.",
                ),
                _ => None,
            },
        ),
    });
    let after = fitted(&KUNPENG_AFTER, &calibrate);
    tables.push(Table {
        title: "Unmap by size on Kunpeng 920, one call per range",
        source: KUNPENG,
        model: format!("`fit` on two rows: {}.", figures(&after)),
        unit: "unmap, us",
        rows: rows(
            &KUNPENG_AFTER,
            &calibrate,
            |bytes| after.unmap_ns(bytes) / 1e3,
            none,
        ),
    });
    let calibrate = [4, 1024];
    let map = fitted(&KUNPENG_MAP, &calibrate);
    tables.push(Table {
        title: "Map by size on Kunpeng 920, one call per page",
        source: KUNPENG,
        model: format!(
            "`fit` on two rows: {}; a map waits for nothing, so a command stands for the processor \
             time of a page.",
            figures(&map)
        ),
        unit: "map, us",
        rows: rows(
            &KUNPENG_MAP,
            &calibrate,
            |bytes| map.unmap_ns(bytes) / 1e3,
            none,
        ),
    });
    tables
}

/// The second table from the first: only how often a line is cleaned changes.
fn tegra_lines() -> Table {
    let calibrate_without = [4, 256, 2048];
    let without = fitted(&TEGRA_WITHOUT, &calibrate_without);
    // 64 cleans became 8 in the one row that is used.
    let line_us = (67.5 - 52.2) / 56.0;
    let predict = |bytes: u64| {
        let entries = if bytes < 2 << 20 {
            bytes >> 12
        } else {
            bytes >> 21
        };
        let saved = entries - entries.div_ceil(8);
        without.unmap_ns(bytes) / 1e3 - saved as f64 * line_us
    };
    Table {
        title: "The same from the table before it, with fewer cache lines cleaned",
        source: TEGRA,
        model: format!(
            "the fit of \"each table entry cleaned\" less what is saved when a line of 8 entries is \
             cleaned once: {:.0} ns for each, from the rows of 256 KiB.",
            line_us * 1e3
        ),
        unit: "unmap, us",
        rows: rows(&TEGRA_WITH, &[256], predict, |_| None),
    }
}
