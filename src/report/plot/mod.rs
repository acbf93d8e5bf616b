//! The plots of the page, drawn by plotters as SVG and made to follow the page's colours.
//!
//! plotters writes fixed colours. Here every colour is a stand-in that [`finish`] replaces by a
//! class name, so that the page's style sheet decides, and a dark page gets light axes. All plots
//! are [`WIDTH`] units wide with 12-unit text: a phone shows them nearly one to one.

mod bars;
mod frame;
mod lines;
mod points;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) use bars::{Bar, Bars, bars};
pub(super) use lines::{Line, Lines, lines};
pub(super) use points::{Point, Points, points};

use super::ReportError;

/// Width of every plot in SVG units.
pub(super) const WIDTH: u32 = 400;

/// Text height in SVG units. plotters divides by 1.24 what it is asked for.
const TEXT: f64 = 12.0 * 1.24;

/// What a mark stands for; its class name in the style sheet decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// Text and axes.
    Text,
    /// Grid lines.
    Grid,
    /// Passthrough.
    Passthrough,
    /// Strict, and commands that invalidate a range.
    Strict,
    /// Strict, one invalidation per completion.
    StrictBatched,
    /// Strict, the sync beside the next transfer.
    StrictPipelined,
    /// Lazy, and commands that flush the whole address space.
    Lazy,
    /// Lazy with one queue for all.
    LazySingle,
    /// Lazy that keeps the buffer until the flush.
    LazyParked,
    /// Copied through pages that stay mapped.
    Bounce,
    /// Mapped once for all requests.
    Premapped,
    /// Any further mode, and syncs.
    Other,
}

impl Ink {
    const ALL: [Self; 12] = [
        Self::Text,
        Self::Grid,
        Self::Passthrough,
        Self::Strict,
        Self::StrictBatched,
        Self::StrictPipelined,
        Self::Lazy,
        Self::LazySingle,
        Self::LazyParked,
        Self::Bounce,
        Self::Premapped,
        Self::Other,
    ];

    /// The ink of a mode's marks.
    pub(super) fn of_mode(mode: &str) -> Self {
        match mode {
            "passthrough" => Self::Passthrough,
            "strict" => Self::Strict,
            "strict-batched" => Self::StrictBatched,
            "strict-pipelined" => Self::StrictPipelined,
            "lazy" => Self::Lazy,
            "lazy-single" => Self::LazySingle,
            "lazy-parked" => Self::LazyParked,
            "bounce" => Self::Bounce,
            "premapped" => Self::Premapped,
            _ => Self::Other,
        }
    }

    /// Class name in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Text => "ink-text",
            Self::Grid => "ink-grid",
            Self::Passthrough => "ink-passthrough",
            Self::Strict => "ink-strict",
            Self::StrictBatched => "ink-strict-batched",
            Self::StrictPipelined => "ink-strict-pipelined",
            Self::Lazy => "ink-lazy",
            Self::LazySingle => "ink-lazy-single",
            Self::LazyParked => "ink-lazy-parked",
            Self::Bounce => "ink-bounce",
            Self::Premapped => "ink-premapped",
            Self::Other => "ink-other",
        }
    }

    /// The colour that stands for it until [`finish`]; no two inks share one.
    fn stand_in(self) -> RGBColor {
        RGBColor(0xAB, 0xCD, self as u8)
    }
}

/// A plot that fits into a page.
#[derive(Debug)]
pub(super) struct Svg(pub(super) String);

/// Text style in the given ink and anchor.
fn text(ink: Ink, h: HPos, v: VPos) -> TextStyle<'static> {
    let mut style = TextStyle::from(("sans-serif", TEXT).into_font()).pos(Pos::new(h, v));
    style.color = ink.stand_in().to_backend_color();
    style
}

/// Runs `draw` on an empty plot of the given height and returns the finished SVG. `label` is what
/// a screen reader says in its place.
fn render(
    height: u32,
    label: &str,
    draw: impl FnOnce(
        &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    ) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<Svg, ReportError> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area).map_err(|error| ReportError::Plot(error.to_string()))?;
        area.present()
            .map_err(|error| ReportError::Plot(error.to_string()))?;
    }
    Ok(Svg(finish(&svg, height, label)))
}

