//! What a replay found, as JSON and as a table.

use std::fmt;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::{Deserialize, Serialize};

/// Version of the schema of `qemu.json`.
pub const QEMU_VERSION: u32 = 1;

/// What `dmabench qemu` found. Everything but seconds is *counted*; the seconds
/// are those of an emulator and say nothing about hardware.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QemuReport {
    /// [`QEMU_VERSION`].
    pub schema_version: u32,
    /// The emulator's version.
    pub qemu: String,
    /// Modes, in order.
    pub modes: Vec<String>,
    /// Bytes that were replayed at most of each generated workload.
    pub limit_bytes: u64,
    /// All of it.
    pub run_seconds: f64,
    /// The user ended it early.
    pub interrupted: bool,
    /// One for each workload and mode.
    pub results: Vec<QemuResult>,
}

/// Commands and faults, as one side counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuCounts {
    /// Invalidations of translations (`CMD_TLBI_*`).
    pub invalidations: u64,
    /// `CMD_SYNC`s.
    pub syncs: u64,
    /// Faults that the SMMU reported.
    pub events: u64,
}

/// One workload in one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QemuResult {
    /// The workload.
    pub workload: String,
    /// The mode.
    pub mode: String,
    /// Requests that were replayed.
    pub requests: u64,
    /// Requests that the workload has.
    pub requests_all: u64,
    /// Of those replayed: mapped and unmapped, but not moved, because they are
    /// not whole blocks of 512 bytes at addresses that ADMA2 can say.
    pub requests_without_transfer: u64,
    /// Bytes that the card read or wrote, each compared with its image.
    pub bytes_verified: u64,
    /// By our counting backend, the one `compare` counts with; faults by the
    /// driver's event queue.
    pub ours: QemuCounts,
    /// By QEMU's own trace.
    pub qemu: QemuCounts,
    /// Uses of an old address right after its buffer was given back. Null in
    /// passthrough and premapped, where addresses are not taken away.
    pub probes: Option<u64>,
    /// Those that reached the buffer. (In bounce the device goes on to reach a
    /// slot of the pool.)
    pub stale_accesses: Option<u64>,
    /// Uses of old addresses after the last flush. None reached memory, or the
    /// run would have failed. Null also in bounce.
    pub probes_after_flush: Option<u64>,
    /// Seconds in the emulator.
    pub seconds: f64,
}

impl fmt::Display for QemuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        let rule = LineStyle::none().fill('─').junction('─');
        table.load_style(TableStyle::new().header_separator(rule));
        table.set_header([
            "workload",
            "mode",
            "requests",
            "MiB\nverified",
            "TLBI\nours",
            "TLBI\nQEMU",
            "SYNC\nours",
            "SYNC\nQEMU",
            "faults\nours",
            "faults\nQEMU",
            "stale /\nprobes",
            "after\nflush",
        ]);
        for column in 2..12 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut before = None;
        for result in &self.results {
            let again = before == Some(&result.workload);
            before = Some(&result.workload);
            let of = |some: Option<u64>| some.map_or("-".to_owned(), |n| n.to_string());
            let stale = match (result.stale_accesses, result.probes) {
                (Some(stale), Some(probes)) => format!("{stale} / {probes}"),
                _ => "-".to_owned(),
            };
            table.add_row([
                if again {
                    String::new()
                } else {
                    result.workload.clone()
                },
                result.mode.clone(),
                result.requests.to_string(),
                format!("{:.1}", result.bytes_verified as f64 / f64::from(1 << 20)),
                result.ours.invalidations.to_string(),
                result.qemu.invalidations.to_string(),
                result.ours.syncs.to_string(),
                result.qemu.syncs.to_string(),
                result.ours.events.to_string(),
                result.qemu.events.to_string(),
                stale,
                match result.probes_after_flush {
                    Some(probes) => format!("0 / {probes}"),
                    None => of(None),
                },
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "counted, on QEMU {}: invalidations and syncs of the unmaps by our counting backend and by\n\
             QEMU's trace of its command queue; faults by the driver's event queue and by the trace.\n\
             stale: uses of an old address right after its buffer was given back that reached the buffer;\n\
             after flush: the same after the last flush. Every byte was compared with the card's image.",
            self.qemu
        )?;
        let cut: u64 = self
            .results
            .iter()
            .map(|r| r.requests_without_transfer)
            .sum();
        if cut > 0 {
            writeln!(
                f,
                "{cut} requests are not whole blocks: mapped and unmapped, not moved."
            )?;
        }
        if self.results.iter().any(|r| r.requests < r.requests_all) {
            writeln!(
                f,
                "Of generated workloads the first {} MiB were replayed.",
                self.limit_bytes >> 20
            )?;
        }
        if self.interrupted {
            writeln!(
                f,
                "The run was interrupted; only what was finished is here."
            )?;
        }
        write!(
            f,
            "{:.1} s, in an emulator: not a measurement of any hardware.",
            self.run_seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> QemuReport {
        QemuReport {
            schema_version: QEMU_VERSION,
            qemu: "7.2.22".to_owned(),
            modes: vec!["passthrough".to_owned(), "lazy".to_owned()],
            limit_bytes: 8 << 20,
            run_seconds: 1.25,
            interrupted: false,
            results: ["passthrough", "lazy"]
                .map(|mode| QemuResult {
                    workload: "dd-seq".to_owned(),
                    mode: mode.to_owned(),
                    requests: 64,
                    requests_all: 1024,
                    requests_without_transfer: 0,
                    bytes_verified: 8 << 20,
                    ours: QemuCounts::default(),
                    qemu: QemuCounts::default(),
                    probes: (mode == "lazy").then_some(64),
                    stale_accesses: (mode == "lazy").then_some(63),
                    probes_after_flush: (mode == "lazy").then_some(20),
                    seconds: 0.5,
                })
                .to_vec(),
        }
    }

    #[test]
    fn a_report_survives_json() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<QemuReport>(&json).unwrap(), report());
    }

    #[test]
    fn the_table_names_each_workload_once_and_says_what_was_left_out() {
        let text = report().to_string();
        assert_eq!(text.matches("dd-seq").count(), 1, "{text}");
        assert!(
            text.contains("63 / 64") && text.contains("0 / 20"),
            "{text}"
        );
        assert!(text.contains("first 8 MiB"), "{text}");
        let whole = QemuReport {
            results: vec![],
            interrupted: true,
            ..report()
        };
        let text = whole.to_string();
        assert!(
            !text.contains("first 8 MiB") && text.contains("interrupted"),
            "{text}"
        );
    }
}
