//! The axes of a plot: places, grid, ticks with their names, names of the axes with their units.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Ink, WIDTH, text};

/// Height of the plots that use a frame.
pub(super) const HEIGHT: u32 = 230;

pub(super) const LEFT: i32 = 66;
pub(super) const RIGHT: i32 = WIDTH as i32 - 28;
pub(super) const TOP: i32 = 10;
pub(super) const BOTTOM: i32 = HEIGHT as i32 - 46;

/// How values lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// In proportion.
    Linear,
    /// By their logarithms.
    Log,
    /// Zero at the one end, infinity at the other, the rest by logarithms between them.
    ZeroLogInfinity,
}

/// One axis: the values at its ends, its ticks and their names.
#[derive(Debug)]
pub(super) struct Axis {
    /// The smallest value; of [`Scale::ZeroLogInfinity`] the smallest above 0.
    pub(super) low: f64,
    /// The largest value; of [`Scale::ZeroLogInfinity`] the largest that is finite.
    pub(super) high: f64,
    pub(super) scale: Scale,
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) name: String,
}

impl Axis {
    /// How far along the axis a value lies, 0 to 1; values beyond an end lie on it.
    fn part(&self, value: f64) -> f64 {
        let logarithm = (value / self.low).ln() / (self.high / self.low).ln();
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => logarithm,
            Scale::ZeroLogInfinity if value <= 0.0 => 0.0,
            Scale::ZeroLogInfinity if value == f64::INFINITY => 1.0,
            Scale::ZeroLogInfinity => 0.2 + 0.6 * logarithm.clamp(0.0, 1.0),
        };
        // NaN, which no figure should be, ends on the axis too.
        if part >= 0.0 { part.min(1.0) } else { 0.0 }
    }
}

/// Two axes and the plane between them.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) x: Axis,
    pub(super) y: Axis,
}

impl Frame {
    /// Where a point lies in the plot.
    pub(super) fn place(&self, x: f64, y: f64) -> (i32, i32) {
        (
            LEFT + (self.x.part(x) * f64::from(RIGHT - LEFT)).round() as i32,
            BOTTOM - (self.y.part(y) * f64::from(BOTTOM - TOP)).round() as i32,
        )
    }

    /// Draws grid, axes and names.
    pub(super) fn draw(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        for (value, name) in &self.x.ticks {
            let x = self.place(*value, self.y.low).0;
            area.draw(&PathElement::new(
                [(x, TOP), (x, BOTTOM)],
                Ink::Grid.stand_in(),
            ))?;
            area.draw(&Text::new(
                name.clone(),
                (x, BOTTOM + 6),
                text(Ink::Text, HPos::Center, VPos::Top),
            ))?;
        }
        for (value, name) in &self.y.ticks {
            let y = self.place(self.x.low, *value).1;
            area.draw(&PathElement::new(
                [(LEFT, y), (RIGHT, y)],
                Ink::Grid.stand_in(),
            ))?;
            area.draw(&Text::new(
                name.clone(),
                (LEFT - 6, y),
                text(Ink::Text, HPos::Right, VPos::Center),
            ))?;
        }
        area.draw(&PathElement::new(
            [(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)],
            Ink::Text.stand_in(),
        ))?;
        area.draw(&Text::new(
            self.x.name.clone(),
            ((LEFT + RIGHT) / 2, BOTTOM + 26),
            text(Ink::Text, HPos::Center, VPos::Top),
        ))?;
        area.draw(&Text::new(
            self.y.name.clone(),
            (4, (TOP + BOTTOM) / 2),
            text(Ink::Text, HPos::Center, VPos::Top).transform(FontTransform::Rotate270),
        ))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(low: f64, high: f64, scale: Scale) -> Axis {
        Axis {
            low,
            high,
            scale,
            ticks: Vec::new(),
            name: String::new(),
        }
    }

    #[test]
    fn places_stay_inside_the_frame() {
        let frame = Frame {
            x: axis(0.0, 10.0, Scale::Linear),
            y: axis(1.0, 100.0, Scale::Log),
        };
        assert_eq!(frame.place(0.0, 1.0), (LEFT, BOTTOM));
        assert_eq!(frame.place(10.0, 100.0), (RIGHT, TOP));
        assert_eq!(
            frame.place(5.0, 10.0),
            ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2)
        );
        assert_eq!(frame.place(1e300, -5.0), (RIGHT, BOTTOM));
        assert_eq!(frame.place(f64::NAN, f64::INFINITY), (LEFT, TOP));
    }

    #[test]
    fn nothing_and_always_lie_at_the_ends() {
        let axis = axis(1.0, 100.0, Scale::ZeroLogInfinity);
        let parts = [0.0, 1.0, 10.0, 100.0, f64::INFINITY].map(|value| axis.part(value));
        for (part, wanted) in parts.into_iter().zip([0.0, 0.2, 0.5, 0.8, 1.0]) {
            assert!((part - wanted).abs() < 1e-9, "{parts:?}");
        }
    }
}
