//! The page: verdict, plots, figures, and how each figure was obtained.
//!
//! It is one file that loads nothing. Every string that comes from outside (file names, the
//! command line, processor names) goes through [`escape`].

mod figures;
mod method;
mod plots;
mod sweep;

use std::fmt::Write as _;

use super::units::{bytes, count, plural, utc};
use super::verdict::{summary, verdicts};
use super::{Report, ReportError, Source, Workload};
use plots::Figure;
pub use sweep::sweep_page;

/// Makes text safe inside an element and inside a quoted attribute. Characters that a page may
/// not hold become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' => safe.push(letter),
            letter if letter.is_control() => safe.push('\u{FFFD}'),
            letter => safe.push(letter),
        }
    }
    safe
}

/// The whole page.
pub(super) fn page(report: &Report) -> Result<String, ReportError> {
    let mut page = String::new();
    page.push_str(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>dmabench: strict against lazy unmapping</title>\n<style>\n",
    );
    page.push_str(include_str!("style.css"));
    page.push_str("</style>\n</head>\n<body>\n");
    head(&mut page, report);
    verdict_list(&mut page, report);
    page.push_str("<section id=\"plots\">\n<h2>All workloads</h2>\n");
    put_figures(&mut page, &plots::overview(report)?);
    page.push_str("</section>\n");
    for (index, workload) in report.workloads.iter().enumerate() {
        one_workload(&mut page, report, index, workload)?;
    }
    method::write(&mut page, report);
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

/// Appends formatted text; writing to a string cannot fail.
macro_rules! put {
    ($page:expr, $($format:tt)*) => {
        { let _ = write!($page, $($format)*); }
    };
}
use put;

fn head(page: &mut String, report: &Report) {
    put!(
        page,
        "<header>\n<h1>Strict against lazy unmapping</h1>\n\
         <p>What it costs to take every I/O buffer away from a device before it is given back \
         (strict), and what a device can still reach when that is put off (lazy).</p>\n\
         <p class=\"small\">dmabench {} on {}, {}. Figures are of three kinds: \
         <b>measured</b> on this machine, <b>counted</b> (the same everywhere), and \
         <b>modelled</b> (hardware time by the profile {}).</p>\n</header>\n",
        escape(&report.version),
        escape(&report.machine.cpu_model),
        utc(report.started_unix_s),
        escape(&report.profile.name),
    );
}

fn verdict_list(page: &mut String, report: &Report) {
    page.push_str("<section id=\"verdict\">\n<h2>Verdict</h2>\n");
    if let Some(summary) = summary(report) {
        put!(page, "<p>{}</p>\n", escape(&summary));
    }
    page.push_str("<ol>\n");
    for (index, verdict) in verdicts(report).iter().enumerate() {
        put!(
            page,
            "<li{}><a href=\"#w{index}\">{}</a>: {}",
            if verdict.defect {
                " class=\"defect\""
            } else {
                ""
            },
            escape(&verdict.workload),
            escape(&verdict.headline)
        );
        if !verdict.details.is_empty() {
            put!(
                page,
                " <span class=\"small\">{}</span>",
                escape(&verdict.details)
            );
        }
        page.push_str("</li>\n");
    }
    page.push_str("</ol>\n");
    for note in &report.notes {
        put!(page, "<p class=\"note\">{}</p>\n", escape(note));
    }
    page.push_str("</section>\n");
}

fn put_figures(page: &mut String, figures: &[Figure]) {
    page.push_str("<div class=\"plots\">\n");
    for figure in figures {
        put!(
            page,
            "<figure id=\"{}\">\n<figcaption>{}",
            figure.id,
            escape(&figure.caption)
        );
        for (ink, name) in &figure.keys {
            put!(
                page,
                " <span class=\"key\"><i class=\"{}\"></i>{}</span>",
                ink.class(),
                escape(name)
            );
        }
        put!(page, "</figcaption>\n{}</figure>\n", figure.svg.0);
    }
    page.push_str("</div>\n");
}

fn one_workload(
    page: &mut String,
    report: &Report,
    index: usize,
    workload: &Workload,
) -> Result<(), ReportError> {
    put!(
        page,
        "<section id=\"w{index}\" class=\"workload\">\n<h2>{}. {}</h2>\n<p>{}</p>\n\
         <p class=\"small\">{}, {}; {} to the device, {} from it; at most {} mapped at \
         once; {}.</p>\n",
        index + 1,
        escape(&workload.name),
        escape(&workload.description),
        plural(workload.requests, "request"),
        bytes(workload.bytes),
        count(workload.to_device),
        count(workload.from_device),
        count(workload.live_max),
        sizes(workload),
    );
    put!(page, "<p class=\"small\">{}</p>\n", source(workload));
    let results: Vec<_> = report.results_of(&workload.name).collect();
    for note in results.iter().flat_map(|result| &result.notes) {
        put!(page, "<p class=\"note\">{}</p>\n", escape(note));
    }
    // A wide table leaves no room for plots beside it.
    let beside = results.len() <= MODES_BESIDE;
    put!(
        page,
        "<div{}>\n",
        if beside { " class=\"beside\"" } else { "" }
    );
    figures::write(page, &results);
    put_figures(page, &plots::of_workload(index, &results)?);
    page.push_str("</div>\n</section>\n");
    Ok(())
}

/// Columns of figures up to which the plots stand beside them.
const MODES_BESIDE: usize = 4;

/// The commonest request sizes in words.
fn sizes(workload: &Workload) -> String {
    const SHOWN: usize = 6;
    let mut sizes = workload.sizes.clone();
    sizes.sort_by_key(|size| std::cmp::Reverse((size.requests, size.bytes)));
    let mut text = sizes
        .iter()
        .take(SHOWN)
        .map(|size| format!("{} x {}", count(size.requests), bytes(size.bytes)))
        .collect::<Vec<_>>()
        .join(", ");
    if sizes.len() > SHOWN {
        put!(text, " and {} further sizes", sizes.len() - SHOWN);
    }
    text
}

/// Where the workload comes from and what reading it met.
fn source(workload: &Workload) -> String {
    let mut text = match &workload.source {
        Source::Trace {
            path,
            format,
            provenance,
        } => format!(
            "Trace <code>{}</code> ({}). {}.",
            escape(path),
            escape(format),
            escape(provenance.trim_end_matches('.'))
        ),
        Source::Generated { generator } => format!("Generated: {}.", escape(generator)),
    };
    let Some(parse) = &workload.parse else {
        return text;
    };
    put!(
        text,
        " {}, {} of them events used; {}, {}.",
        plural(parse.lines, "line"),
        count(parse.events),
        plural(parse.devices.len() as u64, "device"),
        plural(parse.cpus, "processor")
    );
    for (number, what) in [
        (parse.damaged_lines, "damaged lines skipped"),
        (parse.lost_events, "events lost by the kernel"),
        (
            parse.truncated_lists,
            "scatter lists cut short by the kernel",
        ),
        (
            parse.unmatched_unmaps,
            "unmaps of something mapped before the trace began",
        ),
        (parse.left_mapped, "mappings the trace never unmaps"),
    ] {
        if number > 0 {
            put!(text, " <b>{} {what}.</b>", count(number));
        }
    }
    for example in &parse.damaged_examples {
        put!(text, " <code>{}</code>", escape(example));
    }
    text
}

#[cfg(test)]
mod tests;
