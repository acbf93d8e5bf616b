//! Which figures are plotted against which, and what stands above each plot.

use crate::report::plot::{Bar, Bars, Ink, Line, Lines, Point, Points, Svg, bars, lines, points};
use crate::report::units::number;
use crate::report::verdict::{wait_ns, whole_ns};
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

const COST_AXIS: &str = "CPU + hardware per request";
const EXPOSURE_AXIS: &str = "longest stale window";

/// The plots over all workloads: a mark per mode.
pub(super) fn overview(report: &Report) -> Result<Vec<Figure>, ReportError> {
    let modes = by_mode(report);
    if modes.is_empty() {
        return Ok(vec![]);
    }
    let spread_note = match report.workloads.len() {
        1 => "",
        _ => " The median workload; the thin line runs from the smallest to the largest.",
    };
    let bars_of = |figure: fn(&RunResult) -> f64| -> Vec<Bar> {
        (modes.iter())
            .map(|(mode, results)| {
                let spread = Spread::of(results.iter().map(|result| figure(result)));
                Bar {
                    label: (*mode).to_owned(),
                    figure: number(spread.median),
                    parts: vec![(spread.median, Ink::of_mode(mode))],
                    spread: Some((spread.min, spread.max)),
                }
            })
            .collect()
    };
    Ok(vec![
        Figure {
            id: "plot-tradeoff".to_owned(),
            caption: format!(
                "Cost against exposure, a point per mode: what a request takes, and how long a \
                 device could still reach memory that was given back, in the workload where that \
                 was longest.{spread_note} Counted, over measured and modelled."
            ),
            keys: vec![],
            svg: points(&Points {
                label: "Longest stale window against cost over all workloads, a point per mode",
                x_axis: EXPOSURE_AXIS,
                y_axis: COST_AXIS,
                points: (modes.iter())
                    .map(|(mode, results)| mode_point(mode, results))
                    .collect(),
            })?,
        },
        Figure {
            id: "plot-cpu".to_owned(),
            caption: format!(
                "CPU time of this code per request (map and unmap), without hardware \
                 time.{spread_note} Measured."
            ),
            keys: vec![],
            svg: bars(&Bars {
                label: "CPU time per request by mode",
                axis: "CPU per request, measured, logarithmic",
                log: true,
                bars: bars_of(|result| result.cpu_ns_per_request),
            })?,
        },
        Figure {
            id: "plot-hardware".to_owned(),
            caption: format!(
                "Time waiting for the hardware per request, on top of the CPU \
                 time.{spread_note} Modelled, {}.",
                report.profile.name
            ),
            keys: vec![],
            svg: bars(&Bars {
                label: "Modelled hardware time per request by mode",
                axis: "ns of hardware per request, modelled",
                log: false,
                bars: bars_of(wait_ns),
            })?,
        },
        Figure {
            id: "plot-commands".to_owned(),
            caption: "SMMU commands per MiB over all workloads together. Counted.".to_owned(),
            keys: command_keys(),
            svg: bars(&Bars {
                label: "Commands per MiB by mode",
                axis: "commands per MiB, counted",
                log: false,
                bars: (modes.iter())
                    .map(|(mode, results)| commands_bar(mode, results))
                    .collect(),
            })?,
        },
    ])
}

/// The results of each mode, in the order of the run.
fn by_mode(report: &Report) -> Vec<(&str, Vec<&RunResult>)> {
    let mut modes: Vec<(&str, Vec<&RunResult>)> = Vec::new();
    for result in &report.results {
        match modes.iter_mut().find(|(mode, _)| *mode == result.mode) {
            Some((_, results)) => results.push(result),
            None => modes.push((&result.mode, vec![result])),
        }
    }
    modes
}

/// Smallest, middle and largest of some figures.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(0.0);
        Spread {
            min: at(0),
            median: at(figures.len() / 2),
            max: at(figures.len().saturating_sub(1)),
        }
    }
}

fn mode_point(mode: &str, results: &[&RunResult]) -> Point {
    let cost = Spread::of(results.iter().map(|result| whole_ns(result)));
    Point {
        ink: Ink::of_mode(mode),
        name: mode.to_owned(),
        exposure_ns: (results.iter())
            .map(|result| {
                result
                    .stale_window_max_ns
                    .map_or(f64::INFINITY, |ns| ns as f64)
            })
            .fold(0.0, f64::max),
        cost_ns: cost.median,
        spread_ns: (cost.min, cost.max),
    }
}

fn command_keys() -> Vec<(Ink, String)> {
    vec![
        (Ink::Strict, "range invalidations".to_owned()),
        (Ink::Lazy, "full flushes".to_owned()),
        (Ink::Other, "syncs".to_owned()),
    ]
}

fn commands_bar(mode: &str, results: &[&RunResult]) -> Bar {
    let mib = results
        .iter()
        .map(|result| result.bytes as f64)
        .sum::<f64>()
        / f64::from(1 << 20);
    let per_mib = |commands: fn(&RunResult) -> f64| {
        results.iter().map(|result| commands(result)).sum::<f64>() / mib
    };
    let parts = vec![
        (
            per_mib(|result| result.tlb_invalidate_commands),
            Ink::Strict,
        ),
        (per_mib(|result| result.tlb_flush_all_commands), Ink::Lazy),
        (per_mib(|result| result.sync_commands), Ink::Other),
    ];
    Bar {
        label: mode.to_owned(),
        figure: number(parts.iter().map(|part| part.0).sum()),
        parts,
        spread: None,
    }
}

/// The plots of one workload, the `index`th.
pub(super) fn of_workload(
    index: usize,
    results: &[&RunResult],
) -> Result<Vec<Figure>, ReportError> {
    if results.is_empty() {
        return Ok(vec![]);
    }
    let mut figures = vec![
        Figure {
            id: format!("plot-{index}-exposure"),
            caption: "Cost against exposure, a point per mode. Counted, over measured and \
                      modelled."
                .to_owned(),
            keys: vec![],
            svg: points(&Points {
                label: "Longest stale window against cost, a point per mode",
                x_axis: EXPOSURE_AXIS,
                y_axis: COST_AXIS,
                points: (results.iter())
                    .map(|result| mode_point(&result.mode, &[result]))
                    .collect(),
            })?,
        },
        Figure {
            id: format!("plot-{index}-cost"),
            caption: "What a request takes: CPU time of this code in the colour of the mode, \
                      measured, and behind it the time waiting for the hardware, modelled."
                .to_owned(),
            keys: vec![(Ink::Other, "hardware, modelled".to_owned())],
            svg: bars(&Bars {
                label: "Cost per request by mode",
                axis: "ns per request, measured + modelled",
                log: false,
                bars: (results.iter())
                    .map(|result| Bar {
                        label: result.mode.clone(),
                        figure: number(whole_ns(result)),
                        parts: vec![
                            (result.cpu_ns_per_request, Ink::of_mode(&result.mode)),
                            (wait_ns(result), Ink::Other),
                        ],
                        spread: None,
                    })
                    .collect(),
            })?,
        },
        Figure {
            id: format!("plot-{index}-commands"),
            caption: "SMMU commands per MiB. Counted.".to_owned(),
            keys: command_keys(),
            svg: bars(&Bars {
                label: "Commands per MiB by mode",
                axis: "commands per MiB, counted",
                log: false,
                bars: (results.iter())
                    .map(|result| commands_bar(&result.mode, &[result]))
                    .collect(),
            })?,
        },
    ];
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
                y_axis: &format!("time of one {name} call"),
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
