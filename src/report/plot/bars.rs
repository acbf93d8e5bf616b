//! Horizontal bars, each with its name before it and its figure behind it.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Ink, Svg, WIDTH, axis_end, log_ticks, named, render, shorten, text, ticks};
use crate::report::ReportError;
use crate::report::units::time_tick;

/// One bar.
#[derive(Debug)]
pub(in crate::report) struct Bar {
    /// Name before the bar.
    pub(in crate::report) label: String,
    /// Lengths and inks of its parts, from the left.
    pub(in crate::report) parts: Vec<(f64, Ink)>,
    /// The figure behind the bar.
    pub(in crate::report) figure: String,
    /// Smallest and largest length behind it, drawn as a thin line.
    pub(in crate::report) spread: Option<(f64, f64)>,
}

/// A plot of bars.
#[derive(Debug)]
pub(in crate::report) struct Bars<'a> {
    /// What a screen reader says.
    pub(in crate::report) label: &'a str,
    /// Name and unit of the axis.
    pub(in crate::report) axis: &'a str,
    /// Whether the axis is logarithmic: for bars of one part each, all of them times in
    /// nanoseconds, that differ by more than a linear axis can show.
    pub(in crate::report) log: bool,
    /// The bars from the top.
    pub(in crate::report) bars: Vec<Bar>,
}

/// Room for the longest name of a mode.
const LEFT: i32 = 106;
const RIGHT: i32 = 62;
const TOP: i32 = 4;
const BAR: i32 = 18;
const AXIS: i32 = 44;

/// Draws the bars.
pub(in crate::report) fn bars(plot: &Bars<'_>) -> Result<Svg, ReportError> {
    let length = |bar: &Bar| {
        let sum: f64 = bar.parts.iter().map(|part| part.0).sum();
        bar.spread.map_or(sum, |spread| sum.max(spread.1))
    };
    let longest = plot.bars.iter().map(length).fold(0.0, f64::max);
    let shortest = (plot.bars.iter().flat_map(|bar| &bar.parts))
        .map(|part| part.0)
        .filter(|length| *length > 0.0)
        .fold(f64::INFINITY, f64::min);
    let log = plot.log && longest.is_finite() && shortest < longest;
    let (start, end) = if log {
        (shortest / 2.0, longest * 1.08)
    } else {
        (0.0, axis_end(longest))
    };
    let x = |value: f64| {
        let part = if log {
            (value / start).ln() / (end / start).ln()
        } else {
            value / end
        };
        // Clamped, so that a figure that is no number cannot leave the plot.
        LEFT + (part.clamp(0.0, 1.0) * f64::from(WIDTH as i32 - LEFT - RIGHT)) as i32
    };
    let ticks: Vec<(f64, String)> = if log {
        // Decades only: names of 1, 2 and 5 would touch.
        (log_ticks(start, end).into_iter())
            .filter(|tick| (tick.log10() - tick.log10().round()).abs() < 1e-9)
            .map(|tick| (tick, time_tick(tick)))
            .collect()
    } else {
        named(ticks(end, 4))
    };
    let bottom = TOP + plot.bars.len() as i32 * BAR + 4;

    render((bottom + AXIS) as u32, plot.label, |area| {
        area.draw(&PathElement::new(
            [(LEFT, TOP), (LEFT, bottom)],
            Ink::Text.stand_in(),
        ))?;
        for (tick, name) in ticks {
            if tick > start {
                area.draw(&PathElement::new(
                    [(x(tick), TOP), (x(tick), bottom)],
                    Ink::Grid.stand_in(),
                ))?;
            }
            area.draw(&Text::new(
                name,
                (x(tick), bottom + 5),
                text(Ink::Text, HPos::Center, VPos::Top),
            ))?;
        }
        area.draw(&Text::new(
            plot.axis.to_owned(),
            (WIDTH as i32 / 2, bottom + 24),
            text(Ink::Text, HPos::Center, VPos::Top),
        ))?;
        for (index, bar) in plot.bars.iter().enumerate() {
            let y = TOP + index as i32 * BAR;
            let middle = y + BAR / 2;
            area.draw(&Text::new(
                shorten(&bar.label, 16),
                (LEFT - 6, middle),
                text(Ink::Text, HPos::Right, VPos::Center),
            ))?;
            let mut from = 0.0;
            for &(length, ink) in &bar.parts {
                area.draw(&Rectangle::new(
                    [
                        (if from == 0.0 { LEFT } else { x(from) }, y + 3),
                        (x(from + length), y + BAR - 2),
                    ],
                    ink.stand_in().filled(),
                ))?;
                from += length;
            }
            if let Some((min, max)) = bar.spread {
                area.draw(&PathElement::new(
                    [(x(min), middle), (x(max), middle)],
                    Ink::Text.stand_in(),
                ))?;
            }
            area.draw(&Text::new(
                bar.figure.clone(),
                (x(length(bar)) + 5, middle),
                text(Ink::Text, HPos::Left, VPos::Center),
            ))?;
        }
        Ok(())
    })
}
