//! The page of a sweep: plots and tables of its points.

use std::fmt::Write as _;

use super::plots::Figure;
use super::{escape, put, put_figures};
use crate::report::ReportError;
use crate::report::plot::{Ink, Line, Lines, lines};
use crate::report::units::{bytes, count, number, time};
use crate::sweep::{QueuePoint, SizePoint, SweepReport};

/// The colours of the timeouts, shortest first; more share the last.
const INKS: [Ink; 6] = [
    Ink::Strict,
    Ink::Lazy,
    Ink::Other,
    Ink::Passthrough,
    Ink::Bounce,
    Ink::Premapped,
];

/// The whole page.
///
/// # Errors
///
/// [`ReportError::Plot`].
pub fn sweep_page(sweep: &SweepReport) -> Result<String, ReportError> {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>dmabench: sweep</title>\n<style>\n",
    );
    page.push_str(include_str!("style.css"));
    page.push_str("</style>\n</head>\n<body>\n");
    put!(
        page,
        "<header>\n<h1>Sweep</h1>\n\
         <p>What the size and the timeout of a flush queue buy in time, and what a device can \
         reach meanwhile; and what a request costs by its size.</p>\n\
         <p class=\"small\">dmabench {} on {}; seed {}, at least {} requests timed per point, \
         hardware profile {}, device {}.</p>\n</header>\n",
        escape(&sweep.setting.version),
        escape(&sweep.machine.cpu_model),
        sweep.setting.seed,
        count(sweep.setting.requests_min),
        escape(&sweep.setting.profile),
        escape(&sweep.setting.device),
    );
    for note in &sweep.notes {
        put!(page, "<p class=\"note\">{}</p>\n", escape(note));
    }
    for (index, (workload, _, _)) in sweep.setting.workloads.iter().enumerate() {
        let points: Vec<&QueuePoint> = (sweep.queue.iter())
            .filter(|point| point.workload == *workload)
            .collect();
        if points.is_empty() {
            continue;
        }
        put!(
            page,
            "<section id=\"q{index}\" class=\"workload\">\n<h2>Queue: {}</h2>\n",
            escape(workload)
        );
        put_figures(&mut page, &queue_figures(index, &points)?);
        queue_table(&mut page, &points);
        page.push_str("</section>\n");
    }
    if !sweep.sizes.is_empty() {
        put!(
            page,
            "<section id=\"sizes\" class=\"workload\">\n<h2>Sizes</h2>\n\
             <p>{} mappings in flight, completed in any order. Linux's caches of I/O addresses end \
             at 128 KiB; beyond, each of its allocations searches the shared tree.</p>\n",
            sweep.setting.depth
        );
        put_figures(&mut page, &size_figures(&sweep.sizes)?);
        size_table(&mut page, &sweep.sizes);
        page.push_str("</section>\n");
    }
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

/// A figure of a point.
type Value<P> = fn(&P) -> f64;

