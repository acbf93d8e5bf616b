//! Points in a plane, each with its name: cost against exposure.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::frame::{Axis, BOTTOM, Frame, HEIGHT, LEFT, RIGHT, Scale, TOP};
use super::{Ink, Svg, log_axis, log_ticks, render, text};
use crate::report::ReportError;
use crate::report::units::time_tick;

/// One point.
#[derive(Debug)]
pub(in crate::report) struct Point {
    /// Its ink.
    pub(in crate::report) ink: Ink,
    /// Name beside it.
    pub(in crate::report) name: String,
    /// Nanoseconds of exposure; infinity for always.
    pub(in crate::report) exposure_ns: f64,
    /// Nanoseconds of cost.
    pub(in crate::report) cost_ns: f64,
    /// Smallest and largest cost behind it, drawn as a thin line.
    pub(in crate::report) spread_ns: (f64, f64),
}

/// A plot of points.
#[derive(Debug)]
pub(in crate::report) struct Points<'a> {
    /// What a screen reader says.
    pub(in crate::report) label: &'a str,
    /// Name and unit of the horizontal axis.
    pub(in crate::report) x_axis: &'a str,
    /// Name and unit of the vertical axis.
    pub(in crate::report) y_axis: &'a str,
    /// The points.
    pub(in crate::report) points: Vec<Point>,
}

/// Radius of a point.
const RADIUS: i32 = 5;
/// Lines of text keep this distance.
const LINE: i32 = 14;
/// Width of a letter, generously.
const LETTER: i32 = 7;
/// From a point to its name.
const ASIDE: i32 = 9;

/// Draws the points.
pub(in crate::report) fn points(plot: &Points<'_>) -> Result<Svg, ReportError> {
    let costs = || {
        (plot.points.iter())
            .flat_map(|point| [point.cost_ns, point.spread_ns.0, point.spread_ns.1])
            .filter(|cost| cost.is_finite() && *cost > 0.0)
    };
    let frame = Frame {
        x: exposure_axis(&plot.points, plot.x_axis),
        y: log_axis(
            costs().fold(f64::INFINITY, f64::min),
            costs().fold(0.0, f64::max),
            plot.y_axis.to_owned(),
        ),
    };
    let places: Vec<_> = (plot.points.iter())
        .map(|point| frame.place(point.exposure_ns, point.cost_ns))
        .collect();
    let names: Vec<&str> = plot
        .points
        .iter()
        .map(|point| point.name.as_str())
        .collect();
    let labels = lay_out(&places, &names);
    render(HEIGHT, plot.label, |area| {
        frame.draw(area)?;
        for (point, &(x, _)) in plot.points.iter().zip(&places) {
            let end = |cost| (x, frame.place(point.exposure_ns, cost).1);
            area.draw(&PathElement::new(
                [end(point.spread_ns.0), end(point.spread_ns.1)],
                point.ink.stand_in(),
            ))?;
        }
        for (&at, label) in places.iter().zip(&labels) {
            if label.y != at.1 {
                area.draw(&PathElement::new(
                    [at, (label.near(), label.y)],
                    Ink::Grid.stand_in(),
                ))?;
            }
        }
        for ((point, &at), label) in plot.points.iter().zip(&places).zip(&labels) {
            area.draw(&Circle::new(at, RADIUS, point.ink.stand_in().filled()))?;
            let (anchor, x) = if label.to_the_right {
                (HPos::Left, label.left)
            } else {
                (HPos::Right, label.right)
            };
            area.draw(&Text::new(
                point.name.clone(),
                (x, label.y),
                text(Ink::Text, anchor, VPos::Center),
            ))?;
        }
        Ok(())
    })
}

/// From nothing over times to always.
fn exposure_axis(points: &[Point], name: &str) -> Axis {
    let finite =
        || (points.iter().map(|point| point.exposure_ns)).filter(|ns| ns.is_finite() && *ns > 0.0);
    let (mut low, mut high) = (
        finite().fold(f64::INFINITY, f64::min),
        finite().fold(0.0, f64::max),
    );
    if high == 0.0 {
        (low, high) = (1e6, 1e7);
    }
    // Whole decades with a little room.
    let low = 10f64.powf((low / 1.5).log10().floor());
    let high = 10f64.powf((high * 1.5).log10().ceil());
    let mut ticks = vec![(0.0, "none".to_owned())];
    let decades: Vec<f64> = log_ticks(low, high)
        .into_iter()
        .filter(|tick| {
            let decade = tick.log10();
            (decade - decade.round()).abs() < 1e-9
        })
        .collect();
    // At most three names fit between the ends.
    let every = decades.len().div_ceil(3);
    ticks.extend((decades.iter().step_by(every)).map(|&ns| (ns, time_tick(ns))));
    ticks.push((f64::INFINITY, "always".to_owned()));
    Axis {
        low,
        high,
        scale: Scale::ZeroLogInfinity,
        ticks,
        name: name.to_owned(),
    }
}

