//! Horizontal bars in groups, each with its name before it and its figure behind it.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Ink, Svg, WIDTH, axis_end, render, shorten, text, ticks};
use crate::report::ReportError;

/// One bar.
#[derive(Debug)]
pub(in crate::report) struct Bar {
    /// Heading above the bar; the bars up to the next heading are a group.
    pub(in crate::report) heading: Option<String>,
    /// Name before the bar.
    pub(in crate::report) label: String,
    /// Lengths and inks of its parts, from the left.
    pub(in crate::report) parts: Vec<(f64, Ink)>,
    /// The figure behind the bar.
    pub(in crate::report) figure: String,
}

/// A plot of bars.
#[derive(Debug)]
pub(in crate::report) struct Bars<'a> {
    /// What a screen reader says.
    pub(in crate::report) label: &'a str,
    /// Name and unit of the axis.
    pub(in crate::report) axis: &'a str,
    /// The bars from the top.
    pub(in crate::report) bars: Vec<Bar>,
}

const LEFT: i32 = 84;
const RIGHT: i32 = 66;
const TOP: i32 = 4;
const HEADING: i32 = 24;
const BAR: i32 = 17;
const AXIS: i32 = 44;

/// Draws the bars.
pub(in crate::report) fn bars(plot: &Bars<'_>) -> Result<Svg, ReportError> {
    let longest = plot
        .bars
        .iter()
        .map(|bar| bar.parts.iter().map(|part| part.0).sum::<f64>())
        .fold(0.0, f64::max);
    let end = axis_end(longest);
    // Clamped, so that a figure that is no number cannot leave the plot.
    let x = |value: f64| {
        LEFT + ((value / end).clamp(0.0, 1.0) * f64::from(WIDTH as i32 - LEFT - RIGHT)) as i32
    };
    let headings = plot.bars.iter().filter(|bar| bar.heading.is_some()).count() as i32;
    let bottom = TOP + headings * HEADING + plot.bars.len() as i32 * BAR + 4;

    render((bottom + AXIS) as u32, plot.label, |area| {
        let ticks = ticks(end, 4);
        for &tick in &ticks {
            area.draw(&Text::new(
                crate::report::units::number(tick),
                (x(tick), bottom + 5),
                text(Ink::Text, HPos::Center, VPos::Top),
            ))?;
        }
        // The grid stops at the headings, which would else be struck through.
        let upright = |tick: f64, from: i32, to: i32, ink: Ink| {
            area.draw(&PathElement::new(
                [(x(tick), from), (x(tick), to)],
                ink.stand_in(),
            ))
        };
        area.draw(&Text::new(
            plot.axis.to_owned(),
            (WIDTH as i32 / 2, bottom + 24),
            text(Ink::Text, HPos::Center, VPos::Top),
        ))?;
        let mut y = TOP;
        for bar in &plot.bars {
            if let Some(heading) = &bar.heading {
                area.draw(&Text::new(
                    shorten(heading, 52),
                    (2, y + HEADING - 5),
                    text(Ink::Text, HPos::Left, VPos::Bottom),
                ))?;
                y += HEADING;
            }
            for &tick in &ticks[1..] {
                upright(tick, y, y + BAR, Ink::Grid)?;
            }
            upright(0.0, y, y + BAR, Ink::Text)?;
            area.draw(&Text::new(
                shorten(&bar.label, 13),
                (LEFT - 6, y + BAR / 2),
                text(Ink::Text, HPos::Right, VPos::Center),
            ))?;
            let mut from = 0.0;
            for &(length, ink) in &bar.parts {
                area.draw(&Rectangle::new(
                    [(x(from), y + 3), (x(from + length), y + BAR - 2)],
                    ink.stand_in().filled(),
                ))?;
                from += length;
            }
            area.draw(&Text::new(
                bar.figure.clone(),
                (x(from) + 5, y + BAR / 2),
                text(Ink::Text, HPos::Left, VPos::Center),
            ))?;
            y += BAR;
        }
        Ok(())
    })
}