fn queue_figures(index: usize, points: &[&QueuePoint]) -> Result<Vec<Figure>, ReportError> {
    let mut modes: Vec<&str> = Vec::new();
    for point in points.iter().filter(|point| point.entries.is_some()) {
        if !modes.contains(&point.mode.as_str()) {
            modes.push(&point.mode);
        }
    }
    // On a logarithmic axis values are times.
    let plots: [(&str, &str, &str, bool, Value<QueuePoint>); 4] = [
        (
            "window",
            "Longest stale window by queue size, a line per timeout. Counted on the virtual clock.",
            "longest stale window",
            true,
            |point| point.stale_window_max_ns.unwrap_or(0) as f64,
        ),
        (
            "held",
            "I/O pages held, mapped or waiting for their flush. Counted.",
            "I/O pages held, most",
            false,
            |point| point.iova_pages_held_max as f64,
        ),
        (
            "cost",
            "CPU time of map and unmap (measured) and hardware time of the commands, those of the \
             timer included (modelled).",
            "time per request",
            true,
            |point| point.cpu_ns_per_request + point.modelled_ns_per_request,
        ),
        (
            "throughput",
            "Throughput of the device with both. Modelled.",
            "MB/s, modelled",
            false,
            |point| point.modelled_mb_per_s,
        ),
    ];
    let mut figures = Vec::new();
    for mode in modes {
        let of_mode: Vec<&QueuePoint> = points.iter().copied().filter(|p| p.mode == mode).collect();
        let mut timeouts: Vec<u64> = of_mode.iter().filter_map(|p| p.timeout_ms).collect();
        timeouts.sort_unstable();
        timeouts.dedup();
        let ink = |at: usize| INKS[at.min(INKS.len() - 1)];
        let axis = Axis::of(of_mode.iter().filter_map(|point| point.entries));
        for (name, caption, y_axis, y_log, value) in plots {
            let line = |(at, &timeout): (usize, &u64)| Line {
                ink: ink(at),
                points: (of_mode.iter())
                    .filter(|point| point.timeout_ms == Some(timeout))
                    .filter_map(|point| Some((axis.place(point.entries?), value(point))))
                    .collect(),
            };
            let keys = (timeouts.iter().enumerate()).map(|(at, ms)| (ink(at), format!("{ms} ms")));
            figures.push(Figure {
                id: format!("plot-{index}-{mode}-{name}"),
                caption: format!("{mode}: {caption}"),
                keys: keys.collect(),
                svg: lines(&Lines {
                    label: caption,
                    x_axis: "entries of the queue",
                    y_axis,
                    y_log,
                    x_ticks: axis.ticks(count),
                    lines: timeouts.iter().enumerate().map(line).collect(),
                })?,
            });
        }
    }
    Ok(figures)
}

fn size_figures(points: &[SizePoint]) -> Result<Vec<Figure>, ReportError> {
    let mut modes: Vec<&str> = Vec::new();
    for point in points {
        if !modes.contains(&point.mode.as_str()) {
            modes.push(&point.mode);
        }
    }
    let keys: Vec<(Ink, String)> = (modes.iter())
        .map(|mode| (Ink::of_mode(mode), (*mode).to_owned()))
        .collect();
    let plots: [(&str, &str, &str, bool, Value<SizePoint>); 3] = [
        (
            "cpu",
            "CPU time of map and unmap by request size. Measured.",
            "CPU time per request",
            true,
            |point| point.cpu_ns_per_request,
        ),
        (
            "searches",
            "Searches of the shared index of I/O addresses per request: those that no cache \
             served. Addresses below 4 GiB first. Counted. Linux: 0 up to 128 KiB, 1 beyond.",
            "index searches per request",
            false,
            |point| point.index_searches_per_request,
        ),
        (
            "wide",
            "The same where the whole 48-bit space is used at once. Counted.",
            "index searches per request",
            false,
            |point| point.index_searches_wide_per_request,
        ),
    ];
    let axis = Axis::of(points.iter().map(|point| point.bytes));
    let mut figures = Vec::new();
    for (name, caption, y_axis, y_log, value) in plots {
        figures.push(Figure {
            id: format!("plot-sizes-{name}"),
            caption: caption.to_owned(),
            keys: keys.clone(),
            svg: lines(&Lines {
                label: caption,
                x_axis: "bytes of a request",
                y_axis,
                y_log,
                x_ticks: axis.ticks(bytes),
                lines: (modes.iter())
                    .map(|&mode| Line {
                        ink: Ink::of_mode(mode),
                        points: (points.iter())
                            .filter(|point| point.mode == mode)
                            .map(|point| (axis.place(point.bytes), value(point)))
                            .collect(),
                    })
                    .collect(),
            })?,
        });
    }
    Ok(figures)
}

/// A horizontal axis of base-2 logarithms that begins at the least value.
struct Axis {
    low: u64,
    high: u64,
}