/// Where a name stands.
#[derive(Debug, Clone, Copy)]
struct Label {
    left: i32,
    right: i32,
    /// Middle of the line.
    y: i32,
    to_the_right: bool,
}

impl Label {
    fn touches(&self, other: &Label) -> bool {
        self.left < other.right && other.left < self.right && (self.y - other.y).abs() < LINE
    }

    /// The end that is near its point.
    fn near(&self) -> i32 {
        if self.to_the_right {
            self.left - 1
        } else {
            self.right + 1
        }
    }
}

/// A place for each name: beside its point, moved up or down until it touches no name and no point.
fn lay_out(places: &[(i32, i32)], names: &[&str]) -> Vec<Label> {
    let dots: Vec<Label> = (places.iter())
        .map(|&(x, y)| Label {
            left: x - RADIUS - 1,
            right: x + RADIUS + 1,
            y,
            to_the_right: true,
        })
        .collect();
    let mut laid: Vec<Label> = Vec::new();
    for (&(x, y), name) in places.iter().zip(names) {
        let width = name.chars().count() as i32 * LETTER;
        let beside = |to_the_right: bool, y: i32| {
            let left = if to_the_right {
                x + ASIDE
            } else {
                x - ASIDE - width
            };
            Label {
                left,
                right: left + width,
                y,
                to_the_right,
            }
        };
        let right_first = x < (LEFT + RIGHT) / 2;
        let candidates = (0..=(BOTTOM - TOP)).flat_map(|away| {
            [y - away, y + away]
                .into_iter()
                .flat_map(move |y| [beside(right_first, y), beside(!right_first, y)])
        });
        let fits = |label: &Label| {
            label.left > LEFT
                && label.right <= RIGHT + 20
                && (TOP + LINE / 2..=BOTTOM - LINE / 2).contains(&label.y)
                && !(laid.iter().chain(&dots)).any(|other| label.touches(other))
        };
        let label = (candidates.into_iter().find(fits)).unwrap_or_else(|| beside(right_first, y));
        laid.push(label);
    }
    laid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaps(labels: &[Label]) -> usize {
        (labels.iter().enumerate())
            .map(|(index, one)| {
                (labels[..index].iter())
                    .filter(|other| one.touches(other))
                    .count()
            })
            .sum()
    }

    #[test]
    fn names_of_points_in_one_place_do_not_overlap() {
        let names = ["strict-pipelined"; 9];
        let places = [(LEFT, 90); 9];
        let beside: Vec<Label> = (names.iter())
            .map(|_| lay_out(&places[..1], &names[..1])[0])
            .collect();
        assert_eq!(overlaps(&beside), 36, "the check sees an overlap");
        assert_eq!(overlaps(&lay_out(&places, &names)), 0);
        let corner = [(RIGHT, TOP); 9];
        let labels = lay_out(&corner, &names);
        assert_eq!(overlaps(&labels), 0);
        for label in labels {
            assert!(label.left > LEFT && label.right <= RIGHT + 20, "{label:?}");
            assert!((TOP..=BOTTOM).contains(&label.y), "{label:?}");
        }
    }

    #[test]
    fn the_axis_runs_from_none_to_always() {
        let point = |exposure_ns| Point {
            ink: Ink::Lazy,
            name: "lazy".to_owned(),
            exposure_ns,
            cost_ns: 1.0,
            spread_ns: (1.0, 1.0),
        };
        let names = |points: &[Point]| -> Vec<String> {
            (exposure_axis(points, "x").ticks.into_iter())
                .map(|tick| tick.1)
                .collect()
        };
        assert_eq!(
            names(&[point(0.0), point(10_000_883.0), point(1e9)]),
            ["none", "1 ms", "100 ms", "10 s", "always"]
        );
        assert_eq!(names(&[])[0], "none");
        assert_eq!(names(&[point(f64::INFINITY)]).last().unwrap(), "always");
    }
}
