//! The tables of a sweep.

use std::fmt::{self, Display};

use super::found::SweepReport;

impl Display for SweepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.queue.is_empty() {
            self.queue_table(f)?;
        }
        if !self.sizes.is_empty() {
            self.size_table(f)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

impl SweepReport {
    fn queue_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:13}{:>8}{:>8} |{:>9} |{:>9}{:>11}{:>11}{:>8}{:>9} |{:>9}{:>7}",
            "", "", "", "measured", "counted", "", "", "", "", "modelled", ""
        )?;
        writeln!(
            f,
            "{:13}{:>8}{:>8} |{:>9} |{:>9}{:>11}{:>11}{:>8}{:>9} |{:>9}{:>7}",
            "mode",
            "entries",
            "timeout",
            "CPU",
            "flushes",
            "stale up",
            "stale at",
            "pages",
            "tables",
            "hardware",
            "MB/s"
        )?;
        writeln!(
            f,
            "{:13}{:>8}{:>8} |{:>9} |{:>9}{:>11}{:>11}{:>8}{:>9} |{:>9}{:>7}",
            "", "", "ms", "ns/req", "/request", "to ms", "once KiB", "held", "KiB", "ns/req", ""
        )?;
        let mut workload = "";
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        for point in &self.queue {
            if point.workload != workload {
                workload = &point.workload;
                writeln!(f, "{workload}:")?;
            }
            writeln!(
                f,
                "{:13}{:>8}{:>8} |{:>9.1} |{:>9.4}{:>11}{:>11}{:>8}{:>9} |{:>9.1}{:>7.1}",
                point.mode,
                or_dash(point.entries.map(|n| n.to_string())),
                or_dash(point.timeout_ms.map(|n| n.to_string())),
                point.cpu_ns_per_request,
                point.flushes_full_per_request + point.flushes_timer_per_request,
                or_dash((point.stale_window_max_ns).map(|ns| format!("{:.3}", ns as f64 / 1e6))),
                or_dash(point.stale_bytes_max.map(|n| (n >> 10).to_string())),
                point.iova_pages_held_max,
                point.page_table_bytes >> 10,
                point.modelled_ns_per_request,
                point.modelled_mb_per_s
            )?;
        }
        writeln!(f)
    }

    fn size_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:13}{:>9}{:>7} |{:>9}{:>9}{:>9}{:>10}{:>10} | counted: index searches/req",
            "sizes", "", "", "measured", "map", "map", "unmap", "unmap"
        )?;
        writeln!(
            f,
            "{:13}{:>9}{:>7} |{:>9}{:>9}{:>9}{:>10}{:>10} |{:>11}{:>9}{:>9}",
            "mode",
            "KiB",
            "pages",
            "CPU ns",
            "p50 ns",
            "p99 ns",
            "p50 ns",
            "p99 ns",
            "low 32 bit",
            "48 bit",
            "Linux"
        )?;
        for point in &self.sizes {
            writeln!(
                f,
                "{:13}{:>9}{:>7} |{:>9.1}{:>9.1}{:>9.1}{:>10.1}{:>10.1} |{:>11.4}{:>9.4}{:>9}",
                point.mode,
                point.bytes / 1024,
                point.pages,
                point.cpu_ns_per_request,
                point.map_p50_p99_ns.0,
                point.map_p50_p99_ns.1,
                point.unmap_p50_p99_ns.0,
                point.unmap_p50_p99_ns.1,
                point.index_searches_per_request,
                point.index_searches_wide_per_request,
                point.linux_index_searches_per_request
            )?;
        }
        writeln!(
            f,
            "low 32 bit: addresses below 4 GiB first, as the runs do and Linux for PCI devices; \
             48 bit: the whole space;\n  Linux: by its source, whose caches end at 32 pages\n"
        )
    }
}
