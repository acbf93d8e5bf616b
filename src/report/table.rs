//! The table a run prints: at most 100 columns, the kind of every figure in its heading.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, LineStyle, Table, TableStyle, Width};

use super::units::{count, number, plural, time};
use super::verdict::{wait_ns, whole_ns};
use super::{Report, RunResult};

/// Width of the column of workload names.
const NAME_WIDTH: usize = 10;

/// Notes on single results that are printed; the page has all.
const NOTES_SHOWN: usize = 4;

/// Stands where a figure does not exist.
const NONE: &str = "-";

/// The results as text, one block per workload and one line in it per mode, followed by what the
/// three kinds of figure mean. Ends with a line break.
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(
        TableStyle::new()
            .header_separator(LineStyle::none().fill('─').junction('─'))
            .row_separator(LineStyle::none().fill('─').junction('─')),
    );
    let columns: [(&str, u16); 13] = [
        ("\nworkload", NAME_WIDTH as u16),
        ("\nmode", 16),
        ("│\n│\n│", 1),
        ("measured\nCPU\nns/req", 8),
        ("measured\nunmap\np99 ns", 8),
        ("│\n│\n│", 1),
        ("counted\ncommands\n/request", 8),
        ("counted\nstale\naccesses", 8),
        ("counted\nstale up\nto", 8),
        ("│\n│\n│", 1),
        ("modelled\nhardware\nns/req", 8),
        ("\n\nMB/s", 6),
        ("both:\ntimes\nlazy", 5),
    ];
    table.set_header(
        columns
            .iter()
            .map(|&(heading, _)| Cell::new(heading).set_alignment(CellAlignment::Left)),
    );
    for workload in &report.workloads {
        let results: Vec<_> = report.results_of(&workload.name).collect();
        if results.is_empty() {
            continue;
        }
        let name = wrap(&printable(&workload.name), NAME_WIDTH);
        let rule = vec!["│"; results.len().max(name.lines().count())].join("\n");
        let lazy = report.result(&workload.name, "lazy");
        let column = |cell: &dyn Fn(&RunResult) -> String| {
            Cell::new(
                results
                    .iter()
                    .map(|r| cell(r))
                    .collect::<Vec<_>>()
                    .join("\n"),
            )
        };
        table.add_row(vec![
            Cell::new(&name),
            column(&|r| r.mode.clone()),
            Cell::new(&rule),
            column(&|r| short(r.cpu_ns_per_request)),
            column(&|r| short(r.unmap_ns.p99)),
            Cell::new(&rule),
            column(&|r| number(commands_per_request(r))),
            column(&|r| r.stale_device_accesses.map_or(NONE.to_owned(), short_count)),
            column(&|r| {
                r.stale_window_max_ns
                    .map_or(NONE.to_owned(), |ns| time(ns as f64))
            }),
            Cell::new(&rule),
            column(&|r| short(wait_ns(r))),
            column(&|r| r.modelled_mb_per_s.map_or(NONE.to_owned(), number)),
            column(&|r| lazy.map_or(NONE.to_owned(), |lazy| number(whole_ns(r) / whole_ns(lazy)))),
        ]);
    }
    for (index, &(_, width)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            // The junction of the rules is the blank between columns.
            column.set_padding((0, 0));
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
            if matches!(width, 5 | 6 | 8) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let mut text = table.trim_fmt();
    text.push_str("\n\n");
    text.push_str(&legend(report));
    if let Some(summary) = super::summary(report) {
        text.push('\n');
        for line in fold(&summary, 100) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    // Names come from files, and a terminal obeys what it is sent.
    text.split('\n')
        .map(printable)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A number in at most 8 letters: from a million on in millions, `12.2M`.
fn short(value: f64) -> String {
    if value.abs() < 999_999.5 {
        number(value)
    } else {
        format!("{}M", number(value / 1e6))
    }
}

/// Invalidations, flushes and syncs of one request on average.
pub(super) fn commands_per_request(result: &RunResult) -> f64 {
    (result.tlb_invalidate_commands + result.tlb_flush_all_commands + result.sync_commands)
        / result.requests as f64
}

fn legend(report: &Report) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let lines = [
        format!(
            "measured: CPU time of this code on {}, without any hardware time; other machines \
             differ",
            machine.cpu_model
        ),
        "counted: the same on every machine; \"stale\" is a device reaching memory after its \
         unmap returned, probed on a virtual clock with the service times of a stated device"
            .to_owned(),
        format!(
            "modelled: time the CPU waits for the hardware to do the counted commands, by the \
             profile {}; not part of CPU ns/req. MB/s: what {} would move with both",
            report.profile.name, report.service_device.name
        ),
        "both: measured CPU and modelled hardware time together, as a multiple of lazy mode"
            .to_owned(),
    ];
    let notes = report.notes.iter().map(|note| format!("note: {note}"));
    let of_results: Vec<_> = report
        .results
        .iter()
        .flat_map(|result| {
            let name = format!("note: {}, {}", result.workload, result.mode);
            result
                .notes
                .iter()
                .map(move |note| format!("{name}: {note}"))
        })
        .collect();
    let more = of_results.len().saturating_sub(NOTES_SHOWN);
    let more = (more > 0).then(|| {
        format!(
            "note: {} on single results are on the page",
            plural(more as u64, "more note")
        )
    });
    let of_results = of_results.into_iter().take(NOTES_SHOWN).chain(more);
    for line in lines.into_iter().chain(notes).chain(of_results) {
        for (index, part) in fold(&line, 98).into_iter().enumerate() {
            text.push_str(if index == 0 { "" } else { "  " });
            text.push_str(&part);
            text.push('\n');
        }
    }
    text
}

/// Control characters, which a file name may hold, are shown as `?`.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

/// Breaks a printable name into lines of at most `width`, after a separator where there is one.
fn wrap(name: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    let mut piece = String::new();
    let mut place = |piece: &mut String| {
        let line = lines.last_mut().expect("there is always a line");
        if line.chars().count() + piece.chars().count() > width && !line.is_empty() {
            lines.push(std::mem::take(piece));
        } else {
            line.push_str(piece);
            piece.clear();
        }
    };
    for letter in name.chars() {
        piece.push(letter);
        if matches!(letter, '-' | '_' | '/' | '.' | ' ') || piece.chars().count() == width {
            place(&mut piece);
        }
    }
    place(&mut piece);
    lines.join("\n")
}

/// Breaks a sentence at blanks into lines of at most `width`.
pub(super) fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// A count that fits into its column: a digit on a line of its own would be read
/// as the next row's.
fn short_count(value: u64) -> String {
    match value {
        0..1_000_000 => count(value),
        1_000_000..1_000_000_000 => format!("{:.2} M", value as f64 / 1e6),
        _ => format!("{:.2} G", value as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_table_of_the_made_up_report() {
        insta::assert_snapshot!(table(&sample::report()));
    }

    #[test]
    fn no_line_is_longer_than_100_columns() {
        let mut report = sample::report();
        report.machine.cpu_model = "A processor with a name that does not end ".repeat(5);
        for result in &mut report.results {
            result.cpu_ns_per_request = 123_456_789.0;
            result.unmap_ns.p99 = 1e12;
            result.modelled_ns_per_request = 9_876_543.0;
            result.stale_device_accesses = Some(12_345_678);
            result.stale_window_max_ns = Some(9_999_000);
            result.sync_commands = 1e9;
        }
        assert!(table(&report).contains(" 12.35 M "), "not cut in two");
        for line in table(&report).lines() {
            assert!(
                line.chars().count() <= 100,
                "{}: {line}",
                line.chars().count()
            );
        }
    }

    #[test]
    fn long_times_stay_in_their_column() {
        assert_eq!(short(999_999.0), "999,999");
        assert_eq!(short(12_211_150.0), "12.2M");
    }

    #[test]
    fn names_break_at_separators_and_hide_control_characters() {
        assert_eq!(wrap("short", 18), "short");
        assert_eq!(
            wrap("sd-strict-seqread_4k_buffered", 18),
            "sd-strict-seqread_\n4k_buffered"
        );
        assert_eq!(printable("a\u{1b}[31m"), "a?[31m");
        assert_eq!(
            wrap(&"x".repeat(40), 18),
            format!("{0}\n{0}\nxxxx", "x".repeat(18))
        );
        assert_eq!(wrap("", 18), "");
    }

    #[test]
    fn nothing_from_a_file_steers_the_terminal() {
        let mut report = sample::report();
        report.machine.cpu_model.push_str("\u{1b}[2J");
        report.profile.name.push('\u{7}');
        for result in &mut report.results {
            result.mode.push('\u{9b}');
            result.notes.push("\r".to_owned());
        }
        let text = table(&report);
        assert!(text.contains("?[2J"), "{text}");
        assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'));
    }

    #[test]
    fn many_notes_on_results_are_counted_and_not_all_printed() {
        let mut report = sample::report();
        for result in &mut report.results {
            result.notes.push("few requests".to_owned());
        }
        let text = table(&report);
        assert_eq!(text.matches("few requests").count(), 4);
        assert!(text.contains("2 more notes on single results"), "{text}");
    }

    #[test]
    fn a_report_without_results_prints_headings_only() {
        let mut report = sample::report();
        report.results.clear();
        assert!(table(&report).contains("measured"));
    }
}
