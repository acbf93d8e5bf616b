//! Which figures are plotted against which, and what stands above each plot.

use crate::report::plot::{Bar, Bars, Ink, Line, Lines, Point, Points, Svg, bars, lines, points};
use crate::report::units::number;
use crate::report::verdict::whole_ns;
use crate::report::{CurvePoint, Report, ReportError, RunResult};

/// A plot with its caption.
#[derive(Debug)]
pub(super) struct Figure {
    /// Identifies it in the page.
    pub(super) id: String,
    /// What it shows, and of which kind its figures are.
    pub(super) caption: String,
    /// Names of its colours, where the plot itself does not say them.
    pub(super) keys: Vec<(Ink, String)>,
    /// The drawing.
    pub(super) svg: Svg,
}

const COST_AXIS: &str = "CPU (measured) + hardware (modelled), ns/request";

/// The plots over all workloads.
pub(super) fn overview(report: &Report) -> Result<Vec<Figure>, ReportError> {
    let mut figures = vec![
        Figure {
            id: "plot-cpu".to_owned(),
            caption: "CPU time of this code per request (map and unmap), without hardware time. \
                      Measured."
                .to_owned(),
            keys: vec![],
            svg: bars(&Bars {
                label: "CPU time per request by workload and mode",
                axis: "ns of CPU per request, measured",
                bars: rows(report, |r| {
                    vec![(r.cpu_ns_per_request, Ink::of_mode(&r.mode))]
                }),
            })?,
        },
        Figure {
            id: "plot-hardware".to_owned(),
            caption: format!(
                "Hardware time per request for the commands below, on top of the CPU time. \
                 Modelled, {}.",
                report.profile.name
            ),
            keys: vec![],
            svg: bars(&Bars {
                label: "Modelled hardware time per request by workload and mode",
                axis: "ns of hardware per request, modelled",
                bars: rows(report, |r| {
                    vec![(r.modelled_ns_per_request, Ink::of_mode(&r.mode))]
                }),
            })?,
        },
        Figure {
            id: "plot-commands".to_owned(),
            caption: "SMMU commands per request. Counted.".to_owned(),
            keys: vec![
                (Ink::Strict, "range invalidations".to_owned()),
                (Ink::Lazy, "full flushes".to_owned()),
                (Ink::Other, "syncs".to_owned()),
            ],
            svg: bars(&Bars {
                label: "Commands per request by workload and mode",
                axis: "commands per request, counted",
                bars: rows(report, |r| {
                    let requests = r.requests as f64;
                    vec![
                        (r.tlb_invalidate_commands / requests, Ink::Strict),
                        (r.tlb_flush_all_commands / requests, Ink::Lazy),
                        (r.sync_commands / requests, Ink::Other),
                    ]
                }),
            })?,
        },
    ];
    let keys = mode_keys(&report.results.iter().collect::<Vec<_>>());
    let keys: Vec<_> = keys
        .into_iter()
        .filter(|key| key.0 != Ink::Passthrough)
        .collect();
    let by_workload = |exposure: fn(&RunResult) -> Option<f64>| -> Vec<Vec<Point>> {
        report
            .workloads
            .iter()
            .map(|workload| {
                let results: Vec<_> = report.results_of(&workload.name).collect();
                exposed(&results, exposure, false)
            })
            .collect()
    };
    figures.push(Figure {
        id: "plot-window".to_owned(),
        caption: "Exposure against cost: how long a device could still reach memory that was \
                  given back. A line joins the modes of one workload; passthrough has no point, \
                  its device reaches everything always. Counted, over measured and modelled."
            .to_owned(),
        keys: keys.clone(),
        svg: points(&Points {
            label: "Longest stale window against cost, a point per workload and mode",
            x_axis: COST_AXIS,
            y_axis: "longest stale window, ms",
            groups: by_workload(window_ms),
        })?,
    });
    figures.push(Figure {
        id: "plot-accesses".to_owned(),
        caption: "Exposure against cost: how many accesses got through after the unmap, per \
                  request. Counted, over measured and modelled."
            .to_owned(),
        keys,
        svg: points(&Points {
            label: "Stale accesses per request against cost, a point per workload and mode",
            x_axis: COST_AXIS,
            y_axis: "stale accesses per request",
            groups: by_workload(stale_per_request),
        })?,
    });
    Ok(figures)
}

fn window_ms(result: &RunResult) -> Option<f64> {
    result.stale_window_max_ns.map(|ns| ns as f64 / 1e6)
}

fn stale_per_request(result: &RunResult) -> Option<f64> {
    let requests = result.exposure.as_ref()?.requests;
    Some(result.stale_device_accesses? as f64 / requests as f64)
}

