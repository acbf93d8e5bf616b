//! A comparison as a table for the terminal.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, LineStyle, Table, TableStyle, Width};

use super::{Change, Comparison};
use crate::report::Kind;
use crate::report::table::{fold, printable};
use crate::report::units::{count, number, plural, signed_percent};

/// Changes that are printed; the file has all.
const SHOWN: usize = 40;

/// The comparison in at most 100 columns. Ends with a line break.
pub fn text(comparison: &Comparison) -> String {
    let mut text = format!("{} against {}\n", comparison.new.path, comparison.base.path);
    for reason in &comparison.not_comparable {
        let _ = writeln!(
            text,
            "not compared, {}: {}",
            kind(reason.kind),
            reason.reason
        );
    }
    for (in_base, which) in [(true, "base"), (false, "new run")] {
        let only: Vec<_> = (comparison.only_in_one.iter())
            .filter(|one| one.in_base == in_base)
            .map(|one| format!("{} in {}", one.workload, one.mode))
            .collect();
        if !only.is_empty() {
            let _ = writeln!(text, "only in the {which}: {}", only.join(", "));
        }
    }
    if !comparison.changes.is_empty() {
        text.push('\n');
        text.push_str(&table(&comparison.changes));
        text.push('\n');
    }
    let hidden = comparison.changes.len().saturating_sub(SHOWN);
    if hidden > 0 {
        let _ = writeln!(text, "{} in the file", plural(hidden as u64, "more change"));
    }
    let regressions = comparison.regressions().count();
    let _ = writeln!(
        text,
        "\n{}, {} of {} figures compared.",
        plural(regressions as u64, "regression"),
        plural(
            (comparison.changes.len() - regressions) as u64,
            "improvement"
        ),
        count(comparison.compared)
    );
    (text.split('\n'))
        .map(|line| {
            if line.contains('─') || line.chars().count() <= 100 {
                printable(line)
            } else {
                fold(&printable(line), 100).join("\n  ")
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn table(changes: &[Change]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(["", "workload", "mode", "figure", "base", "new", "change"]);
    for change in changes.iter().take(SHOWN) {
        table.add_row(vec![
            Cell::new(if change.regression { "WORSE" } else { "better" }),
            Cell::new(printable(&change.workload)),
            Cell::new(printable(&change.mode)),
            Cell::new(format!("{} ({})", change.field, kind(change.kind))),
            Cell::new(number(change.base)),
            Cell::new(number(change.new)),
            Cell::new(if change.base == 0.0 {
                "from 0".to_owned()
            } else {
                signed_percent(change.over())
            }),
        ]);
    }
    for (index, width) in [7, 18, 17, 22, 11, 11, 8].into_iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 1));
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
            if index >= 4 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.trim_fmt()
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Measured => "measured",
        Kind::Counted => "counted",
        Kind::Modelled => "modelled",
        Kind::Given => "given",
    }
}