/// Replaces the stand-in colours by classes and the opening tag by one that scales with the page.
/// Text cannot be hit: plotters writes a quotation mark inside text as `&quot;`.
fn finish(svg: &str, height: u32, label: &str) -> String {
    let body = svg.split_once(">\n").map_or(svg, |(_, body)| body);
    let mut body = body
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" opacity=\"1\"", "");
    for ink in Ink::ALL {
        let RGBColor(r, g, b) = ink.stand_in();
        let colour = format!("#{r:02X}{g:02X}{b:02X}");
        // One element is either filled or stroked, never both, so it gets one class attribute.
        body = body
            .replace(
                &format!("fill=\"{colour}\""),
                &format!("class=\"{} fill\"", ink.class()),
            )
            .replace(
                &format!("stroke=\"{colour}\""),
                &format!("class=\"{} line\"", ink.class()),
            );
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n{body}",
        super::html::escape(label)
    )
}

/// About `wanted` round numbers from 0 to `max`: steps of 1, 2 or 5 times a power of ten.
fn ticks(max: f64, wanted: usize) -> Vec<f64> {
    let rough = max / wanted as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&step| step >= rough * 0.999_999)
        .unwrap_or(10.0 * power);
    let count = (max / step + 1e-9).floor() as usize;
    (0..=count).map(|index| index as f64 * step).collect()
}

/// Round numbers between two positive ones on a logarithmic axis: 1, 2, 5 of each decade where
/// the axis is short, else the decades.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = if high / low < 200.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    (first..=last)
        .flat_map(|decade| {
            factors
                .iter()
                .map(move |factor| factor * 10f64.powi(decade))
        })
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

/// A logarithmic axis around times in nanoseconds of which `min` is the shortest and `max` the
/// longest: at least a decade, so that small differences are not blown up.
fn log_axis(min: f64, max: f64, name: String) -> frame::Axis {
    let usable = min > 0.0 && min.is_finite() && max.is_finite();
    let (low, high) = if usable {
        let middle = (min * max).sqrt();
        (
            (min * 0.8).min(middle / 3.2),
            (max * 1.25).max(middle * 3.2),
        )
    } else {
        (1.0, 10.0)
    };
    frame::Axis {
        low,
        high,
        scale: frame::Scale::Log,
        ticks: (log_ticks(low, high).into_iter())
            .map(|tick| (tick, super::units::time_tick(tick)))
            .collect(),
        name,
    }
}

/// Ticks with the names of their values.
fn named(ticks: Vec<f64>) -> Vec<(f64, String)> {
    ticks
        .into_iter()
        .map(|tick| (tick, super::units::number(tick)))
        .collect()
}

/// The end of a linear axis that holds `max`: never 0, and with room to the next tick.
fn axis_end(max: f64) -> f64 {
    if max.is_finite() && max > 0.0 {
        max * 1.08
    } else {
        1.0
    }
}

/// Cuts a label that would leave the plot, marking the cut.
fn shorten(label: &str, letters: usize) -> String {
    if label.chars().count() <= letters {
        label.to_owned()
    } else {
        label.chars().take(letters - 1).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(151.0, 4), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(ticks(1.0, 2), [0.0, 0.5, 1.0]);
        for max in [0.003, 0.7, 1.0, 9.9, 1234.0, 4e9] {
            let ticks = ticks(max, 4);
            assert!((2..=6).contains(&ticks.len()), "{max}: {ticks:?}");
            assert!(
                ticks.iter().all(|&tick| tick <= max * 1.000_001),
                "{max}: {ticks:?}"
            );
        }
    }

    #[test]
    fn log_ticks_are_round_and_inside() {
        assert_eq!(log_ticks(15.0, 160.0), [20.0, 50.0, 100.0]);
        assert_eq!(log_ticks(3.0, 40_000.0), [10.0, 100.0, 1_000.0, 10_000.0]);
    }

    #[test]
    fn colours_become_classes_and_text_stays_text() {
        let svg = render(40, "a <label>", |area| {
            area.draw(&Text::new(
                "fill=\"#ABCD00\" </svg><script>",
                (5, 5),
                text(Ink::Text, HPos::Left, VPos::Top),
            ))?;
            area.draw(&Rectangle::new(
                [(0, 0), (9, 9)],
                Ink::Strict.stand_in().filled(),
            ))?;
            Ok(())
        })
        .unwrap()
        .0;
        assert!(svg.starts_with("<svg viewBox=\"0 0 400 40\""), "{svg}");
        assert!(svg.contains("aria-label=\"a &lt;label&gt;\""), "{svg}");
        assert!(svg.contains("class=\"ink-strict fill\""), "{svg}");
        assert!(
            svg.contains("fill=&quot;#ABCD00&quot; &lt;/svg&gt;&lt;script&gt;"),
            "{svg}"
        );
        assert!(!svg.contains("<script"), "{svg}");
        assert!(!svg.contains("=\"#"), "a colour was left fixed: {svg}");
        assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("longer", 5), "long…");
    }
}