/// The plots of one workload, the `index`th.
pub(super) fn of_workload(
    index: usize,
    results: &[&RunResult],
) -> Result<Vec<Figure>, ReportError> {
    let mut figures = Vec::new();
    let exposure = exposed(results, window_ms, true);
    if !exposure.is_empty() {
        figures.push(Figure {
            id: format!("plot-{index}-exposure"),
            caption: "Exposure against cost, a point per mode. Counted, over measured and \
                      modelled."
                .to_owned(),
            keys: vec![],
            svg: points(&Points {
                label: "Longest stale window against cost, a point per mode",
                x_axis: COST_AXIS,
                y_axis: "longest stale window, ms",
                groups: vec![exposure],
            })?,
        });
    }
    for (name, curve) in [
        (
            "map",
            (|r| &r.map_curve) as fn(&RunResult) -> &Vec<CurvePoint>,
        ),
        ("unmap", |r| &r.unmap_curve),
    ] {
        figures.push(Figure {
            id: format!("plot-{index}-{name}"),
            caption: format!("Time of one {name} call by percentile. Measured."),
            keys: mode_keys(results),
            svg: lines(&Lines {
                label: &format!("Latency percentiles of {name}, a line per mode"),
                x_axis: "part of the calls that took at most so long",
                y_axis: &format!("ns per {name} call"),
                y_log: true,
                x_ticks: [
                    (0.5, "50 %"),
                    (0.9, "90 %"),
                    (0.99, "99 %"),
                    (0.999, "99.9 %"),
                    (0.9999, "99.99 %"),
                ]
                .map(|(quantile, name)| (nines(quantile), name.to_owned()))
                .to_vec(),
                lines: results
                    .iter()
                    .map(|result| Line {
                        ink: Ink::of_mode(&result.mode),
                        points: curve(result)
                            .iter()
                            .filter(|point| point.quantile <= 0.9999)
                            .map(|point| (nines(point.quantile), point.ns))
                            .collect(),
                    })
                    .collect(),
            })?,
        });
    }
    let timelines: Vec<_> = results
        .iter()
        .filter_map(|result| timeline(result))
        .collect();
    if !timelines.is_empty() {
        figures.push(Figure {
            id: format!("plot-{index}-pages"),
            caption: "I/O pages in use, mapped or waiting for their flush, in the exposure run. \
                      Counted on the virtual clock."
                .to_owned(),
            keys: mode_keys(results)
                .into_iter()
                .filter(|key| timelines.iter().any(|line| line.ink == key.0))
                .collect(),
            svg: lines(&Lines {
                label: "I/O pages held over virtual time, a line per mode",
                x_axis: "virtual time, ms",
                y_axis: "I/O pages held",
                y_log: false,
                x_ticks: vec![],
                lines: timelines,
            })?,
        });
    }
    Ok(figures)
}

/// One bar per workload and mode, with the sum of its parts as its figure.
fn rows(report: &Report, parts: impl Fn(&RunResult) -> Vec<(f64, Ink)>) -> Vec<Bar> {
    let mut rows = Vec::new();
    for (index, workload) in report.workloads.iter().enumerate() {
        for (place, result) in report.results_of(&workload.name).enumerate() {
            let parts = parts(result);
            rows.push(Bar {
                heading: (place == 0).then(|| format!("{}. {}", index + 1, workload.name)),
                label: result.mode.clone(),
                figure: number(parts.iter().map(|part| part.0).sum()),
                parts,
            });
        }
    }
    rows
}

/// One point per mode that has the figure.
fn exposed(
    results: &[&RunResult],
    exposure: fn(&RunResult) -> Option<f64>,
    named: bool,
) -> Vec<Point> {
    results
        .iter()
        .filter_map(|result| {
            Some(Point {
                ink: Ink::of_mode(&result.mode),
                name: if named {
                    result.mode.clone()
                } else {
                    String::new()
                },
                at: (whole_ns(result), exposure(result)?),
            })
        })
        .collect()
}

/// The modes that occur, each with its ink.
fn mode_keys(results: &[&RunResult]) -> Vec<(Ink, String)> {
    let mut keys: Vec<(Ink, String)> = Vec::new();
    for result in results {
        if !keys.iter().any(|key| key.1 == result.mode) {
            keys.push((Ink::of_mode(&result.mode), result.mode.clone()));
        }
    }
    keys
}

/// Where a quantile lies on an axis on which 90 %, 99 % and 99.9 % are equally far apart.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// Pages held as a staircase: a count holds until the next one.
fn timeline(result: &RunResult) -> Option<Line> {
    let exposure = result.exposure.as_ref()?;
    let mut points = Vec::new();
    let mut last = None;
    for point in &exposure.timeline {
        let (at, pages) = (
            point.at_ns as f64 / 1e6,
            (point.mapped_pages + point.waiting_pages) as f64,
        );
        points.extend(last.map(|last| (at, last)));
        points.push((at, pages));
        last = Some(pages);
    }
    (!points.is_empty()).then(|| Line {
        ink: Ink::of_mode(&result.mode),
        points,
    })
}
