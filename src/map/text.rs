//! What `map` prints: for each mode the three lines of Linux's tool, then what
//! that leaves out.

use std::fmt::{self, Display};

use super::{Call, MapReport, MapRun};

/// Linux's word for a direction of the command line.
pub(super) fn direction(number: i64) -> &'static str {
    match number {
        1 => "TO_DEVICE",
        2 => "FROM_DEVICE",
        _ => "BIDIRECTIONAL",
    }
}

/// Linux's word for a kind of mapping.
pub(super) fn map_mode(number: i64) -> &'static str {
    if number == 1 {
        "SG_MODE"
    } else {
        "SINGLE_MODE"
    }
}

impl Display for MapReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in &self.runs {
            self.as_linux(f, run)?;
            self.more(f, run)?;
        }
        if let Some(file) = &self.hdr_log {
            writeln!(f, "interval log: {}", file.display())?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

impl MapReport {
    /// Field by field as `tools/dma/dma_map_benchmark` writes them, for those
    /// who parse it. A mix has no page count: 0 stands there.
    fn as_linux(&self, f: &mut fmt::Formatter<'_>, run: &MapRun) -> fmt::Result {
        let options = &self.options;
        writeln!(
            f,
            "dma mapping benchmark({}): threads:{} seconds:{} node:{} dir:{} granule:{}",
            options.map_mode,
            options.threads,
            options.seconds,
            options.node,
            options.direction,
            options.pages.unwrap_or(0)
        )?;
        for (name, call) in [("map", &run.map_ns), ("unmap", &run.unmap_ns)] {
            writeln!(
                f,
                "average {name} latency(us):{:.1} standard deviation:{:.1}",
                call.latency.mean / 1e3,
                call.stdev / 1e3
            )?;
        }
        Ok(())
    }

    fn more(&self, f: &mut fmt::Formatter<'_>, run: &MapRun) -> fmt::Result {
        let options = &self.options;
        let (streams, stream) = match options.pairs {
            None => (options.threads, "thread"),
            Some(pairs) => (u64::from(pairs), "pair"),
        };
        write!(f, "mode {}, depth {}", run.mode, options.depth)?;
        if !options.sizes.is_empty() {
            write!(f, ", sizes {}", options.sizes.join(","))?;
        }
        writeln!(f, "; nanoseconds, measured:")?;
        writeln!(
            f,
            "{:8}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
            "", "calls", "mean", "stdev", "p50", "p90", "p99", "p99.9", "max"
        )?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, call: &Call| {
            let ns = &call.latency;
            writeln!(
                f,
                "{name:8}{:>12}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>12.1}",
                call.calls, ns.mean, call.stdev, ns.p50, ns.p90, ns.p99, ns.p999, ns.max
            )
        };
        line(f, "map", &run.map_ns)?;
        line(f, "unmap", &run.unmap_ns)?;
        writeln!(
            f,
            "{} requests in {:.2} s: {:.0} per second",
            run.requests, run.seconds, run.requests_per_second
        )?;
        if streams > 1 {
            writeln!(
                f,
                "fairness: a {stream} has {:.2} % to {:.2} % of the rate ({:.2} % if even), \
                 Jain's index {:.4}",
                run.share_min * 100.0,
                run.share_max * 100.0,
                100.0 / streams as f64,
                run.jain
            )?;
            for (number, one) in run.streams.iter().enumerate().take(STREAMS_SHOWN) {
                writeln!(
                    f,
                    "  {stream} {number}: {} requests, CPU {:.2} s; map mean {:.1} max {:.1}, \
                     unmap mean {:.1} max {:.1} ns",
                    one.requests,
                    one.cpu_seconds,
                    one.map_ns.latency.mean,
                    one.map_ns.latency.max,
                    one.unmap_ns.latency.mean,
                    one.unmap_ns.latency.max
                )?;
            }
            if run.streams.len() > STREAMS_SHOWN {
                let more = run.streams.len() - STREAMS_SHOWN;
                writeln!(f, "  {more} more: see --json")?;
            }
        }
        writeln!(
            f,
            "commands per request, counted: {:.4} invalidations, {:.4} syncs\n",
            run.invalidations_per_request, run.syncs_per_request
        )
    }
}

/// Lines of single threads or pairs that are printed.
const STREAMS_SHOWN: usize = 16;
