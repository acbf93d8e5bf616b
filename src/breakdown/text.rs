//! The table of a breakdown.

use std::fmt::{self, Display};

use super::{Breakdown, Row};

impl Display for Breakdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "breakdown of one map and its unmap, ns of CPU, measured; {} in flight{}\n",
            self.batch,
            if self.lists { ", lists of pages" } else { "" }
        )?;
        writeln!(
            f,
            "{:12}{:>6}{:>8} ={:>8}{:>9}{:>8}{:>8}{:>14}{:>9}  of other:{:>8}{:>7}",
            "mode",
            "size",
            "whole",
            "alloc",
            "+ table",
            "+ find",
            "+ free",
            "+ invalidate",
            "+ other",
            "section",
            "rest"
        )?;
        for row in &self.rows {
            line(f, row)?;
        }
        writeln!(f)?;
        let worst = self.rows.iter().map(|r| r.unexplained).fold(0.0, f64::max);
        writeln!(
            f,
            "other = section (entering the caller's slot twice, measured) + rest (the layer's own \
             work, and the error\n  of the method: whole less everything measured, at most \
             {:.0} % of the whole here)",
            worst * 100.0
        )?;
        writeln!(
            f,
            "find: a mapping's token knows its address and size; looking it up in the tables \
             would cost"
        )?;
        let of_strict = |r: &&Row| r.mode != "passthrough";
        for row in self.rows.iter().filter(of_strict) {
            writeln!(
                f,
                "  {:10}{:>8}{:>9.1} ns   and the hardware takes {:>7.1} ns (modelled, {})",
                row.mode,
                size(row.bytes),
                row.lookup_would_cost_ns,
                row.modelled_hardware_ns,
                self.profile
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    writeln!(
        f,
        "{:12}{:>6}{:>8.1}  {:>8.1}{:>9.1}{:>8.1}{:>8.1}{:>14.1}{:>9.1}  {:>17.1}{:>7.1}",
        row.mode,
        size(row.bytes),
        row.whole_ns,
        row.alloc_ns,
        row.page_table_ns,
        row.find_ns,
        row.free_ns,
        row.invalidate_ns,
        row.other_ns,
        row.section_ns,
        row.rest_ns
    )
}

fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{}M", bytes >> 20)
    } else {
        format!("{}K", bytes >> 10)
    }
}
