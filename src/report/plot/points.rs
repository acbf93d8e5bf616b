//! Points in a plane: exposure against cost.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::frame::{Axis, Frame, HEIGHT};
use super::{Ink, Svg, axis_end, named, render, text, ticks};
use crate::report::ReportError;

/// One point.
#[derive(Debug)]
pub(in crate::report) struct Point {
    /// Its ink.
    pub(in crate::report) ink: Ink,
    /// Name beside it; may be empty.
    pub(in crate::report) name: String,
    /// Where it is.
    pub(in crate::report) at: (f64, f64),
}

/// A plot of points, both axes from 0.
#[derive(Debug)]
pub(in crate::report) struct Points<'a> {
    /// What a screen reader says.
    pub(in crate::report) label: &'a str,
    /// Name and unit of the horizontal axis.
    pub(in crate::report) x_axis: &'a str,
    /// Name and unit of the vertical axis.
    pub(in crate::report) y_axis: &'a str,
    /// The points; those of one group are joined by a thin line.
    pub(in crate::report) groups: Vec<Vec<Point>>,
}

/// Draws the points.
pub(in crate::report) fn points(plot: &Points<'_>) -> Result<Svg, ReportError> {
    let all = || plot.groups.iter().flatten();
    let axis = |largest: f64, name: &str| {
        let high = axis_end(largest);
        Axis {
            low: 0.0,
            high,
            log: false,
            ticks: named(ticks(high, 4)),
            name: name.to_owned(),
        }
    };
    let frame = Frame {
        x: axis(
            all().map(|point| point.at.0).fold(0.0, f64::max),
            plot.x_axis,
        ),
        y: axis(
            all().map(|point| point.at.1).fold(0.0, f64::max),
            plot.y_axis,
        ),
    };
    render(HEIGHT, plot.label, |area| {
        frame.draw(area)?;
        for group in &plot.groups {
            let path: Vec<_> = group
                .iter()
                .map(|point| frame.place(point.at.0, point.at.1))
                .collect();
            area.draw(&PathElement::new(path, Ink::Grid.stand_in()))?;
        }
        for point in all() {
            let (x, y) = frame.place(point.at.0, point.at.1);
            // Inwards, away from the edge and from the axis below.
            let (anchor, aside) = if point.at.0 > frame.x.high / 2.0 {
                (HPos::Right, -9)
            } else {
                (HPos::Left, 9)
            };
            area.draw(&Circle::new((x, y), 5, point.ink.stand_in().filled()))?;
            if !point.name.is_empty() {
                area.draw(&Text::new(
                    point.name.clone(),
                    (x + aside, y - 9),
                    text(Ink::Text, anchor, VPos::Center),
                ))?;
            }
        }
        Ok(())
    })
}
