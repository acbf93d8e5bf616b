//! Curves over one axis: percentiles of latency, pages held over time.

use plotters::prelude::*;

use super::frame::{Axis, Frame, HEIGHT, Scale};
use super::{Ink, Svg, axis_end, log_axis, named, render, ticks};
use crate::report::ReportError;

/// One curve.
#[derive(Debug)]
pub(in crate::report) struct Line {
    /// Its ink.
    pub(in crate::report) ink: Ink,
    /// Its points, x rising.
    pub(in crate::report) points: Vec<(f64, f64)>,
}

/// A plot of curves.
#[derive(Debug)]
pub(in crate::report) struct Lines<'a> {
    /// What a screen reader says.
    pub(in crate::report) label: &'a str,
    /// Name and unit of the horizontal axis.
    pub(in crate::report) x_axis: &'a str,
    /// Name and unit of the vertical axis.
    pub(in crate::report) y_axis: &'a str,
    /// Whether the vertical axis is times in nanoseconds, logarithmic over the range of the points
    /// (those at or below 0 are not drawn then), or linear from 0.
    pub(in crate::report) y_log: bool,
    /// Places and names of the ticks of the horizontal axis; empty for round numbers from 0.
    pub(in crate::report) x_ticks: Vec<(f64, String)>,
    /// The curves.
    pub(in crate::report) lines: Vec<Line>,
}

/// Draws the curves.
pub(in crate::report) fn lines(plot: &Lines<'_>) -> Result<Svg, ReportError> {
    let drawn = |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && (!plot.y_log || y > 0.0);
    let all = || {
        plot.lines
            .iter()
            .flat_map(|line| line.points.iter().copied().filter(drawn))
    };
    let last_tick = plot.x_ticks.last().map_or(0.0, |tick| tick.0);
    let x_end = all().map(|point| point.0).fold(last_tick, f64::max);
    let x_end = if x_end > 0.0 { x_end } else { 1.0 };
    let y_max = all().map(|point| point.1).fold(0.0, f64::max);
    let y_min = all().map(|point| point.1).fold(f64::INFINITY, f64::min);

    let x = Axis {
        low: 0.0,
        high: x_end,
        scale: Scale::Linear,
        ticks: if plot.x_ticks.is_empty() {
            named(ticks(x_end, 4))
        } else {
            plot.x_ticks.clone()
        },
        name: plot.x_axis.to_owned(),
    };
    let name = plot.y_axis.to_owned();
    let y = if plot.y_log {
        log_axis(y_min, y_max, name)
    } else {
        let high = axis_end(y_max);
        Axis {
            low: 0.0,
            high,
            scale: Scale::Linear,
            ticks: named(ticks(high, 4)),
            name,
        }
    };
    let frame = Frame { x, y };

    render(HEIGHT, plot.label, |area| {
        frame.draw(area)?;
        for line in &plot.lines {
            let points: Vec<_> = line
                .points
                .iter()
                .filter(|p| drawn(p))
                .map(|&(x, y)| frame.place(x, y))
                .collect();
            area.draw(&PathElement::new(
                points,
                line.ink.stand_in().stroke_width(2),
            ))?;
        }
        Ok(())
    })
}