impl Axis {
    fn of(values: impl Iterator<Item = u64>) -> Self {
        let (low, high) = values.fold((u64::MAX, 1), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let low = low.clamp(1, high);
        Axis { low, high }
    }

    fn place(&self, value: u64) -> f64 {
        (value.max(1) as f64 / self.low as f64).log2()
    }

    /// Up to five powers of two and their names.
    fn ticks(&self, name: fn(u64) -> String) -> Vec<(f64, String)> {
        let (first, last) = (self.low.ilog2(), self.high.ilog2());
        let step = (last - first).div_ceil(4).max(1);
        (first..=last)
            .step_by(step as usize)
            .map(|lg2| 1 << lg2)
            .filter(|tick| *tick >= self.low)
            .map(|tick| (self.place(tick), name(tick)))
            .collect()
    }
}

const NONE: &str = "none";

fn queue_table(page: &mut String, points: &[&QueuePoint]) {
    page.push_str(
        "<div class=\"scroll\"><table>\n<thead><tr><th>mode</th><th>entries</th><th>timeout</th>\
         <th>CPU per request, measured</th><th>flushes of full rings per request</th>\
         <th>of the timer</th><th>longest stale window</th><th>stale at once</th>\
         <th>I/O pages held</th><th>tables</th><th>hardware per request, modelled</th>\
         <th>MB/s, modelled</th></tr></thead>\n<tbody>\n",
    );
    let or_none = |value: Option<String>| value.unwrap_or_else(|| NONE.to_owned());
    for point in points {
        let cells = [
            point.mode.clone(),
            or_none(point.entries.map(count)),
            or_none(point.timeout_ms.map(|ms| time(ms as f64 * 1e6))),
            time(point.cpu_ns_per_request),
            number(point.flushes_full_per_request),
            number(point.flushes_timer_per_request),
            or_none(point.stale_window_max_ns.map(|ns| time(ns as f64))),
            or_none(point.stale_bytes_max.map(bytes)),
            count(point.iova_pages_held_max),
            bytes(point.page_table_bytes),
            time(point.modelled_ns_per_request),
            number(point.modelled_mb_per_s),
        ];
        row(page, &cells);
    }
    page.push_str("</tbody></table></div>\n");
}

fn size_table(page: &mut String, points: &[SizePoint]) {
    page.push_str(
        "<div class=\"scroll\"><table>\n<thead><tr><th>mode</th><th>size</th><th>pages</th>\
         <th>CPU per request, measured</th><th>map, median</th><th>map, 99 %</th>\
         <th>unmap, median</th><th>unmap, 99 %</th><th>index searches per request, counted</th>\
         <th>in the 48-bit space</th>\
         <th>in Linux, by its source</th></tr></thead>\n<tbody>\n",
    );
    for point in points {
        let cells = [
            point.mode.clone(),
            bytes(point.bytes),
            count(point.pages),
            time(point.cpu_ns_per_request),
            time(point.map_p50_p99_ns.0),
            time(point.map_p50_p99_ns.1),
            time(point.unmap_p50_p99_ns.0),
            time(point.unmap_p50_p99_ns.1),
            number(point.index_searches_per_request),
            number(point.index_searches_wide_per_request),
            number(point.linux_index_searches_per_request),
        ];
        row(page, &cells);
    }
    page.push_str("</tbody></table></div>\n");
}

fn row(page: &mut String, cells: &[String]) {
    page.push_str("<tr>");
    for cell in cells {
        put!(page, "<td>{}</td>", escape(cell));
    }
    page.push_str("</tr>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_powers_of_two() {
        let names = |values: &[u64]| -> Vec<String> {
            let axis = Axis::of(values.iter().copied());
            let ticks = axis.ticks(count);
            assert!(ticks.iter().all(|(place, _)| *place >= 0.0));
            ticks.into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(
            names(&[16, 64, 4096]),
            ["16", "64", "256", "1,024", "4,096"]
        );
        assert_eq!(names(&[256]), ["256"]);
        assert_eq!(names(&[3, 9]), ["4", "8"]);
        assert!(names(&[1, 1 << 40]).len() <= 5);
        assert_eq!(names(&[]), ["1"]);
        assert_eq!(Axis::of([16, 64].into_iter()).place(64), 2.0);
    }
}
